//! A verifier's judgement without its service: challenge, verify, appraise, remember. For adversaries and benchmarks.

use appraisal::{
    Accepts, Appraisal, ChallengeKey, DeviceState, EkClass, Epochs, Files, Fresh, Input, MeasuredFile, Policy, Stale,
    Standing,
};
use evidence::{
    Malformed, Refused,
    claims::{LogKind, Nonce},
    envelope::{Authentic, DeviceKeys, Envelope},
    verifier_message::VerifierKeyId,
};
use reference_values::{
    BootPcrs, Executable, ReferenceIndex, Release, Required, Role, SignedDocument, SigningKey, Trust, TrustedSigner,
};
use ring::rand::SystemRandom;

/// When everything here is judged.
const NOW: u64 = 1_800_000_000;

/// Product that the releases of tests are for.
pub const PRODUCT: &str = "acme/router";

/// Why a message was not judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotJudged {
    /// Cannot be read.
    Malformed(Malformed),
    /// A check does not hold.
    Refused(Refused),
    /// Not fresh.
    Stale(Stale),
}

/// One verifier with one device.
pub struct Judge {
    /// Its secret for challenges.
    pub challenges: ChallengeKey,
    /// Its key.
    pub verifier: VerifierKeyId,
    /// What it has registered.
    pub keys: DeviceKeys,
    /// What it knows of the device beside evidence.
    pub standing: Standing,
    /// What the last evidence left behind.
    pub state: Option<DeviceState>,
    /// Files of this boot.
    pub files: Vec<MeasuredFile>,
    /// Its boot log.
    pub boot_log: Option<Vec<u8>>,
    /// Signed reference values.
    pub references: ReferenceIndex,
    /// Its policy.
    pub policy: Policy,
    /// Epochs that it accepts.
    pub epochs: Epochs,
    /// Nonces from before this are void, whatever the state says.
    pub since: u64,
    /// Its clock.
    pub now: u64,
    /// Since when its clock has run without being set.
    pub steady_since: u64,
    drawn: u64,
}

impl Judge {
    /// A verifier that has enrolled the device with a hardware TPM, and approved it into [`PRODUCT`].
    #[must_use]
    pub fn new(keys: DeviceKeys, references: ReferenceIndex) -> Self {
        Self {
            challenges: ChallengeKey::new(&[42; 32]),
            verifier: VerifierKeyId([1; 32]),
            keys,
            standing: Standing { ek_class: EkClass::Hardware, product: Some(PRODUCT.into()), ..Standing::default() },
            epochs: Epochs::default(),
            since: 0,
            state: None,
            files: Vec::new(),
            boot_log: None,
            references,
            policy: host_policy(),
            now: NOW,
            steady_since: 0,
            drawn: 0,
        }
    }

    /// A challenge for the device.
    pub fn challenge(&mut self) -> Nonce {
        self.issue(None)
    }

    /// A challenge whose answer may show counters that went backward since the last evidence.
    pub fn challenge_after_last(&mut self) -> Nonce {
        let last = self.state.as_ref().map(|state| state.last.evidence);
        self.issue(last.as_ref())
    }

    fn issue(&mut self, after: Option<&[u8; 32]>) -> Nonce {
        self.drawn += 1;
        self.challenges.issue(&self.verifier, &self.keys.device, after, self.drawn.to_be_bytes(), self.now)
    }

    /// Bytes to appraisal, without remembering it.
    ///
    /// # Errors
    /// [`NotJudged`] says at which step.
    pub fn appraise(&self, message: &[u8]) -> Result<Appraisal, NotJudged> {
        self.appraise_by(&self.references, message)
    }

    /// The same, by other reference values.
    ///
    /// # Errors
    /// [`NotJudged`] says at which step.
    pub fn appraise_by(&self, references: &ReferenceIndex, message: &[u8]) -> Result<Appraisal, NotJudged> {
        let authentic = self.authentic(message)?;
        let last = self.state.as_ref().map(|state| &state.last);
        let accepts = Accepts {
            key: &self.challenges,
            verifier: &self.verifier,
            epochs: &self.epochs,
            last,
            since: self.since,
            cleared: self.state.as_ref().map_or(0, |state| state.since),
            now: self.now,
        };
        let fresh = Fresh::check(authentic, &accepts).map_err(NotJudged::Stale)?;
        let asks_for_log = self.state.as_ref().is_some_and(|state| state.asks_for_boot_log(references, &self.standing));
        let changed = self.state.as_ref().is_some_and(|state| state.asks_for_files(references, &self.standing));
        Ok(appraisal::appraise(Input {
            evidence: &fresh,
            standing: &self.standing,
            state: self.state.as_ref(),
            files: if changed { Files::All(&self.files) } else { Files::Unchanged },
            boot_log: self.boot_log.as_deref().filter(|_| asks_for_log),
            references,
            policy: &self.policy,
            now: self.now,
            steady_since: self.steady_since,
        }))
    }

    fn authentic(&self, message: &[u8]) -> Result<Authentic, NotJudged> {
        let envelope = Envelope::decode(message).map_err(NotJudged::Malformed)?;
        envelope.verify(&self.keys).map_err(NotJudged::Refused)
    }

    /// Appraises and remembers.
    ///
    /// # Errors
    /// [`NotJudged`] says at which step; nothing is remembered then.
    pub fn take(&mut self, message: &[u8]) -> Result<Appraisal, NotJudged> {
        let appraisal = self.appraise(message)?;
        if appraisal.new_boot {
            self.files.clear();
            self.boot_log = None;
        }
        if appraisal.new_boot_log {
            let authentic = self.authentic(message)?;
            self.boot_log = authentic.attachment(LogKind::Boot).map(|log| log.bytes.clone());
        }
        self.files.extend(appraisal.new_files.iter().cloned());
        self.state = Some(appraisal.state.clone());
        Ok(appraisal)
    }
}

/// What a device on one host cannot have: the policy of tests and of the demo.
///
/// # Panics
/// Never: the text is fixed.
#[must_use]
pub fn host_policy() -> Policy {
    let tolerate = |cause: &str| format!("[[tolerate]]\ncause = \"{cause}\"\nwhy = \"one host\"\nuntil = 2100-01-01\n");
    let causes = ["runtime.unanchored", "boot.unprotected", "hardware.software-tpm"];
    Policy::from_toml(&causes.map(tolerate).concat()).expect("a policy")
}

/// Signed reference values of one release: `executables` by digest, and one boot.
///
/// # Panics
/// Where the system has no randomness.
#[must_use]
pub fn references(release: &str, executables: &[(&str, [u8; 32])], boot: &[(u8, [u8; 32])]) -> ReferenceIndex {
    index(vec![signed(release, executables, boot)])
}

/// One signed release with the trust that its signer has.
#[must_use]
pub fn signed(release: &str, executables: &[(&str, [u8; 32])], boot: &[(u8, [u8; 32])]) -> (SignedDocument, Trust) {
    let executables =
        executables.iter().map(|(path, digest)| Executable { digest: *digest, path: (*path).to_owned() }).collect();
    let boots =
        if boot.is_empty() { vec![] } else { vec![BootPcrs::new(boot.iter().copied().collect()).expect("PCRs")] };
    sign(Release::new(PRODUCT, release, 1, executables, boots).expect("a release"))
}

/// A release, signed by its manufacturer.
///
/// # Panics
/// Where the system has no randomness.
#[must_use]
pub fn sign(release: impl Into<reference_values::Document>) -> (SignedDocument, Trust) {
    let random = SystemRandom::new();
    let key = SigningKey::from_pem(&SigningKey::generate(&random).expect("randomness")).expect("own key");
    let signed = SignedDocument::unsigned(release).sign(&key, Role::Manufacturer, &random).expect("signs");
    let mut trust = Trust::default();
    trust
        .add(TrustedSigner {
            name: "ACME".into(),
            role: Role::Manufacturer,
            key: key.public().clone(),
            products: vec!["*".into()],
            not_after: None,
        })
        .expect("one signer");
    (signed, trust)
}

/// Verified and compiled.
#[must_use]
pub fn index(releases: Vec<(SignedDocument, Trust)>) -> ReferenceIndex {
    let verified = releases.into_iter().map(|(signed, trust)| signed.verify(&trust, NOW).expect("trusted"));
    ReferenceIndex::build(verified.collect(), &Required::default(), NOW).expect("an index").index
}
