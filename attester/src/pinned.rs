//! What this device trusts of its verifiers: in go the configuration, what was kept, and messages from `cs/1/keys/{name}`;
//! out come messages that a key for their purpose has signed.
//!
//! Pinned is a verifier's root. Its present keys it publishes under that root's signature. They are only ever replaced by
//! keys with a higher sequence, also over restarts of this program, and expire by the time that this verifier's own
//! messages tell: this device's clock has no part in it.

use std::collections::BTreeMap;

use anyhow::Result;
use attester::config::Config;
use data_encoding::HEXLOWER;
use evidence::{
    topic::Name,
    tpm::P256Point,
    verifier_keys::VerifierKeys,
    verifier_message::{NotFromVerifier, Purpose, VerifierKeyId},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Usage, state::StateDir};

/// What stands before the uncompressed point in the SubjectPublicKeyInfo of a P-256 key (RFC 5480).
pub(crate) const SPKI_P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE,
    0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// First byte of an uncompressed point (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 4;
/// File of the keys, by root.
const FILE: &str = "keys.json";
/// Advance of a verifier's time that is worth a write, seconds: flash wears out, and keys hold for months.
const TIME_TO_KEEP: u64 = 24 * 3600;

/// A verifier whose word counts.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    /// Its name in topics.
    pub(crate) name: Name,
    /// Names it: the id of its root.
    pub(crate) id: VerifierKeyId,
    /// Its broker, by index in the configuration.
    pub(crate) broker: usize,
    root: P256Point,
    keys: Option<Keys>,
    /// Highest sequence of keys seen.
    sequence: u64,
    /// Highest time that its messages told, seconds since 1970.
    time: u64,
    /// The part of it that is kept.
    kept_time: u64,
}

/// Keys as they came.
#[derive(Debug, Clone)]
struct Keys {
    message: Vec<u8>,
    content: VerifierKeys,
}

/// What is kept of one verifier.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    sequence: u64,
    time: u64,
    /// The message with the keys, hexadecimal.
    message: String,
}

impl Kept {
    fn message(&self) -> Vec<u8> {
        HEXLOWER.decode(self.message.as_bytes()).unwrap_or_default()
    }
}

/// Why a message does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTrusted {
    /// Not signed by the key that had to.
    #[error(transparent)]
    NotFromVerifier(#[from] NotFromVerifier),
    /// Nothing can be opened yet.
    #[error("this verifier's keys have not come yet")]
    NoKeys,
    /// Keys that were replaced.
    #[error("keys with sequence {0} were replaced by those with {1}")]
    Replaced(u64, u64),
    /// Two sets of keys where there can be one.
    #[error("other keys than before with the same sequence {0}")]
    SameSequence(u64),
    /// By the verifier's own time.
    #[error(
        "keys held until {not_after} and the verifier's time is {time} (seconds since 1970): its operator has to run \
         `verifier keys rotate`"
    )]
    Expired {
        /// Until when.
        not_after: u64,
        /// What time it is.
        time: u64,
    },
}

impl Pinned {
    /// With its root alone.
    pub(crate) const fn new(name: Name, root: P256Point, id: VerifierKeyId, broker: usize) -> Self {
        Self { name, id, broker, root, keys: None, sequence: 0, time: 0, kept_time: 0 }
    }

    /// The verifiers of a configuration, with the keys that were kept.
    pub(crate) fn all(config: &Config, state: &StateDir) -> Result<Vec<Self>> {
        let mut all = check(config)?;
        let mut kept: BTreeMap<String, Kept> = state.read_json(FILE)?.unwrap_or_default();
        for verifier in &mut all {
            if let Some(kept) = kept.remove(&verifier.file_key()) {
                verifier.restore(&kept);
            }
        }
        Ok(all)
    }

    fn file_key(&self) -> String {
        HEXLOWER.encode(&self.id.0)
    }

    fn restore(&mut self, kept: &Kept) {
        // What the root signed counts before the numbers beside it: one that a broken disk made larger would shut the
        // verifier out for good.
        let (sequence, time) = match self.signed(kept) {
            Some(keys) if kept.time < keys.not_after => (keys.sequence, kept.time),
            Some(keys) => (keys.sequence, keys.sequence),
            None => (kept.sequence, kept.time),
        };
        (self.time, self.kept_time) = (time, time);
        if let Err(error) = self.take_keys(&kept.message()) {
            tracing::warn!(verifier = %self.name, "the keys that were kept do not count: {error}");
        }
        // Whatever became of the keys: what was replaced stays replaced.
        self.sequence = self.sequence.max(sequence);
    }

    /// The keys that were kept, as the root signed them.
    fn signed(&self, kept: &Kept) -> Option<VerifierKeys> {
        VerifierKeys::open_by_root(&self.root, &kept.message()).ok()
    }

    /// Keys came. Whether they are new; then they have to be kept.
    pub(crate) fn take_keys(&mut self, message: &[u8]) -> Result<bool, NotTrusted> {
        let content = VerifierKeys::open_by_root(&self.root, message)?;
        let VerifierKeys { sequence, not_after, .. } = content;
        if sequence < self.sequence {
            return Err(NotTrusted::Replaced(sequence, self.sequence));
        }
        if let Some(keys) = self.keys.as_ref().filter(|keys| keys.content.sequence == sequence) {
            return if keys.content == content { Ok(false) } else { Err(NotTrusted::SameSequence(sequence)) };
        }
        let time = self.time.max(sequence);
        if not_after <= time {
            return Err(NotTrusted::Expired { not_after, time });
        }
        (self.sequence, self.time) = (sequence, time);
        self.keys = Some(Keys { message: message.to_vec(), content });
        Ok(true)
    }

    /// Opens a message that this verifier must have signed for `purpose`.
    pub(crate) fn open<T: DeserializeOwned + Serialize>(
        &self,
        purpose: Purpose,
        message: &[u8],
    ) -> Result<T, NotTrusted> {
        let keys = self.keys.as_ref().ok_or(NotTrusted::NoKeys)?;
        Ok(keys.content.open(purpose, message)?)
    }

    /// A signed message told the time. One from after the keys' end does not count, so that nobody who has a key of the
    /// past can move the time past that key's own end.
    pub(crate) fn saw_time(&mut self, time: u64) -> Result<(), NotTrusted> {
        let not_after = self.keys.as_ref().ok_or(NotTrusted::NoKeys)?.content.not_after;
        if time >= not_after {
            return Err(NotTrusted::Expired { not_after, time });
        }
        self.time = self.time.max(time);
        Ok(())
    }

    /// Sequence and end of the present keys.
    pub(crate) fn keys(&self) -> Option<(u64, u64)> {
        self.keys.as_ref().map(|keys| (keys.content.sequence, keys.content.not_after))
    }

    /// Highest time that its messages told, seconds since 1970.
    pub(crate) const fn time(&self) -> u64 {
        self.time
    }

    /// Keeps keys and sequence, and the time where it moved far. Does nothing where nothing of that changed, nor where
    /// another program of this device kept newer keys.
    pub(crate) fn keep(&mut self, state: &StateDir) -> Result<()> {
        let Some(keys) = &self.keys else { return Ok(()) };
        let mut all: BTreeMap<String, Kept> = state.read_json(FILE)?.unwrap_or_default();
        let message = HEXLOWER.encode(&keys.message);
        let near = |time: u64| self.time < time.saturating_add(TIME_TO_KEEP);
        if all.get(&self.file_key()).is_some_and(|kept| kept.message == message && near(kept.time)) {
            return Ok(());
        }
        if all
            .get(&self.file_key())
            .and_then(|kept| self.signed(kept))
            .is_some_and(|kept| kept.sequence > self.sequence)
        {
            return Ok(());
        }
        all.insert(self.file_key(), Kept { sequence: self.sequence, time: self.time, message });
        state.write_json(FILE, &all)?;
        self.kept_time = self.time;
        Ok(())
    }

    /// Whether [`Self::keep`] has something to do because of the time alone.
    pub(crate) const fn time_moved(&self) -> bool {
        self.time >= self.kept_time.saturating_add(TIME_TO_KEEP)
    }
}

/// The pinned verifiers, which commands on the network need, without what was kept.
pub(crate) fn check(config: &Config) -> Result<Vec<Pinned>, Usage> {
    if config.brokers.is_empty() {
        return Err(Usage(
            "no broker is configured: set `[broker]` with `address` and `ca`, as the verifier's operator gives them"
                .to_owned(),
        ));
    }
    if config.verifiers.is_empty() {
        return Err(Usage(
            "no verifier is pinned: add `[[verifier]]` with `name` and `key`, the verifier's public key (PEM)"
                .to_owned(),
        ));
    }
    let mut all: Vec<Pinned> = Vec::with_capacity(config.verifiers.len());
    for verifier in &config.verifiers {
        let pinned = pin(&verifier.name, &verifier.key, verifier.broker)?;
        // Whoever signs for both names would have one record of trust and log positions for two conversations.
        if let Some(other) = all.iter().find(|other| other.id == pinned.id) {
            return Err(Usage(format!("`verifier.key` of `{}` is pinned as `{}` already", pinned.name, other.name)));
        }
        all.push(pinned);
    }
    Ok(all)
}

fn pin(name: &str, spki: &[u8], broker: usize) -> Result<Pinned, Usage> {
    let legal = Name::new(name).ok_or_else(|| {
        Usage(format!("`verifier.name` `{name}`: lower-case letters, digits, `-`, `_`, `.`, at most 64"))
    })?;
    let root = point(spki).ok_or_else(|| Usage(format!("`verifier.key` of `{name}` is not a P-256 public key")))?;
    Ok(Pinned::new(legal, root, VerifierKeyId::of(&root), broker))
}

fn point(spki: &[u8]) -> Option<P256Point> {
    let (&UNCOMPRESSED, point) = spki.strip_prefix(&SPKI_P256_PREFIX)?.split_first()? else { return None };
    let (x, y) = point.split_at_checked(32)?;
    Some(P256Point { x: x.try_into().ok()?, y: y.try_into().ok()? })
}

/// A verifier with its keys, for tests.
#[cfg(test)]
pub(crate) mod testing {
    use evidence::verifier_message::seal;
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };

    use super::*;

    /// When the keys were made.
    pub(crate) const SEQUENCE: u64 = 1_795_000_000;
    /// Until when they hold.
    pub(crate) const NOT_AFTER: u64 = SEQUENCE + 90 * 24 * 3600;

    pub(crate) struct Key(EcdsaKeyPair);

    impl Key {
        pub(crate) fn new() -> Self {
            let random = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap())
        }

        pub(crate) fn public(&self) -> P256Point {
            let bytes = self.0.public_key().as_ref();
            P256Point { x: bytes[1..33].try_into().unwrap(), y: bytes[33..].try_into().unwrap() }
        }

        pub(crate) fn seal<T: Serialize>(&self, purpose: Purpose, content: &T) -> Vec<u8> {
            seal(purpose, &VerifierKeyId::of(&self.public()), content, |bytes| {
                let signature = self.0.sign(&SystemRandom::new(), bytes).unwrap();
                Ok::<_, ()>(signature.as_ref().try_into().unwrap())
            })
            .unwrap()
        }
    }

    /// A verifier that signs as it should, or as it should not.
    pub(crate) struct Verifier {
        pub(crate) root: Key,
        pub(crate) request: Key,
        pub(crate) result: Key,
    }

    impl Verifier {
        pub(crate) fn new() -> Self {
            Self { root: Key::new(), request: Key::new(), result: Key::new() }
        }

        pub(crate) fn keys(&self, sequence: u64, not_after: u64) -> Vec<u8> {
            let log = Key::new().public();
            let (request, result) = (self.request.public(), self.result.public());
            self.root.seal(Purpose::Keys, &VerifierKeys { sequence, not_after, request, result, log })
        }

        /// New keys in place of all.
        pub(crate) fn rotate(&mut self) {
            (self.request, self.result) = (Key::new(), Key::new());
        }

        pub(crate) fn without_keys(&self, name: &str) -> Pinned {
            let root = self.root.public();
            Pinned::new(Name::new(name).unwrap(), root, VerifierKeyId::of(&root), 0)
        }

        pub(crate) fn pinned(&self, name: &str) -> Pinned {
            let mut pinned = self.without_keys(name);
            assert_eq!(pinned.take_keys(&self.keys(SEQUENCE, NOT_AFTER)), Ok(true));
            pinned
        }

        pub(crate) fn seal<T: Serialize>(&self, purpose: Purpose, content: &T) -> Vec<u8> {
            let key = if matches!(purpose, Purpose::Result) { &self.result } else { &self.request };
            key.seal(purpose, content)
        }
    }
}

#[cfg(test)]
mod tests {
    use evidence::{challenge::Challenge, claims::DeviceId};

    use super::{
        testing::{NOT_AFTER, SEQUENCE, Verifier},
        *,
    };

    fn challenge() -> Challenge {
        Challenge::new(DeviceId([1; 32]), [2; 32], true)
    }

    #[test]
    fn only_an_uncompressed_p256_point_is_a_verifier_key() {
        let good = [&SPKI_P256_PREFIX[..], &[4], &[1; 32], &[2; 32]].concat();
        assert_eq!(point(&good), Some(P256Point { x: [1; 32], y: [2; 32] }));
        for length in 0..good.len() {
            assert_eq!(point(&good[..length]), None);
        }
        assert_eq!(point(&[&good[..], &[0]].concat()), None);
        assert!(pin("Upper", &good, 0).is_err() && pin("v1", &[1, 2], 0).is_err());
    }

    #[test]
    fn one_root_under_two_names_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let point = Verifier::new().root.public();
        let spki = [&SPKI_P256_PREFIX[..], &[UNCOMPRESSED], &point.x, &point.y].concat();
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", data_encoding::BASE64.encode(&spki));
        std::fs::write(dir.path().join("root.pem"), pem).unwrap();
        let verifier = |name| format!("[[verifier]]\nname = '{name}'\nkey = '{}/root.pem'\n", dir.path().display());
        let check_with = |verifiers: &[String]| {
            let file = dir.path().join("attester.toml");
            let text = format!("[broker]\naddress = 'b'\nca = '/ca'\n{}", verifiers.concat());
            std::fs::write(&file, text).unwrap();
            check(&Config::load(Some(&file), []).unwrap()).map(|all| all.len())
        };
        assert_eq!(check_with(&[verifier("a")]).ok(), Some(1));
        let said = check_with(&[verifier("a"), verifier("b")]).unwrap_err().to_string();
        assert!(said.contains("`b`") && said.contains("`a`"), "{said}");
    }

    #[test]
    fn nothing_opens_before_the_keys_came_and_the_root_signs_keys_alone() {
        let verifier = Verifier::new();
        let mut pinned = verifier.without_keys("v1");
        let message = verifier.seal(Purpose::Request, &challenge());
        assert_eq!(pinned.open::<Challenge>(Purpose::Request, &message), Err(NotTrusted::NoKeys));
        pinned.take_keys(&verifier.keys(SEQUENCE, NOT_AFTER)).unwrap();
        assert_eq!(pinned.open::<Challenge>(Purpose::Request, &message), Ok(challenge()));
        let by_root = verifier.root.seal(Purpose::Request, &challenge());
        assert!(pinned.open::<Challenge>(Purpose::Request, &by_root).is_err());
    }

    #[test]
    fn keys_of_another_root_or_a_lower_sequence_change_nothing() {
        let mut verifier = Verifier::new();
        let old = verifier.keys(SEQUENCE, NOT_AFTER);
        let mut pinned = verifier.pinned("v1");
        verifier.rotate();
        assert_eq!(pinned.take_keys(&verifier.keys(SEQUENCE + 9, NOT_AFTER)), Ok(true));
        let foreign = Verifier::new().keys(SEQUENCE + 10, NOT_AFTER);
        assert!(matches!(pinned.take_keys(&foreign), Err(NotTrusted::NotFromVerifier(_))));
        assert_eq!(pinned.take_keys(&old), Err(NotTrusted::Replaced(SEQUENCE, SEQUENCE + 9)));
        assert_eq!(
            pinned.take_keys(&verifier.keys(SEQUENCE + 9, NOT_AFTER)),
            Err(NotTrusted::SameSequence(SEQUENCE + 9)),
            "another log key under the same number"
        );
        let message = verifier.seal(Purpose::Request, &challenge());
        assert!(pinned.open::<Challenge>(Purpose::Request, &message).is_ok());
    }

    #[test]
    fn keys_expire_by_the_verifiers_time_and_no_message_moves_it_past_their_end() {
        let mut verifier = Verifier::new();
        let mut pinned = verifier.without_keys("v1");
        let expired = Err(NotTrusted::Expired { not_after: SEQUENCE, time: SEQUENCE });
        assert_eq!(pinned.take_keys(&verifier.keys(SEQUENCE, SEQUENCE)), expired);
        pinned.take_keys(&verifier.keys(SEQUENCE, NOT_AFTER)).unwrap();
        assert_eq!(pinned.saw_time(NOT_AFTER - 1), Ok(()));
        assert!(pinned.saw_time(u64::MAX).is_err());
        assert_eq!(pinned.time(), NOT_AFTER - 1);
        verifier.rotate();
        assert!(pinned.take_keys(&verifier.keys(SEQUENCE + 1, NOT_AFTER - 1)).is_err());
        assert_eq!(pinned.take_keys(&verifier.keys(SEQUENCE + 1, NOT_AFTER + 1)), Ok(true));
    }

    #[test]
    fn a_restart_forgets_neither_keys_nor_what_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut verifier = Verifier::new();
        let old = verifier.keys(SEQUENCE, NOT_AFTER);
        verifier.rotate();
        let mut pinned = verifier.without_keys("v1");
        pinned.take_keys(&verifier.keys(SEQUENCE + 1, NOT_AFTER)).unwrap();
        pinned.keep(&state).unwrap();
        let restarted = || {
            let mut kept: BTreeMap<String, Kept> = state.read_json(FILE).unwrap().unwrap();
            let mut again = verifier.without_keys("v1");
            again.restore(&kept.remove(&again.file_key()).unwrap());
            again
        };
        assert_eq!(restarted().keys(), Some((SEQUENCE + 1, NOT_AFTER)));
        assert!(restarted().take_keys(&old).is_err());
        // Also where the message itself got lost.
        let mut kept: BTreeMap<String, Kept> = state.read_json(FILE).unwrap().unwrap();
        kept.values_mut().for_each(|kept| kept.message.clear());
        state.write_json(FILE, &kept).unwrap();
        assert_eq!(restarted().keys(), None);
        assert_eq!(restarted().take_keys(&old), Err(NotTrusted::Replaced(SEQUENCE, SEQUENCE + 1)));
    }

    #[test]
    fn numbers_that_a_disk_changed_shut_no_verifier_out() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let verifier = Verifier::new();
        let mut pinned = verifier.pinned("v1");
        pinned.keep(&state).unwrap();
        for (sequence, time) in [(u64::MAX, SEQUENCE), (SEQUENCE, u64::MAX)] {
            let kept = Kept { sequence, time, message: HEXLOWER.encode(&pinned.keys.as_ref().unwrap().message) };
            let mut again = verifier.without_keys("v1");
            again.restore(&kept);
            assert_eq!(again.keys(), Some((SEQUENCE, NOT_AFTER)));
            assert_eq!(again.take_keys(&verifier.keys(SEQUENCE + 1, NOT_AFTER + 1)), Ok(true));
        }
    }

    #[test]
    fn newer_keys_that_another_program_kept_stay() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut verifier = Verifier::new();
        let mut service = verifier.pinned("v1");
        verifier.rotate();
        let mut once = verifier.without_keys("v1");
        once.take_keys(&verifier.keys(SEQUENCE + 1, NOT_AFTER)).unwrap();
        once.keep(&state).unwrap();
        service.saw_time(SEQUENCE + TIME_TO_KEEP).unwrap();
        service.keep(&state).unwrap();
        let kept: BTreeMap<String, Kept> = state.read_json(FILE).unwrap().unwrap();
        assert_eq!(kept.values().next().unwrap().sequence, SEQUENCE + 1);
    }

    #[test]
    fn a_verifiers_time_is_kept_where_it_moved_by_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut pinned = Verifier::new().pinned("v1");
        pinned.keep(&state).unwrap();
        let written = || std::fs::metadata(state.path(FILE)).unwrap().modified().unwrap();
        let first = written();
        pinned.saw_time(SEQUENCE + 3600).unwrap();
        assert!(!pinned.time_moved());
        pinned.keep(&state).unwrap();
        assert_eq!(written(), first);
        pinned.saw_time(SEQUENCE + TIME_TO_KEEP).unwrap();
        assert!(pinned.time_moved());
        pinned.keep(&state).unwrap();
        let kept: BTreeMap<String, Kept> = state.read_json(FILE).unwrap().unwrap();
        assert_eq!(kept.values().next().unwrap().time, SEQUENCE + TIME_TO_KEEP);
    }
}
