//! The device's TPM: in go nonces, messages and measurements; out come quotes, signatures and PCR values, all made by
//! one attestation key that never leaves it. Nothing about the key is stored: it is made again from its template.
//!
//! One connection is kept, with the attestation key loaded. A command that fails is tried once more on a new
//! connection, since a TPM behind a socket may have restarted; extending a PCR never is, since nobody knows whether the
//! first one was carried out (the runtime log finds that out from the PCR).

mod endorsement;

use evidence::{
    Malformed,
    limits::MAX_SIG_STRUCTURE,
    pcr::{PROFILE_PCRS, PcrValues, sha256_of},
    tpm::{AkPublic, Attest, Counters, P256Point, join_ecdsa_signature},
};
use thiserror::Error;
use tss_esapi::{
    Context, TctiNameConf, WrapperErrorKind,
    constants::{CapabilityType, PropertyTag, response_code::Tss2ResponseCodeKind},
    handles::{KeyHandle, ObjectHandle, PcrHandle, TpmHandle},
    interface_types::{algorithm::HashingAlgorithm, resource_handles::Hierarchy, session_handles::AuthSession},
    structures::{
        Auth, CapabilityData, Data, Digest, DigestValues, MaxBuffer, PcrSelectionList, PcrSlot, Public, Signature,
        SignatureScheme,
    },
    traits::{Marshall as _, UnMarshall as _},
};
use zeroize::Zeroizing;

use crate::config::{Config, Secret};
pub use endorsement::{EkKind, EndorsementKey, EndorsementKeys};

/// Where the TPM is when nobody says otherwise: the kernel's resource manager, which shares it among programs.
pub const DEFAULT_TCTI: &str = "device:/dev/tpmrm0";
/// How often a set of PCRs is read again because another program extended one meanwhile. Boot is over: once is rare.
const MAX_PCR_READS: usize = 8;
/// Handles asked for in one TPM2_GetCapability: what fits the smallest response (TPM 2.0 Part 2, MAX_CAP_HANDLES).
const HANDLES_AT_ONCE: u32 = 254;
/// Handles of one kind that we look at: a TPM has room for a few dozen.
const MAX_HANDLES: usize = 1024;
/// First loaded session (TPM 2.0 Part 2 §7.4, HR_HMAC_SESSION).
const LOADED_SESSIONS: u32 = 0x0200_0000;
/// First transient object (same, HR_TRANSIENT).
const TRANSIENT_OBJECTS: u32 = 0x8000_0000;

/// What went wrong at the TPM.
#[derive(Debug, Error)]
pub enum TpmError {
    /// `tcti` is not understood.
    #[error(
        "`tcti = \"{0}\"` names no TPM: use device:/dev/tpmrm0, tabrmd, swtpm:host=HOST,port=PORT or mssim:host=HOST,port=PORT"
    )]
    Tcti(String),
    /// Nothing answers there.
    #[error(
        "no TPM answers at {tcti}: {source}. Is there one, is its driver loaded, may this user open it (group `tss`)? \
         Another place is set with `tcti`"
    )]
    Absent {
        /// Where it was looked for.
        tcti: String,
        /// What the TPM's software stack says.
        source: tss_esapi::Error,
    },
    /// The endorsement hierarchy does not let us in.
    #[error(
        "the TPM's endorsement hierarchy is disabled or asks for another authorisation value ({0}): set \
         `endorsement_auth`, or enable the hierarchy in the firmware's setup"
    )]
    EndorsementHierarchy(tss_esapi::Error),
    /// A command failed, twice where it could be repeated.
    #[error("the TPM refused to {what}: {source}")]
    Command {
        /// What it was asked to do.
        what: &'static str,
        /// What it answered.
        source: tss_esapi::Error,
    },
    /// It answered with something that is not what the standard says.
    #[error("the TPM answered strangely when asked to {what}: {why}")]
    Answer {
        /// What it was asked to do.
        what: &'static str,
        /// What is wrong with the answer.
        why: String,
    },
    /// No EK by any default template.
    #[error(
        "this TPM makes no endorsement key by the TCG's default templates for ECC P-256, ECC P-384 and RSA-2048: it cannot \
         be told from others"
    )]
    NoEndorsementKey,
    /// After a reconnect another TPM answered.
    #[error("another TPM than before answers at {0}: start again to enrol it as the device that it is")]
    AnotherTpm(String),
    /// What is to be signed does not fit one TPM2_Hash.
    #[error("{0} bytes are too many to sign: a TPM hashes {MAX_SIG_STRUCTURE} at once")]
    TooLong(usize),
}

impl TpmError {
    fn malformed(what: &'static str) -> impl Fn(Malformed) -> Self {
        move |malformed| Self::Answer { what, why: malformed.to_string() }
    }
}

/// How to reach the TPM and which attestation key to use.
#[derive(Debug, Clone)]
pub struct TpmConfig {
    /// `device:…`, `swtpm:host=…,port=…`, `mssim:…` or `tabrmd`.
    pub tcti: String,
    /// Authorisation value of the endorsement hierarchy; empty where none was set.
    pub endorsement_auth: Secret,
    /// Which of this TPM's attestation keys: an owner raises it at resale, to be another device than before.
    pub ak_counter: u32,
}

impl From<&Config> for TpmConfig {
    fn from(config: &Config) -> Self {
        Self {
            tcti: config.tcti.clone(),
            endorsement_auth: config.endorsement_auth.clone(),
            ak_counter: config.ak_counter,
        }
    }
}

/// A PCR that the runtime log may use: 12 to 15. What comes before belongs to firmware, boot loader and IMA; 16 and 23
/// can be reset by anyone, 17 to 22 by some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimePcr(u8);

impl RuntimePcr {
    /// PCR 14: shim's at boot only, nobody's after it.
    pub const DEFAULT: Self = Self(14);

    /// `None` outside 12 to 15.
    #[must_use]
    pub const fn new(index: u8) -> Option<Self> {
        if index >= 12 && index <= 15 { Some(Self(index)) } else { None }
    }

    /// Index of the PCR.
    #[must_use]
    pub const fn index(self) -> u8 {
        self.0
    }

    const fn handle(self) -> PcrHandle {
        match self.0 {
            12 => PcrHandle::Pcr12,
            13 => PcrHandle::Pcr13,
            15 => PcrHandle::Pcr15,
            _ => PcrHandle::Pcr14,
        }
    }
}

/// What a quote consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// ECDSA over its SHA-256 by the attestation key, r ‖ s.
    pub signature: [u8; 64],
}

impl Quote {
    /// The TPM's counters when it quoted.
    ///
    /// # Errors
    /// Where the TPM's own structure does not read.
    pub fn counters(&self) -> Result<Counters, TpmError> {
        Attest::read(&self.attest).map(|attest| attest.counters).map_err(TpmError::malformed("quote its PCRs"))
    }
}

/// What a TPM says of itself (TPM 2.0 Part 2 §6.13, TPM_PT_FIXED).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Maker, four letters of the TCG's registry.
    pub manufacturer: String,
    /// Firmware version, both halves.
    pub firmware: (u32, u32),
    /// Revision of the standard, times 100.
    pub revision: u32,
}

/// A connection with the attestation key loaded.
struct Session {
    context: Context,
    ak: KeyHandle,
    ak_public: AkPublic,
}

/// The TPM.
pub struct Tpm {
    config: TpmConfig,
    /// `None` after a failure, until the next command connects again.
    session: Option<Session>,
    ak_public: AkPublic,
    connections: u64,
}

impl std::fmt::Debug for Tpm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tpm").field("tcti", &self.config.tcti).finish_non_exhaustive()
    }
}

impl Tpm {
    /// Connects, clears what crashed programs left behind, and makes the attestation key.
    ///
    /// # Errors
    /// [`TpmError`]: no TPM, no way into its endorsement hierarchy.
    pub fn open(config: &TpmConfig) -> Result<Self, TpmError> {
        let session = Session::open(config)?;
        Ok(Self { config: config.clone(), ak_public: session.ak_public, session: Some(session), connections: 1 })
    }

    /// Who made it, and which firmware it has.
    ///
    /// # Errors
    /// Where the TPM fails.
    pub fn properties(&mut self) -> Result<Properties, TpmError> {
        self.run("tell its properties", |session| {
            let mut property = |tag| Ok(session.context.get_tpm_property(tag)?.unwrap_or_default());
            let manufacturer: u32 = property(PropertyTag::Manufacturer)?;
            let manufacturer = String::from_utf8_lossy(&manufacturer.to_be_bytes()).trim_matches('\0').to_owned();
            let firmware = (property(PropertyTag::FirmwareVersion1)?, property(PropertyTag::FirmwareVersion2)?);
            Ok(Properties { manufacturer, firmware, revision: property(PropertyTag::Revision)? })
        })
    }

    /// How many connections were made so far. Where it grew, the TPM may have been restarted meanwhile.
    #[must_use]
    pub const fn connections(&self) -> u64 {
        self.connections
    }

    /// The attestation key's public area.
    #[must_use]
    pub const fn ak_public(&self) -> &AkPublic {
        &self.ak_public
    }

    /// Where the TPM is.
    #[must_use]
    pub fn tcti(&self) -> &str {
        &self.config.tcti
    }

    /// Endorsement keys that have a certificate, and the certificates above them; where none has, those that the TPM can
    /// make.
    ///
    /// # Errors
    /// [`TpmError::NoEndorsementKey`], or a command that failed.
    pub fn endorsement_keys(&mut self) -> Result<EndorsementKeys, TpmError> {
        self.run("read its endorsement certificates", |session| endorsement::read(&mut session.context))
            .and_then(|keys| if keys.keys.is_empty() { Err(TpmError::NoEndorsementKey) } else { Ok(keys) })
    }

    /// Opens a credential that was made for this attestation key and one of our endorsement keys
    /// (TPM2_ActivateCredential). Both inputs are taken with or without their TPM2B size.
    ///
    /// # Errors
    /// Where the credential is for another key, or the TPM fails.
    pub fn activate_credential(
        &mut self,
        ek: EkKind,
        id_object: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        self.run("activate a credential", |session| {
            endorsement::activate(&mut session.context, session.ak, ek, id_object, encrypted_secret)
        })
    }

    /// Quotes the profile's PCRs (SHA-256 bank, 0 to 15).
    ///
    /// # Errors
    /// Where the TPM fails.
    pub fn quote(&mut self, extra_data: &[u8; 32]) -> Result<Quote, TpmError> {
        const WHAT: &str = "quote its PCRs";
        let (attest, signature) = self.run(WHAT, |session| {
            let selection = selection(0..PROFILE_PCRS)?;
            let data = Data::try_from(extra_data.to_vec())?;
            let ak = session.ak;
            // A password session: an HMAC session makes the same quote seven times as slow, and protects nothing here.
            let (attest, signature) = session.context.execute_with_session(Some(AuthSession::Password), |context| {
                context.quote(ak, data, SignatureScheme::Null, selection)
            })?;
            Ok((attest.marshall()?, signature))
        })?;
        Ok(Quote { attest, signature: ecdsa(WHAT, &signature)? })
    }

    /// Signs what is not the TPM's own: hashed inside, so that the restricted key may (TPM 2.0 Part 3 §15.4, §20.2).
    ///
    /// # Errors
    /// [`TpmError::TooLong`], or a command that failed.
    pub fn sign(&mut self, message: &[u8]) -> Result<[u8; 64], TpmError> {
        const WHAT: &str = "sign";
        if message.len() > MAX_SIG_STRUCTURE {
            return Err(TpmError::TooLong(message.len()));
        }
        let signature = self.run(WHAT, |session| {
            let message = MaxBuffer::try_from(message)?;
            let (digest, ticket) = session.context.execute_without_session(|context| {
                context.hash(message, HashingAlgorithm::Sha256, Hierarchy::Endorsement)
            })?;
            let ak = session.ak;
            session.context.execute_with_session(Some(AuthSession::Password), |context| {
                context.sign(ak, digest, SignatureScheme::Null, ticket)
            })
        })?;
        ecdsa(WHAT, &signature)
    }

    /// The profile's PCRs, all at one instant: read again where one changed between two reads.
    ///
    /// # Errors
    /// Where the TPM fails, or its PCRs never rest.
    pub fn pcr_values(&mut self) -> Result<PcrValues, TpmError> {
        const WHAT: &str = "read its PCRs";
        for _ in 0..MAX_PCR_READS {
            // A TPM returns 8 digests at a time (TPM 2.0 Part 3 §22.4).
            let half = PROFILE_PCRS / 2;
            let (first, low) = self.read_pcrs(0..half)?;
            let (last, high) = self.read_pcrs(half..PROFILE_PCRS)?;
            if first == last {
                let bytes: Vec<u8> = [low, high].concat().concat();
                return PcrValues::from_bytes(&bytes)
                    .ok_or_else(|| TpmError::Answer { what: WHAT, why: "other PCRs than asked for".to_owned() });
            }
        }
        Err(TpmError::Answer { what: WHAT, why: format!("they changed during each of {MAX_PCR_READS} reads") })
    }

    /// One PCR of the runtime log.
    ///
    /// # Errors
    /// Where the TPM fails.
    pub fn pcr(&mut self, pcr: RuntimePcr) -> Result<[u8; 32], TpmError> {
        let index = usize::from(pcr.index());
        let (_, values) = self.read_pcrs(index..index + 1)?;
        values.first().copied().ok_or_else(|| TpmError::Answer { what: "read a PCR", why: "no value".to_owned() })
    }

    /// Update counter and values of PCRs in the SHA-256 bank.
    fn read_pcrs(&mut self, pcrs: std::ops::Range<usize>) -> Result<(u32, Vec<[u8; 32]>), TpmError> {
        const WHAT: &str = "read its PCRs";
        let expected = pcrs.len();
        let (counter, digests) = self.run(WHAT, |session| {
            let selection = selection(pcrs.clone())?;
            let (counter, _, digests) =
                session.context.execute_without_session(|context| context.pcr_read(selection))?;
            Ok((counter, digests))
        })?;
        let values: Vec<[u8; 32]> =
            digests.value().iter().filter_map(|digest| digest.value().try_into().ok()).collect();
        if values.len() != expected {
            let why = format!("{} of {expected} SHA-256 values: is the TPM's SHA-256 bank active?", values.len());
            return Err(TpmError::Answer { what: WHAT, why });
        }
        Ok((counter, values))
    }

    /// Extends a PCR (SHA-256 bank). Never repeated: see above.
    ///
    /// # Errors
    /// Where the TPM fails; the PCR may have been extended all the same.
    pub fn extend(&mut self, pcr: RuntimePcr, digest: &[u8; 32]) -> Result<(), TpmError> {
        const WHAT: &str = "extend a PCR";
        let extended = self.session()?.extend(pcr, digest);
        extended.map_err(|source| {
            self.session = None;
            TpmError::Command { what: WHAT, source }
        })
    }

    /// The TPM's reset and restart counters and its clock, as a quote shows them.
    ///
    /// # Errors
    /// Where the TPM fails.
    pub fn counters(&mut self) -> Result<Counters, TpmError> {
        self.quote(&[0; 32])?.counters()
    }

    /// The connection; made again where the last command broke it.
    fn session(&mut self) -> Result<&mut Session, TpmError> {
        if self.session.is_none() {
            let session = Session::open(&self.config)?;
            if session.ak_public != self.ak_public {
                return Err(TpmError::AnotherTpm(self.config.tcti.clone()));
            }
            self.session = Some(session);
            self.connections += 1;
        }
        self.session.as_mut().ok_or_else(|| TpmError::AnotherTpm(self.config.tcti.clone()))
    }

    /// Runs a command that may be repeated: once, and once more on a new connection.
    fn run<T>(
        &mut self,
        what: &'static str,
        command: impl Fn(&mut Session) -> tss_esapi::Result<T>,
    ) -> Result<T, TpmError> {
        if let Ok(done) = command(self.session()?) {
            return Ok(done);
        }
        self.session = None;
        command(self.session()?).map_err(|source| {
            self.session = None;
            TpmError::Command { what, source }
        })
    }
}

impl Session {
    fn open(config: &TpmConfig) -> Result<Self, TpmError> {
        let absent = |source| TpmError::Absent { tcti: config.tcti.clone(), source };
        let mut context = Context::new(parse_tcti(&config.tcti)?).map_err(absent)?;
        if !has_resource_manager(&config.tcti) {
            flush_left_behind(&mut context).map_err(absent)?;
        }
        let auth = Auth::try_from(config.endorsement_auth.expose()).map_err(TpmError::EndorsementHierarchy)?;
        context.tr_set_auth(ObjectHandle::Endorsement, auth).map_err(absent)?;
        let (ak, ak_public) = create_ak(&mut context, config.ak_counter)?;
        Ok(Self { context, ak, ak_public })
    }

    fn extend(&mut self, pcr: RuntimePcr, digest: &[u8; 32]) -> tss_esapi::Result<()> {
        let mut digests = DigestValues::new();
        digests.set(HashingAlgorithm::Sha256, Digest::try_from(digest.to_vec())?);
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(pcr.handle(), digests))
    }
}

/// TCTI from its text. tss-esapi ignores options that it does not know and goes to the default port instead, where
/// another TPM may answer: such options are refused here.
fn parse_tcti(tcti: &str) -> Result<TctiNameConf, TpmError> {
    let refused = || TpmError::Tcti(tcti.to_owned());
    if let Some(("swtpm" | "mssim", options)) = tcti.split_once(':') {
        let known = |option: &str| option.starts_with("host=") || option.starts_with("port=");
        if !options.split(',').all(known) {
            return Err(refused());
        }
    }
    tcti.parse().map_err(|_| refused())
}

/// Whether somebody else keeps the TPM's few slots in order, and shares it among programs.
#[must_use]
pub fn has_resource_manager(tcti: &str) -> bool {
    tcti.starts_with("tabrmd") || tcti.contains("tpmrm")
}

/// Three transient objects and three sessions fit a TPM: what a crashed program left there must go (TPM_RC_OBJECT_MEMORY
/// 0x902 otherwise).
fn flush_left_behind(context: &mut Context) -> tss_esapi::Result<()> {
    for first in [TRANSIENT_OBJECTS, LOADED_SESSIONS] {
        for handle in handles(context, first)? {
            let object = context.execute_without_session(|context| context.tr_from_tpm_public(handle))?;
            match context.flush_context(object) {
                // Flushed all the same: tss-esapi has policy sessions down as handles to be closed.
                Ok(()) | Err(tss_esapi::Error::WrapperError(WrapperErrorKind::InvalidHandleState)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Handles of the kind of `first`, from there on (TPM2_GetCapability).
fn handles(context: &mut Context, first: u32) -> tss_esapi::Result<Vec<TpmHandle>> {
    let mut all: Vec<TpmHandle> = Vec::new();
    let mut next = first;
    loop {
        let (capability, more) = context.execute_without_session(|context| {
            context.get_capability(CapabilityType::Handles, next, HANDLES_AT_ONCE)
        })?;
        let CapabilityData::Handles(list) = capability else { return Ok(all) };
        let list = list.into_inner();
        let Some(last) = list.last().map(|&handle| u32::from(handle)) else { return Ok(all) };
        all.extend(list);
        if !more || last < next || all.len() >= MAX_HANDLES {
            return Ok(all);
        }
        next = last.saturating_add(1);
    }
}

/// Makes the attestation key: a primary key of the endorsement hierarchy, whose template is the profile's public area
/// with a fixed `unique` in place of the point. The hierarchy's seed and the template give the same key every time, also
/// after TPM2_Clear, which leaves that seed as it is (TPM 2.0 Part 1 §14.3).
fn create_ak(context: &mut Context, counter: u32) -> Result<(KeyHandle, AkPublic), TpmError> {
    const WHAT: &str = "make its attestation key";
    let failed = |source| match source {
        tss_esapi::Error::Tss2Error(code)
            if matches!(
                code.kind(),
                Some(Tss2ResponseCodeKind::BadAuth | Tss2ResponseCodeKind::AuthFail | Tss2ResponseCodeKind::Hierarchy)
            ) =>
        {
            TpmError::EndorsementHierarchy(source)
        }
        source => TpmError::Command { what: WHAT, source },
    };
    let unique = P256Point { x: ak_unique(counter), y: [0; 32] };
    let template = Public::unmarshall(&AkPublic::from_point(unique).area()).map_err(failed)?;
    let created = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
        })
        .map_err(failed)?;
    let area = created.out_public.marshall().map_err(failed)?;
    Ok((created.key_handle, AkPublic::read(&area).map_err(TpmError::malformed(WHAT))?))
}

/// `unique.x` of the template: SHA-256("countersign attestation key" ‖ counter), the counter in 4 big-endian bytes;
/// `unique.y` is zero.
fn ak_unique(counter: u32) -> [u8; 32] {
    sha256_of(&[b"countersign attestation key", &counter.to_be_bytes()])
}

/// PCRs of the SHA-256 bank, with a sizeofSelect of 3: what the profile's quotes have.
fn selection(pcrs: std::ops::Range<usize>) -> tss_esapi::Result<PcrSelectionList> {
    let slots = pcrs.map(|index| PcrSlot::try_from(1_u32 << index)).collect::<Result<Vec<_>, _>>()?;
    PcrSelectionList::builder().with_selection(HashingAlgorithm::Sha256, &slots).build()
}

fn ecdsa(what: &'static str, signature: &Signature) -> Result<[u8; 64], TpmError> {
    let strange = |why: &str| TpmError::Answer { what, why: why.to_owned() };
    match signature {
        Signature::EcDsa(signature) => {
            join_ecdsa_signature(signature.signature_r().value(), signature.signature_s().value())
                .ok_or_else(|| strange("r or s is longer than 32 bytes"))
        }
        _ => Err(strange("a signature that is not ECDSA")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcti_options_that_the_library_would_ignore_are_refused() {
        assert!(parse_tcti("swtpm:host=127.0.0.1,port=4321").is_ok());
        assert!(parse_tcti("device:/dev/tpmrm0").is_ok());
        for bad in ["swtpm:path=/run/tpm", "mssim:tpm", "swtpm:host=a,prot=1", "", "usb:1"] {
            assert!(matches!(parse_tcti(bad), Err(TpmError::Tcti(_))), "{bad}");
        }
    }

    #[test]
    fn an_absent_tpm_is_named_with_the_place_where_it_was_looked_for() {
        let config = TpmConfig {
            tcti: "device:/nonexistent/tpm".to_owned(),
            endorsement_auth: Secret::default(),
            ak_counter: 0,
        };
        let said = Tpm::open(&config).unwrap_err().to_string();
        assert!(said.contains("device:/nonexistent/tpm") && said.contains("`tcti`"), "{said}");
    }

    #[test]
    fn the_runtime_log_may_use_pcr_12_to_15_only() {
        assert!((0..=255).filter_map(RuntimePcr::new).map(RuntimePcr::index).eq(12..=15));
    }
}
