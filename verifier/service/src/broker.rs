//! A broker as a child process: in goes mosquitto's configuration, out comes a running mosquitto, started again when it
//! dies, told to read its topic rules again, and ended with this program. Its own words go to the log.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::{Notify, watch},
    time::{sleep, timeout},
};

/// First wait before a new start, doubled each time up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Who ran so long did not die of its configuration: waiting begins anew.
const RAN_WELL: Duration = Duration::from_secs(60);
/// A new mosquitto takes a SIGHUP for the end until it has read its configuration, which then needs no second reading.
const SETTLES: Duration = Duration::from_secs(2);
/// Time to save sessions and queues when it is ended.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Folders of system programs, which are not in every user's PATH.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"];

/// The broker cannot be started.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// No program.
    #[error(
        "mosquitto is not installed: apt-get install mosquitto; or run a broker elsewhere and set `spawn = false` under [broker]"
    )]
    NotInstalled,
    /// No configuration.
    #[error(
        "the broker's configuration {0} does not exist: `verifier init` makes one, and `mosquitto` and `enrolment` under [broker] name two"
    )]
    NoConfiguration(String),
}

/// A mosquitto to be kept running.
#[derive(Debug)]
pub struct Mosquitto {
    program: PathBuf,
    setpriv: Option<PathBuf>,
    configuration: PathBuf,
}

impl Mosquitto {
    /// Looks for the program and its configuration.
    ///
    /// # Errors
    /// [`BrokerError`]
    pub fn find(configuration: &Path) -> Result<Self, BrokerError> {
        if !configuration.is_file() {
            return Err(BrokerError::NoConfiguration(configuration.display().to_string()));
        }
        let program = find("mosquitto").ok_or(BrokerError::NotInstalled)?;
        Ok(Self { program, setpriv: find("setpriv"), configuration: configuration.to_owned() })
    }

    /// Keeps it running until `stop` turns true, then ends it. After `reload` it reads rules and lists again.
    pub async fn supervise(self, mut stop: watch::Receiver<bool>, reload: Arc<Notify>) {
        let mut wait = FIRST_WAIT;
        loop {
            let started = Instant::now();
            match self.start() {
                Ok(mut child) => {
                    let Some(how) = attend(&mut child, started, &mut stop, &reload).await else {
                        return end(child).await;
                    };
                    tracing::error!("mosquitto ended with {how}; what it said stands above; starting it again");
                }
                Err(error) => tracing::error!("cannot start {}: {error}", self.program.display()),
            }
            wait = if started.elapsed() > RAN_WELL { FIRST_WAIT } else { (wait * 2).min(LONGEST_WAIT) };
            tokio::select! {
                () = sleep(wait) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// With `setpriv` the kernel ends it when this program is killed, so that the port is free for the next.
    fn start(&self) -> std::io::Result<Child> {
        let mut command = match &self.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "TERM"]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.arg("-c").arg(&self.configuration).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        child.stdout.take().map(|out| tokio::spawn(log(out)));
        child.stderr.take().map(|out| tokio::spawn(log(out)));
        Ok(child)
    }
}

/// Returns when it is time to end; also where nobody is left to say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// How it ended; `None` where it is time to end it.
async fn attend(
    child: &mut Child,
    started: Instant,
    stop: &mut watch::Receiver<bool>,
    reload: &Notify,
) -> Option<String> {
    let told = async || {
        reload.notified().await;
        sleep(SETTLES.saturating_sub(started.elapsed())).await;
    };
    loop {
        tokio::select! {
            ended = child.wait() => {
                return Some(ended.map_or_else(|error| error.to_string(), |status| status.to_string()));
            }
            () = stopped(stop) => return None,
            () = told() => {
                if !send(child, Signal::HUP) {
                    tracing::error!("mosquitto could not be told to read its rules again");
                }
            }
        }
    }
}

/// Not yet waited for, so the number is still its own.
fn send(child: &Child, signal: Signal) -> bool {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Asks it to end, and insists.
async fn end(mut child: Child) {
    if !send(&child, Signal::TERM) || timeout(ENDS_WITHIN, child.wait()).await.is_err() {
        drop(child.kill().await);
    }
}

/// Client ids and user names in these lines come from strangers.
async fn log(out: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(out).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line: String = line.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
        tracing::info!(target: "mosquitto", "{line}");
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_configuration_is_named() {
        let error = Mosquitto::find(Path::new("/nonexistent/mosquitto.conf")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/mosquitto.conf") && error.contains("verifier init"), "{error}");
    }
}
