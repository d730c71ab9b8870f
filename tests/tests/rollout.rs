//! A revocation and its end reach a fleet that is known by its rows alone, through the service as it runs.

use std::process::Command;

use appraisal::{Code, Held, Verdict, reappraise};
use devices::{
    judge::{Judge, host_policy, sign, signed},
    population::Population,
    site::{Site, eventually},
    software::{Attach, SoftwareDevice},
};
use reference_values::{Notice, ReferenceIndex, Required, Revoked, SignedDocument, Trust};
use serde_json::Value;

const DEVICES: usize = 600;
const KINDS: usize = 90;

/// Waits; tells what the verifier said where it is in vain.
fn until(what: &str, site: &Site, holds: impl Fn() -> bool) {
    eventually(what, || Ok(holds())).unwrap_or_else(|error| panic!("{error}\n{}", site.end_of_log()));
}

fn total(site: &Site, query: &str) -> u64 {
    site.get(&format!("/v1/devices?limit=1&{query}")).unwrap()["total"].as_u64().unwrap()
}

fn read_again(site: &Site) {
    let pid = site.verifier_pid().unwrap().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
}

/// A device of the first product on its second release, that is well and attested a while ago.
fn example(site: &Site) -> String {
    let page = site.get("/v1/devices?limit=1&verdict=affirmed&product=acme/product-0&release=2.0").unwrap();
    page["devices"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_revocation_and_its_end_reach_devices_that_say_nothing() {
    let now = verifier::serve::now();
    let mut site = Site::lay_out(3600).unwrap();
    let population = Population::new(DEVICES, KINDS, now).unwrap();
    population.publish(&site.dir).unwrap();
    let store = site.store().unwrap();
    population.fill(&store).unwrap();
    site.start_brokers().unwrap();
    site.serve().unwrap();
    let settled = || store.held_against().unwrap().is_some() && store.rejudged().unwrap().is_empty();
    until("the first look", &site, settled);
    let well = site.get("/v1/fleet").unwrap();
    let device = example(&site);
    let history = |device: &str| -> Vec<Value> {
        let answer = site.get(&format!("/v1/devices/{device}/history")).unwrap();
        answer["history"].as_array().unwrap().clone()
    };
    let before = history(&device).len();
    let concerned = total(&site, "verdict=affirmed&product=acme/product-0&release=2.0");
    let others = total(&site, "verdict=affirmed&product=acme/product-1&release=2.0");
    assert!(concerned > 5 && others > 5);

    population.revoke(&site.dir, 1, true).unwrap();
    read_again(&site);
    until("queries show it", &site, || total(&site, "cause=release.revoked") > 0);
    let known = site.get("/v1/fleet").unwrap();
    assert_eq!(total(&site, "verdict=affirmed&product=acme/product-0&release=2.0"), 0);
    assert_eq!(total(&site, "verdict=affirmed&product=acme/product-1&release=2.0"), others, "of another product");
    let shown = site.get(&format!("/v1/devices/{device}")).unwrap();
    assert_eq!(shown["verdict"], "contraindicated");
    until("rows follow", &site, settled);
    assert_eq!(site.get("/v1/fleet").unwrap(), known, "by the rows as before them");
    let last = history(&device).pop().unwrap();
    assert_eq!((&last["what"], &last["verdict"]), (&"references".into(), &"contraindicated".into()));
    assert_eq!(history(&device).len(), before + 1);

    // A newer notice takes it back; the service does not run when it comes.
    site.kill_verifier();
    population.revoke(&site.dir, 2, false).unwrap();
    site.serve().unwrap();
    until("queries show its end", &site, || total(&site, "cause=release.revoked") == 0);
    until("rows follow again", &site, settled);
    assert_eq!(site.get("/v1/fleet").unwrap(), well);
    assert_eq!(example(&site), device);
}

#[test]
fn of_devices_that_stand_alike_one_is_re_appraised_for_all() {
    let release = signed("1.0", &[("/bin/init", [1; 32])], &[(0, [0; 32])]);
    let revoked = Revoked { release: "1.0".into(), why: "a hole".into(), advisory: None };
    let notice = Notice::new(devices::judge::PRODUCT, "recall", 1, None, None, vec![revoked], vec![]).unwrap();
    let verify = |(document, trust): &(SignedDocument, Trust)| document.clone().verify(trust, 1_800_000_000).unwrap();
    let build = |documents| ReferenceIndex::build(documents, &Required::default(), 1_800_000_000).unwrap().index;
    let (notice, at) = (sign(notice), 1_800_009_000);
    let rules = build(vec![verify(&release), verify(&notice)]);
    for unlisted in [false, true] {
        let states: Vec<_> = [(0, None), (500, None), (900, Some(("/tmp/x", [9; 32])))]
            .into_iter()
            .map(|(later, more)| {
                let mut device = SoftwareDevice::new();
                device.pass(later);
                device.run("/bin/init", [1; 32]);
                if unlisted {
                    device.run("/tmp/y", [8; 32]);
                }
                more.iter().for_each(|(path, digest)| device.run(path, *digest));
                let mut judge = Judge::new(device.keys, build(vec![verify(&release)]));
                judge.now += later;
                let message = device.attest(&[judge.challenge()], Attach::LogsFrom(0));
                judge.take(&message).unwrap();
                let policy = host_policy();
                let state = judge.state.unwrap();
                let held = Held {
                    standing: &judge.standing,
                    state: &state,
                    files: &judge.files,
                    boot_log: None,
                    references: &rules,
                    policy: &policy,
                    now: at,
                };
                let posture = state.posture(&judge.standing);
                (posture, reappraise(held).state, state)
            })
            .collect();
        let [(one, outcome, first), (other, by_itself, second), (third, ..)] = &states[..] else { panic!("three") };
        let before = if unlisted { Verdict::Contraindicated } else { Verdict::Affirmed };
        assert_eq!((first.verdict, outcome.verdict), (before, Verdict::Contraindicated));
        assert!(outcome.causes.iter().any(|cause| cause.code == Code::ReleaseRevoked));
        assert_eq!(one, other);
        assert_ne!(one, third, "another program runs, and its finding is in the state");
        assert_eq!(second.like(outcome, 0, at), *by_itself);
        assert_eq!(by_itself.like(outcome, 0, at), *by_itself, "once more");
    }
}
