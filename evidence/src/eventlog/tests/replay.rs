//! What logs lead to.

use super::{super::replay::start_value, *};
use crate::{
    limits::MAX_PROBLEMS,
    pcr::{HashAlgorithm, extend_sha256, sha256},
};

fn locality(pcr: u32, locality: u8) -> Vec<u8> {
    agile(pcr, EV_NO_ACTION, &[(0xB, &[0; 32])], &[&STARTUP_LOCALITY[..], &[locality]].concat())
}

fn replay(parts: &[Vec<u8>]) -> Replay {
    EventLog::read(&parts.concat()).unwrap().replay(None).unwrap()
}

fn codes(replay: &Replay) -> Vec<&'static str> {
    replay.problems.iter().map(|problem| problem.code).collect()
}

fn start(last: u8) -> [u8; 32] {
    std::array::from_fn(|at| if at == 31 { last } else { 0 })
}

#[test]
fn no_action_is_never_extended_whatever_its_pcr() {
    let log = [header(&[SHA256]), agile(u32::MAX, EV_NO_ACTION, &[(0xB, &ONE)], b"x")];
    let replay = replay(&log);
    assert!(replay.banks[&HashAlgorithm::Sha256].is_empty());
    assert!(replay.problems.is_empty());
    assert_eq!(replay.events, 2);
}

#[test]
fn startup_locality_sets_only_the_start_of_pcr_0() {
    let log = [header(&[SHA256]), locality(0, 3), agile(0, 8, &[(0xB, &ONE)], b""), agile(1, 8, &[(0xB, &ONE)], b"")];
    let replay = replay(&log);
    assert_eq!(replay.sha256(0), Some(extend_sha256(&start(3), &ONE)));
    assert_eq!(replay.sha256(1), Some(extend_sha256(&start(0), &ONE)));
    assert!(replay.problems.is_empty());
}

#[test]
fn startup_locality_in_the_old_format_and_alone_is_listed() {
    let replay = replay(&[sha1(0, EV_NO_ACTION, [0; 20], b"StartupLocality\0\x04")]);
    assert_eq!(replay.banks[&HashAlgorithm::Sha1][&0], start_value(HashAlgorithm::Sha1, 4));
}

#[test]
fn startup_locality_that_cannot_be_is_a_problem_and_changes_nothing() {
    let extension = agile(0, 8, &[(0xB, &ONE)], b"");
    let plain = Some(extend_sha256(&start(0), &ONE));
    let late = replay(&[header(&[SHA256]), extension.clone(), locality(0, 3)]);
    assert_eq!((late.sha256(0), codes(&late)), (plain, vec!["eventlog.startup-locality"]));
    let other_pcr = replay(&[header(&[SHA256]), locality(1, 3), extension.clone()]);
    assert_eq!((other_pcr.sha256(0), other_pcr.sha256(1)), (plain, None));
    let impossible = replay(&[header(&[SHA256]), locality(0, 1), extension.clone()]);
    assert_eq!((impossible.sha256(0), codes(&impossible)), (plain, vec!["eventlog.startup-locality"]));
    let twice = replay(&[header(&[SHA256]), locality(0, 3), locality(0, 4), extension]);
    assert_eq!(twice.sha256(0), Some(extend_sha256(&start(3), &ONE)));
    assert_eq!(codes(&twice), ["eventlog.startup-locality"]);
}

#[test]
fn an_h_crtm_event_starts_pcr_0_from_4() {
    let hcrtm = agile(0, EV_EFI_HCRTM_EVENT, &[(0xB, &ONE)], b"HCRTM");
    let expected = Some(extend_sha256(&start(4), &ONE));
    for before in [vec![], locality(0, 3), locality(0, 4)] {
        let replay = replay(&[header(&[SHA256]), before, hcrtm.clone(), locality(0, 3)]);
        assert_eq!(replay.sha256(0), expected);
        assert!(replay.problems.is_empty());
    }
}

#[test]
fn banks_that_cannot_be_computed_are_problems_and_are_skipped_by_their_declared_size() {
    let log = [
        header(&[SHA256, (0x12, 32), (0x27, 7), (0x4, 3)]),
        agile(4, 8, &[(0x27, &[2; 7]), (0x12, &[3; 32]), (0x4, &[9; 3]), (0xB, &ONE)], b"data"),
    ];
    let replay = replay(&log);
    assert_eq!(replay.sha256(4), Some(extend_sha256(&start(0), &ONE)));
    assert_eq!(replay.banks.len(), 1);
    assert_eq!(codes(&replay), ["eventlog.bank-not-computed", "eventlog.bank-not-computed", "eventlog.digest-size"]);
}

#[test]
fn missing_repeated_and_undeclared_digests_are_problems() {
    let missing = replay(&[header(&[SHA256]), agile(4, 8, &[], b"")]);
    assert_eq!(codes(&missing), ["eventlog.digest-count"]);
    let repeated = replay(&[header(&[SHA256]), agile(4, 8, &[(0xB, &ONE), (0xB, &ONE)], b"")]);
    assert_eq!(codes(&repeated), ["eventlog.digest-count"]);
    let undeclared = replay(&[header(&[SHA256]), agile(4, 8, &[(0xB, &ONE), (0x4, &[1; 20])], b"")]);
    assert_eq!(codes(&undeclared), ["eventlog.undeclared-bank"]);
    assert!(undeclared.banks.contains_key(&HashAlgorithm::Sha1));
}

#[test]
fn an_extended_pcr_that_does_not_exist_is_a_problem() {
    let replay = replay(&[header(&[SHA256]), agile(24, 8, &[(0xB, &ONE)], b"")]);
    assert_eq!(codes(&replay), ["eventlog.pcr-index"]);
    assert!(replay.banks[&HashAlgorithm::Sha256].is_empty());
}

#[test]
fn what_cannot_be_decoded_is_refused_with_its_offset() {
    let start = header(&[SHA256]);
    let unknown = [start.clone(), agile(4, 8, &[(0x99, &ONE)], b"")].concat();
    let error = EventLog::read(&unknown).unwrap().replay(None).unwrap_err();
    assert_eq!(error.at, start.len() + 12);
    let many = [start.clone(), [8_u32, 8, 17].map(u32::to_le_bytes).concat()].concat();
    assert_eq!(EventLog::read(&many).unwrap().replay(None).unwrap_err().at, start.len() + 8);
    let long = [start.clone(), agile(4, 8, &[(0xB, &ONE)], b""), vec![1; 15]].concat();
    assert!(EventLog::read(&long).unwrap().replay(None).is_err());
    assert!(EventLog::read(&header(&[])).is_err());
    assert!(EventLog::read(&header(&[SHA256; 17])).is_err());
    assert!(EventLog::read(&[]).is_err());
}

#[test]
fn a_log_cut_anywhere_but_between_events_is_refused() {
    let parts = [header(&[SHA256]), agile(0, 8, &[(0xB, &ONE)], &[0; 40]), agile(0, 4, &[(0xB, &ONE)], &[0; 4])];
    let (log, mut boundaries, mut at) = (parts.concat(), vec![], 0);
    for part in &parts {
        at += part.len();
        boundaries.push(at);
    }
    for cut in 0..log.len() {
        let whole = EventLog::read(&log[..cut]).and_then(|log| log.replay(None)).is_ok();
        assert_eq!(whole, boundaries.contains(&cut), "cut at {cut}");
    }
}

#[test]
fn the_unused_rest_of_a_log_area_is_a_problem_and_not_extended() {
    let agile_log = [header(&[SHA256]), agile(0, 4, &[(0xB, &ONE)], &[0; 4])].concat();
    let old_log = sha1(0, 4, [0; 20], &[0; 4]);
    for log in [agile_log, old_log] {
        let bare = EventLog::read(&log).unwrap().replay(None).unwrap();
        for fill in [0x00, 0xFF] {
            let padded = [log.clone(), vec![fill; 333]].concat();
            let replay = EventLog::read(&padded).unwrap().replay(None).unwrap();
            assert_eq!((&replay.banks, replay.events), (&bare.banks, bare.events));
            assert_eq!(codes(&replay), ["eventlog.padding"]);
            let short = [log.clone(), vec![fill; 15]].concat();
            assert!(EventLog::read(&short).unwrap().replay(None).is_err());
        }
    }
}

#[test]
fn an_empty_log_area_is_no_log() {
    for bytes in [vec![0; 32], vec![0; 4096], vec![0xFF; 4096]] {
        assert!(EventLog::read(&bytes).is_err() && !looks_like(&bytes));
    }
}

#[test]
fn data_that_its_digest_does_not_cover_is_shown() {
    let good = agile(0, EV_SEPARATOR, &[(0xB, &sha256(&[0; 4]))], &[0; 4]);
    let bad = agile(0, EV_SEPARATOR, &[(0xB, &sha256(&[0; 4]))], &[1; 4]);
    let log = [header(&[SHA256]), good, bad].concat();
    let inspected = EventLog::read(&log).unwrap().inspect().unwrap();
    assert_eq!(codes(&inspected), ["eventlog.data-differs"]);
    assert_eq!(inspected.problems[0].index, 2);
}

#[test]
fn the_list_of_problems_is_bounded() {
    let mut parts = vec![header(&[SHA256])];
    parts.extend((0..MAX_PROBLEMS * 2).map(|_| agile(99, 8, &[(0xB, &ONE)], b"")));
    let replay = replay(&parts);
    assert_eq!(replay.problems.len(), MAX_PROBLEMS + 1);
    assert_eq!(replay.problems.last().unwrap().code, "log.more-problems");
}
