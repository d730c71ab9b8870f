//! Why a verdict is not better: the table of causes, from which `docs/causes.md` is made, and one cause of one device.

use std::collections::BTreeSet;

use evidence::result::{Claim, Tier, TrustVector};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{UnixSeconds, verdict::Verdict};

/// What ends a cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Gone from a fresh boot's evidence, gone from the verdict; kept in history.
    Boot,
    /// Ended by an operator's word after remedy.
    Operator,
    /// Ended by the next evidence that does not show it.
    FreshEvidence,
}

impl End {
    /// Word in documents and outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Operator => "operator",
            Self::FreshEvidence => "fresh evidence",
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Stable code.
    pub code: &'static str,
    /// Verdict that it leads to, at the default policy.
    pub verdict: Verdict,
    /// AR4SI claim that it lowers, and to which value; a claim lowered to 0 is not made.
    pub claim: (Claim, u8),
    /// How it ends.
    pub end: End,
    /// What it means and what to do, in plain words.
    pub remedy: &'static str,
}

impl Row {
    /// Lowers the claim to `value`. A claim that cannot be made is dropped, unless something says worse of it.
    pub(crate) fn lower(&self, vector: &mut TrustVector, value: u8) {
        let claim = self.claim.0;
        match vector.get(claim).unwrap_or(0) {
            held if value == 0 && Tier::of(held) <= Tier::Affirming => vector.unset(claim),
            held => vector.set(claim, held.max(value)),
        }
    }
}

macro_rules! causes {
    ($($name:ident: $code:literal, $verdict:ident, $claim:ident = $value:literal, $end:ident, $remedy:literal;)*) => {
        /// Every cause that this verifier gives.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "each row says what it means")]
        pub enum Code { $($name),* }

        impl Code {
            /// All of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The row of the table.
            #[must_use]
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$name => Row {
                        code: $code,
                        verdict: Verdict::$verdict,
                        claim: (Claim::$claim, $value),
                        end: End::$end,
                        remedy: $remedy,
                    }),*
                }
            }
        }
    };
}

causes! {
    IdentityUnendorsed: "identity.unendorsed", Warning, InstanceIdentity = 0, FreshEvidence,
        "Nobody has said which product this device is. Approve it with `verifier approve ID --product P`.";
    IdentityRevoked: "identity.revoked", Contraindicated, InstanceIdentity = 97, Operator,
        "An operator shut this device out. If that is over, approve it again.";
    IdentityKeyChanged: "identity.key-changed", Contraindicated, InstanceIdentity = 96, Operator,
        "Somebody proved this device's endorsement key with another attestation key than the registered one: its TPM is used by another system, or its key was made anew. Find out which; then revoke and approve it.";
    IdentityNoEkCertificate: "identity.no-ek-certificate", Warning, InstanceIdentity = 0, FreshEvidence,
        "The TPM has no certificate of its maker, so that it is one at all is an operator's word. Use a TPM with a certificate.";
    IdentityEkRevoked: "identity.ek-revoked", Contraindicated, InstanceIdentity = 96, FreshEvidence,
        "The TPM's maker has revoked the endorsement key's certificate, or one above it. Ask the maker why; replace the TPM.";
    IdentityEkDenied: "identity.ek-denied", Contraindicated, InstanceIdentity = 96, FreshEvidence,
        "A deny list of this verifier names the endorsement key or who certified it. If that is wrong, take it off the list and reload.";
    IdentityEkUntrusted: "identity.ek-untrusted", Unknown, InstanceIdentity = 0, FreshEvidence,
        "The endorsement key's certificate leads to no trusted root any more: a root was taken away, or its list cannot be read. Put the root back, or replace the device.";
    HardwareSoftwareTpm: "hardware.software-tpm", Warning, Hardware = 32, FreshEvidence,
        "The TPM is a program: whoever runs it can make it say anything. Use a hardware or firmware TPM.";
    HardwareFirmwareDenied: "hardware.firmware-denied", Contraindicated, Hardware = 96, FreshEvidence,
        "A deny list of this verifier names the TPM's firmware version, as its quote states it. Update the TPM's firmware.";
    TpmCleared: "tpm.cleared", Unknown, InstanceIdentity = 0, Operator,
        "The TPM's counters began anew: somebody cleared it, which takes presence at the device or its owner's authorisation. What it showed before is no measure for what it shows now. If it was you, approve the device.";
    TpmClockPace: "tpm.clock-pace", Warning, Hardware = 32, Boot,
        "The TPM's clock does not advance like time: it is no real TPM, was paused, or its clock was set. Find out which, then reboot.";
    NeverSeen: "never-seen", Unknown, InstanceIdentity = 0, FreshEvidence,
        "The device is enrolled, but has sent no evidence yet. Check that its attester runs and reaches the broker.";
    Overdue: "overdue", Unknown, InstanceIdentity = 0, FreshEvidence,
        "The last verdict has expired without new evidence. Check power, network and the attester.";
    LogIncomplete: "log.incomplete", Unknown, Executables = 0, FreshEvidence,
        "A log is missing, or does not reach the quoted PCR values yet. The device is asked for the rest; if this stays, its log was lost, as happens where another kernel is started without a boot (kexec) before the first one's last entries were sent: reboot it.";
    LogMismatch: "log.mismatch", Contraindicated, Executables = 99, Boot,
        "A log contradicts what the TPM quoted: it was changed, cut or reordered, or something else extended the PCR. Reboot; if it returns, examine the device.";
    ReferenceNone: "reference.none", Unknown, Executables = 0, FreshEvidence,
        "There are no signed reference values for this product. Put a release into the verifier's `reference_values` folder.";
    BootPcrMismatch: "boot.pcr-mismatch", Contraindicated, Configuration = 96, Boot,
        "Firmware, boot loader, kernel or command line differ from every signed release. If it was an update, sign its release; else reinstall.";
    BootUnlistedEvent: "boot.unlisted-event", Contraindicated, Configuration = 96, Boot,
        "The boot log holds an event that no rule of the nearest release allows: other firmware, another loader, kernel, initrd, key or setting, or something measured where nothing should be. If it was an update, sign its release; else reinstall.";
    BootMissingEvent: "boot.missing-event", Contraindicated, Configuration = 96, Boot,
        "The boot left out something that the nearest release measures: the detail says what should have come, and after which event. If it was an update, sign its release; else reinstall.";
    BootSeparator: "boot.separator", Contraindicated, Configuration = 96, Boot,
        "A separator, which ends the firmware's own measurements in a PCR, is missing, comes twice, or says that the firmware met an error. Look at the firmware's own messages; if they say nothing, reinstall it.";
    BootSecureBootOff: "boot.secure-boot-off", Contraindicated, Configuration = 96, Boot,
        "The release asks for secure boot, and the log does not prove that it was on, in user mode and with a platform key. Turn it on in the firmware's setup and enrol the keys; a policy may make this a warning (`secure_boot`).";
    BootDebugger: "boot.debugger", Contraindicated, Configuration = 96, Boot,
        "The firmware was started with a debugger, which can change anything. Turn it off in the firmware's setup.";
    BootCommandLine: "boot.command-line", Contraindicated, Configuration = 96, Boot,
        "The kernel was given a command line that the nearest release does not allow, or none that was measured. Put the release's command line back, or sign a release that allows it.";
    BootKexec: "boot.kexec", Warning, Configuration = 36, Boot,
        "Another kernel was started without a boot (kexec): the boot measurements are the first kernel's. If it was planned, reboot; if not, find out who did it.";
    BootUnprotected: "boot.unprotected", Warning, Configuration = 36, FreshEvidence,
        "Not all of what keeps boot measurements true after the boot is shown: module signatures enforced, the kernel locked down, kexec off or measured. The detail says what is missing and how to show it; docs/boot.md says what counts.";
    BootUnseen: "boot.unseen", Warning, Configuration = 36, Boot,
        "The TPM was started more often than evidence came in: something may have run that nobody attested. If the device could not reach the verifier, let the policy allow for it (`unseen_boots`); the next boot that is seen ends this.";
    PolicyClaimMissing: "policy.claim-missing", Warning, Configuration = 0, FreshEvidence,
        "Policy requires a claim that could not be made, for want of evidence or reference values.";
    RuntimeUnknownExecutable: "runtime.unknown-executable", Contraindicated, Executables = 96, Boot,
        "A program ran that no signed release lists. If it belongs there, sign a release with it; else find out how it came, and reboot.";
    RuntimeKnownBad: "runtime.known-bad", Contraindicated, Executables = 96, Operator,
        "A file ran that a signed notice knows to be bad; the detail names the advisory. Take the device out of service, examine it, reinstall it, then approve it. If the notice is wrong, a newer one without the file ends this.";
    RuntimeFromMemory: "runtime.from-memory", Contraindicated, Executables = 96, Operator,
        "Code ran from memory that has no file, and no signed release lists it: the mark of an implant. Examine the device, reboot it, then approve it.";
    RuntimeTextChanged: "runtime.text-changed", Contraindicated, Executables = 96, Operator,
        "Program text in memory differs from its file. Examine the device, reboot it, then approve it.";
    RuntimeUnmeasured: "runtime.unmeasured", Warning, Executables = 33, Boot,
        "Something ran that the attester could not measure. See the detail for why, then reboot.";
    RuntimeUnanchored: "runtime.unanchored", Warning, Executables = 0, FreshEvidence,
        "Nothing before the attester vouches for the attester, so its runtime log shows only what it chose to show. Put it into a measured initrd, a verity root, or under IMA.";
    ImaNoTpm: "ima.no-tpm", Warning, Executables = 33, Boot,
        "The kernel's IMA list exists but was never extended into the TPM: the TPM driver came too late. Build it into the kernel.";
    ImaViolation: "ima.violation", Warning, Executables = 33, Boot,
        "A file was open for writing while it was measured, so its measurement says nothing.";
    CoverageExcluded: "coverage.excluded", Warning, Executables = 33, FreshEvidence,
        "Files ran that no signed release lists, and that the policy's exclusions let through. Sign a release with them, or let the policy count them only (`excluded`).";
    ReleaseStale: "release.stale", Warning, Executables = 33, FreshEvidence,
        "The release that the device runs is past its retirement, or below the lowest that may run; or an update has not ended in its time, or mixes releases that do not follow each other. Update the device, or end the update by a reboot.";
    ReleaseRevoked: "release.revoked", Contraindicated, Executables = 96, FreshEvidence,
        "A signed notice takes back the release that the device runs; the detail says why. Update the device.";
    ReleaseRolledBack: "release.rolled-back", Contraindicated, Executables = 96, Operator,
        "The device ran a release from the lowest that may run on, and now runs one below it: somebody put an old release back. Update the device and find out who did it; then approve it. An approval while the old release runs says that it was meant.";
    HistoryCompromised: "history.compromised", Warning, Executables = 33, Operator,
        "An earlier boot showed a compromise that a reboot alone does not end: the detail says which. Examine the device, reinstall it, then approve it.";
}

impl Code {
    /// From the stable code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.row().code == code)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.row().code)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Self::from_code(&code).ok_or_else(|| D::Error::custom(format!("unknown cause {code}")))
    }
}

/// One cause of one device's verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Which.
    pub code: Code,
    /// What and where.
    pub detail: String,
    /// Since when, seconds since 1970.
    pub first_seen: UnixSeconds,
    /// When it was last shown, seconds since 1970.
    pub last_seen: UnixSeconds,
}

/// Whether two lists tell the same of a device, in whatever order and since whenever.
#[must_use]
pub fn tell_the_same(one: &[Cause], other: &[Cause]) -> bool {
    fn told(causes: &[Cause]) -> BTreeSet<(Code, &str)> {
        causes.iter().map(|cause| (cause.code, cause.detail.as_str())).collect()
    }
    told(one) == told(other)
}

/// `docs/causes.md`, as the table says it.
#[must_use]
pub fn document() -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "# Causes\n\nEvery verdict but `affirmed` names its causes by stable code. This page is made from the table in the code; a test \
         holds them equal.\n`claim` is the AR4SI claim that the cause lowers, with its value (0: the claim is not made); `end` says what \
         ends it: `boot` (a fresh boot that does not\nshow it), `operator` (an operator's approval after remedy), `fresh evidence` (the \
         next evidence that does not show it). Policy may tolerate a cause by name.\n\n| code | verdict | claim | end | meaning and remedy |\n|---|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let Row { code, verdict, claim: (claim, value), end, remedy } = code.row();
        let _ = writeln!(out, "| `{code}` | {verdict} | {} {value} | {} | {remedy} |", claim.name(), end.name());
    }
    out.push_str("\n# Information\n\nWhat is worth knowing and lowers no verdict.\n\n| code | meaning |\n|---|---|\n");
    for notice in crate::information::Notice::ALL {
        let _ = writeln!(out, "| `{}` | {} |", notice.code(), notice.meaning());
    }
    out.push_str(
        "\n# Refusals\n\nEvidence that is refused is not judged: it changes no verdict and no state, and is counted by code \
         (`countersign_evidence_refused_total`).\n\n| code | meaning |\n|---|---|\n",
    );
    for refused in evidence::Refused::ALL {
        let _ = writeln!(out, "| `{}` | {refused} |", refused.code());
    }
    for stale in crate::freshness::Stale::ALL {
        let _ = writeln!(out, "| `{}` | {stale} |", stale.code());
    }
    out
}
