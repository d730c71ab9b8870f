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
    (0..).zip(&presented.eks).map(|(index, _)| Secret::derive(hourly, &presented.transcript, index)).collect()
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
