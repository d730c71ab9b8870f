//! The status file: in go results and troubles as they come, out comes `status.json`, for `attester status` and whoever
//! else wants to know how this device is judged.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use attester::boot_log::kernel_id;
use evidence::{
    pcr::sha256,
    result::{AttestationResult, Claim, Tier},
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use x509_cert::der::DateTime;

use crate::{Output, shown, state::StateDir, told};

/// The file's name in the state folder.
pub(crate) const FILE: &str = "status.json";
/// Code of a verifier that shut the device out, rather than not letting it in yet (`docs/attester.md`).
const REVOKED: &str = "identity.revoked";
/// Time in which what changes nothing but times is written once: flash wears out.
const TIMES_TOGETHER: Duration = Duration::from_secs(900);

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

    /// What it comes to that a verifier does not enrol this device, by the code that it gives.
    pub(crate) fn of_refusal(code: &str) -> Self {
        if code == REVOKED { Self::Contraindicated } else { Self::Unknown }
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
    /// From when it was issued to when it expires.
    #[serde(skip)]
    lifetime: Duration,
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
            lifetime: Duration::from_secs(result.expires.saturating_sub(result.issued)),
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
            (Some(product), Some(release)) => format!(", {} {}", shown(product), shown(release)),
            _ => String::new(),
        };
        let mut text = format!("{verifier}: {} until {}{release}\n", self.verdict.name(), self.expires);
        for Cause { code, detail } in &self.causes {
            // A detail may hold a path that somebody chose, and the rest is a verifier's: nothing in it moves the cursor.
            text.push_str(&format!("  {}: {}\n", shown(code), shown(detail)));
        }
        for code in &self.tolerated {
            text.push_str(&format!("  tolerated: {}\n", shown(code)));
        }
        text
    }
}

/// In which boot a verdict came, and until when it holds by a clock that begins with the kernel and that nobody sets: a
/// device's own clock may be years off until it has a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OfBoot {
    /// boot_id of the kernel (random(4)).
    kernel: String,
    /// Seconds since it started, those asleep too.
    until: u64,
}

/// A verifier that does not enrol this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Refusal {
    code: String,
    /// In which boot it said so.
    kernel: String,
}

/// How this device stands with one verifier, whatever it said.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Standing {
    /// Its broker.
    broker: String,
    /// Sequence of the keys that it signs with; none where they have never come.
    keys_sequence: Option<u64>,
    /// Until when they hold, by the verifier's clock.
    keys_until: Option<String>,
    /// Evidence since its last result to which it said nothing: it had nothing to say.
    unobjected: u64,
    /// When the last of it was sent.
    last_unobjected: Option<String>,
    last_unobjected_seconds: u64,
    /// Since when the last verdict stands on silence alone: it has expired, and evidence went out after that.
    quiet_since: Option<String>,
    /// Of which boot its last verdict is; none where it is of an earlier one.
    #[serde(default)]
    of_boot: Option<OfBoot>,
}

/// The connection to one broker.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Connection {
    connected: bool,
    trouble: Option<String>,
}

/// Something about this device that keeps it from saying what runs on it.
#[derive(Debug, Serialize, Deserialize)]
struct Alarm {
    since: String,
    what: String,
}

/// All that the file says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    device: String,
    /// What keeps a broker away; nothing while all are connected.
    trouble: Option<String>,
    /// Before when the next attestation comes, if nothing brings one sooner.
    next_check: Option<String>,
    /// Verifiers that owe a result.
    pub(crate) backlog: usize,
    verifiers: BTreeMap<String, Said>,
    #[serde(default)]
    standing: BTreeMap<String, Standing>,
    #[serde(default)]
    brokers: BTreeMap<String, Connection>,
    #[serde(default)]
    alarm: Option<Alarm>,
    /// Verifiers that do not enrol this device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    refusals: BTreeMap<String, Refusal>,
    /// The TPM's resetCount when the service began.
    #[serde(default)]
    resets: Option<u32>,
    /// Digest of what was written last but for the times in it, and when.
    #[serde(skip)]
    written: Option<([u8; 32], Instant)>,
}

impl Status {
    /// A program begins, as this device, with these verifiers and brokers: what the file says of others goes.
    pub(crate) fn begin<'a>(
        &mut self,
        device: &str,
        is_verifier: impl Fn(&str) -> bool,
        brokers: impl Iterator<Item = &'a str>,
    ) {
        let same = self.device == device;
        self.verifiers.retain(|name, _| same && is_verifier(name));
        self.standing.retain(|name, _| same && is_verifier(name));
        device.clone_into(&mut self.device);
        self.brokers = brokers.map(|place| (place.to_owned(), Connection::default())).collect();
        (self.trouble, self.alarm) = (None, None);
        self.refusals.clear();
    }

    /// The service begins, in the boot that the TPM counts so: verdicts of another are of this one no more.
    pub(crate) fn begin_in_boot(&mut self, resets: u32) {
        if self.resets.replace(resets) != Some(resets) {
            self.standing.values_mut().for_each(|standing| standing.of_boot = None);
            self.refusals.clear();
        }
    }

    /// A verifier does not enrol this device. Whether that is news.
    pub(crate) fn refused(&mut self, verifier: &str, code: &str) -> bool {
        let refusal = Refusal { code: code.to_owned(), kernel: kernel_id().unwrap_or_default() };
        self.refusals.insert(verifier.to_owned(), refusal.clone()) != Some(refusal)
    }

    /// What a verifier said in the boot of this kernel, if anything that still counts: an affirmation ends when it expires,
    /// all else only with another word.
    pub(crate) fn said_in(&self, kernel: &str, verifier: &str, since_boot: Duration) -> Option<Verdict> {
        if let Some(refusal) = self.refusals.get(verifier).filter(|refusal| refusal.kernel == kernel) {
            return Some(Verdict::of_refusal(&refusal.code));
        }
        let of_boot = self.standing.get(verifier)?.of_boot.as_ref().filter(|of_boot| of_boot.kernel == kernel)?;
        let verdict = self.verifiers.get(verifier)?.verdict;
        (verdict != Verdict::Affirmed || since_boot.as_secs() < of_boot.until).then_some(verdict)
    }

    /// Which keys a verifier has, if any.
    pub(crate) fn knows_keys(&mut self, verifier: &str, broker: &str, keys: Option<(u64, u64)>) {
        let standing = self.standing.entry(verifier.to_owned()).or_default();
        broker.clone_into(&mut standing.broker);
        standing.keys_sequence = keys.map(|(sequence, _)| sequence);
        standing.keys_until = keys.map(|(_, not_after)| timestamp(not_after));
    }

    /// A verifier's result came.
    pub(crate) fn judged(&mut self, verifier: &str, said: Said) {
        let standing = self.standing.entry(verifier.to_owned()).or_default();
        (standing.unobjected, standing.last_unobjected, standing.last_unobjected_seconds) = (0, None, 0);
        let until = since_boot().saturating_add(said.lifetime).as_secs();
        standing.of_boot = kernel_id().map(|kernel| OfBoot { kernel, until });
        self.verifiers.insert(verifier.to_owned(), said);
    }

    /// Evidence went out that a verifier answers only where something is wrong with it.
    pub(crate) fn silent(&mut self, verifier: &str) {
        let now = unix_now().as_secs();
        let standing = self.standing.entry(verifier.to_owned()).or_default();
        standing.unobjected = standing.unobjected.saturating_add(1);
        (standing.last_unobjected, standing.last_unobjected_seconds) = (Some(timestamp(now)), now);
    }

    /// Connected to a broker.
    pub(crate) fn connected(&mut self, broker: &str) {
        self.brokers.insert(broker.to_owned(), Connection { connected: true, trouble: None });
        self.trouble = self.brokers.values().find_map(|connection| connection.trouble.clone());
    }

    /// No connection to a broker.
    pub(crate) fn disconnected(&mut self, broker: &str, trouble: String) {
        self.trouble = Some(trouble.clone());
        self.brokers.insert(broker.to_owned(), Connection { connected: false, trouble: Some(trouble) });
    }

    /// Raises an alarm, unless it is up.
    pub(crate) fn alarm(&mut self, what: String) {
        let since = self.alarm.take().map_or_else(|| timestamp(unix_now().as_secs()), |alarm| alarm.since);
        self.alarm = Some(Alarm { since, what });
    }

    /// Evidence could be made.
    pub(crate) fn all_clear(&mut self) {
        self.alarm = None;
    }

    /// The alarm, as it is told.
    pub(crate) fn alarm_text(&self) -> Option<String> {
        self.alarm.as_ref().map(|alarm| format!("since {}: {}", alarm.since, alarm.what))
    }

    /// When the next attestation comes, by this device's clock.
    pub(crate) fn next_check_at(&mut self, at: Option<Duration>) {
        self.next_check = at.map(|at| timestamp(at.as_secs()));
    }

    /// What the file says as it stands at a time: a verdict that has expired is none.
    fn at(mut self, now: u64) -> Self {
        for (name, said) in &mut self.verifiers {
            said.verdict = said.at(now);
            if let Some(standing) = self.standing.get_mut(name) {
                let quiet = standing.last_unobjected_seconds >= said.expires_seconds;
                standing.quiet_since = quiet.then(|| said.expires.clone());
            }
        }
        self
    }

    /// For people.
    fn lines(&self) -> String {
        let mut text = format!("device {}\n", self.device);
        if let Some(alarm) = self.alarm_text() {
            text.push_str(&format!("ALARM {}\n", shown(&alarm)));
        }
        for (name, said) in &self.verifiers {
            text.push_str(&said.lines(name));
        }
        for (name, standing) in &self.standing {
            text.push_str(&standing.lines(name));
        }
        for (name, Refusal { code, .. }) in &self.refusals {
            text.push_str(&format!("{name}: does not enrol this device: {}\n", shown(code)));
        }
        let next = self.next_check.as_deref().unwrap_or("unknown");
        text.push_str(&format!("next check before {next}, {} waiting for a result\n", self.backlog));
        for (place, connection) in &self.brokers {
            text.push_str(&match (connection.connected, &connection.trouble) {
                (true, _) => format!("connected to {place}\n"),
                (false, Some(trouble)) => format!("not connected: {}\n", shown(trouble)),
                (false, None) => format!("not connected to {place}\n"),
            });
        }
        text
    }

    /// As it was kept.
    pub(crate) fn load(state: &StateDir) -> Result<Self> {
        Ok(state.read_json(FILE)?.unwrap_or_default())
    }

    /// Keeps it; what changed times alone with what comes later. A status that cannot be written keeps nobody from
    /// attesting.
    pub(crate) fn keep(&mut self, state: &StateDir, now: Instant) {
        let lasting = self.lasting();
        let together = |at: Instant| now.saturating_duration_since(at) < TIMES_TOGETHER;
        if self.written.as_ref().is_some_and(|(written, at)| *written == lasting && together(*at)) {
            return;
        }
        match state.write_json(FILE, self) {
            Ok(()) => self.written = Some((lasting, now)),
            Err(error) => tracing::warn!("{}", told(&error)),
        }
    }

    /// Keeps it as it is at the end of the program.
    pub(crate) fn keep_at_last(&mut self, state: &StateDir, now: Instant) {
        self.written = None;
        self.keep(state, now);
    }

    /// Digest of what it says but for times that move on by themselves.
    fn lasting(&self) -> [u8; 32] {
        let standing: Vec<_> = self
            .standing
            .iter()
            .map(|(name, standing)| {
                let Standing { broker, keys_sequence, keys_until, unobjected, last_unobjected_seconds: last, .. } =
                    standing;
                let quiet = self.verifiers.get(name).is_some_and(|said| *last >= said.expires_seconds);
                (name, broker, keys_sequence, keys_until, *unobjected > 0, quiet)
            })
            .collect();
        let parts = (&self.device, &self.trouble, self.backlog, &self.verifiers, standing, &self.brokers, &self.alarm);
        sha256(&serde_json::to_vec(&parts).unwrap_or_default())
    }
}

/// `attester status`.
pub(crate) fn print(state: &StateDir, json: bool, output: &mut Output) -> Result<()> {
    let status = Status::load(state)?.at(unix_now().as_secs());
    let running = crate::service::is_running(state);
    if json {
        return output.json(&Shown { running, status: &status });
    }
    if status.device.is_empty() && status.refusals.is_empty() {
        return output.text("never attested: start `attester run`, or try `attester once`\n");
    }
    let rest = if running { "" } else { "no service runs: all this is as it was left\n" };
    output.text(&format!("{}{rest}", status.lines()))
}

/// What is printed with `--json`: the file, and whether somebody keeps it up to date.
#[derive(Serialize)]
struct Shown<'a> {
    running: bool,
    #[serde(flatten)]
    status: &'a Status,
}

impl Standing {
    fn lines(&self, verifier: &str) -> String {
        let mut text = String::new();
        if self.keys_sequence.is_none() {
            text.push_str(&format!("{verifier}: its keys have not come: nothing that it says counts\n"));
        }
        if let (Some(since), Some(last)) = (&self.quiet_since, &self.last_unobjected) {
            text.push_str(&format!(
                "{verifier}: quiet since {since}: {} pieces of evidence drew no objection, the last at {last}\n",
                self.unobjected
            ));
        }
        text
    }
}

/// Time since the kernel started, that asleep too.
pub(crate) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::from_secs(now.tv_sec.try_into().unwrap_or_default())
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
            vouched: vec![],
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

    fn status() -> Status {
        let mut status = Status::default();
        status.begin("d", |_| true, ["b:1"].into_iter());
        status.knows_keys("v1", "b:1", Some((1_795_000_000, 1_803_000_000)));
        status.judged("v1", Said::from_result(&result()));
        status
    }

    #[test]
    fn what_changes_nothing_but_times_is_written_once_in_a_while_and_all_else_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let writes = |status: &mut Status, now: Instant| {
            std::fs::remove_file(state.path(FILE)).ok();
            status.keep(&state, now);
            state.path(FILE).exists()
        };
        let (mut status, begin) = (status(), Instant::now());
        status.silent("v1");
        assert!(writes(&mut status, begin));
        for second in 1..TIMES_TOGETHER.as_secs() {
            status.silent("v1");
            status.next_check_at(Some(Duration::from_secs(second)));
            assert!(!writes(&mut status, begin + Duration::from_secs(second)), "an epoch of a second");
        }
        assert!(writes(&mut status, begin + TIMES_TOGETHER));
        let now = begin + TIMES_TOGETHER;
        status.disconnected("b:1", "why".to_owned());
        assert!(writes(&mut status, now) && !writes(&mut status, now));
        status.connected("b:1");
        assert!(writes(&mut status, now) && !writes(&mut status, now));
        status.judged("v1", Said::from_result(&AttestationResult { expires: 1, ..result() }));
        status.standing.get_mut("v1").unwrap().unobjected = 1;
        assert!(writes(&mut status, now));
        status.silent("v1");
        assert!(writes(&mut status, now) && !writes(&mut status, now), "silence now stands in for an ended verdict");
        status.keep_at_last(&state, now);
        assert!(state.path(FILE).exists());
    }

    #[test]
    fn silence_after_a_verdicts_end_is_told_and_a_result_ends_it() {
        let mut quiet = status();
        let standing = quiet.standing.get_mut("v1").unwrap();
        (standing.unobjected, standing.last_unobjected_seconds) = (3, 1_795_003_700);
        standing.last_unobjected = Some(timestamp(1_795_003_700));
        let quiet = quiet.at(1_795_004_000);
        let since = quiet.standing["v1"].quiet_since.as_deref();
        assert_eq!(since, Some("2026-11-18T12:06:40Z"));
        assert!(quiet.lines().contains("quiet since 2026-11-18T12:06:40Z: 3 pieces"), "{}", quiet.lines());
        let mut judged = quiet;
        judged.judged("v1", Said::from_result(&result()));
        assert_eq!(judged.at(1_795_004_000).standing["v1"].quiet_since, None);
    }

    #[test]
    fn an_alarm_keeps_its_beginning_until_evidence_is_made_again() {
        let mut status = status();
        status.alarm("the TPM fails".to_owned());
        status.alarm.as_mut().unwrap().since = "then".to_owned();
        status.alarm("the TPM still fails".to_owned());
        assert!(status.lines().contains("ALARM since then: the TPM still fails"), "{}", status.lines());
        status.all_clear();
        assert!(!status.lines().contains("ALARM"));
    }

    #[test]
    fn keys_that_never_came_and_each_broker_are_told() {
        let mut status = status();
        status.begin("d", |_| true, ["b:1", "c:1"].into_iter());
        status.knows_keys("v2", "c:1", None);
        status.connected("b:1");
        status.disconnected("c:1", "no broker answers at c:1".to_owned());
        let lines = status.lines();
        for expected in ["v2: its keys have not come", "connected to b:1", "not connected: no broker answers at c:1"] {
            assert!(lines.contains(expected), "{lines}");
        }
        assert!(!lines.contains("v1: its keys"), "{lines}");
        assert_eq!(status.trouble.as_deref(), Some("no broker answers at c:1"));
        status.connected("c:1");
        assert_eq!(status.trouble, None);
    }

    const KERNEL: &str = "01234567-89ab-cdef-0123-456789abcdef";

    /// A verdict that came in the boot of a kernel, and expires 100 s after that started.
    fn judged_in(kernel: &str, tier: Tier) -> Status {
        let mut status = status();
        status.judged("v1", Said::from_result(&AttestationResult { status: tier, ..result() }));
        status.begin_in_boot(1);
        let standing = status.standing.get_mut("v1").unwrap();
        standing.of_boot = Some(OfBoot { kernel: kernel.to_owned(), until: 100 });
        status
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_affirmation_counts_in_its_boot_until_it_expires() {
        let status = judged_in(KERNEL, Tier::Affirming);
        assert_eq!(status.said_in(KERNEL, "v1", at(99)), Some(Verdict::Affirmed));
        assert_eq!(status.said_in(KERNEL, "v1", at(100)), None);
        assert_eq!(status.said_in("another", "v1", at(99)), None);
        assert_eq!(status.said_in(KERNEL, "v2", at(99)), None);
    }

    #[test]
    fn what_is_not_affirmed_is_not_forgotten_in_this_boot() {
        let status = judged_in(KERNEL, Tier::Contraindicated);
        assert_eq!(status.said_in(KERNEL, "v1", at(1_000_000)), Some(Verdict::Contraindicated));
        assert_eq!(status.said_in("another", "v1", at(1)), None);
    }

    #[test]
    fn a_verdict_is_of_the_boot_in_which_it_came_and_holds_for_as_long_as_its_verifier_says() {
        let status = status();
        let kernel = kernel_id().unwrap();
        let lifetime = Duration::from_secs(3600);
        assert_eq!(status.said_in(&kernel, "v1", since_boot()), Some(Verdict::Contraindicated));
        let until = status.standing["v1"].of_boot.as_ref().unwrap().until;
        let longest = (since_boot() + lifetime).as_secs();
        assert!((longest - 60..=longest).contains(&until));
    }

    #[test]
    fn a_tpm_that_was_reset_ends_the_boot_of_a_verdict() {
        let mut status = judged_in(KERNEL, Tier::Affirming);
        status.begin_in_boot(1);
        assert_eq!(status.said_in(KERNEL, "v1", at(1)), Some(Verdict::Affirmed), "the service began anew");
        status.begin_in_boot(2);
        assert_eq!(status.said_in(KERNEL, "v1", at(1)), None);
    }

    #[test]
    fn a_refused_enrolment_stands_until_the_device_is_enrolled() {
        let (mut status, kernel) = (Status::default(), kernel_id().unwrap());
        assert!(status.refused("v1", "identity.not-approved") && !status.refused("v1", "identity.not-approved"));
        assert_eq!(status.said_in(&kernel, "v1", at(1)), Some(Verdict::Unknown));
        assert!(status.refused("v1", REVOKED));
        assert_eq!(status.said_in(&kernel, "v1", at(1)), Some(Verdict::Contraindicated));
        assert!(status.lines().contains("v1: does not enrol this device: identity.revoked"), "{}", status.lines());
        assert_eq!(status.said_in("another", "v1", at(1)), None);
        status.begin("d", |_| true, ["b:1"].into_iter());
        assert_eq!(status.said_in(&kernel, "v1", at(1)), None);
    }

    #[test]
    fn a_file_of_before_is_read() {
        let old = r#"{"device":"d","trouble":null,"next_check":null,"backlog":0,"verifiers":{}}"#;
        assert_eq!(serde_json::from_str::<Status>(old).unwrap().device, "d");
    }
}
