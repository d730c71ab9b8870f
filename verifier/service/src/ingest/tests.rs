//! Messages of software devices through a whole verifier but for the broker: what becomes durable, what is answered, and
//! what is not.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering},
};

use evidence::{claims::Nonce, verifier_keys::VerifierKeys};
use tempfile::TempDir;

use super::*;
use crate::store::{NewRegistration, Registered, What, backup, tests::registration};
use software::{Attach, SoftwareDevice};

#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the whole")]
#[path = "../../../../tests/src/software.rs"]
mod software;

const NOW: UnixSeconds = 1_796_083_200;
const PERIOD: u64 = 3600;

/// A verifier in a folder, whose clock the test sets.
struct Bench {
    verifier: Arc<Verifier>,
    clock: &'static AtomicU64,
    read: fn() -> UnixSeconds,
    dir: TempDir,
}

/// A clock of the test's own.
macro_rules! bench {
    () => {
        bench!(NOW)
    };
    ($now:expr) => {{
        static CLOCK: AtomicU64 = AtomicU64::new($now);
        Bench::new(&CLOCK, || CLOCK.load(Ordering::Relaxed))
    }};
}

mod boot_logs;

impl Deref for Bench {
    type Target = Verifier;

    fn deref(&self) -> &Verifier {
        &self.verifier
    }
}

impl Bench {
    fn new(clock: &'static AtomicU64, read: fn() -> UnixSeconds) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let verifier = Arc::new(Verifier::in_folder(dir.path(), read));
        let bench = Self { verifier, clock, read, dir };
        bench.open_epoch();
        bench
    }

    /// Another process of the same verifier.
    fn beside(&self) -> Arc<Verifier> {
        Arc::new(Verifier::in_folder(self.dir.path(), self.read))
    }

    fn now(&self) -> UnixSeconds {
        (self.read)()
    }

    /// Time passes as it does: the clock that nobody sets goes along.
    fn pass(&self, seconds: u64) {
        let now = self.clock.fetch_add(seconds, Ordering::Relaxed) + seconds;
        self.guard.believe(now);
    }

    fn open_epoch(&self) -> Nonce {
        self.calendar.advance(self.now(), PERIOD as u32).unwrap();
        self.calendar.message(PERIOD as u32).unwrap().nonce
    }

    fn next_epoch(&self) -> Nonce {
        self.pass(PERIOD);
        self.open_epoch()
    }

    fn enrol(&self, device: &SoftwareDevice) {
        let DeviceKeys { device, ak } = device.keys;
        let eks = vec![device.0];
        let new = NewRegistration { device, ak, eks, now: self.now(), ..registration(1) };
        assert_eq!(self.store.register(new).unwrap(), Registered::New);
    }

    async fn send(&self, device: &SoftwareDevice, message: &[u8]) -> Vec<Outgoing> {
        send(&self.verifier, device, message).await
    }

    /// What the device takes for its own from these answers: its request's nonce.
    fn nonce(&self, answers: &[Outgoing]) -> Nonce {
        let [answer] = answers else { panic!("one answer: {answers:?}") };
        let challenge: Challenge = self.published().open(Purpose::Request, &answer.payload).expect("a request");
        *challenge.nonce()
    }

    fn ask(&self, device: &SoftwareDevice) -> Nonce {
        self.nonce(&Vec::from_iter(self.request(&device.keys.device, true)))
    }

    fn result(&self, answers: &[Outgoing]) -> AttestationResult {
        let [answer] = answers else { panic!("one answer: {answers:?}") };
        self.published().open(Purpose::Result, &answer.payload).expect("a result")
    }

    fn published(&self) -> VerifierKeys {
        self.keys.current().signed().keys.clone()
    }

    fn state(&self, device: &SoftwareDevice) -> DeviceState {
        self.store.state(device.keys.device).unwrap().expect("a state")
    }

    fn rows(&self, device: &SoftwareDevice) -> usize {
        self.store.history(device.keys.device, self.now()).unwrap().len()
    }

    fn count(&self, line: &str) -> u64 {
        let text = self.metrics.render(&crate::store::FleetCounts::default());
        text.lines().filter(|l| l.contains(line)).filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// A device of which everything is known: its first evidence answers a request.
    async fn settled(&self) -> SoftwareDevice {
        let mut device = SoftwareDevice::new();
        self.enrol(&device);
        device.run("/bin/a", [1; 32]);
        let message = device.attest(&[self.ask(&device)], Attach::LogsFrom(0));
        let result = self.result(&self.send(&device, &message).await);
        assert!(result.acknowledged.runtime == 1 && result.acknowledged.pcr_values);
        device.why = Why::Epoch;
        device
    }
}

async fn send(verifier: &Arc<Verifier>, device: &SoftwareDevice, message: &[u8]) -> Vec<Outgoing> {
    let topic = format!("cs/1/{}/up/evidence", device.keys.device);
    verifier.take(&Arc::new(vec![Message::for_test(&topic, message)])).await
}

#[tokio::test]
async fn an_epoch_without_news_costs_one_message_up_none_down_and_no_row() {
    let bench = bench!();
    let mut device = bench.settled().await;
    let (rows, before) = (bench.rows(&device), bench.state(&device));
    for _ in 0..3 {
        device.pass(PERIOD);
        let nonce = bench.next_epoch();
        let message = device.attest(&[nonce], Attach::Nothing);
        assert_eq!(bench.send(&device, &message).await, []);
    }
    let state = bench.state(&device);
    assert_eq!(state.expires, before.expires + 3 * PERIOD, "the verdict lives on, counted from the opening");
    assert_ne!(state.last, before.last);
    assert_eq!(bench.rows(&device), rows);
    assert_eq!(bench.count("evidence_by_basis_total{basis=\"epoch\"}"), 3);
    // The relying party's copy is the newest all the same.
    let stored = bench.store.result(device.keys.device).unwrap().unwrap();
    let result: AttestationResult = bench.published().open(Purpose::Result, &stored).unwrap();
    assert_eq!((result.evidence, result.expires), (state.last.evidence, state.expires));
}

#[tokio::test]
async fn news_under_an_epoch_is_told() {
    let bench = bench!();
    let mut device = bench.settled().await;
    device.pass(PERIOD);
    let nonce = bench.next_epoch();
    // Another product, by an operator.
    bench.store.approve(device.keys.device, Some("a/b"), "test", bench.now()).unwrap();
    let message = device.attest(&[nonce], Attach::Nothing);
    let causes = bench.result(&bench.send(&device, &message).await).causes;
    assert!(causes.iter().any(|cause| cause.code == "reference.none"), "{causes:?}");
    // The same once more is none.
    device.pass(PERIOD);
    let nonce = bench.next_epoch();
    let message = device.attest(&[nonce], Attach::Nothing);
    assert_eq!(bench.send(&device, &message).await, []);
    // Something attached, another reason to attest, a verdict that had expired: each is answered.
    device.pass(PERIOD);
    device.run("/bin/b", [2; 32]);
    let nonce = bench.next_epoch();
    let message = device.attest(&[nonce], Attach::LogsFrom(1));
    assert_eq!(bench.result(&bench.send(&device, &message).await).acknowledged.runtime, 2);
    device.why = Why::Startup;
    device.pass(PERIOD);
    let nonce = bench.next_epoch();
    let message = device.attest(&[nonce], Attach::Nothing);
    bench.result(&bench.send(&device, &message).await);
    device.why = Why::Epoch;
    device.pass(9 * PERIOD);
    bench.pass(8 * PERIOD);
    let nonce = bench.next_epoch();
    let message = device.attest(&[nonce], Attach::Nothing);
    bench.result(&bench.send(&device, &message).await);
}

#[tokio::test]
async fn current_and_previous_epoch_count_and_the_one_before_does_not() {
    let bench = bench!();
    let mut device = bench.settled().await;
    let nonces = [bench.next_epoch(), bench.next_epoch(), bench.next_epoch()];
    device.pass(PERIOD);
    let state = bench.state(&device);
    let message = device.attest(&nonces[..1], Attach::Nothing);
    assert_eq!(bench.send(&device, &message).await, [], "silence: it could as well be for another verifier");
    assert_eq!(bench.state(&device), state);
    assert_eq!(bench.count("code=\"freshness.nonce\""), 1);
    for nonce in &nonces[1..] {
        device.pass(PERIOD);
        let message = device.attest(&[*nonce], Attach::Nothing);
        bench.send(&device, &message).await;
        assert_ne!(bench.state(&device).last, state.last);
    }
}

#[tokio::test]
async fn evidence_for_another_verifier_gets_no_answer_and_one_for_both_serves_this_one() {
    let bench = bench!();
    let mut device = bench.settled().await;
    let others = device.attest(&[[7; 32]], Attach::Nothing);
    assert_eq!(bench.send(&device, &others).await, []);
    device.pass(PERIOD);
    let both = [[7; 32], bench.next_epoch()];
    let message = device.attest(&both, Attach::Nothing);
    assert_eq!(bench.send(&device, &message).await, []);
    assert_eq!(bench.count("basis=\"epoch\""), 1);
}

#[tokio::test]
async fn an_epoch_that_only_another_process_knows_yet_is_looked_up() {
    let bench = bench!();
    let mut device = bench.settled().await;
    let other = bench.beside();
    bench.pass(PERIOD);
    other.calendar.advance(bench.now(), PERIOD as u32).unwrap();
    device.pass(PERIOD);
    let nonce = other.calendar.message(PERIOD as u32).unwrap().nonce;
    let message = device.attest(&[nonce], Attach::Nothing);
    assert_eq!(bench.send(&device, &message).await, []);
    assert_eq!(bench.count("basis=\"epoch\""), 1);
}

#[tokio::test]
async fn a_replay_is_dropped_and_followed_by_one_request() {
    let bench = bench!();
    let mut device = bench.settled().await;
    let nonce = bench.next_epoch();
    device.pass(PERIOD);
    let old = device.attest(&[nonce], Attach::Nothing);
    let newer = device.attest(&[nonce], Attach::Nothing);
    bench.send(&device, &newer).await;
    let (state, rows) = (bench.state(&device), bench.rows(&device));
    bench.nonce(&bench.send(&device, &old).await);
    for _ in 0..5 {
        assert_eq!(bench.send(&device, &old).await, [], "one request, not one for each copy");
    }
    assert_eq!((bench.state(&device), bench.rows(&device)), (state, rows));
    assert_eq!(bench.count("code=\"freshness.replay\""), 6);
    assert_eq!(bench.count("why=\"replay\""), 1);
}

#[tokio::test]
async fn only_the_answer_to_that_request_shows_a_cleared_tpm() {
    let bench = bench!();
    let mut device = bench.settled().await;
    let before = bench.state(&device);
    device.clear();
    let nonce = bench.next_epoch();
    let message = device.attest(&[nonce], Attach::LogsFrom(0));
    let bound = bench.nonce(&bench.send(&device, &message).await);
    // A request that an operator made does not do, however fresh.
    let message = device.attest(&[bench.ask(&device)], Attach::LogsFrom(0));
    assert_eq!(bench.send(&device, &message).await, []);
    assert_eq!(bench.state(&device).last, before.last);
    let message = device.attest(&[bound], Attach::LogsFrom(0));
    let result = bench.result(&bench.send(&device, &message).await);
    assert!(result.causes.iter().any(|cause| cause.code == "tpm.cleared"), "{:?}", result.causes);
    // Higher counters from before the clear never come back.
    device.counters = before.last.counters;
    device.counters.clock += 10;
    let message = device.attest(&[nonce], Attach::Nothing);
    bench.send(&device, &message).await;
    assert_ne!(bench.state(&device).last.counters, device.counters);
}

#[tokio::test]
async fn a_duplicate_is_answered_under_the_keys_of_now_and_judged_no_second_time() {
    let bench = bench!();
    let mut device = bench.settled().await;
    let message = device.attest(&[bench.ask(&device)], Attach::Nothing);
    let first = bench.result(&bench.send(&device, &message).await);
    let (state, rows) = (bench.state(&device), bench.rows(&device));
    let old = bench.published();
    bench.keys.rotate(bench.now()).unwrap();
    let answers = bench.send(&device, &message).await;
    assert!(old.open::<AttestationResult>(Purpose::Result, &answers[0].payload).is_err());
    assert_eq!(bench.result(&answers), first);
    assert_eq!((bench.state(&device), bench.rows(&device)), (state, rows));
    // A request made before the rotation is answered as ever: nonces hang on the root.
    let nonce = bench.ask(&device);
    bench.keys.rotate(bench.now()).unwrap();
    let message = device.attest(&[nonce], Attach::Nothing);
    bench.result(&bench.send(&device, &message).await);
}

#[tokio::test]
async fn nonces_from_before_an_approval_after_a_revocation_count_no_more() {
    let bench = bench!();
    let mut device = bench.settled().await;
    let epoch = bench.next_epoch();
    let asked = bench.ask(&device);
    bench.pass(10);
    let id = device.keys.device;
    bench.store.revoke(id, "stolen", "test", bench.now()).unwrap();
    bench.store.approve(id, None, "test", bench.now()).unwrap();
    let state = bench.store.state(id).unwrap();
    for nonce in [epoch, asked] {
        device.pass(1);
        let message = device.attest(&[nonce], Attach::Nothing);
        let answers = bench.send(&device, &message).await;
        assert!(answers.iter().all(|answer| answer.topic.ends_with("/request")), "{answers:?}");
    }
    assert_eq!(bench.store.state(id).unwrap(), state);
    assert_eq!(bench.count("code=\"freshness.generation\""), 2);
    device.pass(1);
    let message = device.attest(&[bench.ask(&device)], Attach::LogsFrom(0));
    bench.result(&bench.send(&device, &message).await);
}

#[tokio::test]
async fn with_a_wrong_clock_nothing_is_judged_or_asked_and_what_waits_is_judged_when_it_is_right() {
    let bench = bench!();
    let mut device = bench.settled().await;
    let message = device.attest(&[bench.ask(&device)], Attach::Nothing);
    let state = bench.state(&device);
    bench.clock.fetch_sub(7200, Ordering::Relaxed);
    let (verifier, topic) = (Arc::clone(&bench.verifier), format!("cs/1/{}/up/evidence", device.keys.device));
    let waiting =
        tokio::spawn(async move { verifier.take(&Arc::new(vec![Message::for_test(&topic, &message)])).await });
    while !bench.ready.missing().contains(&"clock") {
        tokio::task::yield_now().await;
    }
    assert!(bench.request(&device.keys.device, true).is_none());
    assert_eq!(bench.state(&device), state);
    bench.clock.fetch_add(7200, Ordering::Relaxed);
    bench.result(&waiting.await.unwrap());
    assert!(!bench.ready.missing().contains(&"clock"));
}

#[tokio::test]
async fn a_row_that_cannot_be_written_leaves_the_store_ready_for_all_others() {
    let bench = bench!();
    let mut device = bench.settled().await;
    let message = device.attest(&[bench.ask(&device)], Attach::Nothing);
    let database = rusqlite::Connection::open(bench.store.path()).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON device_state BEGIN SELECT raise(ABORT, 'damaged'); END";
    database.execute_batch(refuse).unwrap();
    assert_eq!(bench.send(&device, &message).await, []);
    assert_eq!(bench.count("\"contended\""), 1, "given up");
    assert!(!bench.ready.missing().contains(&STORING));
}

#[tokio::test]
async fn a_store_from_yesterdays_backup_converges_with_devices_that_are_ahead() {
    // Before now by the machine's clock, which the store takes the time of the restore from.
    let bench = bench!(1_700_000_000);
    let mut device = bench.settled().await;
    let known_to_the_copy = bench.open_epoch();
    let copy = bench.dir.path().join("copy");
    backup(bench.store.path(), &copy).unwrap();
    // The device goes on, and reboots not.
    device.run("/bin/b", [2; 32]);
    device.run("/bin/c", [3; 32]);
    device.pass(PERIOD);
    let epoch = bench.next_epoch();
    let message = device.attest(&[epoch], Attach::LogsFrom(1));
    assert_eq!(bench.result(&bench.send(&device, &message).await).acknowledged.runtime, 3);
    let lost = device.attest(&[bench.ask(&device)], Attach::Nothing);

    // The copy takes the store's place.
    let home = tempfile::tempdir().unwrap();
    std::fs::rename(&copy, home.path().join("store.sqlite")).unwrap();
    std::fs::copy(bench.dir.path().join("root-key.pem"), home.path().join("root-key.pem")).unwrap();
    let restored = Store::open(&home.path().join("store.sqlite")).unwrap().restored_at().unwrap().expect("a mark");
    let time = restored + 1;
    bench.clock.store(time, Ordering::Relaxed);
    let verifier = Arc::new(Verifier::in_folder(home.path(), bench.read));
    let after = Bench { verifier, clock: bench.clock, read: bench.read, dir: home };
    after.store.void_verdicts(time).unwrap();
    after.guard.believe(time);
    let shown = after.store.device(device.keys.device, after.now()).unwrap().unwrap().summary;
    assert_eq!(shown.verdict, Verdict::Unknown, "what has become of it since, the store does not know");
    // Nonces from before are void, and other keys sign.
    assert_eq!(after.send(&device, &lost).await, []);
    let message = device.attest(&[known_to_the_copy], Attach::Nothing);
    after.nonce(&after.send(&device, &message).await);
    assert_eq!(after.count("code=\"freshness.generation\""), 1);
    assert_ne!(after.published(), bench.published());
    assert_eq!(after.keys.root(), bench.keys.root());

    // With nothing new to say it answers the next epoch; the result tells how far the log is known, it goes back to there.
    device.pass(time - 1_700_000_000);
    let epoch = after.open_epoch();
    let message = device.attest(&[epoch], Attach::Nothing);
    let result = after.result(&after.send(&device, &message).await);
    assert!(result.causes.iter().any(|cause| cause.code == "log.incomplete"), "{:?}", result.causes);
    assert_eq!(result.acknowledged.runtime, 1);
    let message = device.attest(&[epoch], Attach::LogsFrom(result.acknowledged.runtime));
    let result = after.result(&after.send(&device, &message).await);
    assert_eq!(result.acknowledged.runtime, 3);
    assert!(result.causes.iter().all(|cause| cause.code != "log.incomplete" && cause.code != "log.mismatch"));
    let what = after.store.history(device.keys.device, after.now()).unwrap();
    assert!(what.iter().any(|row| row.what == What::Expired), "the gap is on record");
}

fn work(message: usize, topic: &str) -> Work {
    Work { message, topic: UpTopic::parse(topic).unwrap(), tries: 0 }
}

#[test]
fn of_each_device_one_message_is_judged_at_a_time_in_order() {
    let [a, b] = ["aa", "bb"].map(|byte| format!("cs/1/{}/up/evidence", byte.repeat(32)));
    let waiting = vec![work(0, &a), work(1, &b), work(2, &a), work(3, "cs/1/enrol/c/up"), work(4, &a), work(5, &b)];
    let numbers = |works: &[Work]| works.iter().map(|work| work.message).collect::<Vec<_>>();
    let (first, rest) = first_of_each(waiting, 9);
    assert_eq!((numbers(&first), numbers(&rest)), (vec![0, 1, 3], vec![2, 4, 5]));
    let (second, rest) = first_of_each(rest, 1);
    assert_eq!((numbers(&second), numbers(&rest)), (vec![2], vec![4, 5]));
}

#[test]
fn a_long_detail_keeps_its_beginning_and_its_end() {
    let long = format!("/tmp/{} sha256:abcd", "ü".repeat(3000));
    let short = shortened(&long);
    assert!(
        short.len() <= MAX_RESULT_DETAIL && short.starts_with("/tmp/ü") && short.ends_with(" sha256:abcd"),
        "{short}"
    );
    assert_eq!(shortened("short"), "short");
}
