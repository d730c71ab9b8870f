//! What is known of a device beside evidence, and what that makes of its last verdict at the instant of a question: no row
//! has to change for an expiry, a revocation, an approval or a new list to show.

use std::sync::Arc;

use evidence::result::TrustVector;
use serde::{Deserialize, Serialize};

use crate::{
    UnixSeconds,
    cause::{Cause, Code, End},
    state::{DeviceState, Finding},
    verdict::Verdict,
};

/// What kind of root the device's EK certificate leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EkClass {
    /// A TPM maker's: hardware or firmware.
    Hardware,
    /// A software TPM's.
    #[default]
    Software,
}

/// TPM firmware that a deny list names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareRange {
    /// Lowest firmwareVersion, as quotes state it.
    pub first: u64,
    /// Highest.
    pub last: u64,
    /// Why it is denied.
    pub why: String,
}

/// What is known of a device from enrolment, from operators and from lists. Never from evidence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Class of the EK's root.
    pub ek_class: EkClass,
    /// Which product it is, by endorsement or an operator's word.
    pub product: Option<String>,
    /// Why it is shut out, if it is.
    pub revoked: Option<String>,
    /// Since when it is shut out; 0 where that is not known.
    pub revoked_at: UnixSeconds,
    /// Whether its endorsement key has no certificate, and an operator's word stands in for it.
    pub no_ek_certificate: bool,
    /// When somebody proved its endorsement key with another attestation key than the registered one.
    pub key_changed: Option<UnixSeconds>,
    /// What checking its endorsement key's certificate again came to, where it is good no more: one of
    /// [`Code::IdentityEkRevoked`], [`Code::IdentityEkDenied`] and [`Code::IdentityEkUntrusted`].
    pub endorsement: Option<Finding>,
    /// Firmware of its TPM's maker that is denied.
    pub denied_firmware: Arc<[FirmwareRange]>,
    /// When an operator last approved it; 0 for never. Causes with [`crate::cause::End::Operator`] that were there by
    /// then are over.
    pub approved_at: UnixSeconds,
}

impl Standing {
    /// What contradicts by itself, or leaves no basis, whatever evidence says.
    pub(crate) fn faults(&self, firmware: Option<u64>) -> Vec<Finding> {
        let revoked = self.revoked.as_ref().map(|why| Finding {
            code: Code::IdentityRevoked,
            detail: why.clone(),
            since: self.revoked_at,
        });
        let key_changed = self.key_changed.filter(|at| *at > self.approved_at).map(|since| Finding {
            code: Code::IdentityKeyChanged,
            detail: "another attestation key was proved for this endorsement key".to_owned(),
            since,
        });
        let denied = firmware.and_then(|version| {
            let range = self.denied_firmware.iter().find(|range| (range.first..=range.last).contains(&version))?;
            let detail = format!("firmware {version:#018x}: {}", range.why);
            Some(Finding { code: Code::HardwareFirmwareDenied, detail, since: 0 })
        });
        [revoked, key_changed, self.endorsement.clone(), denied].into_iter().flatten().collect()
    }
}

/// Causes that come from [`Standing::faults`], and so are as it says now, not as it said when evidence came.
const FAULTS: [Code; 6] = [
    Code::IdentityRevoked,
    Code::IdentityKeyChanged,
    Code::IdentityEkRevoked,
    Code::IdentityEkDenied,
    Code::IdentityEkUntrusted,
    Code::HardwareFirmwareDenied,
];

/// A device as it stands at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Verdict.
    pub verdict: Verdict,
    /// Why it is not better.
    pub causes: Vec<Cause>,
    /// Claims; none where the verdict has expired, but for what stands against the device.
    pub vector: TrustVector,
}

impl Current {
    /// What the last evidence left behind, if there was any since `enrolled`, as it stands at `now`.
    ///
    /// An approval ends causes at once. How policy weighs an unlisted program is not known here: what is left counts by
    /// the table, but the verdict is never worse for an approval.
    #[must_use]
    pub fn of(state: Option<&DeviceState>, standing: &Standing, enrolled: UnixSeconds, now: UnixSeconds) -> Self {
        let mut current = match state {
            None => Self::never_seen(enrolled, now),
            Some(state) => Self::after(state, standing.approved_at, now),
        };
        let mut at = 0_usize;
        for fault in standing.faults(state.map(|state| state.firmware_version)) {
            if state.is_none_or(|state| !state.tolerated.contains(&fault.code)) {
                current.add(at, fault, state, now);
                at = at.saturating_add(1);
            }
        }
        current
    }

    fn never_seen(enrolled: UnixSeconds, now: UnixSeconds) -> Self {
        let detail = "no evidence since it was enrolled".to_owned();
        let cause = Cause { code: Code::NeverSeen, detail, first_seen: enrolled, last_seen: now };
        Self { verdict: Verdict::Unknown, causes: vec![cause], vector: TrustVector::default() }
    }

    fn after(state: &DeviceState, approved_at: UnixSeconds, now: UnixSeconds) -> Self {
        let over = |cause: &Cause| {
            FAULTS.contains(&cause.code) || (cause.code.row().end == End::Operator && cause.first_seen <= approved_at)
        };
        let (verdict, mut causes) = state.at(now);
        let expired = now >= state.expires;
        let mut vector = if expired { TrustVector::default() } else { state.vector };
        let before = causes.len();
        let gone: Vec<Code> = causes.iter().filter(|cause| over(cause)).map(|cause| cause.code).collect();
        causes.retain(|cause| !over(cause));
        if causes.len() == before {
            return Self { verdict, causes, vector };
        }
        // What a claim would be without the cause is not kept: it is not made until evidence makes it again.
        gone.iter().for_each(|code| vector.unset(code.row().claim.0));
        let left = causes.iter().map(|cause| cause.code.row());
        let worst = left.clone().map(|row| row.verdict).max().unwrap_or(Verdict::Affirmed);
        let verdict = verdict.min(worst);
        if !expired {
            left.for_each(|row| row.lower(&mut vector, row.claim.1));
        }
        Self { verdict, causes, vector }
    }

    fn add(&mut self, at: usize, fault: Finding, state: Option<&DeviceState>, now: UnixSeconds) {
        let Finding { code, detail, since } = fault;
        let known = state.and_then(|state| state.causes.iter().find(|c| c.code == code && c.detail == detail));
        let first_seen = match (since, known) {
            (0, Some(known)) => known.first_seen,
            (0, None) => now,
            (since, _) => since,
        };
        let row = code.row();
        self.verdict = self.verdict.max(row.verdict);
        row.lower(&mut self.vector, row.claim.1);
        self.causes.insert(at, Cause { code, detail, first_seen, last_seen: now });
    }
}
