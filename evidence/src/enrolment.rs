//! Enrolment: a device proves that one TPM holds its endorsement keys and its attestation key (credential activation,
//! TPM 2.0 Part 1 §24). The verifier stores nothing between the messages; a transcript binds them.
//!
//! Every endorsement key gets a challenge of its own: the certificate of another TPM, slipped in beside one's own,
//! would otherwise be registered without proof and block its owner.

use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf, Bytes};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    cbor,
    claims::DeviceId,
    error::Malformed,
    limits::{MAX_EK_CERTIFICATE_BYTES, MAX_EK_CERTIFICATES, MAX_TPM2B, MAX_UNCERTIFIED_EKS},
    pcr::{sha256, sha256_of},
    verifier_message::VerifierKeyId,
};

/// Version of the enrolment messages.
const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"countersign/1 enrolment transcript";

/// What a device presents. CBOR array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PresentationArray", into = "PresentationArray")]
pub struct Presentation {
    version: u8,
    /// Drawn anew for each attempt, so that an old answer is no answer.
    pub client_nonce: [u8; 32],
    /// EK certificates and intermediates, DER. Empty where the TPM holds none: then the verifier's operator must have
    /// listed one of the keys.
    pub certificates: Vec<ByteBuf>,
    /// Public areas of the endorsement keys as the TPM has them (TPMT_PUBLIC), one a leaf certificate, in that order;
    /// without certificates one a kind of key.
    pub ek_public: Vec<ByteBuf>,
    /// Public area of the attestation key (TPMT_PUBLIC).
    pub ak_public: ByteBuf,
    /// Public key for the broker connection: P-256 SubjectPublicKeyInfo, DER. The device keeps the private half.
    pub connection_key: ByteBuf,
}

type PresentationArray = (u8, ByteArray<32>, Vec<ByteBuf>, Vec<ByteBuf>, ByteBuf, ByteBuf);

impl From<PresentationArray> for Presentation {
    fn from(array: PresentationArray) -> Self {
        let (version, client_nonce, certificates, ek_public, ak_public, connection_key) = array;
        let client_nonce = client_nonce.into_array();
        Self { version, client_nonce, certificates, ek_public, ak_public, connection_key }
    }
}

impl From<Presentation> for PresentationArray {
    fn from(p: Presentation) -> Self {
        (p.version, ByteArray::new(p.client_nonce), p.certificates, p.ek_public, p.ak_public, p.connection_key)
    }
}

impl Presentation {
    /// Puts a presentation together.
    #[must_use]
    pub fn new(
        client_nonce: [u8; 32],
        certificates: Vec<Vec<u8>>,
        ek_public: Vec<Vec<u8>>,
        ak_public: Vec<u8>,
        connection_key: Vec<u8>,
    ) -> Self {
        let wrap = |list: Vec<Vec<u8>>| list.into_iter().map(ByteBuf::from).collect();
        Self {
            version: VERSION,
            client_nonce,
            certificates: wrap(certificates),
            ek_public: wrap(ek_public),
            ak_public: ak_public.into(),
            connection_key: connection_key.into(),
        }
    }

    fn check(&self) -> Result<(), Malformed> {
        let malformed = |why| Err(Malformed { what: "enrolment", at: 0, why });
        if self.version != VERSION {
            return malformed("version is not 1");
        }
        let keys = match self.certificates.len() {
            0 => MAX_UNCERTIFIED_EKS,
            certificates => certificates.min(MAX_EK_CERTIFICATES),
        };
        if self.certificates.len() > MAX_EK_CERTIFICATES {
            return malformed("more than 5 certificates");
        }
        if !(1..=keys).contains(&self.ek_public.len()) {
            return malformed("number of keys is not 1 to that of certificates, or to 3 without any");
        }
        if self.certificates.iter().map(|der| der.len()).sum::<usize>() > MAX_EK_CERTIFICATE_BYTES {
            return malformed("certificates are longer than 8 KiB");
        }
        if self.ek_public.iter().chain([&self.ak_public, &self.connection_key]).any(|bytes| bytes.len() > MAX_TPM2B) {
            return malformed("a public key is too long");
        }
        Ok(())
    }

    /// Digest that binds the exchange: domain, version, verifier, all that was presented, and the id it leads to.
    /// Each part is hashed on its own first, so that no two presentations share a transcript.
    #[must_use]
    pub fn transcript(&self, verifier: &VerifierKeyId, device: &DeviceId) -> Transcript {
        let list = |parts: &[ByteBuf]| sha256(&parts.iter().flat_map(|part| sha256(part)).collect::<Vec<_>>());
        Transcript(sha256_of(&[
            DOMAIN,
            &[VERSION],
            &verifier.0,
            &self.client_nonce,
            &list(&self.certificates),
            &list(&self.ek_public),
            &device.0,
            &sha256(&self.ak_public),
            &sha256(&self.connection_key),
        ]))
    }
}

/// See [`Presentation::transcript`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript(pub [u8; 32]);

/// One challenge: what `TPM2_ActivateCredential` takes. CBOR array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(ByteBuf, ByteBuf)", into = "(ByteBuf, ByteBuf)")]
pub struct Credential {
    /// TPM2B_ID_OBJECT without its size.
    pub id_object: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET without its size.
    pub encrypted_secret: Vec<u8>,
}

impl From<(ByteBuf, ByteBuf)> for Credential {
    fn from((id_object, encrypted_secret): (ByteBuf, ByteBuf)) -> Self {
        Self { id_object: id_object.into_vec(), encrypted_secret: encrypted_secret.into_vec() }
    }
}

impl From<Credential> for (ByteBuf, ByteBuf) {
    fn from(credential: Credential) -> Self {
        (credential.id_object.into(), credential.encrypted_secret.into())
    }
}

fn blob_digest(credentials: &[Credential]) -> [u8; 32] {
    let parts: Vec<u8> =
        credentials.iter().flat_map(|c| [sha256(&c.id_object), sha256(&c.encrypted_secret)]).flatten().collect();
    sha256(&parts)
}

/// The secret that a credential hides.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// For endorsement key number `index` of a transcript, from the verifier's hourly key: nothing is stored per
    /// attempt, and any process of the verifier can go on. `generation` is the registration's: what was proved before a
    /// revocation proves nothing after it.
    #[must_use]
    pub fn derive(hourly: &hmac::Key, transcript: &Transcript, generation: u32, index: u8) -> Self {
        let mut context = hmac::Context::with_key(hourly);
        context.update(&transcript.0);
        context.update(&generation.to_be_bytes());
        context.update(&[index]);
        let mut secret = [0; 32];
        secret.copy_from_slice(context.sign().as_ref());
        Self(secret)
    }

    /// As a TPM recovered it; `None` for another length.
    #[must_use]
    pub fn recovered(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// What goes into the credential.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Key of the activation's HMAC: SHA-256(secrets ‖ "activate").
fn activation_key(secrets: &[Secret]) -> hmac::Key {
    let mut input: Vec<u8> = secrets.iter().flat_map(|secret| secret.0).collect();
    input.extend_from_slice(b"activate");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &sha256(&input));
    input.zeroize();
    key
}

/// `cs/1/enrol/{client}/up`, from the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    /// First: asks for credentials.
    Present(Presentation),
    /// Then: proves that the TPM could open them.
    Activate(Activation),
}

/// A presentation again, with proof. CBOR array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ActivationArray", into = "ActivationArray")]
pub struct Activation {
    /// The very presentation that the credentials were made for.
    pub presentation: Presentation,
    /// The credentials as they were received.
    pub credentials: Vec<Credential>,
    /// HMAC(activation key, transcript ‖ digest of the credentials).
    mac: [u8; 32],
}

type ActivationArray = (Presentation, Vec<Credential>, ByteArray<32>);

impl From<ActivationArray> for Activation {
    fn from((presentation, credentials, mac): ActivationArray) -> Self {
        Self { presentation, credentials, mac: mac.into_array() }
    }
}

impl From<Activation> for ActivationArray {
    fn from(activation: Activation) -> Self {
        (activation.presentation, activation.credentials, ByteArray::new(activation.mac))
    }
}

impl Activation {
    /// Proves possession of `secrets`, one for each endorsement key in order.
    #[must_use]
    pub fn prove(
        presentation: Presentation,
        credentials: Vec<Credential>,
        transcript: &Transcript,
        secrets: &[Secret],
    ) -> Self {
        let mut mac = [0; 32];
        let tag = Self::context(secrets, transcript, &credentials).sign();
        mac.copy_from_slice(tag.as_ref());
        Self { presentation, credentials, mac }
    }

    /// Checks the proof against the secrets that the verifier derives again. Constant time.
    #[must_use]
    pub fn proves(&self, transcript: &Transcript, secrets: &[Secret]) -> bool {
        let mut mac = [0; 32];
        mac.copy_from_slice(Self::context(secrets, transcript, &self.credentials).sign().as_ref());
        bool::from(subtle::ConstantTimeEq::ct_eq(&mac[..], &self.mac[..]))
    }

    fn context(secrets: &[Secret], transcript: &Transcript, credentials: &[Credential]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&activation_key(secrets));
        context.update(&transcript.0);
        context.update(&blob_digest(credentials));
        context
    }
}

const PRESENT: u8 = 1;
const ACTIVATE: u8 = 2;

impl Up {
    /// CBOR array: [kind, content].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Present(presentation) => cbor::encode(&(PRESENT, presentation)),
            Self::Activate(activation) => cbor::encode(&(ACTIVATE, activation)),
        }
    }

    /// Reads a message from a stranger.
    ///
    /// # Errors
    /// [`Malformed`] for any other shape, and over the limits of an enrolment.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        // An array of two begins with its head, then the kind in its shortest form: one byte each.
        match bytes.get(1).copied() {
            Some(PRESENT) => {
                let (_, presentation): (u8, Presentation) = cbor::decode("enrolment", bytes)?;
                presentation.check()?;
                Ok(Self::Present(presentation))
            }
            Some(ACTIVATE) => {
                let (_, activation): (u8, Activation) = cbor::decode("enrolment", bytes)?;
                activation.presentation.check()?;
                if activation.credentials.len() != activation.presentation.ek_public.len() {
                    return Err(Malformed { what: "enrolment", at: 0, why: "credentials and keys differ in number" });
                }
                Ok(Self::Activate(activation))
            }
            _ => Err(Malformed { what: "enrolment", at: 1, why: "unknown kind of message" }),
        }
    }
}

/// `cs/1/enrol/{client}/down/{verifier}`, from the verifier, signed for [`crate::verifier_message::Purpose::Enrolment`].
/// CBOR array: [client nonce, credentials, outcome or null].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// Echo of the presentation's nonce.
    pub client_nonce: [u8; 32],
    /// Which step this answers.
    pub answer: Answer,
}

/// Content of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// One credential for each endorsement key, in order.
    Credentials(Vec<Credential>),
    /// The end of an enrolment.
    Outcome(Outcome),
}

/// How an enrolment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Registered.
    Enrolled {
        /// The device's id, as the verifier computes it.
        device: DeviceId,
        /// Certificate for the broker, PEM chain; subject CN = id.
        certificate: String,
        /// Whether a product is assigned already.
        approved: bool,
    },
    /// Not registered.
    Refused {
        /// Stable code.
        code: String,
        /// In words, with what to do.
        why: String,
    },
}

impl Serialize for Down {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let nonce = Bytes::new(&self.client_nonce);
        match &self.answer {
            Answer::Credentials(list) => (nonce, 1_u8, list).serialize(serializer),
            Answer::Outcome(Outcome::Enrolled { device, certificate, approved }) => {
                (nonce, 2_u8, (Bytes::new(&device.0), certificate, approved)).serialize(serializer)
            }
            Answer::Outcome(Outcome::Refused { code, why }) => (nonce, 3_u8, (code, why)).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Down {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DownVisitor;

        impl<'de> serde::de::Visitor<'de> for DownVisitor {
            type Value = Down;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an answer to an enrolment")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Down, A::Error> {
                use serde::de::Error as _;
                let short = || A::Error::custom("answer to an enrolment is too short");
                let nonce: &Bytes = seq.next_element()?.ok_or_else(short)?;
                let client_nonce = (**nonce).try_into().map_err(|_| A::Error::custom("nonce is not 32 bytes"))?;
                let answer = match seq.next_element::<u8>()?.ok_or_else(short)? {
                    1 => Answer::Credentials(seq.next_element()?.ok_or_else(short)?),
                    2 => {
                        let (id, certificate, approved): (&Bytes, _, _) = seq.next_element()?.ok_or_else(short)?;
                        let device = (**id).try_into().map(DeviceId).map_err(|_| A::Error::custom("id"))?;
                        Answer::Outcome(Outcome::Enrolled { device, certificate, approved })
                    }
                    3 => {
                        let (code, why) = seq.next_element()?.ok_or_else(short)?;
                        Answer::Outcome(Outcome::Refused { code, why })
                    }
                    _ => return Err(A::Error::custom("unknown answer to an enrolment")),
                };
                Ok(Down { client_nonce, answer })
            }
        }
        deserializer.deserialize_seq(DownVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(certificates: usize, keys: usize) -> Result<Up, Malformed> {
        let (certificates, keys) = (vec![vec![1; 9]; certificates], vec![vec![2; 9]; keys]);
        Up::decode(&Up::Present(Presentation::new([7; 32], certificates, keys, vec![3], vec![4])).encode())
    }

    #[test]
    fn without_certificates_there_are_as_many_keys_as_templates_at_most() {
        for (certificates, keys) in [(0, 1), (0, 3), (1, 1), (5, 1), (5, 5)] {
            assert!(presented(certificates, keys).is_ok(), "{certificates} certificates, {keys} keys");
        }
        for (certificates, keys) in [(0, 0), (0, 4), (1, 0), (1, 2), (5, 6), (6, 1)] {
            assert!(presented(certificates, keys).is_err(), "{certificates} certificates, {keys} keys");
        }
    }

    #[test]
    fn a_key_with_a_certificate_and_the_same_without_have_different_transcripts() {
        let with = Presentation::new([7; 32], vec![vec![1]], vec![vec![2]], vec![3], vec![4]);
        let without = Presentation { certificates: Vec::new(), ..with.clone() };
        let transcript = |p: &Presentation| p.transcript(&VerifierKeyId([1; 32]), &DeviceId([2; 32]));
        assert_ne!(transcript(&with), transcript(&without));
    }

    #[test]
    fn the_secret_hangs_on_transcript_generation_and_key() {
        let hourly = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
        let secret = |transcript: u8, generation, index| {
            *Secret::derive(&hourly, &Transcript([transcript; 32]), generation, index).expose()
        };
        let one = secret(1, 1, 0);
        assert_eq!(one, secret(1, 1, 0));
        for other in [secret(2, 1, 0), secret(1, 2, 0), secret(1, 1, 1)] {
            assert_ne!(one, other);
        }
    }
}
