//! Who is enrolled, and what operators said of them.

use appraisal::{EkClass, UnixSeconds, Verdict};
use evidence::{claims::DeviceId, tpm::AkPublic};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    NewRegistration, Registered, Registration, Sql, Store, StoreError, Unresolved, What,
    commit::{Entry, append},
    damaged, query, signed, unsigned,
};

impl Store {
    /// Registers a device that has proved its endorsement keys; changes nothing unless the answer is
    /// [`Registered::New`].
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn register(&self, new: NewRegistration) -> Result<Registered, StoreError> {
        self.write(1, move |c| register(c, &new))
    }

    /// What is registered of a device.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn registration(&self, device: DeviceId) -> Result<Option<Registration>, StoreError> {
        self.read(|c| registration(c, device))
    }

    /// The one device whose id begins with `prefix`.
    ///
    /// # Errors
    /// [`Unresolved`] where there is none or more than one.
    pub fn resolve(&self, prefix: &str) -> Result<DeviceId, Unresolved> {
        let digits = |text: &str| text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if !(8..=64).contains(&prefix.len()) || !digits(prefix) {
            return Err(Unresolved::NotAnId(prefix.chars().take(80).collect()));
        }
        let bound = |fill: char| -> Option<DeviceId> {
            format!("{prefix}{}", fill.to_string().repeat(64 - prefix.len())).parse().ok()
        };
        let (Some(first), Some(last)) = (bound('0'), bound('f')) else {
            return Err(Unresolved::NotAnId(prefix.to_owned()));
        };
        let found: Vec<[u8; 32]> = self.read(|c| {
            c.prepare_cached("SELECT id FROM device WHERE id BETWEEN ?1 AND ?2 LIMIT 2")?
                .query_map([first.0, last.0], |row| row.get(0))?
                .collect()
        })?;
        match found[..] {
            [] => Err(Unresolved::Unknown(prefix.to_owned())),
            [id] => Ok(DeviceId(id)),
            _ => Err(Unresolved::Ambiguous(prefix.to_owned())),
        }
    }

    /// Admits a device: lifts a revocation and, where one is named, sets its product. False where it is not enrolled.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn approve(&self, device: DeviceId, product: Option<&str>, by: &str, now: UnixSeconds) -> Result<bool, StoreError> {
        let (product, by) = (product.map(str::to_owned), by.to_owned());
        self.write(1, move |c| {
            let Some(n) = number(c, device)? else { return Ok(false) };
            c.execute(
                "UPDATE device SET revoked = 0, product = coalesce(?2, product) WHERE n = ?1",
                params![n, product],
            )?;
            c.execute("UPDATE registration SET revoked_why = NULL, revoked_at = NULL WHERE device = ?1", [n])?;
            let note = product.map(|product| format!("product {product}"));
            note_in_history(c, device, n, What::Approved, note.as_deref(), &by, now)?;
            Ok(true)
        })
    }

    /// Shuts a device out, from now on and without waiting for evidence. False where it is not enrolled.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn revoke(&self, device: DeviceId, why: &str, by: &str, now: UnixSeconds) -> Result<bool, StoreError> {
        let (why, by) = (why.to_owned(), by.to_owned());
        self.write(1, move |c| {
            let Some(n) = number(c, device)? else { return Ok(false) };
            c.execute("UPDATE device SET revoked = 1 WHERE n = ?1", [n])?;
            c.execute(
                "UPDATE registration SET revoked_why = ?2, revoked_at = ?3 WHERE device = ?1",
                params![n, why, signed(now)],
            )?;
            note_in_history(c, device, n, What::Revoked, Some(&why), &by, now)?;
            Ok(true)
        })
    }
}

pub(super) fn number(c: &Connection, device: DeviceId) -> Sql<Option<i64>> {
    c.prepare_cached("SELECT n FROM device WHERE id = ?1")?.query_row([device.0], |row| row.get(0)).optional()
}

fn register(c: &Connection, new: &NewRegistration) -> Sql<Registered> {
    let known = number(c, new.device)?;
    let elsewhere = |owner: Option<i64>| owner.is_some_and(|owner| Some(owner) != known);
    for ek in &new.eks {
        let owner = c.query_row("SELECT device FROM ek WHERE digest = ?1", [ek], |row| row.get(0)).optional()?;
        if elsewhere(owner) {
            return Ok(Registered::KeyElsewhere);
        }
    }
    let by_name = "SELECT device FROM registration WHERE ak_name = ?1";
    let owner: Option<i64> = c.query_row(by_name, [new.ak.name_digest()], |row| row.get(0)).optional()?;
    match (known, owner) {
        (_, Some(_)) if elsewhere(owner) => Ok(Registered::KeyElsewhere),
        (Some(_), Some(_)) => Ok(Registered::Same),
        (Some(_), None) => Ok(Registered::KeyChanged),
        (None, _) => insert(c, new).map(|()| Registered::New),
    }
}

fn insert(c: &Connection, new: &NewRegistration) -> Sql<()> {
    c.execute("INSERT INTO device (id, product) VALUES (?1, ?2)", params![new.device.0, new.product])?;
    let n = c.last_insert_rowid();
    c.execute(
        "INSERT INTO registration (device, ak, ak_name, ek_class, manufacturer, first_seen) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![n, new.ak.area(), new.ak.name_digest(), class_number(new.ek_class), new.manufacturer, signed(new.now)],
    )?;
    for ek in &new.eks {
        c.execute("INSERT OR IGNORE INTO ek (digest, device) VALUES (?1, ?2)", params![ek, n])?;
    }
    let entry = Entry { at: new.now, what: What::Enrolled, verdict: Verdict::Unknown, previous: None, causes: &[], who: None };
    append(c, n, &entry, None, None, None)
}

/// An operator's word in the history, with the verdict as it stands after it.
pub(super) fn note_in_history(
    c: &Connection,
    device: DeviceId,
    n: i64,
    what: What,
    note: Option<&str>,
    by: &str,
    now: UnixSeconds,
) -> Sql<()> {
    let Some(summary) = query::summary(c, device, now)? else { return Ok(()) };
    let entry = Entry { at: now, what, verdict: summary.verdict, previous: None, causes: &summary.causes, who: Some(by) };
    append(c, n, &entry, summary.release.as_deref(), None, note)
}

pub(super) fn registration(c: &Connection, device: DeviceId) -> Sql<Option<Registration>> {
    let mut select = c.prepare_cached(
        "SELECT d.n, d.product, r.ak, r.ek_class, r.manufacturer, r.first_seen, r.revoked_why \
         FROM device d JOIN registration r ON r.device = d.n WHERE d.id = ?1",
    )?;
    let found = select.query_row([device.0], |row| Ok((row.get::<_, i64>(0)?, read(device, row)?))).optional()?;
    let Some((n, mut registration)) = found else { return Ok(None) };
    let mut eks = c.prepare_cached("SELECT digest FROM ek WHERE device = ?1 ORDER BY digest")?;
    registration.eks = eks.query_map([n], |row| row.get(0))?.collect::<Sql<_>>()?;
    Ok(Some(registration))
}

fn read(device: DeviceId, row: &Row<'_>) -> Sql<Registration> {
    let area: Vec<u8> = row.get(2)?;
    Ok(Registration {
        device,
        ak: AkPublic::read(&area).map_err(|error| damaged("attestation key", error))?,
        eks: Vec::new(),
        ek_class: if row.get::<_, i64>(3)? == class_number(EkClass::Hardware) {
            EkClass::Hardware
        } else {
            EkClass::Software
        },
        manufacturer: row.get(4)?,
        first_seen: unsigned(row.get(5)?),
        product: row.get(1)?,
        revoked: row.get(6)?,
    })
}

const fn class_number(class: EkClass) -> i64 {
    match class {
        EkClass::Software => 0,
        EkClass::Hardware => 1,
    }
}
