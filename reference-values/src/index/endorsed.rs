//! Endorsement keys that makers list: in, lists of digests; out, the product and serial of a key's device, as fast for a
//! million devices as for one.

use super::table::Table;
use crate::{endorsements::Endorsements, error::Unusable, signed::Signer};

/// A list in force, without its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndorsementsEntry {
    product: String,
    name: String,
    sequence: u64,
    pub(super) expires: Option<u64>,
    amount: usize,
    signers: Vec<Signer>,
}

impl EndorsementsEntry {
    /// The product of every device on it.
    #[must_use]
    pub fn product(&self) -> &str {
        &self.product
    }

    /// The list's name within its product.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Order among the lists of this name.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When it ends, seconds since the Unix epoch.
    #[must_use]
    pub const fn expires(&self) -> Option<u64> {
        self.expires
    }

    /// Endorsement keys on it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.amount
    }

    /// Whether it lists nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.amount == 0
    }

    /// Who vouches for all of it; never empty.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }
}

/// What a list says of one endorsement key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndorsedBy<'a> {
    /// The device's product.
    pub product: &'a str,
    /// The device's serial; empty where the list has none.
    pub serial: &'a str,
    /// The list's name.
    pub list: &'a str,
    /// Who vouches for the list.
    pub signers: &'a [Signer],
}

/// Beside a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    list: u32,
    /// Where the serial begins in the pool.
    serial: u32,
}

/// All lists in force.
#[derive(Debug, Default)]
pub(super) struct EndorsedKeys {
    pub(super) lists: Vec<EndorsementsEntry>,
    rows: Table<Row>,
    /// Serials, each ended by a NUL, which none holds.
    serials: String,
}

impl EndorsedKeys {
    /// A key on several lists of one product stands as the first of them has it.
    pub(super) fn compile(lists: Vec<(Endorsements, Vec<Signer>)>) -> Result<Self, Unusable> {
        let amount = lists.iter().map(|(list, _)| list.entries().len()).sum();
        let text = lists.iter().flat_map(|(list, _)| list.entries()).map(|entry| entry.serial.len().saturating_add(1));
        let (mut rows, mut serials) = (Vec::with_capacity(amount), String::with_capacity(text.sum()));
        let mut entries = Vec::<EndorsementsEntry>::with_capacity(lists.len());
        for (endorsements, signers) in lists {
            let list = u32::try_from(entries.len()).map_err(|_| Unusable::TooMany)?;
            for endorsed in endorsements.entries() {
                let serial = u32::try_from(serials.len()).map_err(|_| Unusable::TooMany)?;
                rows.push((endorsed.ek, Row { list, serial }));
                serials.push_str(&endorsed.serial);
                serials.push('\0');
            }
            entries.push(EndorsementsEntry {
                product: endorsements.product().into(),
                name: endorsements.name().into(),
                sequence: endorsements.sequence(),
                expires: endorsements.expires(),
                amount: endorsements.entries().len(),
                signers,
            });
        }
        rows.sort_unstable();
        check_one_product(&rows, &entries)?;
        rows.dedup_by_key(|(ek, _)| *ek);
        Ok(Self { lists: entries, rows: Table::new(rows)?, serials })
    }

    pub(super) fn get(&self, ek: &[u8; 32]) -> Option<EndorsedBy<'_>> {
        let row = self.rows.get(ek)?;
        let list = self.lists.get(usize::try_from(row.list).ok()?)?;
        let serial = self.serials.get(usize::try_from(row.serial).ok()?..)?.split('\0').next()?;
        Some(EndorsedBy { product: &list.product, serial, list: &list.name, signers: &list.signers })
    }

    pub(super) const fn len(&self) -> usize {
        self.rows.len()
    }
}

/// One endorsement key is one device, and that is of one product.
fn check_one_product(rows: &[([u8; 32], Row)], lists: &[EndorsementsEntry]) -> Result<(), Unusable> {
    let list = |row: &Row| usize::try_from(row.list).ok().and_then(|at| lists.get(at));
    for pair in rows.windows(2) {
        let [(ek, a), (next, b)] = pair else { continue };
        if let (true, Some(a), Some(b)) = (ek == next, list(a), list(b))
            && a.product != b.product
        {
            let said = |list: &EndorsementsEntry| format!("{} (list {:?})", list.product, list.name);
            return Err(Unusable::TwoProducts { ek: *ek, first: said(a), second: said(b) });
        }
    }
    Ok(())
}
