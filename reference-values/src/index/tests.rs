use std::{collections::BTreeMap, ops::Range};

use ring::rand::SystemRandom;

use super::{Built, ReferenceIndex, ReleaseId, Seen};
use crate::{
    boot_rules::{BootRules, EventKey, EventRule, ImaPolicy, SecureBootRule},
    document::{Document, Series},
    endorsements::{Endorsed, Endorsements},
    error::Unusable,
    key::{SigningKey, tests::new_key},
    notice::{KnownBad, Minimum, Notice, Revoked},
    release::{BootPcrs, Executable, Release},
    required::Required,
    role::Role,
    signed::{SignedDocument, VerifiedDocument, tests::signer},
    trust::Trust,
};

const NOW: u64 = 1_000;

fn digest(i: u32) -> [u8; 32] {
    evidence::pcr::sha256(&i.to_be_bytes())
}

/// One trusted signer per role, as long as it is trusted.
struct Chain {
    keys: Vec<(Role, SigningKey)>,
    trust: Trust,
}

impl Chain {
    fn new() -> Self {
        Self::until(None)
    }

    fn until(not_after: Option<u64>) -> Self {
        let keys = Role::ALL.map(|role| (role, new_key()));
        let mut trust = Trust::default();
        for (role, key) in &keys {
            trust.add(signer(key, *role, "*", not_after)).unwrap();
        }
        Self { keys: keys.into(), trust }
    }

    fn by(&self, roles: &[Role], document: impl Into<Document>) -> VerifiedDocument {
        let signers = self.keys.iter().filter(|(role, _)| roles.contains(role));
        let signed = signers.fold(SignedDocument::unsigned(document), |signed, (role, key)| {
            signed.sign(key, *role, &SystemRandom::new()).unwrap()
        });
        signed.verify(&self.trust, 0).unwrap()
    }

    fn made(&self, document: impl Into<Document>) -> VerifiedDocument {
        self.by(&[Role::Manufacturer], document)
    }

    fn without(&self, role: Role) -> Trust {
        let mut trust = Trust::default();
        let others = self.trust.signers().iter().filter(|signer| signer.role != role);
        others.for_each(|signer| trust.add(signer.clone()).unwrap());
        trust
    }
}

fn try_build(verified: Vec<VerifiedDocument>) -> Result<ReferenceIndex, Unusable> {
    ReferenceIndex::build(verified, &Required::default(), NOW).map(|built| built.index)
}

fn build(verified: Vec<VerifiedDocument>) -> ReferenceIndex {
    try_build(verified).unwrap()
}

fn release(product: &str, name: &str, sequence: u64, files: Range<u32>) -> Release {
    let files = files.map(|i| Executable { digest: digest(i), path: format!("/{i}") }).collect();
    let boots = vec![BootPcrs::new([(0, [sequence as u8; 32])].into()).unwrap()];
    Release::new(product, name, sequence, files, boots).unwrap()
}

fn simple(product: &str, sequence: u64) -> Release {
    let first = u32::try_from(sequence).unwrap() * 10;
    release(product, &sequence.to_string(), sequence, first..first + 5)
}

/// What a notice says, before it is one.
#[derive(Clone, Default)]
struct Says {
    expires: Option<u64>,
    minimum: Option<u64>,
    revoked: Vec<&'static str>,
    bad: Vec<u32>,
}

fn notice(product: &str, name: &str, sequence: u64, says: Says) -> Notice {
    let minimum = says.minimum.map(|sequence| Minimum { sequence, release: sequence.to_string() });
    let revoked = says.revoked.iter().map(|release| Revoked {
        release: (*release).into(),
        why: "a hole".into(),
        advisory: Some(name.into()),
    });
    let bad = says.bad.iter().map(|i| KnownBad { digest: digest(*i), why: "malware".into(), advisory: name.into() });
    Notice::new(product, name, sequence, says.expires, minimum, revoked.collect(), bad.collect()).unwrap()
}

fn minimum(sequence: u64) -> Says {
    Says { minimum: Some(sequence), ..Says::default() }
}

fn revoked(release: &'static str) -> Says {
    Says { revoked: vec![release], ..Says::default() }
}

fn bad(i: u32) -> Says {
    Says { bad: vec![i], ..Says::default() }
}

fn until(end: u64, says: Says) -> Says {
    Says { expires: Some(end), ..says }
}

fn list(product: &str, name: &str, sequence: u64, keys: Range<u32>) -> Endorsements {
    let entries = keys.map(|i| Endorsed { ek: digest(i), serial: format!("SN-{i}") }).collect();
    Endorsements::new(product, name, sequence, None, entries).unwrap()
}

fn advisory<'a>(index: &'a ReferenceIndex, product: Option<&str>, i: u32, now: u64) -> Option<&'a str> {
    index.known_bad(product, &digest(i), now).map(|bad| bad.advisory.as_str())
}

#[test]
fn a_digest_is_found_in_exactly_the_releases_that_list_it() {
    let maker = Chain::new();
    let all = [("a", "1", 1, 0..600), ("a", "2", 2, 300..900), ("b", "1", 5, 500..1000)];
    let index = build(
        all.clone().map(|(product, name, sequence, files)| maker.made(release(product, name, sequence, files))).into(),
    );
    assert_eq!(index.len(), 1000);
    for i in 0..1100 {
        for product in ["a", "b"] {
            let found = index.product(product).unwrap().executable(&digest(i)).unwrap_or_default();
            let found = found.iter().map(|&id| index.release(id).unwrap()).map(|entry| (entry.product(), entry.name()));
            let listed = all.iter().filter(|(owner, .., files)| *owner == product && files.contains(&i));
            assert!(found.eq(listed.map(|(product, name, ..)| (*product, *name))), "{product} {i}");
        }
    }
    assert!(index.product("c").is_none());
    assert_eq!(index.product("a").unwrap().releases().map(|(_, release)| release.boots().len()).sum::<usize>(), 2);
}

#[test]
fn ids_do_not_hang_on_the_order_of_files() {
    let maker = Chain::new();
    let all = [
        maker.made(simple("a", 1)),
        maker.made(simple("a", 2)),
        maker.by(&[Role::Importer], simple("a", 2)),
        maker.made(simple("b", 1)),
        maker.made(notice("a", "n", 1, minimum(2))),
        maker.made(notice("*", "m", 1, bad(3))),
    ];
    let there = build(all.to_vec());
    let mut back = all.to_vec();
    back.reverse();
    let back = build(back);
    assert_eq!(there.id(), back.id());
    assert_eq!(there.product("a").unwrap().id(), back.product("a").unwrap().id());
    assert!(there.affected(&back).is_empty());
    assert_ne!(there.product("a").unwrap().id(), there.product("b").unwrap().id());
}

#[test]
fn the_newest_edition_of_a_release_counts() {
    let maker = Chain::new();
    let index = build(vec![maker.made(release("a", "1", 2, 5..9)), maker.made(release("a", "1", 1, 0..5))]);
    let product = index.product("a").unwrap();
    assert_eq!(product.releases().count(), 1);
    assert!(product.executable(&digest(0)).is_none());
    assert!(product.executable(&digest(5)).is_some());
}

#[test]
fn one_content_in_two_files_is_vouched_for_by_both_signers() {
    let chain = Chain::new();
    let one = chain.made(simple("a", 1));
    let index = build(vec![one.clone(), chain.by(&[Role::Importer], simple("a", 1))]);
    assert_eq!(index.product("a").unwrap().newest().unwrap().signers().len(), 2);
    assert_ne!(index.standing_id(Some("a")), build(vec![one]).standing_id(Some("a")), "who vouches is a part of it");
}

#[test]
fn two_contents_under_one_name_and_sequence_are_refused_of_every_kind() {
    let maker = Chain::new();
    let pairs = [
        [release("a", "1", 1, 0..5), release("a", "1", 1, 0..6)].map(|release| maker.made(release)),
        [bad(1), bad(2)].map(|says| maker.made(notice("a", "1", 1, says))),
        [0..5, 0..6].map(|keys| maker.made(list("a", "1", 1, keys))),
    ];
    for pair in pairs {
        let kind = pair[0].document().kind();
        let error = try_build(pair.into()).unwrap_err();
        assert!(matches!(&error, Unusable::Conflict { kind: of, sequence: 1, .. } if *of == kind), "{error}");
    }
    // One name, three kinds: nothing to choose between.
    build(vec![
        maker.made(simple("a", 1)),
        maker.made(notice("a", "1", 1, bad(1))),
        maker.made(list("a", "1", 1, 0..1)),
    ]);
}

#[test]
fn boot_rules_and_ima_policies_are_carried_and_a_policy_is_a_listed_file() {
    let events = [(EventKey { pcr: 4, event_type: 5 }, EventRule::Sequences([vec![[1; 32]]].into()))];
    let rules = BootRules::new(events.into(), [4].into(), SecureBootRule::default()).unwrap();
    let policy = |i: u32| ImaPolicy { digest: digest(i), path: format!("/{i}"), measures_kexec: true };
    // One of the policies is among the executables too, and still of one release only.
    let policies = vec![policy(3), policy(7)];
    let release = release("a", "1", 1, 0..5).with_boot_rules(vec![rules.clone()]).unwrap();
    let release = release.with_ima_policies(policies.clone()).unwrap();
    let index = build(vec![Chain::new().made(release)]);
    let product = index.product("a").unwrap();
    let entry = product.newest().unwrap();
    assert_eq!(entry.boot_rules(), [rules]);
    assert!(policies.iter().all(|policy| entry.ima_policies().contains(policy)));
    for listed in [3, 7] {
        assert_eq!(product.executable(&digest(listed)).unwrap().len(), 1);
    }
}

#[test]
fn an_empty_index_knows_nothing() {
    let index = build(vec![]);
    assert!(index.is_empty() && index.product("a").is_none() && index.endorsed(&digest(0)).is_none());
    assert!(index.known_bad(None, &digest(0), NOW).is_none());
    assert_eq!(index.next_change(0), None);
    assert_eq!(index.standing_id(None), ReferenceIndex::default().standing_id(Some("a")));
    let only_boot = Release::new("a", "1", 1, vec![], vec![BootPcrs::new([(0, [1; 32])].into()).unwrap()]).unwrap();
    let index = build(vec![Chain::new().made(only_boot)]);
    assert!(index.product("a").unwrap().executable(&digest(0)).is_none());
}

#[test]
fn a_release_counts_once_every_required_role_has_signed_be_it_in_two_files() {
    let chain = Chain::new();
    let required = Required::default().for_products("a", [Role::Manufacturer, Role::Importer]);
    let build = |verified| ReferenceIndex::build(verified, &required, NOW).unwrap();
    let alone = chain.made(simple("a", 2));
    let Built { index, refused } = build(vec![alone.clone(), chain.made(simple("b", 1))]);
    assert!(index.product("a").is_none() && index.product("b").is_some());
    assert_eq!((refused.len(), &refused[0].content), (1, alone.content()));
    assert_eq!((refused[0].product.as_str(), refused[0].name.as_str()), ("a", "2"));
    assert_eq!(refused[0].missing, [Role::Importer]);
    let Built { index, refused } = build(vec![alone, chain.by(&[Role::Importer], simple("a", 2))]);
    assert!(refused.is_empty());
    assert_eq!(index.product("a").unwrap().newest().unwrap().name(), "2");
}

#[test]
fn what_too_few_signed_neither_replaces_nor_contradicts_what_counts() {
    let chain = Chain::new();
    let required = Required::everywhere([Role::Manufacturer]);
    let good = chain.made(release("a", "1", 1, 0..5));
    let by_distributor = |release| chain.by(&[Role::Distributor], release);
    for forged in [release("a", "1", 1, 0..6), release("a", "1", 9, 0..6)] {
        let built = ReferenceIndex::build(vec![by_distributor(forged), good.clone()], &required, NOW).unwrap();
        assert_eq!(built.refused.len(), 1);
        assert_eq!(built.index.product("a").unwrap().newest().unwrap().sequence(), 1);
        assert_eq!(built.index.series().values().map(|seen| seen.sequence).collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn roles_are_required_of_releases_alone() {
    let chain = Chain::new();
    let required = Required::everywhere([Role::Manufacturer]);
    let by_operator = |document: Document| chain.by(&[Role::Operator], document);
    let documents = vec![by_operator(notice("a", "n", 1, bad(1)).into()), by_operator(list("a", "l", 1, 0..1).into())];
    let built = ReferenceIndex::build(documents, &required, NOW).unwrap();
    assert!(built.refused.is_empty() && built.index.endorsed(&digest(0)).is_some());
    assert_eq!(advisory(&built.index, Some("a"), 1, NOW), Some("n"));
}

#[test]
fn known_bad_files_are_known_wherever_their_notice_speaks_of_and_until_it_ends() {
    let maker = Chain::new();
    let index = build(vec![
        maker.made(notice("*", "all", 1, bad(1))),
        maker.made(notice("acme/*", "acme", 1, bad(2))),
        maker.made(notice("acme/gw", "gw", 1, until(NOW + 10, bad(3)))),
        maker.made(notice("acme/gw", "over", 1, until(NOW, bad(4)))),
    ]);
    for (product, known) in [
        (None, [true, false, false, false]),
        (Some("other"), [true, false, false, false]),
        (Some("acme/x"), [true, true, false, false]),
        (Some("acme/gw"), [true, true, true, false]),
        (Some("acmes"), [true, false, false, false]),
    ] {
        for (i, known) in (1..).zip(known) {
            assert_eq!(advisory(&index, product, i, NOW).is_some(), known, "{product:?} {i}");
        }
    }
    assert_eq!(advisory(&index, Some("acme/gw"), 3, NOW + 9), Some("gw"));
    assert_eq!(advisory(&index, Some("acme/gw"), 3, NOW + 10), None);
    assert_eq!(index.notices().len(), 3);
}

#[test]
fn a_digest_in_several_notices_stays_bad_while_one_of_them_speaks_of_the_product() {
    let maker = Chain::new();
    let index = build(vec![
        maker.made(notice("a", "first", 1, until(NOW + 1, bad(1)))),
        maker.made(notice("b", "second", 1, bad(1))),
        maker.made(notice("*", "third", 1, until(NOW + 5, bad(1)))),
    ]);
    assert_eq!(advisory(&index, Some("b"), 1, NOW + 9), Some("second"));
    assert!(advisory(&index, Some("a"), 1, NOW).is_some() && advisory(&index, Some("a"), 1, NOW + 4).is_some());
    assert_eq!(advisory(&index, Some("a"), 1, NOW + 5), None);
}

#[test]
fn the_newest_notice_of_a_name_counts_even_when_it_has_expired() {
    let maker = Chain::new();
    let older = maker.made(notice("a", "n", 1, bad(1)));
    let newer = maker.made(notice("a", "n", 2, until(NOW, bad(2))));
    let index = build(vec![older, newer]);
    assert!(index.notices().is_empty());
    assert_eq!(index.series().values().map(|seen| seen.sequence).collect::<Vec<_>>(), [2]);
}

#[test]
fn the_highest_minimum_counts_and_revocations_add_up() {
    let maker = Chain::new();
    let documents = vec![
        maker.made(simple("acme/a", 1)),
        maker.made(simple("acme/a", 2)),
        maker.made(simple("acme/b", 2)),
        maker.made(notice("acme/a", "one", 1, Says { minimum: Some(2), ..revoked("1") })),
        maker.made(notice("acme/*", "two", 1, minimum(1))),
        maker.made(notice("*", "three", 1, revoked("2"))),
        maker.made(notice("acme/a", "over", 1, until(NOW, minimum(9)))),
    ];
    let index = build(documents);
    let minimum = |product: &str| index.product(product).unwrap().minimum().map(|minimum| minimum.sequence);
    assert_eq!((minimum("acme/a"), minimum("acme/b")), (Some(2), Some(1)));
    let revoked = |product: &str| {
        let releases = index.product(product).unwrap().releases();
        releases.map(|(_, release)| release.revoked().and_then(|revoked| revoked.advisory.clone())).collect::<Vec<_>>()
    };
    assert_eq!(revoked("acme/a"), [Some("one".to_owned()), Some("three".to_owned())]);
    assert_eq!(revoked("acme/b"), [Some("three".to_owned())]);
}

#[test]
fn updates_lead_past_revoked_releases() {
    let maker = Chain::new();
    let mut documents = [1, 2, 3, 4].map(|sequence| maker.made(simple("a", sequence))).to_vec();
    documents.extend([maker.made(simple("b", 1)), maker.made(notice("a", "n", 1, revoked("2")))]);
    let index = build(documents);
    let product = index.product("a").unwrap();
    let ids: Vec<ReleaseId> = product.releases().map(|(id, _)| id).collect();
    let foreign = index.product("b").unwrap().releases().next().unwrap().0;
    let adjacent = |a: usize, b: usize| product.adjacent(ids[a], ids[b]);
    assert!(adjacent(0, 2) && adjacent(2, 0) && adjacent(2, 3), "over a revoked one, in both directions");
    assert!(!adjacent(0, 3) && !adjacent(0, 0) && !adjacent(0, 1) && !adjacent(1, 2));
    assert!(!product.adjacent(ids[3], foreign) && !product.adjacent(foreign, ids[0]));
    let name = |found: Option<(ReleaseId, &super::ReleaseEntry)>| found.map(|(_, release)| release.name().to_owned());
    assert_eq!(name(product.previous(ids[2])).as_deref(), Some("1"));
    assert_eq!(name(product.next(ids[0])).as_deref(), Some("3"));
    assert_eq!((name(product.previous(ids[0])), name(product.next(ids[3]))), (None, None));
}

#[test]
fn a_change_affects_the_products_that_it_speaks_of_and_no_other() {
    let maker = Chain::new();
    let base = || vec![maker.made(simple("acme/a", 1)), maker.made(simple("acme/b", 1)), maker.made(simple("c", 1))];
    let names = ["acme/a", "acme/b", "acme/none", "c", "none"];
    let before = build(base());
    for (document, concerned) in [
        (maker.made(simple("acme/a", 2)), &["acme/a"][..]),
        (maker.made(notice("acme/b", "n", 1, bad(1))), &["acme/b"]),
        (maker.made(notice("none", "n", 1, bad(1))), &["none"]),
        (maker.made(notice("acme/*", "n", 1, bad(1))), &["acme/a", "acme/b", "acme/none"]),
        (maker.made(notice("*", "n", 1, bad(1))), &names),
        (maker.made(list("c", "l", 1, 0..1)), &[]),
    ] {
        let endorses = matches!(document.document(), Document::Endorsements(_));
        let after = build([base(), vec![document]].concat());
        for (one, other) in [(&before, &after), (&after, &before)] {
            let affected = one.affected(other);
            for name in names {
                let differs = one.standing_id(Some(name)) != other.standing_id(Some(name));
                assert_eq!(differs, concerned.contains(&name), "{concerned:?} {name}");
                assert_eq!(affected.concerns(Some(name)), differs, "{concerned:?} {name}");
            }
            assert_eq!(affected.concerns(None), concerned.len() == names.len());
            assert_eq!(affected.concerns(None), one.standing_id(None) != other.standing_id(None));
            assert_eq!(affected.is_empty(), concerned.is_empty());
        }
        assert_eq!(before.id() == after.id(), endorses);
    }
}

#[test]
fn a_notice_that_expires_changes_the_ids_of_those_it_spoke_of() {
    let maker = Chain::new();
    let documents = vec![maker.made(simple("a", 1)), maker.made(notice("a", "n", 1, until(NOW + 5, bad(1))))];
    let at = |now| ReferenceIndex::build(documents.clone(), &Required::default(), now).unwrap().index;
    assert!(at(NOW).affected(&at(NOW + 4)).is_empty());
    assert_eq!(at(NOW).affected(&at(NOW + 5)).products, ["a"]);
}

#[test]
fn an_endorsement_key_gives_product_serial_and_who_says_so() {
    let chain = Chain::new();
    let index = build(vec![
        chain.made(list("a", "line1", 1, 0..500)),
        chain.by(&[Role::Operator], list("a", "line2", 1, 400..600)),
        chain.made(list("b", "line1", 1, 600..700)),
        chain.made(list("b", "old", 1, 700..710)),
        chain.made(list("b", "old", 2, 705..710)),
    ]);
    for i in 0..800 {
        let found = index.endorsed(&digest(i));
        let expected = match i {
            0..500 => Some(("a", "line1", Role::Manufacturer)),
            500..600 => Some(("a", "line2", Role::Operator)),
            600..700 => Some(("b", "line1", Role::Manufacturer)),
            705..710 => Some(("b", "old", Role::Manufacturer)),
            _ => None,
        };
        assert_eq!(found.map(|by| (by.product, by.list, by.signers[0].role)), expected, "{i}");
        assert!(found.is_none_or(|by| by.serial == format!("SN-{i}")));
    }
    assert_eq!((index.endorsed_keys(), index.endorsements().len()), (705, 4));
}

#[test]
fn one_endorsement_key_for_two_products_is_refused_naming_both() {
    let maker = Chain::new();
    let lists = vec![maker.made(list("acme/a", "east", 1, 0..5)), maker.made(list("acme/b", "west", 1, 4..9))];
    let error = try_build(lists).unwrap_err();
    assert!(matches!(&error, Unusable::TwoProducts { ek, .. } if *ek == digest(4)));
    let said = error.to_string();
    assert!(["acme/a", "east", "acme/b", "west"].iter().all(|word| said.contains(word)), "{said}");
}

#[test]
fn an_expired_list_endorses_nobody_and_contradicts_nobody() {
    let maker = Chain::new();
    let entries = vec![Endorsed { ek: digest(1), serial: String::new() }];
    let expired = Endorsements::new("b", "l", 1, Some(NOW), entries).unwrap();
    let index = build(vec![maker.made(list("a", "l", 1, 0..1)), maker.made(expired.clone())]);
    assert!(index.endorsed(&digest(1)).is_none());
    let index = build(vec![maker.made(list("a", "l", 1, 0..2)), maker.made(expired)]);
    assert_eq!(index.endorsed(&digest(1)).unwrap().product, "a");
}

fn offered(maker: &Chain, documents: &[Document]) -> ReferenceIndex {
    build(documents.iter().map(|document| maker.made(document.clone())).collect())
}

fn seen(maker: &Chain, documents: &[Document]) -> BTreeMap<Series, Seen> {
    offered(maker, documents).series().clone()
}

#[test]
fn an_older_release_list_or_notice_is_refused() {
    let maker = Chain::new();
    let newest = |sequence| -> [Document; 3] {
        [simple("a", sequence).into(), notice("a", "n", sequence, bad(1)).into(), list("a", "l", sequence, 0..1).into()]
    };
    for at in 0..3 {
        let [old, new, newer] = [4, 5, 6].map(|sequence| newest(sequence)[at].clone());
        let seen = seen(&maker, std::slice::from_ref(&new));
        let check = |document| offered(&maker, &[document]).check_not_older(&seen, &maker.trust, NOW);
        assert_eq!((check(new), check(newer)), (Ok(()), Ok(())));
        let error = check(old).unwrap_err();
        assert!(matches!(&error, Unusable::Older { seen: 5, offered: 4, .. }), "{error}");
    }
}

#[test]
fn a_notice_that_is_gone_before_its_end_is_missed_and_nothing_else_is() {
    let maker = Chain::new();
    let all: [Document; 4] = [
        simple("a", 1).into(),
        list("a", "l", 1, 0..1).into(),
        notice("a", "ends", 1, until(NOW + 5, bad(1))).into(),
        notice("a", "stays", 1, minimum(1)).into(),
    ];
    let seen = seen(&maker, &all);
    let check = |kept: &[Document], now| offered(&maker, kept).check_not_older(&seen, &maker.trust, now);
    assert_eq!(check(&all, NOW), Ok(()));
    assert_eq!(check(&all[2..], NOW), Ok(()), "a release and a list that are gone allow nothing");
    assert!(
        matches!(check(&all[..3], NOW), Err(Unusable::Gone { series, .. }) if series.name.starts_with("stays by "))
    );
    let without_other = [&all[..2], &all[3..]].concat();
    assert!(
        matches!(check(&without_other, NOW + 4), Err(Unusable::Gone { series, .. }) if series.name.starts_with("ends by "))
    );
    assert_eq!(check(&without_other, NOW + 5), Ok(()), "its time was over");
    assert!(matches!(check(&[], NOW), Err(Unusable::Gone { .. })));
}

#[test]
fn nobody_takes_back_another_signers_notice_and_each_replaces_their_own() {
    let chain = Chain::new();
    let by = |role, sequence, says| chain.by(&[role], notice("a", "n", sequence, says));
    let maker = by(Role::Manufacturer, 1, bad(1));
    let distributor = by(Role::Distributor, 9, bad(2));
    let index = build(vec![maker.clone(), distributor.clone()]);
    assert!(advisory(&index, Some("a"), 1, NOW).is_some() && advisory(&index, Some("a"), 2, NOW).is_some());
    // One sequence by two signers is no contradiction.
    assert!(try_build(vec![maker.clone(), by(Role::Distributor, 1, bad(2))]).is_ok());
    let replaced = build(vec![maker.clone(), by(Role::Manufacturer, 2, bad(3)), distributor.clone()]);
    assert!(advisory(&replaced, Some("a"), 1, NOW).is_none() && advisory(&replaced, Some("a"), 2, NOW).is_some());
    // A word of both stays until both have another.
    let both = chain.by(&[Role::Manufacturer, Role::Distributor], notice("a", "n", 10, bad(4)));
    let halved = build(vec![both.clone(), by(Role::Manufacturer, 11, bad(3))]);
    assert!(advisory(&halved, Some("a"), 4, NOW).is_some());
    let over = build(vec![both, by(Role::Manufacturer, 11, bad(3)), by(Role::Distributor, 11, bad(3))]);
    assert!(advisory(&over, Some("a"), 4, NOW).is_none());
    // And none of them can be taken away while it counts.
    let seen = index.series().clone();
    let gone = build(vec![maker]).check_not_older(&seen, &chain.trust, NOW);
    assert!(matches!(gone, Err(Unusable::Gone { sequence: 9, .. })), "{gone:?}");
}

#[test]
fn a_notice_that_expired_is_not_undone_by_an_older_one_of_its_name() {
    let maker = Chain::new();
    let seen = seen(&maker, &[notice("a", "n", 2, until(NOW, bad(2))).into()]);
    let older = offered(&maker, &[notice("a", "n", 1, bad(1)).into()]);
    assert!(matches!(older.check_not_older(&seen, &maker.trust, NOW), Err(Unusable::Older { .. })));
}

#[test]
fn what_is_remembered_outlives_files_that_are_gone() {
    let maker = Chain::new();
    let seen = seen(&maker, &[simple("a", 5).into(), list("a", "l", 3, 0..1).into()]);
    let later = offered(&maker, &[list("a", "l", 4, 0..1).into()]).series_after(seen);
    assert_eq!(later.values().map(|seen| seen.sequence).collect::<Vec<_>>(), [5, 4]);
    let back = offered(&maker, &[simple("a", 4).into()]);
    assert!(matches!(back.check_not_older(&later, &maker.trust, NOW), Err(Unusable::Older { .. })));
}

#[test]
fn what_its_signer_may_not_say_any_more_is_not_missed() {
    let chain = Chain::until(Some(NOW + 5));
    let by = |role: Role, sequence| {
        let verified = vec![
            chain.made(simple("a", 1)),
            chain.by(&[role], simple("a", sequence)),
            chain.by(&[role], notice("a", "n", sequence, bad(1))),
        ];
        build(verified)
    };
    let seen = by(Role::Distributor, 7).series().clone();
    let left = build(vec![chain.made(simple("a", 1))]);
    assert!(left.check_not_older(&seen, &chain.trust, NOW + 5).is_err());
    assert_eq!(left.check_not_older(&seen, &chain.without(Role::Distributor), NOW), Ok(()));
    assert_eq!(left.check_not_older(&seen, &chain.trust, NOW + 6), Ok(()), "its trust has ended");
    assert!(left.check_not_older(&seen, &chain.without(Role::Importer), NOW).is_err());
}

#[test]
fn a_release_that_is_there_but_lacks_a_role_is_not_missed() {
    let chain = Chain::new();
    let (old, new) = (chain.by(&[Role::Manufacturer, Role::Importer], simple("a", 1)), chain.made(simple("a", 2)));
    let seen = build(vec![old.clone(), new.clone()]).series().clone();
    let required = Required::everywhere([Role::Importer]);
    let stricter = |verified| ReferenceIndex::build(verified, &required, NOW).unwrap().index;
    assert_eq!(stricter(vec![old.clone(), new]).check_not_older(&seen, &chain.trust, NOW), Ok(()));
    let another = chain.made(release("a", "3", 3, 0..9));
    let error = stricter(vec![old, another]).check_not_older(&seen, &chain.trust, NOW).unwrap_err();
    assert!(matches!(error, Unusable::Older { .. }), "another file does not stand for it");
}

#[test]
fn the_next_change_is_whatever_ends_or_begins_first() {
    let chain = Chain::until(Some(500));
    let dated = simple("a", 1).valid(Some(100), Some(400)).unwrap();
    let entries = vec![Endorsed { ek: digest(1), serial: String::new() }];
    let documents = vec![
        chain.made(dated),
        chain.made(notice("a", "n", 1, until(200, bad(1)))),
        chain.made(Endorsements::new("a", "l", 1, Some(300), entries).unwrap()),
    ];
    let index = ReferenceIndex::build(documents, &Required::default(), 0).unwrap().index;
    for (now, next) in [(0, 100), (100, 200), (200, 300), (300, 400), (400, 501)] {
        assert_eq!(index.next_change(now), Some(next), "{now}");
    }
    assert_eq!(index.next_change(501), None);
    assert_eq!(index.affected_by_time(0, 99).products, [""; 0]);
    assert_eq!(index.affected_by_time(0, 100).products, ["a"]);
    assert_eq!(index.affected_by_time(100, 399).products, [""; 0]);
    assert_eq!(index.affected_by_time(399, 400).products, ["a"]);
}
