//! `verifier config check`: everything that `verifier serve` reads, read without a service, one line each with what to do.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use appraisal::{Policy, UnixSeconds};
use clap::{Args, Subcommand};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;
use x509_cert::{Certificate, der::Decode as _};

use super::{
    FAILED, USAGE,
    service::{Failure, finish},
    show::{self, Row, cell, table},
};
use crate::{
    broker::Mosquitto,
    broker_access::Access,
    config::Config,
    http::{Token, api::time},
    identity::{DenyList, EkRoots},
    issuer::Issuer,
    keys::{KeyError, SigningKey},
    mqtt::Link,
    references::{InForce, Refused, inspect, read_policy, read_trust},
    serve::now,
    store::{Glance, StoreError, Trouble, glance},
};

/// A certificate that ends within this time is named, seconds: 30 days.
const SOON: u64 = 30 * 24 * 3600;
/// How long the broker may take to let this verifier in.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Checks the configuration and everything that it names
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Reads all that `serve` reads, and says of each what is wrong and what to do; 2 where `serve` would not start
    Check {
        /// Configuration [default: /etc/countersign/verifier.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Connect to the broker too
        #[arg(long)]
        connect: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    /// The service starts, and something is amiss.
    Warning,
    /// The service does not start.
    Failed,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    outcome: Outcome,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Line>,
}

/// The lines so far.
#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    fn ok(&mut self, name: &str, detail: impl Into<String>) {
        self.0.push(Line { name: name.to_owned(), outcome: Outcome::Ok, detail: detail.into(), remedy: None });
    }

    fn warn(&mut self, name: &str, detail: impl Into<String>, remedy: &str) {
        let remedy = Some(remedy.to_owned());
        self.0.push(Line { name: name.to_owned(), outcome: Outcome::Warning, detail: detail.into(), remedy });
    }

    /// Errors of the service say themselves what to do.
    fn failed(&mut self, name: &str, error: &dyn std::fmt::Display) {
        let detail = error.to_string();
        self.0.push(Line { name: name.to_owned(), outcome: Outcome::Failed, detail, remedy: None });
    }

    fn take<T>(&mut self, name: &str, read: Result<T, impl std::fmt::Display>) -> Option<T> {
        read.inspect_err(|error| self.failed(name, error)).ok()
    }
}

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let ConfigCommand::Check { config, connect, json } = &args.command;
    finish((|| {
        let config = Config::load(config.as_deref(), std::env::vars_os())?;
        let checks = check(&config, *connect, now());
        let ok = checks.iter().all(|line| line.outcome != Outcome::Failed);
        let report = Report { ok, checks };
        let shown = if *json { serde_json::to_string(&report).unwrap_or_default() + "\n" } else { text(&report) };
        show::print(&shown).map_err(|error| Failure(format!("cannot write to stdout: {error}"), FAILED))?;
        Ok(if ok { 0 } else { USAGE })
    })())
}

fn text(report: &Report) -> String {
    let row = |line: &Line| -> Row {
        let outcome = match line.outcome {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "FAILED",
        };
        vec![cell(outcome), cell(&line.name), cell(&line.detail), cell(line.remedy.as_deref().unwrap_or(""))]
    };
    table(&["", "WHAT", "FOUND", "WHAT TO DO"], report.checks.iter().map(row).collect())
}

fn check(config: &Config, connect: bool, now: UnixSeconds) -> Vec<Line> {
    let mut lines = Lines::default();
    let store = store(&mut lines, config);
    root_key(&mut lines, config, store.as_ref(), now);
    token(&mut lines, config);
    broker(&mut lines, config, now);
    endorsers(&mut lines, config, now);
    let policy = policy(&mut lines, config).unwrap_or_default();
    releases(&mut lines, config, store.as_ref(), &policy, now);
    if connect {
        reach(&mut lines, config);
    }
    lines.0
}

fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.permissions().mode() & 0o777)
}

/// A secret that others than its owner and group may read, or than its owner may write.
fn exposed(path: &Path) -> bool {
    mode(path).is_some_and(|mode| mode & 0o037 != 0)
}

fn store(lines: &mut Lines, config: &Config) -> Option<Glance> {
    let folder = config.data_dir.display();
    if rustix::fs::access(&config.data_dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        lines.failed("data_dir", &format!("{folder} is no folder that this user may write to; make it, mode 0700"));
        return None;
    }
    match mode(&config.data_dir) {
        Some(mode) if mode & 0o077 != 0 => {
            lines.warn("data_dir", format!("{folder} may be read by others (mode {mode:04o})"), "chmod 700 it");
        }
        _ => lines.ok("data_dir", folder.to_string()),
    }
    match glance(&config.store()) {
        Ok(glance) => {
            let (found, known) = (glance.versions.found, glance.versions.known);
            if glance.is_backup {
                let detail = format!("version {found}: a backup that no verifier has started on yet");
                lines.warn("store", detail, "on start tokens end, keys are replaced and every device is asked anew");
            } else if found < known {
                let detail = format!("version {found}; this program writes version {known}");
                lines.warn("store", detail, "back it up; `serve` brings it up to date, or `verifier store migrate`");
            } else {
                lines.ok("store", format!("version {found}"));
            }
            Some(glance)
        }
        Err(StoreError::Database { kind: Trouble::Open, .. }) if !config.store().exists() => {
            lines.ok("store", "none yet; `serve` makes it");
            None
        }
        Err(error) => {
            lines.failed("store", &error);
            None
        }
    }
}

fn root_key(lines: &mut Lines, config: &Config, store: Option<&Glance>, now: UnixSeconds) {
    let until = store.and_then(|store| store.keys_until);
    match (SigningKey::load(&config.key), until) {
        (Ok(_), _) => lines.ok("root key", config.key.display().to_string()),
        (Err(KeyError::Unreadable { .. }), Some(until)) => {
            lines.ok("root key", format!("not there; the keys in the store hold until {}", time(until)));
        }
        (Err(error), _) => lines.failed("root key", &error),
    }
    match until {
        Some(until) if until <= now => lines.warn(
            "keys",
            format!("devices have not taken what they sign since {}", time(until)),
            "put the root key back in its place and run `verifier keys rotate`",
        ),
        Some(until) if until <= now.saturating_add(SOON) => {
            lines.warn("keys", format!("hold until {}", time(until)), "have the root key in its place for the renewal");
        }
        Some(until) => lines.ok("keys", format!("hold until {}", time(until))),
        None => {}
    }
}

fn token(lines: &mut Lines, config: &Config) {
    let path = &config.http.token_file;
    if lines.take("api token", Token::read(path)).is_some() {
        if exposed(path) {
            let detail = format!("{} may be read by others", path.display());
            lines.warn("api token", detail, "write another token into it, chmod 600 it, and restart the service");
        } else {
            lines.ok("api token", path.display().to_string());
        }
    }
}

fn broker(lines: &mut Lines, config: &Config, now: UnixSeconds) {
    let broker = &config.broker;
    if lines.take("broker certificates", Link::new(broker, "check".to_owned())).is_some() {
        for (name, path) in [("broker ca", &broker.ca), ("broker certificate", &broker.certificate)] {
            expiry(lines, name, path, now);
        }
    }
    if exposed(&broker.key) {
        let detail = format!("{} may be read by others", broker.key.display());
        lines.warn("broker key", detail, "chmod 600 it, and make a new key and certificate if others had access");
    }
    match lines.take("device ca", Issuer::from_config(broker)) {
        Some(Issuer::Ours(_)) => expiry(lines, "device ca", &broker.device_ca, now),
        Some(Issuer::Files { issued, .. }) => lines.ok("device ca", format!("elsewhere: {}", issued.display())),
        Some(Issuer::Nobody) => lines.warn(
            "device ca",
            format!("{} does not exist", broker.ca_key.display()),
            "devices get no certificates at enrolment: put the key there, or set `issued`",
        ),
        None => {}
    }
    drop(lines.take("broker access", Access::from_config(broker)));
    if broker.spawn {
        for (name, path) in [("mosquitto", &broker.mosquitto), ("mosquitto, enrolment", &broker.enrolment)] {
            if lines.take(name, Mosquitto::find(path)).is_some() {
                lines.ok(name, path.display().to_string());
            }
        }
    }
}

fn expiry(lines: &mut Lines, name: &str, path: &Path, now: UnixSeconds) {
    let until = CertificateDer::from_pem_file(path).ok().and_then(|der| {
        let certificate = Certificate::from_der(&der).ok()?;
        Some(certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
    });
    let remedy = "renew it as docs/operations.md says";
    match until {
        None => lines.failed(name, &format!("{} holds no certificate in PEM", path.display())),
        Some(until) if until <= now => lines.warn(name, format!("{} ended {}", path.display(), time(until)), remedy),
        Some(until) if until <= now.saturating_add(SOON) => {
            lines.warn(name, format!("{} ends {}", path.display(), time(until)), remedy);
        }
        Some(until) => lines.ok(name, format!("{} until {}", path.display(), time(until))),
    }
}

fn endorsers(lines: &mut Lines, config: &Config, now: UnixSeconds) {
    if let Some(roots) = lines.take("ek_roots", EkRoots::load(&config.ek_roots)) {
        let today = time(now);
        let ended: Vec<&str> =
            roots.list().iter().filter(|root| root.not_after() < today.as_str()).map(|root| root.subject()).collect();
        let count = roots.list().len();
        match (count, ended.is_empty()) {
            (0, _) => lines.warn("ek_roots", "no CA is trusted", "no device can enrol: `verifier roots add FILE`"),
            (_, true) => lines.ok("ek_roots", format!("{count} CAs")),
            (_, false) => lines.warn(
                "ek_roots",
                format!("{count} CAs, of which these have ended: {}", ended.join("; ")),
                "TPMs below them enrol no more: add what the maker issued since",
            ),
        }
    }
    if lines.take("deny", DenyList::load(&config.deny)).is_some() {
        lines.ok("deny", config.deny.display().to_string());
    }
}

fn releases(lines: &mut Lines, config: &Config, store: Option<&Glance>, policy: &Policy, now: UnixSeconds) {
    let Some(trust) = lines.take("trust", read_trust(&config.trust)) else { return };
    match trust.signers().len() {
        0 => lines.warn("trust", "nobody may sign releases", "put a file with [[signer]] tables into the folder"),
        count => lines.ok("trust", format!("{count} signers")),
    }
    let seen = store.map(|store| store.reached.clone()).unwrap_or_default();
    let Some((_, status)) = lines.take("reference_values", inspect(config, policy, &trust, &seen, now)) else {
        return;
    };
    if status.in_force.is_empty() && status.refused.is_empty() {
        let remedy = "every verdict stays unknown (reference.none): put signed releases, *.corim, into the folder";
        lines.warn("reference_values", "no release", remedy);
    }
    for InForce { file, title, .. } in &status.in_force {
        lines.ok(&format!("{} {file}", title.kind), format!("{} {}", title.product, title.name));
    }
    for Refused { file, fault, held } in &status.refused {
        let held = if *held { "its last good copy counts" } else { "does not count" };
        let remedy = "sign it by who is trusted, or remove it";
        lines.warn(&format!("release {file}"), format!("{held}: {}: {}", fault.code, fault.why), remedy);
    }
    if let Some(problem) = &status.problem {
        let detail = format!("what was in force before stays: {}: {}", problem.code, problem.why);
        lines.warn("reference_values", detail, "put right what contradicts, or put the newer file back");
    }
}

fn policy(lines: &mut Lines, config: &Config) -> Option<Policy> {
    let policy = lines.take("policy", read_policy(&config.policy))?;
    if lines.take("policy", policy.check_period(config.epoch_seconds.into())).is_some() {
        lines.ok("policy", format!("{} ({})", config.policy.display(), policy.id));
    }
    Some(policy)
}

/// Connects as the service does, under a name of its own, so that a running one is not put out.
fn reach(lines: &mut Lines, config: &Config) {
    let address = format!("{}:{}", config.broker.host, config.broker.port);
    // Always the same one, so that the broker has one session of it at the most.
    let client_id = format!("{}-check", config.name);
    let Ok(link) = Link::new(&config.broker, client_id) else { return };
    let connected = tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| {
        runtime.block_on(async {
            let publisher = link.publish();
            let mut connected = publisher.connected();
            tokio::time::timeout(CONNECT_WITHIN, connected.wait_for(|up| *up)).await.is_ok_and(|up| up.is_ok())
        })
    });
    if connected.unwrap_or(false) {
        lines.ok("broker", address);
    } else {
        let remedy = "what it said stands above; does it run there, and do its certificates and clocks agree?";
        lines.warn("broker", format!("{address} has not let this verifier in"), remedy);
    }
}
