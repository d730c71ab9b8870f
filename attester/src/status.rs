//! The status file: in go results and troubles as they come, out comes `status.json`, for `attester status` and whoever
//! else wants to know how this device is judged.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use evidence::result::{AttestationResult, Claim, Tier};
use serde::{Deserialize, Serialize};
use x509_cert::der::DateTime;

use crate::{Output, shown, state::StateDir, told};

const FILE: &str = "status.json";

/// A verdict, with its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// All is as it should be.
    Affirmed,
    /// Something is odd.
    Warning,
    /// Something is wrong.
    Contraindicated,
    /// No verdict.
    Unknown,
}

impl Verdict {
    /// Of a result.
    pub(crate) const fn of(result: &AttestationResult) -> Self {
        match result.status {
            Tier::None => Self::Unknown,
            Tier::Affirming => Self::Affirmed,
            Tier::Warning => Self::Warning,
            Tier::Contraindicated => Self::Contraindicated,
        }
    }

    /// Exit code of a command whose outcome is a verdict.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Affirmed => 0,
            Self::Warning => 3,
            Self::Contraindicated => 4,
            Self::Unknown => 5,
        }
    }

    /// What counts more when verifiers differ: a reason not to trust, then not knowing, then a doubt.
    pub(crate) const fn weight(self) -> u8 {
        match self {
            Self::Affirmed => 0,
            Self::Warning => 1,
            Self::Unknown => 2,
            Self::Contraindicated => 3,
        }
    }

    /// As printed.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Affirmed => "affirmed",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
            Self::Unknown => "unknown",
        }
    }
}

/// A cause, as printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cause {
    pub(crate) code: String,
    pub(crate) detail: String,
}

/// What a verifier said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) verdict: Verdict,
    /// By the verifier's clock.
    pub(crate) issued: String,
    /// By the verifier's clock.
    pub(crate) expires: String,
    expires_seconds: u64,
    pub(crate) product: Option<String>,
    pub(crate) release: Option<String>,
    pub(crate) claims: BTreeMap<String, u8>,
    pub(crate) causes: Vec<Cause>,
    pub(crate) tolerated: Vec<String>,
}

impl Said {
    /// From a result.
    pub(crate) fn from_result(result: &AttestationResult) -> Self {
        let claim = |(claim, value): (Claim, u8)| (claim.name().to_owned(), value);
        let (product, release) = result.release.clone().unzip();
        let cause =
            |cause: &evidence::result::ResultCause| Cause { code: cause.code.clone(), detail: cause.detail.clone() };
        Self {
            verdict: Verdict::of(result),
            issued: timestamp(result.issued),
            expires: timestamp(result.expires),
            expires_seconds: result.expires,
            product,
            release,
            claims: result.vector.iter().map(claim).collect(),
            causes: result.causes.iter().map(cause).collect(),
            tolerated: result.tolerated.clone(),
        }
    }

    /// The verdict as it stands at a time: nothing, once it has expired.
    const fn at(&self, seconds: u64) -> Verdict {
        if seconds < self.expires_seconds { self.verdict } else { Verdict::Unknown }
    }

    /// For people.
    pub(crate) fn lines(&self, verifier: &str) -> String {
        let release = match (&self.product, &self.release) {
            (Some(product), Some(release)) => format!(", {product} {release}"),
            _ => String::new(),
        };
        let mut text = format!("{verifier}: {} until {}{release}\n", self.verdict.name(), self.expires);
        for Cause { code, detail } in &self.causes {
            // A detail may hold a path that somebody chose: nothing in it moves the cursor.
            text.push_str(&format!("  {code}: {}\n", shown(detail)));
        }
        for code in &self.tolerated {
            text.push_str(&format!("  tolerated: {code}\n"));
        }
        text
    }
}

/// All that the file says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) device: String,
    /// What keeps the broker away; nothing while connected.
    pub(crate) trouble: Option<String>,
    /// Before when the next attestation comes, if nothing brings one sooner.
    pub(crate) next_check: Option<String>,
    /// Verifiers that owe a result.
    pub(crate) backlog: usize,
    pub(crate) verifiers: BTreeMap<String, Said>,
}

impl Status {
    /// As it was kept.
    pub(crate) fn load(state: &StateDir) -> Result<Self> {
        Ok(state.read_json(FILE)?.unwrap_or_default())
    }

    /// Keeps it. A status that cannot be written keeps nobody from attesting.
    pub(crate) fn keep(&self, state: &StateDir) {
        if let Err(error) = state.write_json(FILE, self) {
            tracing::warn!("{}", told(&error));
        }
    }
}

/// `attester status`.
pub(crate) fn print(state: &StateDir, json: bool, output: &mut Output) -> Result<()> {
    let mut status = Status::load(state)?;
    let now = unix_now().as_secs();
    for said in status.verifiers.values_mut() {
        said.verdict = said.at(now);
    }
    if json {
        return output.json(&status);
    }
    if status.device.is_empty() {
        return output.text("never attested: start `attester run`, or try `attester once`\n");
    }
    let mut text = format!("device {}\n", status.device);
    for (name, said) in &status.verifiers {
        text.push_str(&said.lines(name));
    }
    let next = status.next_check.as_deref().unwrap_or("unknown");
    text.push_str(&format!("next check before {next}, {} waiting for a result\n", status.backlog));
    if let Some(trouble) = &status.trouble {
        text.push_str(&format!("not connected: {trouble}\n"));
    }
    output.text(&text)
}

/// Seconds since 1970 by this device's clock, for display.
pub(crate) fn unix_now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// RFC 3339.
pub(crate) fn timestamp(seconds: u64) -> String {
    // No verifier means the year 10000.
    DateTime::from_unix_duration(Duration::from_secs(seconds)).map_or_else(|_| "never".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use evidence::{
        claims::DeviceId,
        result::{Acknowledged, ResultCause, TrustVector},
    };

    use super::*;

    fn result() -> AttestationResult {
        AttestationResult {
            issued: 1_795_000_000,
            expires: 1_795_003_600,
            nonce: [0; 32],
            device: DeviceId([0; 32]),
            developer: String::new(),
            build: String::new(),
            evidence: [0; 32],
            acknowledged: Acknowledged::default(),
            status: Tier::Contraindicated,
            vector: TrustVector::default(),
            policy: String::new(),
            causes: vec![ResultCause {
                code: "runtime.unknown-executable".to_owned(),
                detail: "/tmp/\u{1b}[2J".to_owned(),
            }],
            tolerated: Vec::new(),
            release: None,
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(1_795_000_000), "2026-11-18T11:06:40Z");
        assert_eq!(timestamp(u64::MAX), "never");
    }

    #[test]
    fn an_expired_verdict_says_nothing() {
        let said = Said::from_result(&result());
        assert_eq!(said.at(1_795_003_599), Verdict::Contraindicated);
        assert_eq!(said.at(1_795_003_600), Verdict::Unknown);
    }

    #[test]
    fn a_path_does_not_command_the_terminal() {
        assert!(!Said::from_result(&result()).lines("v1").contains('\u{1b}'));
    }

    #[test]
    fn exit_codes_are_the_interfaces() {
        let codes = [Verdict::Affirmed, Verdict::Warning, Verdict::Contraindicated, Verdict::Unknown];
        assert_eq!(codes.map(Verdict::exit_code), [0, 3, 4, 5]);
    }
}
