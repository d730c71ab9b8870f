//! A kernel's configuration: in, the file that it was built with; out, what it does by itself against being changed.

use std::path::Path;

use reference_values::boot_rules::{CommandLine, Kernel, Kexec, Lockdown};
use tracing::warn;

use crate::{failure::Failure, files};

/// Configurations have some 300 KiB.
const MAX_CONFIG: usize = 16 * 1024 * 1024;

/// Reads the configuration of the kernel `release`, which may get these command lines.
pub(crate) fn read(path: &Path, release: &str, command_lines: &[CommandLine]) -> Result<Kernel, Failure> {
    let bytes = files::read(path, MAX_CONFIG)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::input(path, "not a text; is it compressed?"))?;
    let config = Config(text);
    if config.value("CONFIG_MODULES").is_none() && !text.contains("# CONFIG_MODULES is not set") {
        return Err(Failure::input(path, "not a kernel's configuration: it says nothing about CONFIG_MODULES"));
    }
    Ok(config.kernel(release, command_lines))
}

struct Config<'a>(&'a str);

impl<'a> Config<'a> {
    /// What an option is set to; the last line counts, as for the kernel's own build.
    fn value(&self, option: &str) -> Option<&'a str> {
        self.0.lines().filter_map(|line| line.strip_prefix(option)?.strip_prefix('=')).next_back()
    }

    fn is_set(&self, option: &str) -> bool {
        self.value(option) == Some("y")
    }

    fn kernel(&self, release: &str, command_lines: &[CommandLine]) -> Kernel {
        let modules_signed = !self.is_set("CONFIG_MODULES")
            || (self.is_set("CONFIG_MODULE_SIG") && self.is_set("CONFIG_MODULE_SIG_FORCE"));
        let kexec = match (self.is_set("CONFIG_KEXEC"), self.is_set("CONFIG_KEXEC_FILE")) {
            (true, _) => Kexec::Any,
            (false, true) => Kexec::FileOnly,
            (false, false) => Kexec::Absent,
        };
        Kernel { release: release.into(), modules_signed, lockdown: self.lockdown(command_lines), kexec }
    }

    fn lockdown(&self, command_lines: &[CommandLine]) -> Lockdown {
        if !self.is_set("CONFIG_SECURITY_LOCKDOWN_LSM") || !self.starts_lockdown(command_lines) {
            return Lockdown::Absent;
        }
        let forced = ["CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY"];
        if forced.iter().any(|option| self.is_set(option)) {
            Lockdown::Always
        } else if self.is_set("CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT") {
            Lockdown::WithSecureBoot
        } else {
            Lockdown::OnRequest
        }
    }

    /// Whether the module is among those that start: early, before any list is read; else by name in the list, which
    /// `lsm=` replaces.
    fn starts_lockdown(&self, command_lines: &[CommandLine]) -> bool {
        if self.is_set("CONFIG_SECURITY_LOCKDOWN_LSM_EARLY") {
            return true;
        }
        if command_lines.is_empty() {
            warn!("no log measures the command line, so that lsm= could keep lockdown from starting");
            return false;
        }
        let named = |list: &str| list.trim_matches('"').split(',').any(|name| name == "lockdown");
        let mut lists =
            command_lines.iter().flat_map(|line| line.pattern().split(' ')).filter_map(|one| one.strip_prefix("lsm="));
        if let Some(list) = lists.find(|list| !named(list)) {
            warn!("a command line has lsm={list}, so that lockdown does not start");
            return false;
        }
        self.value("CONFIG_LSM").is_some_and(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(options: &[&str], command_lines: &[&str]) -> Kernel {
        let text = options.join("\n");
        Config(&text)
            .kernel("6.1.0", &command_lines.iter().map(|line| CommandLine::parse(line).unwrap()).collect::<Vec<_>>())
    }

    const LSM: [&str; 2] = ["CONFIG_SECURITY_LOCKDOWN_LSM=y", "CONFIG_LSM=\"landlock,lockdown,yama\""];

    #[test]
    fn modules_are_signed_where_the_kernel_takes_no_others() {
        assert!(kernel(&["# CONFIG_MODULES is not set"], &[]).modules_signed);
        assert!(kernel(&["CONFIG_MODULES=y", "CONFIG_MODULE_SIG=y", "CONFIG_MODULE_SIG_FORCE=y"], &[]).modules_signed);
        assert!(
            !kernel(&["CONFIG_MODULES=y", "CONFIG_MODULE_SIG=y", "# CONFIG_MODULE_SIG_FORCE is not set"], &[])
                .modules_signed
        );
        assert!(!kernel(&["CONFIG_MODULES=y"], &[]).modules_signed);
    }

    #[test]
    fn lockdown_is_what_starts_and_is_set() {
        let with = |more: &[&str], lines: &[&str]| kernel(&[&LSM[..], more].concat(), lines).lockdown;
        assert_eq!(with(&[], &["quiet"]), Lockdown::OnRequest);
        assert_eq!(with(&["CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y"], &["quiet"]), Lockdown::WithSecureBoot);
        assert_eq!(with(&["CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y"], &["quiet"]), Lockdown::Always);
        assert_eq!(with(&["CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY=y"], &["quiet"]), Lockdown::Always);
        // Not among those that start, or nobody knows.
        assert_eq!(with(&["CONFIG_LSM=\"landlock,yama\""], &["quiet"]), Lockdown::Absent);
        assert_eq!(with(&["CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y"], &[]), Lockdown::Absent);
        assert_eq!(with(&["CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y"], &["quiet lsm=yama"]), Lockdown::Absent);
        assert_eq!(with(&[], &["quiet", "lsm=lockdown,yama"]), Lockdown::OnRequest);
        // Started before any list is read.
        let early = ["CONFIG_LSM=\"yama\"", "CONFIG_SECURITY_LOCKDOWN_LSM_EARLY=y"];
        assert_eq!(with(&early, &["lsm=yama"]), Lockdown::OnRequest);
        assert_eq!(kernel(&["CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y"], &[]).lockdown, Lockdown::Absent);
    }

    #[test]
    fn kexec_is_told_by_the_call_that_ima_does_not_measure() {
        assert_eq!(kernel(&["# CONFIG_KEXEC is not set"], &[]).kexec, Kexec::Absent);
        assert_eq!(kernel(&["CONFIG_KEXEC_FILE=y", "CONFIG_KEXEC_SIG=y"], &[]).kexec, Kexec::FileOnly);
        assert_eq!(kernel(&["CONFIG_KEXEC=y", "CONFIG_KEXEC_FILE=y"], &[]).kexec, Kexec::Any);
    }
}
