//! An IMA policy (Documentation/ABI/testing/ima_policy of Linux): in, the file that a device loads; out, its digest, and
//! whether it measures what kexec loads.

use std::path::{Path, PathBuf};

use evidence::pcr::sha256;
use reference_values::boot_rules::ImaPolicy;

use crate::{failure::Failure, files, sources::readable};

/// Policies have some kilobytes.
const MAX_POLICY: usize = 1024 * 1024;
/// What a rule begins with.
const ACTIONS: [&str; 8] =
    ["measure", "dont_measure", "appraise", "dont_appraise", "audit", "dont_audit", "hash", "dont_hash"];
/// Kind of measurement of a kernel that kexec loads.
const KEXEC: &str = "KEXEC_KERNEL_CHECK";
/// File systems that hold the kernel's words and no file that a kernel could be kept in, as the kernel's own policies
/// leave them out (`security/integrity/ima/ima_policy.c`): proc, sysfs, debugfs, devpts, binfmt_misc, securityfs,
/// selinuxfs, smackfs, cgroup, cgroup2, nsfs, efivarfs.
const PSEUDO: [u64; 12] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x1cd1,
    0x4249_4e4d,
    0x7363_6673,
    0xf97c_ff8c,
    0x4341_5d53,
    0x0027_e0eb,
    0x6367_7270,
    0x6e73_6673,
    0xde5e_81e4,
];

/// Reads a policy. Its path is told as the device sees it where it stands under one of `roots`.
pub(crate) fn read(path: &Path, roots: &[PathBuf]) -> Result<ImaPolicy, Failure> {
    let bytes = files::read(path, MAX_POLICY)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::input(path, "not a text"))?;
    let rules = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let known = |rule: &str| rule.split_whitespace().next().is_some_and(|action| ACTIONS.contains(&action));
    if let Some(rule) = rules().find(|rule| !known(rule)) {
        let shown = rule.chars().take(60).collect::<String>();
        return Err(Failure::input(path, format_args!("{shown:?} is no rule of an IMA policy")));
    }
    let inside = roots.iter().find_map(|root| path.strip_prefix(root).ok()).map(|path| Path::new("/").join(path));
    Ok(ImaPolicy {
        digest: sha256(&bytes),
        path: readable(inside.as_deref().unwrap_or(path)),
        measures_kexec: measures_kexec(rules()),
    })
}

/// Whether every kernel that kexec_file_load(2) reads is measured into PCR 10: the first rule that decides about one
/// measures it, whatever file it is.
fn measures_kexec<'a>(rules: impl Iterator<Item = &'a str>) -> bool {
    for rule in rules {
        let mut words = rule.split_whitespace();
        let action = words.next();
        let conditions = words.collect::<Vec<_>>();
        let function = conditions.iter().find_map(|condition| condition.strip_prefix("func="));
        match action {
            Some("measure") if function == Some(KEXEC) && conditions.iter().all(|one| leaves_all(one)) => return true,
            Some("dont_measure") if function.is_none_or(|of| of == KEXEC) && !only_pseudo(&conditions) => return false,
            _ => {}
        }
    }
    false
}

/// Whether a measure rule with this condition still measures every kernel, into the list that is judged.
fn leaves_all(condition: &str) -> bool {
    condition.starts_with("func=") || condition.starts_with("template=") || condition == "pcr=10"
}

/// Whether a rule is for a pseudo file system alone; other conditions narrow it further.
fn only_pseudo(conditions: &[&str]) -> bool {
    let magic = conditions.iter().find_map(|condition| condition.strip_prefix("fsmagic="));
    let number = magic.map(|magic| u64::from_str_radix(magic.trim_start_matches("0x"), 16));
    matches!(number, Some(Ok(number)) if PSEUDO.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::measures_kexec;

    #[test]
    fn kexec_is_measured_where_the_first_rule_that_decides_measures_it() {
        for policy in [
            &["measure func=KEXEC_KERNEL_CHECK"][..],
            &["dont_measure fsmagic=0x9fa0", "measure func=KEXEC_KERNEL_CHECK template=ima-sig pcr=10"],
            &["dont_measure func=FILE_CHECK uid=0", "measure func=KEXEC_KERNEL_CHECK"],
            &["measure func=KEXEC_KERNEL_CHECK", "dont_measure"],
        ] {
            assert!(measures_kexec(policy.iter().copied()), "{policy:?}");
        }
        for policy in [
            &[][..],
            &["measure func=BPRM_CHECK"],
            &["appraise func=KEXEC_KERNEL_CHECK"],
            // Another list, some users, some files.
            &["measure func=KEXEC_KERNEL_CHECK pcr=11"],
            &["measure func=KEXEC_KERNEL_CHECK uid=1000"],
            &["measure func=KEXEC_KERNEL_CHECK fsmagic=0xef53"],
            // A kernel on tmpfs is decided about first.
            &["dont_measure fsmagic=0x01021994", "measure func=KEXEC_KERNEL_CHECK"],
            &["dont_measure func=KEXEC_KERNEL_CHECK fsname=overlay", "measure func=KEXEC_KERNEL_CHECK"],
            &["dont_measure", "measure func=KEXEC_KERNEL_CHECK"],
        ] {
            assert!(!measures_kexec(policy.iter().copied()), "{policy:?}");
        }
    }
}
