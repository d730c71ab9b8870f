//! The device program: in go a command line, configuration and the TPM; out come evidence, verdicts, and an exit code.

mod attest;
mod doctor;
mod enrolment;
mod exchange;
mod link;
mod measure;
mod notify;
mod once;
mod pinned;
mod positions;
mod service;
mod session;
mod state;
mod status;
mod wait;
mod worker;

use std::{
    env,
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use attester::config::{Config, ConfigError};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use data_encoding::HEXLOWER_PERMISSIVE;
use evidence::{
    claims::{Nonces, Why},
    limits::MAX_NONCES,
    tpm::tpm2b,
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    attest::{Attach, Attester},
    session::Event,
    state::{Readers, StateDir, write_atomically},
    worker::Worker,
};

/// Exit code: the operation failed.
const FAILED: u8 = 1;
/// Exit code: bad usage or configuration.
const USAGE: u8 = 2;

/// Bad usage or configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Proves to verifiers what this device booted and runs.
#[derive(Parser)]
#[command(name = "attester", version)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Configuration [default: /etc/countersign/attester.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// The service: attests at startup, periodically, on request, and when something new runs
    Run,
    /// One attestation now; the exit code is the verdict
    Once {
        /// How long to wait for the verdict
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Enrols with the configured verifiers
    Enrol {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// What would be measured now, without sending it
    Measure {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Writes one evidence message to a file, without network
    Evidence {
        /// Nonces, 32 bytes each in hexadecimal
        #[arg(long, required = true, value_name = "HEX[,HEX…]", value_delimiter = ',')]
        nonce: Vec<String>,
        /// Where the message goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Where the attestation key goes (TPM2B_PUBLIC)
        #[arg(long, value_name = "FILE")]
        ak_out: Option<PathBuf>,
        /// Measure and attach nothing, as evidence is when nothing is new
        #[arg(long)]
        bare: bool,
    },
    /// Looks whether this device has all that it needs; exit code 1 where something is missing
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The last verdict, and when the next one comes
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Waits until the running service holds an affirmed verdict of this boot
    Wait {
        /// How long; then the exit code is the verdict [default: for ever]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u32>,
    },
    /// Shell completions
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Standard output. A reader that has seen enough is no error.
pub(crate) struct Output(io::Stdout);

impl Output {
    /// Writes text.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        match self.0.write_all(text.as_bytes()).and_then(|()| self.0.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the output"),
            _ => Ok(()),
        }
    }

    /// Writes JSON.
    pub(crate) fn json<T: serde::Serialize>(&mut self, value: &T) -> Result<()> {
        let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
        self.text(&format!("{text}\n"))
    }
}

fn main() -> ExitCode {
    quiet_tpm_library();
    share_one_heap();
    let cli = Cli::parse();
    log_to_stderr(&cli.global);
    match run(cli, &mut Output(io::stdout())) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Written even with --quiet: it is what the command came to.
            drop(writeln!(io::stderr(), "attester: {}", told(&error)));
            let usage = error.is::<Usage>() || error.is::<ConfigError>();
            ExitCode::from(if usage { USAGE } else { FAILED })
        }
    }
}

/// Words of others, as they may be shown: whoever chose them does not command the terminal.
pub(crate) fn shown(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// An error with its causes, without those that it tells already.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        match text.as_str() {
            "" => text = cause,
            said if said.contains(&cause) => break,
            _ => text = format!("{text}: {cause}"),
        }
    }
    text
}

/// libtss2 writes lines of its own to stderr; what matters of them is in our errors.
fn quiet_tpm_library() {
    const VARIABLE: &str = "TSS2_LOG";
    if env::var_os(VARIABLE).is_none() {
        // SAFETY: no other thread has been started yet.
        unsafe { env::set_var(VARIABLE, "all+none") };
    }
}

/// Two threads that hardly ever work at the same time need no heap each.
fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    {
        /// glibc's malloc.h.
        const M_ARENA_MAX: std::ffi::c_int = -8;
        // SAFETY: mallopt(3) as glibc declares it; numbers that it does not know it ignores.
        unsafe extern "C" {
            safe fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        mallopt(M_ARENA_MAX, 1);
    }
}

fn log_to_stderr(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::INFO,
        (_, 1) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let ours = Targets::new().with_target("attester", level).with_default(level.min(LevelFilter::WARN));
    let filter = env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok()).unwrap_or(ours);
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colour).with_target(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
}

fn run(cli: Cli, output: &mut Output) -> Result<u8> {
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "attester", &mut script);
        return output.text(&String::from_utf8_lossy(&script)).map(|()| 0);
    }
    let config = Config::load(cli.global.config.as_deref(), env::vars_os());
    if let Command::Doctor { json } = cli.command {
        return doctor::print(config, json, output);
    }
    let config = config?;
    match cli.command {
        Command::Run => runtime()?.block_on(service::run(&config)).map(|()| 0),
        Command::Once { wait, json } => {
            let wait = Duration::from_secs(wait.into());
            runtime()?.block_on(once::once(&config, wait, json, output))
        }
        Command::Enrol { json } => runtime()?.block_on(enrol(&config, json, output)).map(|()| 0),
        Command::Measure { json } => measure::print(&config, json, output).map(|()| 0),
        Command::Evidence { nonce, out, ak_out, bare } => {
            evidence(&config, &nonce, &out, ak_out.as_deref(), bare).map(|()| 0)
        }
        Command::Status { json } => {
            let state = StateDir::open(&config.state_dir)?;
            status::print(&state, json, output).map(|()| 0)
        }
        Command::Wait { timeout } => wait::wait(&config, timeout.map(|seconds| Duration::from_secs(seconds.into()))),
        Command::Completions { .. } | Command::Doctor { .. } => Ok(0),
    }
}

/// One thread. The few threads that name resolution needs end at once, rather than wake up later to do so.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .thread_keep_alive(Duration::from_millis(1))
        .build()
        .context("cannot start the network's thread")
}

async fn enrol(config: &Config, json: bool, output: &mut Output) -> Result<()> {
    let state = StateDir::open(&config.state_dir)?;
    pinned::check(config)?;
    let worker = Worker::start::<Event>(config, None)?;
    let device = worker.call(|attester| attester.device()).await?.to_string();
    let (mut before, mut failed) = (true, None);
    for broker in 0..config.brokers.len() {
        match enrolment::ensure(config, &state, &worker, broker, false).await {
            Ok(enrolled) => before &= enrolled.before,
            // The others first: a broker that is away keeps them from nothing.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if json {
        return output.json(&serde_json::json!({ "device": device, "already_enrolled": before }));
    }
    output.text(&format!("{}enrolled: {device}\n", if before { "already " } else { "" }))
}

fn evidence(config: &Config, nonce: &[String], out: &Path, ak_out: Option<&Path>, bare: bool) -> Result<()> {
    let nonces = nonces(nonce)?;
    StateDir::open(&config.state_dir)?;
    let mut attester = Attester::open(config)?;
    let attach = if bare { Attach::Nothing } else { Attach::everything() };
    let made = attester.evidence(nonces, Why::Request, &attach)?;
    let write = |path: &Path, bytes: &[u8]| {
        write_atomically(path, bytes, Readers::All).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = ak_out {
        write(path, &tpm2b(&attester.ak_public().area()))?;
    }
    write(out, &made.message)
}

fn nonces(texts: &[String]) -> Result<Nonces, Usage> {
    let one = |text: &String| {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| Usage(format!("`--nonce {text}`: a nonce is 32 bytes, 64 hexadecimal digits")))
    };
    let nonces = texts.iter().map(one).collect::<Result<_, _>>()?;
    Nonces::new(nonces).ok_or_else(|| Usage(format!("`--nonce`: 1 to {MAX_NONCES} nonces fit one message")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}. Do this")]
        struct Outer(#[source] io::Error);
        let error = anyhow::Error::from(Outer(io::Error::other("inner"))).context("while starting");
        assert_eq!(told(&error), "while starting: outer: inner. Do this");
    }

    #[test]
    fn nonces_are_32_bytes_each_and_eight_at_most() {
        let good = "ab".repeat(32);
        assert!(nonces(&[good.clone(), good.to_uppercase()]).is_ok());
        for bad in ["", "ab", "zz", &"zz".repeat(32), &"ab".repeat(33)] {
            let said = nonces(&[bad.to_owned()]).unwrap_err().to_string();
            assert!(said.contains("64 hexadecimal digits"), "{said}");
        }
        assert!(nonces(&vec![good; MAX_NONCES + 1]).is_err());
    }
}
