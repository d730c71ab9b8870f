//! What a build is told about the boot: in, logs, images and texts of one release; out, boot rules, exact PCR values and
//! IMA policies.

pub(crate) mod ima_policy;
pub(crate) mod kernel_config;
pub(crate) mod pcrs;
pub(crate) mod pe;
pub(crate) mod uki;

use std::path::Path;

use evidence::{
    eventlog::{EventLog, Problem},
    limits::MAX_LOG,
};
use reference_values::{
    BootRules, Invalid,
    boot_rules::{CommandLine, Generalised, Given, Kernel, Kexec, Lockdown, NotGood},
};
use tracing::warn;

use self::uki::Uki;
use crate::{cli::Build, failure::Failure, files};

/// Rules from the logs that were given, and what they generalise; `None` without a log.
pub(crate) fn rules(arguments: &Build) -> Result<Option<(BootRules, Vec<Generalised>)>, Failure> {
    if arguments.boot_log.is_empty() {
        return Ok(None);
    }
    let bytes = arguments.boot_log.iter().map(|path| files::read(path, MAX_LOG)).collect::<Result<Vec<_>, _>>()?;
    let named = arguments.boot_log.iter().map(|path| path.as_path()).zip(&bytes);
    let logs = named
        .map(|(path, bytes)| Ok((path, EventLog::read(bytes).map_err(|error| Failure::input(path, error))?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    for (path, log) in &logs {
        // What does not decode is an error of the rules, below.
        log.inspect().iter().for_each(|replay| tell_problems(path, &replay.problems));
    }
    let images = arguments.uki.iter().map(|path| Uki::read(path)).collect::<Result<Vec<_>, _>>()?;
    uki::check_booted(&images, &logs)?;
    let command_lines = command_lines(&arguments.cmdline, &images)?;
    let given = Given { command_lines, kernel: None, attester: arguments.attester_in.map(Into::into) };
    let logs = logs.into_iter().map(|(_, log)| log).collect::<Vec<_>>();
    let (rules, generalised) = BootRules::from_logs(&logs, given).map_err(|error| refused(arguments, error))?;
    // Only now all command lines are known, and with them what the kernel makes of its configuration.
    let rules = match kernel(arguments, &images, rules.command_lines())? {
        Some(kernel) => rules.with_kernel(kernel).map_err(|error| refused(arguments, error))?,
        None => rules,
    };
    Ok(Some((rules, generalised)))
}

/// The failure for rules that cannot be made, with the name of the log that they cannot be made from.
fn refused(arguments: &Build, error: Invalid) -> Failure {
    match error {
        Invalid::Log { number, why } => {
            let path = arguments.boot_log.get(number.saturating_sub(1)).map_or(Path::new(""), AsRef::as_ref);
            match why {
                NotGood::CommandLine { .. } | NotGood::NoCommandLine | NotGood::NoInitrd => {
                    Failure::Usage(format!("{}: {why}", path.display()))
                }
                _ => Failure::input(path, why),
            }
        }
        other => Failure::Usage(other.to_string()),
    }
}

/// Says what is odd in a log that decodes.
fn tell_problems(path: &Path, problems: &[Problem]) {
    for Problem { index, code, detail } in problems {
        warn!("{}: event {index}: {detail} ({code})", path.display());
    }
}

/// Given patterns, and the text in each image.
fn command_lines(patterns: &[String], images: &[Uki]) -> Result<Vec<CommandLine>, Failure> {
    let given = patterns.iter().map(|pattern| CommandLine::parse(pattern));
    let built_in = images.iter().filter_map(|image| image.command_line.as_deref()).map(CommandLine::exact);
    given.chain(built_in).collect::<Result<_, _>>().map_err(|error| Failure::Usage(error.to_string()))
}

/// What the kernel does by itself. Without its configuration it is only known by name, and taken to do nothing.
fn kernel(arguments: &Build, images: &[Uki], lines: &[CommandLine]) -> Result<Option<Kernel>, Failure> {
    let mut named = arguments.kernel_release.iter().chain(images.iter().filter_map(|image| image.kernel.as_ref()));
    let release = named.next();
    if let Some(other) = release.and_then(|first| named.find(|other| *other != first)) {
        return Err(Failure::Usage(format!(
            "two kernels, {} and {other}: build one release for each",
            release.map_or("", String::as_str)
        )));
    }
    match (release, &arguments.kernel_config) {
        (Some(release), Some(path)) => kernel_config::read(path, release, lines).map(Some),
        (None, Some(path)) => Err(Failure::Usage(format!(
            "{}: of which kernel? No image given with --uki says it (section .uname); give what `uname -r` says with \
             --kernel-release",
            path.display()
        ))),
        (Some(release), None) => Ok(Some(Kernel {
            release: release.clone(),
            modules_signed: false,
            lockdown: Lockdown::Absent,
            kexec: Kexec::Any,
        })),
        (None, None) => Ok(None),
    }
}
