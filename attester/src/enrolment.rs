//! Enrolment: in go the TPM's endorsement certificates and the verifiers' challenges, out come a registration with each
//! pinned verifier and this device's own certificate for the broker. Everything that a verifier says here is signed by
//! its pinned key, and bound to a nonce of this attempt.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use attester::{
    config::{Broker, Config},
    tpm::EndorsementKeys,
};
use data_encoding::{BASE64, HEXLOWER};
use evidence::{
    claims::DeviceId,
    enrolment::{Activation, Answer, Credential, Down, Outcome, Presentation, Secret, Transcript, Up},
    limits::{MAX_EK_CERTIFICATE_BYTES, MAX_EK_CERTIFICATES},
    topic::{BroadcastTopic, DownTopic, Name, UpTopic},
    verifier_message::{Purpose, VerifierKeyId},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::timeout};
use x509_cert::{Certificate, der::Decode as _};
use zeroize::Zeroizing;

use crate::{
    Usage,
    attest::Attester,
    link::{Credentials, Endpoint, Link, LinkEvent, Trouble, Up as LinkUp},
    pinned::{Pinned, SPKI_P256_PREFIX},
    state::{Readers, StateDir, random},
    told,
    worker::Worker,
};

const CERTIFICATE: &str = "connection.pem";
const KEY: &str = "connection.key";
const CLIENT: &str = "client";
const ENROLMENT: &str = "enrolment.json";
/// Time for one answer of a verifier.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// What is not answered is said again after this: a broker drops what comes before the verifier has subscribed, and says
/// nothing. A verifier allows one message in this time.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A certificate is renewed when less than this is left of it: a third of what a verifier gives.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Events that wait: answers come one at a time.
const EVENTS: usize = 16;

/// A registered device, and how it shows the broker who it is.
#[derive(Clone)]
pub(crate) struct Enrolled {
    /// Its id.
    pub(crate) device: DeviceId,
    /// Its own credentials at the broker.
    pub(crate) credentials: Credentials,
    /// Whether it was registered before.
    pub(crate) before: bool,
    /// Whether all verifiers at this broker registered it.
    pub(crate) complete: bool,
}

/// What is kept of the enrolment at one broker, for whoever looks at it.
pub(crate) struct Kept {
    /// What to show the broker: the device's own, where it has that, else what it enrols with.
    pub(crate) credentials: Option<Credentials>,
    /// Whether those are the device's own.
    pub(crate) own: bool,
    /// Ids of the verifiers that registered the device, hexadecimal.
    pub(crate) verifiers: Vec<String>,
}

/// What is kept of the enrolment at a broker, by its index in the configuration. Changes nothing.
pub(crate) fn kept(broker: &Broker, at: usize, state: Option<&StateDir>) -> Result<Kept> {
    let to_enrol_with = || broker.credentials.is_some().then(|| shared(broker)).transpose();
    // A device that has never enrolled has no folder yet.
    let Some(state) = state else {
        return Ok(Kept { credentials: to_enrol_with()?, own: false, verifiers: Vec::new() });
    };
    let files = Files::of(broker, at);
    let record: Record = state.read_json(&files.record)?.unwrap_or_default();
    let certificate = state.read(&files.certificate)?.filter(|_| !record.configured_certificate);
    let own = certificate.zip(kept_key(state)?).map(|(certificate, key)| credentials(certificate, &key));
    let is_own = own.is_some() || record.configured_certificate;
    let credentials = match own {
        Some(own) => Some(own),
        None => to_enrol_with()?,
    };
    Ok(Kept { credentials, own: is_own, verifiers: record.verifiers })
}

/// What is kept of an enrolment.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    device: String,
    /// Key ids of the verifiers that registered the device, hexadecimal.
    verifiers: Vec<String>,
    /// No verifier handed out a certificate for this broker: the configured one is the device's own.
    configured_certificate: bool,
    /// A verifier that did not answer then may do so still.
    #[serde(default)]
    awaited: bool,
}

/// A verifier that does not register this device.
#[derive(Debug, thiserror::Error)]
#[error("{verifier} does not enrol this device ({code}): {why}")]
pub(crate) struct NotEnrolled {
    /// Which verifier.
    pub(crate) verifier: Name,
    /// Stable code.
    pub(crate) code: String,
    /// In words, with what to do.
    pub(crate) why: String,
}

/// Enrols with every verifier at one broker that has not registered this device, or with all where the certificate for
/// the broker has to be renewed. `at`: the broker, by index in the configuration; `renew`: it refuses the present one.
pub(crate) async fn ensure(
    config: &Config,
    state: &StateDir,
    worker: &Worker,
    at: usize,
    renew: bool,
) -> Result<Enrolled> {
    let broker = config.brokers.get(at).context("there is no such broker in the configuration")?;
    let device = worker.call(|attester| attester.device()).await?;
    let key = connection_key(state)?;
    let files = Files::of(broker, at);
    let mut before = Before::read(state, &files, &device.to_string(), &key, renew)?;
    let (registered, mut missing) = before.divide(Pinned::all(config, state)?, at);
    if missing.is_empty() {
        let credentials = before.credentials(broker, &key)?;
        return Ok(Enrolled { device, credentials, before: true, complete: true });
    }
    let some = !registered.is_empty();
    let done = loop {
        let door = before.door(broker, state, device, &key, some)?;
        tracing::info!(%device, client = %door.client, "enrolling");
        match door.enrol_all(&mut missing, state, worker, &key).await {
            Err(error) if some => {
                tracing::error!("not enrolled with every verifier: {}", told(&error));
                break Vec::new();
            }
            // Of a broker or a CA that was here before this one: an installation that was made anew.
            Err(error) if door.is_own && broker.credentials.is_some() && is_refused(&error) => {
                tracing::warn!("{}; enrolling with the configured certificate", told(&error));
                before.own = None;
            }
            done => break done?,
        }
    };
    let complete = done.len() == missing.len();
    let known = registered.iter().map(|verifier| verifier.id).chain(done.iter().map(|(id, _)| *id));
    let known = known.map(|id| HEXLOWER.encode(&id.0)).collect();
    let handed_out = done.into_iter().map(|(_, certificate)| certificate).find(|certificate| !certificate.is_empty());
    if let Some(certificate) = before.go_on(&device.to_string(), known, complete, some, handed_out) {
        state.write(&files.certificate, &certificate, Readers::All)?;
        before.own = Some(certificate);
    }
    state.write_json(&files.record, &before.record)?;
    Ok(Enrolled { device, credentials: before.credentials(broker, &key)?, before: some, complete })
}

fn is_refused(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Trouble>().is_some_and(Trouble::is_about_credentials)
}

/// What stands of enrolments before at one broker, where that is enough to connect. Asks nobody.
pub(crate) async fn standing(
    config: &Config,
    state: &StateDir,
    worker: &Worker,
    at: usize,
) -> Result<Option<Enrolled>> {
    let Some(broker) = config.brokers.get(at) else { return Ok(None) };
    let device = worker.call(|attester| attester.device()).await?;
    let key = connection_key(state)?;
    let before = Before::read(state, &Files::of(broker, at), &device.to_string(), &key, false)?;
    let (registered, missing) = before.divide(Pinned::all(config, state)?, at);
    if registered.is_empty() {
        return Ok(None);
    }
    let credentials = before.credentials(broker, &key)?;
    Ok(Some(Enrolled { device, credentials, before: true, complete: missing.is_empty() }))
}

/// What a device has of enrolments before at a broker.
struct Before {
    record: Record,
    /// Its own certificate.
    own: Option<Vec<u8>>,
    standing: Standing,
    /// Whether it can connect with what it has.
    usable: bool,
}

impl Before {
    fn read(state: &StateDir, files: &Files, device: &str, key: &[u8], renew: bool) -> Result<Self> {
        let record: Record = state.read_json(&files.record)?.unwrap_or_default();
        let record = if record.device == device { record } else { Record::default() };
        let is_own = !record.verifiers.is_empty() && !record.configured_certificate && !renew;
        let own = state.read(&files.certificate)?.filter(|_| is_own);
        let standing = own.as_deref().map_or(Standing::None, |pem| Standing::of(pem, key, now()));
        let usable = standing == Standing::Good || (record.configured_certificate && !renew);
        Ok(Self { record, own, standing, usable })
    }

    /// The verifiers at this broker: those that nothing has to be done for, and the others.
    fn divide(&self, pinned: Vec<Pinned>, at: usize) -> (Vec<Pinned>, Vec<Pinned>) {
        let registered =
            |verifier: &Pinned| self.usable && self.record.verifiers.contains(&HEXLOWER.encode(&verifier.id.0));
        pinned.into_iter().filter(|verifier| verifier.broker == at).partition(registered)
    }

    /// After an enrolment: what the record says from now on, and the certificate that was handed out, where it is to be
    /// used. What is in use goes on being used. `some`: there were verifiers that nothing had to be done for.
    fn go_on(
        &mut self,
        device: &str,
        known: Vec<String>,
        complete: bool,
        some: bool,
        handed_out: Option<String>,
    ) -> Option<Vec<u8>> {
        let Record { configured_certificate, awaited, .. } = self.record;
        let new = handed_out.filter(|_| !some || awaited);
        let configured_certificate = match (&new, some) {
            (Some(_), _) => false,
            (None, true) => configured_certificate,
            (None, false) => self.own.is_none() || self.standing == Standing::None,
        };
        let awaited = configured_certificate && !complete && (!some || awaited);
        self.record = Record { device: device.to_owned(), verifiers: known, configured_certificate, awaited };
        new.map(String::into_bytes)
    }

    fn credentials(&self, broker: &Broker, key: &[u8]) -> Result<Credentials> {
        match &self.own {
            Some(certificate) if !self.record.configured_certificate => Ok(credentials(certificate.clone(), key)),
            _ => shared(broker),
        }
    }

    /// `in_use`: some verifiers did register the device, whose own place at the broker is theirs then.
    fn door(&self, broker: &Broker, state: &StateDir, device: DeviceId, key: &[u8], in_use: bool) -> Result<Door> {
        let stranger = in_use && broker.credentials.is_some();
        let own = self.own.clone().filter(|_| !stranger && self.standing != Standing::None);
        Door::new(broker, state, device, own, key)
    }
}

/// Where the enrolment at one broker is kept: without more in the name for the first, which most devices have alone.
struct Files {
    certificate: String,
    record: String,
}

impl Files {
    fn of(broker: &Broker, at: usize) -> Self {
        if at == 0 {
            return Self { certificate: CERTIFICATE.to_owned(), record: ENROLMENT.to_owned() };
        }
        let place = format!("{}-{}", broker.host, broker.port);
        Self { certificate: format!("connection-{place}.pem"), record: format!("enrolment-{place}.json") }
    }
}

/// The configured credentials.
fn shared(broker: &Broker) -> Result<Credentials> {
    let Some(configured) = &broker.credentials else {
        bail!(Usage(
            "this device has no certificate for the broker, and `[broker]` no `certificate` and `key` to enrol with: the \
             verifier's `init` wrote them (broker/enrol.pem, broker/enrol.key)"
                .to_owned()
        ))
    };
    Credentials::read(&configured.certificate, &configured.key)
}

/// Whether the certificate for the broker should be renewed soon.
pub(crate) fn expires_soon(credentials: &Credentials) -> bool {
    let PrivateKeyDer::Pkcs8(key) = credentials.key.as_ref() else { return false };
    Standing::of(&credentials.certificate, key.secret_pkcs8_der(), now()) == Standing::Old
}

fn credentials(certificate: Vec<u8>, key: &[u8]) -> Credentials {
    let key = PrivatePkcs8KeyDer::from(key.to_vec());
    Credentials { certificate, key: std::sync::Arc::new(key.into()) }
}

fn now() -> Duration {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// What a certificate for the broker is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// There is none, it is not for our key, or it has expired.
    None,
    /// It can still be used to get a new one.
    Old,
    /// It can be used.
    Good,
}

impl Standing {
    fn of(pem: &[u8], key: &[u8], now: Duration) -> Self {
        let credentials = credentials(pem.to_vec(), key);
        let until = leaf(pem).map(|leaf| leaf.tbs_certificate().validity().not_after.to_unix_duration());
        match until {
            Ok(until) if credentials.fit() && until > now.saturating_add(RENEW_BEFORE) => Self::Good,
            Ok(until) if credentials.fit() && until > now => Self::Old,
            _ => Self::None,
        }
    }
}

fn leaf(pem: &[u8]) -> Result<Certificate> {
    let der = CertificateDer::from_pem_slice(pem).context("no PEM certificate")?;
    Certificate::from_der(&der).context("no X.509 certificate")
}

/// The key of the broker connection, PKCS#8; made once. One that a broken disk left unreadable is made anew: a certificate
/// for it does not stand any more then, and the device enrols once more.
fn connection_key(state: &StateDir) -> Result<Zeroizing<Vec<u8>>> {
    if let Some(key) = kept_key(state)? {
        return Ok(key);
    }
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .map_err(|_| anyhow!("the system gives no random bytes for a key"))?;
    let key = Zeroizing::new(key.as_ref().to_vec());
    state.write(KEY, pem("PRIVATE KEY", &key).as_bytes(), Readers::Owner)?;
    Ok(key)
}

/// The key, if there is one that can be used.
fn kept_key(state: &StateDir) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(pem) = state.read(KEY)?.map(Zeroizing::new) else { return Ok(None) };
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).ok();
    let key = key.map(|key| Zeroizing::new(key.secret_pkcs8_der().to_vec())).filter(|key| spki_of(key).is_ok());
    if key.is_none() {
        tracing::warn!("{} holds no P-256 key: it is not used", state.path(KEY).display());
    }
    Ok(key)
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(BASE64.encode(der));
    let mut text = Zeroizing::new(format!("-----BEGIN {label}-----\n"));
    for (index, letter) in base64.char_indices() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

/// SubjectPublicKeyInfo of a PKCS#8 P-256 key.
fn spki_of(pkcs8: &[u8]) -> Result<Vec<u8>> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new())
        .map_err(|_| anyhow!("the key of the broker connection is no P-256 key"))?;
    Ok([&SPKI_P256_PREFIX[..], pair.public_key().as_ref()].concat())
}

/// How a device comes to the broker to enrol: with the certificate it has, else with the shared one.
struct Door {
    client: Name,
    endpoint: Endpoint,
    device: DeviceId,
    /// Whether it comes with its own certificate.
    is_own: bool,
}

impl Door {
    fn new(broker: &Broker, state: &StateDir, device: DeviceId, own: Option<Vec<u8>>, key: &[u8]) -> Result<Self> {
        let is_own = own.is_some();
        let (client, credentials, (host, port)) = match own {
            Some(certificate) => {
                let place = (broker.host.clone(), broker.port);
                (name(&device.to_string())?, credentials(certificate, key), place)
            }
            None => (client(state)?, shared(broker)?, broker.enrolment.clone()),
        };
        let broker = &Broker { host, port, ..broker.clone() };
        let filters = vec![format!("cs/1/enrol/{client}/down/+"), "cs/1/keys/+".to_owned()];
        let endpoint = Endpoint::new(broker, client.as_str(), &credentials, filters)?;
        Ok(Self { client, endpoint, device, is_own })
    }

    /// Enrols with each verifier in turn; returns those that registered the device, with the certificates that they hand
    /// out, PEM or empty. One that cannot be reached does not keep the others waiting; an error is when there is none.
    async fn enrol_all(
        &self,
        pinned: &mut [Pinned],
        state: &StateDir,
        worker: &Worker,
        key: &[u8],
    ) -> Result<Vec<(VerifierKeyId, String)>> {
        let (events, mut incoming) = mpsc::channel(EVENTS);
        let _link = Link::open(self.endpoint.clone(), events, |event| event);
        let up = loop {
            match incoming.recv().await.context("the connection ended")? {
                LinkEvent::Up(up) => break up,
                LinkEvent::Down(trouble, _) => return Err(trouble.into()),
                LinkEvent::Message { topic, payload, .. } => take_keys(pinned, &topic, &payload),
            }
        };
        let mut done = Vec::with_capacity(pinned.len());
        let mut failed = Vec::new();
        for at in 0..pinned.len() {
            let enrolled = self.enrol(pinned, at, &up, &mut incoming, worker, key).await;
            pinned[at].keep(state)?;
            match enrolled {
                Ok(certificate) => done.push((pinned[at].id, certificate)),
                Err(error) => failed.push(error),
            }
        }
        up.disconnect();
        if done.is_empty() && !failed.is_empty() {
            return Err(failed.swap_remove(0));
        }
        for error in failed {
            tracing::error!("{}", told(&error));
        }
        Ok(done)
    }

    async fn enrol(
        &self,
        pinned: &mut [Pinned],
        at: usize,
        up: &LinkUp,
        incoming: &mut mpsc::Receiver<LinkEvent>,
        worker: &Worker,
        key: &[u8],
    ) -> Result<String> {
        let connection_key = spki_of(key)?;
        let nonce = random()?;
        let presentation = worker.call(move |attester| present(attester, nonce, connection_key)).await?;
        let transcript = presentation.transcript(&pinned[at].id, &self.device);
        let topic = UpTopic::Enrol(self.client.clone());
        let say = |message: &Up| {
            if let Err(error) = up.publish(&topic, message.encode()) {
                tracing::error!("{error}");
            }
        };
        let credentials =
            match self.answer(pinned, at, &nonce, incoming, &|| say(&Up::Present(presentation.clone()))).await? {
                Answer::Credentials(credentials) => credentials,
                Answer::Outcome(outcome) => return self.end(&pinned[at], outcome, key),
            };
        let presented = presentation.clone();
        let prove = move |attester: &mut Attester| activate(attester, presented, credentials, &transcript);
        let activation = Up::Activate(worker.call(prove).await??);
        loop {
            // The broker may deliver the credentials twice.
            if let Answer::Outcome(outcome) = self.answer(pinned, at, &nonce, incoming, &|| say(&activation)).await? {
                return self.end(&pinned[at], outcome, key);
            }
        }
    }

    /// Says something, again and again, until this verifier answers.
    async fn answer(
        &self,
        pinned: &mut [Pinned],
        at: usize,
        nonce: &[u8; 32],
        incoming: &mut mpsc::Receiver<LinkEvent>,
        say: &impl Fn(),
    ) -> Result<Answer> {
        let name = pinned[at].name.clone();
        let persist = async {
            loop {
                say();
                if let Ok(answer) = timeout(SAY_AGAIN_AFTER, self.next_answer(pinned, at, nonce, incoming)).await {
                    return answer;
                }
            }
        };
        timeout(ANSWER_WITHIN, persist).await.unwrap_or_else(|_| {
            bail!(
                "{name} does not answer within {} s: does it run, is it at this broker, is its pinned key the right one?",
                ANSWER_WITHIN.as_secs()
            )
        })
    }

    /// The next answer of this verifier to this attempt. Anything else on the topic is not for us.
    async fn next_answer(
        &self,
        pinned: &mut [Pinned],
        at: usize,
        nonce: &[u8; 32],
        incoming: &mut mpsc::Receiver<LinkEvent>,
    ) -> Result<Answer> {
        let expected = DownTopic::Enrol(self.client.clone(), pinned[at].name.clone());
        loop {
            match incoming.recv().await.context("the connection ended")? {
                LinkEvent::Down(trouble, _) => return Err(trouble.into()),
                LinkEvent::Message { topic, payload, .. } if DownTopic::parse(&topic).as_ref() == Some(&expected) => {
                    match pinned[at].open::<Down>(Purpose::Enrolment, &payload) {
                        Ok(down) if down.client_nonce == *nonce => return Ok(down.answer),
                        Ok(_) => tracing::debug!("an answer to another attempt"),
                        Err(error) => tracing::warn!("not an answer of {}: {error}", pinned[at].name),
                    }
                }
                LinkEvent::Message { topic, payload, .. } => take_keys(pinned, &topic, &payload),
                LinkEvent::Up(_) => {}
            }
        }
    }

    fn end(&self, verifier: &Pinned, outcome: Outcome, key: &[u8]) -> Result<String> {
        let (device, certificate, approved) = match outcome {
            Outcome::Enrolled { device, certificate, approved } => (device, certificate, approved),
            Outcome::Refused { code, why } => {
                bail!(NotEnrolled { verifier: verifier.name.clone(), code, why })
            }
        };
        if device != self.device {
            bail!("{} enrolled another device ({device}) than this ({}): nothing is kept", verifier.name, self.device);
        }
        if !certificate.is_empty() && Standing::of(certificate.as_bytes(), key, Duration::ZERO) == Standing::None {
            bail!("the certificate that {} sent is not for this device's key: nothing is kept", verifier.name);
        }
        tracing::info!(verifier = %verifier.name, %device, approved, "enrolled");
        Ok(certificate)
    }
}

/// Takes the keys of whichever verifier a message is from: they come once a connection.
fn take_keys(pinned: &mut [Pinned], topic: &str, message: &[u8]) {
    let Some(BroadcastTopic::Keys(name)) = BroadcastTopic::parse(topic) else { return };
    if let Some(verifier) = pinned.iter_mut().find(|verifier| verifier.name == name)
        && let Err(error) = verifier.take_keys(message)
    {
        tracing::warn!("not the keys of {name}: {error}");
    }
}

fn name(text: &str) -> Result<Name> {
    Name::new(text).with_context(|| format!("`{text}` may not stand in a topic"))
}

/// A name for the broker, drawn once.
fn client(state: &StateDir) -> Result<Name> {
    let kept = state.read(CLIENT)?.and_then(|bytes| Name::new(std::str::from_utf8(&bytes).ok()?.trim_end()));
    if let Some(client) = kept {
        return Ok(client);
    }
    let drawn = format!("d-{}", HEXLOWER.encode(&random::<16>()?));
    state.write(CLIENT, drawn.as_bytes(), Readers::All)?;
    name(&drawn)
}

fn present(attester: &Attester, nonce: [u8; 32], connection_key: Vec<u8>) -> Presentation {
    let EndorsementKeys { keys, chain } = attester.endorsement();
    let mut certificates: Vec<Vec<u8>> = keys.iter().filter_map(|key| key.certificate.clone()).collect();
    let mut room = MAX_EK_CERTIFICATE_BYTES.saturating_sub(certificates.iter().map(Vec::len).sum());
    // Issuers that do not fit have to be known to the verifier.
    for issuer in chain {
        if certificates.len() < MAX_EK_CERTIFICATES && issuer.len() <= room {
            room -= issuer.len();
            certificates.push(issuer.clone());
        }
    }
    let publics = keys.iter().map(|key| key.public.clone()).collect();
    Presentation::new(nonce, certificates, publics, attester.ak_public().area(), connection_key)
}

/// Opens every credential in the TPM.
fn activate(
    attester: &mut Attester,
    presentation: Presentation,
    credentials: Vec<Credential>,
    transcript: &Transcript,
) -> Result<Activation> {
    let kinds: Vec<_> = attester.endorsement().keys.iter().map(|key| key.kind).collect();
    if credentials.len() != kinds.len() {
        bail!("the verifier sent {} credentials for {} endorsement keys", credentials.len(), kinds.len());
    }
    let mut secrets = Vec::with_capacity(kinds.len());
    for (kind, credential) in kinds.into_iter().zip(&credentials) {
        let secret = attester.tpm().activate_credential(kind, &credential.id_object, &credential.encrypted_secret)?;
        secrets.push(Secret::recovered(&secret).context("a credential of the verifier holds no secret of 32 bytes")?);
    }
    Ok(Activation::prove(presentation, credentials, transcript, &secrets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_key_is_made_once_and_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let key = connection_key(&state).unwrap();
        assert_eq!(*connection_key(&state).unwrap(), *key);
        assert_eq!(spki_of(&key).unwrap().len(), SPKI_P256_PREFIX.len() + 65);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(state.path(KEY)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_connection_key_that_does_not_read_is_made_anew_and_nobody_has_to_remove_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        for broken in [&b""[..], b"no PEM", pem("PRIVATE KEY", &[0x30, 0]).as_bytes()] {
            state.write(KEY, broken, Readers::Owner).unwrap();
            assert!(kept_key(&state).unwrap().is_none());
            assert_eq!(*state.read(KEY).unwrap().unwrap(), *broken, "whoever looks changes nothing");
            let key = connection_key(&state).unwrap();
            assert_eq!(*connection_key(&state).unwrap(), *key);
        }
    }

    const DEVICE: &str = "d";

    fn before(record: Record, own: Option<&[u8]>, standing: Standing) -> Before {
        let usable = standing == Standing::Good || record.configured_certificate;
        Before { record, own: own.map(<[u8]>::to_vec), standing, usable }
    }

    fn ids(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_certificate_is_taken_from_a_verifier_that_comes_later_than_one_that_hands_out_none() {
        let mut device = before(Record::default(), None, Standing::None);
        assert_eq!(device.go_on(DEVICE, ids(&["b"]), false, false, None), None);
        assert!(device.record.configured_certificate && device.record.awaited);
        // It stays with the configured certificate, and then the other verifier is there.
        assert_eq!(device.go_on(DEVICE, ids(&["b"]), false, true, None), None);
        let new = device.go_on(DEVICE, ids(&["a", "b"]), true, true, Some("pem".to_owned()));
        assert_eq!(new.as_deref(), Some(b"pem".as_slice()));
        assert!(!device.record.configured_certificate && !device.record.awaited);
    }

    #[test]
    fn a_configured_certificate_that_is_the_devices_own_stays_in_use() {
        let mut device = before(Record::default(), None, Standing::None);
        assert_eq!(device.go_on(DEVICE, ids(&["a"]), true, false, None), None);
        assert_eq!(device.go_on(DEVICE, ids(&["a"]), false, true, None), None);
        assert_eq!(device.go_on(DEVICE, ids(&["a", "b"]), true, true, Some("pem".to_owned())), None);
        assert!(device.record.configured_certificate);
    }

    #[test]
    fn an_old_certificate_goes_on_where_whoever_renews_it_is_away() {
        let record = Record { verifiers: ids(&["a", "b"]), ..Record::default() };
        let mut device = before(record, Some(b"old"), Standing::Old);
        assert_eq!(device.go_on(DEVICE, ids(&["b"]), false, false, None), None);
        assert!(!device.record.configured_certificate);
        let key = [0; 4];
        let broker = Broker {
            host: "b".to_owned(),
            port: 1,
            enrolment: ("b".to_owned(), 1),
            ca: "/nonexistent".into(),
            credentials: None,
        };
        assert_eq!(device.credentials(&broker, &key).unwrap().certificate, b"old");
    }

    #[test]
    fn the_name_for_the_broker_is_drawn_once_and_legal() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let drawn = client(&state).unwrap();
        assert_eq!(client(&state).unwrap(), drawn);
        state.write(CLIENT, b"a/+/b", Readers::All).unwrap();
        assert_ne!(client(&state).unwrap().as_str(), "a/+/b");
    }

    #[test]
    fn what_is_no_certificate_for_our_key_does_not_stand() {
        let dir = tempfile::tempdir().unwrap();
        let key = connection_key(&StateDir::open(dir.path()).unwrap()).unwrap();
        let no_certificate = pem("CERTIFICATE", &[0x30, 0]);
        for bad in ["", "no PEM", &no_certificate] {
            assert_eq!(Standing::of(bad.as_bytes(), &key, Duration::ZERO), Standing::None);
        }
    }

    #[test]
    fn pem_lines_have_64_letters() {
        let text = pem("TEST", &[0; 100]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines[0], lines.last().copied()), ("-----BEGIN TEST-----", Some("-----END TEST-----")));
        assert!(lines[1..lines.len() - 2].iter().all(|line| line.len() == 64));
    }
}
