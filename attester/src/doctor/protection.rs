//! What keeps PCRs meaningful after the kernel has started: in go what it says of lockdown, kexec and module signatures,
//! out comes a line for each. A verifier believes none of this: it reads the same from what was measured.

use std::{fs, path::Path};

use super::Line;

/// Where the kernel tells, below the root of its file systems.
const LOCKDOWN: &str = "sys/kernel/security/lockdown";
const KEXEC_DISABLED: &str = "proc/sys/kernel/kexec_load_disabled";
const MODULES: &str = "proc/modules";
const SIGNATURES_ENFORCED: &str = "sys/module/module/parameters/sig_enforce";

/// All lines about protection of the running kernel, as it shows below `root`.
pub(super) fn look(root: &Path) -> Vec<Line> {
    let read = |file: &str| fs::read_to_string(root.join(file)).ok().map(|text| text.trim().to_owned());
    let lockdown = read(LOCKDOWN);
    let level = lockdown.as_deref().and_then(level);
    let locked = level.is_some_and(|level| level != "none");
    vec![
        lockdown_line(level),
        kexec(read(KEXEC_DISABLED).as_deref(), locked),
        modules(read(MODULES).is_some(), read(SIGNATURES_ENFORCED).as_deref(), locked),
    ]
}

/// The level in force of `none [integrity] confidentiality`.
fn level(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

fn lockdown_line(level: Option<&str>) -> Line {
    const NAME: &str = "lockdown";
    match level {
        Some("none") => Line::warn(
            NAME,
            "none: root may change the running kernel",
            "boot with `lockdown=integrity` on the kernel's measured command line",
        ),
        Some(level) => Line::ok(NAME, level),
        None => Line::warn(
            NAME,
            format!("/{LOCKDOWN} does not tell"),
            "boot a kernel with CONFIG_SECURITY_LOCKDOWN_LSM and with `lockdown=integrity` on its command line, and mount \
             securityfs",
        ),
    }
}

fn kexec(disabled: Option<&str>, locked: bool) -> Line {
    const NAME: &str = "kexec";
    match disabled {
        None => Line::ok(NAME, "this kernel has none"),
        Some("1") => Line::ok(
            NAME,
            "disabled until the next boot; a verifier goes by `sysctl.kernel.kexec_load_disabled=1` on the kernel's measured \
             command line",
        ),
        Some(_) if locked => Line::ok(
            NAME,
            "signed kernels alone, by lockdown; a verifier also asks for a listed IMA policy that measures them, or for \
             `sysctl.kernel.kexec_load_disabled=1` on the kernel's measured command line",
        ),
        Some(_) => Line::warn(
            NAME,
            "root may start another kernel, which no boot PCR shows",
            "boot with `sysctl.kernel.kexec_load_disabled=1` on the kernel's measured command line, or with \
             `lockdown=integrity` there and an IMA policy that measures KEXEC_KERNEL_CHECK, or build the kernel without \
             CONFIG_KEXEC and CONFIG_KEXEC_FILE",
        ),
    }
}

fn modules(has_modules: bool, enforced: Option<&str>, locked: bool) -> Line {
    const NAME: &str = "module signatures";
    match enforced {
        _ if !has_modules => Line::ok(NAME, "this kernel takes no modules"),
        Some("Y") => Line::ok(NAME, "enforced"),
        Some(_) if locked => Line::ok(NAME, "enforced by lockdown"),
        Some(_) => Line::warn(
            NAME,
            "not enforced: root may load any code into the kernel",
            "boot with `module.sig_enforce=1` on the kernel's measured command line",
        ),
        None => Line::warn(
            NAME,
            "this kernel checks none",
            "boot one with CONFIG_MODULE_SIG, and with `module.sig_enforce=1` on its command line",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn levels(files: &[(&str, &str)]) -> Vec<Level> {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let lines = look(root.path());
        assert!(lines.iter().all(|line| (line.level == Level::Ok) == line.remedy.is_none()), "{lines:?}");
        lines.into_iter().map(|line| line.level).collect()
    }

    #[test]
    fn a_kernel_that_root_may_change_is_told_and_what_to_do() {
        use Level::{Ok, Warn};
        let open = [
            (LOCKDOWN, "[none] integrity confidentiality\n"),
            (KEXEC_DISABLED, "0\n"),
            (MODULES, "x 1 0 - Live 0x0\n"),
            (SIGNATURES_ENFORCED, "N\n"),
        ];
        assert_eq!(levels(&open), [Warn, Warn, Warn]);
        let mut closed = open;
        closed[0].1 = "none [integrity] confidentiality\n";
        assert_eq!(levels(&closed), [Ok, Ok, Ok], "lockdown stands for the other two");
        let mut by_hand = open;
        (by_hand[1].1, by_hand[3].1) = ("1\n", "Y\n");
        assert_eq!(levels(&by_hand), [Warn, Ok, Ok]);
    }

    #[test]
    fn a_kernel_without_modules_and_kexec_needs_neither_and_one_that_checks_no_module_is_told() {
        use Level::{Ok, Warn};
        assert_eq!(levels(&[]), [Warn, Ok, Ok]);
        assert_eq!(levels(&[(MODULES, "")]), [Warn, Ok, Warn]);
    }
}
