//! A device whose attestation key is software: evidence byte for byte in the form that a TPM gives it, without a TPM.
//! It can lie in ways that no TPM can, which is what adversaries and benchmarks need.

use evidence::{
    claims::{AttesterClaim, Claims, Committed, DeviceId, LogClaim, LogKind, Nonce, Nonces, PROFILE, QuoteClaim, Why},
    envelope::{DeviceKeys, Unsigned},
    eventlog::EventLog,
    pcr::{HashAlgorithm, PcrValues, extend_sha256, sha256},
    runtime_log::{self, Entry, Flags, Kind},
    tpm::{AkPublic, Counters, P256Point, tpm2b},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};

/// What goes out with the next evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// Nothing: steady state.
    Nothing,
    /// PCR values, the boot log, the runtime log from this entry on, and IMA's list from [`SoftwareDevice::ima_from`] on.
    LogsFrom(u64),
    /// The same, with so many entries of the runtime log and no more.
    Piece {
        /// The first of them.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// A log that a lying device attaches in the place of its own.
pub type Forgery<'a> = &'a dyn Fn(LogKind, Vec<u8>) -> Vec<u8>;

/// See the module.
pub struct SoftwareDevice {
    key: EcdsaKeyPair,
    random: SystemRandom,
    /// Keys as a verifier would have registered them.
    pub keys: DeviceKeys,
    /// TPM's counters; each quote advances the clock.
    pub counters: Counters,
    /// SHA-256 PCR 0–15.
    pub pcrs: [[u8; 32]; 16],
    /// TCG event log, where it has one.
    pub boot_log: Option<Vec<u8>>,
    runtime: Vec<Vec<u8>>,
    ima: Vec<Vec<u8>>,
    /// First entry of IMA's list that is attached.
    pub ima_from: usize,
    /// PCR selection of the quote: bits of SHA-256 PCRs. Anything but the profile's is a lie.
    pub quoted_pcrs: u32,
    /// Where the quote says that its key hangs. Anything but a primary of the endorsement hierarchy is a lie.
    pub qualified_signer: [u8; 34],
    /// Why it says it attests.
    pub why: Why,
    /// Whether the quote says that the TPM's clock was shut down in an orderly way.
    pub safe: bool,
    /// Firmware version that the quote states.
    pub firmware: u64,
}

impl SoftwareDevice {
    /// A device with a key of its own, just booted, its id drawn from that key.
    ///
    /// # Panics
    /// Where the system has no randomness.
    #[must_use]
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("randomness");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).expect("own key");
        let point = key.public_key().as_ref();
        let half = |range: std::ops::Range<usize>| point[range].try_into().expect("P-256 point");
        let ak = AkPublic::from_point(P256Point { x: half(1..33), y: half(33..65) });
        Self {
            keys: DeviceKeys { device: DeviceId(sha256(point)), ak },
            key,
            random,
            counters: Counters { reset: 1, restart: 0, clock: 1000 },
            pcrs: [[0; 32]; 16],
            boot_log: None,
            runtime: Vec::new(),
            ima: Vec::new(),
            ima_from: 0,
            quoted_pcrs: 0xFFFF,
            qualified_signer: ak.qualified_name(),
            why: Why::Request,
            safe: true,
            firmware: 0x2019_1023_0016_3636,
        }
    }

    /// Reboots, which is a TPM Reset: counters go on, PCRs and logs begin anew.
    pub fn reboot(&mut self) {
        self.counters.reset += 1;
        self.counters.restart = 0;
        self.begin_anew();
    }

    /// Reboots after TPM2_Shutdown(STATE), which is a TPM Restart: PCRs and logs begin anew under the same resetCount.
    pub fn restart(&mut self) {
        self.counters.restart += 1;
        self.begin_anew();
    }

    /// Sleeps and wakes, which is a TPM Resume: PCRs and logs go on.
    pub fn resume(&mut self) {
        self.counters.restart += 1;
    }

    /// What TPM2_Clear does to the counters; the attestation key is the same after it.
    pub fn clear(&mut self) {
        self.counters = Counters { reset: 0, restart: 0, clock: 0 };
    }

    fn begin_anew(&mut self) {
        self.pcrs = [[0; 32]; 16];
        self.runtime.clear();
        self.ima.clear();
        self.ima_from = 0;
    }

    /// Starts another kernel without a boot: IMA's list begins anew, and no PCR does.
    pub fn kexec(&mut self) {
        self.ima.clear();
        self.ima_from = 0;
    }

    /// Loses the runtime log, which begins anew from where its PCR is.
    pub fn lose_runtime_log(&mut self) {
        self.runtime.clear();
    }

    /// Boots as this log says: PCRs as it leads to.
    ///
    /// # Panics
    /// For a log that cannot be read.
    pub fn boots_by(&mut self, log: &[u8]) {
        let replay = EventLog::read(log).expect("a log").replay(Some(HashAlgorithm::Sha256)).expect("a whole log");
        for (value, pcr) in self.pcrs.iter_mut().zip(0..) {
            *value = replay.sha256(pcr).unwrap_or_default();
        }
        self.boot_log = Some(log.to_vec());
    }

    /// Time passes, for the TPM's clock too.
    pub fn pass(&mut self, seconds: u64) {
        self.counters.clock += seconds * 1000;
    }

    /// Runs a program: log first, then PCR.
    pub fn run(&mut self, path: &str, digest: [u8; 32]) {
        self.record(&Entry {
            kind: Kind::Executable,
            digest,
            size: 4096,
            device: 1,
            inode: 7,
            flags: Flags::SWEEP,
            start_time: 1,
            path: path.as_bytes(),
        });
    }

    /// Appends any entry to the runtime log, and extends PCR 14.
    pub fn record(&mut self, entry: &Entry<'_>) {
        let index = self.runtime.len() as u64;
        self.runtime.push(entry.encode(runtime_log::DEFAULT_PCR, index));
        self.pcrs[14] = extend_sha256(&self.pcrs[14], &entry.template_digest(index));
    }

    /// Runs a program under the kernel's IMA: appends an `ima-ng` entry to its list, and extends PCR 10.
    pub fn measure(&mut self, path: &str, digest: [u8; 32]) {
        self.measure_as("sha256", path, &digest);
    }

    /// The same with a digest of another algorithm.
    pub fn measure_as(&mut self, algorithm: &str, path: &str, digest: &[u8]) {
        let field = |content: &[u8]| [&(content.len() as u32).to_le_bytes()[..], content].concat();
        let digest = [algorithm.as_bytes(), b":\0", digest].concat();
        let data = [field(&digest), field(&[path.as_bytes(), b"\0"].concat())].concat();
        let sha1 = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &data);
        self.ima.push([&10_u32.to_le_bytes()[..], sha1.as_ref(), &field(b"ima-ng"), &field(&data)].concat());
        self.pcrs[10] = extend_sha256(&self.pcrs[10], &sha256(&data));
    }

    /// Entries in the runtime log.
    #[must_use]
    pub fn runtime_entries(&self) -> u64 {
        self.runtime.len() as u64
    }

    /// ES256 by the attestation key: over anything, as no TPM would.
    ///
    /// # Panics
    /// Where the system has no randomness.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(&self.random, message).expect("randomness").as_ref().try_into().expect("64 bytes")
    }

    /// Honest evidence.
    #[must_use]
    pub fn attest(&mut self, nonces: &[Nonce], attach: Attach) -> Vec<u8> {
        self.attest_with(nonces, attach, &|_, bytes| bytes)
    }

    /// Evidence with the logs changed by `forge` before they are signed for.
    #[must_use]
    pub fn attest_with(&mut self, nonces: &[Nonce], attach: Attach, forge: Forgery<'_>) -> Vec<u8> {
        let committed = self.committed(nonces);
        let quote = self.quote(&committed.extra_data());
        let (logs, attachments) = self.attachments(attach, forge);
        self.seal(&Claims { committed, quote, logs }, attachments)
    }

    /// Claims beside quote and logs.
    ///
    /// # Panics
    /// For no nonce or more than eight.
    #[must_use]
    pub fn committed(&self, nonces: &[Nonce]) -> Committed {
        Committed {
            nonces: Nonces::new(nonces.to_vec()).expect("1 to 8 nonces"),
            device: self.keys.device,
            profile: PROFILE.to_owned(),
            attester: AttesterClaim { why: self.why, sources: vec!["sweep".into()], version: "0.1.0".into() },
        }
    }

    /// A quote as a TPM makes it, over the present PCRs, one millisecond later than the one before.
    #[must_use]
    pub fn quote(&mut self, extra_data: &[u8; 32]) -> QuoteClaim {
        self.counters.clock += 1;
        let attest = self.attest_structure(extra_data);
        QuoteClaim { signature: self.sign(&attest), attest }
    }

    /// TPMS_ATTEST (TPM 2.0 Part 2 §10.12.12).
    fn attest_structure(&self, extra_data: &[u8; 32]) -> Vec<u8> {
        let selected: Vec<u8> = (0..16).filter(|i| self.quoted_pcrs >> i & 1 == 1).flat_map(|i| self.pcrs[i]).collect();
        let mut out = evidence::tpm::GENERATED.to_be_bytes().to_vec();
        out.extend(evidence::tpm::ST_ATTEST_QUOTE.to_be_bytes());
        out.extend(tpm2b(&self.qualified_signer));
        out.extend(tpm2b(extra_data));
        out.extend(self.counters.clock.to_be_bytes());
        out.extend(self.counters.reset.to_be_bytes());
        out.extend(self.counters.restart.to_be_bytes());
        out.push(u8::from(self.safe));
        out.extend(self.firmware.to_be_bytes());
        out.extend(1_u32.to_be_bytes());
        out.extend([0, 0x0B, 3]);
        out.extend(&self.quoted_pcrs.to_le_bytes()[..3]);
        out.extend(tpm2b(&sha256(&selected)));
        out
    }

    fn attachments(&self, attach: Attach, forge: Forgery<'_>) -> (Vec<LogClaim>, Vec<Vec<u8>>) {
        let (first, count) = match attach {
            Attach::Nothing => return (Vec::new(), Vec::new()),
            Attach::LogsFrom(first) => (first, u64::MAX),
            Attach::Piece { first, count } => (first, count),
        };
        let at = |entry: u64| usize::try_from(entry).unwrap_or(usize::MAX).min(self.runtime.len());
        let runtime = &self.runtime[at(first)..at(first.saturating_add(count))];
        let ima = &self.ima[self.ima_from.min(self.ima.len())..];
        let mut logs = vec![(LogKind::PcrValues, 0, 16, PcrValues::new(self.pcrs).to_bytes())];
        if let Some(log) = &self.boot_log {
            logs.insert(0, (LogKind::Boot, 0, 1, log.clone()));
        }
        if !runtime.is_empty() {
            logs.push((LogKind::Runtime, first, runtime.len() as u64, runtime.concat()));
        }
        if !ima.is_empty() {
            logs.push((LogKind::Ima, self.ima_from as u64, ima.len() as u64, ima.concat()));
        }
        logs.into_iter()
            .map(|(kind, first, count, bytes)| {
                let bytes = forge(kind, bytes);
                (LogClaim { kind, first, count, digest: sha256(&bytes) }, bytes)
            })
            .unzip()
    }

    /// Envelope around any claims, signed by the attestation key.
    ///
    /// # Panics
    /// Where the claims are too long to sign.
    #[must_use]
    pub fn seal(&self, claims: &Claims, attachments: Vec<Vec<u8>>) -> Vec<u8> {
        let unsigned = Unsigned::new(&self.keys.ak, claims, attachments).expect("claims fit");
        let signature = self.sign(unsigned.to_be_signed());
        unsigned.sign(&signature).message
    }
}

impl Default for SoftwareDevice {
    fn default() -> Self {
        Self::new()
    }
}
