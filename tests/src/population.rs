//! A fleet as rows of a store, without devices: in go how many there are and in how many ways they stand; out come a store
//! that a verifier may have after months, and the signed releases that they run. What each way left behind is judged from
//! real evidence of a device with a key in software.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use appraisal::{Appraisal, EkClass, Standing};
use evidence::{
    claims::DeviceId,
    pcr::sha256,
    result::{AttestationResult, ResultCause},
    tpm::{AkPublic, P256Point},
    verifier_message::Purpose,
};
use reference_values::{
    BootPcrs, Executable, Notice, ReferenceIndex, Release, Revoked, Role, SignedDocument, SigningKey, Trust,
};
use ring::rand::SystemRandom;
use verifier::{
    keys,
    store::{Accepted, Committed, Endorsement, NewRegistration, Store},
};

use crate::{
    judge::Judge,
    software::{Attach, SoftwareDevice},
};

/// Products.
const PRODUCTS: usize = 6;
/// Releases of each.
const RELEASES: usize = 3;
/// Files of a release; a third of them is new in each.
const FILES: usize = 330;
/// Files that run on a device.
const RUNNING: usize = 300;
/// Devices registered at a time, and states in one commit.
const TOGETHER: usize = 64;
const BATCH: usize = 500;

/// See the module.
pub struct Population {
    /// Devices.
    pub devices: usize,
    /// Ways in which they stand.
    pub kinds: usize,
    key: SigningKey,
    now: u64,
}

/// One way.
struct Kind {
    product: String,
    appraisal: Appraisal,
    result: Vec<u8>,
}

impl Population {
    /// Nothing is written yet; `now` is when they last attested.
    ///
    /// # Errors
    /// Where the system has no randomness.
    pub fn new(devices: usize, kinds: usize, now: u64) -> Result<Self> {
        let key = SigningKey::from_pem(&SigningKey::generate(&SystemRandom::new())?)?;
        Ok(Self { devices, kinds, key, now })
    }

    /// Id of a device.
    #[must_use]
    pub fn device(number: usize) -> DeviceId {
        DeviceId(sha256(&(number as u64).to_be_bytes()))
    }

    fn product(number: usize) -> String {
        format!("acme/product-{}", number % PRODUCTS)
    }

    fn trust(&self) -> String {
        format!(
            "[[signer]]\nname = \"ACME\"\nrole = \"manufacturer\"\nproducts = [\"acme/*\"]\nkey = \"\"\"\n{}\"\"\"\n",
            self.key.public().to_pem()
        )
    }

    fn sign(&self, document: impl Into<reference_values::Document>) -> Result<SignedDocument> {
        let random = SystemRandom::new();
        Ok(SignedDocument::unsigned(document).sign(&self.key, Role::Manufacturer, &random)?)
    }

    fn releases(&self) -> Result<Vec<SignedDocument>> {
        let mut releases = Vec::with_capacity(PRODUCTS * RELEASES);
        for product in 0..PRODUCTS {
            for release in 0..RELEASES {
                let executables = (0..FILES).map(|file| executable(product, release, file)).collect();
                let boot = BootPcrs::new([(0, [0; 32])].into())?;
                let name = format!("{}.0", release + 1);
                let sequence = release as u64 + 1;
                releases.push(self.sign(Release::new(
                    &Self::product(product),
                    &name,
                    sequence,
                    executables,
                    vec![boot],
                )?)?);
            }
        }
        Ok(releases)
    }

    /// Writes the releases and who may sign them where a verifier looks for them.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn publish(&self, verifier: &Path) -> Result<()> {
        fs::write(verifier.join("trust/acme.toml"), self.trust())?;
        for (number, release) in self.releases()?.iter().enumerate() {
            fs::write(verifier.join(format!("reference_values/release-{number}.corim")), release.encode())?;
        }
        Ok(())
    }

    /// Writes a notice about the first product there, the `sequence`th: it revokes the second release, or nothing any more.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn revoke(&self, verifier: &Path, sequence: u64, revokes: bool) -> Result<()> {
        let revoked = Revoked { release: "2.0".into(), why: "a hole".into(), advisory: Some("ACME-1".into()) };
        let revoked = if revokes { vec![revoked] } else { vec![] };
        let notice = Notice::new(&Self::product(0), "recall", sequence, None, None, revoked, vec![])?;
        let folder = verifier.join("reference_values");
        let new = folder.join("recall.new");
        fs::write(&new, self.sign(notice)?.encode())?;
        Ok(fs::rename(new, folder.join("recall.corim"))?)
    }

    /// Registers the devices, and writes what their evidence left behind: some were never seen, some have expired, some are
    /// revoked, some run what no release lists.
    ///
    /// # Errors
    /// Where a row is not taken.
    pub fn fill(&self, store: &Store) -> Result<()> {
        let kinds = self.make_kinds()?;
        ensure!(!kinds.is_empty(), "at least one kind");
        let share = self.devices.div_ceil(TOGETHER);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..TOGETHER)
                .map(|thread| {
                    let kinds = &kinds;
                    scope.spawn(move || -> Result<()> {
                        for number in (thread * share)..((thread + 1) * share).min(self.devices) {
                            store.register(registration(number, &kinds[number % kinds.len()].product, self.now))?;
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread failed"))?)
        })?;
        for first in (0..self.devices).step_by(BATCH) {
            let seen = (first..(first + BATCH).min(self.devices)).filter(|number| number % 101 != 0);
            let batch: Vec<Accepted> = seen.map(|number| self.accepted(number, &kinds[number % kinds.len()])).collect();
            let done = store.commit(batch)?;
            ensure!(done.iter().all(|done| *done == Committed::Done), "a row is not taken");
        }
        for number in (7..self.devices).step_by(503) {
            store.revoke(Self::device(number), "stolen", "population", self.now)?;
        }
        Ok(())
    }

    fn accepted(&self, number: usize, kind: &Kind) -> Accepted {
        let registration = registration(number, &kind.product, self.now);
        let mut appraisal = kind.appraisal.clone();
        let state = &mut appraisal.state;
        state.last.evidence = sha256(&[&b"evidence"[..], &(number as u64).to_be_bytes()].concat());
        state.last.counters.clock += number as u64;
        state.judged = self.now - number as u64 % 600;
        state.expires = if number.is_multiple_of(43) { self.now - 1 } else { self.now + 7 * 86400 };
        let posture = appraisal.state.posture(&standing(&kind.product));
        Accepted {
            device: registration.device,
            registered: (*registration.ak.name_digest(), 1),
            expected: None,
            appraisal,
            boot_log: None,
            evidence: vec![0; 500],
            result: kind.result.clone(),
            posture,
        }
    }

    fn make_kinds(&self) -> Result<Vec<Kind>> {
        let mut trust = Trust::default();
        trust.extend(Trust::from_toml(&self.trust())?)?;
        let verified = self.releases()?.into_iter().map(|signed| signed.verify(&trust, self.now));
        let verified = verified.collect::<Result<Vec<_>, _>>()?;
        let built = ReferenceIndex::build(verified, &reference_values::Required::default(), self.now)?;
        let mut judge = Judge::new(SoftwareDevice::new().keys, built.index);
        judge.now = self.now;
        let key = keys::SigningKey::from_pkcs8(&pkcs8()?).context("a key")?;
        (0..self.kinds).map(|kind| self.make_kind(kind, &mut judge, &key)).collect()
    }

    fn make_kind(&self, kind: usize, judge: &mut Judge, key: &keys::SigningKey) -> Result<Kind> {
        let (product, release) = (kind % PRODUCTS, kind / PRODUCTS % RELEASES);
        let mut device = SoftwareDevice::new();
        (judge.keys, judge.state) = (device.keys, None);
        judge.files.clear();
        judge.standing = standing(&Self::product(product));
        for file in (0..FILES).filter(|file| (file * 31 + kind * 17) % FILES < RUNNING) {
            let Executable { digest, path } = executable(product, release, file);
            device.run(&path, digest);
        }
        if kind % 23 == 5 {
            device.run("/tmp/unknown", sha256(&kind.to_be_bytes()));
        }
        let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
        let appraisal = judge.take(&message).map_err(|refused| anyhow::anyhow!("kind {kind}: {refused:?}"))?;
        let state = &appraisal.state;
        let cause = |cause: &appraisal::Cause| ResultCause {
            code: cause.code.row().code.to_owned(),
            detail: cause.detail.clone(),
        };
        let result = AttestationResult {
            issued: state.judged,
            expires: state.expires,
            nonce: judge.challenge(),
            device: device.keys.device,
            developer: "population".into(),
            build: "population".into(),
            evidence: state.last.evidence,
            acknowledged: appraisal.acknowledged,
            status: state.verdict.tier(),
            vector: state.vector,
            policy: judge.policy.id.clone(),
            causes: state.causes.iter().map(cause).collect(),
            tolerated: state.tolerated.iter().map(|code| code.row().code.to_owned()).collect(),
            release: state.product.clone().zip(state.release.clone()),
            vouched: vec![],
        };
        let result = key.seal(Purpose::Result, &result)?;
        Ok(Kind { product: Self::product(product), appraisal, result })
    }
}

fn standing(product: &str) -> Standing {
    Standing { ek_class: EkClass::Hardware, product: Some(product.into()), ..Standing::default() }
}

fn pkcs8() -> Result<Vec<u8>> {
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new());
    Ok(document.map_err(|_| anyhow::anyhow!("no randomness"))?.as_ref().to_vec())
}

/// A file of a release: two of three are those of the release before.
fn executable(product: usize, release: usize, file: usize) -> Executable {
    let edition = if file.is_multiple_of(3) { release } else { 0 };
    let path = format!("/usr/lib/product-{product}/file-{file}");
    Executable { digest: sha256(format!("{path} {edition}").as_bytes()), path }
}

fn registration(number: usize, product: &str, now: u64) -> NewRegistration {
    let device = Population::device(number);
    NewRegistration {
        device,
        ak: AkPublic::from_point(P256Point { x: device.0, y: [7; 32] }),
        eks: vec![device.0],
        ek_class: EkClass::Hardware,
        endorsement: Endorsement::default(),
        uncertified: false,
        manufacturer: "id:00001014".into(),
        product: Some(product.into()),
        generation: 1,
        ak_certificate: Vec::new(),
        now,
    }
}
