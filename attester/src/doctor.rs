//! `attester doctor`: in goes the configuration, out comes a line for each thing that this device needs, with what to do
//! where it is missing. Changes nothing, and runs beside the service without disturbing it: it speaks TLS to brokers and
//! no MQTT, since a second client with this device's id would throw the first one out.

mod machine;
mod network;
mod protection;
mod tpm;

use std::fmt;

use anyhow::Result;
use attester::config::{Config, ConfigError};
use serde::Serialize;

use crate::{Output, shown, state::StateDir};

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// The device attests without it, and proves less.
    Warn,
    /// The device can't attest.
    Fail,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    level: Level,
    name: String,
    text: String,
    /// What to do; none where all is well.
    remedy: Option<String>,
}

impl Line {
    fn ok(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, name: name.into(), text: text.into(), remedy: None }
    }

    fn warn(name: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warn, name: name.into(), text: text.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, name: name.into(), text: text.into(), remedy: Some(remedy.into()) }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a TPM, a broker or a file says is shown, and does not command the terminal.
        write!(f, "{:<4} {}: {}", self.level.name(), shown(&self.name), shown(&self.text))?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {}", shown(remedy)),
            None => Ok(()),
        }
    }
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report {
    /// Whether no line fails.
    ok: bool,
    lines: Vec<Line>,
}

/// Looks, prints; returns the exit code.
pub(crate) fn print(config: Result<Config, ConfigError>, json: bool, output: &mut Output) -> Result<u8> {
    let lines = match config {
        Ok(config) => look(&config),
        Err(error) => vec![unusable(&error)],
    };
    let ok = lines.iter().all(|line| line.level != Level::Fail);
    if json {
        output.json(&Report { ok, lines })?;
    } else {
        output.text(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    }
    Ok(if ok { 0 } else { crate::FAILED })
}

fn unusable(error: &ConfigError) -> Line {
    Line::fail("configuration", error.to_string(), "correct it, or name another with `--config`")
}

fn look(config: &Config) -> Vec<Line> {
    let mut lines = vec![network::configuration(config)];
    lines.extend(machine::look(config));
    lines.extend(protection::look(std::path::Path::new("/")));
    let state = config.state_dir.is_dir().then(|| StateDir::open(&config.state_dir).ok()).flatten();
    let running = state.as_ref().is_some_and(crate::service::is_running);
    lines.push(machine::service(running, state.as_ref()));
    lines.extend(tpm::look(config, running));
    lines.extend(network::look(config, state.as_ref()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_and_what_to_do_and_commands_no_terminal() {
        assert_eq!(Line::ok("tpm", "STM").to_string(), "ok   tpm: STM");
        let line = Line::fail("tpm", "none\u{1b}[2J", "plug one in");
        assert_eq!(line.to_string(), "fail tpm: none\\u{1b}[2J; plug one in");
    }

    #[test]
    fn a_configuration_that_does_not_read_is_a_line_of_its_own() {
        let error = Config::load(Some(std::path::Path::new("/nonexistent.toml")), []).unwrap_err();
        let line = unusable(&error);
        assert!(line.level == Level::Fail && line.text.contains("/nonexistent.toml"), "{line}");
    }
}
