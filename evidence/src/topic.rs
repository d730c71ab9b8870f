//! MQTT topics of the protocol: written and read in one place, so that both sides agree.

use crate::claims::DeviceId;

/// Longest name of a verifier or enrolling client, bytes.
pub const MAX_NAME: usize = 64;

/// A name that may stand in a topic: 1 to 64 of `a–z 0–9 - _ .`, so that it can not widen a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// `None` for what must not stand in a topic.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        ((1..=MAX_NAME).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic that devices publish to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpTopic {
    /// `cs/1/enrol/{client}/up`
    Enrol(Name),
    /// `cs/1/{id}/up/hello/{verifier}`
    Hello(DeviceId, Name),
    /// `cs/1/{id}/up/evidence`
    Evidence(DeviceId),
}

impl UpTopic {
    /// Reads a topic; `None` for one that is not the protocol's.
    #[must_use]
    pub fn parse(topic: &str) -> Option<Self> {
        let mut parts = topic.strip_prefix("cs/1/")?.splitn(5, '/');
        let parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
        match parts {
            [Some("enrol"), Some(client), Some("up"), None, None] => Some(Self::Enrol(Name::new(client)?)),
            [Some(id), Some("up"), Some("evidence"), None, None] => Some(Self::Evidence(id.parse().ok()?)),
            [Some(id), Some("up"), Some("hello"), Some(verifier), None] => {
                Some(Self::Hello(id.parse().ok()?, Name::new(verifier)?))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for UpTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Enrol(client) => write!(f, "cs/1/enrol/{client}/up"),
            Self::Hello(id, verifier) => write!(f, "cs/1/{id}/up/hello/{verifier}"),
            Self::Evidence(id) => write!(f, "cs/1/{id}/up/evidence"),
        }
    }
}

/// What a verifier sends to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownKind {
    /// A challenge.
    Request,
    /// An attestation result.
    Result,
    /// Why evidence was refused.
    Refusal,
}

impl DownKind {
    const ALL: [Self; 3] = [Self::Request, Self::Result, Self::Refusal];

    const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Result => "result",
            Self::Refusal => "refusal",
        }
    }
}

/// A topic that a verifier publishes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownTopic {
    /// `cs/1/enrol/{client}/down/{verifier}`
    Enrol(Name, Name),
    /// `cs/1/{id}/down/{verifier}/{kind}`
    Device(DeviceId, Name, DownKind),
}

impl DownTopic {
    /// Reads a topic; `None` for one that is not the protocol's.
    #[must_use]
    pub fn parse(topic: &str) -> Option<Self> {
        let parts: Vec<&str> = topic.strip_prefix("cs/1/")?.splitn(5, '/').collect();
        match parts.as_slice() {
            ["enrol", client, "down", verifier] => Some(Self::Enrol(Name::new(client)?, Name::new(verifier)?)),
            [id, "down", verifier, kind] => {
                let kind = DownKind::ALL.into_iter().find(|known| known.name() == *kind)?;
                Some(Self::Device(id.parse().ok()?, Name::new(verifier)?, kind))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for DownTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Enrol(client, verifier) => write!(f, "cs/1/enrol/{client}/down/{verifier}"),
            Self::Device(id, verifier, kind) => write!(f, "cs/1/{id}/down/{verifier}/{}", kind.name()),
        }
    }
}

/// A retained topic on which a verifier tells all devices something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BroadcastTopic {
    /// `cs/1/epoch/{verifier}`
    Epoch(Name),
    /// `cs/1/keys/{verifier}`
    Keys(Name),
}

impl BroadcastTopic {
    /// Reads a topic; `None` for one that is not the protocol's.
    #[must_use]
    pub fn parse(topic: &str) -> Option<Self> {
        let (kind, verifier) = topic.strip_prefix("cs/1/")?.split_once('/')?;
        match kind {
            "epoch" => Some(Self::Epoch(Name::new(verifier)?)),
            "keys" => Some(Self::Keys(Name::new(verifier)?)),
            _ => None,
        }
    }
}

impl std::fmt::Display for BroadcastTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Epoch(verifier) => write!(f, "cs/1/epoch/{verifier}"),
            Self::Keys(verifier) => write!(f, "cs/1/keys/{verifier}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broadcast_topic_reads_back_and_nothing_else_is_one() {
        let name = Name::new("v1").unwrap();
        for topic in [BroadcastTopic::Epoch(name.clone()), BroadcastTopic::Keys(name)] {
            assert_eq!(BroadcastTopic::parse(&topic.to_string()), Some(topic));
        }
        for other in ["cs/1/epoch", "cs/1/epoch/", "cs/1/epoch/a/b", "cs/1/keys/+", "cs/2/keys/v1", "cs/1/x/v1"] {
            assert_eq!(BroadcastTopic::parse(other), None, "{other}");
        }
    }
}
