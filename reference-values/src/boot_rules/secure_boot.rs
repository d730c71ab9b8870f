//! Secure Boot's variables as a log shows them: in, an event or a signature database; out, which variable it is, and the
//! digests that its entries go by.

use evidence::{
    Malformed,
    eventlog::{
        Content, EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, EV_EFI_VARIABLE_DRIVER_CONFIG, Event, Guid, Proof,
        Signature, signatures,
    },
    pcr::{HashAlgorithm, sha256_of},
};

use super::Keys;

/// PCR of Secure Boot's policy (PC Client Platform Firmware Profile §3.3.4.8).
const PCR: u32 = 7;

/// A variable that Secure Boot's state is told by (UEFI §32.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecureBootVariable {
    /// Whether images are checked: 1.
    SecureBoot,
    /// Whether there is no platform key, so that anybody may set one: 1.
    SetupMode,
    /// Whether images are checked but run whatever the outcome: 1.
    AuditMode,
    /// Whether the mode cannot be changed back: 1.
    DeployedMode,
    /// The platform key.
    Pk,
    /// Keys that may change db and dbx.
    Kek,
    /// What may run.
    Db,
    /// What may not.
    Dbx,
}

impl SecureBootVariable {
    const ALL: [(Self, Guid, &'static str); 8] = [
        (Self::SecureBoot, EFI_GLOBAL_VARIABLE, "SecureBoot"),
        (Self::SetupMode, EFI_GLOBAL_VARIABLE, "SetupMode"),
        (Self::AuditMode, EFI_GLOBAL_VARIABLE, "AuditMode"),
        (Self::DeployedMode, EFI_GLOBAL_VARIABLE, "DeployedMode"),
        (Self::Pk, EFI_GLOBAL_VARIABLE, "PK"),
        (Self::Kek, EFI_GLOBAL_VARIABLE, "KEK"),
        (Self::Db, EFI_IMAGE_SECURITY_DATABASE, "db"),
        (Self::Dbx, EFI_IMAGE_SECURITY_DATABASE, "dbx"),
    ];

    /// The variable that this event measures, with its data: in PCR 7, its type EV_EFI_VARIABLE_DRIVER_CONFIG, and the
    /// SHA-256 digest that of the whole. An event that only says so is none; its digest is judged like any other.
    #[must_use]
    pub fn of<'a>(event: &Event<'a>) -> Option<(Self, &'a [u8])> {
        if event.pcr != PCR || event.event_type != EV_EFI_VARIABLE_DRIVER_CONFIG {
            return None;
        }
        let Content::Variable(variable) = event.content() else { return None };
        let (which, ..) = Self::ALL.into_iter().find(|(_, vendor, name)| variable.is(*vendor, name))?;
        (event.proof(HashAlgorithm::Sha256) == Proof::Whole).then_some((which, variable.data))
    }
}

/// What an entry of a signature database goes by: SHA-256(SignatureType GUID ‖ SignatureData).
#[must_use]
pub fn key_of(entry: &Signature<'_>) -> [u8; 32] {
    sha256_of(&[&entry.kind.0, entry.data])
}

/// All entries of a signature database.
///
/// # Errors
/// [`Malformed`] where it is not one (UEFI §32.4.1).
pub fn keys_of(database: &[u8]) -> Result<Keys, Malformed> {
    signatures(database).map(|entry| Ok(key_of(&entry?))).collect()
}
