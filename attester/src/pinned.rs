//! Pinned verifiers: in goes the configuration, out come names and keys that messages can be opened with.

use anyhow::Result;
use attester::config::{Broker, Config};
use evidence::{topic::Name, tpm::P256Point, verifier_message::VerifierKeyId};

use crate::Usage;

/// What stands before the uncompressed point in the SubjectPublicKeyInfo of a P-256 key (RFC 5480).
pub(crate) const SPKI_P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE,
    0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// First byte of an uncompressed point (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 4;

/// A verifier whose word counts.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    /// Its name in topics.
    pub(crate) name: Name,
    /// Its key.
    pub(crate) key: P256Point,
    /// Names the key.
    pub(crate) id: VerifierKeyId,
}

/// Broker and verifiers, which commands on the network need.
pub(crate) fn network(config: &Config) -> Result<(&Broker, Vec<Pinned>), Usage> {
    let broker = config.broker.as_ref().ok_or_else(|| {
        Usage(
            "no broker is configured: set `[broker]` with `address` and `ca`, as the verifier's operator gives them"
                .to_owned(),
        )
    })?;
    if config.verifiers.is_empty() {
        return Err(Usage(
            "no verifier is pinned: add `[[verifier]]` with `name` and `key`, the verifier's public key (PEM)"
                .to_owned(),
        ));
    }
    let pinned =
        config.verifiers.iter().map(|verifier| pin(&verifier.name, &verifier.key)).collect::<Result<_, _>>()?;
    Ok((broker, pinned))
}

fn pin(name: &str, spki: &[u8]) -> Result<Pinned, Usage> {
    let legal = Name::new(name).ok_or_else(|| {
        Usage(format!("`verifier.name` `{name}`: lower-case letters, digits, `-`, `_`, `.`, at most 64"))
    })?;
    let key = point(spki).ok_or_else(|| Usage(format!("`verifier.key` of `{name}` is not a P-256 public key")))?;
    Ok(Pinned { name: legal, key, id: VerifierKeyId::of(&key) })
}

fn point(spki: &[u8]) -> Option<P256Point> {
    let (&UNCOMPRESSED, point) = spki.strip_prefix(&SPKI_P256_PREFIX)?.split_first()? else { return None };
    let (x, y) = point.split_at_checked(32)?;
    Some(P256Point { x: x.try_into().ok()?, y: y.try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_uncompressed_p256_point_is_a_verifier_key() {
        let good = [&SPKI_P256_PREFIX[..], &[4], &[1; 32], &[2; 32]].concat();
        assert_eq!(point(&good), Some(P256Point { x: [1; 32], y: [2; 32] }));
        for length in 0..good.len() {
            assert_eq!(point(&good[..length]), None);
        }
        assert_eq!(point(&[&good[..], &[0]].concat()), None);
        assert!(pin("Upper", &good).is_err() && pin("v1", &[1, 2]).is_err());
    }
}
