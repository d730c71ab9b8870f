//! What keeps boot measurements true after the boot: the kernel's configuration as the release states it, the measured
//! command line, secure boot and IMA's policy in; what of module signatures, lockdown and kexec they do not show out.
//!
//! A parameter counts as the kernel reads it (lib/cmdline.c, kernel/params.c); what is after `--` is for init.

use reference_values::boot_rules::{Kernel, Kexec, Lockdown};

/// What is known of the kernel that was booted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known<'a> {
    /// What it does by itself.
    pub(crate) kernel: Option<&'a Kernel>,
    /// What it was told.
    pub(crate) command_line: Option<&'a str>,
    /// Whether secure boot was on.
    pub(crate) secure_boot: bool,
    /// Whether IMA has a policy that measures what kexec loads.
    pub(crate) measures_kexec: bool,
}

/// What is not shown, each with how to show it; none: all of it is.
pub(crate) fn missing(known: &Known<'_>) -> Vec<&'static str> {
    let Some(kernel) = known.kernel else {
        return vec![
            "the release does not say what its kernel enforces (build it with `reference-values build --kernel-config`)",
        ];
    };
    let told = known.command_line.map(Told::read).unwrap_or_default();
    let locked = told.lockdown_active
        && match kernel.lockdown {
            Lockdown::Always => true,
            Lockdown::WithSecureBoot => known.secure_boot || told.lockdown,
            Lockdown::OnRequest => told.lockdown,
            Lockdown::Absent => false,
        };
    // A kernel that can lock itself down checks signatures, and does so where it is locked (security/lockdown/Kconfig).
    let checks = kernel.lockdown != Lockdown::Absent && told.sig_enforce;
    let modules = kernel.modules_signed || told.no_modules || checks || locked;
    let kexec = told.no_kexec
        || match kernel.kexec {
            Kexec::Absent => true,
            // What is loaded by file is measured by such a policy; the other call hands over memory, which lockdown forbids.
            Kexec::FileOnly => known.measures_kexec,
            Kexec::Any => known.measures_kexec && locked,
        };
    let mut missing = Vec::new();
    if !modules {
        missing.push("module signatures (CONFIG_MODULE_SIG_FORCE, or `module.sig_enforce=1` on the command line of a kernel that can lock itself down)");
    }
    if !locked {
        missing.push("lockdown (`lockdown=integrity` on the command line of a kernel that has it, or secure boot where it follows that)");
    }
    if !kexec {
        missing.push(
            "kexec (a kernel without it, `sysctl.kernel.kexec_load_disabled=1` on the command line, or lockdown and a listed \
             IMA policy that measures KEXEC_KERNEL_CHECK)",
        );
    }
    missing
}

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    lockdown: bool,
    /// Whether the security module is not left out (`lsm=`; `security=` chooses among others).
    lockdown_active: bool,
    sig_enforce: bool,
    no_modules: bool,
    no_kexec: bool,
}

impl Default for Told {
    fn default() -> Self {
        Self { lockdown: false, lockdown_active: true, sig_enforce: false, no_modules: false, no_kexec: false }
    }
}

impl Told {
    fn read(command_line: &str) -> Self {
        let mut told = Self::default();
        for (name, value) in Parameters(command_line.as_bytes()) {
            match (name, value) {
                // It only ever goes up: a later `none` takes nothing back (security/lockdown/lockdown.c).
                (b"lockdown", Some(b"integrity" | b"confidentiality")) => told.lockdown = true,
                (b"lsm", Some(list)) => {
                    told.lockdown_active = list.split(|byte| *byte == b',').any(|m| m == b"lockdown")
                }
                // A parameter that can only be turned on (kernel/module/signing.c).
                (b"module.sig_enforce", None | Some(b"1" | b"y" | b"Y" | b"on")) => told.sig_enforce = true,
                // Both can only be turned on, and are set before init runs (fs/proc/proc_sysctl.c).
                (b"sysctl.kernel.modules_disabled", Some(b"1")) => told.no_modules = true,
                (b"sysctl.kernel.kexec_load_disabled", Some(b"1")) => told.no_kexec = true,
                _ => {}
            }
        }
        told
    }
}

/// Whether the command line has IMA measure every program that is run and every library that is mapped, from the first on
/// (security/integrity/ima/ima_policy.c, `ima_policy=tcb` and the older `ima_tcb`).
pub(crate) fn measures_programs(command_line: &str) -> bool {
    Parameters(command_line.as_bytes()).any(|parameter| match parameter {
        (b"ima_tcb", _) => true,
        (b"ima_policy", Some(list)) => list.split(|byte| matches!(byte, b'|' | b' ')).any(|policy| policy == b"tcb"),
        _ => false,
    })
}

/// Parameters in the order of the command line, each with its value, as `next_arg` of the kernel tells them apart.
struct Parameters<'a>(&'a [u8]);

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.0.iter().position(|byte| !is_space(*byte))?;
        let (_, rest) = self.0.split_at_checked(start)?;
        let mut quoted = false;
        let end = rest.iter().position(|byte| {
            quoted ^= *byte == b'"';
            !quoted && is_space(*byte)
        });
        let (word, rest) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
        self.0 = rest;
        let word = unquoted(word);
        if word == b"--" {
            self.0 = &[];
            return None;
        }
        Some(match word.iter().position(|byte| *byte == b'=').and_then(|at| word.split_at_checked(at)) {
            Some((name, value)) => (name, Some(unquoted(value.get(1..).unwrap_or_default()))),
            None => (word, None),
        })
    }
}

/// isspace of the kernel (lib/ctype.c): Latin-1, so one byte of many a UTF-8 character too.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 0x09..=0x0D | 0xA0)
}

fn unquoted(word: &[u8]) -> &[u8] {
    let Some(quoted) = word.strip_prefix(b"\"") else { return word };
    quoted.strip_suffix(b"\"").unwrap_or(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(modules_signed: bool, lockdown: Lockdown, kexec: Kexec) -> Kernel {
        Kernel { release: "6.1".into(), modules_signed, lockdown, kexec }
    }

    fn lacks(kernel: &Kernel, command_line: &str, secure_boot: bool, measures_kexec: bool) -> Vec<&'static str> {
        let known = Known { kernel: Some(kernel), command_line: Some(command_line), secure_boot, measures_kexec };
        missing(&known).into_iter().map(|text| text.split(' ').next().unwrap()).collect()
    }

    #[test]
    fn each_of_the_three_has_to_be_shown() {
        let distribution = kernel(false, Lockdown::WithSecureBoot, Kexec::Any);
        assert_eq!(lacks(&distribution, "quiet", false, false), ["module", "lockdown", "kexec"]);
        assert_eq!(lacks(&distribution, "quiet", true, false), ["kexec"]);
        assert_eq!(lacks(&distribution, "quiet", true, true), [""; 0]);
        // Without lockdown, kexec_load hands over memory that nothing measures.
        assert_eq!(lacks(&distribution, "module.sig_enforce", false, true), ["lockdown", "kexec"]);
        assert_eq!(lacks(&kernel(true, Lockdown::Always, Kexec::Absent), "", false, false), [""; 0]);
        assert_eq!(
            lacks(&kernel(true, Lockdown::Absent, Kexec::FileOnly), "lockdown=integrity", true, true),
            ["lockdown"]
        );
        let told = "lockdown=confidentiality sysctl.kernel.modules_disabled=1 sysctl.kernel.kexec_load_disabled=1";
        assert_eq!(lacks(&kernel(false, Lockdown::OnRequest, Kexec::Any), told, false, false), [""; 0]);
    }

    #[test]
    fn ima_measures_programs_where_the_kernel_was_told_to() {
        for told in
            ["ima_policy=tcb", "quiet ima_policy=\"critical_data|tcb\"", "\"ima_policy=tcb critical_data\"", "ima_tcb"]
        {
            assert!(measures_programs(told), "{told}");
        }
        for not in ["", "ima_policy=critical_data", "ima_policy=tcbx", "quiet -- ima_policy=tcb", "ima_hash=sha256"] {
            assert!(!measures_programs(not), "{not}");
        }
    }

    #[test]
    fn without_the_kernel_s_configuration_nothing_is_shown() {
        let known = Known { command_line: Some("lockdown=integrity"), secure_boot: true, ..Known::default() };
        assert!(missing(&known)[0].contains("--kernel-config"));
    }

    #[test]
    fn only_what_the_kernel_reads_as_a_parameter_counts() {
        let on_request = kernel(true, Lockdown::OnRequest, Kexec::Absent);
        for asks in [
            "lockdown=integrity",
            "a=\"b c\"\tlockdown=integrity",
            "\"lockdown=integrity\"",
            "x lockdown=\"integrity\" y",
        ] {
            assert_eq!(lacks(&on_request, asks, false, false), [""; 0], "{asks}");
        }
        for asks_not in [
            "lockdown",
            "lockdown=none",
            "quiet -- lockdown=integrity",
            "quiet \"--\" lockdown=integrity",
            "lockdown=integrity\"",
            "a=\"x lockdown=integrity\"",
            "xlockdown=integrity",
            "lockdown=integrity lsm=yama,apparmor",
            "lockdown=integrityx",
        ] {
            assert_eq!(lacks(&on_request, asks_not, false, false), ["lockdown"], "{asks_not}");
        }
        assert_eq!(lacks(&on_request, "lsm=lockdown,yama lockdown=integrity", false, false), [""; 0]);
    }
}
