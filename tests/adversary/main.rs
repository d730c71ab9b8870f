//! Devices, networks, strangers and insiders that lie: each test holds a statement of `docs/protocol.md`, or a rule of
//! appraisal, against them. `STATEMENTS.md` says which.

mod compromised;
mod enrolling_strangers;
mod field;
mod lying_about_time;
mod lying_boots;
mod lying_host;
mod lying_logs;
mod lying_network;
mod lying_quotes;
mod lying_verifiers;
mod replays;
mod statements;
mod vectors;

use appraisal::{Appraisal, Code};
use devices::{
    judge::{Judge, NotJudged, references},
    software::{Attach, SoftwareDevice},
};

/// A device that runs what its release lists, and a verifier that has enrolled and approved it.
fn honest() -> (SoftwareDevice, Judge) {
    let mut device = SoftwareDevice::new();
    device.run("/bin/init", [1; 32]);
    let judge = Judge::new(device.keys, references("1.0", &[("/bin/init", [1; 32])], &[(0, [0; 32])]));
    (device, judge)
}

fn codes(appraisal: &Appraisal) -> Vec<Code> {
    appraisal.state.causes.iter().map(|cause| cause.code).collect()
}

/// A challenge, and what comes of its answer.
fn asked(device: &mut SoftwareDevice, judge: &mut Judge, attach: Attach) -> Result<Appraisal, NotJudged> {
    let nonce = judge.challenge();
    judge.take(&device.attest(&[nonce], attach))
}
