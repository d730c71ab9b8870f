//! A maker's list of the TPMs that it built into a product: in, digests of endorsement keys and serials; out, the list in
//! its one order. What it proves: its signers say that these TPMs sit in devices of this product.

use crate::{
    limits::{MAX_ENDORSED, MAX_SERIAL},
    release::{Invalid, check_name, check_product},
};

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endorsed {
    /// SHA-256 of its endorsement key's SubjectPublicKeyInfo: what identifies it.
    pub ek: [u8; 32],
    /// Its serial, as its maker counts; empty where the list has none.
    pub serial: String,
}

/// A list of one product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsements {
    product: String,
    name: String,
    sequence: u64,
    expires: Option<u64>,
    entries: Vec<Endorsed>,
}

impl Endorsements {
    /// A list with entries in any order; an entry that stands twice is kept once.
    ///
    /// # Errors
    /// [`Invalid`] where a name or serial breaks a rule, one key has two serials, or nothing is listed.
    pub fn new(
        product: &str,
        name: &str,
        sequence: u64,
        expires: Option<u64>,
        mut entries: Vec<Endorsed>,
    ) -> Result<Self, Invalid> {
        entries.sort_unstable();
        entries.dedup();
        Self::from_ordered(product, name, sequence, expires, entries)
    }

    /// The same, from entries that must be in order and unique already.
    pub(crate) fn from_ordered(
        product: &str,
        name: &str,
        sequence: u64,
        expires: Option<u64>,
        entries: Vec<Endorsed>,
    ) -> Result<Self, Invalid> {
        check_product(product)?;
        check_name("list", name)?;
        if entries.is_empty() {
            return Err(Invalid::NothingSaid("the list endorses nothing"));
        }
        if entries.len() > MAX_ENDORSED {
            return Err(Invalid::TooMany { what: "endorsed keys", limit: MAX_ENDORSED });
        }
        if !entries.is_sorted_by(|a, b| a.ek < b.ek) {
            return Err(Invalid::Order("endorsed keys"));
        }
        match entries.iter().find(|entry| !serial_allowed(&entry.serial)) {
            Some(bad) => Err(Invalid::Serial(bad.serial.chars().take(MAX_SERIAL).collect())),
            None => Ok(Self { product: product.into(), name: name.into(), sequence, expires, entries }),
        }
    }

    /// The product of every device on it.
    #[must_use]
    pub fn product(&self) -> &str {
        &self.product
    }

    /// The list's name within its product: a plant, a line, a year.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Order among the lists of this name.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When it ends to say anything, seconds since the Unix epoch.
    #[must_use]
    pub const fn expires(&self) -> Option<u64> {
        self.expires
    }

    /// Devices, in ascending order of their keys.
    #[must_use]
    pub fn entries(&self) -> &[Endorsed] {
        &self.entries
    }
}

fn serial_allowed(serial: &str) -> bool {
    serial.len() <= MAX_SERIAL && serial.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(byte: u8, serial: &str) -> Endorsed {
        Endorsed { ek: [byte; 32], serial: serial.into() }
    }

    #[test]
    fn a_key_stands_once_and_has_one_serial() {
        let twice = vec![entry(2, "b"), entry(1, "a"), entry(2, "b")];
        let list = Endorsements::new("acme/gw", "line-1", 1, None, twice).unwrap();
        assert_eq!(list.entries(), [entry(1, "a"), entry(2, "b")]);
        let two_serials = vec![entry(1, "a"), entry(1, "b")];
        assert_eq!(Endorsements::new("p", "l", 1, None, two_serials), Err(Invalid::Order("endorsed keys")));
    }

    #[test]
    fn what_no_table_can_show_is_refused() {
        for serial in ["a\nb", "ä", "\u{1b}[31m", &"x".repeat(65)] {
            let list = Endorsements::new("p", "l", 1, None, vec![entry(1, serial)]);
            assert!(matches!(list, Err(Invalid::Serial(_))), "{serial:?}");
        }
        assert!(Endorsements::new("p", "l", 1, None, vec![]).is_err());
        assert!(Endorsements::new("p*", "", 1, None, vec![entry(1, "")]).is_err());
    }
}
