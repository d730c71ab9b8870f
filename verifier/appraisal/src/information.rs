//! What is worth knowing of a device and does not lower its verdict: the table of information, and one piece of it.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::UnixSeconds;

/// Pieces kept per device.
pub const MAX_INFORMATION: usize = 16;

macro_rules! notices {
    ($($name:ident: $code:literal, $meaning:literal;)*) => {
        /// Every kind of information that this verifier gives.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "each row says what it means")]
        pub enum Notice { $($name),* }

        impl Notice {
            /// All of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Stable code.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// What it means, in plain words.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning),* }
            }
        }
    };
}

notices! {
    TpmClockNotSafe: "tpm.clock-not-safe",
        "The TPM lost power without an orderly shutdown, so its clock may have gone back by what it had not saved yet: a power cut, or a forced reset. It ends by itself once the clock has passed what it may have shown before.";
    TpmFirmwareChanged: "tpm.firmware-changed",
        "The TPM states another firmware version than in the boot before: its firmware was updated, or went back.";
    BootVendorEvent: "boot.vendor-event",
        "The boot log holds events of types that no standard names, in PCRs that hold configuration and no code (1, 3, 5, 6), from before the operating system. No rule of the release is about them.";
    BootResumed: "boot.resumed",
        "The device slept and woke within this boot: PCRs and logs went on.";
}

impl Notice {
    /// From the stable code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.code() == code)
    }
}

impl Serialize for Notice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Notice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Self::from_code(&code).ok_or_else(|| D::Error::custom(format!("unknown information {code}")))
    }
}

/// One piece of information about one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Information {
    /// Which.
    pub code: Notice,
    /// What and where.
    pub detail: String,
    /// Since when, seconds since 1970.
    pub since: UnixSeconds,
}
