//! What each verifier holds of this boot's logs: in go signed results, out comes what the next evidence must carry. Log
//! positions are all that is kept for a verifier that cannot be reached, never signed evidence: after an outage one new
//! message carries what is missing.

use std::collections::BTreeMap;

use anyhow::Result;
use data_encoding::HEXLOWER;
use evidence::{result::Acknowledged, tpm::Counters, verifier_message::VerifierKeyId};
use serde::{Deserialize, Serialize};

use crate::state::StateDir;

const FILE: &str = "positions.json";

/// What one verifier holds. Only a result of this verifier changes it, in either direction: a verifier that lost its
/// state is sent everything again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// resetCount of the boot that this is about.
    reset: u32,
    /// restartCount of it.
    restart: u32,
    /// Next index of the IMA list.
    pub(crate) ima: u64,
    /// Next index of the runtime log.
    pub(crate) runtime: u64,
    /// SHA-256 of the boot log, hexadecimal.
    boot_log: Option<String>,
    /// Digest over the quoted PCRs, hexadecimal.
    pcrs: Option<String>,
}

/// What a message showed a verifier, for its result to acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Shown {
    /// SHA-256 of the boot log, attached now or held already.
    pub(crate) boot_log: Option<[u8; 32]>,
    /// Digest over the quoted PCRs.
    pub(crate) pcrs: [u8; 32],
    /// Whether the PCRs' values were attached.
    pub(crate) pcrs_attached: bool,
    /// Whether the boot log was attached.
    pub(crate) boot_log_attached: bool,
}

impl Held {
    /// What counts for evidence with these counters: nothing, where they are of another boot.
    pub(crate) fn in_boot(&self, counters: &Counters) -> Self {
        let same = (self.reset, self.restart) == (counters.reset, counters.restart);
        if same { self.clone() } else { Self::default() }
    }

    /// Whether this boot log is held.
    pub(crate) fn has_boot_log(&self, digest: &[u8; 32]) -> bool {
        self.boot_log.as_deref() == Some(HEXLOWER.encode(digest).as_str())
    }

    /// Whether the PCR values with this digest are held.
    pub(crate) fn has_pcrs(&self, digest: &[u8; 32]) -> bool {
        self.pcrs.as_deref() == Some(HEXLOWER.encode(digest).as_str())
    }

    /// After a result. `incomplete`: the verifier could not follow; what it was not sent this time it may not hold,
    /// whatever was believed before.
    pub(crate) fn after(acknowledged: &Acknowledged, shown: &Shown, incomplete: bool) -> Self {
        let boot_log = shown.boot_log.filter(|_| acknowledged.boot_log && (shown.boot_log_attached || !incomplete));
        let pcrs = acknowledged.pcr_values && (shown.pcrs_attached || !incomplete);
        Self {
            reset: acknowledged.reset,
            restart: acknowledged.restart,
            ima: acknowledged.ima,
            runtime: acknowledged.runtime,
            boot_log: boot_log.map(|digest| HEXLOWER.encode(&digest)),
            pcrs: pcrs.then(|| HEXLOWER.encode(&shown.pcrs)),
        }
    }
}

/// All verifiers' positions, by the verifier's key: another key is another verifier.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Positions(BTreeMap<String, Held>);

impl Positions {
    /// As they were kept.
    pub(crate) fn load(state: &StateDir) -> Result<Self> {
        Ok(state.read_json(FILE)?.unwrap_or_default())
    }

    /// Of one verifier.
    pub(crate) fn of(&self, verifier: &VerifierKeyId) -> Held {
        self.0.get(&HEXLOWER.encode(&verifier.0)).cloned().unwrap_or_default()
    }

    /// Keeps what a verifier holds; writes only what changed, since flash wears out.
    pub(crate) fn keep(state: &StateDir, verifier: &VerifierKeyId, held: Held) -> Result<()> {
        let mut all = Self::load(state)?;
        if all.of(verifier) == held {
            return Ok(());
        }
        all.0.insert(HEXLOWER.encode(&verifier.0), held);
        state.write_json(FILE, &all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTERS: Counters = Counters { reset: 7, restart: 1, clock: 9 };

    fn acknowledged() -> Acknowledged {
        Acknowledged { reset: 7, restart: 1, boot_log: true, ima: 5, runtime: 3, pcr_values: true }
    }

    #[test]
    fn another_boot_starts_from_nothing() {
        let held = Held::after(&acknowledged(), &Shown::default(), false);
        assert_eq!(held.in_boot(&COUNTERS).runtime, 3);
        for other in [Counters { reset: 8, ..COUNTERS }, Counters { restart: 0, ..COUNTERS }] {
            assert_eq!(held.in_boot(&other), Held::default());
        }
    }

    #[test]
    fn what_is_acknowledged_is_not_sent_again_until_it_changes() {
        let shown = Shown { boot_log: Some([1; 32]), pcrs: [2; 32], ..Shown::default() };
        let held = Held::after(&acknowledged(), &shown, false);
        assert!(held.has_boot_log(&[1; 32]) && held.has_pcrs(&[2; 32]));
        assert!(!held.has_boot_log(&[3; 32]) && !held.has_pcrs(&[3; 32]));
    }

    #[test]
    fn a_verifier_that_cannot_follow_is_sent_everything_that_it_was_not_sent_this_time() {
        let shown = Shown { boot_log: Some([1; 32]), pcrs: [2; 32], pcrs_attached: true, boot_log_attached: false };
        let held = Held::after(&acknowledged(), &shown, true);
        assert!(held.has_pcrs(&[2; 32]) && !held.has_boot_log(&[1; 32]));
    }

    #[test]
    fn a_verifier_that_lost_its_state_moves_the_position_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let key = VerifierKeyId([4; 32]);
        let lost = Acknowledged { runtime: 0, ..acknowledged() };
        for (acknowledged, runtime) in [(acknowledged(), 3), (lost, 0)] {
            Positions::keep(&state, &key, Held::after(&acknowledged, &Shown::default(), false)).unwrap();
            assert_eq!(Positions::load(&state).unwrap().of(&key).runtime, runtime);
        }
        assert_eq!(Positions::load(&state).unwrap().of(&VerifierKeyId([5; 32])), Held::default());
    }
}
