//! Whoever is at the broker: devices that are enrolled and turn on others, and messages that no program of ours sends.

use std::time::Duration;

use devices::{
    fleet::{program_digest, program_path},
    software::Attach,
};
use evidence::{
    challenge::{Challenge, Hello, Refusal},
    claims::Why,
    result::Tier,
    tpm::Counters,
    verifier_message::Purpose,
};
use tokio::time::timeout;

use crate::field::{Device, Field, Party, VERIFIER, name, next_second};

/// More than any message of the protocol has.
const MEGABYTE: usize = 1024 * 1024;
/// As much as the brokers let through.
const LONG_JUNK: usize = 90 * 1024;
/// The same at the enrolment broker.
const LONG_PRESENTATION: usize = 20 * 1024;

/// An enrolled and approved device that has attested once.
async fn honest(field: &Field) -> Device {
    let mut device = field.enrolled().await;
    field.approve(&device.id());
    device.software.run(&program_path(0), program_digest(0));
    let result = device.attest(Attach::LogsFrom(0)).await;
    assert_eq!(result.status, Tier::Affirming, "{:?}", result.causes);
    device
}

fn topics(device: &Device, name: &str) -> Vec<String> {
    let id = device.id();
    [
        format!("cs/1/{id}/up/evidence"),
        format!("cs/1/{id}/up/hello/{VERIFIER}"),
        format!("cs/1/{id}/up/hello/other"),
        format!("cs/1/{id}/up/unknown"),
        format!("cs/1/{id}/down/{VERIFIER}/request"),
        format!("cs/1/{id}/down/{VERIFIER}/result"),
        format!("cs/1/{id}/down/{VERIFIER}/refusal"),
        format!("cs/1/enrol/{id}/up"),
        format!("cs/1/enrol/{name}/up"),
        format!("cs/1/enrol/{name}/down/{VERIFIER}"),
        format!("cs/1/epoch/{VERIFIER}"),
        format!("cs/1/keys/{VERIFIER}"),
        "$SYS/broker/version".to_owned(),
        "x".to_owned(),
    ]
    .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_of_junk_on_every_topic_ends_its_sender_s_connection_and_nothing_else() {
    let field = Field::start();
    let (mut victim, attacker) = (honest(&field).await, honest(&field).await);
    let shown = field.device(&attacker.id());
    let junk = vec![0x5A; MEGABYTE];
    let stranger = name();
    for topic in topics(&attacker, &stranger) {
        for (credentials, client) in
            [(&attacker.credentials, attacker.id().to_string()), (&field.enrolment(), stranger.clone())]
        {
            let mut party = Party::connect(credentials, &client, &[]).await;
            party.publish(&topic, &junk).await;
            let ended = timeout(Duration::from_secs(20), party.ended.wait_for(Option::is_some)).await;
            assert!(ended.is_ok_and(|ended| ended.is_ok()), "{client} may go on after a megabyte on {topic}");
        }
    }
    victim.attest(Attach::Nothing).await;
    assert_eq!(field.device(&attacker.id()), shown);
    assert!(field.site.not_ready().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_as_long_as_it_may_be_on_every_topic_is_counted_and_others_are_served() {
    let field = Field::start();
    let (mut victim, mut attacker) = (honest(&field).await, honest(&field).await);
    let shown = field.device(&attacker.id());
    let stranger = name();
    let party = Party::connect(&field.enrolment(), &stranger, &[]).await;
    // Bytes of no meaning, arrays without end, a message that is cut, and nothing at all.
    let cut = attacker.software.attest(&[[1; 32]], Attach::LogsFrom(0));
    let junk = [vec![0x5A; LONG_JUNK], vec![0x81; LONG_JUNK], cut[..cut.len() / 2].to_vec(), vec![]];
    for topic in topics(&attacker, &stranger) {
        for bytes in &junk {
            attacker.party.publish(&topic, bytes).await;
            party.publish(&topic, &bytes[..bytes.len().min(LONG_PRESENTATION)]).await;
        }
    }
    field.counted(&["malformed_total", "evidence"], 4.0);
    field.counted(&["malformed_total", "hello"], 4.0);
    field.counted(&["malformed_total", "enrolment"], 4.0);
    victim.attest(Attach::Nothing).await;
    assert_eq!(field.device(&attacker.id()), shown, "nothing that is not authentic changes state");
    // And so is the one that sent it, once it sends what it should.
    attacker.attest(Attach::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_opens_its_own_door_only() {
    let field = Field::start();
    let device = honest(&field).await;
    let ports = field.site.ports();
    let doors = [ports.devices, ports.enrolment, ports.services];
    let (of_device, of_strangers, of_verifier) = (device.credentials.clone(), field.enrolment(), field.service());
    // The device's own id, a stranger's name, and names of those who live at the other doors.
    let clients = [device.id().to_string(), name(), VERIFIER.to_owned(), "enrolment-bridge".to_owned()];
    for (whose, credentials, own) in [
        ("device", of_device, ports.devices),
        ("stranger", of_strangers, ports.enrolment),
        ("verifier", of_verifier, ports.services),
    ] {
        for port in doors.into_iter().filter(|port| *port != own) {
            for client in &clients {
                let let_in = Party::try_connect(&credentials.at(port), client, &["#"]).await.is_ok();
                assert!(!let_in, "a {whose}'s certificate lets {client} in at another's door");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_joins_the_verifier_s_share_takes_no_message_from_it() {
    let field = Field::start();
    let (mut victim, attacker) = (honest(&field).await, honest(&field).await);
    let filters = [format!("$share/{VERIFIER}/cs/1/+/up/#"), format!("$share/{VERIFIER}/#"), "#".to_owned()];
    let id = attacker.id().to_string();
    let thief = Party::try_connect(&attacker.credentials, &id, &filters.each_ref().map(String::as_str)).await;
    for _ in 0..10 {
        victim.attest(Attach::Nothing).await;
    }
    drop(thief);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_followed_by_one_request_and_only_its_answer_may_go_back() {
    let field = Field::start();
    let mut device = honest(&field).await;
    device.software.counters.clock = 1_000_000;
    let (first, second) = (device.nonce().await, device.nonce().await);
    let old = device.software.attest(&[first], Attach::Nothing);
    let new = device.software.attest(&[second], Attach::Nothing);
    device.result_of(&new, &second).await;
    let (store, id) = (field.site.store().unwrap(), device.id());
    let state = store.state(id).unwrap().unwrap();
    assert!(!field.causes(&id).contains(&"tpm.cleared".to_owned()));

    device.send("evidence", &old).await;
    let special: Challenge = device.expect("request", Purpose::Request).await;
    // What follows a message in order comes back in order: had there been a second request, it would be before this answer.
    let plain = device.nonce().await;
    assert_ne!(*special.nonce(), plain);
    assert_eq!(store.state(id).unwrap().unwrap(), state, "a replay leaves no trace");

    // TPM2_Clear: a plain request does not do, the special one does.
    device.software.counters = Counters { reset: 0, restart: 0, clock: 10 };
    let backward = device.software.attest(&[plain], Attach::LogsFrom(0));
    device.send("evidence", &backward).await;
    device.nonce().await;
    assert_eq!(store.state(id).unwrap().unwrap(), state);
    let answer = device.software.attest(&[*special.nonce()], Attach::LogsFrom(0));
    let result = device.result_of(&answer, special.nonce()).await;
    assert!(result.causes.iter().any(|cause| cause.code == "tpm.cleared"), "{:?}", result.causes);
    assert_eq!(field.device(&id)["verdict"], "unknown");
    // Evidence from before, for a nonce that is good still, with counters that are higher.
    device.software.counters = Counters { reset: 9, restart: 0, clock: 2_000_000 };
    let held_back = device.software.attest(&[plain], Attach::Nothing);
    device.send("evidence", &held_back).await;
    field.counted(&["freshness.generation"], 1.0);
    device.software.counters = Counters { reset: 0, restart: 0, clock: 1_000 };
    next_second().await;
    field.approve(&id);
    let after = device.attest(Attach::Nothing).await;
    assert_eq!(after.status, Tier::Affirming, "{:?}", after.causes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_replays_is_answered_by_few_requests() {
    let field = Field::start();
    let mut device = honest(&field).await;
    let (first, second) = (device.nonce().await, device.nonce().await);
    let old = device.software.attest(&[first], Attach::Nothing);
    let new = device.software.attest(&[second], Attach::Nothing);
    device.result_of(&new, &second).await;
    const FLOOD: usize = 200;
    for _ in 0..FLOOD {
        device.send("evidence", &old).await;
    }
    // Another device is not kept waiting, and a bound holds for this one.
    honest(&field).await.attest(Attach::Nothing).await;
    let mut requests = 0;
    let topic = format!("cs/1/{}/down/{VERIFIER}/request", device.id());
    while let Ok(message) = timeout(Duration::from_secs(2), device.party.next_on(&topic)).await {
        drop(message);
        requests += 1;
    }
    assert!((1..=2).contains(&requests), "{requests} requests to a device whose old message somebody repeats");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_one_device_on_another_s_topic_is_refused_and_changes_neither() {
    let field = Field::start();
    let (mut victim, mut attacker) = (honest(&field).await, honest(&field).await);
    let nonce = victim.nonce().await;
    let stolen = victim.software.attest(&[nonce], Attach::Nothing);
    let shown = [field.device(&victim.id()), field.device(&attacker.id())];
    attacker.send("evidence", &stolen).await;
    let refusal: Refusal = attacker.expect("refusal", Purpose::Refusal).await;
    assert_eq!(refusal.code, "evidence.other-device");
    // Under the other's topic it does not get through the broker at all.
    attacker.party.publish(&format!("cs/1/{}/up/evidence", victim.id()), &stolen).await;
    attacker.nonce().await;
    assert_eq!([field.device(&victim.id()), field.device(&attacker.id())], shown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_greetings_and_evidence_of_one_device_keeps_no_other_waiting() {
    let field = Field::start();
    let (mut victim, mut attacker) = (honest(&field).await, honest(&field).await);
    const FLOOD: usize = 3_000;
    let hello = evidence::cbor::encode(&Hello::new(Why::Startup));
    let nonce = attacker.nonce().await;
    // Each with good signatures, so that each costs what evidence costs, until the rates stop it.
    let messages: Vec<_> = (0..FLOOD).map(|_| attacker.software.attest(&[nonce], Attach::Nothing)).collect();
    let id = attacker.id();
    let flooding = tokio::spawn(async move {
        for message in &messages {
            attacker.send(&format!("hello/{VERIFIER}"), &hello).await;
            attacker.send("evidence", message).await;
        }
        attacker
    });
    for _ in 0..20 {
        let result = timeout(Duration::from_secs(20), victim.attest(Attach::Nothing)).await.expect("a verdict in time");
        assert_eq!(result.status, Tier::Affirming);
    }
    let mut attacker = flooding.await.unwrap();
    field.counted(&["rate.hello"], FLOOD as f64 / 2.0);
    field.counted(&["rate.evidence"], FLOOD as f64 / 2.0);
    // What it got for that is bounded, too.
    let mut answers = 0;
    while timeout(Duration::from_secs(1), attacker.party.next()).await.is_ok() {
        answers += 1;
    }
    assert!(answers < FLOOD / 2, "{answers} answers to {FLOOD} greetings and as much evidence");
    assert_eq!(field.device(&id)["verdict"], "affirmed", "and nothing is held against it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_affirmed_result_is_handed_to_nobody_once_the_device_is_revoked() {
    let field = Field::start();
    let device = honest(&field).await;
    let path = format!("/v1/devices/{}/result", device.id());
    assert_eq!(field.status(&path), 200);
    field.order(&["revoke", &device.id().to_string(), "--why", "stolen"]);
    assert_eq!(field.status(&path), 409, "its signature would outlive the operator's word");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_will_is_no_way_around_the_broker_s_rules() {
    let field = Field::start();
    let (mut victim, attacker) = (honest(&field).await, honest(&field).await);
    let id = victim.id();
    let result = format!("cs/1/{id}/down/{VERIFIER}/result");
    let keys = format!("cs/1/keys/{VERIFIER}");
    for topic in [&result, &keys, &format!("cs/1/epoch/{VERIFIER}"), &format!("cs/1/{id}/up/evidence")] {
        let client = attacker.id().to_string();
        Party::die_with_will(&attacker.credentials, &client, topic, b"the will of a stranger").await;
    }
    // Had one come through, it would have come before this; and what the broker retains is what it was.
    victim.attest(Attach::Nothing).await;
    assert!(!victim.party.heard(b"the will of a stranger"));
    let mut again = victim.again(&field).await;
    again.attest(Attach::Nothing).await;
    assert!(!again.party.heard(b"the will of a stranger"));
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_from_between_a_backup_and_its_restore_never_counts_again() {
    let mut field = Field::start();
    let mut device = honest(&field).await;
    let id = device.id();
    let copy = field.site.scratch().join("copy.sqlite");
    field.order(&["store", "backup", copy.to_str().unwrap()]);
    // What the copy does not know: good evidence, and then an implant.
    let (first, unused) = (device.nonce().await, device.nonce().await);
    let good = device.software.attest(&[first], Attach::Nothing);
    assert_eq!(device.result_of(&good, &first).await.status, Tier::Affirming);
    let held_back = device.software.attest(&[unused], Attach::Nothing);
    device.software.run("/tmp/implant", [9; 32]);
    assert_eq!(device.attest(Attach::LogsFrom(1)).await.status, Tier::Contraindicated);

    field.site.kill_verifier();
    field.restore(&copy);
    next_second().await;
    field.site.serve().unwrap();
    let mut device = device.again(&field).await;
    for message in [good, held_back] {
        device.send("evidence", &message).await;
    }
    // Their nonces are of a generation before, or of nobody any more.
    field.counted(&["freshness."], 2.0);
    assert_eq!(field.device(&id)["verdict"], "unknown", "no verdict holds until the device has answered anew");
    assert_eq!(device.attest(Attach::LogsFrom(0)).await.status, Tier::Contraindicated);
}
