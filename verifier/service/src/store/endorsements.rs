//! What vouches for endorsement keys: certificates kept for another look when the operator's lists change, what that look
//! came to, and the keys that operators listed themselves.

use appraisal::{Code, DeviceState, EkClass, UnixSeconds};
use evidence::claims::DeviceId;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_bytes::{ByteBuf, Bytes};

use super::{
    Denial, Endorsement, Sql, Store, StoreError, What, decode, encode, operators,
    registry::{self, BY_LIST, class_from, class_number, denial, note_in_history},
    signed, unsigned,
};

/// A registration, as far as the lists have a say in it.
#[derive(Debug, Clone)]
pub struct Endorsed {
    n: i64,
    /// Which device.
    pub device: DeviceId,
    /// Digests of its endorsement keys.
    pub eks: Vec<[u8; 32]>,
    /// Certificates as presented; none where an operator listed a key, or where it was enrolled before they were kept.
    pub certificates: Vec<Vec<u8>>,
    /// When their dates held.
    pub verified: UnixSeconds,
    /// Class of the root that they led to.
    pub class: EkClass,
    /// The TPM's maker.
    pub manufacturer: String,
    /// Firmware of the TPM in its last evidence.
    pub firmware: Option<u64>,
    /// Whether that firmware was denied when the evidence was judged.
    pub firmware_denied: bool,
    /// As the lists stood when they were last read.
    pub denied: Option<Denial>,
    /// Its product.
    pub product: Option<String>,
    /// Whether that is an operator's word, which goes before a list's.
    pub by_operator: bool,
    /// Its serial number, by the list that names it.
    pub serial: Option<String>,
}

/// What signed lists say of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its product; none where no list names one of its keys.
    pub product: Option<String>,
    /// Its serial number; none where the list has none.
    pub serial: Option<String>,
}

impl Endorsed {
    /// What is to stand in its registration, where lists say this of it; `None` where it does already.
    #[must_use]
    pub fn following(&self, listed: Listed) -> Option<Listed> {
        let product = if self.by_operator { self.product.clone() } else { listed.product };
        let follows = Listed { product, serial: listed.serial };
        (follows != Listed { product: self.product.clone(), serial: self.serial.clone() }).then_some(follows)
    }
}

/// What another look at a registration came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// Code and words, where its endorsement does not hold.
    pub denied: Option<(String, String)>,
    /// Class of its root, where it holds: an operator may have moved a CA to the other class.
    pub class: Option<EkClass>,
}

/// An endorsement key that an operator listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// SHA-256 of its SubjectPublicKeyInfo; a device's id is that of its first key.
    pub digest: [u8; 32],
    /// Product of the device.
    pub product: Option<String>,
}

/// Place in a walk through all registrations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place(i64);

impl Store {
    /// Registrations behind `after`, at most `limit`, and the place of the last of them; empty at the end.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn endorsed(&self, after: Place, limit: usize) -> Result<(Vec<Endorsed>, Place), StoreError> {
        let found = self.read(|c| endorsed(c, after, limit))?;
        let last = found.last().map_or(after, |endorsed| Place(endorsed.n));
        Ok((found, last))
    }

    /// The registration of one device.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn endorsed_one(&self, device: DeviceId) -> Result<Option<Endorsed>, StoreError> {
        self.read(|c| {
            let Some(n) = registry::number(c, device)? else { return Ok(None) };
            Ok(endorsed(c, Place(n - 1), 1)?.pop())
        })
    }

    /// Keeps what another look came to, all in one transaction. Where a registration is no longer the one that was looked
    /// at, nothing changes: whoever enrolled meanwhile was judged by the newer lists.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn rule(&self, rulings: Vec<(Endorsed, Ruling)>, now: UnixSeconds) -> Result<(), StoreError> {
        if rulings.is_empty() {
            return Ok(());
        }
        self.write(rulings.len(), move |c| {
            rulings.iter().try_for_each(|(endorsed, ruling)| rule(c, endorsed, ruling, now))
        })
    }

    /// Keeps what signed lists say of devices, all in one transaction: what [`Endorsed::following`] came to. Where an operator
    /// has named a product meanwhile, that stays.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn follow_lists(&self, changes: Vec<(Endorsed, Listed)>, now: UnixSeconds) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.write(changes.len(), move |c| {
            changes.iter().try_for_each(|(endorsed, listed)| follow(c, endorsed, listed, now))
        })
    }

    /// Lists endorsement keys. A key that is listed already takes the new product, where one is named; devices that are
    /// enrolled and have no product yet take it too. Returns how many keys were not listed before.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be written; then none is listed.
    pub fn allow(&self, keys: Vec<Allowed>, by: &str, now: UnixSeconds) -> Result<u64, StoreError> {
        let by = by.to_owned();
        self.write(keys.len().max(1), move |c| {
            let mut new = 0;
            for Allowed { digest, product } in &keys {
                let listed = "SELECT EXISTS (SELECT 1 FROM allowed_ek WHERE digest = ?1)";
                let known: bool = c.prepare_cached(listed)?.query_row([digest], |row| row.get(0))?;
                new += u64::from(!known);
                c.prepare_cached(
                    "INSERT INTO allowed_ek (digest, product, added) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (digest) DO UPDATE SET product = coalesce(excluded.product, product)",
                )?
                .execute(params![digest, product, signed(now)])?;
                // An operator's word goes before a list's, but not before another operator's.
                let source = "UPDATE registration SET product_source = 'operator' WHERE ?2 IS NOT NULL \
                     AND device = (SELECT device FROM ek WHERE digest = ?1) AND coalesce(product_source, 'list') = 'list'";
                if c.prepare_cached(source)?.execute(params![digest, product])? > 0 {
                    let product_of = "UPDATE device SET product = ?2 WHERE n = (SELECT device FROM ek WHERE digest = ?1)";
                    c.prepare_cached(product_of)?.execute(params![digest, product])?;
                }
            }
            operators::log(c, &by, "list endorsement keys", &format!("{} keys, {new} new", keys.len()), now)?;
            Ok(new)
        })
    }

    /// Whether an operator listed one of these endorsement keys.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn allows(&self, eks: &[[u8; 32]]) -> Result<bool, StoreError> {
        self.read(|c| Ok(listed(c, eks)?.next().is_some()))
    }
}

fn listed(c: &Connection, eks: &[[u8; 32]]) -> Sql<impl Iterator<Item = Option<String>>> {
    let mut select = c.prepare_cached("SELECT product FROM allowed_ek WHERE digest = ?1")?;
    let found = eks.iter().map(|ek| select.query_row([ek], |row| row.get(0)).optional());
    Ok(found.collect::<Sql<Vec<Option<Option<String>>>>>()?.into_iter().flatten())
}

/// The product that an operator named with one of these keys, the first in their order.
pub(super) fn listed_product(c: &Connection, eks: &[[u8; 32]]) -> Sql<Option<String>> {
    Ok(listed(c, eks)?.flatten().next())
}

pub(super) fn write(c: &Connection, n: i64, endorsement: &Endorsement) -> Sql<()> {
    c.execute(
        "INSERT OR REPLACE INTO endorsement (device, certificates, verified, issuer, model, version, serials) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            n,
            certificates(&endorsement.certificates)?,
            signed(endorsement.verified),
            endorsement.issuer,
            endorsement.model,
            endorsement.version,
            endorsement.serials.join(" ")
        ],
    )
    .map(drop)
}

/// All but the certificates themselves.
pub(super) fn of(c: &Connection, device: DeviceId) -> Sql<Endorsement> {
    let mut select = c.prepare_cached(
        "SELECT e.verified, e.issuer, e.model, e.version, e.serials FROM device d \
         JOIN endorsement e ON e.device = d.n WHERE d.id = ?1",
    )?;
    let found = select.query_row([device.0], |row| {
        let serials: String = row.get(4)?;
        Ok(Endorsement {
            certificates: Vec::new(),
            verified: unsigned(row.get(0)?),
            issuer: row.get(1)?,
            model: row.get(2)?,
            version: row.get(3)?,
            serials: serials.split_whitespace().map(str::to_owned).collect(),
        })
    });
    Ok(found.optional()?.unwrap_or_default())
}

fn certificates(list: &[Vec<u8>]) -> Sql<Vec<u8>> {
    encode("certificates", &list.iter().map(|der| Bytes::new(der)).collect::<Vec<_>>())
}

fn endorsed(c: &Connection, after: Place, limit: usize) -> Sql<Vec<Endorsed>> {
    let mut select = c.prepare_cached(
        "SELECT d.n, d.id, e.certificates, e.verified, r.manufacturer, r.denied_code, r.denied_why, \
         r.denied_at, s.state, r.first_seen, r.ek_class, d.product, r.product_source, r.serial FROM device d JOIN registration r ON r.device = d.n \
         LEFT JOIN endorsement e ON e.device = d.n LEFT JOIN device_state s ON s.device = d.n \
         WHERE d.n > ?1 ORDER BY d.n LIMIT ?2",
    )?;
    let mut found = select.query_map((after.0, signed(limit as u64)), read)?.collect::<Sql<Vec<_>>>()?;
    let mut eks = c.prepare_cached("SELECT digest FROM ek WHERE device = ?1 ORDER BY digest")?;
    for endorsed in &mut found {
        endorsed.eks = eks.query_map([endorsed.n], |row| row.get(0))?.collect::<Sql<_>>()?;
    }
    Ok(found)
}

fn read(row: &Row<'_>) -> Sql<Endorsed> {
    let certificates: Option<Vec<u8>> = row.get(2)?;
    let list = |bytes: Vec<u8>| decode::<Vec<ByteBuf>>("certificates", &bytes);
    let certificates = certificates.map(list).transpose()?;
    let state: Option<Vec<u8>> = row.get(8)?;
    let state: Option<DeviceState> = state.map(|bytes| decode("device state", &bytes)).transpose()?;
    let verified: Option<i64> = row.get(3)?;
    Ok(Endorsed {
        n: row.get(0)?,
        device: DeviceId(row.get(1)?),
        eks: Vec::new(),
        certificates: certificates.unwrap_or_default().into_iter().map(ByteBuf::into_vec).collect(),
        verified: unsigned(verified.map_or_else(|| row.get(9), Ok)?),
        class: class_from(row.get(10)?),
        manufacturer: row.get(4)?,
        firmware: state.as_ref().map(|state| state.firmware_version),
        firmware_denied: state
            .is_some_and(|state| state.causes.iter().any(|cause| cause.code == Code::HardwareFirmwareDenied)),
        denied: denial(row.get(5)?, row.get(6)?, row.get(7)?),
        product: row.get(11)?,
        by_operator: row.get::<_, Option<String>>(12)?.is_some_and(|source| source != BY_LIST),
        serial: row.get(13)?,
    })
}

fn follow(c: &Connection, endorsed: &Endorsed, listed: &Listed, now: UnixSeconds) -> Sql<()> {
    let n = endorsed.n;
    let same = "SELECT EXISTS (SELECT 1 FROM device d JOIN registration r ON r.device = d.n WHERE d.n = ?1 AND d.id = ?2 \
                AND d.product IS ?3 AND (r.product_source IS 'operator') = ?4)";
    let looked_at = params![n, endorsed.device.0, endorsed.product, endorsed.by_operator];
    if !c.prepare_cached(same)?.query_row(looked_at, |row| row.get(0))? {
        return Ok(());
    }
    c.prepare_cached("UPDATE registration SET serial = ?2 WHERE device = ?1")?.execute(params![n, listed.serial])?;
    if endorsed.by_operator || endorsed.product == listed.product {
        return Ok(());
    }
    let source = listed.product.as_ref().map(|_| BY_LIST);
    c.prepare_cached("UPDATE registration SET product_source = ?2 WHERE device = ?1")?.execute(params![n, source])?;
    c.prepare_cached("UPDATE device SET product = ?2 WHERE n = ?1")?.execute(params![n, listed.product])?;
    let note = match &listed.product {
        Some(product) => format!("product {product}, by a signed list"),
        None => "no signed list names its endorsement keys any more".to_owned(),
    };
    note_in_history(c, endorsed.device, n, What::Endorsement, Some(&note), None, now)
}

fn rule(c: &Connection, endorsed: &Endorsed, ruling: &Ruling, now: UnixSeconds) -> Sql<()> {
    let unchanged = "SELECT EXISTS (SELECT 1 FROM device d LEFT JOIN endorsement e ON e.device = d.n \
                     WHERE d.n = ?1 AND d.id = ?2 AND coalesce(e.certificates, ?4) = ?3)";
    let (certificates, none) = (certificates(&endorsed.certificates)?, certificates(&[])?);
    let parameters = params![endorsed.n, endorsed.device.0, certificates, none];
    if !c.prepare_cached(unchanged)?.query_row(parameters, |row| row.get(0))? {
        return Ok(());
    }
    let n = endorsed.n;
    if let Some(class) = ruling.class {
        c.prepare_cached("UPDATE registration SET ek_class = ?2 WHERE device = ?1")?
            .execute([n, class_number(class)])?;
    }
    let before = endorsed.denied.as_ref().map(|denial| (denial.code.as_str(), denial.why.as_str()));
    let after = ruling.denied.as_ref().map(|(code, why)| (code.as_str(), why.as_str()));
    if before == after {
        return Ok(());
    }
    let (code, why) = after.unzip();
    // The same finding in other words began when it began.
    let began = endorsed.denied.as_ref().filter(|denial| Some(denial.code.as_str()) == code);
    let at = code.map(|_| signed(began.map_or(now, |denial| denial.at)));
    c.execute(
        "UPDATE registration SET denied_code = ?2, denied_why = ?3, denied_at = ?4 WHERE device = ?1",
        params![n, code, why, at],
    )?;
    let note = after.map_or_else(|| "holds again".to_owned(), |(code, why)| format!("{code}: {why}"));
    note_in_history(c, endorsed.device, n, What::Endorsement, Some(&note), None, now)
}
