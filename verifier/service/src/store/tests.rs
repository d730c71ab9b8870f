use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use appraisal::{
    Appraisal, Cause, Code, DeviceState, EkClass, MeasuredFile, UnixSeconds, Verdict,
    freshness::Last,
    state::{BootLogFacts, BootState},
};
use evidence::{
    claims::{DeviceId, Why},
    pcr::sha256,
    result::{Acknowledged, Claim, TrustVector},
    tpm::{AkPublic, Counters, P256Point},
};

use super::*;

pub(crate) const NOW: UnixSeconds = 1_800_000_000;

pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.sqlite")).unwrap();
    (folder, store)
}

pub(crate) fn id(number: u64) -> DeviceId {
    DeviceId(sha256(&number.to_be_bytes()))
}

pub(crate) fn ak(number: u64) -> AkPublic {
    // Any point will do: the store verifies nothing.
    AkPublic::from_point(P256Point { x: id(number).0, y: [7; 32] })
}

pub(crate) fn registration(number: u64) -> NewRegistration {
    NewRegistration {
        device: id(number),
        ak: ak(number),
        eks: vec![sha256(&id(number).0)],
        ek_class: EkClass::Software,
        manufacturer: "id:00001014".into(),
        product: None,
        endorsement: Endorsement::default(),
        uncertified: false,
        generation: 1,
        ak_certificate: vec![1],
        now: NOW,
    }
}

fn last(clock: u64) -> Last {
    Last { counters: Counters { reset: 1, restart: 0, clock }, evidence: sha256(&clock.to_be_bytes()) }
}

fn cause(code: Code, detail: &str) -> Cause {
    Cause { code, detail: detail.into(), first_seen: NOW, last_seen: NOW }
}

pub(crate) fn file(name: &str) -> MeasuredFile {
    MeasuredFile { digest: sha256(name.as_bytes()), path: format!("/usr/bin/{name}"), kind: "executable".into() }
}

/// Evidence number `clock` of a device, affirmed, after number `after`.
pub(crate) fn accepted(number: u64, clock: u64, after: Option<u64>) -> Accepted {
    let last_now = last(clock);
    let mut vector = TrustVector::default();
    vector.set(Claim::InstanceIdentity, 2);
    let state = DeviceState {
        last: last_now,
        boot: BootState::new(&last_now.counters),
        verdict: Verdict::Affirmed,
        vector,
        causes: Vec::new(),
        tolerated: vec![Code::HardwareSoftwareTpm],
        judged: NOW + clock,
        expires: NOW + clock + 600,
        last_check: Why::Epoch,
        release: Some("1.0".into()),
        references: [0; 32],
        product: None,
        firmware_version: 7,
        attester_version: "0.1.0".into(),
        since: 0,
        not_older_than: NOW,
        cleared: None,
        compromised: Vec::new(),
        information: Vec::new(),
        update: None,
        highest: None,
    };
    let appraisal = Appraisal {
        state,
        new_files: Vec::new(),
        new_boot: after.is_none(),
        new_boot_log: false,
        acknowledged: Acknowledged::default(),
        tolerated: Vec::new(),
        closed: None,
    };
    Accepted {
        device: id(number),
        registered: (*ak(number).name_digest(), 1),
        expected: after.map(last),
        appraisal,
        boot_log: None,
        evidence: vec![1],
        result: vec![2, 3],
        posture: [8; 32],
    }
}

pub(crate) fn contraindicated(mut accepted: Accepted) -> Accepted {
    accepted.appraisal.state.verdict = Verdict::Contraindicated;
    accepted.appraisal.state.causes = vec![cause(Code::RuntimeUnknownExecutable, "/tmp/x sha256:00")];
    accepted
}

pub(crate) fn with_files(mut accepted: Accepted, files: &[&str]) -> Accepted {
    accepted.appraisal.new_files = files.iter().map(|name| file(name)).collect();
    accepted
}

pub(crate) fn with_boot_log(mut accepted: Accepted, log: &[u8]) -> Accepted {
    let mut facts = BootLogFacts::default();
    (facts.digest, facts.events) = (sha256(log), 1);
    accepted.appraisal.state.boot.boot_log = Some(facts);
    accepted.boot_log = Some(log.to_vec());
    accepted
}

pub(crate) fn commit(store: &Store, accepted: Accepted) -> Committed {
    store.commit(vec![accepted]).unwrap()[0]
}

fn running(store: &Store, name: &str) -> BTreeSet<DeviceId> {
    let filter = Filter { running: Some(file(name).digest), ..Filter::default() };
    store.devices(&filter, NOW).unwrap().devices.iter().map(|device| device.id).collect()
}

fn rows(store: &Store, table: &str) -> i64 {
    store.read(|c| c.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))).unwrap()
}

#[test]
fn a_device_is_registered_once_and_its_keys_belong_to_nobody_else() {
    let (_folder, store) = store();
    assert_eq!(store.register(registration(1)), Ok(Registered::New));
    assert_eq!(store.register(registration(1)), Ok(Registered::Same));
    assert_eq!(store.register(NewRegistration { ak: ak(9), ..registration(1) }), Ok(Registered::KeyChanged));
    assert_eq!(store.register(NewRegistration { ak: ak(1), ..registration(2) }), Ok(Registered::KeyElsewhere));
    let eks = registration(1).eks;
    assert_eq!(store.register(NewRegistration { eks, ..registration(3) }), Ok(Registered::KeyElsewhere));
    let known = store.registration(id(1)).unwrap().unwrap();
    assert_eq!((known.ak, known.eks, known.first_seen), (ak(1), registration(1).eks, NOW));
    assert_eq!(store.registration(id(2)).unwrap(), None);
    assert_eq!(rows(&store, "device"), 1);
}

#[test]
fn of_two_commits_on_the_same_state_one_wins() {
    let (_folder, store) = store();
    store.register(registration(1)).unwrap();
    assert_eq!(commit(&store, accepted(1, 1, None)), Committed::Done);
    let two = [accepted(1, 2, Some(1)), contraindicated(accepted(1, 3, Some(1)))];
    let outcomes = store.commit(two.to_vec()).unwrap();
    assert_eq!(outcomes, [Committed::Done, Committed::Lost]);
    let state = store.state(id(1)).unwrap().unwrap();
    assert_eq!(state, two[0].appraisal.state);
    assert_eq!(commit(&store, accepted(1, 2, Some(1))), Committed::Lost);
    assert_eq!(commit(&store, accepted(1, 9, None)), Committed::Lost);
    assert_eq!(commit(&store, accepted(2, 1, None)), Committed::Lost, "not registered");
}

#[test]
fn concurrent_commits_on_the_same_state_let_one_through() {
    let (_folder, store) = store();
    store.register(registration(1)).unwrap();
    let threads: Vec<_> = (1..=8)
        .map(|clock| {
            let store = store.clone();
            std::thread::spawn(move || commit(&store, accepted(1, clock, None)))
        })
        .collect();
    let done = threads.into_iter().map(|thread| thread.join().unwrap()).filter(|done| *done == Committed::Done);
    assert_eq!(done.count(), 1);
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let (folder, store) = store();
    store.register(registration(1)).unwrap();
    commit(&store, with_files(accepted(1, 1, None), &["sh"]));
    let secret = store.secret("challenge").unwrap();
    drop(store);
    let store = Store::open(&folder.path().join("store.sqlite")).unwrap();
    assert_eq!(store.state(id(1)).unwrap().unwrap(), accepted(1, 1, None).appraisal.state);
    assert_eq!(store.files(id(1)).unwrap(), [file("sh")]);
    assert_eq!(store.result(id(1)).unwrap().unwrap(), [2, 3]);
    assert_eq!(store.secret("challenge").unwrap(), secret);
    assert_ne!(store.secret("other").unwrap(), secret);
}

#[test]
fn the_database_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, store) = store();
    store.register(registration(1)).unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
}

#[test]
fn an_id_is_found_by_any_unique_prefix_of_eight_digits() {
    let (_folder, store) = store();
    let near = |end: u8| {
        let mut id = [0xAB; 32];
        id[31] = end;
        DeviceId(id)
    };
    for (number, end) in [(1, 1), (2, 2)] {
        store.register(NewRegistration { device: near(end), ..registration(number) }).unwrap();
    }
    store.register(registration(3)).unwrap();
    let text = id(3).to_string();
    for length in [8, 9, 63, 64] {
        assert_eq!(store.resolve(&text[..length]), Ok(id(3)));
    }
    assert_eq!(store.resolve(&near(2).to_string()), Ok(near(2)));
    assert!(matches!(store.resolve("abababab"), Err(Unresolved::Ambiguous(_))));
    assert!(matches!(store.resolve("00000000"), Err(Unresolved::Unknown(_))));
    let long = format!("{text}0");
    for bad in ["", &text[..7], "ABABABAB", "abababa%", &long, "äbababab"] {
        assert!(matches!(store.resolve(bad), Err(Unresolved::NotAnId(_))), "{bad}");
    }
}

#[test]
fn history_grows_only_when_something_changes() {
    let (_folder, store) = store();
    store.register(registration(1)).unwrap();
    commit(&store, accepted(1, 1, None));
    commit(&store, accepted(1, 2, Some(1)));
    commit(&store, contraindicated(accepted(1, 3, Some(2))));
    commit(&store, contraindicated(accepted(1, 4, Some(3))));
    commit(&store, accepted(1, 5, Some(4)));
    let history = store.history(id(1), NOW + 6).unwrap();
    let shape: Vec<_> = history.iter().map(|row| (row.what, row.previous, row.verdict, row.at - NOW)).collect();
    assert_eq!(
        shape,
        [
            (What::Enrolled, None, Verdict::Unknown, 0),
            (What::Evidence, None, Verdict::Affirmed, 1),
            (What::Evidence, Some(Verdict::Affirmed), Verdict::Contraindicated, 3),
            (What::Evidence, Some(Verdict::Contraindicated), Verdict::Affirmed, 5),
        ]
    );
    assert_eq!(history[2].causes[0].code, Code::RuntimeUnknownExecutable);
    assert_eq!(history[2].evidence, Some(last(3).evidence));
}

#[test]
fn a_verdict_that_expired_in_between_stands_in_the_history() {
    let (_folder, store) = store();
    store.register(registration(1)).unwrap();
    commit(&store, accepted(1, 1, None));
    let expired = |store: &Store| -> Vec<UnixSeconds> {
        let rows = store.history(id(1), NOW + 10_000).unwrap();
        rows.iter().filter(|row| row.what == What::Expired).map(|row| row.at - NOW).collect()
    };
    assert_eq!(expired(&store), [601], "not written yet, but shown");
    commit(&store, accepted(1, 2_000, Some(1)));
    assert_eq!(expired(&store), [601, 2_600]);
}

#[test]
fn lists_and_history_stay_short_whatever_a_device_reports() {
    let (_folder, store) = store();
    store.register(registration(1)).unwrap();
    let mut flood = contraindicated(accepted(1, 1, None));
    let many = (0..64).map(|n| cause(Code::RuntimeUnknownExecutable, &format!("{n}{}", "é".repeat(4_000))));
    flood.appraisal.state.causes = many.collect();
    commit(&store, flood);
    let list = store.devices(&Filter::default(), NOW + 2).unwrap().devices.remove(0).causes;
    let history = store.history(id(1), NOW + 2).unwrap().pop().unwrap().causes;
    for causes in [list, history] {
        assert_eq!(causes.len(), MAX_LISTED_CAUSES);
        assert!(causes.iter().all(|cause| cause.detail.len() <= MAX_LISTED_DETAIL + 3));
        assert!(causes[0].detail.ends_with('…'));
    }
    assert_eq!(store.device(id(1), NOW + 2).unwrap().unwrap().summary.causes.len(), 64);
}

#[test]
fn a_verdict_that_flaps_does_not_fill_the_disk() {
    let (_folder, store) = store();
    store.register(registration(1)).unwrap();
    store.revoke(id(1), "first", "test", NOW).unwrap();
    let bound = u64::from(crate::limits::MAX_HISTORY);
    let flap = |clock: u64| {
        let next = accepted(1, clock, clock.checked_sub(1).filter(|before| *before > 0));
        if clock.is_multiple_of(2) { contraindicated(next) } else { next }
    };
    store.commit((1..=bound + 50).map(flap).collect()).unwrap();
    let history = store.history(id(1), NOW + bound + 60).unwrap();
    assert_eq!(history.len() as u64, bound + 2, "and what enrolment and operators did");
    assert_eq!((history[0].what, history[1].what), (What::Enrolled, What::Revoked));
    assert_eq!(history.last().unwrap().at, NOW + bound + 50);
}

#[test]
fn expiry_and_revocation_show_at_once() {
    let (_folder, store) = store();
    store.register(registration(1)).unwrap();
    let at = |seconds: u64| {
        let detail = store.device(id(1), NOW + seconds).unwrap().unwrap();
        let codes: Vec<Code> = detail.summary.causes.iter().map(|cause| cause.code).collect();
        (detail.summary.verdict, codes, detail.claims.get(Claim::InstanceIdentity))
    };
    assert_eq!(at(0), (Verdict::Unknown, vec![Code::NeverSeen], None));
    commit(&store, accepted(1, 1, None));
    assert_eq!(at(2), (Verdict::Affirmed, vec![], Some(2)));
    assert_eq!(at(601), (Verdict::Unknown, vec![Code::Overdue], None));
    assert_eq!(store.revoke(id(1), "stolen", "test", NOW + 2), Ok(true));
    assert_eq!(at(2), (Verdict::Contraindicated, vec![Code::IdentityRevoked], Some(97)));
    assert_eq!(at(601).0, Verdict::Contraindicated);
    assert_eq!(store.registration(id(1)).unwrap().unwrap().revoked.as_deref(), Some("stolen"));
    assert_eq!(store.approve(id(1), Some("acme/router"), "test", NOW + 3), Ok(true));
    assert_eq!(at(3), (Verdict::Affirmed, vec![], Some(2)));
    assert_eq!(store.approve(id(1), None, "test", NOW + 4), Ok(true));
    let known = store.registration(id(1)).unwrap().unwrap();
    assert_eq!((known.product.as_deref(), known.revoked), (Some("acme/router"), None));
    assert_eq!(store.revoke(id(2), "?", "test", NOW), Ok(false));
    assert_eq!(store.approve(id(2), None, "test", NOW), Ok(false));
    let notes: Vec<_> = store.history(id(1), NOW + 5).unwrap().into_iter().filter_map(|row| row.note).collect();
    assert_eq!(notes, ["stolen", "product acme/router"]);
}

#[test]
fn lists_are_filtered_by_what_holds_now() {
    let (_folder, store) = store();
    for number in 0..6 {
        store.register(registration(number)).unwrap();
    }
    // 0 never seen, 1 affirmed, 2 contraindicated, 3 expired, 4 revoked, 5 affirmed on another release
    commit(&store, accepted(1, 100, None));
    commit(&store, contraindicated(accepted(2, 100, None)));
    commit(&store, contraindicated(accepted(3, 1, None)));
    commit(&store, accepted(4, 100, None));
    store.revoke(id(4), "lost", "test", NOW).unwrap();
    let mut other = accepted(5, 100, None);
    other.appraisal.state.release = Some("2.0".into());
    commit(&store, other);
    store.approve(id(5), Some("acme/router"), "test", NOW).unwrap();
    let now = NOW + 650;
    let find = |filter: Filter| -> BTreeSet<DeviceId> {
        let page = store.devices(&filter, now).unwrap();
        assert_eq!(page.total, page.devices.len() as u64);
        if let Some(verdict) = filter.verdict {
            assert!(page.devices.iter().all(|device| device.verdict == verdict));
        }
        page.devices.iter().map(|device| device.id).collect()
    };
    let ids = |numbers: &[u64]| numbers.iter().map(|number| id(*number)).collect::<BTreeSet<_>>();
    let verdict = |verdict| Filter { verdict: Some(verdict), ..Filter::default() };
    assert_eq!(find(Filter::default()), ids(&[0, 1, 2, 3, 4, 5]));
    assert_eq!(find(verdict(Verdict::Affirmed)), ids(&[1, 5]));
    assert_eq!(find(verdict(Verdict::Contraindicated)), ids(&[2, 4]));
    assert_eq!(find(verdict(Verdict::Unknown)), ids(&[0, 3]));
    assert_eq!(find(verdict(Verdict::Warning)), ids(&[]));
    assert_eq!(find(Filter { overdue: true, ..Filter::default() }), ids(&[3]));
    let by_cause = |code| Filter { cause: Some(code), ..Filter::default() };
    assert_eq!(find(by_cause(Code::RuntimeUnknownExecutable)), ids(&[2, 3]));
    assert_eq!(find(by_cause(Code::NeverSeen)), ids(&[0]));
    assert_eq!(find(by_cause(Code::Overdue)), ids(&[3]));
    assert_eq!(find(by_cause(Code::IdentityRevoked)), ids(&[4]));
    assert_eq!(find(Filter { product: Some("acme/router".into()), ..Filter::default() }), ids(&[5]));
    assert_eq!(find(Filter { release: Some("2.0".into()), ..Filter::default() }), ids(&[5]));
    let both = Filter { overdue: true, ..verdict(Verdict::Affirmed) };
    assert_eq!(find(both), ids(&[]));
    let counts = store.fleet(now).unwrap();
    assert_eq!(counts, FleetCounts { total: 6, verdicts: [2, 0, 2, 2], overdue: 1, never_seen: 1 });
}

#[test]
fn pages_follow_each_other_without_gap_or_overlap() {
    let (_folder, store) = store();
    for number in 0..10 {
        store.register(registration(number)).unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.devices(&Filter { limit: 3, after, ..Filter::default() }, NOW).unwrap();
        assert_eq!(page.total, 10);
        assert!(page.devices.len() <= 3);
        seen.extend(page.devices.iter().map(|device| device.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut expected: Vec<_> = (0..10).map(id).collect();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn where_a_file_runs_is_known_and_forgotten_with_the_boot() {
    let (_folder, store) = store();
    for number in 1..=3 {
        store.register(registration(number)).unwrap();
        commit(&store, with_files(accepted(number, 1, None), &["sh", "ls"]));
    }
    assert_eq!(rows(&store, "mset"), 1, "devices that run the same share a set");
    commit(&store, with_files(accepted(2, 2, Some(1)), &["implant"]));
    assert_eq!(running(&store, "implant"), BTreeSet::from([id(2)]));
    assert_eq!(running(&store, "sh"), BTreeSet::from([id(1), id(2), id(3)]));
    commit(&store, with_files(accepted(2, 3, Some(2)), &["second"]));
    assert_eq!(rows(&store, "mset"), 2, "a set of one device grows in place");
    let mut known = store.files(id(2)).unwrap();
    known.sort();
    let mut expected: Vec<_> = ["sh", "ls", "implant", "second"].map(file).into();
    expected.sort();
    assert_eq!(known, expected);
    let mut reboot = with_files(accepted(2, 4, Some(3)), &["sh", "ls"]);
    reboot.appraisal.new_boot = true;
    commit(&store, reboot);
    assert_eq!(running(&store, "implant"), BTreeSet::new());
    assert_eq!((rows(&store, "mset"), rows(&store, "file"), rows(&store, "mset_file")), (1, 2, 2));
    let mut empty = accepted(1, 2, Some(1));
    empty.appraisal.new_boot = true;
    commit(&store, empty);
    assert_eq!(store.files(id(1)).unwrap(), []);
    assert_eq!(running(&store, "sh"), BTreeSet::from([id(2), id(3)]));
}

#[test]
fn more_files_than_are_kept_change_nothing() {
    let (_folder, store) = store();
    store.register(registration(1)).unwrap();
    commit(&store, with_files(accepted(1, 1, None), &["sh"]));
    let mut flood = accepted(1, 2, Some(1));
    flood.appraisal.new_files = (0..crate::limits::MAX_FILES).map(|n| file(&n.to_string())).collect();
    assert_eq!(commit(&store, flood), Committed::TooManyFiles);
    assert_eq!(store.state(id(1)).unwrap().unwrap().last, last(1));
    assert_eq!(rows(&store, "file"), 1);
}

#[test]
fn what_every_evidence_writes_touches_no_index() {
    let (_folder, store) = store();
    for sql in [commit::UPDATE_TIMES, commit::WRITE_STATE] {
        let codes: Vec<String> = store
            .read(|c| {
                let mut explain = c.prepare(&format!("EXPLAIN {sql}"))?;
                let nothing = vec![rusqlite::types::Null; explain.parameter_count()];
                explain.query_map(rusqlite::params_from_iter(nothing), |row| row.get(1))?.collect()
            })
            .unwrap();
        assert!(codes.iter().any(|code| code == "Insert"), "{codes:?}");
        assert!(codes.iter().all(|code| !code.starts_with("Idx")), "{codes:?}");
    }
}

#[test]
fn enrolment_keys_are_kept_for_hours_and_then_gone() {
    let (_folder, store) = store();
    let key = store.enrolment_key(100).unwrap();
    assert_eq!(store.enrolment_key(100).unwrap(), key);
    assert_ne!(store.enrolment_key(101).unwrap(), key);
    assert_eq!(store.enrolment_key(100).unwrap(), key);
    store.enrolment_key(110).unwrap();
    assert_ne!(store.enrolment_key(100).unwrap(), key, "deleted in between");
}

#[test]
fn a_database_of_a_later_version_or_none_at_all_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.sqlite");
    drop(Store::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::TooNew { found: 99, .. })));
    let text = folder.path().join("text");
    std::fs::write(&text, "no database ".repeat(100)).unwrap();
    let error = Store::open(&text).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Database { kind: Trouble::Damaged, .. }), "{error:?}");
    assert!(error.to_string().contains("text"));
    assert!(Store::open(&folder.path().join("no/such/folder")).is_err());
}

#[test]
fn a_full_disk_fails_the_commit_whole_and_the_store_goes_on() {
    let (folder, store) = store();
    for number in 1..=2 {
        store.register(registration(number)).unwrap();
    }
    commit(&store, accepted(1, 1, None));
    let limit = |pages: i64| {
        store.write(1, move |c| c.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))).unwrap();
    };
    limit(1);
    let mut large = accepted(1, 2, Some(1));
    large.evidence = vec![0; 1 << 20];
    let error = store.commit(vec![accepted(2, 1, None), large]).unwrap_err();
    assert!(matches!(error, StoreError::Database { kind: Trouble::Full, .. }), "{error:?}");
    assert!(error.to_string().contains(&folder.path().join("store.sqlite").display().to_string()), "{error}");
    assert_eq!(store.state(id(1)).unwrap().unwrap().last, last(1));
    assert_eq!(store.state(id(2)).unwrap(), None, "nothing half-written");
    limit(1 << 20);
    assert_eq!(commit(&store, accepted(1, 2, Some(1))), Committed::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_wait_together_are_awaited_and_announced() {
    let (_folder, store) = store();
    for number in 0..64 {
        store.register(registration(number)).unwrap();
    }
    let mut changed = store.subscribe();
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.commit_async(vec![accepted(number, 1, None)]).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), [Committed::Done]);
    }
    let mut announced = BTreeSet::new();
    while announced.len() < 64 {
        announced.insert(changed.recv().await.unwrap());
    }
}

/// Set in the child of the next test, which commits until it is killed and says after each commit what is durable.
const CHILD: &str = "COUNTERSIGN_TEST_STORE";

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Some(path) = std::env::var_os(CHILD) {
        return commit_until_killed(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.sqlite");
    let mut acknowledged = 0;
    for _round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::what_was_acknowledged_survives_kill_9", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let of = |line: String| line.strip_prefix("committed ").and_then(|clock| clock.parse::<u64>().ok());
        let mut seen = lines.by_ref().filter_map(of).take(40).inspect(|clock| acknowledged = *clock);
        assert_eq!(seen.by_ref().count(), 40);
        child.kill().unwrap();
        drop(seen);
        acknowledged = lines.filter_map(of).last().unwrap_or(acknowledged);
        child.wait().unwrap();
        let store = Store::open(&path).unwrap();
        let clock = store.state(id(1)).unwrap().unwrap().last.counters.clock;
        assert!(clock >= acknowledged, "{acknowledged} was acknowledged, {clock} is there");
        assert_eq!(store.history(id(1), NOW).unwrap().len() as u64, clock + 1, "state and history move together");
        let sound: String = store.read(|c| c.query_row("PRAGMA integrity_check", [], |row| row.get(0))).unwrap();
        assert_eq!(sound, "ok");
    }
}

fn commit_until_killed(path: &Path) {
    let store = Store::open(path).unwrap();
    store.register(registration(1)).unwrap();
    let mut held = store.state(id(1)).unwrap().map(|state| state.last.counters.clock);
    loop {
        let clock = held.unwrap_or(0) + 1;
        let next = accepted(1, clock, held);
        let next = if clock.is_multiple_of(2) { contraindicated(next) } else { next };
        assert_eq!(commit(&store, next), Committed::Done);
        println!("committed {clock}");
        held = Some(clock);
    }
}

#[test]
fn a_statement_is_planned_once_however_often_it_is_used() {
    let (_folder, store) = store();
    store.register(registration(1)).unwrap();
    for clock in 1..4 {
        assert_eq!(commit(&store, accepted(1, clock, (clock > 1).then(|| clock - 1))), Committed::Done);
        assert!(store.known(id(1)).unwrap().is_some());
    }
    let planned_again =
        |c: &Connection| Ok(c.prepare_cached(registry::KNOWN)?.get_status(rusqlite::StatementStatus::RePrepare));
    assert_eq!(store.read(planned_again).unwrap(), 0);
}
