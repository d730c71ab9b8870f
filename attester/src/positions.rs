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
    /// The kernel that runs, by its boot_id, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shown {
    /// boot_id of the kernel whose IMA list it was made from (random(4)).
    pub(crate) kernel: Option<String>,
    /// SHA-256 of the boot log, attached now or held already.
    pub(crate) boot_log: Option<[u8; 32]>,
    /// Digest over the quoted PCRs.
    pub(crate) pcrs: [u8; 32],
    /// Whether the PCRs' values were attached.
    pub(crate) pcrs_attached: bool,
    /// Whether the boot log was attached.
    pub(crate) boot_log_attached: bool,
    /// Index in the runtime log from which on the message goes.
    pub(crate) runtime_from: u64,
    /// The same for the IMA list.
    pub(crate) ima_from: u64,
}

impl Held {
    /// Whether the verifier stands before what a message went on from: it has lost what it held.
    pub(crate) const fn is_before(&self, shown: &Shown) -> bool {
        self.runtime < shown.runtime_from || self.ima < shown.ima_from
    }

    /// What counts for evidence with these counters: nothing, where they are of another boot. A resume from sleep raises
    /// restartCount too, and all logs go on: `first_restart` is what it was when the runtime log began.
    ///
    /// Another kernel in the same boot was started by kexec: no PCR began anew, but its IMA list did, or has all of the last
    /// one's entries before its own (CONFIG_IMA_KEXEC). From the first entry on, a verifier can tell either.
    pub(crate) fn in_boot(&self, counters: &Counters, first_restart: u32, kernel: Option<&str>) -> Self {
        let since_the_log_began = (first_restart..=counters.restart).contains(&self.restart);
        if self.reset != counters.reset || !since_the_log_began {
            return Self::default();
        }
        let another_kernel = self.kernel.as_deref().zip(kernel).is_some_and(|(held, now)| held != now);
        Self { ima: if another_kernel { 0 } else { self.ima }, ..self.clone() }
    }

    /// Whether this boot's log is held. It led to the quoted PCRs, and they stay: whatever log a kernel shows later that
    /// another one started, no other explains this boot.
    pub(crate) const fn has_boot_log(&self) -> bool {
        self.boot_log.is_some()
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
            kernel: shown.kernel.clone(),
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
        assert_eq!(held.in_boot(&COUNTERS, 1, None).runtime, 3);
        // A reset; a restart, which began a new log; counters that went back.
        for (other, first_restart) in [
            (Counters { reset: 8, ..COUNTERS }, 1),
            (Counters { restart: 2, ..COUNTERS }, 2),
            (Counters { restart: 0, ..COUNTERS }, 0),
        ] {
            assert_eq!(held.in_boot(&other, first_restart, None), Held::default());
        }
    }

    #[test]
    fn a_resume_from_sleep_goes_on_where_the_logs_were() {
        let held = Held::after(&acknowledged(), &Shown::default(), false);
        let woken = Counters { restart: 3, ..COUNTERS };
        assert_eq!(held.in_boot(&woken, 1, None), held);
        assert_eq!(held.in_boot(&woken, 0, None), held);
    }

    #[test]
    fn a_kernel_that_another_one_started_shows_its_ima_list_from_the_beginning_and_goes_on_with_all_else() {
        let shown = Shown { kernel: Some("one".into()), boot_log: Some([1; 32]), pcrs: [2; 32], ..Shown::default() };
        let held = Held::after(&acknowledged(), &shown, false);
        assert_eq!(held.in_boot(&COUNTERS, 1, Some("one")), held);
        assert_eq!(held.in_boot(&COUNTERS, 1, Some("other")), Held { ima: 0, ..held.clone() });
        // One of the two is not known, as after an update of the attester.
        assert_eq!(held.in_boot(&COUNTERS, 1, None), held);
        let of_an_earlier_version = Held { kernel: None, ..held };
        assert_eq!(of_an_earlier_version.in_boot(&COUNTERS, 1, Some("other")), of_an_earlier_version);
        let kept = r#"{"reset":7,"restart":1,"ima":5,"runtime":3,"boot_log":null,"pcrs":null}"#;
        assert_eq!(serde_json::from_str::<Held>(kept).unwrap().kernel, None);
    }

    #[test]
    fn what_is_acknowledged_is_not_sent_again_in_this_boot_and_pcrs_not_until_they_change() {
        let shown = Shown { boot_log: Some([1; 32]), pcrs: [2; 32], ..Shown::default() };
        let held = Held::after(&acknowledged(), &shown, false);
        assert!(held.has_boot_log() && held.has_pcrs(&[2; 32]));
        assert!(!held.has_pcrs(&[3; 32]));
        let rebooted = held.in_boot(&Counters { reset: 8, ..COUNTERS }, 1, None);
        assert!(!rebooted.has_boot_log(), "once a boot");
    }

    #[test]
    fn a_verifier_that_lost_the_boot_log_alone_is_sent_it_with_the_next_evidence() {
        let shown = Shown { boot_log: Some([1; 32]), pcrs: [2; 32], ..Shown::default() };
        for incomplete in [false, true] {
            let lost = Held::after(&Acknowledged { boot_log: false, ..acknowledged() }, &shown, incomplete);
            assert!(!lost.has_boot_log());
            assert_eq!((lost.runtime, lost.ima), (3, 5), "and no other log");
        }
    }

    #[test]
    fn a_verifier_that_cannot_follow_is_sent_everything_that_it_was_not_sent_this_time() {
        let shown = Shown { boot_log: Some([1; 32]), pcrs: [2; 32], pcrs_attached: true, ..Shown::default() };
        let held = Held::after(&acknowledged(), &shown, true);
        assert!(held.has_pcrs(&[2; 32]) && !held.has_boot_log());
    }

    #[test]
    fn each_verifier_has_positions_of_its_own_and_nothing_else_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let (one, other) = (VerifierKeyId([4; 32]), VerifierKeyId([5; 32]));
        let behind = Acknowledged { runtime: 1, ..acknowledged() };
        Positions::keep(&state, &one, Held::after(&acknowledged(), &Shown::default(), false)).unwrap();
        Positions::keep(&state, &other, Held::after(&behind, &Shown::default(), false)).unwrap();
        let positions = Positions::load(&state).unwrap();
        assert_eq!((positions.of(&one).runtime, positions.of(&other).runtime), (3, 1));
        // An outage of any length leaves this much behind.
        assert!(std::fs::metadata(state.path(FILE)).unwrap().len() < 1024);
    }

    #[test]
    fn a_verifier_restored_from_yesterdays_backup_converges() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let key = VerifierKeyId([4; 32]);
        let shown = Shown { boot_log: Some([1; 32]), pcrs: [2; 32], ..Shown::default() };
        let keep = |acknowledged: &Acknowledged, shown: &Shown, incomplete| {
            Positions::keep(&state, &key, Held::after(acknowledged, shown, incomplete)).unwrap();
            Positions::load(&state).unwrap().of(&key).in_boot(&COUNTERS, 1, None)
        };
        let today = Acknowledged { runtime: 90, ima: 900, ..acknowledged() };
        keep(&today, &shown, false);
        // It holds yesterday's boot, and lacks this one's logs.
        let yesterday = Acknowledged { reset: 6, restart: 0, runtime: 40, ima: 400, ..acknowledged() };
        let held = keep(&yesterday, &shown, true);
        assert_eq!(held, Held::default(), "everything of this boot again");
        let all = Shown { pcrs_attached: true, boot_log_attached: true, ..shown.clone() };
        assert_eq!(keep(&today, &all, false), Held::after(&today, &all, false));
        // Or an earlier state of this boot: from there on.
        let this_morning = Acknowledged { runtime: 40, ima: 400, ..acknowledged() };
        assert_eq!((keep(&this_morning, &shown, true).runtime, keep(&today, &shown, false).runtime), (40, 90));
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
