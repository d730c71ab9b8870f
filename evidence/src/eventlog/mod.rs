//! The boot log (TCG PC Client Platform Firmware Profile 1.06 §10): bytes in; borrowed events, replayed PCRs, what the
//! events say and a list of what is odd out.
//!
//! Both formats of the profile are read: TCG_PCR_EVENT (SHA-1 only) and the crypto-agile one, whose first event names the
//! banks; and coreboot's own table. Nothing in a log is proof before its replay equals quoted PCRs, and even then only
//! digests are: event types and event data are not extended. [`Event::proof`] tells where data is bound by its digest.

mod command_line;
mod content;
mod coreboot;
mod device_path;
mod event_type;
mod read;
mod replay;
mod show;
#[cfg(test)]
mod tests;
mod text;
mod variable;

pub use command_line::{CommandLineEvent, INITRD_TAG, LOAD_OPTIONS_TAG};
pub use content::{Blob, Content, Gpt, Image, Partition, Proof, Separator, SpecId, Structure, Tables, Tagged, Words};
pub use device_path::DevicePath;
pub use event_type::*;
pub use read::{DeclaredAlgorithm, Event, EventLog, Events, Format, looks_like};
pub(crate) use replay::extend;
pub use replay::{Bank, Replay};
pub use text::{Ascii, Hex, Utf16};
pub use variable::{
    EFI_CERT_SHA256, EFI_CERT_X509, EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, Guid, LoadOption, SHIM_LOCK,
    Signature, Signatures, Variable, signatures,
};

use crate::limits::MAX_PROBLEMS;

const WHAT: &str = "TCG event log";
/// PCRs of a PC Client TPM: 0 to 23.
pub const PCR_COUNT: u32 = 24;
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// Something in a log that decodes, but is not as its standard wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Index of the event or entry.
    pub index: usize,
    /// Stable code.
    pub code: &'static str,
    /// What exactly, for people.
    pub detail: String,
}

/// Notes a problem; after [`MAX_PROBLEMS`] only that there are more.
pub(crate) fn note(problems: &mut Vec<Problem>, index: usize, code: &'static str, detail: impl FnOnce() -> String) {
    if problems.len() < MAX_PROBLEMS {
        problems.push(Problem { index, code, detail: detail() });
    } else if problems.len() == MAX_PROBLEMS {
        problems.push(Problem { index, code: "log.more-problems", detail: "from here on they are not listed".into() });
    }
}
