//! Enrolment: in goes a stranger's message, out comes the answer to it. Between the messages nothing is kept: what the
//! answer rests on is rebuilt from the message, the registration's generation and an hourly secret. Only a proof that one
//! TPM holds all keys presented changes anything.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use appraisal::{Code, EkClass, UnixSeconds};
use evidence::{
    ak_certificate::{AkCertificate, EndorsedBy},
    claims::DeviceId,
    enrolment::{Activation, Answer, Credential, Down, Outcome, Presentation, Secret, Transcript, Up},
    topic::{DownTopic, Name},
    tpm::{AkPublic, EkKey},
    verifier_message::Purpose,
};
use ring::hmac;

use crate::{
    certificates::ConnectionKey,
    config::Admit,
    identity::{
        CertificateFault, DeviceIdentity, EkChain, IdentityError, RootClass, VerifiedEk, check_template,
        make_credential, uncertified_eks,
    },
    ingest::Verifier,
    issuer::HandOut,
    limits::{CERTIFICATE_RATE, ENROL_CLIENT_RATE, ENROL_RATE, MAX_EKS, MAX_RATED_CLIENTS, MAX_RATED_DEVICES},
    mqtt::Outgoing,
    rate::Limiter,
    recheck,
    references::Rules,
    store::{Endorsement, NewRegistration, Registered, Registration, StoreError, identity_cause},
};

/// What enrolment remembers: rates, and the hourly keys that the store keeps.
#[derive(Debug)]
pub struct Desk {
    by_client: Limiter<String>,
    /// Of strangers, and of devices.
    all: Limiter<bool>,
    certificates: Limiter<DeviceId>,
    keys: Mutex<Vec<(u64, hmac::Key)>>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            by_client: Limiter::new(ENROL_CLIENT_RATE, MAX_RATED_CLIENTS),
            all: Limiter::new(ENROL_RATE, 2),
            certificates: Limiter::new(CERTIFICATE_RATE, MAX_RATED_DEVICES),
            keys: Mutex::default(),
        }
    }
}

impl Desk {
    /// Devices renew under their ids, which the broker lets no stranger take.
    fn allows(&self, client: &Name, now: Instant) -> bool {
        let renews = client.as_str().parse::<DeviceId>().is_ok();
        self.by_client.allows(client.to_string(), now) && self.all.allows(renews, now)
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
#[derive(Debug)]
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
    device: DeviceId,
    /// In the order of the presentation, each to be challenged.
    keys: Vec<EkKey>,
    /// Their digests, the one that gives the id first.
    eks: Vec<[u8; 32]>,
    vouched: Vouched,
    ak: AkPublic,
    connection: ConnectionKey,
    transcript: Transcript,
}

/// Endorsement keys, and who vouches for them.
struct Endorsements {
    /// In the order of the presentation.
    keys: Vec<EkKey>,
    /// Digests in the order of their rank.
    eks: Vec<[u8; 32]>,
    vouched: Vouched,
}

/// Who vouches for the endorsement keys.
struct Vouched {
    by: EndorsedBy,
    manufacturer: String,
    endorsement: Endorsement,
}

impl Vouched {
    /// A software TPM's class is for keys of which nobody has said better, too.
    const fn class(&self) -> EkClass {
        match self.by {
            EndorsedBy::TpmMaker => EkClass::Hardware,
            EndorsedBy::SoftwareTpm | EndorsedBy::Operator => EkClass::Software,
        }
    }
}

impl Verifier {
    /// Answers one message from `cs/1/enrol/{client}/up`; `None` where there is nothing to say.
    ///
    /// # Errors
    /// [`StoreError`] where the store failed: the same message may be tried again.
    pub fn enrol(&self, client: &Name, message: &[u8]) -> Result<Option<Outgoing>, StoreError> {
        if !self.enrolment.allows(client, Instant::now()) {
            self.metrics.dropped("rate.enrolment");
            return Ok(None);
        }
        let Ok(up) = Up::decode(message) else {
            self.metrics.malformed("enrolment");
            return Ok(None);
        };
        let (nonce, answer) = match &up {
            Up::Present(presentation) => (presentation.client_nonce, self.credentials(presentation)),
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

    /// First step: a credential for each endorsement key. A known device that shows another attestation key gets one too:
    /// whether it can prove that key is what matters.
    fn credentials(&self, presentation: &Presentation) -> Result<Answer, Failure> {
        let presented = self.presented(presentation)?;
        let generation = self.check_registration(&presented)?;
        let hour = (self.clock)() / 3600;
        let secrets = secrets(&self.enrolment_key(hour)?, &presented, generation);
        let credential = |(ek, secret): (&EkKey, &Secret)| {
            let made = make_credential(ek, &presented.ak.name(), secret.expose())
                .map_err(|error| Refusal::new("identity.ek-certificate", &error.to_string()))?;
            Ok(Credential { id_object: made.id_object, encrypted_secret: made.encrypted_secret })
        };
        let credentials = presented.keys.iter().zip(&secrets).map(credential).collect::<Result<_, Refusal>>()?;
        self.metrics.enrolment("challenged");
        Ok(Answer::Credentials(credentials))
    }

    /// Second step: the proof, and all checks again, for anything may have changed since the first.
    fn activate(&self, activation: &Activation) -> Result<Answer, Failure> {
        let rules = Arc::clone(&self.rules.borrow());
        let presented = self.presented(&activation.presentation)?;
        let generation = self.check_registration(&presented)?;
        let hour = (self.clock)() / 3600;
        let proves = |hour| -> Result<bool, StoreError> {
            let secrets = secrets(&self.enrolment_key(hour)?, &presented, generation);
            Ok(activation.proves(&presented.transcript, &secrets))
        };
        if !proves(hour)? && !proves(hour.saturating_sub(1))? {
            return Err(not_proved().into());
        }
        self.admit(&presented, generation, &rules)
    }

    /// Registers who has proved all keys and was checked by `rules`, and hands out what is due.
    fn admit(&self, presented: &Presented, generation: u32, rules: &Arc<Rules>) -> Result<Answer, Failure> {
        let device = presented.device;
        let outcome = match self.store.register(self.new_registration(presented, generation)?)? {
            Registered::New => "enrolled",
            Registered::Same => "renewed",
            Registered::Replaced => "key-replaced",
            Registered::KeyChanged => return Err(key_changed().into()),
            Registered::KeyElsewhere => return Err(key_elsewhere().into()),
            Registered::Outdated => return Err(not_proved().into()),
        };
        // A signed list may name it; and the look at the fleet that follows new lists may have come by before this was
        // registered.
        let present = Arc::clone(&self.rules.borrow());
        let listed = presented.eks.iter().any(|ek| present.references.endorsed(ek).is_some());
        if listed || !Arc::ptr_eq(rules, &present) {
            recheck::device(&self.store, device, &present, (self.clock)())?;
        }
        let known = self.store.registration(device)?;
        known.as_ref().map_or(Ok(()), check_shut_out)?;
        let approved = known.as_ref().is_some_and(|known| known.product.is_some());
        let admitted = approved || known.is_some_and(|known| known.approved_at > 0);
        if self.admit == Admit::Approval && !admitted {
            let why = "enrolled; an operator has to approve this device before it gets a certificate: try again later";
            return Err(Refusal::new("identity.not-approved", why).into());
        }
        // The same proof may come again and again. Each certificate is remembered, and told in the log.
        if !self.enrolment.certificates.allows(device, Instant::now()) {
            let why = "enrolled; this device was given many certificates for the broker of late: try again later";
            return Err(Refusal::new("identity.certificate-pending", why).into());
        }
        let certificate = self.certificate(device, &presented.connection)?;
        self.metrics.enrolment(outcome);
        tracing::info!("{outcome}: {device}");
        Ok(Answer::Outcome(Outcome::Enrolled { device, certificate, approved }))
    }

    /// The device's own for the broker, PEM; empty where none are handed out. Remembered first, to be revoked with it.
    fn certificate(&self, device: DeviceId, key: &ConnectionKey) -> Result<String, Failure> {
        let now = (self.clock)();
        match self.issuer.certificate(&device, key, now) {
            Ok(HandOut::Nothing) => Ok(String::new()),
            Ok(HandOut::Issued(issued)) => {
                self.store.remember_issued(device, &issued, now)?;
                Ok(issued.pem)
            }
            Ok(HandOut::Waiting) => {
                let why = "enrolled; its certificate for the broker has not been made yet: try again later";
                Err(Refusal::new("identity.certificate-pending", why).into())
            }
            Err(error) => {
                tracing::error!("{device} is registered, but gets no certificate: {error}");
                let why = "the verifier could not make a certificate; try again later";
                Err(Refusal::new("internal", why).into())
            }
        }
    }

    /// Who vouches for the keys, templates, and the keys themselves.
    fn presented(&self, presentation: &Presentation) -> Result<Presented, Failure> {
        let Endorsements { keys, eks, vouched } = if presentation.certificates.is_empty() {
            self.uncertified(presentation)?
        } else {
            self.certified(presentation)?
        };
        let device = eks.first().map(|first| DeviceId(*first)).ok_or(IdentityError::NoEkCertificate)?;
        let ak = AkPublic::read(&presentation.ak_public)
            .map_err(|error| Refusal::new("identity.ak-template", &format!("attestation key: {error}")))?;
        let connection = ConnectionKey::read(&presentation.connection_key).ok_or_else(|| {
            Refusal::new("identity.connection-key", "the connection key is not a P-256 SubjectPublicKeyInfo")
        })?;
        let transcript = presentation.transcript(&self.keys.root(), &device);
        Ok(Presented { device, keys, eks, vouched, ak, connection, transcript })
    }

    /// Keys with certificates: chains to roots, CRLs, deny list, templates.
    fn certified(&self, presentation: &Presentation) -> Result<Endorsements, Failure> {
        let certificates: Vec<&[u8]> = presentation.certificates.iter().map(|der| der.as_slice()).collect();
        let (eks, verified) = self.verified(&EkChain::read(&certificates)?)?;
        if eks.len() != presentation.ek_public.len() {
            let why = "there is not one public area for each EK certificate";
            return Err(Refusal::new("identity.ek-template", why).into());
        }
        for (ek, public) in eks.iter().zip(&presentation.ek_public) {
            check_template(public, ek)?;
        }
        let keys = eks.iter().map(|ek| ek.key().clone()).collect();
        let identity = DeviceIdentity::from_eks(eks)?;
        let eks = identity.eks();
        let by = match identity.class() {
            RootClass::Hardware => EndorsedBy::TpmMaker,
            RootClass::Software => EndorsedBy::SoftwareTpm,
        };
        let make = eks.iter().find_map(VerifiedEk::make);
        let endorsement = Endorsement {
            certificates: certificates.iter().map(|der| der.to_vec()).collect(),
            verified,
            issuer: eks.first().map(|ek| ek.issuer().to_owned()).unwrap_or_default(),
            model: make.map(|make| make.model.clone()).unwrap_or_default(),
            version: make.map(|make| make.version.clone()).unwrap_or_default(),
            serials: eks.iter().map(|ek| ek.serial().to_owned()).collect(),
        };
        let manufacturer = make.map(|make| make.manufacturer.clone()).unwrap_or_default();
        let digests = eks.iter().map(|ek| *ek.spki_digest()).collect();
        Ok(Endorsements { keys, eks: digests, vouched: Vouched { by, manufacturer, endorsement } })
    }

    /// Certificates that hold now, and that instant; or, of a registered device, that held when it was registered: makers' certificates end
    /// while their TPMs live on, and nothing about the key has changed by that.
    fn verified(&self, chain: &EkChain<'_>) -> Result<(Vec<VerifiedEk>, UnixSeconds), Failure> {
        let now = (self.clock)();
        let rules = Arc::clone(&self.rules.borrow());
        let expired = match chain.verify(&rules.roots, timestamp(now)) {
            Ok(eks) => return Ok((eks, now)),
            Err(error @ IdentityError::EkCertificate { why: CertificateFault::Validity, .. }) => error,
            Err(error) => return Err(error.into()),
        };
        let known = chain.claimed_id().map(|id| self.store.registration(id)).transpose()?.flatten();
        let Some(known) = known else { return Err(expired.into()) };
        let eks = chain.verify(&rules.roots, timestamp(known.first_seen))?;
        let all_known = eks.iter().all(|ek| known.eks.contains(ek.spki_digest()));
        if all_known { Ok((eks, known.first_seen)) } else { Err(expired.into()) }
    }

    /// Keys without certificates, one of which an operator has listed.
    fn uncertified(&self, presentation: &Presentation) -> Result<Endorsements, Failure> {
        let sent: Vec<&[u8]> = presentation.ek_public.iter().map(|area| area.as_slice()).collect();
        let digests: Vec<[u8; 32]> = uncertified_eks(&sent)?.iter().map(EkKey::digest).collect();
        let denied = digests.iter().find_map(|ek| self.rules.borrow().roots.deny_list().ek(ek).map(str::to_owned));
        if let Some(why) = denied {
            return Err(
                Refusal::new("identity.ek-denied", &format!("an endorsement key is on the deny list: {why}")).into()
            );
        }
        if !self.store.allows(&digests)? {
            let why = format!(
                "the TPM holds no endorsement certificate, and no operator has listed a key of it: verifier approve \
                 --ek-pub FILE, or --ids with {}",
                digests.first().map(|id| DeviceId(*id).to_string()).unwrap_or_default()
            );
            return Err(Refusal::new("identity.no-ek-certificate", &why).into());
        }
        let keys = sent.iter().filter_map(|area| EkKey::of_public_area(area)).collect();
        let vouched =
            Vouched { by: EndorsedBy::Operator, manufacturer: String::new(), endorsement: Endorsement::default() };
        Ok(Endorsements { keys, eks: digests, vouched })
    }

    /// The generation that a proof is for. Refuses who is shut out by any key of its TPM, and whose keys are another's.
    fn check_registration(&self, presented: &Presented) -> Result<u32, Failure> {
        if let Some(owner) = self.store.owner_of(&presented.eks)?.filter(|owner| *owner != presented.device) {
            if let Some(known) = self.store.registration(owner)? {
                check_shut_out(&known)?;
            }
            return Err(key_elsewhere().into());
        }
        let Some(known) = self.store.registration(presented.device)? else { return Ok(1) };
        check_shut_out(&known)?;
        let new = presented.eks.iter().filter(|ek| !known.eks.contains(ek)).count();
        if new > 0 && known.eks.len() + new > MAX_EKS {
            let why = "more endorsement keys than a TPM has were proved for this device; an operator must look into it";
            return Err(Refusal::new("identity.ek-template", why).into());
        }
        Ok(known.generation)
    }

    fn new_registration(&self, presented: &Presented, generation: u32) -> Result<NewRegistration, Failure> {
        let now = (self.clock)();
        let vouched = &presented.vouched;
        let certificate = AkCertificate {
            issuer: self.name.to_string(),
            issued: now,
            ak_name: *presented.ak.name_digest(),
            device: presented.device,
            eks: presented.eks.clone(),
            transcript: presented.transcript.0,
            generation,
            endorsed_by: vouched.by,
        };
        let ak_certificate = self
            .keys
            .current()
            .seal(Purpose::AkCertificate, &certificate)
            .map_err(|error| Refusal::new("internal", &error.to_string()))?;
        Ok(NewRegistration {
            device: presented.device,
            ak: presented.ak,
            eks: presented.eks.clone(),
            ek_class: vouched.class(),
            endorsement: vouched.endorsement.clone(),
            uncertified: vouched.by == EndorsedBy::Operator,
            manufacturer: vouched.manufacturer.clone(),
            product: None,
            generation,
            ak_certificate,
            now,
        })
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

fn secrets(hourly: &hmac::Key, presented: &Presented, generation: u32) -> Vec<Secret> {
    let secret = |(index, _)| Secret::derive(hourly, &presented.transcript, generation, index);
    // At most five keys pass an enrolment's limits.
    (0..).zip(&presented.keys).map(secret).collect()
}

fn timestamp(seconds: UnixSeconds) -> jiff::Timestamp {
    jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)).unwrap_or(jiff::Timestamp::MAX)
}

/// What blocks one endorsement key of a TPM blocks all of them. Denied firmware does not block: a device could never show
/// that it was updated.
fn check_shut_out(known: &Registration) -> Result<(), Refusal> {
    if let Some(why) = &known.revoked {
        return Err(Refusal::new("identity.revoked", &format!("an operator shut this device out: {why}")));
    }
    let denial = known.denied.as_ref().map(|denial| (identity_cause(&denial.code), denial.why.as_str()));
    match denial {
        None | Some((Code::HardwareFirmwareDenied, _)) => Ok(()),
        Some((code, why)) => Err(Refusal::new(code.row().code, why)),
    }
}

fn not_proved() -> Refusal {
    let why = "the proof does not hold: the TPM did not open every credential, more than an hour went by, or the device \
               was revoked or approved meanwhile";
    Refusal::new("identity.activation", why)
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
    use std::{fs, path::Path};

    use appraisal::Policy;
    use evidence::tpm::P256Point;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer as Issuer509, KeyPair,
        KeyUsagePurpose, PublicKeyData as _,
    };
    use reference_values::ReferenceIndex;
    use serde_bytes::ByteBuf;
    use tempfile::TempDir;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        certificates::{BrokerCa, Kind},
        identity::{DenyList, EkRoots},
        issuer::Issuer,
        store::{Allowed, Place},
    };

    const NOW: u64 = 1_796_083_200;

    fn vector(name: &str) -> Vec<u8> {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/ek").join(name)).unwrap()
    }

    /// A verifier that trusts the CA of the test vectors, and what a device with those EKs presents.
    struct Office {
        verifier: Verifier,
        rules: watch::Sender<Arc<Rules>>,
        dir: TempDir,
    }

    fn office() -> Office {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("roots/software")).unwrap();
        fs::write(dir.path().join("roots/software/issuer.pem"), vector("issuer.pem")).unwrap();
        fs::write(dir.path().join("roots/software/root.pem"), vector("root.pem")).unwrap();
        let rules = watch::Sender::new(Arc::new(read_rules(&dir, "")));
        let verifier = Verifier {
            rules: rules.subscribe(),
            issuer: Issuer::Ours(Box::new(BrokerCa::make(Kind::Devices, NOW).unwrap().0)),
            ..Verifier::in_folder(dir.path(), || NOW)
        };
        Office { verifier, rules, dir }
    }

    fn read_rules(dir: &TempDir, deny: &str) -> Rules {
        fs::write(dir.path().join("deny.toml"), deny).unwrap();
        let denied = DenyList::load(&dir.path().join("deny.toml")).unwrap();
        Rules {
            references: Arc::new(ReferenceIndex::default()),
            policy: Policy::default(),
            roots: Arc::new(EkRoots::load(&dir.path().join("roots")).unwrap().denying(denied)),
        }
    }

    /// A CA of a TPM maker, and the EK of a TPM by it.
    struct Maker(Issuer509<'static, KeyPair>);

    impl Maker {
        fn new(office: &Office) -> Self {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "maker");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let key = KeyPair::generate().unwrap();
            let der = params.self_signed(&key).unwrap().der().to_vec();
            fs::write(office.dir.path().join("roots/maker.der"), der).unwrap();
            let maker = Self(Issuer509::new(params, key));
            office.reload("");
            maker
        }

        /// What a device with this EK presents, its certificate good until the end of 2027.
        fn presentation(&self, ek: &KeyPair, ak: &AkPublic) -> Presentation {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::ExplicitNoCa;
            params.not_after = rcgen::date_time_ymd(2027, 12, 31);
            params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
            let certificate = params.signed_by(ek, &self.0).unwrap().der().to_vec();
            let connection = KeyPair::generate().unwrap().subject_public_key_info();
            Presentation::new([7; 32], vec![certificate], vec![ek_of(ek).public_area()], ak.area(), connection)
        }
    }

    fn ek_of(pair: &KeyPair) -> EkKey {
        EkKey::of_spki(&pair.subject_public_key_info()).unwrap()
    }

    fn uncertified(eks: &[&EkKey], ak: &AkPublic) -> Presentation {
        let connection = KeyPair::generate().unwrap().subject_public_key_info();
        let publics = eks.iter().map(|ek| ek.public_area()).collect();
        Presentation::new([7; 32], Vec::new(), publics, ak.area(), connection)
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
            let down: Down =
                self.verifier.keys.current().signed().keys.open(Purpose::Enrolment, &answer.payload).unwrap();
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
            let generation = self.verifier.check_registration(&presented).unwrap();
            let secrets = secrets(&self.verifier.enrolment_key(hour).unwrap(), &presented, generation);
            Up::Activate(Activation::prove(presentation, credentials, &presented.transcript, &secrets))
        }

        /// Presents and proves.
        fn enrols(&self, presentation: Presentation) -> Answer {
            self.send(&self.activation(presentation, NOW / 3600))
        }

        fn enrolled(&self, presentation: Presentation) -> DeviceId {
            match self.enrols(presentation) {
                Answer::Outcome(Outcome::Enrolled { device, .. }) => device,
                other => panic!("not enrolled: {other:?}"),
            }
        }

        /// Proves all, and is refused all the same.
        fn proof_refused(&self, presentation: Presentation) -> String {
            match self.enrols(presentation) {
                Answer::Outcome(Outcome::Refused { code, .. }) => code,
                other => panic!("not refused: {other:?}"),
            }
        }

        fn registration(&self, device: DeviceId) -> Registration {
            self.verifier.store.registration(device).unwrap().unwrap()
        }

        fn reload(&self, deny: &str) {
            self.rules.send_replace(Arc::new(read_rules(&self.dir, deny)));
        }

        fn allow(&self, ek: &EkKey, product: Option<&str>) {
            let key = Allowed { digest: ek.digest(), product: product.map(str::to_owned) };
            self.verifier.store.allow(vec![key], "test", NOW).unwrap();
        }
    }

    #[test]
    fn a_device_whose_key_a_signed_list_names_has_its_product_and_serial_at_once() {
        let office = office();
        let maker = Maker::new(&office);
        let [listed, other] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let shop = crate::references::tests::Shop::of(&office.verifier.store, || NOW);
        shop.desk.publish(&shop.list(1, &[(ek_of(&listed).digest(), "S-1")])).unwrap();
        let roots = Arc::clone(&office.rules.borrow().roots);
        let references = Arc::clone(&shop.desk.rules().references);
        office.rules.send_replace(Arc::new(Rules { references, policy: Policy::default(), roots }));
        let outcome = office.enrols(maker.presentation(&listed, &ak(1)));
        let Answer::Outcome(Outcome::Enrolled { device, approved, .. }) = outcome else { panic!("{outcome:?}") };
        let known = office.registration(device);
        assert_eq!((known.product.as_deref(), known.serial.as_deref(), approved), (Some("a/b"), Some("S-1"), true));
        let unlisted = office.registration(office.enrolled(maker.presentation(&other, &ak(2))));
        assert_eq!((unlisted.product, unlisted.serial), (None, None));
    }

    #[test]
    fn where_operators_admit_there_is_no_certificate_before_they_approve() {
        let mut office = office();
        office.verifier.admit = Admit::Approval;
        let activation = office.activation(presentation(&ak(1)), NOW / 3600);
        assert_eq!(office.refusal(&activation), "identity.not-approved");
        let page = office.verifier.store.devices(&crate::store::Filter::default(), NOW).unwrap();
        assert_eq!(page.total, 1, "registered, and shown as never seen");
        let device = page.devices[0].id;
        assert_eq!(office.verifier.store.shut_out(NOW).unwrap(), crate::broker_access::ShutOut::default());
        office.verifier.store.approve(device, None, "test", NOW).unwrap();
        let outcome = office.enrols(presentation(&ak(1)));
        assert!(matches!(outcome, Answer::Outcome(Outcome::Enrolled { .. })), "{outcome:?}");
    }

    #[test]
    fn where_another_ca_certifies_the_device_waits_for_it() {
        let mut office = office();
        let [requests, issued] = ["requests", "issued"].map(|name| office.dir.path().join(name));
        office.verifier.issuer = Issuer::Files { requests: requests.clone(), issued };
        let activation = office.activation(presentation(&ak(1)), NOW / 3600);
        assert_eq!(office.refusal(&activation), "identity.certificate-pending");
        assert_eq!(fs::read_dir(requests).unwrap().count(), 1, "the CA is asked");
    }

    #[test]
    fn every_certificate_that_was_handed_out_is_revoked_with_its_device() {
        let office = office();
        for _ in 0..2 {
            office.enrols(presentation(&ak(1)));
        }
        let store = &office.verifier.store;
        let device = store.devices(&crate::store::Filter::default(), NOW).unwrap().devices[0].id;
        store.revoke(device, "stolen", "test", NOW + 5).unwrap();
        let shut_out = store.shut_out(NOW + 5).unwrap();
        assert_eq!(shut_out.devices, [device]);
        assert_eq!(shut_out.certificates.len(), 2);
        assert!(shut_out.certificates.iter().all(|revoked| revoked.since == NOW + 5));
        let ended = NOW + crate::certificates::DEVICE_LIFETIME;
        assert!(store.shut_out(ended).unwrap().certificates.is_empty(), "what has ended need not be listed");
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
        let mut known = secrets(&office.verifier.enrolment_key(NOW / 3600).unwrap(), &presented, 1);
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
        assert!(office.verifier.store.registration(presented.device).unwrap().is_none());
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
        let device = office.enrolled(presentation(&ak(1)));
        let renewal = office.activation(presentation(&ak(1)), NOW / 3600);
        office.verifier.store.revoke(device, "stolen", "test", NOW).unwrap();
        assert_eq!(office.refusal(&renewal), "identity.revoked");
        assert_eq!(office.refusal(&Up::Present(presentation(&ak(1)))), "identity.revoked");
    }

    #[test]
    fn another_attestation_key_is_on_record_once_it_is_proved_and_never_before() {
        let office = office();
        let device = office.enrolled(presentation(&ak(1)));
        let before = office.registration(device);
        let history = || office.verifier.store.history(device, NOW).unwrap().len();
        let entries = history();
        // Anybody can say so: the certificates are public.
        let Answer::Credentials(credentials) = office.send(&Up::Present(presentation(&ak(2)))) else {
            panic!("no credentials")
        };
        let presented = presentation(&ak(2));
        let transcript = office.verifier.presented(&presented).unwrap().transcript;
        let forged = [1, 2].map(|byte| Secret::recovered(&[byte; 32]).unwrap());
        let forged = Activation::prove(presented, credentials, &transcript, &forged);
        assert_eq!(office.refusal(&Up::Activate(forged)), "identity.activation");
        assert_eq!((office.registration(device), history()), (before.clone(), entries));

        for _ in 0..2 {
            assert_eq!(office.proof_refused(presentation(&ak(2))), "identity.key-changed");
        }
        let changed = office.registration(device);
        assert_eq!((changed.ak, changed.key_changed, history()), (ak(1), Some(NOW), entries + 1));
        let shown = office.verifier.store.device(device, NOW).unwrap().unwrap().summary;
        assert_eq!(shown.verdict, appraisal::Verdict::Contraindicated);
        assert!(shown.causes.iter().any(|cause| cause.code == Code::IdentityKeyChanged));

        // Approval ends the alarm, and lets the other key in no more than before.
        office.verifier.store.approve(device, None, "test", NOW + 5).unwrap();
        let approved = office.registration(device);
        assert_eq!((approved.key_changed, approved.approved_at, approved.generation), (None, NOW + 5, 1));
        assert_eq!(office.proof_refused(presentation(&ak(2))), "identity.key-changed");
    }

    #[test]
    fn revocation_and_approval_open_a_generation_in_which_another_key_may_come_once() {
        let office = office();
        let device = office.enrolled(presentation(&ak(1)));
        office.verifier.store.revoke(device, "resold", "test", NOW).unwrap();
        office.verifier.store.approve(device, None, "test", NOW + 7).unwrap();
        let open = office.registration(device);
        assert_eq!((open.generation, open.since, open.ak), (2, NOW + 7, ak(1)));
        assert_eq!(office.enrolled(presentation(&ak(2))), device);
        let replaced = office.registration(device);
        assert_eq!((replaced.generation, replaced.ak), (2, ak(2)));
        assert_eq!(office.proof_refused(presentation(&ak(3))), "identity.key-changed");
        // Who keeps his key closes the generation too.
        office.verifier.store.revoke(device, "again", "test", NOW).unwrap();
        office.verifier.store.approve(device, None, "test", NOW).unwrap();
        assert_eq!(office.enrolled(presentation(&ak(2))), device);
        assert_eq!(office.proof_refused(presentation(&ak(3))), "identity.key-changed");
    }

    #[test]
    fn an_activation_from_before_a_revocation_is_worth_nothing_after_it() {
        let office = office();
        let first = office.activation(presentation(&ak(1)), NOW / 3600);
        let Answer::Outcome(Outcome::Enrolled { device, .. }) = office.send(&first) else { panic!("not enrolled") };
        // The broker may deliver it twice.
        assert!(matches!(office.send(&first), Answer::Outcome(Outcome::Enrolled { .. })));
        let thiefs = office.activation(presentation(&ak(2)), NOW / 3600);
        office.verifier.store.revoke(device, "stolen", "test", NOW).unwrap();
        assert_eq!(office.refusal(&first), "identity.revoked");
        office.verifier.store.approve(device, None, "test", NOW).unwrap();
        for old in [&first, &thiefs] {
            assert_eq!(office.refusal(old), "identity.activation");
        }
        assert_eq!(office.registration(device).ak, ak(1));
    }

    #[test]
    fn a_key_of_a_tpm_is_shut_out_with_each_other_key_of_it() {
        let office = office();
        let device = office.enrolled(presentation(&ak(1)));
        // With the RSA key alone the id is another; the key is known under the first.
        let alone = || {
            let mut alone = presentation(&ak(3));
            (alone.certificates, alone.ek_public) = (alone.certificates.split_off(1), alone.ek_public.split_off(1));
            Up::Present(alone)
        };
        assert_eq!(office.refusal(&alone()), "identity.key-elsewhere");
        office.verifier.store.revoke(device, "stolen", "test", NOW).unwrap();
        assert_eq!(office.refusal(&alone()), "identity.revoked");
        office.verifier.store.approve(device, None, "test", NOW).unwrap();
        // The ECC key on the deny list, by the look at the fleet that follows.
        let list = format!("[[ek]]\nsha256 = \"{device}\"\nwhy = \"stolen\"\n");
        office.reload(&list);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let rules = Arc::clone(&office.rules.borrow());
        runtime.block_on(recheck::fleet(&office.verifier.store, &rules, || NOW)).unwrap();
        assert_eq!(office.refusal(&alone()), "identity.ek-denied");
        assert_eq!(office.refusal(&Up::Present(presentation(&ak(1)))), "identity.ek-denied");
    }

    #[test]
    fn who_was_checked_by_lists_that_are_over_is_held_against_the_present_ones() {
        let office = office();
        let before = Arc::clone(&office.rules.borrow());
        let presented = office.verifier.presented(&presentation(&ak(1))).unwrap();
        office.reload(&format!("[[ek]]\nsha256 = \"{}\"\nwhy = \"stolen\"\n", presented.device));
        // The fleet has been looked at by now.
        let refused = office.verifier.admit(&presented, 1, &before);
        assert!(matches!(refused, Err(Failure::Refused(Refusal { code: "identity.ek-denied", .. }))), "{refused:?}");
        let denied = office.registration(presented.device).denied.map(|denial| denial.code);
        assert_eq!(denied.as_deref(), Some("identity.ek-denied"));
        assert!(office.verifier.store.shut_out(NOW).unwrap().certificates.is_empty());
    }

    #[test]
    fn an_attestation_key_known_under_another_id_is_refused() {
        let office = office();
        let maker = Maker::new(&office);
        let first = office.enrolled(presentation(&ak(1)));
        let other = KeyPair::generate().unwrap();
        assert_eq!(office.proof_refused(maker.presentation(&other, &ak(1))), "identity.key-elsewhere");
        let second = office.enrolled(maker.presentation(&other, &ak(2)));
        assert_ne!(first, second);
        // In a new generation, too.
        office.verifier.store.revoke(second, "?", "test", NOW).unwrap();
        office.verifier.store.approve(second, None, "test", NOW).unwrap();
        assert_eq!(office.proof_refused(maker.presentation(&other, &ak(1))), "identity.key-elsewhere");
        assert_eq!(office.registration(first).key_changed, None);
    }

    #[test]
    fn five_certificates_are_taken_and_kept() {
        let office = office();
        let mut full = presentation(&ak(1));
        let ca = |name: &str| {
            use rustls::pki_types::{CertificateDer, pem::PemObject as _};
            ByteBuf::from(CertificateDer::from_pem_slice(&vector(name)).unwrap().to_vec())
        };
        full.certificates.extend([ca("issuer.pem"), ca("root.pem"), ca("issuer.pem")]);
        let device = office.enrolled(full.clone());
        let (kept, _) = office.verifier.store.endorsed(Place::default(), 9).unwrap();
        let sent: Vec<Vec<u8>> = full.certificates.iter().map(|der| der.to_vec()).collect();
        assert_eq!((kept[0].device, &kept[0].certificates, kept.len()), (device, &sent, 1));
        assert_eq!(office.registration(device).manufacturer, "id:00001014");
    }

    #[test]
    fn a_known_device_comes_back_after_its_makers_certificate_has_ended_and_a_stranger_does_not() {
        let mut office = office();
        let maker = Maker::new(&office);
        let (known, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let device = office.enrolled(maker.presentation(&known, &ak(1)));
        office.verifier.clock = || NOW + 3 * 365 * 24 * 3600;
        let later = (office.verifier.clock)() / 3600;
        let renewal = office.activation(maker.presentation(&known, &ak(1)), later);
        let renewed = office.send(&renewal);
        assert!(matches!(renewed, Answer::Outcome(Outcome::Enrolled { device: same, .. }) if same == device));
        assert_eq!(office.refusal(&Up::Present(maker.presentation(&stranger, &ak(2)))), "identity.ek-certificate");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let rules = Arc::clone(&office.rules.borrow());
        let looked = runtime.block_on(recheck::fleet(&office.verifier.store, &rules, office.verifier.clock));
        assert_eq!(looked.unwrap(), recheck::Rechecked { all: 1, changed: Vec::new() });
    }

    #[test]
    fn without_certificate_only_a_device_with_a_listed_key_enrols_and_says_so() {
        let office = office();
        let (pair, rsa) = (KeyPair::generate().unwrap(), EkKey::Rsa2048(Box::new(odd_modulus())));
        let ek = ek_of(&pair);
        let device = DeviceId(ek.digest());
        assert_eq!(office.refusal(&Up::Present(uncertified(&[&ek, &rsa], &ak(1)))), "identity.no-ek-certificate");
        // Whichever key of the TPM was listed: all of them have to be proved.
        office.allow(&rsa, Some("acme/router"));
        assert_eq!(office.refusal(&Up::Present(uncertified(&[&ek], &ak(1)))), "identity.no-ek-certificate");
        let presented = uncertified(&[&rsa, &ek], &ak(1));
        assert_eq!(office.enrolled(presented.clone()), device);
        let known = office.registration(device);
        assert!(known.uncertified && known.product.as_deref() == Some("acme/router"), "{known:?}");
        assert_eq!(known.eks.len(), 2);
        assert!(office.rules.borrow().standing(&known).no_ek_certificate);

        let mut flipped = presented.clone();
        flipped.ek_public[1][7] ^= 4;
        assert_eq!(office.refusal(&Up::Present(flipped)), "identity.ek-template");
        let second = ek_of(&KeyPair::generate().unwrap());
        assert_eq!(office.refusal(&Up::Present(uncertified(&[&ek, &second], &ak(1)))), "identity.ek-template");
        office.reload(&format!("[[ek]]\nsha256 = \"{}\"\nwhy = \"x\"\n", DeviceId(rsa.digest())));
        assert_eq!(office.refusal(&Up::Present(presented)), "identity.ek-denied");
    }

    fn odd_modulus() -> [u8; 256] {
        let mut modulus = [0xC5; 256];
        modulus[128] = 0x35;
        modulus
    }

    #[test]
    fn a_listed_id_brings_its_product_to_a_device_with_a_certificate() {
        let office = office();
        let maker = Maker::new(&office);
        let pair = KeyPair::generate().unwrap();
        office.allow(&ek_of(&pair), Some("acme/router"));
        let outcome = office.enrols(maker.presentation(&pair, &ak(1)));
        let Answer::Outcome(Outcome::Enrolled { device, approved: true, .. }) = outcome else {
            panic!("not approved: {outcome:?}")
        };
        let known = office.registration(device);
        assert!(!known.uncertified && known.ek_class == EkClass::Hardware);
        assert_eq!(known.product.as_deref(), Some("acme/router"));
        // One that is enrolled already takes the product of a list, unless it has one.
        let later = KeyPair::generate().unwrap();
        let device = office.enrolled(maker.presentation(&later, &ak(2)));
        for product in ["acme/switch", "acme/other"] {
            office.allow(&ek_of(&later), Some(product));
            assert_eq!(office.registration(device).product.as_deref(), Some("acme/switch"));
        }
    }

    #[test]
    fn a_device_with_certificates_sheds_none_of_them_by_enrolling_as_one_that_has_none() {
        let office = office();
        let device = office.enrolled(presentation(&ak(1)));
        // Its id is listed for the sake of its product.
        let listed = Allowed { digest: device.0, product: Some("acme/router".to_owned()) };
        office.verifier.store.allow(vec![listed], "test", NOW).unwrap();
        let bare = |byte| {
            let mut bare = presentation(&ak(byte));
            bare.certificates.clear();
            bare
        };
        let holds = || {
            let known = office.registration(device);
            assert_eq!((known.manufacturer.as_str(), known.uncertified), ("id:00001014", false));
            let (kept, _) = office.verifier.store.endorsed(Place::default(), 9).unwrap();
            assert_eq!(kept[0].certificates.len(), 2, "held against CRLs and deny lists as before");
        };
        assert_eq!(office.enrolled(bare(1)), device);
        holds();
        office.verifier.store.revoke(device, "resold", "test", NOW).unwrap();
        office.verifier.store.approve(device, None, "test", NOW).unwrap();
        assert_eq!(office.enrolled(bare(2)), device);
        holds();
    }

    #[test]
    fn one_device_is_given_certificates_at_a_rate_and_takes_nothing_from_the_others() {
        let office = office();
        let maker = Maker::new(&office);
        let activation = office.activation(presentation(&ak(1)), NOW / 3600);
        let enrolled = |answer| matches!(answer, Answer::Outcome(Outcome::Enrolled { .. }));
        let given = (0..50).filter(|_| enrolled(office.send(&activation))).count();
        assert_eq!(given, CERTIFICATE_RATE.burst as usize);
        assert_eq!(office.refusal(&activation), "identity.certificate-pending");
        office.enrolled(maker.presentation(&KeyPair::generate().unwrap(), &ak(2)));
    }

    #[test]
    fn no_device_gathers_endorsement_keys_without_end() {
        let office = office();
        let ek = ek_of(&KeyPair::generate().unwrap());
        office.allow(&ek, None);
        let device = office.enrolled(uncertified(&[&ek], &ak(1)));
        // Who has the private half of a key needs no TPM to prove it.
        let with_another = |byte| {
            let mut modulus = odd_modulus();
            modulus[64] = byte;
            uncertified(&[&ek, &EkKey::Rsa2048(Box::new(modulus))], &ak(1))
        };
        let most = MAX_EKS;
        for byte in 1..most {
            office.enrolled(with_another(u8::try_from(byte).unwrap()));
        }
        assert_eq!(office.refusal(&Up::Present(with_another(99))), "identity.ek-template");
        assert_eq!(office.registration(device).eks.len(), most);
        office.enrolled(with_another(1));
    }

    #[test]
    fn the_certificate_of_the_attestation_key_says_what_was_proved() {
        let office = office();
        let presented = presentation(&ak(1));
        let transcript = office.verifier.presented(&presented).unwrap().transcript;
        let device = office.enrolled(presented);
        let stored = || office.verifier.store.ak_certificate(device).unwrap().unwrap().unwrap();
        let keys = office.verifier.keys.current().signed().keys.clone();
        let first = stored();
        let certificate = AkCertificate::open(&keys.result, &first).unwrap();
        assert!(certificate.is_of(&transcript) && certificate.device == device);
        assert_eq!((certificate.ak_name, certificate.eks[0]), (*ak(1).name_digest(), device.0));
        assert_eq!((certificate.generation, certificate.endorsed_by), (1, EndorsedBy::SoftwareTpm));
        assert!(AkCertificate::open(&keys.request, &first).is_err());
        // It stays what it is until a new generation.
        office.enrolled(presentation(&ak(1)));
        assert_eq!(stored(), first);
        office.verifier.store.revoke(device, "?", "test", NOW).unwrap();
        office.verifier.store.approve(device, None, "test", NOW).unwrap();
        office.enrolled(presentation(&ak(1)));
        assert_eq!(AkCertificate::open(&keys.result, &stored()).unwrap().generation, 2);
    }

    #[test]
    fn strangers_without_end_keep_no_device_from_renewing() {
        let (desk, now) = (Desk::default(), Instant::now());
        let name = |text: String| Name::new(&text).unwrap();
        let served = (0..1000).filter(|n| desk.allows(&name(format!("d-{n}")), now)).count();
        assert_eq!(served, ENROL_RATE.burst as usize);
        let renewed = (0..1000_u16).filter(|n| desk.allows(&name(format!("{n:064x}")), now)).count();
        assert_eq!(renewed, ENROL_RATE.burst as usize, "which is bounded as well");
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
