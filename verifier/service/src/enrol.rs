//! Enrolment: in goes a stranger's message, out comes the answer to it. Between the messages nothing is kept: what the
//! answer rests on is rebuilt from the message and an hourly secret. Only a proof that one TPM holds all keys presented
//! registers anything.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use appraisal::EkClass;
use evidence::{
    claims::DeviceId,
    enrolment::{Activation, Answer, Credential, Down, Outcome, Presentation, Secret, Transcript, Up},
    topic::{DownTopic, Name},
    tpm::AkPublic,
    verifier_message::Purpose,
};
use ring::hmac;

use crate::{
    certificates::ConnectionKey,
    identity::{DeviceIdentity, EkChain, IdentityError, RootClass, VerifiedEk, check_template, make_credential},
    ingest::Verifier,
    limits::{ENROL_CLIENT_RATE, ENROL_RATE, MAX_RATED_CLIENTS},
    mqtt::Outgoing,
    rate::Limiter,
    store::{NewRegistration, Registered, StoreError},
};

/// What enrolment remembers: rates, and the hourly keys that the store keeps.
#[derive(Debug)]
pub struct Desk {
    by_client: Limiter<String>,
    all: Limiter<()>,
    keys: Mutex<Vec<(u64, hmac::Key)>>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            by_client: Limiter::new(ENROL_CLIENT_RATE, MAX_RATED_CLIENTS),
            all: Limiter::new(ENROL_RATE, 1),
            keys: Mutex::default(),
        }
    }
}

/// A check that did not hold, told to whoever enrols.
#[derive(Debug)]
struct Refusal {
    code: &'static str,
    why: String,
}

impl Refusal {
    fn new(code: &'static str, why: &str) -> Self {
        Self { code, why: why.to_owned() }
    }
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        Self { code: error.code(), why: error.to_string() }
    }
}

/// Ours or theirs: the store's trouble is no reason to refuse a device.
enum Failure {
    Refused(Refusal),
    Store(StoreError),
}

impl<T: Into<Refusal>> From<T> for Failure {
    fn from(refusal: T) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What a presentation shows, before any proof.
struct Presented {
    /// In the order of the leaf certificates.
    eks: Vec<VerifiedEk>,
    identity: DeviceIdentity,
    ak: AkPublic,
    connection: ConnectionKey,
    transcript: Transcript,
}

impl Verifier {
    /// Answers one message from `cs/1/enrol/{client}/up`; `None` where there is nothing to say.
    ///
    /// # Errors
    /// [`StoreError`] where the store failed: the same message may be tried again.
    pub fn enrol(&self, client: &Name, message: &[u8]) -> Result<Option<Outgoing>, StoreError> {
        let now = Instant::now();
        if !self.enrolment.by_client.allows(client.to_string(), now) || !self.enrolment.all.allows((), now) {
            self.metrics.dropped("rate.enrolment");
            return Ok(None);
        }
        let Ok(up) = Up::decode(message) else {
            self.metrics.malformed("enrolment");
            return Ok(None);
        };
        let (nonce, answer) = match &up {
            Up::Present(presentation) => (presentation.client_nonce, self.challenge(presentation)),
            Up::Activate(activation) => (activation.presentation.client_nonce, self.activate(activation)),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Refused(Refusal { code, why })) => {
                self.metrics.enrolment(code);
                self.say(code, || format!("enrolment of client {client} is refused: {why}"));
                Answer::Outcome(Outcome::Refused { code: code.to_owned(), why })
            }
        };
        let topic = DownTopic::Enrol(client.clone(), self.name.clone());
        Ok(self.sealed(Purpose::Enrolment, &topic, &Down { client_nonce: nonce, answer }))
    }

    /// First step: a credential for each endorsement key.
    fn challenge(&self, presentation: &Presentation) -> Result<Answer, Failure> {
        let presented = self.presented(presentation)?;
        self.check_registration(&presented)?;
        let hour = (self.clock)() / 3600;
        let secrets = secrets(&self.enrolment_key(hour)?, &presented);
        let credential = |(ek, secret): (&VerifiedEk, &Secret)| {
            let made = make_credential(ek.key(), &presented.ak.name(), secret.expose())
                .map_err(|error| Refusal::new("identity.ek-certificate", &error.to_string()))?;
            Ok(Credential { id_object: made.id_object, encrypted_secret: made.encrypted_secret })
        };
        let credentials = presented.eks.iter().zip(&secrets).map(credential).collect::<Result<_, Refusal>>()?;
        self.metrics.enrolment("challenged");
        Ok(Answer::Credentials(credentials))
    }

    /// Second step: the proof, and all checks again, for anything may have changed since the first.
    fn activate(&self, activation: &Activation) -> Result<Answer, Failure> {
        let presented = self.presented(&activation.presentation)?;
        let hour = (self.clock)() / 3600;
        let proves = |hour| -> Result<bool, StoreError> {
            let secrets = secrets(&self.enrolment_key(hour)?, &presented);
            Ok(activation.proves(&presented.transcript, &secrets))
        };
        if !proves(hour)? && !proves(hour.saturating_sub(1))? {
            let why = "the proof does not hold: the TPM did not open every credential, or more than an hour went by";
            return Err(Refusal::new("identity.activation", why).into());
        }
        let approved = self.check_registration(&presented)?;
        let device = presented.identity.id();
        let registered = self.store.register(self.new_registration(&presented))?;
        match registered {
            Registered::New | Registered::Same => {}
            Registered::KeyChanged => return Err(key_changed().into()),
            Registered::KeyElsewhere => return Err(key_elsewhere().into()),
        }
        let certificate = match &self.ca {
            None => String::new(),
            Some(ca) => ca.device(&device, &presented.connection, (self.clock)()).map_err(|error| {
                tracing::error!("{device} is registered, but gets no certificate: {error}");
                Refusal::new("internal", "the verifier could not make a certificate; try again later")
            })?,
        };
        let outcome = if registered == Registered::New { "enrolled" } else { "renewed" };
        self.metrics.enrolment(outcome);
        tracing::info!("{outcome}: {device}");
        Ok(Answer::Outcome(Outcome::Enrolled { device, certificate, approved }))
    }

    /// Chains to roots, templates and keys.
    fn presented(&self, presentation: &Presentation) -> Result<Presented, Refusal> {
        let certificates: Vec<&[u8]> = presentation.certificates.iter().map(|der| der.as_slice()).collect();
        let now = jiff::Timestamp::from_second(i64::try_from((self.clock)()).unwrap_or(i64::MAX))
            .map_err(|_| Refusal::new("internal", "the verifier's clock is wrong"))?;
        let eks = EkChain::read(&certificates)?.verify(&self.rules.borrow().roots, now)?;
        if eks.len() != presentation.ek_public.len() {
            return Err(Refusal::new("identity.ek-template", "there is not one public area for each EK certificate"));
        }
        for (ek, public) in eks.iter().zip(&presentation.ek_public) {
            check_template(public, ek)?;
        }
        let ak = AkPublic::read(&presentation.ak_public)
            .map_err(|error| Refusal::new("identity.ak-template", &format!("attestation key: {error}")))?;
        let connection = ConnectionKey::read(&presentation.connection_key).ok_or_else(|| {
            Refusal::new("identity.connection-key", "the connection key is not a P-256 SubjectPublicKeyInfo")
        })?;
        let identity = DeviceIdentity::from_eks(eks.clone())?;
        let transcript = presentation.transcript(self.key.id(), &identity.id());
        Ok(Presented { eks, identity, ak, connection, transcript })
    }

    /// Whether a product is assigned already; refuses who is shut out, or known with another key.
    fn check_registration(&self, presented: &Presented) -> Result<bool, Failure> {
        let Some(known) = self.store.registration(presented.identity.id())? else { return Ok(false) };
        if let Some(why) = &known.revoked {
            return Err(Refusal::new("identity.revoked", &format!("an operator shut this device out: {why}")).into());
        }
        if known.ak != presented.ak {
            return Err(key_changed().into());
        }
        Ok(known.product.is_some())
    }

    fn new_registration(&self, presented: &Presented) -> NewRegistration {
        let identity = &presented.identity;
        let make = identity.eks().iter().find_map(VerifiedEk::make);
        NewRegistration {
            device: identity.id(),
            ak: presented.ak,
            eks: identity.eks().iter().map(|ek| *ek.spki_digest()).collect(),
            ek_class: match identity.class() {
                RootClass::Hardware => EkClass::Hardware,
                RootClass::Software => EkClass::Software,
            },
            manufacturer: make.map(|make| make.manufacturer.clone()).unwrap_or_default(),
            product: None,
            now: (self.clock)(),
        }
    }

    /// The store's key of an hour. It writes where it makes one, so what it said is kept.
    fn enrolment_key(&self, hour: u64) -> Result<hmac::Key, StoreError> {
        let lock = || self.enrolment.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = lock().iter().find(|(of, _)| *of == hour) {
            return Ok(key.clone());
        }
        let secret = self.store.enrolment_key(hour)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*secret);
        let mut keys = lock();
        keys.retain(|(of, _)| of.abs_diff(hour) <= 1);
        keys.push((hour, key.clone()));
        Ok(key)
    }
}

fn secrets(hourly: &hmac::Key, presented: &Presented) -> Vec<Secret> {
    // At most five keys pass an enrolment's limits.
    (0..).zip(&presented.eks).map(|(index, _)| Secret::derive(hourly, &presented.transcript, 1, index)).collect()
}

fn key_changed() -> Refusal {
    let why = "this device is registered with another attestation key; an operator must revoke it and approve it again";
    Refusal::new("identity.key-changed", why)
}

fn key_elsewhere() -> Refusal {
    let why =
        "its attestation key or an endorsement key is registered for another device; an operator must look into it";
    Refusal::new("identity.key-elsewhere", why)
}

/// For messages: which device a topic's id stands for.
#[must_use]
pub fn short(device: &DeviceId) -> String {
    device.to_string().chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc};

    use appraisal::{ChallengeKey, Policy};
    use evidence::{tpm::P256Point, verifier_message::open};
    use rcgen::{KeyPair, PublicKeyData as _};
    use reference_values::ReferenceIndex;
    use tempfile::TempDir;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        certificates::BrokerCa, identity::EkRoots, ingest::Rates, keys::SigningKey, metrics::Metrics,
        references::Rules, store::Store,
    };

    const NOW: u64 = 1_796_083_200;

    fn vector(name: &str) -> Vec<u8> {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/ek").join(name)).unwrap()
    }

    /// A verifier that trusts the CA of the test vectors, and what a device with those EKs presents.
    struct Office {
        verifier: Verifier,
        _dir: TempDir,
    }

    fn office() -> Office {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("software")).unwrap();
        fs::write(dir.path().join("software/issuer.pem"), vector("issuer.pem")).unwrap();
        fs::write(dir.path().join("software/root.pem"), vector("root.pem")).unwrap();
        let rules = Rules {
            references: Arc::new(ReferenceIndex::default()),
            policy: Policy::default(),
            roots: EkRoots::load(dir.path()).unwrap(),
        };
        let verifier = Verifier {
            name: Name::new("v1").unwrap(),
            key: SigningKey::from_pkcs8(&KeyPair::generate().unwrap().serialize_der()).unwrap(),
            challenges: ChallengeKey::new(&[1; 32]),
            store: Store::open(&dir.path().join("store.sqlite")).unwrap(),
            metrics: Arc::new(Metrics::new()),
            rules: watch::Sender::new(Arc::new(rules)).subscribe(),
            ca: Some(BrokerCa::make(NOW).unwrap().0),
            clock: || NOW,
            enrolment: Desk::default(),
            rates: Rates::default(),
            ready: Arc::new(crate::http::Readiness::waiting_for(&[])),
        };
        Office { verifier, _dir: dir }
    }

    fn ak(byte: u8) -> AkPublic {
        AkPublic::from_point(P256Point { x: [byte; 32], y: [byte; 32] })
    }

    fn presentation(ak: &AkPublic) -> Presentation {
        let connection = KeyPair::generate().unwrap().subject_public_key_info();
        let certificates = ["ek-ecc384.crt", "ek-rsa2048.crt"].map(vector).to_vec();
        let publics = ["ek-ecc384.pub", "ek-rsa2048.pub"].map(vector).to_vec();
        Presentation::new([7; 32], certificates, publics, ak.area(), connection)
    }

    impl Office {
        /// Each message from a client of its own, so that rates do not matter.
        fn send(&self, up: &Up) -> Answer {
            let mut random = [0; 8];
            ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random).unwrap();
            let client = Name::new(&data_encoding::HEXLOWER.encode(&random)).unwrap();
            let answer = self.verifier.enrol(&client, &up.encode()).unwrap().expect("an answer");
            assert_eq!(answer.topic, format!("cs/1/enrol/{client}/down/v1"));
            let down: Down = open(Purpose::Enrolment, self.verifier.key.public(), &answer.payload).unwrap();
            assert_eq!(down.client_nonce, [7; 32]);
            down.answer
        }

        fn refusal(&self, up: &Up) -> String {
            match self.send(up) {
                Answer::Outcome(Outcome::Refused { code, .. }) => code,
                other => panic!("not refused: {other:?}"),
            }
        }

        /// Activation as the TPM's owner can make it. The test takes the secrets from the verifier's own keys.
        fn activation(&self, presentation: Presentation, hour: u64) -> Up {
            let Answer::Credentials(credentials) = self.send(&Up::Present(presentation.clone())) else {
                panic!("no credentials")
            };
            let presented = self.verifier.presented(&presentation).unwrap();
            let secrets = secrets(&self.verifier.enrolment_key(hour).unwrap(), &presented);
            Up::Activate(Activation::prove(presentation, credentials, &presented.transcript, &secrets))
        }
    }

    #[test]
    fn who_proves_all_keys_is_registered_once_and_gets_a_certificate() {
        let office = office();
        let activation = office.activation(presentation(&ak(1)), NOW / 3600);
        let Answer::Outcome(Outcome::Enrolled { device, certificate, approved }) = office.send(&activation) else {
            panic!("not enrolled")
        };
        assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----") && !approved);
        let known = office.verifier.store.registration(device).unwrap().unwrap();
        assert_eq!((known.ak, known.eks.len(), known.ek_class), (ak(1), 2, EkClass::Software));
        office.verifier.store.approve(device, Some("a/b"), "test", NOW).unwrap();
        // Again, with credentials made before the hour turned: the same registration, a certificate for a new key.
        let again = office.activation(presentation(&ak(1)), NOW / 3600 - 1);
        let outcome = office.send(&again);
        assert!(matches!(outcome, Answer::Outcome(Outcome::Enrolled { approved: true, .. })), "{outcome:?}");
    }

    #[test]
    fn nothing_is_registered_without_a_proof_for_every_key() {
        let office = office();
        let honest = presentation(&ak(1));
        let Answer::Credentials(credentials) = office.send(&Up::Present(honest.clone())) else {
            panic!("no credentials")
        };
        assert_eq!(credentials.len(), 2);
        let presented = office.verifier.presented(&honest).unwrap();
        let mut known = secrets(&office.verifier.enrolment_key(NOW / 3600).unwrap(), &presented);
        known[1] = Secret::recovered(&[0; 32]).unwrap();
        let forged = Activation::prove(honest.clone(), credentials, &presented.transcript, &known);
        assert_eq!(office.refusal(&Up::Activate(forged)), "identity.activation");
        // Proof for another connection key, which an eavesdropper on the broker might slip in.
        let Up::Activate(mut activation) = office.activation(honest, NOW / 3600) else { panic!("an activation") };
        activation.presentation.connection_key = presentation(&ak(1)).connection_key;
        assert_eq!(office.refusal(&Up::Activate(activation)), "identity.activation");
        // Proof with a key of long ago.
        let old = office.activation(presentation(&ak(1)), NOW / 3600 - 2);
        assert_eq!(office.refusal(&old), "identity.activation");
        assert!(office.verifier.store.registration(presented.identity.id()).unwrap().is_none());
    }

    #[test]
    fn what_is_presented_must_be_the_templates_to_the_bit() {
        let office = office();
        let with = |change: &dyn Fn(&mut Presentation)| {
            let mut bent = presentation(&ak(1));
            change(&mut bent);
            office.refusal(&Up::Present(bent))
        };
        // One attribute of the EK: the key would still activate, under another name.
        assert_eq!(with(&|p| p.ek_public[0][6] ^= 4), "identity.ek-template");
        assert_eq!(with(&|p| p.ek_public.swap(0, 1)), "identity.ek-template");
        assert_eq!(with(&|p| drop(p.ek_public.pop())), "identity.ek-template");
        assert_eq!(with(&|p| p.ak_public[6] ^= 4), "identity.ak-template");
        assert_eq!(with(&|p| p.connection_key.truncate(90)), "identity.connection-key");
        assert_eq!(with(&|p| p.certificates[0].truncate(100)), "identity.ek-certificate");
    }

    #[test]
    fn a_known_device_keeps_its_key_and_its_revocation() {
        let office = office();
        let activation = office.activation(presentation(&ak(1)), NOW / 3600);
        let Answer::Outcome(Outcome::Enrolled { device, .. }) = office.send(&activation) else {
            panic!("not enrolled")
        };
        assert_eq!(office.refusal(&Up::Present(presentation(&ak(2)))), "identity.key-changed");
        // With the RSA key alone the id is another; the key is known under the first.
        let mut alone = presentation(&ak(3));
        (alone.certificates, alone.ek_public) = (alone.certificates.split_off(1), alone.ek_public.split_off(1));
        let other = office.activation(alone, NOW / 3600);
        assert_eq!(office.refusal(&other), "identity.key-elsewhere");
        office.verifier.store.revoke(device, "stolen", "test", NOW).unwrap();
        assert_eq!(office.refusal(&activation), "identity.revoked");
    }

    #[test]
    fn who_asks_too_often_and_who_talks_nonsense_gets_silence() {
        let office = office();
        let client = Name::new("c").unwrap();
        assert_eq!(office.verifier.enrol(&client, b"nonsense").unwrap(), None);
        let present = Up::Present(presentation(&ak(1))).encode();
        let answers = (0..10).filter(|_| office.verifier.enrol(&client, &present).unwrap().is_some()).count();
        assert_eq!(answers, 5, "the burst, less the nonsense");
    }
}
