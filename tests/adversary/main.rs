//! Devices, networks and insiders that lie: each test is one statement of `docs/protocol.md` or `docs/appraisal.md`
//! that must hold against them.

mod lying_host;
mod lying_logs;
mod lying_quotes;
mod replays;

use devices::{
    judge::{Judge, references},
    software::SoftwareDevice,
};

/// A device that runs what its release lists, and a verifier that has enrolled and approved it.
fn honest() -> (SoftwareDevice, Judge) {
    let mut device = SoftwareDevice::new();
    device.run("/bin/init", [1; 32]);
    let judge = Judge::new(device.keys, references("1.0", &[("/bin/init", [1; 32])], &[(0, [0; 32])]));
    (device, judge)
}
