//! What is worth knowing of a device and does not lower its verdict: the table of information, and one piece of it.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    UnixSeconds,
    appraise::Input,
    state::{BootState, DeviceState},
};

/// Pieces kept per device.
const MAX_INFORMATION: usize = 16;

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
    ReleaseUpdating: "release.updating",
        "The device is in the middle of an update: files of two releases that follow each other run beside each other. The detail says until when that may be.";
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

/// What evidence, and what came before it, have to tell beside the verdict.
pub(crate) fn tell(input: &Input<'_>, boot: &BootState, new_boot: bool) -> Vec<Information> {
    let quote = input.evidence.evidence().quote();
    let mut told: Vec<(Notice, String)> = Vec::new();
    if !quote.safe {
        told.push((Notice::TpmClockNotSafe, format!("since the start of the TPM with resetCount {}", boot.reset)));
    }
    let before = input.state.map_or(quote.firmware_version, |state| state.firmware_version);
    if before != quote.firmware_version {
        let detail = format!("from {before:#018x} to {:#018x}", quote.firmware_version);
        told.push((Notice::TpmFirmwareChanged, detail));
    }
    let events = boot.judged.iter().rev().min_by_key(|judged| judged.broken);
    told.extend(
        events.into_iter().flat_map(|of| &of.vendor_events).map(|event| (Notice::BootVendorEvent, event.clone())),
    );
    let held = input.state.map(|state| &state.boot).filter(|_| !new_boot);
    let slept = held.is_some_and(|held| held.resumed_from.unwrap_or(held.restart) != boot.restart);
    if slept && boot.resumed_from.is_none() {
        told.push((Notice::BootResumed, format!("restartCount is {}", boot.restart)));
    }
    with_earlier(input, told, new_boot)
}

/// The same once more, of a boot that was held against other rules: what evidence alone tells is as it was.
pub(crate) fn tell_again(state: &DeviceState, boot: &BootState, now: UnixSeconds) -> Vec<Information> {
    let (events, mut all): (Vec<_>, Vec<_>) =
        state.information.iter().cloned().partition(|known| known.code == Notice::BootVendorEvent);
    let nearest = boot.judged.iter().rev().min_by_key(|judged| judged.broken);
    for event in nearest.into_iter().flat_map(|of| &of.vendor_events) {
        let since = events.iter().find(|known| known.detail == *event).map_or(now, |known| known.since);
        all.push(Information { code: Notice::BootVendorEvent, detail: event.clone(), since });
    }
    all.truncate(MAX_INFORMATION);
    all
}

/// What is told now, since when it is so; and what was told of this boot and is no longer seen.
fn with_earlier(input: &Input<'_>, told: Vec<(Notice, String)>, new_boot: bool) -> Vec<Information> {
    let earlier = input.state.map(|state| state.information.as_slice()).unwrap_or_default();
    let mut all: Vec<Information> = Vec::new();
    for (code, detail) in told {
        // However often a device sleeps, it began once.
        let same = |known: &&Information| known.code == code && (known.detail == detail || code == Notice::BootResumed);
        let since = earlier.iter().find(same).map_or(input.now, |known| known.since);
        all.push(Information { code, detail, since });
    }
    let lasts = |known: &&Information| {
        let of_boot = [Notice::TpmFirmwareChanged, Notice::BootResumed].contains(&known.code) && !new_boot;
        of_boot && all.iter().all(|now| now.code != known.code)
    };
    let lasting: Vec<Information> = earlier.iter().filter(lasts).cloned().collect();
    all.extend(lasting);
    all.truncate(MAX_INFORMATION);
    all
}
