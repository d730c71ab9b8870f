//! TPM2_MakeCredential without a TPM (TPM 2.0 Part 1 §24). In go an EK, an AK's Name and a secret; out comes a
//! [`Credential`] that TPM2_ActivateCredential opens in the one TPM that holds the EK's private part, and only if the
//! key of that Name is loaded there.

use aes::{Aes128, Aes256};
use cfb_mode::{BufEncryptor, cipher::KeyIvInit as _};
use evidence::tpm::{EkKey, tpm2b};
use ring::{
    agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    digest, hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use rsa::{
    BoxedUint, PublicKey as RsaPublicKey,
    oaep::EncryptingKey,
    rand_core::{TryCryptoRng, TryRng},
    sha2::Sha256,
    traits::RandomizedEncryptor as _,
};
use thiserror::Error;
use zeroize::Zeroizing;

/// Label of the secret exchange for credentials (Part 1 §B.10.4, §C.6.4). All labels here end with their NUL, which
/// KDFa, KDFe and OAEP take in.
const IDENTITY: &[u8] = b"IDENTITY\0";
/// Labels of what is derived from the seed (Part 1 §24.4, §24.5).
const STORAGE: &[u8] = b"STORAGE\0";
const INTEGRITY: &[u8] = b"INTEGRITY\0";

/// What TPM2_ActivateCredential takes, both without their outer 16-bit size: `tss-esapi` takes them so, and
/// [`tpm2b`] adds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// TPMS_ID_OBJECT: the content of a TPM2B_ID_OBJECT.
    pub id_object: Vec<u8>,
    /// TPMU_ENCRYPTED_SECRET: the content of a TPM2B_ENCRYPTED_SECRET.
    pub encrypted_secret: Vec<u8>,
}

/// No credential could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MakeCredentialError {
    /// The fault of whoever certified the key: a point off its curve, an impossible modulus.
    #[error("the endorsement key is not a valid public key")]
    InvalidKey,
    /// Our own.
    #[error("the system's random number generator failed")]
    Random,
}

/// What an EK template fixes.
struct Scheme {
    /// nameAlg, for KDFe.
    digest: &'static digest::Algorithm,
    /// nameAlg, for KDFa and integrity.
    hmac: hmac::Algorithm,
    /// The storage key.
    symmetric: Symmetric,
}

#[derive(Clone, Copy)]
enum Symmetric {
    Aes128,
    Aes256,
}

/// Templates L-1 and L-2.
static LOW: Scheme = Scheme { digest: &digest::SHA256, hmac: hmac::HMAC_SHA256, symmetric: Symmetric::Aes128 };
/// Template H-3.
static HIGH: Scheme = Scheme { digest: &digest::SHA384, hmac: hmac::HMAC_SHA384, symmetric: Symmetric::Aes256 };

/// Seals `secret` so that only the TPM with this EK can open it, and only for the AK with this Name.
///
/// # Errors
/// [`MakeCredentialError`]
pub fn make_credential(ek: &EkKey, ak_name: &[u8; 34], secret: &[u8; 32]) -> Result<Credential, MakeCredentialError> {
    let (scheme, exchanged) = match ek {
        EkKey::Rsa2048(modulus) => (&LOW, exchange_rsa(modulus)?),
        EkKey::P256(point) => (&LOW, exchange_ecc(&LOW, &agreement::ECDH_P256, point)?),
        EkKey::P384(point) => (&HIGH, exchange_ecc(&HIGH, &agreement::ECDH_P384, point)?),
    };
    let id_object = seal(scheme, &exchanged.seed, ak_name, secret);
    Ok(Credential { id_object, encrypted_secret: exchanged.encrypted })
}

/// A seed, and what brings it to the TPM.
struct Exchanged {
    seed: Zeroizing<Vec<u8>>,
    encrypted: Vec<u8>,
}

/// A random seed under RSAES-OAEP (Part 1 §B.10.4). The exponent is the template's, 65537.
fn exchange_rsa(modulus: &[u8; 256]) -> Result<Exchanged, MakeCredentialError> {
    let n = BoxedUint::from_be_slice(modulus, 2048).map_err(|_| MakeCredentialError::InvalidKey)?;
    let key = RsaPublicKey::new(n, 65537_u32.into()).map_err(|_| MakeCredentialError::InvalidKey)?;
    let mut seed = Zeroizing::new(vec![0; LOW.digest.output_len()]);
    SystemRandom::new().fill(&mut seed).map_err(|_| MakeCredentialError::Random)?;
    let oaep = EncryptingKey::<Sha256>::new_with_label(key, IDENTITY);
    // Key and length of the seed are fine by now: only randomness can fail.
    let encrypted = oaep.encrypt_with_rng(&mut SystemRng, &seed).map_err(|_| MakeCredentialError::Random)?;
    Ok(Exchanged { seed, encrypted })
}

/// A seed by one-pass ECDH (Part 1 §C.6.4); `point` is x ‖ y.
fn exchange_ecc(
    scheme: &Scheme,
    curve: &'static agreement::Algorithm,
    point: &[u8],
) -> Result<Exchanged, MakeCredentialError> {
    let private =
        EphemeralPrivateKey::generate(curve, &SystemRandom::new()).map_err(|_| MakeCredentialError::Random)?;
    let public = private.compute_public_key().map_err(|_| MakeCredentialError::Random)?;
    // Behind the 4 of the uncompressed form.
    let ours = public.as_ref().get(1..).unwrap_or_default();
    let (our_x, our_y) = ours.split_at(ours.len() / 2);
    let (ek_x, _) = point.split_at(point.len() / 2);
    let peer = UnparsedPublicKey::new(curve, [&[4], point].concat());
    let seed = agree_ephemeral(private, &peer, |z| kdfe(scheme.digest, z, IDENTITY, our_x, ek_x))
        .map_err(|_| MakeCredentialError::InvalidKey)?;
    Ok(Exchanged { seed, encrypted: [tpm2b(our_x), tpm2b(our_y)].concat() })
}

/// TPMS_ID_OBJECT (Part 1 §24.4, §24.5): integrity ‖ the secret, encrypted.
fn seal(scheme: &Scheme, seed: &[u8], ak_name: &[u8; 34], secret: &[u8; 32]) -> Vec<u8> {
    let mut identity = Zeroizing::new(tpm2b(secret));
    // The IV is zero: the key serves once.
    match scheme.symmetric {
        Symmetric::Aes128 => {
            let mut key = Zeroizing::new([0; 16]);
            kdfa(scheme.hmac, seed, STORAGE, ak_name, &mut *key);
            BufEncryptor::<Aes128>::new((&*key).into(), &[0; 16].into()).encrypt(&mut identity);
        }
        Symmetric::Aes256 => {
            let mut key = Zeroizing::new([0; 32]);
            kdfa(scheme.hmac, seed, STORAGE, ak_name, &mut *key);
            BufEncryptor::<Aes256>::new((&*key).into(), &[0; 16].into()).encrypt(&mut identity);
        }
    }
    let mut key = Zeroizing::new(vec![0; scheme.digest.output_len()]);
    kdfa(scheme.hmac, seed, INTEGRITY, &[], &mut key);
    let mut integrity = hmac::Context::with_key(&hmac::Key::new(scheme.hmac, &key));
    integrity.update(&identity);
    integrity.update(ak_name);
    [tpm2b(integrity.sign().as_ref()), identity.to_vec()].concat()
}

/// KDFa (Part 1 §11.4.10.2), with an empty contextV. One block of its counter mode: no key of these templates is longer
/// than the template's hash.
fn kdfa(hash: hmac::Algorithm, key: &[u8], label: &[u8], context: &[u8], out: &mut [u8]) {
    let bits = u32::try_from(out.len().saturating_mul(8)).unwrap_or(u32::MAX);
    let mut block = hmac::Context::with_key(&hmac::Key::new(hash, key));
    for part in [&1_u32.to_be_bytes(), label, context, &bits.to_be_bytes()] {
        block.update(part);
    }
    out.copy_from_slice(&block.sign().as_ref()[..out.len()]);
}

/// KDFe (Part 1 §11.4.10.3) for as many bits as the hash has: one block.
fn kdfe(hash: &'static digest::Algorithm, z: &[u8], label: &[u8], u: &[u8], v: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut block = digest::Context::new(hash);
    for part in [&1_u32.to_be_bytes(), z, label, u, v] {
        block.update(part);
    }
    Zeroizing::new(block.finish().as_ref().to_vec())
}

/// ring's random numbers for `rsa`, whose trait is another.
struct SystemRng;

impl TryRng for SystemRng {
    type Error = MakeCredentialError;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes).map(|()| u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes).map(|()| u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Self::Error> {
        SystemRandom::new().fill(to).map_err(|_| MakeCredentialError::Random)
    }
}

impl TryCryptoRng for SystemRng {}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    /// Computed with Python's hmac and hashlib, and OpenSSL's AES-CFB.
    const NAME: [u8; 34] =
        *b"\x00\x0b\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\
        \x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f";

    fn counting<const N: usize>(from: u8) -> [u8; N] {
        std::array::from_fn(|at| from + u8::try_from(at).unwrap())
    }

    #[test]
    fn kdfa_gives_known_answers() {
        let mut short = [0; 16];
        kdfa(hmac::HMAC_SHA256, &counting::<32>(0), STORAGE, &NAME, &mut short);
        assert_eq!(short.as_slice(), hex("8b9746d9cde648e20ad34f7c5099ae8f"));
        let mut long = [0; 32];
        kdfa(hmac::HMAC_SHA384, &counting::<48>(0), STORAGE, &NAME, &mut long);
        assert_eq!(long.as_slice(), hex("d138828a891a7948ef5e558c804b3e481c56e4791c180ef4bae6cc9064289003"));
    }

    #[test]
    fn kdfe_gives_known_answers() {
        let low = kdfe(&digest::SHA256, &[7; 32], IDENTITY, &[8; 32], &[9; 32]);
        assert_eq!(*low, hex("52512a57bb49ac821f6aef275c624ced4b7b480c9dcf21ec4bd4231e57921ea4"));
        let high = kdfe(&digest::SHA384, &[7; 48], IDENTITY, &[8; 48], &[9; 48]);
        assert_eq!(
            *high,
            hex("37b28ba659bfc76dbb1f93c4e9e726af6773b3dd4a81212794cd049b619234e23f7e40346bb69c0bfd26a1f0ba1e5d58")
        );
    }

    #[test]
    fn a_sealed_secret_has_known_bytes_under_both_schemes() {
        let low = seal(&LOW, &counting::<32>(0), &NAME, &counting(100));
        assert_eq!(
            low,
            hex("002083e8c13f6262f73cafc963b498a5a7b68d4e082cfe8c947384789a37d69d4f0bb80560a4e42b9f6e440f15fc0a15\
             ccef7bacf72466aec1216492a20592b972856866")
        );
        let high = seal(&HIGH, &counting::<48>(0), &NAME, &counting(100));
        assert_eq!(
            high,
            hex("0030881be2ad4dcd538f4e268ab3ffe13c0d03418a237463d1e40155f8e4bb20641f94d7704d4ff417e61cf83f22f430\
             81de25e6cbd030ceaf2d02433b8ff0ec06986bc3b8502d46f33eb2b9cc7a61978d78270b")
        );
    }

    #[test]
    fn a_point_off_its_curve_and_an_even_modulus_get_no_credential() {
        for ek in [EkKey::P256([5; 64]), EkKey::P384([5; 96]), EkKey::Rsa2048(Box::new([0xFE; 256]))] {
            assert_eq!(make_credential(&ek, &NAME, &[1; 32]), Err(MakeCredentialError::InvalidKey));
        }
    }

    #[test]
    fn two_credentials_for_one_secret_have_nothing_in_common() {
        let mut modulus = [0xFF; 256];
        modulus[128] = 0x35;
        let ek = EkKey::Rsa2048(Box::new(modulus));
        let [one, two] = [(); 2].map(|()| make_credential(&ek, &NAME, &[1; 32]).unwrap());
        assert_ne!(one.id_object, two.id_object);
        assert_ne!(one.encrypted_secret, two.encrypted_secret);
    }
}
