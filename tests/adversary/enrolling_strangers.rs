//! Strangers that would like to be a device, another device, or in the way of all devices.

use std::time::Duration;

use attester::tpm::{EkKind, Tpm, TpmConfig};
use devices::{
    software::{Attach, SoftwareDevice},
    software_ek::SoftwareEk,
    swtpm::Swtpm,
};
use evidence::{
    challenge::Challenge,
    claims::DeviceId,
    enrolment::{Answer, Outcome, Presentation, Secret, Up},
    pcr::sha256,
    tpm::EkKey,
    verifier_message::Purpose,
};
use tokio::time::timeout;

use crate::field::{Field, Party, Stranger, name, next_second, presented};

/// A TPM whose keys answer as often as they are asked.
struct RealTpm {
    tpm: Tpm,
    _swtpm: Swtpm,
}

impl RealTpm {
    /// Made by a maker that the verifier trusts from its next start on.
    fn trusted_by(field: &Field, ak_counter: u16) -> Self {
        let swtpm = Swtpm::start();
        for root in &swtpm.roots {
            field.order(&["roots", "add", root.to_str().unwrap(), "--software"]);
        }
        Self { tpm: Self::open(&swtpm, ak_counter), _swtpm: swtpm }
    }

    fn open(swtpm: &Swtpm, ak_counter: u16) -> Tpm {
        let config =
            TpmConfig { tcti: swtpm.tcti.clone(), endorsement_auth: Default::default(), ak_counter: ak_counter.into() };
        Tpm::open(&config).unwrap()
    }

    /// The same TPM with another of its attestation keys.
    fn with_another_key(self, ak_counter: u16) -> Self {
        let Self { tpm, _swtpm } = self;
        drop(tpm);
        Self { tpm: Self::open(&_swtpm, ak_counter), _swtpm }
    }

    /// Presents these of its endorsement keys.
    fn presents(&mut self, kinds: &[EkKind]) -> Presentation {
        let keys = self.tpm.endorsement_keys().unwrap();
        let keys: Vec<_> = keys.keys.into_iter().filter(|key| kinds.contains(&key.kind)).collect();
        let certificates = keys.iter().map(|key| key.certificate.clone().unwrap()).collect();
        let public = keys.iter().map(|key| key.public.clone()).collect();
        let connection = rcgen::PublicKeyData::subject_public_key_info(&rcgen::KeyPair::generate().unwrap());
        let nonce = ring::rand::generate(&ring::rand::SystemRandom::new()).unwrap().expose();
        Presentation::new(nonce, certificates, public, self.tpm.ak_public().area(), connection)
    }

    /// The id that these endorsement keys lead to.
    fn id(&mut self, kinds: &[EkKind]) -> DeviceId {
        let keys = self.tpm.endorsement_keys().unwrap();
        let first = keys.keys.iter().find(|key| kinds.contains(&key.kind)).unwrap();
        DeviceId(EkKey::of_public_area(&first.public).unwrap().digest())
    }

    /// Enrols with these of its endorsement keys; what the verifier says in the end.
    async fn enrols(&mut self, stranger: &mut Stranger, kinds: &[EkKind]) -> (Up, Answer) {
        let (presentation, id) = (self.presents(kinds), self.id(kinds));
        let first = stranger.say(&Up::Present(presentation.clone())).await;
        if matches!(first, Answer::Outcome(_)) {
            return (Up::Present(presentation), first);
        }
        let activation = stranger
            .activation_by(presentation, &id, |credentials| {
                let open = |(credential, kind): (&evidence::enrolment::Credential, &EkKind)| {
                    self.tpm.activate_credential(*kind, &credential.id_object, &credential.encrypted_secret).unwrap()
                };
                credentials.iter().zip(kinds).map(open).map(|secret| Secret::recovered(&secret).unwrap()).collect()
            })
            .await;
        let activation = Up::Activate(activation);
        let answer = stranger.say(&activation).await;
        (activation, answer)
    }
}

const BOTH: [EkKind; 2] = [EkKind::P384, EkKind::Rsa2048];

fn refused(answer: &Answer) -> &str {
    match answer {
        Answer::Outcome(Outcome::Refused { code, .. }) => code,
        other => panic!("not refused: {other:?}"),
    }
}

fn enrolled(answer: &Answer) -> DeviceId {
    match answer {
        Answer::Outcome(Outcome::Enrolled { device, .. }) => *device,
        other => panic!("not enrolled: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn re_enrolment_with_another_key_is_refused_and_reported_until_revoked_and_approved() {
    let mut field = Field::laid_out();
    let mut tpm = RealTpm::trusted_by(&field, 0);
    field.site.serve().unwrap();
    let mut stranger = Stranger::connect(&field, &name()).await;
    let id = enrolled(&tpm.enrols(&mut stranger, &BOTH).await.1);
    field.approve(&id);
    // An approval ends what was there in its second.
    next_second().await;
    let mut tpm = tpm.with_another_key(1);
    let mut stranger = Stranger::connect(&field, &name()).await;
    assert_eq!(refused(&tpm.enrols(&mut stranger, &BOTH).await.1), "identity.key-changed");
    assert!(field.causes(&id).contains(&"identity.key-changed".to_owned()), "{:?}", field.causes(&id));
    assert_eq!(field.device(&id)["verdict"], "contraindicated");
    // A new generation takes the new key, and from then on that one only.
    field.order(&["revoke", &id.to_string(), "--why", "its key was made anew"]);
    field.approve(&id);
    let mut stranger = Stranger::connect(&field, &name()).await;
    assert_eq!(enrolled(&tpm.enrols(&mut stranger, &BOTH).await.1), id);
    let mut tpm = tpm.with_another_key(0);
    let mut stranger = Stranger::connect(&field, &name()).await;
    assert_eq!(refused(&tpm.enrols(&mut stranger, &BOTH).await.1), "identity.key-changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_device_blocks_every_endorsement_key_of_its_tpm() {
    let mut field = Field::laid_out();
    let mut tpm = RealTpm::trusted_by(&field, 0);
    field.site.serve().unwrap();
    let mut stranger = Stranger::connect(&field, &name()).await;
    let id = enrolled(&tpm.enrols(&mut stranger, &BOTH).await.1);
    field.order(&["revoke", &id.to_string(), "--why", "stolen"]);
    let mut tpm = tpm.with_another_key(1);
    for kinds in [&[EkKind::Rsa2048][..], &[EkKind::P384], &BOTH] {
        let mut stranger = Stranger::connect(&field, &name()).await;
        let (_, answer) = tpm.enrols(&mut stranger, kinds).await;
        assert_eq!(refused(&answer), "identity.revoked", "{kinds:?}");
        // The same keys with their certificates left away.
        let mut bare = tpm.presents(kinds);
        bare.certificates.clear();
        let mut stranger = Stranger::connect(&field, &name()).await;
        let code = stranger.refusal(&Up::Present(bare)).await;
        assert!(["identity.revoked", "identity.no-ek-certificate"].contains(&code.as_str()), "{kinds:?}: {code}");
    }
    assert_eq!(field.registered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_tpm_s_endorsement_keys_is_no_second_device() {
    let mut field = Field::laid_out();
    let mut tpm = RealTpm::trusted_by(&field, 0);
    field.site.serve().unwrap();
    let mut stranger = Stranger::connect(&field, &name()).await;
    enrolled(&tpm.enrols(&mut stranger, &BOTH).await.1);
    let mut tpm = tpm.with_another_key(1);
    let mut stranger = Stranger::connect(&field, &name()).await;
    assert_eq!(refused(&tpm.enrols(&mut stranger, &[EkKind::Rsa2048]).await.1), "identity.key-elsewhere");
    assert_eq!(field.registered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_a_certificate_that_no_operator_listed_is_refused() {
    let field = Field::start();
    let ek = SoftwareEk::new(&field.ca).unwrap();
    let mut bare = presented(&ek, &SoftwareDevice::new().keys.ak, &rcgen::KeyPair::generate().unwrap());
    bare.certificates.clear();
    let mut stranger = Stranger::connect(&field, &name()).await;
    assert_eq!(stranger.refusal(&Up::Present(bare)).await, "identity.no-ek-certificate");
    assert_eq!(field.registered(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_key_that_is_known_under_another_id_is_refused() {
    let field = Field::start();
    let known = field.enrolled().await;
    // A TPM of software opens a credential for whatever name it is told.
    let ek = SoftwareEk::new(&field.ca).unwrap();
    let mut keys = known.software.keys;
    keys.device = DeviceId(sha256(&ek.spki()));
    let mut stranger = Stranger::connect(&field, &name()).await;
    let presentation = presented(&ek, &keys.ak, &rcgen::KeyPair::generate().unwrap());
    let activation = stranger.activation(presentation, &keys, ek).await;
    assert_eq!(stranger.refusal(&Up::Activate(activation)).await, "identity.key-elsewhere");
    assert_eq!(field.registered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unproved_message_changes_no_registration() {
    let field = Field::start();
    let (mut device, activation) = field.enrolled_with(SoftwareDevice::new()).await;
    let id = device.id();
    field.approve(&id);
    device.software.run("/bin/init", [1; 32]);
    device.attest(Attach::LogsFrom(0)).await;
    let known = field.site.store().unwrap().registration(id).unwrap().unwrap();
    let shown = field.device(&id);

    // All that is public about the device, with other keys and without, and a proof of something else.
    let other = SoftwareDevice::new();
    let mut with_another_ak = activation.presentation.clone();
    with_another_ak.ak_public = other.keys.ak.area().into();
    let mut with_another_connection = activation.clone();
    let connection = rcgen::PublicKeyData::subject_public_key_info(&rcgen::KeyPair::generate().unwrap());
    with_another_connection.presentation.connection_key = connection.into();
    let mut with_another_ak_proved_by_the_old = activation.clone();
    with_another_ak_proved_by_the_old.presentation = with_another_ak.clone();
    for up in [
        Up::Present(with_another_ak),
        Up::Activate(with_another_ak_proved_by_the_old),
        Up::Activate(with_another_connection),
    ] {
        let answer = Stranger::connect(&field, &name()).await.say(&up).await;
        assert!(!matches!(answer, Answer::Outcome(Outcome::Enrolled { .. })), "{answer:?}");
    }
    assert_eq!(field.site.store().unwrap().registration(id).unwrap().unwrap(), known);
    assert_eq!(field.device(&id), shown, "not even a cause: nothing was proved");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activation_is_worth_nothing_after_a_revocation_nor_after_the_approval_that_ends_it() {
    let field = Field::start();
    let (device, activation) = field.enrolled_with(SoftwareDevice::new()).await;
    let id = device.id();
    let again = Up::Activate(activation);
    field.order(&["revoke", &id.to_string(), "--why", "stolen"]);
    assert_eq!(Stranger::connect(&field, &name()).await.refusal(&again).await, "identity.revoked");
    field.approve(&id);
    assert_eq!(Stranger::connect(&field, &name()).await.refusal(&again).await, "identity.activation");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_for_a_nonce_from_before_a_new_generation_is_refused() {
    let field = Field::start();
    let mut device = field.enrolled().await;
    let id = device.id();
    field.approve(&id);
    device.software.run("/bin/init", [1; 32]);
    let nonce = device.nonce().await;
    let before = device.software.attest(&[nonce], Attach::LogsFrom(0));
    next_second().await;
    field.order(&["revoke", &id.to_string(), "--why", "stolen"]);
    field.approve(&id);
    // Its connection ended with the revocation.
    let mut device = device.again(&field).await;
    device.send("evidence", &before).await;
    let asked: Challenge = device.expect("request", Purpose::Request).await;
    assert_ne!(*asked.nonce(), nonce);
    field.counted(&["freshness.generation"], 1.0);
    assert_eq!(field.device(&id)["verdict"], "unknown");
    let after = device.software.attest(&[*asked.nonce()], Attach::LogsFrom(0));
    device.result_of(&after, asked.nonce()).await;
    assert_ne!(field.device(&id)["verdict"], "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_not_forgotten_into_a_stranger() {
    let field = Field::start();
    let (device, activation) = field.enrolled_with(SoftwareDevice::new()).await;
    let id = device.id().to_string();
    field.order(&["revoke", &id, "--why", "stolen"]);
    assert_eq!(field.command(&["forget", &id, "--yes"]).status.code(), Some(2), "it stays blocked");
    assert_eq!(field.registered(), 1);
    let again = Up::Present(activation.presentation);
    assert_eq!(Stranger::connect(&field, &name()).await.refusal(&again).await, "identity.revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_device_comes_back_as_a_stranger() {
    let field = Field::start();
    let (device, activation) = field.enrolled_with(SoftwareDevice::new()).await;
    let id = device.id();
    field.approve(&id);
    field.order(&["revoke", &id.to_string(), "--why", "stolen"]);
    field.order(&["forget", &id.to_string(), "--yes", "--and-unblock"]);
    assert_eq!(field.registered(), 0);
    // Whoever plays its enrolment back brings back the keys that one TPM proved, and no word of an operator.
    match Stranger::connect(&field, &name()).await.say(&Up::Activate(activation)).await {
        Answer::Outcome(Outcome::Enrolled { device, approved, .. }) => assert_eq!((device, approved), (id, false)),
        answer => assert_eq!(refused(&answer), "identity.activation"),
    }
    let known = field.site.store().unwrap().registration(id).unwrap();
    assert!(known.is_none_or(|known| known.product.is_none() && known.approved_at == 0));
}

/// Enrolment attempts of the flood, by so many clients at once.
const ATTEMPTS: usize = 10_000;
const CLIENTS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_enrolment_attempts_hold_up_no_device_and_leave_nothing_behind() {
    let field = Field::start();
    let mut device = field.enrolled().await;
    field.approve(&device.id());
    device.software.run("/bin/init", [1; 32]);
    device.attest(Attach::LogsFrom(0)).await;
    let answered = |field: &Field| {
        let count = |words: &[&str]| field.site.counter(words).unwrap();
        count(&["enrolment", "challenged"]) + count(&["enrolment", "identity."])
    };
    let before = answered(&field);

    let ek = SoftwareEk::new(&field.ca).unwrap();
    let connection = rcgen::KeyPair::generate().unwrap();
    let ak = SoftwareDevice::new().keys.ak;
    let mut strangers = Vec::new();
    for _ in 0..CLIENTS {
        let name = name();
        let party = Party::connect(&field.enrolment(), &name, &[]).await;
        let topic = format!("cs/1/enrol/{name}/up");
        let attempts: Vec<_> =
            (0..ATTEMPTS / CLIENTS).map(|_| Up::Present(presented(&ek, &ak, &connection)).encode()).collect();
        strangers.push(tokio::spawn(async move {
            for attempt in &attempts {
                party.publish(&topic, attempt).await;
            }
            party
        }));
    }
    // While they do that, the device attests as if nothing were.
    let mut rounds = 0;
    while !strangers.iter().all(|stranger| stranger.is_finished()) || rounds < 20 {
        let result = timeout(Duration::from_secs(20), device.attest(Attach::Nothing)).await.expect("a verdict in time");
        assert_ne!(result.status, evidence::result::Tier::None);
        rounds += 1;
    }
    let still_there: Vec<_> = ends_of(strangers).await;
    // Most were dropped, by the broker or by the rates, before anything was computed for them.
    let work = answered(&field) - before;
    assert!(work < ATTEMPTS as f64 / 2.0, "{work} of {ATTEMPTS} attempts cost certificate paths and an encryption");
    assert_eq!(field.registered(), 1);
    assert!(field.site.not_ready().unwrap().is_none());
    drop(still_there);
    // Who comes after them is served.
    field.enrolled().await;
    assert_eq!(field.registered(), 2);
}

async fn ends_of<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.unwrap());
    }
    done
}
