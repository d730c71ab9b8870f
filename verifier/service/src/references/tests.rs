//! A folder, a trust and a store, as an operator and a maker change them.

use std::collections::BTreeMap;

use evidence::topic::Name;
use reference_values::{
    Document, Endorsed, Endorsements, Executable, Notice, Release, Revoked, Role, SignedDocument, SigningKey,
};
use ring::rand::SystemRandom;
use tempfile::TempDir;

use super::*;
use crate::{
    http::Readiness,
    init::{Plan, init},
    store::Store,
};

const NOW: UnixSeconds = 1_795_000_000;

/// A verifier's folders with a desk over them, and a maker that is trusted for `a/*`.
pub(crate) struct Shop {
    pub(crate) desk: Arc<Desk>,
    pub(crate) ready: Arc<Readiness>,
    pub(crate) config: Config,
    store: Store,
    clock: fn() -> UnixSeconds,
    maker: SigningKey,
    _dirs: Vec<TempDir>,
}

impl Shop {
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.sqlite")).unwrap();
        let mut shop = Self::of(&store, || NOW);
        shop._dirs.push(dir);
        shop
    }

    pub(crate) fn of(store: &Store, clock: fn() -> UnixSeconds) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan {
            dir: dir.path().join("v"),
            name: Name::new("v1").unwrap(),
            broker: ("localhost".to_owned(), 8883),
            enrolment_port: 8884,
            service_port: 8885,
            http: "127.0.0.1:0".parse().unwrap(),
            now: NOW,
        };
        let config = Config::load(Some(&init(&plan).unwrap().join("verifier.toml")), []).unwrap();
        let maker = new_key();
        let trusted = trust("Maker", "manufacturer", &maker);
        fs::write(config.trust.join("maker.toml"), trusted).unwrap();
        let ready = Arc::new(Readiness::waiting_for(&["broker"]));
        let desk = Arc::new(Desk::open(&config, store, Arc::clone(&ready), clock).unwrap());
        Self { desk, ready, config, store: store.clone(), clock, maker, _dirs: vec![dir] }
    }

    /// Ends the service and starts it again on the same folders.
    fn restart(&mut self) -> Result<(), RulesError> {
        self.desk = Arc::new(Desk::open(&self.config, &self.store, Arc::clone(&self.ready), self.clock)?);
        Ok(())
    }

    /// A release of one file, signed by the maker.
    pub(crate) fn release(&self, name: &str, sequence: u64, file: u8) -> Vec<u8> {
        release(name, sequence, file).sign(&self.maker, Role::Manufacturer, &SystemRandom::new()).unwrap().encode()
    }

    fn sign(&self, document: impl Into<Document>) -> Vec<u8> {
        let signed = SignedDocument::unsigned(document).sign(&self.maker, Role::Manufacturer, &SystemRandom::new());
        signed.unwrap().encode()
    }

    /// A notice that takes back the release `1`.
    fn notice(&self, sequence: u64, expires: Option<u64>) -> Vec<u8> {
        let revoked = Revoked { release: "1".to_owned(), why: "a flaw".to_owned(), advisory: None };
        self.sign(Notice::new("a/b", "n", sequence, expires, None, vec![revoked], Vec::new()).unwrap())
    }

    /// A list of endorsement keys of the product `a/b`.
    pub(crate) fn list(&self, sequence: u64, eks: &[([u8; 32], &str)]) -> Vec<u8> {
        let mut entries: Vec<Endorsed> =
            eks.iter().map(|(ek, serial)| Endorsed { ek: *ek, serial: (*serial).to_owned() }).collect();
        entries.sort_by_key(|entry| entry.ek);
        self.sign(Endorsements::new("a/b", "line", sequence, None, entries).unwrap())
    }

    fn revoked(&self) -> bool {
        let rules = self.desk.rules();
        let product = rules.references.product("a/b").unwrap();
        product.releases().any(|(_, entry)| entry.revoked().is_some())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.config.reference_values.join(name)
    }

    fn put(&self, file: &str, bytes: &[u8]) {
        fs::write(self.file(file), bytes).unwrap();
    }

    /// The watcher looks until the folder rests.
    fn look(&self) {
        self.desk.look();
        self.desk.look();
    }

    /// Releases in force.
    fn in_force(&self) -> Vec<String> {
        let rules = self.desk.rules();
        let product = rules.references.product("a/b");
        product
            .into_iter()
            .flat_map(|product| product.releases().map(|(_, entry)| entry.name().to_owned()).collect::<Vec<_>>())
            .collect()
    }

    /// Code and whether a copy holds, by file.
    fn refused(&self) -> BTreeMap<String, (&'static str, bool)> {
        let status = self.desk.status();
        status.refused.iter().map(|refused| (refused.file.clone(), (refused.fault.code, refused.held))).collect()
    }

    fn problem(&self) -> Option<&'static str> {
        self.desk.status().problem.as_ref().map(|problem| problem.code)
    }

    fn copies(&self) -> Vec<String> {
        let names = fs::read_dir(self.config.data_dir.join("references")).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn new_key() -> SigningKey {
    SigningKey::from_pem(&SigningKey::generate(&SystemRandom::new()).unwrap()).unwrap()
}

fn trust(name: &str, role: &str, key: &SigningKey) -> String {
    let pem = key.public().to_pem();
    format!("[[signer]]\nname = \"{name}\"\nrole = \"{role}\"\nproducts = [\"a/*\"]\nkey = \"\"\"\n{pem}\"\"\"\n")
}

fn release(name: &str, sequence: u64, file: u8) -> SignedDocument {
    let executable = Executable { digest: [file; 32], path: "/bin/a".to_owned() };
    SignedDocument::unsigned(Release::new("a/b", name, sequence, vec![executable], Vec::new()).unwrap())
}

#[test]
fn a_file_that_is_dropped_comes_into_force_once_it_rests() {
    let shop = Shop::open();
    let before = shop.desk.subscribe();
    shop.desk.look();
    shop.desk.look();
    assert!(!before.has_changed().unwrap(), "nothing came");
    let whole = shop.release("1", 1, 1);
    shop.put("1.corim", whole.split_at(whole.len() / 2).0);
    shop.desk.look();
    assert_eq!((shop.in_force(), shop.refused().len()), (vec![], 0), "it is being copied");
    shop.put("1.corim", &whole);
    shop.desk.look();
    assert!(shop.in_force().is_empty());
    shop.desk.look();
    assert_eq!(shop.in_force(), ["1"]);
    assert!(before.has_changed().unwrap());
    let before = shop.desk.subscribe();
    let again = fs::read(shop.file("1.corim")).unwrap();
    shop.put("1.corim", &again);
    shop.look();
    assert!(!before.has_changed().unwrap(), "the same again is no change");
}

#[test]
fn only_signed_releases_count_and_one_that_is_not_spoils_nothing() {
    let shop = Shop::open();
    shop.put("1.corim", &shop.release("1", 1, 1));
    shop.put("2.corim", &release("2", 2, 2).encode());
    shop.put("3.corim", b"nonsense");
    std::os::unix::fs::symlink(shop.file("4.corim"), shop.file("4.corim")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", shop.file("5.corim")).unwrap();
    shop.look();
    assert_eq!(shop.in_force(), ["1"]);
    let refused = shop.refused();
    assert_eq!(refused["2.corim"], ("release.unsigned", false));
    for unreadable in ["3.corim", "4.corim", "5.corim"] {
        assert_eq!(refused[unreadable], ("release.unreadable", false), "{unreadable}");
    }
    assert_eq!((refused.len(), shop.ready.warnings()), (4, vec!["reference-values"]));
    for file in refused.keys() {
        fs::remove_file(shop.file(file)).unwrap();
    }
    shop.look();
    assert_eq!((shop.refused().len(), shop.ready.warnings()), (0, vec![]));
}

#[test]
fn the_last_good_copy_of_a_file_that_is_broken_stays_in_force_over_a_restart() {
    let mut shop = Shop::open();
    shop.put("1.corim", &shop.release("1", 1, 1));
    shop.look();
    let mut flipped = shop.release("1", 1, 1);
    *flipped.last_mut().unwrap() ^= 1;
    for broken in [flipped.as_slice(), b"", &release("1", 1, 1).encode()] {
        shop.put("1.corim", broken);
        shop.look();
        shop.restart().unwrap();
        assert_eq!(shop.in_force(), ["1"]);
        let refused = shop.refused();
        assert!(refused["1.corim"].1, "{refused:?}");
    }
}

#[test]
fn what_a_signer_has_lost_trust_for_does_not_live_on_through_its_copy() {
    let mut shop = Shop::open();
    shop.put("1.corim", &shop.release("1", 1, 1));
    shop.look();
    shop.put("1.corim", b"broken");
    shop.look();
    assert_eq!(shop.in_force(), ["1"]);
    // The trust folder is looked at, too.
    fs::write(shop.config.trust.join("maker.toml"), trust("Another", "manufacturer", &new_key())).unwrap();
    shop.look();
    assert_eq!((shop.in_force(), shop.refused()["1.corim"]), (vec![], ("release.unreadable", false)));
    shop.restart().unwrap();
    assert!(shop.in_force().is_empty());
}

#[test]
fn a_trust_file_that_cannot_be_read_changes_nothing_and_is_told() {
    let shop = Shop::open();
    shop.put("1.corim", &shop.release("1", 1, 1));
    shop.look();
    let good = fs::read(shop.config.trust.join("maker.toml")).unwrap();
    fs::write(shop.config.trust.join("maker.toml"), "[[signer]]").unwrap();
    shop.put("2.corim", &shop.release("2", 2, 2));
    shop.look();
    assert_eq!((shop.in_force(), shop.problem()), (vec!["1".to_owned()], Some("rules.unusable")));
    fs::write(shop.config.trust.join("maker.toml"), good).unwrap();
    shop.look();
    assert_eq!((shop.in_force().len(), shop.problem()), (2, None));
}

#[test]
fn what_goes_back_behind_what_was_in_force_leaves_the_last_set_in_force_over_a_restart() {
    let mut shop = Shop::open();
    shop.put("1.corim", &shop.release("1", 1, 1));
    shop.put("2.corim", &shop.release("2", 2, 2));
    shop.look();
    assert_eq!(shop.in_force(), ["1", "2"]);
    fs::remove_file(shop.file("2.corim")).unwrap();
    shop.look();
    assert_eq!((shop.in_force().len(), shop.problem()), (2, Some("release.older")));
    shop.restart().unwrap();
    assert_eq!(
        (shop.in_force().len(), shop.problem(), shop.ready.warnings()),
        (2, Some("release.older"), vec!["reference-values"])
    );
    shop.put("3.corim", &shop.release("3", 3, 3));
    shop.look();
    assert_eq!((shop.in_force(), shop.problem()), (vec!["1".to_owned(), "3".to_owned()], None));
    assert_eq!(shop.copies(), ["1.corim", "3.corim"]);
}

#[test]
fn files_that_contradict_each_other_leave_the_last_set_in_force() {
    let mut shop = Shop::open();
    shop.put("1.corim", &shop.release("1", 1, 1));
    shop.look();
    shop.put("other.corim", &shop.release("1", 1, 9));
    shop.look();
    shop.restart().unwrap();
    assert_eq!((shop.in_force(), shop.problem()), (vec!["1".to_owned()], Some("release.conflict")));
    assert!(shop.desk.rules().references.product("a/b").unwrap().executable(&[9; 32]).is_none());
    fs::remove_file(shop.file("other.corim")).unwrap();
    shop.look();
    assert_eq!(shop.problem(), None);
}

#[test]
fn a_published_document_is_in_force_when_the_answer_comes_and_lies_in_the_folder() {
    let mut shop = Shop::open();
    let published = shop.desk.publish(&shop.release("1.0/../x", 1, 1)).unwrap();
    assert_eq!(published.file, "a_b~1.0_.._x.corim");
    assert_eq!(shop.in_force(), ["1.0/../x"]);
    assert_eq!(shop.copies(), ["a_b~1.0_.._x.corim"]);
    let before = shop.desk.subscribe();
    shop.look();
    assert!(!before.has_changed().unwrap(), "what it wrote itself is no change");
    // Another edition takes its place; another release beside it, whose name would be the same, does not.
    shop.desk.publish(&shop.release("1.0/../x", 2, 2)).unwrap();
    let other = shop.desk.publish(&shop.release("1.0_.._x", 3, 3)).unwrap();
    assert_ne!(other.file, published.file);
    assert_eq!(shop.in_force().len(), 2);
    shop.restart().unwrap();
    assert_eq!((shop.in_force().len(), shop.refused().len(), shop.problem()), (2, 0, None));
    let left = fs::read_dir(&shop.config.reference_values).unwrap().count();
    assert_eq!(left, 2, "nothing half-written is left");
}

fn code(outcome: Result<Published, PublishError>) -> (&'static str, bool) {
    match outcome.unwrap_err() {
        PublishError::Refused(fault) => (fault.code, false),
        PublishError::Clash(fault) => (fault.code, true),
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_refused_is_not_published_and_nothing_of_it_is_left() {
    let shop = Shop::open();
    shop.desk.publish(&shop.release("1", 5, 1)).unwrap();
    let untrusted = release("2", 6, 2).sign(&new_key(), Role::Manufacturer, &SystemRandom::new()).unwrap().encode();
    for (bytes, refusal) in [
        (b"nonsense".to_vec(), ("release.unreadable", false)),
        (release("2", 6, 2).encode(), ("release.unsigned", false)),
        (untrusted, ("release.untrusted-key", false)),
        (shop.release("1", 4, 1), ("release.older", true)),
        (shop.release("1", 5, 9), ("release.conflict", true)),
    ] {
        assert_eq!(code(shop.desk.publish(&bytes)), refusal);
    }
    assert_eq!(shop.in_force(), ["1"]);
    assert_eq!((fs::read_dir(&shop.config.reference_values).unwrap().count(), shop.copies().len()), (1, 1));
    assert_eq!((shop.refused().len(), shop.problem()), (0, None));
}

#[test]
fn the_same_content_signed_by_others_lies_beside_and_all_vouch() {
    let shop = Shop::open();
    let importer = new_key();
    fs::write(shop.config.trust.join("importer.toml"), trust("Importer", "importer", &importer)).unwrap();
    let random = SystemRandom::new();
    let by_importer = release("1", 1, 1).sign(&importer, Role::Importer, &random).unwrap();
    let first = shop.desk.publish(&shop.release("1", 1, 1)).unwrap();
    let second = shop.desk.publish(&by_importer.encode()).unwrap();
    assert_ne!(first.file, second.file);
    let rules = shop.desk.rules();
    let entry = rules.references.product("a/b").unwrap().newest().unwrap().signers().len();
    assert_eq!(entry, 2);
    // Both in one file: it takes the place of the first.
    let both = by_importer.sign(&shop.maker, Role::Manufacturer, &random).unwrap();
    assert_eq!(shop.desk.publish(&both.encode()).unwrap().file, first.file);
}

#[test]
fn where_nothing_can_be_written_nothing_is_published_and_the_old_set_stays() {
    let shop = Shop::open();
    shop.desk.publish(&shop.release("1", 1, 1)).unwrap();
    // A folder in the place of the copies' folder refuses writing to root, too.
    let copies = shop.config.data_dir.join("references");
    fs::rename(&copies, shop.config.data_dir.join("away")).unwrap();
    let error = shop.desk.publish(&shop.release("2", 2, 2)).unwrap_err();
    assert!(error.to_string().contains("references"), "{error}");
    assert_eq!(shop.in_force(), ["1"]);
    assert_eq!(fs::read_dir(&shop.config.reference_values).unwrap().count(), 1);
    fs::rename(shop.config.data_dir.join("away"), &copies).unwrap();
    shop.desk.publish(&shop.release("2", 2, 2)).unwrap();
    assert_eq!(shop.in_force(), ["1", "2"]);
}

#[test]
fn what_a_program_left_that_ended_between_writing_and_the_swap_is_taken_at_the_next_start() {
    let mut shop = Shop::open();
    shop.desk.publish(&shop.release("1", 1, 1)).unwrap();
    // The file is in its place, the copy is not, and nothing is remembered of it.
    shop.put("a_b~2.corim", &shop.release("2", 2, 2));
    // Beside it what was half written.
    shop.put(".incoming-00", b"half");
    fs::write(shop.config.data_dir.join("references/.incoming-00"), b"half").unwrap();
    shop.restart().unwrap();
    assert_eq!((shop.in_force().len(), shop.refused().len(), shop.problem()), (2, 0, None));
    // Copies are in their places, and the file is not.
    fs::write(shop.config.data_dir.join("references/a_b~3.corim"), shop.release("3", 3, 3)).unwrap();
    shop.restart().unwrap();
    assert_eq!(shop.in_force(), ["1", "2"]);
    assert!(!shop.copies().contains(&"a_b~3.corim".to_owned()));
}

#[test]
fn documents_that_are_published_at_the_same_time_all_come_into_force() {
    let shop = Shop::open();
    std::thread::scope(|scope| {
        for n in 1..=8_u8 {
            let (desk, bytes) = (&shop.desk, shop.release(&n.to_string(), n.into(), n));
            scope.spawn(move || desk.publish(&bytes).unwrap());
            scope.spawn(|| shop.desk.look());
            scope.spawn(|| shop.desk.reload(&shop.config).unwrap());
        }
    });
    assert_eq!((shop.in_force().len(), shop.refused().len(), shop.problem()), (8, 0, None));
}

#[test]
fn a_file_that_is_wrong_is_named() {
    let shop = Shop::open();
    fs::write(&shop.config.policy, "unlistet = \"warning\"").unwrap();
    let message = shop.desk.reload(&shop.config).unwrap_err().to_string();
    assert!(message.contains("policy.toml") && message.contains("unlistet"), "{message}");
    assert_eq!(shop.problem(), Some("rules.unusable"));
    fs::write(&shop.config.policy, "").unwrap();
    fs::write(shop.config.trust.join("x.toml"), "[[signer]]\n").unwrap();
    let message = shop.desk.reload(&shop.config).unwrap_err().to_string();
    assert!(message.contains("x.toml"), "{message}");
}

#[test]
fn a_release_that_lacks_a_required_signature_is_refused_and_counts_once_it_has_it() {
    let shop = Shop::open();
    let importer = new_key();
    fs::write(shop.config.trust.join("importer.toml"), trust("Importer", "importer", &importer)).unwrap();
    fs::write(&shop.config.policy, "required_roles = [\"manufacturer\", \"importer\"]").unwrap();
    shop.desk.reload(&shop.config).unwrap();
    let alone = shop.release("1", 1, 1);
    assert_eq!(code(shop.desk.publish(&alone)), ("release.missing-role", false));
    shop.put("1.corim", &alone);
    shop.look();
    assert_eq!((shop.in_force(), shop.refused()["1.corim"]), (vec![], ("release.missing-role", false)));
    let both = SignedDocument::decode(&alone).unwrap().sign(&importer, Role::Importer, &SystemRandom::new()).unwrap();
    shop.put("1.corim", &both.encode());
    shop.look();
    assert_eq!((shop.in_force(), shop.refused().len()), (vec!["1".to_owned()], 0));
    // Put back with one signature, the copy with both stays in force.
    shop.put("1.corim", &alone);
    shop.look();
    assert_eq!((shop.in_force(), shop.refused()["1.corim"]), (vec!["1".to_owned()], ("release.missing-role", true)));
}

#[test]
fn deleting_a_notice_takes_nothing_back_over_a_restart_and_a_newer_one_does() {
    let mut shop = Shop::open();
    shop.desk.publish(&shop.release("1", 1, 1)).unwrap();
    assert!(!shop.revoked());
    let published = shop.desk.publish(&shop.notice(1, None)).unwrap();
    assert_eq!(
        (published.file.as_str(), published.affected.as_slice()),
        ("a_b~notice~n.corim", &["a/b".to_owned()][..])
    );
    assert!(shop.revoked());
    fs::remove_file(shop.file(&published.file)).unwrap();
    shop.look();
    assert_eq!((shop.revoked(), shop.problem()), (true, Some("release.gone")));
    shop.restart().unwrap();
    assert_eq!((shop.revoked(), shop.problem()), (true, Some("release.gone")));
    // Nor an older one in its place.
    assert!(code(shop.desk.publish(&shop.notice(0, None))).1);
    let other = Revoked { release: "0".to_owned(), why: "a flaw".to_owned(), advisory: None };
    let less = Notice::new("a/b", "n", 2, None, None, vec![other], Vec::new()).unwrap();
    shop.desk.publish(&shop.sign(less)).unwrap();
    assert_eq!((shop.revoked(), shop.problem()), (false, None));
}

#[test]
fn a_notice_ends_at_its_time_without_anybody_touching_the_folder() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LATER: AtomicU64 = AtomicU64::new(NOW);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.sqlite")).unwrap();
    let shop = Shop::of(&store, || LATER.load(Ordering::Relaxed));
    shop.desk.publish(&shop.release("1", 1, 1)).unwrap();
    shop.desk.publish(&shop.notice(1, Some(NOW + 3))).unwrap();
    assert!(shop.revoked());
    LATER.store(NOW + 5, Ordering::Relaxed);
    shop.desk.look();
    assert_eq!((shop.revoked(), shop.problem()), (false, None));
    // A clock that goes back does not bring it back.
    LATER.store(NOW - 1_000_000, Ordering::Relaxed);
    shop.desk.reload(&shop.config).unwrap();
    assert!(!shop.revoked());
}

#[test]
fn a_notice_outlives_the_trust_in_its_key_and_a_release_does_not() {
    let mut shop = Shop::open();
    shop.put("1.corim", &shop.release("1", 1, 1));
    shop.put("n.corim", &shop.notice(1, None));
    shop.look();
    assert!(shop.revoked());
    let ended =
        trust("Maker", "manufacturer", &shop.maker).replace("products", "not-after = 2020-01-01T00:00:00Z\nproducts");
    let other = new_key();
    fs::write(shop.config.trust.join("other.toml"), trust("Other", "importer", &other)).unwrap();
    let by_other = release("1", 1, 1).sign(&other, Role::Importer, &SystemRandom::new()).unwrap().encode();
    shop.put("by-other.corim", &by_other);
    fs::write(shop.config.trust.join("maker.toml"), ended).unwrap();
    for restarted in [false, true] {
        if restarted {
            shop.restart().unwrap();
        }
        shop.look();
        assert!(shop.revoked(), "restarted: {restarted}");
        let held: Vec<_> =
            shop.desk.status().refused.iter().map(|refused| (refused.file.clone(), refused.held)).collect();
        assert_eq!(held, [("1.corim".to_owned(), false), ("n.corim".to_owned(), true)]);
    }
    // An operator who trusts the key no more at all takes its word back.
    fs::remove_file(shop.config.trust.join("maker.toml")).unwrap();
    shop.look();
    assert!(!shop.revoked());
}
