//! `attester wait`: in goes what the running service keeps in its status, out comes an exit code once it holds a verdict
//! of this boot, for whatever must not start before. Asks no verifier and touches no TPM: the service does both.

use std::{
    io::{self, Write as _},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use attester::{boot_log::kernel_id, config::Config};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
};

use crate::{
    Usage, service,
    state::StateDir,
    status::{FILE, Status, Verdict, since_boot},
};

/// Between two looks where nothing tells that something changed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The same where something does: that a service has ended, no file tells.
const LOOK_ALL_THE_SAME: Duration = Duration::from_secs(15);

/// How it stands with this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outlook {
    /// Every verifier affirms it.
    Affirmed,
    /// At least one does not.
    Judged(Verdict),
    /// None does not, and these have not said anything that counts.
    Silent(String),
}

impl Outlook {
    /// From what each verifier said, by its name.
    fn of<'a>(said: impl Iterator<Item = (&'a str, Option<Verdict>)>) -> Self {
        let (mut worst, mut silent) = (Verdict::Affirmed, Vec::new());
        for (name, verdict) in said {
            match verdict {
                Some(verdict) if verdict.weight() > worst.weight() => worst = verdict,
                Some(_) => {}
                None => silent.push(name),
            }
        }
        match (worst, silent.is_empty()) {
            (Verdict::Affirmed, true) => Self::Affirmed,
            (Verdict::Affirmed, false) => Self::Silent(format!("no verdict from {}", silent.join(", "))),
            (worst, _) => Self::Judged(worst),
        }
    }

    const fn verdict(&self) -> Verdict {
        match self {
            Self::Affirmed => Verdict::Affirmed,
            Self::Judged(verdict) => *verdict,
            Self::Silent(_) => Verdict::Unknown,
        }
    }
}

/// Waits for the verdict, at most for `timeout`; returns the exit code.
pub(crate) fn wait(config: &Config, timeout: Option<Duration>) -> Result<u8> {
    if config.verifiers.is_empty() {
        return Err(Usage("the configuration has no [[verifier]]: nobody can affirm this device".to_owned()).into());
    }
    let kernel = kernel_id().context("cannot tell which boot this is: is procfs mounted at /proc?")?;
    let begun = Instant::now();
    let [deadline, grace] =
        [timeout, config.startup_grace].map(|after| after.and_then(|after| begun.checked_add(after)));
    let mut changes = Changes::default();
    let mut told = None;
    loop {
        // Watched first: what changes after the look is not missed.
        changes.watch(&config.state_dir);
        let outlook = look(config, &kernel)?;
        let now = Instant::now();
        match &outlook {
            Outlook::Affirmed => return Ok(Verdict::Affirmed.exit_code()),
            Outlook::Silent(why) if grace.is_some_and(|grace| grace <= now) => {
                let_pass(now - begun, why);
                return Ok(Verdict::Affirmed.exit_code());
            }
            _ if deadline.is_some_and(|deadline| deadline <= now) => {
                tracing::error!("not affirmed in time: {}", describe(&outlook));
                return Ok(outlook.verdict().exit_code());
            }
            _ => {}
        }
        if told.as_ref() != Some(&outlook) {
            tracing::info!("waiting: {}", describe(&outlook));
            told = Some(outlook);
        }
        changes.wait([deadline, grace].into_iter().flatten().filter(|at| *at > now).min());
    }
}

/// How it stands now.
fn look(config: &Config, kernel: &str) -> Result<Outlook> {
    if !config.state_dir.is_dir() {
        return Ok(Outlook::Silent("no service has run here".to_owned()));
    }
    let state = StateDir::open(&config.state_dir)?;
    let status = Status::load(&state)?;
    let names = config.verifiers.iter().map(|verifier| verifier.name.as_str());
    let outlook = Outlook::of(names.map(|name| (name, status.said_in(kernel, name, since_boot()))));
    // Asked last, since to ask takes the lock for a moment that the service needs at its start.
    if outlook == Outlook::Affirmed && !service::is_running(&state) {
        return Ok(Outlook::Silent("the service does not run".to_owned()));
    }
    Ok(outlook)
}

fn describe(outlook: &Outlook) -> &str {
    match outlook {
        Outlook::Silent(why) => why,
        Outlook::Affirmed | Outlook::Judged(_) => outlook.verdict().name(),
    }
}

/// Said even with `--quiet`: nobody has vouched for this boot.
fn let_pass(waited: Duration, why: &str) {
    let seconds = waited.as_secs();
    // With nobody to read it there is nothing else to do.
    drop(writeln!(
        io::stderr(),
        "attester: warning: not affirmed, {why} for {seconds} s: let pass by `startup_grace_seconds`"
    ));
}

/// Word that the status was replaced.
#[derive(Default)]
struct Changes {
    inotify: Option<OwnedFd>,
}

impl Changes {
    /// Watches a folder from the moment on when it is there; where that is not possible, time alone brings the next look.
    fn watch(&mut self, folder: &Path) {
        if self.inotify.is_some() || !folder.is_dir() {
            return;
        }
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let watched = inotify::init(flags).and_then(|inotify| {
            inotify::add_watch(&inotify, folder, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::ONLYDIR)?;
            Ok(inotify)
        });
        self.inotify = watched.inspect_err(|error| tracing::debug!("looking once a second: {error}")).ok();
    }

    /// Waits until the status is replaced, or somebody has to look anyway.
    fn wait(&self, until: Option<Instant>) {
        let at_most = if self.inotify.is_some() { LOOK_ALL_THE_SAME } else { LOOK_AGAIN };
        let end = Instant::now() + at_most;
        let end = until.map_or(end, |until| until.min(end));
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.replaced_within(left) {
                return;
            }
        }
    }

    fn replaced_within(&self, time: Duration) -> bool {
        let mut waiting: Vec<_> = self.inotify.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let time = Timespec::try_from(time).ok();
        let polled = poll(&mut waiting, time.as_ref());
        // Where poll was interrupted, whoever calls looks at the clock.
        let Some(fd) = self.inotify.as_ref().filter(|_| polled.is_ok()) else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(fd, &mut buffer);
        let mut replaced = false;
        while let Ok(event) = events.next() {
            replaced |= event.file_name().is_some_and(|name| name.to_bytes() == FILE.as_bytes());
        }
        replaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(said: &[Option<Verdict>]) -> Outlook {
        Outlook::of(["a", "b", "c"].into_iter().zip(said.iter().copied()))
    }

    #[test]
    fn all_verifiers_have_to_affirm_and_the_worst_of_them_is_the_verdict() {
        use Verdict::{Affirmed, Contraindicated, Unknown, Warning};
        assert_eq!(outlook(&[Some(Affirmed), Some(Affirmed)]), Outlook::Affirmed);
        assert_eq!(outlook(&[Some(Affirmed), Some(Warning), Some(Contraindicated)]), Outlook::Judged(Contraindicated));
        assert_eq!(outlook(&[None, Some(Warning)]), Outlook::Judged(Warning), "silence covers no verdict");
        assert_eq!(outlook(&[Some(Unknown), None]), Outlook::Judged(Unknown));
    }

    #[test]
    fn silence_names_who_is_silent() {
        let silent = outlook(&[Some(Verdict::Affirmed), None, None]);
        assert_eq!(silent, Outlook::Silent("no verdict from b, c".to_owned()));
        assert_eq!(silent.verdict().exit_code(), 5);
    }

    #[test]
    fn a_replaced_status_ends_the_wait_at_once_and_other_files_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut changes = Changes::default();
        changes.watch(dir.path());
        state.write("other", b"x", crate::state::Readers::All).unwrap();
        assert!(!changes.replaced_within(Duration::from_secs(60)));
        let begun = Instant::now();
        state.write(FILE, b"x", crate::state::Readers::All).unwrap();
        changes.wait(None);
        assert!(begun.elapsed() < LOOK_ALL_THE_SAME);
    }

    #[test]
    fn a_wait_ends_at_its_time_with_nothing_to_watch() {
        let changes = Changes::default();
        let begun = Instant::now();
        changes.wait(Some(begun + Duration::from_millis(20)));
        assert!((Duration::from_millis(20)..LOOK_AGAIN).contains(&begun.elapsed()));
    }
}
