//! One connection to the broker in a task of its own: in go options and filters, out come [`LinkEvent`]s until it is down.

use anyhow::Result;
use rumqttc::v5::{
    AsyncClient, Event, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{Filter, Packet, SubscribeReasonCode},
    },
};
use tokio::{sync::mpsc, task::AbortHandle};

use super::place::IN_FLIGHT;

/// What happens on a link.
pub(super) enum LinkEvent {
    /// Connected and subscribed.
    Up,
    /// A message, with its topic.
    Message(String, Vec<u8>),
    /// The end.
    Down(String),
}

/// See the module.
pub(super) struct Link {
    client: AsyncClient,
    events: mpsc::Receiver<LinkEvent>,
    task: AbortHandle,
}

impl Link {
    /// Connects, and subscribes to `filters`.
    pub(super) fn open(options: MqttOptions, filters: Vec<String>) -> Self {
        let (client, mut mqtt) = AsyncClient::new(options, usize::from(IN_FLIGHT) + filters.len());
        let (tell, events) = mpsc::channel(usize::from(IN_FLIGHT));
        let subscriber = client.clone();
        let task = tokio::spawn(async move {
            loop {
                let event = match mqtt.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        let filters = filters.iter().map(|filter| Filter::new(filter.clone(), QoS::AtLeastOnce));
                        match subscriber.try_subscribe_many(filters) {
                            Ok(()) => continue,
                            Err(error) => LinkEvent::Down(error.to_string()),
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(ack))) => {
                        let refused =
                            ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                        refused.map_or(LinkEvent::Up, |code| LinkEvent::Down(format!("subscription refused: {code:?}")))
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                        LinkEvent::Message(topic, publish.payload.to_vec())
                    }
                    Ok(_) => continue,
                    Err(error) => LinkEvent::Down(error.to_string()),
                };
                let down = matches!(event, LinkEvent::Down(_));
                if tell.send(event).await.is_err() || down {
                    return;
                }
            }
        });
        Self { client, events, task: task.abort_handle() }
    }

    /// The next event; after [`LinkEvent::Down`] there is none.
    pub(super) async fn event(&mut self) -> LinkEvent {
        self.events.recv().await.unwrap_or_else(|| LinkEvent::Down("the connection's task has ended".to_owned()))
    }

    /// Hands a message to the connection; it may get lost with it.
    pub(super) fn publish(&self, topic: impl ToString, payload: Vec<u8>) -> Result<()> {
        Ok(self.client.try_publish(topic.to_string(), QoS::AtLeastOnce, false, payload)?)
    }

    /// Says goodbye, and waits until that has left.
    pub(super) async fn close(mut self) {
        if self.client.disconnect().await.is_ok() {
            while !matches!(self.event().await, LinkEvent::Down(_)) {}
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}
