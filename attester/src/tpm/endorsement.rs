//! Endorsement keys: in goes a connection to the TPM, out come the keys that have a certificate in NV (TCG EK Credential
//! Profile 2.5), the certificates above them, and secrets from credentials made for them. Where NV holds none, the keys
//! are made from the default templates: then a verifier's operator has to list one of them.

use evidence::{
    limits::{MAX_EK_CERTIFICATE_BYTES, MAX_EK_CERTIFICATES},
    tpm::{EkKey, without_size},
};
use tss_esapi::{
    Context, Error, Result, WrapperErrorKind,
    abstraction::{AsymmetricAlgorithmSelection, DefaultKey, ek::create_ek_public_from_default_template_2},
    constants::SessionType,
    handles::{AuthHandle, KeyHandle, NvIndexHandle, ObjectHandle, SessionHandle, TpmHandle},
    interface_types::{
        algorithm::HashingAlgorithm,
        ecc::EccCurve,
        key_bits::RsaKeyBits,
        resource_handles::{Hierarchy, NvAuth},
        session_handles::{AuthSession, PolicySession},
    },
    structures::{Digest, DigestList, EncryptedSecret, IdObject, Nonce, SymmetricDefinition},
    traits::Marshall as _,
};
use zeroize::Zeroizing;

use super::handles;

/// First NV index of the EK certificate chain; the last is 0x01C001FF (profile §2.2.1.5.2).
const CHAIN_FIRST: u32 = 0x01C0_0100;
const CHAIN_LAST: u32 = 0x01C0_01FF;
/// Persistent handles reserved for endorsement keys (TCG Registry of Reserved TPM 2.0 Handles §2.3.1).
const EK_HANDLES_FIRST: u32 = 0x8101_0000;
const EK_HANDLES_LAST: u32 = 0x8101_FFFF;
/// Bytes in one TPM2_NV_Read: the smallest NV_BUFFER_MAX seen on TPMs is 512.
const NV_READ: u16 = 512;

/// PolicyA for SHA-384: TPM2_PolicySecret(TPM_RH_ENDORSEMENT) (profile B.6.2).
const POLICY_A_SHA384: [u8; 48] = [
    0x8B, 0xBF, 0x22, 0x66, 0x53, 0x7C, 0x17, 0x1C, 0xB5, 0x6E, 0x40, 0x3C, 0x4D, 0xC1, 0xD4, 0xB6, 0x4F, 0x43, 0x26,
    0x11, 0xDC, 0x38, 0x6E, 0x6F, 0x53, 0x20, 0x50, 0xC3, 0x27, 0x8C, 0x93, 0x0E, 0x14, 0x3E, 0x8B, 0xB1, 0x13, 0x38,
    0x24, 0xCC, 0xB4, 0x31, 0x05, 0x38, 0x71, 0xC6, 0xDB, 0x53,
];
/// PolicyC for SHA-384: TPM2_PolicyAuthorizeNV of the maker's index (profile B.6.4).
const POLICY_C_SHA384: [u8; 48] = [
    0xD6, 0x03, 0x2C, 0xE6, 0x1F, 0x2F, 0xB3, 0xC2, 0x40, 0xEB, 0x3C, 0xF6, 0xA3, 0x32, 0x37, 0xEF, 0x2B, 0x6A, 0x16,
    0xF4, 0x29, 0x3C, 0x22, 0xB4, 0x55, 0xE2, 0x61, 0xCF, 0xFD, 0x21, 0x7A, 0xD5, 0xB4, 0x94, 0x7C, 0x2D, 0x73, 0xE6,
    0x30, 0x05, 0xEE, 0xD2, 0xDC, 0x2B, 0x35, 0x93, 0xD1, 0x65,
];

/// Which template an endorsement key is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EkKind {
    /// Template L-2: ECC P-256.
    P256,
    /// Template H-3: ECC P-384.
    P384,
    /// Template L-1: RSA-2048.
    Rsa2048,
}

impl EkKind {
    /// All, in the order in which the device id is taken from them.
    pub const ALL: [Self; 3] = [Self::P256, Self::P384, Self::Rsa2048];

    /// Which kind a public area is, if it is one by the TCG default template to the last bit.
    #[must_use]
    pub fn of(public: &[u8]) -> Option<Self> {
        EkKey::of_public_area(public).map(|key| match key {
            EkKey::P256(_) => Self::P256,
            EkKey::P384(_) => Self::P384,
            EkKey::Rsa2048(_) => Self::Rsa2048,
        })
    }

    /// NV index of its certificate (profile §2.2.1.4 and §2.2.1.5).
    #[must_use]
    pub const fn certificate_index(self) -> u32 {
        match self {
            Self::P256 => 0x01C0_000A,
            Self::P384 => 0x01C0_0016,
            Self::Rsa2048 => 0x01C0_0002,
        }
    }

    const fn algorithm(self) -> AsymmetricAlgorithmSelection {
        match self {
            Self::P256 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
            Self::P384 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP384),
            Self::Rsa2048 => AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048),
        }
    }

    /// Hash of its policy.
    const fn policy_hash(self) -> HashingAlgorithm {
        match self {
            Self::P256 | Self::Rsa2048 => HashingAlgorithm::Sha256,
            Self::P384 => HashingAlgorithm::Sha384,
        }
    }
}

/// An endorsement key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndorsementKey {
    /// Which template.
    pub kind: EkKind,
    /// DER certificate by the TPM's maker, as it is in NV; all keys of a TPM have one here, or none has.
    pub certificate: Option<Vec<u8>>,
    /// TPMT_PUBLIC.
    pub public: Vec<u8>,
}

/// All endorsement keys of a TPM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndorsementKeys {
    /// In the order of [`EkKind::ALL`].
    pub keys: Vec<EndorsementKey>,
    /// DER certificates of issuers, where the TPM holds them.
    pub chain: Vec<Vec<u8>>,
}

impl EndorsementKeys {
    /// Whether the TPM's maker certified them.
    #[must_use]
    pub fn certified(&self) -> bool {
        self.keys.iter().all(|key| key.certificate.is_some())
    }

    /// SHA-256 of the first key's SubjectPublicKeyInfo, which is the device's id: as its certificate has it, byte for byte.
    /// `None` where there is no key by a default template.
    #[must_use]
    pub fn id(&self) -> Option<[u8; 32]> {
        Some(EkKey::of_public_area(&self.keys.first()?.public)?.digest())
    }
}

/// Reads certificates and public areas; without any certificate, public areas alone.
pub(super) fn read(context: &mut Context) -> Result<EndorsementKeys> {
    let indexes = handles(context, 0x0100_0000)?;
    let mut found = EndorsementKeys::default();
    for kind in EkKind::ALL {
        let Some(&index) = indexes.iter().find(|&&index| u32::from(index) == kind.certificate_index()) else {
            continue;
        };
        let padded = nv_read(context, index)?;
        // What is no certificate is nobody's word for the key: as if it were not there.
        let Some((certificate, _padding)) = split_der(&padded) else { continue };
        let public = with_ek(context, kind, |_, _, public| Ok(public.to_vec()))?;
        found.keys.push(EndorsementKey { kind, certificate: Some(certificate.to_vec()), public });
    }
    if found.keys.is_empty() {
        return without_certificates(context);
    }
    let mut concatenated = Vec::new();
    for &index in indexes.iter().filter(|&&index| (CHAIN_FIRST..=CHAIN_LAST).contains(&u32::from(index))) {
        concatenated.extend(nv_read(context, index)?);
        if concatenated.len() > MAX_EK_CERTIFICATE_BYTES {
            break;
        }
    }
    found.chain = split_chain(&concatenated);
    Ok(found)
}

/// A key of each kind that the TPM can make; of P-384 many can't.
fn without_certificates(context: &mut Context) -> Result<EndorsementKeys> {
    let mut found = EndorsementKeys::default();
    for kind in EkKind::ALL {
        match with_ek(context, kind, |_, _, public| Ok(public.to_vec())) {
            Ok(public) if EkKind::of(&public) == Some(kind) => {
                found.keys.push(EndorsementKey { kind, certificate: None, public });
            }
            // Nobody would accept what is off the template.
            Ok(_) => {}
            Err(error) if is_unsupported(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What a TPM answers to a template with a curve or a key size that it does not have: TPM_RC_CURVE, TPM_RC_VALUE,
/// TPM_RC_ASYMMETRIC, TPM_RC_KEY_SIZE, TPM_RC_HASH and TPM_RC_SYMMETRIC.
fn is_unsupported(error: &Error) -> bool {
    use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
    let unsupported = [Kind::Curve, Kind::Value, Kind::Asymmetric, Kind::KeySize, Kind::Hash, Kind::Symmetric];
    matches!(error, Error::Tss2Error(code) if code.kind().is_some_and(|kind| unsupported.contains(&kind)))
}

/// Certificates one after the other, as the chain's indexes hold them.
fn split_chain(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut chain = Vec::new();
    while let Some((certificate, rest)) = split_der(bytes)
        && chain.len() < MAX_EK_CERTIFICATES
    {
        chain.push(certificate.to_vec());
        bytes = rest;
    }
    chain
}

/// One DER SEQUENCE and what follows it: NV indexes are often larger than their certificate.
fn split_der(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, length) = match bytes {
        [0x30, length @ 0..=0x7F, ..] => (2, usize::from(*length)),
        [0x30, 0x81, length, ..] => (3, usize::from(*length)),
        [0x30, 0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => return None,
    };
    bytes.split_at_checked(header + length)
}

/// Content of an NV index, read with its own empty authorisation, or the owner's.
fn nv_read(context: &mut Context, index: TpmHandle) -> Result<Vec<u8>> {
    let mut object = context.execute_without_session(|context| context.tr_from_tpm_public(index))?;
    let handle = NvIndexHandle::from(object);
    let content =
        nv_read_all(context, handle, NvAuth::NvIndex(handle)).or_else(|_| nv_read_all(context, handle, NvAuth::Owner));
    context.tr_close(&mut object)?;
    content
}

fn nv_read_all(context: &mut Context, handle: NvIndexHandle, auth: NvAuth) -> Result<Vec<u8>> {
    let (public, _) = context.execute_without_session(|context| context.nv_read_public(handle))?;
    // At most 64 KiB: the size has 16 bits.
    let size = u16::try_from(public.data_size()).unwrap_or(u16::MAX);
    let mut content = Vec::with_capacity(usize::from(size));
    for offset in (0..size).step_by(usize::from(NV_READ)) {
        let length = NV_READ.min(size - offset);
        let part = context.execute_with_session(Some(AuthSession::Password), |context| {
            context.nv_read(auth, handle, length, offset)
        })?;
        content.extend_from_slice(part.value());
    }
    Ok(content)
}

/// Lends an endorsement key: its persistent handle where there is one, else made again from the TCG default template
/// (TPM2_Clear evicts persistent keys; the key is the same).
fn with_ek<T>(
    context: &mut Context,
    kind: EkKind,
    task: impl FnOnce(&mut Context, KeyHandle, &[u8]) -> Result<T>,
) -> Result<T> {
    for handle in handles(context, EK_HANDLES_FIRST)? {
        if !(EK_HANDLES_FIRST..=EK_HANDLES_LAST).contains(&u32::from(handle)) {
            continue;
        }
        let mut object = context.execute_without_session(|context| context.tr_from_tpm_public(handle))?;
        let key = KeyHandle::from(object);
        // tss-esapi reads fewer kinds of keys than TPMs have; what it does not read is not ours.
        let public = context.execute_without_session(|context| context.read_public(key));
        let public = public.and_then(|(public, ..)| public.marshall()).unwrap_or_default();
        if EkKind::of(&public) == Some(kind) {
            let done = task(context, key, &public);
            context.tr_close(&mut object)?;
            return done;
        }
        context.tr_close(&mut object)?;
    }
    let template = create_ek_public_from_default_template_2(kind.algorithm(), Some(DefaultKey))?;
    let created = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
    })?;
    let public = created.out_public.marshall()?;
    context.execute_with_temporary_object(ObjectHandle::from(created.key_handle), |context, _| {
        task(context, created.key_handle, &public)
    })
}

/// TPM2_ActivateCredential: proves that attestation key and endorsement key live in one TPM.
pub(super) fn activate(
    context: &mut Context,
    ak: KeyHandle,
    kind: EkKind,
    id_object: &[u8],
    encrypted_secret: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let id_object = IdObject::try_from(without_size(id_object))?;
    let secret = EncryptedSecret::try_from(without_size(encrypted_secret))?;
    with_ek(context, kind, |context, ek, _| {
        let policy = ek_policy(context, kind)?;
        let sessions = (Some(AuthSession::Password), Some(AuthSession::PolicySession(policy)), None);
        let activated =
            context.execute_with_sessions(sessions, |context| context.activate_credential(ak, ek, id_object, secret));
        let flushed = context.flush_context(ObjectHandle::from(SessionHandle::from(policy)));
        let credential = activated?;
        flushed?;
        Ok(Zeroizing::new(credential.value().to_vec()))
    })
}

/// A policy session that satisfies the policy of the kind's template: PolicyA, or PolicyB by its branch PolicyA
/// (profile B.6).
fn ek_policy(context: &mut Context, kind: EkKind) -> Result<PolicySession> {
    let started = context.execute_without_session(|context| {
        let cipher = SymmetricDefinition::AES_128_CFB;
        context.start_auth_session(None, None, None, SessionType::Policy, cipher, kind.policy_hash())
    })?;
    let session = started.ok_or(Error::WrapperError(WrapperErrorKind::WrongValueFromTpm))?;
    let policy = PolicySession::try_from(session)?;
    let satisfied = satisfy(context, kind, policy);
    if satisfied.is_err() {
        context.flush_context(ObjectHandle::from(SessionHandle::from(policy)))?;
    }
    satisfied.map(|()| policy)
}

fn satisfy(context: &mut Context, kind: EkKind, policy: PolicySession) -> Result<()> {
    let (no_nonce, no_digest) = (Nonce::default, Digest::default);
    let _ticket = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.policy_secret(policy, AuthHandle::Endorsement, no_nonce(), no_digest(), no_nonce(), None)
    })?;
    if kind == EkKind::P384 {
        let mut branches = DigestList::new();
        branches.add(Digest::try_from(POLICY_A_SHA384.as_slice())?)?;
        branches.add(Digest::try_from(POLICY_C_SHA384.as_slice())?)?;
        context.execute_without_session(|context| context.policy_or(policy, branches))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_after_a_certificate_is_cut_and_what_is_cut_short_is_none() {
        assert_eq!(split_der(&[0x30, 2, 1, 2, 0xFF, 0xFF]), Some((&[0x30, 2, 1, 2][..], &[0xFF, 0xFF][..])));
        assert_eq!(split_der(&[0x30, 0x82, 0, 1, 9]), Some((&[0x30, 0x82, 0, 1, 9][..], &[][..])));
        for bad in [&[][..], &[0x30], &[0x30, 2, 1], &[0x30, 0x82, 1], &[0x31, 0], &[0x30, 0x80, 0, 0], &[0xFF; 9]] {
            assert_eq!(split_der(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_chain_ends_where_padding_begins_and_has_a_bound() {
        assert_eq!(split_chain(&[0x30, 1, 7, 0x30, 0, 0xFF, 0xFF]), [vec![0x30, 1, 7], vec![0x30, 0]]);
        assert_eq!(split_chain(&[0x30, 0].repeat(100)).len(), MAX_EK_CERTIFICATES);
    }

    #[test]
    fn policy_b_of_the_evidence_crate_is_the_or_of_these_branches() {
        // TPM2_PolicyOR (Part 3 §23.6): H(0… ‖ TPM_CC_PolicyOR ‖ digests).
        let input = [[0; 48].as_slice(), &0x0171_u32.to_be_bytes(), &POLICY_A_SHA384, &POLICY_C_SHA384].concat();
        let or = ring::digest::digest(&ring::digest::SHA384, &input);
        assert_eq!(or.as_ref(), evidence::tpm::EK_POLICY_B_SHA384);
    }
}
