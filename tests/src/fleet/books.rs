//! What a device sent and got, kept by the device itself: to be compared with what the verifier says.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use evidence::{
    claims::DeviceId,
    result::{Acknowledged, Tier},
    tpm::Counters,
};
use serde::{Serialize, Serializer};
use tokio::sync::watch;

/// What a nonce was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// A request.
    Request,
    /// The epoch with this number.
    Epoch(u64),
}

/// One evidence message.
#[derive(Debug, Clone, Serialize)]
pub struct SentEvidence {
    /// Digest of it without attachments, as results name it.
    #[serde(serialize_with = "hex")]
    pub digest: [u8; 32],
    /// What its nonce was good for.
    pub basis: Basis,
    /// resetCount, restartCount, clock.
    #[serde(serialize_with = "counters")]
    pub counters: Counters,
    /// Whether logs were attached.
    pub attached: bool,
    /// Entries of the runtime log at that time.
    pub entries: u64,
    /// Length of the message.
    pub bytes: usize,
}

/// One result.
#[derive(Debug, Clone, Serialize)]
pub struct Received {
    /// The evidence that it judges.
    #[serde(serialize_with = "hex")]
    pub evidence: [u8; 32],
    /// SHA-256 of the whole signed result.
    #[serde(serialize_with = "hex")]
    pub message: [u8; 32],
    /// Verdict.
    #[serde(serialize_with = "tier")]
    pub verdict: Tier,
    /// Causes, by code.
    pub causes: Vec<String>,
    /// What the verifier holds.
    #[serde(serialize_with = "acknowledged")]
    pub acknowledged: Acknowledged,
    /// When it was issued, by the verifier's clock.
    pub issued: u64,
}

/// Messages of one epoch, or of the time before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Evidence and questions of the device.
    pub up: u32,
    /// What the verifier sent to this device alone.
    pub down: u32,
    /// Payload bytes.
    pub bytes_up: u64,
    /// Payload bytes.
    pub bytes_down: u64,
}

/// The book of one device.
#[derive(Debug, Clone, Serialize)]
pub struct Book {
    /// Whose.
    #[serde(serialize_with = "id")]
    pub device: DeviceId,
    /// In the order of sending.
    pub evidence: Vec<SentEvidence>,
    /// In the order of arrival, also those that no longer answered the evidence sent last.
    pub results: Vec<Received>,
    /// Codes of refusals.
    pub refusals: Vec<String>,
    /// Messages by the number of the newest epoch at the time; 0 before the first.
    pub traffic: BTreeMap<u64, Traffic>,
    /// Number of the newest epoch; 0 before the first.
    pub epoch: u64,
    /// Epochs that it saw open.
    pub epochs: usize,
    /// Whether it asked for a challenge, or sent what must have a result, and has none yet.
    pub awaits_result: bool,
    /// Questions for a challenge.
    pub hellos: u32,
    /// Connections that were subscribed.
    pub connections: u32,
    /// Whether one is, now.
    pub connected: bool,
    /// Programs that run: entries in the runtime log.
    pub entries: u64,
    /// Messages that do not open with the verifier's keys.
    pub not_from_verifier: u32,
    /// Why the last connection ended.
    pub trouble: Option<String>,
}

impl Book {
    /// Whether a result acknowledged all that runs.
    #[must_use]
    pub fn all_acknowledged(&self) -> bool {
        self.results.last().is_some_and(|result| result.acknowledged.runtime == self.entries)
    }

    /// The first evidence for which there are two different results, if any: a repeated answer is the same, byte for byte.
    #[must_use]
    pub fn judged_twice(&self) -> Option<[u8; 32]> {
        let mut results: HashMap<[u8; 32], [u8; 32]> = HashMap::new();
        let differs = |result: &&Received| *results.entry(result.evidence).or_insert(result.message) != result.message;
        self.results.iter().find(differs).map(|result| result.evidence)
    }

    /// Results without the ones that came again.
    pub fn distinct_results(&self) -> impl Iterator<Item = &Received> {
        let mut seen = HashSet::new();
        self.results.iter().filter(move |result| seen.insert(result.message))
    }

    /// The evidence with this digest.
    #[must_use]
    pub fn sent(&self, digest: &[u8; 32]) -> Option<&SentEvidence> {
        self.evidence.iter().rev().find(|evidence| evidence.digest == *digest)
    }

    /// In one line, for errors.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{}: {} evidence, {} results, {} refusals {:?}, {} hellos, epoch {}, {} connections (now {}), {} entries, last result {:?}, {} not from the verifier, trouble {:?}",
            self.device,
            self.evidence.len(),
            self.results.len(),
            self.refusals.len(),
            self.refusals.last(),
            self.hellos,
            self.epoch,
            self.connections,
            if self.connected { "connected" } else { "not connected" },
            self.entries,
            self.results.last(),
            self.not_from_verifier,
            self.trouble,
        )
    }
}

/// A book that a device writes and others read.
#[derive(Clone)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    tell: watch::Sender<u64>,
}

impl Ledger {
    pub(super) fn new(device: DeviceId, tell: watch::Sender<u64>) -> Self {
        let book = Book {
            device,
            evidence: Vec::new(),
            results: Vec::new(),
            refusals: Vec::new(),
            traffic: BTreeMap::new(),
            epoch: 0,
            epochs: 0,
            awaits_result: false,
            hellos: 0,
            connections: 0,
            connected: false,
            entries: 0,
            not_from_verifier: 0,
            trouble: None,
        };
        Self { book: Arc::new(Mutex::new(book)), tell }
    }

    /// Whose.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.read(|book| book.device)
    }

    /// Something about the book.
    pub fn read<T>(&self, about: impl FnOnce(&Book) -> T) -> T {
        about(&self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As it is now.
    #[must_use]
    pub fn copy(&self) -> Book {
        self.read(Book::clone)
    }

    pub(super) fn write(&self, change: impl FnOnce(&mut Book)) {
        change(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner));
        self.tell.send_modify(|changes| *changes += 1);
    }

    /// Counts a message to the verifier.
    pub(super) fn up(&self, bytes: usize, change: impl FnOnce(&mut Book)) {
        self.write(|book| {
            let traffic = book.traffic.entry(book.epoch).or_default();
            (traffic.up, traffic.bytes_up) = (traffic.up + 1, traffic.bytes_up + bytes as u64);
            change(book);
        });
    }

    /// Counts a message from the verifier.
    pub(super) fn down(&self, bytes: usize, change: impl FnOnce(&mut Book)) {
        self.write(|book| {
            let traffic = book.traffic.entry(book.epoch).or_default();
            (traffic.down, traffic.bytes_down) = (traffic.down + 1, traffic.bytes_down + bytes as u64);
            change(book);
        });
    }
}

fn hex<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&data_encoding::HEXLOWER.encode(bytes))
}

fn id<S: Serializer>(id: &DeviceId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn tier<S: Serializer>(tier: &Tier, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(tier.name())
}

fn counters<S: Serializer>(counters: &Counters, serializer: S) -> Result<S::Ok, S::Error> {
    (counters.reset, counters.restart, counters.clock).serialize(serializer)
}

fn acknowledged<S: Serializer>(held: &Acknowledged, serializer: S) -> Result<S::Ok, S::Error> {
    held.serialize(serializer)
}
