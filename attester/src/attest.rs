//! Evidence: in go nonces and what a verifier holds already, out comes one message, quoted and signed by the TPM. What
//! runs is measured first, and log and quote are of one instant.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use attester::{
    boot_log,
    config::Config,
    runtime_log::{Locked, RuntimeLog, RuntimeLogError},
    sweep::{Sweep, Sweeper},
    tpm::{EndorsementKeys, Quote, Tpm, TpmConfig},
};
use evidence::{
    claims::{AttesterClaim, Claims, Committed, DeviceId, LogClaim, LogKind, Nonces, PROFILE, QuoteClaim, Why},
    envelope::Unsigned,
    eventlog::EventLog,
    ima,
    limits::MAX_MESSAGE,
    pcr::{PcrValues, sha256},
    tpm::{AkPublic, Attest},
};

use crate::{
    positions::{Held, Shown},
    told,
};

/// What a message takes beside its attachments: envelope, claims and quote have 500 bytes, eight nonces 240 more, each of
/// four announced logs 60; the rest is for the MQTT packet around it.
const ROOM_FOR_CLAIMS: usize = 2048;
/// How often the quote is made again because another program extended a PCR between quote and reading.
const QUOTE_TRIES: usize = 4;

/// What goes into a message besides the claims.
#[derive(Debug, Clone)]
pub(crate) enum Attach {
    /// Nothing, and nothing is measured: what evidence is like when nothing is new.
    Nothing,
    /// What a verifier does not hold yet, in a message of at most this many bytes.
    Missing(Held, usize),
}

impl Attach {
    /// All logs from their beginning.
    pub(crate) fn everything() -> Self {
        Self::Missing(Held::default(), MAX_MESSAGE)
    }
}

/// A finished message.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    /// Tagged COSE_Sign1.
    pub(crate) message: Vec<u8>,
    /// By which a result names it.
    pub(crate) digest: [u8; 32],
    /// What it shows.
    pub(crate) shown: Shown,
    /// Whether there is more in it than claims and quote.
    pub(crate) attached: bool,
}

/// The device's own side: TPM, logs, and eyes on what runs.
pub(crate) struct Attester {
    tpm: Tpm,
    log: RuntimeLog,
    sweeper: Sweeper,
    endorsement: EndorsementKeys,
    device: DeviceId,
    boot_log: PathBuf,
    ima_log: PathBuf,
    kernel: Option<String>,
}

impl Attester {
    /// Opens TPM and runtime log.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let mut tpm = Tpm::open(&TpmConfig::from(config))?;
        let endorsement = tpm.endorsement_keys()?;
        let device = device_id(&endorsement)?;
        let boot = boot_log::read(&config.boot_log);
        let start = boot_log::runtime_start(boot.bytes(), config.runtime_pcr);
        let log = RuntimeLog::open(&config.state_dir, config.runtime_pcr, start, &mut tpm)?;
        let (boot_log, ima_log) = (config.boot_log.clone(), config.ima_log.clone());
        let kernel = boot_log::kernel_id();
        Ok(Self { tpm, log, sweeper: Sweeper::new()?, endorsement, device, boot_log, ima_log, kernel })
    }

    /// The device's id.
    pub(crate) const fn device(&self) -> DeviceId {
        self.device
    }

    /// Its attestation key.
    pub(crate) const fn ak_public(&self) -> &AkPublic {
        self.tpm.ak_public()
    }

    /// Its endorsement keys.
    pub(crate) const fn endorsement(&self) -> &EndorsementKeys {
        &self.endorsement
    }

    /// Its TPM.
    pub(crate) const fn tpm(&mut self) -> &mut Tpm {
        &mut self.tpm
    }

    /// Looks at what runs, and measures what is new. Says how much that was.
    pub(crate) fn measure(&mut self) -> Result<usize> {
        once_more(|| self.measure_once())
    }

    fn measure_once(&mut self) -> Result<usize> {
        let sweep = self.sweeper.sweep()?;
        let new = self.log.lock(&mut self.tpm)?.measure(&sweep)?;
        report(&sweep, new);
        Ok(new)
    }

    /// Measures, quotes, attaches, signs.
    pub(crate) fn evidence(&mut self, nonces: Nonces, why: Why, attach: &Attach) -> Result<Made> {
        once_more(|| self.evidence_once(nonces.clone(), why, attach))
    }

    fn evidence_once(&mut self, nonces: Nonces, why: Why, attach: &Attach) -> Result<Made> {
        let boot_log = boot_log::read(&self.boot_log);
        let ima_exists = self.ima_log.exists();
        let sources = sources(boot_log.bytes().is_some(), ima_exists);
        let attester = AttesterClaim { why, sources, version: env!("CARGO_PKG_VERSION").to_owned() };
        let committed = Committed { nonces, device: self.device, profile: PROFILE.to_owned(), attester };
        let sweep = match attach {
            Attach::Nothing => None,
            Attach::Missing(..) => Some(self.sweeper.sweep()?),
        };
        let mut locked = self.log.lock(&mut self.tpm)?;
        if let Some(sweep) = &sweep {
            let new = locked.measure(sweep)?;
            report(sweep, new);
        }
        let (quote, pcrs, values) = quote(&mut locked, &committed.extra_data())?;
        let kernel = self.kernel.clone();
        let mut logs = Logs { shown: Shown { pcrs, kernel, ..Shown::default() }, ..Logs::default() };
        if let Attach::Missing(held, max_message) = attach {
            let held = held.in_boot(&quote.counters()?, locked.first_restart(), self.kernel.as_deref());
            logs.room = max_message.saturating_sub(ROOM_FOR_CLAIMS);
            logs.take_all(&held, &locked, &values, boot_log.bytes(), &self.ima_log);
        }
        if let Some(problem) = locked.problem() {
            tracing::warn!("{problem}");
        }
        logs.list.sort_by_key(|(claim, _)| claim.kind);
        let attached = !logs.list.is_empty();
        let (claims, attachments) = logs.list.into_iter().unzip();
        let quote = QuoteClaim { attest: quote.attest, signature: quote.signature };
        let claims = Claims { committed, quote, logs: claims };
        let unsigned = Unsigned::new(&locked.tpm().ak_public().clone(), &claims, attachments)?;
        let signature = locked.tpm().sign(unsigned.to_be_signed())?;
        let signed = unsigned.sign(&signature);
        Ok(Made { message: signed.message, digest: signed.digest, shown: logs.shown, attached })
    }
}

/// Does once more what a TPM interrupted that was started again: the next lock finds out how log and TPM stand, and goes
/// on or begins anew.
fn once_more<T>(mut task: impl FnMut() -> Result<T>) -> Result<T> {
    match task() {
        Err(error) if is_of_a_restart(&error) => {
            tracing::warn!("trying once more: {}", told(&error));
            task()
        }
        done => done,
    }
}

fn is_of_a_restart(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(RuntimeLogError::Restarted | RuntimeLogError::Tpm(_)))
}

/// Short names of what measures here.
fn sources(boot_log: bool, ima: bool) -> Vec<String> {
    let present = [("boot", boot_log), ("ima", ima), ("sweep", true)];
    present.into_iter().filter(|(_, present)| *present).map(|(name, _)| name.to_owned()).collect()
}

fn report(sweep: &Sweep, new: usize) {
    tracing::debug!(processes = sweep.processes, files = sweep.files.len(), new, "measured what runs");
    for file in &sweep.unreadable {
        tracing::debug!("cannot measure {}: {}", String::from_utf8_lossy(&file.path), file.reason);
    }
}

/// A quote, the digest in it, and the values that it is over.
fn quote(locked: &mut Locked<'_>, extra_data: &[u8; 32]) -> Result<(Quote, [u8; 32], PcrValues)> {
    for _ in 0..QUOTE_TRIES {
        let quote = locked.quote(extra_data)?;
        let attest = Attest::read(&quote.attest).context("the TPM's quote does not read")?;
        let digest = attest.profile_pcr_digest().context("the TPM quoted other PCRs than it was asked for")?;
        let values = locked.tpm().pcr_values()?;
        if values.quote_digest() == digest {
            return Ok((quote, digest, values));
        }
    }
    bail!("other programs extend PCRs all the time: no quote could be read back in {QUOTE_TRIES} tries")
}

/// Logs for one message.
#[derive(Default)]
struct Logs {
    list: Vec<(LogClaim, Vec<u8>)>,
    shown: Shown,
    room: usize,
}

impl Logs {
    /// In order of what the rest cannot be judged without.
    fn take_all(
        &mut self,
        held: &Held,
        locked: &Locked<'_>,
        values: &PcrValues,
        boot_log: Option<&[u8]>,
        ima_log: &std::path::Path,
    ) {
        (self.shown.runtime_from, self.shown.ima_from) = (held.runtime, held.ima);
        let unchanged = held.has_pcrs(&self.shown.pcrs);
        if !unchanged {
            self.shown.pcrs_attached = self.attach(LogKind::PcrValues, 0, values.all().len() as u64, values.to_bytes());
        }
        if let Some(bytes) = boot_log {
            self.take_boot_log(held, bytes);
        }
        let (count, bytes) = locked.segment(held.runtime, self.room);
        self.attach(LogKind::Runtime, held.runtime, count, bytes.to_vec());
        // The list is read after the quote: with the PCRs as the verifier knows them, nothing in it is new to it.
        if !unchanged && let Some(list) = boot_log::read(ima_log).bytes() {
            let Segment { first, count, bytes } = ima_segment(list, held.ima, self.room);
            self.shown.ima_from = first;
            self.attach(LogKind::Ima, first, count, bytes.to_vec());
        }
    }

    /// Whole, since a part of it leads to no PCR.
    fn take_boot_log(&mut self, held: &Held, bytes: &[u8]) {
        let digest = sha256(bytes);
        self.shown.boot_log = Some(digest);
        if held.has_boot_log() {
            return;
        }
        let events = EventLog::read(bytes).map_or(0, |log| log.events().count() as u64);
        self.shown.boot_log_attached = self.attach(LogKind::Boot, 0, events, bytes.to_vec());
        if !self.shown.boot_log_attached {
            tracing::warn!("the boot log has {} bytes, more than fits a message: it is left out", bytes.len());
        }
    }

    /// Attaches unless there is nothing, or no room.
    fn attach(&mut self, kind: LogKind, first: u64, count: u64, bytes: Vec<u8>) -> bool {
        if bytes.is_empty() || bytes.len() > self.room {
            return false;
        }
        self.room -= bytes.len();
        self.list.push((LogClaim { kind, first, count, digest: sha256(&bytes) }, bytes));
        true
    }
}

/// Whole entries of an IMA list.
#[derive(Debug, PartialEq, Eq)]
struct Segment<'a> {
    first: u64,
    count: u64,
    bytes: &'a [u8],
}

/// As many whole entries of an IMA list from number `first` on as fit. A list that ends before is another kernel's, and
/// is shown from its beginning.
fn ima_segment(list: &[u8], first: u64, room: usize) -> Segment<'_> {
    let index = usize::try_from(first).unwrap_or(usize::MAX);
    let (mut entries, mut count) = (0, 0);
    let (mut start, mut end) = (0, 0);
    for entry in ima::entries(list).map_while(Result::ok) {
        entries = entry.index + 1;
        if entry.index < index {
            (start, end) = (entry.end, entry.end);
        } else if entry.end - start <= room {
            end = entry.end;
            count += 1;
        } else {
            break;
        }
    }
    if entries < index { ima_segment(list, 0, room) } else { Segment { first, count, bytes: &list[start..end] } }
}

/// SHA-256 of the SubjectPublicKeyInfo of the first EK in the profile's order.
fn device_id(keys: &EndorsementKeys) -> Result<DeviceId> {
    keys.id().map(DeviceId).context("the TPM's first endorsement key is not made from a default template of the TCG")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry of the template `ima-ng` whose digest nobody checks here.
    fn entry(path: &str) -> Vec<u8> {
        let field = |content: &[u8]| [&(content.len() as u32).to_le_bytes()[..], content].concat();
        let data = [field(&[&b"sha256:\0"[..], &[1; 32]].concat()), field(format!("{path}\0").as_bytes())].concat();
        [&10_u32.to_le_bytes()[..], &[2; 20], &field(b"ima-ng"), &field(&data)].concat()
    }

    #[test]
    fn an_ima_segment_has_whole_entries_only_and_ends_where_the_room_does() {
        let (one, two, three) = (entry("/a"), entry("/bb"), entry("/ccc"));
        let list = [one.clone(), two.clone(), three.clone()].concat();
        let segment = |first, count, bytes| Segment { first, count, bytes };
        assert_eq!(ima_segment(&list, 0, list.len()), segment(0, 3, &list[..]));
        assert_eq!(ima_segment(&list, 0, list.len() - 1), segment(0, 2, &list[..one.len() + two.len()]));
        assert_eq!(ima_segment(&list, 1, two.len()), segment(1, 1, &two[..]));
        assert_eq!(ima_segment(&list, 1, two.len() - 1), segment(1, 0, &[][..]));
        assert_eq!(ima_segment(&list, 3, 1000), segment(3, 0, &[][..]));
        // A list that is cut in the middle of an entry, as it may be while the kernel appends.
        assert_eq!(ima_segment(&list[..list.len() - 1], 2, 1000), segment(2, 0, &[][..]));
        assert_eq!(ima_segment(&[], 0, 1000), segment(0, 0, &[][..]));
    }

    #[test]
    fn an_ima_list_that_ends_before_what_is_held_is_shown_from_its_beginning() {
        let list = [entry("/a"), entry("/bb")].concat();
        for held in [3, 1000, u64::MAX] {
            assert_eq!(ima_segment(&list, held, 1000), Segment { first: 0, count: 2, bytes: &list });
        }
    }

    #[test]
    fn what_a_restarted_tpm_interrupted_is_done_once_more_and_nothing_else_is() {
        let tries = |errors: Vec<anyhow::Error>| {
            let (mut errors, mut tries) = (errors.into_iter(), 0);
            let done = once_more(|| {
                tries += 1;
                errors.next().map_or(Ok(()), Err)
            });
            (done.is_ok(), tries)
        };
        let restarted = || RuntimeLogError::Restarted.into();
        assert_eq!(tries(vec![restarted()]), (true, 2));
        assert_eq!(tries(vec![restarted(), restarted()]), (false, 2));
        assert_eq!(
            tries(vec![RuntimeLogError::Locked("lock".into()).into()]),
            (false, 1),
            "it has waited long already"
        );
    }

    #[test]
    fn sources_are_those_that_are_there() {
        assert_eq!(sources(false, false), ["sweep"]);
        assert_eq!(sources(true, true), ["boot", "ima", "sweep"]);
    }
}
