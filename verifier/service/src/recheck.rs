//! What operators trust and deny, held against every device that is enrolled already: in go the rules, each time that they
//! change and once at the start; out come rulings in the registrations, which count from then on without waiting for
//! evidence, and end as soon as the lists no longer say so.
//!
//! Certificates are judged at the instant when they were accepted. That a maker's certificate ends some day says nothing
//! about the key in the TPM, and its maker will not come and certify it anew: whom a CA no longer vouches for, a CRL or
//! the deny list names.

use std::sync::Arc;

use appraisal::{Code, EkClass, UnixSeconds};
use evidence::claims::DeviceId;
use jiff::Timestamp;
use reference_values::{EndorsementsEntry, ReferenceIndex};
use tokio::sync::{mpsc, watch};

use crate::{
    http::Order,
    identity::{DeviceIdentity, EkChain, EkRoots, IdentityError, RootClass},
    limits::MAX_RECHECKED,
    references::Rules,
    store::{Endorsed, Listed, Place, Ruling, Store, StoreError},
};

/// What a walk through the fleet came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rechecked {
    /// Registrations looked at.
    pub all: usize,
    /// Those that stand otherwise than before.
    pub changed: Vec<DeviceId>,
}

/// Looks at the fleet now and whenever the rules decide otherwise about endorsement keys; ends with the service.
pub async fn run(
    store: Store,
    mut rules: watch::Receiver<Arc<Rules>>,
    orders: mpsc::Sender<Order>,
    clock: fn() -> UnixSeconds,
) {
    // Not the rules themselves: they would keep a replaced index in memory.
    let mut last: Option<(Arc<EkRoots>, Lists)> = None;
    loop {
        let now = Arc::clone(&rules.borrow_and_update());
        let lists = Lists::of(&now.references);
        let known = last.as_ref().is_some_and(|(roots, known)| roots.decide_as(&now.roots) && *known == lists);
        if !known {
            match fleet(&store, &now, clock).await {
                Ok(done) => {
                    say(&done, &orders);
                    last = Some((Arc::clone(&now.roots), lists));
                }
                // Whoever reloads looks at the log; the next reload tries again.
                Err(error) => tracing::error!("the fleet was not held against the present lists: {error}"),
            }
        }
        drop(now);
        if rules.changed().await.is_err() {
            return;
        }
    }
}

/// Which signed lists of endorsement keys are in force.
#[derive(Debug, PartialEq, Eq)]
struct Lists(Vec<(String, String, u64, usize)>);

impl Lists {
    fn of(index: &ReferenceIndex) -> Self {
        let list =
            |list: &EndorsementsEntry| (list.product().to_owned(), list.name().to_owned(), list.sequence(), list.len());
        Self(index.endorsements().iter().map(list).collect())
    }
}

/// Verdicts follow with the next evidence: it is asked for. Where too many wait, it comes in its own time.
fn say(done: &Rechecked, orders: &mpsc::Sender<Order>) {
    let Rechecked { all, changed } = done;
    if changed.is_empty() {
        return;
    }
    tracing::warn!("endorsement keys of {} of {all} devices stand otherwise by the present lists", changed.len());
    for device in changed {
        if orders.try_send(Order::Check { device: *device }).is_err() {
            return;
        }
    }
}

/// Looks at all registrations, in pages, each on a thread that may block.
///
/// # Errors
/// [`StoreError`] where the store failed; what was ruled until then stays.
pub async fn fleet(store: &Store, rules: &Arc<Rules>, clock: fn() -> UnixSeconds) -> Result<Rechecked, StoreError> {
    let mut done = Rechecked::default();
    let mut place = Place::default();
    loop {
        let rules = Arc::clone(rules);
        let page = move |store: &Store| page(store, &rules, place, clock());
        let (looked, next) = store.off_thread(page).await?;
        if looked.all == 0 {
            return Ok(done);
        }
        done.all += looked.all;
        done.changed.extend(looked.changed);
        place = next;
    }
}

/// Looks at one registration: of whoever enrolled while the rules changed.
///
/// # Errors
/// [`StoreError`] where the store failed.
pub fn device(store: &Store, device: DeviceId, rules: &Rules, now: UnixSeconds) -> Result<(), StoreError> {
    let registration = store.endorsed_one(device)?;
    look(store, registration.into_iter().collect(), rules, now).map(drop)
}

fn page(store: &Store, rules: &Rules, after: Place, now: UnixSeconds) -> Result<(Rechecked, Place), StoreError> {
    let (registrations, next) = store.endorsed(after, MAX_RECHECKED)?;
    Ok((look(store, registrations, rules, now)?, next))
}

fn look(store: &Store, registrations: Vec<Endorsed>, rules: &Rules, now: UnixSeconds) -> Result<Rechecked, StoreError> {
    let mut looked = Rechecked { all: registrations.len(), changed: Vec::new() };
    let (mut rulings, mut follows) = (Vec::new(), Vec::new());
    for endorsed in registrations {
        let follow = endorsed.following(listed(&endorsed, &rules.references));
        if follow.as_ref().is_some_and(|follow| follow.product != endorsed.product) {
            looked.changed.push(endorsed.device);
        }
        follows.extend(follow.map(|follow| (endorsed.clone(), follow)));
        let ruling = ruling(&endorsed, &rules.roots);
        if !is_same(&endorsed, &ruling) {
            looked.changed.push(endorsed.device);
            rulings.push((endorsed, ruling));
        } else if endorsed.firmware_denied && ruling.denied.is_none() {
            // Its last evidence still says so: the next will not.
            looked.changed.push(endorsed.device);
        }
    }
    looked.changed.dedup();
    store.follow_lists(follows, now)?;
    store.rule(rulings, now)?;
    Ok(looked)
}

/// What lists say of its keys, the first that is named in the order of their digests.
fn listed(endorsed: &Endorsed, index: &ReferenceIndex) -> Listed {
    let named = endorsed.eks.iter().find_map(|ek| index.endorsed(ek));
    named.map_or_else(Listed::default, |named| Listed {
        product: Some(named.product.to_owned()),
        serial: Some(named.serial.to_owned()).filter(|serial| !serial.is_empty()),
    })
}

fn is_same(before: &Endorsed, now: &Ruling) -> bool {
    let denied = before.denied.as_ref().map(|denial| (denial.code.as_str(), denial.why.as_str()));
    let class = now.class.is_none_or(|class| class == before.class);
    class && denied == now.denied.as_ref().map(|(code, why)| (code.as_str(), why.as_str()))
}

fn ruling(endorsed: &Endorsed, roots: &EkRoots) -> Ruling {
    let denied = |code: Code, why: String| Ruling { denied: Some((code.row().code.to_owned(), why)), class: None };
    let list = roots.deny_list();
    if let Some(why) = endorsed.eks.iter().find_map(|ek| list.ek(ek)) {
        return denied(Code::IdentityEkDenied, format!("an endorsement key is on the deny list: {why}"));
    }
    if let Some(why) = list.manufacturer(&endorsed.manufacturer) {
        return denied(Code::IdentityEkDenied, format!("the TPM's maker is on the deny list: {why}"));
    }
    let class = match verify(endorsed, roots) {
        None => None,
        Some(Ok(class)) => Some(class),
        Some(Err(error)) => {
            // What was accepted once can only fail for want of a root, whatever the first check that fails.
            let code = Code::from_code(error.code()).unwrap_or(Code::IdentityEkUntrusted);
            return denied(code, error.to_string());
        }
    };
    match endorsed.firmware.and_then(|version| list.firmware_denied(&endorsed.manufacturer, version)) {
        Some(why) => denied(Code::HardwareFirmwareDenied, why),
        None => Ruling { denied: None, class },
    }
}

/// The certificates once more; `None` where there are none: an operator listed a key, or they were not kept yet.
fn verify(endorsed: &Endorsed, roots: &EkRoots) -> Option<Result<EkClass, IdentityError>> {
    let certificates: Vec<&[u8]> = endorsed.certificates.iter().map(Vec::as_slice).collect();
    if certificates.is_empty() {
        return None;
    }
    let at = i64::try_from(endorsed.verified).ok().and_then(|at| Timestamp::from_second(at).ok());
    let identity = EkChain::read(&certificates)
        .and_then(|chain| chain.verify(roots, at.unwrap_or(Timestamp::MAX)))
        .and_then(DeviceIdentity::from_eks);
    Some(identity.map(|identity| match identity.class() {
        RootClass::Hardware => EkClass::Hardware,
        RootClass::Software => EkClass::Software,
    }))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use appraisal::{Cause, Policy, Verdict};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        identity::DenyList,
        store::{
            Committed, Endorsement, NewRegistration, Registered,
            tests::{NOW, accepted, commit, id, registration, store},
        },
    };

    fn vector(name: &str) -> Vec<u8> {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/ek").join(name)).unwrap()
    }

    /// A fleet of one device with the certificates of the test vectors, one with a listed key, and one from before
    /// certificates were kept; and the lists.
    struct Fleet {
        store: Store,
        lists: TempDir,
        certified: DeviceId,
        _folder: TempDir,
    }

    impl Fleet {
        fn new() -> Self {
            let (folder, store) = store();
            let lists = tempfile::tempdir().unwrap();
            fs::create_dir_all(lists.path().join("ek_roots/software")).unwrap();
            let fleet = Self { store, lists, certified: id(1), _folder: folder };
            fleet.trust(true);
            let certificates: Vec<Vec<u8>> = ["ek-ecc384.crt", "ek-rsa2048.crt"].map(vector).to_vec();
            let eks = [[1; 32], [2; 32]].to_vec();
            let endorsement = Endorsement { certificates, verified: 1_796_083_200, ..Endorsement::default() };
            let new = NewRegistration { endorsement, eks, ..registration(1) };
            assert_eq!(fleet.store.register(new).unwrap(), Registered::New);
            fleet.store.register(NewRegistration { uncertified: true, ..registration(2) }).unwrap();
            fleet.store.register(registration(3)).unwrap();
            fleet
        }

        fn trust(&self, yes: bool) {
            for name in ["issuer.pem", "root.pem"] {
                let file = self.lists.path().join("ek_roots/software").join(name);
                if yes { fs::write(file, vector(name)).unwrap() } else { fs::remove_file(file).unwrap() }
            }
        }

        fn rules(&self, deny: &str) -> Arc<Rules> {
            let file = self.lists.path().join("deny.toml");
            fs::write(&file, deny).unwrap();
            let roots = EkRoots::load(&self.lists.path().join("ek_roots")).unwrap();
            let roots = roots.denying(DenyList::load(&file).unwrap());
            Arc::new(Rules { references: Arc::default(), policy: Policy::default(), roots: Arc::new(roots) })
        }

        /// Devices that stand otherwise by these lists.
        fn look(&self, deny: &str) -> Vec<DeviceId> {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let done = runtime.block_on(fleet(&self.store, &self.rules(deny), || NOW)).unwrap();
            assert_eq!(done.all, 3);
            done.changed
        }

        fn stands(&self, device: DeviceId) -> (Verdict, Vec<Code>) {
            let summary = self.store.device(device, NOW + 1).unwrap().unwrap().summary;
            (summary.verdict, summary.causes.iter().map(|cause| cause.code).collect())
        }

        fn notes(&self, device: DeviceId) -> Vec<String> {
            let history = self.store.history(device, NOW).unwrap();
            history.into_iter().filter_map(|row| row.note).collect()
        }
    }

    const EK: &str =
        "[[ek]]\nsha256 = \"0202020202020202020202020202020202020202020202020202020202020202\"\nwhy = \"y\"\n";

    #[test]
    fn what_the_lists_say_counts_at_once_and_no_longer_than_they_say_it() {
        let fleet = Fleet::new();
        assert_eq!(fleet.look(""), []);
        commit(&fleet.store, accepted(1, 1, None));
        assert_eq!(fleet.stands(fleet.certified), (Verdict::Affirmed, vec![]));
        for (list, code) in [
            // The second key of the TPM shuts out the device whose id is the first's.
            (EK, Code::IdentityEkDenied),
            ("[[manufacturer]]\nid = \"id:00001014\"\nwhy = \"y\"\n", Code::IdentityEkDenied),
        ] {
            assert!(fleet.look(list).contains(&fleet.certified));
            assert_eq!(fleet.look(list), [], "it stands as the lists have it");
            assert_eq!(fleet.stands(fleet.certified), (Verdict::Contraindicated, vec![code]));
            assert!(fleet.look("").contains(&fleet.certified));
            assert_eq!(fleet.stands(fleet.certified), (Verdict::Affirmed, vec![]));
        }
        let notes = fleet.notes(fleet.certified);
        assert_eq!(notes.len(), 4);
        assert!(notes[0].starts_with("identity.ek-denied") && notes[1] == "holds again", "{notes:?}");
    }

    #[test]
    fn a_device_whose_root_was_taken_away_is_unknown_until_it_is_back() {
        let fleet = Fleet::new();
        commit(&fleet.store, accepted(1, 1, None));
        fleet.trust(false);
        assert_eq!(fleet.look(""), [fleet.certified], "the others have no certificates");
        assert_eq!(fleet.stands(fleet.certified), (Verdict::Unknown, vec![Code::IdentityEkUntrusted]));
        let registration = fleet.store.registration(fleet.certified).unwrap().unwrap();
        let standing = fleet.rules("").standing(&registration);
        assert_eq!(standing.endorsement.map(|finding| finding.code), Some(Code::IdentityEkUntrusted));
        fleet.trust(true);
        assert_eq!(fleet.look(""), [fleet.certified]);
        assert_eq!(fleet.stands(fleet.certified), (Verdict::Affirmed, vec![]));
    }

    #[test]
    fn a_root_that_changes_its_class_changes_that_of_its_devices() {
        let fleet = Fleet::new();
        assert_eq!(class(&fleet), EkClass::Software);
        let before = fleet.rules("");
        let roots = fleet.lists.path().join("ek_roots");
        for name in ["issuer.pem", "root.pem"] {
            fs::rename(roots.join("software").join(name), roots.join(name)).unwrap();
        }
        assert!(!before.roots.decide_as(&fleet.rules("").roots), "the fleet is looked at when this is read");
        assert_eq!(fleet.look(""), [fleet.certified]);
        assert_eq!(class(&fleet), EkClass::Hardware);
        assert_eq!(fleet.look(""), []);
    }

    fn class(fleet: &Fleet) -> EkClass {
        fleet.store.registration(fleet.certified).unwrap().unwrap().ek_class
    }

    #[test]
    fn firmware_is_held_against_the_last_quote_and_given_to_the_next_appraisal() {
        let fleet = Fleet::new();
        // The quote's firmware is 7.
        let list =
            "[[firmware]]\nmanufacturer = \"id:00001014\"\nfrom = \"0.0.0.7\"\nto = \"0.0.0.8\"\nwhy = \"weak\"\n";
        assert_eq!(fleet.look(list), [], "no evidence yet");
        commit(&fleet.store, accepted(1, 1, None));
        assert_eq!(fleet.look(list), [fleet.certified]);
        assert_eq!(fleet.stands(fleet.certified), (Verdict::Contraindicated, vec![Code::HardwareFirmwareDenied]));
        let registration = fleet.store.registration(fleet.certified).unwrap().unwrap();
        let standing = fleet.rules(list).standing(&registration);
        assert_eq!((standing.denied_firmware.len(), standing.endorsement), (1, None));
        assert_eq!(fleet.look(""), [fleet.certified]);
        assert_eq!(fleet.stands(fleet.certified), (Verdict::Affirmed, vec![]));
        // Once evidence shows other firmware, what the list said of the last is over, without another reload.
        assert_eq!(fleet.look(list), [fleet.certified]);
        let mut updated = accepted(1, 2, Some(1));
        updated.appraisal.state.firmware_version = 9;
        assert_eq!(commit(&fleet.store, updated), Committed::Done);
        assert_eq!(fleet.stands(fleet.certified), (Verdict::Affirmed, vec![]));
        assert_eq!(fleet.look(list), []);
    }

    #[test]
    fn a_device_whose_evidence_says_that_its_firmware_is_denied_is_asked_anew_when_the_list_no_longer_does() {
        let fleet = Fleet::new();
        let mut denied = accepted(1, 1, None);
        let detail = "weak".to_owned();
        let cause = Cause { code: Code::HardwareFirmwareDenied, detail, first_seen: NOW, last_seen: NOW };
        denied.appraisal.state.causes = vec![cause];
        denied.appraisal.state.verdict = Verdict::Contraindicated;
        commit(&fleet.store, denied);
        assert_eq!(fleet.look(""), [fleet.certified]);
    }

    #[test]
    fn a_ruling_on_a_registration_that_was_renewed_meanwhile_changes_nothing() {
        let fleet = Fleet::new();
        let (looked_at, _) = fleet.store.endorsed(Place::default(), 1).unwrap();
        let again = NewRegistration { eks: vec![[1; 32]], ..registration(1) };
        assert_eq!(fleet.store.register(again).unwrap(), Registered::Same);
        let denied = Some(("identity.ek-revoked".to_owned(), "x".to_owned()));
        let rulings = looked_at.into_iter().map(|endorsed| (endorsed, Ruling { denied: denied.clone(), class: None }));
        fleet.store.rule(rulings.collect(), NOW).unwrap();
        assert_eq!(fleet.store.registration(fleet.certified).unwrap().unwrap().denied, None);
    }

    #[test]
    fn every_page_is_looked_at() {
        let (_folder, store) = store();
        let many = u64::try_from(MAX_RECHECKED).unwrap() + 3;
        for number in 0..many {
            store.register(registration(number)).unwrap();
        }
        let list = format!("[[ek]]\nsha256 = \"{}\"\nwhy = \"y\"\n", DeviceId(registration(many - 1).eks[0]));
        let fleet_of = Fleet::new();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let done = runtime.block_on(fleet(&store, &fleet_of.rules(&list), || NOW)).unwrap();
        assert_eq!(done, Rechecked { all: MAX_RECHECKED + 3, changed: vec![id(many - 1)] });
    }

    #[test]
    fn devices_follow_signed_lists_and_an_operators_word_goes_first() {
        let (_folder, store) = store();
        for number in 1..=3 {
            store.register(registration(number)).unwrap();
        }
        let ek = |number: u64| registration(number).eks[0];
        let shop = crate::references::tests::Shop::of(&store, || NOW);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let look = || runtime.block_on(fleet(&store, &shop.desk.rules(), || NOW)).unwrap().changed;
        assert_eq!(look(), []);
        store.approve(id(2), Some("a/other"), "ada", NOW).unwrap();
        shop.desk.publish(&shop.list(1, &[(ek(1), "S-1"), (ek(2), "")])).unwrap();
        assert_eq!(look(), [id(1)]);
        let known = |number| {
            let known = store.registration(id(number)).unwrap().unwrap();
            (known.product, known.by_list, known.serial)
        };
        let of = |product: &str, by_list, serial: Option<&str>| {
            (Some(product.to_owned()), by_list, serial.map(str::to_owned))
        };
        assert_eq!(known(1), of("a/b", true, Some("S-1")));
        assert_eq!(known(2), of("a/other", false, None));
        assert_eq!(known(3), (None, false, None), "no list names it");
        assert_eq!(look(), [], "it stands as the lists have it");
        let history = store.history(id(1), NOW).unwrap();
        assert_eq!(history.last().unwrap().note.as_deref(), Some("product a/b, by a signed list"));
        // What the list no longer names has no product any more, unless an operator named one.
        shop.desk.publish(&shop.list(2, &[(ek(3), "S-3")])).unwrap();
        assert_eq!(look(), [id(1), id(3)]);
        assert_eq!((known(1), known(3)), ((None, false, None), of("a/b", true, Some("S-3"))));
        assert_eq!(known(2), of("a/other", false, None));
        store.approve(id(3), Some("a/c"), "ada", NOW).unwrap();
        assert_eq!((look(), known(3)), (vec![], of("a/c", false, Some("S-3"))));
    }
}
