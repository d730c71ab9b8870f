//! A simulated device enrols as any other: credential activation, with an endorsement key in software.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use evidence::{
    enrolment::{Activation, Answer, Down, Outcome, Presentation, Up},
    topic::{BroadcastTopic, DownTopic, Name, UpTopic},
    verifier_message::Purpose,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    conversation::Trusted,
    link::{Link, LinkEvent},
    place::Place,
};
use crate::{software::SoftwareDevice, software_ek::SoftwareEk};

/// How long an enrolment may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is not answered is said again after this; a verifier allows one message in this time.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Enrols `device`; returns the certificate for the broker.
pub(super) async fn enrol(
    place: &Place,
    number: usize,
    device: &SoftwareDevice,
    ek: SoftwareEk,
    connection_key: &rcgen::KeyPair,
) -> Result<String> {
    let client = Name::new(&format!("d-simulated-{}-{number}", std::process::id())).context("a name")?;
    let filters = vec![
        BroadcastTopic::Keys(place.verifier.clone()).to_string(),
        DownTopic::Enrol(client.clone(), place.verifier.clone()).to_string(),
    ];
    let mut desk = Desk {
        link: Link::open(place.to_enrol(client.as_str())?, filters),
        up: UpTopic::Enrol(client).to_string(),
        trusted: Trusted::new(place.root),
        nonce: random_nonce()?,
        deadline: Instant::now() + PATIENCE,
    };
    desk.connected().await?;
    let ak = &device.keys.ak;
    let connection = rcgen::PublicKeyData::subject_public_key_info(connection_key);
    let certificates = vec![ek.certificate.clone()];
    let presentation = Presentation::new(desk.nonce, certificates, vec![ek.public_area()], ak.area(), connection);
    let credentials = match desk.ask(&Up::Present(presentation.clone())).await? {
        Answer::Credentials(credentials) => credentials,
        Answer::Outcome(outcome) => bail!("{outcome:?}"),
    };
    let secret = ek.activate(credentials.first().context("one credential")?, &ak.name())?;
    let transcript = presentation.transcript(&place.root_id, &device.keys.device);
    let activation = Activation::prove(presentation, credentials, &transcript, &[secret]);
    let answer = desk.ask(&Up::Activate(activation)).await?;
    let Answer::Outcome(Outcome::Enrolled { device: id, certificate, .. }) = answer else { bail!("{answer:?}") };
    ensure!(id == device.keys.device, "enrolled under another id");
    desk.link.close().await;
    Ok(certificate)
}

/// One attempt.
struct Desk {
    link: Link,
    up: String,
    trusted: Trusted,
    nonce: [u8; 32],
    deadline: Instant,
}

impl Desk {
    async fn connected(&mut self) -> Result<()> {
        loop {
            match timeout_at(self.deadline, self.link.event()).await.context("no connection in time")? {
                LinkEvent::Up => return Ok(()),
                LinkEvent::Message(topic, message) => drop(self.message(&topic, &message)),
                LinkEvent::Down(why) => bail!("the broker: {why}"),
            }
        }
    }

    /// Says something until it is answered.
    async fn ask(&mut self, what: &Up) -> Result<Answer> {
        while Instant::now() < self.deadline {
            self.link.publish(&self.up, what.encode())?;
            if let Ok(answer) = timeout(SAY_AGAIN_AFTER, self.answer()).await {
                return answer;
            }
        }
        bail!("the verifier does not answer")
    }

    async fn answer(&mut self) -> Result<Answer> {
        loop {
            match self.link.event().await {
                LinkEvent::Up => {}
                LinkEvent::Down(why) => bail!("the broker: {why}"),
                LinkEvent::Message(topic, message) => {
                    if let Some(answer) = self.message(&topic, &message) {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// An answer to this attempt, if that is what it is. Answers that came before the keys are asked for again.
    fn message(&mut self, topic: &str, message: &[u8]) -> Option<Answer> {
        if BroadcastTopic::parse(topic).is_some() {
            // What the root did not sign changes nothing.
            drop(self.trusted.keys(message));
            return None;
        }
        let down: Down = self.trusted.open(Purpose::Enrolment, message).ok()?;
        (down.client_nonce == self.nonce).then_some(down.answer)
    }
}

fn random_nonce() -> Result<[u8; 32]> {
    let random = ring::rand::generate(&ring::rand::SystemRandom::new());
    Ok(random.map_err(|_| anyhow::anyhow!("the system has no randomness"))?.expose())
}
