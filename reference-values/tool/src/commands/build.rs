//! `build`: measures a release and writes it, unsigned.

use std::io::IsTerminal as _;

use reference_values::{
    Content, Release,
    boot_rules::{Generalised, ImaPolicy},
};

use super::{count, write_release};
use crate::{
    boot::{self, ima_policy, pcrs},
    cli::Build,
    failure::Failure,
    files,
    sources::{self, Found, Options},
};

pub(crate) fn run(arguments: &Build) -> Result<(), Failure> {
    let (rules, generalised) = boot::rules(arguments)?.unzip();
    let found = measure(arguments)?;
    let content = Content {
        boots: arguments.boot_pcrs.iter().map(|path| pcrs::read(path)).collect::<Result<_, _>>()?,
        boot_rules: rules.into_iter().collect(),
        ima_policies: ima_policies(arguments)?,
        executables: found.executables,
        images: found.images,
        further_digests: found.further,
    };
    let release = write_release(&arguments.of, content)?;
    files::print(&told(&release, arguments.boot_log.len(), &generalised.unwrap_or_default()))
}

fn measure(arguments: &Build) -> Result<Found, Failure> {
    let mut further = arguments.digests.clone();
    further.sort_unstable();
    further.dedup();
    let options = Options { further, progress: std::io::stderr().is_terminal() };
    let mut all = Found::default();
    for root in &arguments.rootfs {
        let found = sources::measure(root, &options)?;
        if found.is_empty() {
            return Err(Failure::Usage(format!(
                "{}: nothing in it can run; is it a root file system?",
                root.display()
            )));
        }
        all.extend(found);
    }
    Ok(all)
}

fn ima_policies(arguments: &Build) -> Result<Vec<ImaPolicy>, Failure> {
    arguments.ima_policy.iter().map(|path| ima_policy::read(path, &arguments.rootfs)).collect()
}

/// What was built, and what the rules allow beyond what was given.
fn told(release: &Release, logs: usize, generalised: &[Generalised]) -> String {
    let files = count(release.executables().len(), "executable", "executables");
    let images = count(release.images().len(), "boot image", "boot images");
    let boots = count(release.boots().len(), "boot", "boots");
    let mut out = format!(
        "{} {}, sequence {}: {files}, {images}, {boots}",
        release.product(),
        release.name(),
        release.sequence()
    );
    for rules in release.boot_rules() {
        let kinds = super::rules::summary(rules);
        out.push_str(&format!(", boot rules from {} ({kinds})", count(logs, "log", "logs")));
    }
    for policy in release.ima_policies() {
        let kexec = if policy.measures_kexec { "measures kexec" } else { "does not measure kexec" };
        out.push_str(&format!(", IMA policy {} that {kexec}", policy.path));
    }
    out.push_str("; not signed yet\n");
    if !generalised.is_empty() {
        out.push_str("What the boot rules leave open, and why:\n");
    }
    for one in generalised {
        out.push_str(&format!("  {one}\n"));
    }
    out
}
