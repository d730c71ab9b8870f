//! Releases through their life: notices, updates, going back, exclusions; and the same evidence held against other rules.

use appraisal::{Appraisal, Code, Held, MeasuredFile, Notice, Policy, Verdict, reappraise};
use devices::{
    judge::{Judge, PRODUCT, host_policy, index, sign},
    software::{Attach, SoftwareDevice},
};
use evidence::pcr::sha256;
use reference_values::{
    Document, Executable, KnownBad, Minimum, Notice as SignedNotice, ReferenceIndex, Release, Revoked,
};

const DAY: u64 = 24 * 3600;

fn digest(name: &str) -> [u8; 32] {
    sha256(name.as_bytes())
}

/// `1`, with files that only it has, and those of all.
fn release(name: &str) -> Release {
    let sequence = name.parse().unwrap();
    let file = |file: String| Executable { digest: digest(&file), path: format!("/bin/{file}") };
    let files = vec![file("init".into()), file(format!("app-{name}")), file(format!("tool-{name}"))];
    let release = Release::new(PRODUCT, name, sequence, files, vec![]).unwrap();
    release.with_update_window(Some(7 * DAY)).unwrap()
}

#[derive(Clone, Default)]
struct Notices {
    minimum: Option<u64>,
    revoked: Vec<&'static str>,
    bad: Vec<&'static str>,
}

/// Releases and one notice about every product.
fn references(releases: &[&str], notices: &Notices) -> ReferenceIndex {
    let revoked = |release: &&str| Revoked {
        release: (*release).into(),
        why: "a hole".into(),
        advisory: Some("CVE-2026-1".into()),
    };
    let bad = |name: &&str| KnownBad { digest: digest(name), why: "malware".into(), advisory: "CVE-2026-2".into() };
    let minimum = notices.minimum.map(|sequence| Minimum { sequence, release: sequence.to_string() });
    let notice = SignedNotice::new(
        "*",
        "psirt",
        1,
        None,
        minimum,
        notices.revoked.iter().map(revoked).collect(),
        notices.bad.iter().map(bad).collect(),
    );
    let mut documents: Vec<Document> = releases.iter().map(|name| release(name).into()).collect();
    documents.push(notice.unwrap().into());
    index(documents.into_iter().map(sign).collect())
}

/// A device of one product, and who judges it.
struct Field {
    device: SoftwareDevice,
    judge: Judge,
}

impl Field {
    fn new(releases: &[&str], notices: &Notices) -> Self {
        let device = SoftwareDevice::new();
        let mut judge = Judge::new(device.keys, references(releases, notices));
        judge.policy = policy("");
        Self { device, judge }
    }

    fn runs(&mut self, files: &[&str]) -> Appraisal {
        files.iter().for_each(|file| self.device.run(&format!("/bin/{file}"), digest(file)));
        self.attests()
    }

    fn boots(&mut self, files: &[&str]) -> Appraisal {
        self.device.reboot();
        self.runs(files)
    }

    fn attests(&mut self) -> Appraisal {
        let nonce = self.judge.challenge();
        self.judge.take(&self.device.attest(&[nonce], Attach::LogsFrom(0))).unwrap()
    }

    fn pass(&mut self, seconds: u64) {
        self.judge.now += seconds;
        self.device.pass(seconds);
    }

    fn approve(&mut self) {
        self.judge.standing.approved_at = self.judge.now;
        self.pass(1);
    }
}

fn policy(more: &str) -> Policy {
    let tolerate = |cause: &str| format!("[[tolerate]]\ncause = \"{cause}\"\nwhy = \"one host\"\nuntil = 2100-01-01\n");
    let causes = ["runtime.unanchored", "boot.unprotected", "hardware.software-tpm"].map(tolerate).concat();
    let policy = Policy::from_toml(&format!("require = [\"executables\"]\n{more}\n{causes}")).unwrap();
    assert!(host_policy().tolerates(Code::RuntimeUnanchored, 0).is_some());
    policy
}

fn codes(appraisal: &Appraisal) -> Vec<Code> {
    appraisal.state.causes.iter().map(|cause| cause.code).collect()
}

#[track_caller]
fn shows(appraisal: &Appraisal, verdict: Verdict, expected: &[Code]) {
    assert_eq!(
        (appraisal.state.verdict, codes(appraisal)),
        (verdict, expected.to_vec()),
        "{:#?}",
        appraisal.state.causes
    );
}

#[test]
fn what_is_known_to_be_bad_contradicts_although_a_release_lists_it_and_an_exclusion_lets_it_through() {
    let notices = Notices { bad: vec!["app-1", "loose"], ..Notices::default() };
    let mut field = Field::new(&["1"], &notices);
    field.judge.policy = policy("[[exclude]]\ndirectory = \"/bin\"\nwhy = \"anything\"\n");
    let listed = field.runs(&["init", "app-1"]);
    shows(&listed, Verdict::Contraindicated, &[Code::RuntimeKnownBad]);
    let detail = &listed.state.causes[0].detail;
    assert!(detail.starts_with("/bin/app-1 (CVE-2026-2: malware) sha256:"), "{detail}");
    let excluded = field.boots(&["init", "loose"]);
    shows(&excluded, Verdict::Contraindicated, &[Code::HistoryCompromised, Code::RuntimeKnownBad]);
    // Wherever it runs: of no known product, too.
    field.judge.standing.product = None;
    assert!(codes(&field.boots(&["loose"])).contains(&Code::RuntimeKnownBad));
}

#[test]
fn a_notice_that_was_wrong_is_over_with_the_next_one() {
    let mut field = Field::new(&["1"], &Notices { bad: vec!["app-1"], ..Notices::default() });
    shows(&field.runs(&["init", "app-1"]), Verdict::Contraindicated, &[Code::RuntimeKnownBad]);
    field.judge.references = references(&["1"], &Notices::default());
    shows(&field.attests(), Verdict::Affirmed, &[]);
}

#[test]
fn a_revoked_release_contradicts_until_it_is_left_or_allowed_again() {
    let notices = Notices { revoked: vec!["1"], ..Notices::default() };
    let mut field = Field::new(&["1", "2"], &notices);
    let revoked = field.runs(&["init", "app-1"]);
    shows(&revoked, Verdict::Contraindicated, &[Code::ReleaseRevoked]);
    assert_eq!(revoked.state.causes[0].detail, "release 1 (CVE-2026-1): a hole");
    shows(&field.boots(&["init", "app-2"]), Verdict::Affirmed, &[]);
    shows(&field.boots(&["init", "app-1"]), Verdict::Contraindicated, &[Code::ReleaseRevoked]);
    field.judge.references = references(&["1", "2"], &Notices::default());
    shows(&field.attests(), Verdict::Affirmed, &[]);
}

#[test]
fn an_update_is_followed_device_by_device_until_its_deadline() {
    let mut field = Field::new(&["1", "2", "3"], &Notices::default());
    let mut other = Field::new(&["1", "2", "3"], &Notices::default());
    shows(&field.runs(&["init", "app-1"]), Verdict::Affirmed, &[]);
    let updating = field.runs(&["app-2"]);
    shows(&updating, Verdict::Affirmed, &[]);
    let told = updating.state.information.iter().find(|told| told.code == Notice::ReleaseUpdating).unwrap();
    assert!(told.detail.starts_with("from 1 to 2, until "), "{told:?}");
    // Another begins later, and has as long.
    field.pass(5 * DAY);
    other.pass(5 * DAY);
    shows(&field.attests(), Verdict::Affirmed, &[]);
    shows(&other.runs(&["init", "app-1", "app-2"]), Verdict::Affirmed, &[]);
    for one in [&mut field, &mut other] {
        one.pass(2 * DAY);
    }
    shows(&field.attests(), Verdict::Warning, &[Code::ReleaseStale]);
    shows(&other.attests(), Verdict::Affirmed, &[]);
    // A reboot into the new release ends it.
    let done = field.boots(&["init", "app-2", "tool-2"]);
    shows(&done, Verdict::Affirmed, &[]);
    assert_eq!(done.state.release.as_deref(), Some("2"));
    assert!(done.state.information.iter().all(|told| told.code != Notice::ReleaseUpdating));
}

#[test]
fn going_to_and_fro_gains_no_time_and_a_later_update_has_its_own() {
    let mut field = Field::new(&["1", "2", "3"], &Notices::default());
    field.runs(&["init", "app-1", "app-2"]);
    for _ in 0..3 {
        field.pass(2 * DAY);
        shows(&field.boots(&["init", "app-1"]), Verdict::Affirmed, &[]);
        field.pass(DAY);
        let again = field.boots(&["init", "app-1", "app-2"]);
        let late = field.judge.now >= again.state.update.as_ref().unwrap().since + 7 * DAY;
        let expected: (_, &[Code]) =
            if late { (Verdict::Warning, &[Code::ReleaseStale]) } else { (Verdict::Affirmed, &[]) };
        shows(&again, expected.0, expected.1);
    }
    shows(&field.attests(), Verdict::Warning, &[Code::ReleaseStale]);
    shows(&field.boots(&["init", "app-2", "app-3"]), Verdict::Affirmed, &[]);
    // The first again, long after: it began anew.
    field.boots(&["init", "app-1"]);
    field.pass(30 * DAY);
    shows(&field.boots(&["init", "app-1", "app-2"]), Verdict::Affirmed, &[]);
}

#[test]
fn releases_that_do_not_follow_each_other_are_no_update() {
    let mut field = Field::new(&["1", "2", "3"], &Notices::default());
    shows(&field.runs(&["init", "app-1", "app-3"]), Verdict::Warning, &[Code::ReleaseStale]);
    shows(&field.boots(&["init", "app-1", "app-2", "app-3"]), Verdict::Warning, &[Code::ReleaseStale]);
    // A release that may not run any more is none between them.
    field.judge.references = references(&["1", "2", "3"], &Notices { revoked: vec!["2"], ..Notices::default() });
    shows(&field.boots(&["init", "app-1", "app-3"]), Verdict::Affirmed, &[]);
}

#[test]
fn going_back_below_the_lowest_release_contradicts_and_never_having_been_above_is_stale() {
    let lowest = Notices { minimum: Some(2), ..Notices::default() };
    let mut field = Field::new(&["1", "2", "3"], &Notices::default());
    shows(&field.runs(&["init", "app-1"]), Verdict::Affirmed, &[]);
    field.judge.references = references(&["1", "2", "3"], &lowest);
    shows(&field.attests(), Verdict::Warning, &[Code::ReleaseStale]);
    shows(&field.boots(&["init", "app-3"]), Verdict::Affirmed, &[]);
    // Back, but not below.
    shows(&field.boots(&["init", "app-2"]), Verdict::Affirmed, &[]);
    let back = field.boots(&["init", "app-1"]);
    shows(&back, Verdict::Contraindicated, &[Code::ReleaseRolledBack]);
    // A boot into the newer one does not wash it away; an operator does.
    shows(&field.boots(&["init", "app-3"]), Verdict::Warning, &[Code::HistoryCompromised]);
    field.approve();
    shows(&field.boots(&["init", "app-3"]), Verdict::Affirmed, &[]);
    shows(&field.boots(&["init", "app-1"]), Verdict::Contraindicated, &[Code::ReleaseRolledBack]);
    // What an operator approves in the old release was meant.
    field.approve();
    shows(&field.attests(), Verdict::Warning, &[Code::ReleaseStale]);
    // The minimum was a mistake.
    field.judge.references = references(&["1", "2", "3"], &Notices::default());
    shows(&field.attests(), Verdict::Affirmed, &[]);
}

#[test]
fn what_exclusions_let_through_is_counted_and_weighed_as_policy_says() {
    let mut field = Field::new(&["1"], &Notices::default());
    let exclude = "[[exclude]]\nglob = \"/bin/loose*\"\nwhy = \"the owner's\"\n";
    field.judge.policy = policy(exclude);
    let through = field.runs(&["init", "loose-1", "loose-2"]);
    shows(&through, Verdict::Affirmed, &[]);
    let excluded = through.state.boot.excluded.clone().unwrap();
    assert_eq!((excluded.count, excluded.paths), (2, vec!["/bin/loose-1".to_owned(), "/bin/loose-2".to_owned()]));
    assert_eq!(field.attests().state.boot.excluded.unwrap().count, 2, "told again is not counted again");
    shows(&field.runs(&["other"]), Verdict::Contraindicated, &[Code::RuntimeUnknownExecutable]);
    field.judge.policy = policy(&format!("excluded = \"warning\"\n{exclude}"));
    shows(&field.boots(&["init", "loose-1"]), Verdict::Warning, &[Code::CoverageExcluded]);
}

#[test]
fn what_the_kernel_lists_and_the_attester_saw_as_well_is_never_excluded() {
    let mut field = Field::new(&["1"], &Notices::default());
    field.judge.policy = policy("[[exclude]]\nglob = \"/bin/loose*\"\nwhy = \"the owner's\"\n");
    field.device.measure("/bin/loose", digest("loose"));
    let listed = field.runs(&["init"]);
    assert_eq!(listed.state.boot.excluded.map(|excluded| excluded.count), Some(1));
    let seen = field.runs(&["loose"]);
    assert!(codes(&seen).contains(&Code::RuntimeUnknownExecutable), "{:?}", seen.state.causes);
}

#[test]
fn going_between_pairs_of_releases_gains_no_time_either() {
    let mut field = Field::new(&["1", "2", "3"], &Notices::default());
    field.runs(&["init", "app-1", "app-2"]);
    field.pass(5 * DAY);
    let later = field.boots(&["init", "app-2", "app-3"]);
    shows(&later, Verdict::Affirmed, &[]);
    let since = later.state.update.unwrap().since;
    for files in [["init", "app-1", "app-2"], ["init", "app-2", "app-3"]].repeat(2) {
        field.pass(DAY);
        let again = field.boots(&files);
        shows(&again, Verdict::Affirmed, &[]);
        assert_eq!(again.state.update.unwrap().since, since);
    }
    field.pass(3 * DAY);
    shows(&field.boots(&["init", "app-1", "app-2"]), Verdict::Warning, &[Code::ReleaseStale]);
}

#[test]
fn nothing_old_hides_behind_something_new_whichever_comes_first() {
    let lowest = Notices { minimum: Some(2), ..Notices::default() };
    let revoked = Notices { revoked: vec!["1"], ..Notices::default() };
    for files in [["init", "app-1", "app-2"], ["init", "app-2", "app-1"]] {
        let mut field = Field::new(&["1", "2"], &lowest);
        // On its way up.
        let climbing = field.runs(&files);
        shows(&climbing, Verdict::Warning, &[Code::ReleaseStale]);
        assert_eq!(climbing.state.release.as_deref(), Some("1"));
        shows(&field.boots(&["init", "app-2"]), Verdict::Affirmed, &[]);
        // And back down.
        shows(&field.boots(&files), Verdict::Contraindicated, &[Code::ReleaseRolledBack]);
        let mut field = Field::new(&["1", "2"], &revoked);
        let held = field.runs(&files);
        assert_eq!(held.state.verdict, Verdict::Contraindicated);
        assert!(codes(&held).contains(&Code::ReleaseRevoked), "{:?}", held.state.causes);
        shows(&field.boots(&["init", "app-2"]), Verdict::Affirmed, &[]);
    }
}

#[test]
fn devices_that_stand_alike_have_one_posture_and_others_another() {
    let notices = Notices { minimum: Some(2), ..Notices::default() };
    let posture = |field: &Field| field.judge.state.as_ref().unwrap().posture(&field.judge.standing);
    let running = |boots: usize, files: &[&str], more: &str| {
        let mut field = Field::new(&["1", "2"], &notices);
        field.judge.policy = policy(more);
        for _ in 0..boots {
            field.boots(&["init", "app-2"]);
        }
        field.pass(boots as u64 * 100);
        field.boots(files);
        field
    };
    let one = running(1, &["init", "app-2"], "");
    let mut other = running(4, &["init", "app-2"], "");
    assert_eq!(posture(&one), posture(&other), "other counters and times");
    other.pass(10);
    other.attests();
    assert_eq!(posture(&one), posture(&other), "and later");
    let excluded = "[[exclude]]\nglob = \"/bin/loose\"\nwhy = \"the owner's\"\n";
    let mut differ = vec![
        ("release", running(1, &["init", "app-1"], "")),
        ("finding", running(1, &["init", "app-2", "loose"], "")),
        ("mixture", running(1, &["init", "app-2", "app-1"], "")),
        ("excluded", running(1, &["init", "app-2", "loose"], excluded)),
        ("never above", running(0, &["init", "app-1"], "")),
    ];
    let mut product = running(1, &["init", "app-2"], "");
    product.judge.standing.product = None;
    let mut kind = running(1, &["init", "app-2"], "");
    kind.judge.standing.ek_class = appraisal::EkClass::Software;
    let mut revoked = running(1, &["init", "app-2"], "");
    revoked.judge.standing.revoked = Some("stolen".into());
    let mut compromised = running(1, &["init", "app-1"], "");
    compromised.boots(&["init", "app-2"]);
    differ.extend([("product", product), ("TPM", kind), ("revoked", revoked), ("compromised", compromised)]);
    let mut seen = vec![("well", posture(&one))];
    for (name, field) in &differ {
        let this = posture(field);
        let same = seen.iter().find(|(_, known)| *known == this);
        assert!(same.is_none(), "{name} has the posture of {same:?}");
        seen.push((name, this));
    }
}

#[test]
fn one_of_a_posture_speaks_for_the_others_by_any_rules() {
    let rules = [
        (Notices::default(), &["1", "2", "3"][..]),
        (Notices { revoked: vec!["1"], ..Notices::default() }, &["1", "2", "3"]),
        (Notices { bad: vec!["app-1"], ..Notices::default() }, &["1", "2", "3"]),
        (Notices { minimum: Some(3), ..Notices::default() }, &["1", "2", "3"]),
        (Notices::default(), &["2", "3"]),
        (Notices::default(), &[]),
    ];
    let boots: [&[&str]; 4] =
        [&["init", "app-1"], &["init", "app-3"], &["init", "app-1", "loose"], &["init", "app-1", "app-3"]];
    for files in boots {
        let reach = |boots: usize| {
            let mut field = Field::new(&["1", "2", "3"], &Notices::default());
            for _ in 0..boots {
                field.boots(&["init", "app-2"]);
            }
            field.boots(files);
            field
        };
        let (mut one, mut other) = (reach(1), reach(3));
        let posture = |field: &Field| field.judge.state.as_ref().unwrap().posture(&field.judge.standing);
        assert_eq!(posture(&one), posture(&other));
        other.judge.now = one.judge.now;
        for (notices, releases) in &rules {
            for field in [&mut one, &mut other] {
                field.judge.references = references(releases, notices);
            }
            let by_one = again(&one, &one.judge.files.clone());
            let own = again(&other, &other.judge.files.clone());
            let like = other.judge.state.as_ref().unwrap().like(&by_one, 0, one.judge.now);
            let told = |state: &appraisal::DeviceState| {
                let causes: Vec<_> = state.causes.iter().map(|one| (one.code, one.detail.clone())).collect();
                (state.verdict, state.vector, causes, state.information.clone(), state.release.clone())
            };
            assert_eq!(told(&like), told(&own), "{files:?}");
            assert_eq!(like.posture(&other.judge.standing), own.posture(&other.judge.standing), "{files:?}");
        }
    }
}

/// What the last evidence comes to by the present rules.
fn again(field: &Field, files: &[MeasuredFile]) -> appraisal::DeviceState {
    let held = Held {
        standing: &field.judge.standing,
        state: field.judge.state.as_ref().unwrap(),
        files,
        boot_log: None,
        references: &field.judge.references,
        policy: &field.judge.policy,
        now: field.judge.now,
    };
    reappraise(held).state
}

#[test]
fn judging_the_last_evidence_again_comes_to_what_the_next_one_does() {
    let changes: [(&str, Notices, &[&str], &str); 8] = [
        ("nothing", Notices::default(), &["1", "2", "3"], ""),
        ("revoked", Notices { revoked: vec!["1"], ..Notices::default() }, &["1", "2", "3"], ""),
        ("bad", Notices { bad: vec!["app-1"], ..Notices::default() }, &["1", "2", "3"], ""),
        ("minimum", Notices { minimum: Some(2), ..Notices::default() }, &["1", "2", "3"], ""),
        ("unlisted", Notices::default(), &["2", "3"], ""),
        ("none", Notices::default(), &[], ""),
        ("policy", Notices::default(), &["1", "2", "3"], "unlisted = \"warning\""),
        ("excluded", Notices::default(), &["2", "3"], "[[exclude]]\nglob = \"/bin/app*\"\nwhy = \"a\"\n"),
    ];
    let boots: [&[&str]; 5] = [
        &["init", "app-1"],
        &["init", "app-1", "app-2"],
        &["init", "app-1", "loose"],
        &["init", "app-3"],
        &["init", "app-1", "app-3"],
    ];
    for approved in [false, true] {
        for files in boots {
            for (name, notices, releases, more) in &changes {
                let mut field = Field::new(&["1", "2", "3"], &Notices::default());
                field.boots(&["init", "app-3"]);
                field.boots(files);
                if approved {
                    field.approve();
                }
                field.judge.references = references(releases, notices);
                field.judge.policy = policy(more);
                let held = field.judge.files.clone();
                let judged = again(&field, &held);
                let told = |state: &appraisal::DeviceState| {
                    let causes: Vec<_> = state.causes.iter().map(|one| (one.code, one.detail.clone())).collect();
                    let notices: Vec<_> = state.information.iter().map(|one| (one.code, one.detail.clone())).collect();
                    let boot = (&state.boot.releases, &state.boot.excluded, state.boot.further_findings);
                    (
                        state.verdict,
                        state.vector,
                        causes,
                        notices,
                        format!("{boot:?}"),
                        state.release.clone(),
                        state.references,
                    )
                };
                // Held against the same rules once more, nothing differs.
                let mut twice = Field { judge: field.judge, device: field.device };
                twice.judge.state = Some(judged.clone());
                assert_eq!(told(&again(&twice, &held)), told(&judged), "{name} {files:?}");
                // And the next evidence of the device, which has nothing new to tell.
                let next = twice.attests();
                assert_eq!(told(&next.state), told(&judged), "{name} {files:?} approved: {approved}");
            }
        }
    }
}
