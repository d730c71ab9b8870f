//! A host that was compromised and would like to be trusted again.

use appraisal::{Code, Verdict};
use devices::{
    judge::Judge,
    software::{Attach, SoftwareDevice},
};
use evidence::runtime_log::{Entry, Flags, Kind};

use crate::{asked, codes, honest};

/// Code in memory that no file holds: the end of that is an operator's word.
fn injected(device: &mut SoftwareDevice) {
    device.record(&Entry {
        kind: Kind::AnonymousMemory,
        digest: [8; 32],
        size: 4096,
        device: 0,
        inode: 0,
        flags: Flags::SWEEP,
        start_time: 1,
        path: b"/usr/sbin/sshd",
    });
}

fn reboot(device: &mut SoftwareDevice) {
    device.reboot();
    device.run("/bin/init", [1; 32]);
}

fn judged(device: &mut SoftwareDevice, judge: &mut Judge, attach: Attach) -> (Verdict, Vec<Code>) {
    judge.now += 60;
    device.counters.clock += 60_000;
    let appraisal = asked(device, judge, attach).expect("is judged");
    (appraisal.state.verdict, codes(&appraisal))
}

fn compromised() -> (SoftwareDevice, Judge) {
    let (mut device, mut judge) = honest();
    assert_eq!(judged(&mut device, &mut judge, Attach::LogsFrom(0)).0, Verdict::Affirmed);
    injected(&mut device);
    let found = judged(&mut device, &mut judge, Attach::LogsFrom(1));
    assert_eq!(found, (Verdict::Contraindicated, vec![Code::RuntimeFromMemory]));
    (device, judge)
}

#[test]
fn a_reboot_does_not_launder_a_compromise() {
    let (mut device, mut judge) = compromised();
    for boot in 1..4 {
        reboot(&mut device);
        let clean = judged(&mut device, &mut judge, Attach::LogsFrom(0));
        assert_eq!(clean, (Verdict::Warning, vec![Code::HistoryCompromised]), "boot {boot}");
    }
    judge.standing.approved_at = judge.now;
    assert_eq!(judged(&mut device, &mut judge, Attach::Nothing), (Verdict::Affirmed, vec![]));
}

#[test]
fn a_resumed_boot_launders_nothing() {
    let (mut device, mut judge) = compromised();
    // Suspended and resumed: PCRs and logs go on, restartCount is higher.
    device.counters.restart += 1;
    let resumed = judged(&mut device, &mut judge, Attach::Nothing);
    assert_eq!(resumed, (Verdict::Contraindicated, vec![Code::RuntimeFromMemory]));
    device.counters.restart += 1;
    device.run("/bin/init", [1; 32]);
    let resumed = judged(&mut device, &mut judge, Attach::LogsFrom(2));
    assert_eq!(resumed, (Verdict::Contraindicated, vec![Code::RuntimeFromMemory]));
}

#[test]
fn a_resume_that_was_none_is_a_boot_and_launders_nothing_either() {
    let (mut device, mut judge) = compromised();
    let reset = device.counters.reset;
    reboot(&mut device);
    // The PCRs began anew while resetCount did not: a TPM restart, which resets them.
    (device.counters.reset, device.counters.restart) = (reset, 1);
    let restarted = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!(restarted, (Verdict::Warning, vec![Code::HistoryCompromised]));
}

#[test]
fn clearing_the_tpm_launders_nothing() {
    let (mut device, mut judge) = compromised();
    reboot(&mut device);
    device.counters = evidence::tpm::Counters { reset: 0, restart: 0, clock: 10 };
    judge.now += 60;
    let answer = device.attest(&[judge.challenge_after_last()], Attach::LogsFrom(0));
    let cleared = judge.take(&answer).expect("is judged");
    let codes = codes(&cleared);
    assert!(codes.contains(&Code::TpmCleared) && codes.contains(&Code::HistoryCompromised), "{codes:?}");
    assert_eq!(cleared.state.verdict, Verdict::Unknown);
}

#[test]
fn an_approval_ends_what_was_there_and_nothing_that_comes_after_it() {
    let (mut device, mut judge) = compromised();
    reboot(&mut device);
    judge.standing.approved_at = judge.now;
    assert_eq!(judged(&mut device, &mut judge, Attach::LogsFrom(0)), (Verdict::Affirmed, vec![]));
    injected(&mut device);
    let again = judged(&mut device, &mut judge, Attach::LogsFrom(1));
    assert_eq!(again, (Verdict::Contraindicated, vec![Code::RuntimeFromMemory]));
    reboot(&mut device);
    let after = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!(after, (Verdict::Warning, vec![Code::HistoryCompromised]));
}

#[test]
fn an_implant_among_a_flood_of_findings_is_still_a_contradiction() {
    let (mut device, mut judge) = honest();
    judged(&mut device, &mut judge, Attach::LogsFrom(0));
    for n in 0..200_u8 {
        device.run(&format!("/tmp/{n}"), [n.wrapping_add(10); 32]);
    }
    injected(&mut device);
    let (verdict, _) = judged(&mut device, &mut judge, Attach::LogsFrom(1));
    assert_eq!(verdict, Verdict::Contraindicated);
    reboot(&mut device);
    let (verdict, codes) = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!((verdict, codes), (Verdict::Warning, vec![Code::HistoryCompromised]), "a flood hides no injected code");
}

#[test]
fn a_revoked_device_is_contraindicated_whatever_it_shows() {
    let (mut device, mut judge) = honest();
    judge.standing.revoked = Some("stolen".to_owned());
    let shown = judged(&mut device, &mut judge, Attach::LogsFrom(0));
    assert_eq!(shown.0, Verdict::Contraindicated);
    assert!(shown.1.contains(&Code::IdentityRevoked));
}

#[test]
fn a_software_tpm_s_hardware_is_never_affirmed_even_where_policy_tolerates_it() {
    let (mut device, mut judge) = honest();
    judge.standing.ek_class = appraisal::EkClass::Software;
    let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
    let appraisal = judge.take(&message).unwrap();
    let hardware = appraisal.state.vector.get(evidence::result::Claim::Hardware);
    assert!(hardware.is_none_or(|value| !(2..32).contains(&value)), "{hardware:?}");
}
