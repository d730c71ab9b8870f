//! Keys that sign releases: ECDSA on P-256 and no other. In, PEM; out, typed keys and signatures.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use evidence::pcr::sha256;
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use zeroize::Zeroizing;

use crate::error::{BadKey, Unsignable};

/// DER of a SubjectPublicKeyInfo up to the point: id-ecPublicKey, prime256v1, 66 bits and bytes (RFC 5480 §2). P-256
/// keys have this one encoding only, so no ASN.1 needs to be interpreted.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Uncompressed point: 0x04, X, Y.
const POINT: usize = 65;

/// SHA-256 of a key's SubjectPublicKeyInfo: how signatures and messages name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A signer's public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    point: [u8; POINT],
    id: KeyId,
}

impl PublicKey {
    /// From `-----BEGIN PUBLIC KEY-----` (RFC 7468 §13).
    ///
    /// # Errors
    /// [`BadKey`] where the text is not one such block, or holds another kind of key.
    pub fn from_pem(pem: &str) -> Result<Self, BadKey> {
        let der = der_of(pem, "PUBLIC KEY")?;
        let point = der.strip_prefix(&SPKI_PREFIX).ok_or(BadKey::OtherAlgorithm)?;
        Self::from_sec1(point)
    }

    /// From an uncompressed point on P-256 (SEC 1 §2.3.3), as devices that keep the private key tell it.
    ///
    /// # Errors
    /// [`BadKey::OtherAlgorithm`] where it has another form.
    pub fn from_sec1(point: &[u8]) -> Result<Self, BadKey> {
        let point: [u8; POINT] = point.try_into().map_err(|_| BadKey::OtherAlgorithm)?;
        if point.first() != Some(&4) {
            return Err(BadKey::OtherAlgorithm);
        }
        Ok(Self::from_point(point))
    }

    fn from_point(point: [u8; POINT]) -> Self {
        let spki = [SPKI_PREFIX.as_slice(), &point].concat();
        Self { point, id: KeyId(sha256(&spki)) }
    }

    /// As `-----BEGIN PUBLIC KEY-----`.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem_of("PUBLIC KEY", &[SPKI_PREFIX.as_slice(), &self.point].concat())
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Whether `signature` (r ‖ s) over `message` is this key's.
    #[must_use]
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point).verify(message, signature).is_ok()
    }
}

/// A signer's private key.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id)
    }
}

impl SigningKey {
    /// From `-----BEGIN PRIVATE KEY-----` (PKCS #8, RFC 5958).
    ///
    /// # Errors
    /// [`BadKey`] where the text is not one such block, or holds another kind of key.
    pub fn from_pem(pem: &str) -> Result<Self, BadKey> {
        let der = Zeroizing::new(der_of(pem, "PRIVATE KEY")?);
        // ring asks for a random source although reading a key uses none.
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new())
            .map_err(|_| BadKey::OtherAlgorithm)?;
        let point = pair.public_key().as_ref().try_into().map_err(|_| BadKey::OtherAlgorithm)?;
        Ok(Self { pair, public: PublicKey::from_point(point) })
    }

    /// A new key, as PEM.
    ///
    /// # Errors
    /// [`Unsignable::Crypto`] where `random` fails.
    pub fn generate(random: &dyn SecureRandom) -> Result<Zeroizing<String>, Unsignable> {
        let der =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, random).map_err(|_| Unsignable::Crypto)?;
        Ok(Zeroizing::new(pem_of("PRIVATE KEY", der.as_ref())))
    }

    /// Its public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn sign(&self, message: &[u8], random: &dyn SecureRandom) -> Result<Vec<u8>, Unsignable> {
        self.pair.sign(random, message).map(|signature| signature.as_ref().to_vec()).map_err(|_| Unsignable::Crypto)
    }
}

/// Content of the one PEM block of this label; nothing but white space may stand around it.
fn der_of(pem: &str, label: &'static str) -> Result<Vec<u8>, BadKey> {
    let body = pem
        .trim()
        .strip_prefix("-----BEGIN ")
        .and_then(|rest| rest.strip_prefix(label))
        .and_then(|rest| rest.strip_prefix("-----"))
        .and_then(|rest| rest.strip_suffix("-----"))
        .and_then(|rest| rest.strip_suffix(label))
        .and_then(|rest| rest.strip_suffix("-----END "))
        .ok_or(BadKey::NotPem(label))?;
    let base64 = Zeroizing::new(body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<_>>());
    BASE64.decode(&base64).map_err(|_| BadKey::NotPem(label))
}

/// RFC 7468: 64 characters a line.
fn pem_of(label: &str, der: &[u8]) -> String {
    let base64 = Zeroizing::new(BASE64.encode(der));
    let mut out = format!("-----BEGIN {label}-----\n");
    // Room for everything at once, so that no half of a private key stays behind in freed memory.
    out.reserve(base64.len().saturating_mul(2).saturating_add(64));
    for (position, character) in base64.chars().enumerate() {
        if position > 0 && position.is_multiple_of(64) {
            out.push('\n');
        }
        out.push(character);
    }
    out.push_str("\n-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use ring::rand::SystemRandom;

    use super::{BadKey, PublicKey, SigningKey};

    pub(crate) fn new_key() -> SigningKey {
        SigningKey::from_pem(&SigningKey::generate(&SystemRandom::new()).unwrap()).unwrap()
    }

    #[test]
    fn keys_survive_pem() {
        let key = new_key();
        assert_eq!(&PublicKey::from_pem(&key.public().to_pem()).unwrap(), key.public());
    }

    #[test]
    fn a_key_of_openssl_is_read() {
        // The public key of RFC 6979 §A.2.5, as `openssl ec -pubout` writes it.
        let pem = "-----BEGIN PUBLIC KEY-----\n\
            MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYP7UuiVanTHJYet0xjVtaMBJuJI7\n\
            Yfps5mliLmDyn7Z5A/4QCLi8maQa6elWKLxk8vGyDC1+n1F3o8KU1EYimQ==\n\
            -----END PUBLIC KEY-----";
        assert!(PublicKey::from_pem(pem).is_ok());
    }

    #[test]
    fn other_text_and_other_keys_are_refused() {
        assert_eq!(PublicKey::from_pem(""), Err(BadKey::NotPem("PUBLIC KEY")));
        assert_eq!(
            PublicKey::from_pem("-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----"),
            Err(BadKey::NotPem("PUBLIC KEY"))
        );
        let ed25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----";
        assert_eq!(PublicKey::from_pem(ed25519), Err(BadKey::OtherAlgorithm));
        let public = new_key().public().to_pem();
        assert!(matches!(SigningKey::from_pem(&public), Err(BadKey::NotPem("PRIVATE KEY"))));
    }
}
