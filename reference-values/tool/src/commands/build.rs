//! `build`: measures a release and writes it, unsigned.

use std::path::Path;

use evidence::{eventlog::EventLog, limits::MAX_LOG, pcr::HashAlgorithm};
use reference_values::{BootPcrs, Release};
use tracing::{info, warn};

use super::count;
use crate::{cli::Build, failure::Failure, files, rootfs, time::Time};

pub(crate) fn run(arguments: &Build) -> Result<(), Failure> {
    let sequence = sequence(arguments.sequence)?;
    let boots = arguments.boot_log.iter().map(|path| boot(path)).collect::<Result<Vec<_>, _>>()?;
    let executables = arguments.rootfs.as_deref().map(rootfs::measure).transpose()?.unwrap_or_default();
    if let Some(root) = arguments.rootfs.as_ref().filter(|_| executables.is_empty()) {
        return Err(Failure::Usage(format!("{}: nothing in it can run; is it a root file system?", root.display())));
    }
    let release = Release::new(&arguments.product, &arguments.release, sequence, executables, boots)
        .and_then(|release| release.valid(arguments.valid_from.map(|t| t.0), arguments.retire_at.map(|t| t.0)))
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let bytes = release.encode();
    // What is written must be readable by everyone else, limits included.
    Release::decode(&bytes).map_err(|error| Failure::Usage(error.to_string()))?;
    files::replace(&arguments.output, &bytes)?;
    info!("{} bytes written to {}", bytes.len(), arguments.output.display());
    let files = count(release.executables().len(), "executable", "executables");
    let boots = count(release.boots().len(), "boot", "boots");
    files::print(&format!(
        "{} {}, sequence {sequence}: {files}, {boots}; not signed yet\n",
        release.product(),
        release.name()
    ))
}

fn sequence(given: Option<u64>) -> Result<u64, Failure> {
    if let Some(given) = given {
        return Ok(given);
    }
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text
            .parse()
            .map_err(|_| Failure::Usage(format!("SOURCE_DATE_EPOCH is {text:?}; seconds since 1970 are expected"))),
        Err(_) => Ok(Time::now().0),
    }
}

fn boot(path: &Path) -> Result<BootPcrs, Failure> {
    let bytes = files::read(path, MAX_LOG)?;
    let replay = EventLog::read(&bytes)
        .and_then(|log| log.replay(Some(HashAlgorithm::Sha256)))
        .map_err(|error| Failure::input(path, error))?;
    for problem in &replay.problems {
        warn!("{}: {problem:?}", path.display());
    }
    BootPcrs::from_replay(&replay).map_err(|error| Failure::input(path, error))
}
