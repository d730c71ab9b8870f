//! Who is enrolled, and what operators said of them.
//!
//! A registration lives in generations: `revoke` and then `approve` open a new one, in which another attestation key may
//! take the place of the last, and nothing that was asked or proved before counts any more.

use appraisal::{Code, EkClass, UnixSeconds, Verdict};
use evidence::{claims::DeviceId, tpm::AkPublic};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    Denial, Known, NewRegistration, Registered, Registration, Sql, Store, StoreError, Unresolved, What,
    commit::{Entry, append},
    damaged, decode, endorsements, files, query, signed, standing, unsigned,
};

impl Store {
    /// Registers a device that has proved its keys. [`Registered`] says what that came to, and what it changed.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn register(&self, new: NewRegistration) -> Result<Registered, StoreError> {
        self.write(1, move |c| register(c, &new))
    }

    /// The device that one of these endorsement keys is registered for.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn owner_of(&self, eks: &[[u8; 32]]) -> Result<Option<DeviceId>, StoreError> {
        self.read(|c| {
            let mut select =
                c.prepare_cached("SELECT d.id FROM ek e JOIN device d ON d.n = e.device WHERE e.digest = ?1")?;
            for ek in eks {
                if let Some(id) = select.query_row([ek], |row| row.get(0)).optional()? {
                    return Ok(Some(DeviceId(id)));
                }
            }
            Ok(None)
        })
    }

    /// The signed certificate of a device's attestation key. Inside: `None` where it was enrolled before there were any.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn ak_certificate(&self, device: DeviceId) -> Result<Option<Option<Vec<u8>>>, StoreError> {
        let sql = "SELECT r.ak_certificate FROM device d JOIN registration r ON r.device = d.n WHERE d.id = ?1";
        self.read(|c| c.prepare_cached(sql)?.query_row([device.0], |row| row.get(0)).optional())
    }

    /// What is registered of a device.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn registration(&self, device: DeviceId) -> Result<Option<Registration>, StoreError> {
        self.read(|c| registration(c, device))
    }

    /// What evidence of a device is judged on. The registration comes without digests of endorsement keys, which have had
    /// their say.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn known(&self, device: DeviceId) -> Result<Option<Known>, StoreError> {
        self.read(|c| known(c, device))
    }

    /// The device whose row a random number falls on, where it falls on one that is not shut out. Row numbers are dense but
    /// for devices that were forgotten, and each is as likely as any other.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn device_at(&self, random: u64) -> Result<Option<DeviceId>, StoreError> {
        let sql = "SELECT id FROM device WHERE n = 1 + ?1 % (SELECT max(n) FROM device) AND revoked = 0";
        let random = signed(random >> 1);
        let id = self.read(|c| c.prepare_cached(sql)?.query_row([random], |row| row.get(0)).optional())?;
        Ok(id.map(DeviceId))
    }

    /// The highest row number of a device: how many there are, and those that were forgotten.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn device_rows(&self) -> Result<u64, StoreError> {
        let sql = "SELECT max(n) FROM device";
        let highest: Option<i64> = self.read(|c| c.prepare_cached(sql)?.query_row([], |row| row.get(0)))?;
        Ok(highest.map_or(0, unsigned))
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

    /// Admits a device: lifts a revocation, which opens a new generation; puts on record that causes which wait for an
    /// operator's word have it; and, where one is named, sets its product. False where it is not enrolled.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn approve(
        &self,
        device: DeviceId,
        product: Option<&str>,
        by: &str,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let (product, by) = (product.map(str::to_owned), by.to_owned());
        self.write(1, move |c| {
            let Some(n) = number(c, device)? else { return Ok(false) };
            c.execute(
                "UPDATE registration SET generation = generation + 1, since = ?2 WHERE device = ?1 \
                 AND revoked_why IS NOT NULL",
                params![n, signed(now)],
            )?;
            c.execute(
                "UPDATE device SET revoked = 0, product = coalesce(?2, product) WHERE n = ?1",
                params![n, product],
            )?;
            c.execute(
                "UPDATE registration SET revoked_why = NULL, revoked_at = NULL, key_changed = NULL, approved_at = ?2, \
                 product_source = iif(?3 IS NULL, product_source, 'operator') WHERE device = ?1",
                params![n, signed(now), product],
            )?;
            let note = product.map(|product| format!("product {product}"));
            note_in_history(c, device, n, What::Approved, note.as_deref(), Some(&by), now)?;
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
            note_in_history(c, device, n, What::Revoked, Some(&why), Some(&by), now)?;
            Ok(true)
        })
    }
}

/// Source of a product that a signed list names.
pub(super) const BY_LIST: &str = "list";

pub(super) fn number(c: &Connection, device: DeviceId) -> Sql<Option<i64>> {
    c.prepare_cached("SELECT n FROM device WHERE id = ?1")?.query_row([device.0], |row| row.get(0)).optional()
}

/// What decides whether a proof still counts.
struct Holder {
    n: i64,
    ak_name: [u8; 32],
    revoked: bool,
    generation: u32,
    ak_generation: u32,
    key_changed: bool,
}

fn holder(c: &Connection, device: DeviceId) -> Sql<Option<Holder>> {
    let mut select = c.prepare_cached(
        "SELECT d.n, r.ak_name, r.revoked_why IS NOT NULL, r.generation, r.ak_generation, r.key_changed IS NOT NULL \
         FROM device d JOIN registration r ON r.device = d.n WHERE d.id = ?1",
    )?;
    let read = |row: &Row<'_>| {
        Ok(Holder {
            n: row.get(0)?,
            ak_name: row.get(1)?,
            revoked: row.get(2)?,
            generation: row.get(3)?,
            ak_generation: row.get(4)?,
            key_changed: row.get(5)?,
        })
    };
    select.query_row([device.0], read).optional()
}

fn register(c: &Connection, new: &NewRegistration) -> Sql<Registered> {
    let known = holder(c, new.device)?;
    let elsewhere = |owner: Option<i64>| owner.is_some_and(|owner| known.as_ref().is_none_or(|known| known.n != owner));
    for ek in &new.eks {
        let owner = c.query_row("SELECT device FROM ek WHERE digest = ?1", [ek], |row| row.get(0)).optional()?;
        if elsewhere(owner) {
            return Ok(Registered::KeyElsewhere);
        }
    }
    let by_name = "SELECT device FROM registration WHERE ak_name = ?1";
    let owner: Option<i64> = c.query_row(by_name, [new.ak.name_digest()], |row| row.get(0)).optional()?;
    if elsewhere(owner) {
        return Ok(Registered::KeyElsewhere);
    }
    let Some(known) = known else {
        return if new.generation == 1 { insert(c, new).map(|()| Registered::New) } else { Ok(Registered::Outdated) };
    };
    if known.revoked || known.generation != new.generation {
        return Ok(Registered::Outdated);
    }
    if known.ak_name == *new.ak.name_digest() {
        write_keys(c, known.n, new)?;
        // The word on the key stays as it is within a generation.
        c.execute(
            "UPDATE registration SET ak_generation = generation, ak_certificate = ?2 WHERE device = ?1 \
             AND (ak_generation < generation OR ak_certificate IS NULL)",
            params![known.n, new.ak_certificate],
        )?;
        return Ok(Registered::Same);
    }
    if known.ak_generation < known.generation {
        return replace(c, known.n, new).map(|()| Registered::Replaced);
    }
    if !known.key_changed {
        key_changed(c, known.n, new)?;
    }
    Ok(Registered::KeyChanged)
}

fn insert(c: &Connection, new: &NewRegistration) -> Sql<()> {
    let product = match &new.product {
        Some(product) => Some(product.clone()),
        None => endorsements::listed_product(c, &new.eks)?,
    };
    c.execute("INSERT INTO device (id, product) VALUES (?1, ?2)", params![new.device.0, product])?;
    let n = c.last_insert_rowid();
    c.execute(
        "INSERT INTO registration (device, ak, ak_name, ek_class, manufacturer, first_seen, uncertified, ak_certificate) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            n,
            new.ak.area(),
            new.ak.name_digest(),
            class_number(new.ek_class),
            new.manufacturer,
            signed(new.now),
            new.uncertified,
            new.ak_certificate
        ],
    )?;
    let named = "UPDATE registration SET product_source = 'operator' WHERE device = ?1 AND ?2 IS NOT NULL";
    c.execute(named, params![n, product])?;
    write_keys(c, n, new)?;
    enrolled(c, n, new, None)
}

/// Endorsement keys and what vouches for them. A key that was once proved to be this TPM's stays: what blocks one blocks
/// all.
fn write_keys(c: &Connection, n: i64, new: &NewRegistration) -> Sql<()> {
    for ek in &new.eks {
        c.execute("INSERT OR IGNORE INTO ek (digest, device) VALUES (?1, ?2)", params![ek, n])?;
    }
    // Whoever was vouched for by certificates stays held against CRLs and deny lists by them, though he shows none now.
    let sheds = "SELECT ?2 AND NOT uncertified FROM registration WHERE device = ?1";
    if c.query_row(sheds, params![n, new.uncertified], |row| row.get(0))? {
        return Ok(());
    }
    c.execute(
        "UPDATE registration SET ek_class = ?2, manufacturer = ?3, uncertified = ?4 WHERE device = ?1",
        params![n, class_number(new.ek_class), new.manufacturer, new.uncertified],
    )?;
    endorsements::write(c, n, &new.endorsement)
}

/// Another attestation key in a new generation: of what the last one showed, the history alone stays.
fn replace(c: &Connection, n: i64, new: &NewRegistration) -> Sql<()> {
    let mset: Option<i64> = c.query_row("SELECT mset FROM device WHERE n = ?1", [n], |row| row.get(0))?;
    c.execute(
        "UPDATE device SET judged = NULL, expires = 0, verdict = 2, mset = NULL, release = NULL WHERE n = ?1",
        [n],
    )?;
    for table in ["device_state", "device_cause", "boot_log"] {
        c.execute(&format!("DELETE FROM {table} WHERE device = ?1"), [n])?;
    }
    if let Some(mset) = mset {
        files::drop_unused(c, mset)?;
    }
    c.execute(
        "UPDATE registration SET ak = ?2, ak_name = ?3, ak_generation = generation, ak_certificate = ?4 \
         WHERE device = ?1",
        params![n, new.ak.area(), new.ak.name_digest(), new.ak_certificate],
    )?;
    write_keys(c, n, new)?;
    standing::file(c, n)?;
    enrolled(c, n, new, Some("with another attestation key"))
}

fn enrolled(c: &Connection, n: i64, new: &NewRegistration, note: Option<&str>) -> Sql<()> {
    let mut entry = Entry::new(new.now, What::Enrolled, Verdict::Unknown, &[]);
    entry.note = note;
    append(c, n, &entry)
}

/// On record once, until an operator has looked into it.
fn key_changed(c: &Connection, n: i64, new: &NewRegistration) -> Sql<()> {
    c.execute("UPDATE registration SET key_changed = ?2 WHERE device = ?1", params![n, signed(new.now)])?;
    let note = "another attestation key was proved for this id, and is not accepted";
    note_in_history(c, new.device, n, What::KeyChanged, Some(note), None, new.now)
}

/// An entry that is not made by evidence, with the verdict as it stands after it.
pub(super) fn note_in_history(
    c: &Connection,
    device: DeviceId,
    n: i64,
    what: What,
    note: Option<&str>,
    who: Option<&str>,
    now: UnixSeconds,
) -> Sql<()> {
    let before = standing::listed(c, n, now)?;
    standing::file(c, n)?;
    let Some(summary) = query::summary(c, device, now)? else { return Ok(()) };
    let mut entry = Entry::new(now, what, summary.verdict, &summary.causes);
    entry.previous = Some(before).filter(|before| *before != summary.verdict);
    entry.release = summary.release.as_deref();
    (entry.note, entry.who) = (note, who);
    append(c, n, &entry)
}

/// A registration and the state that evidence left: one look-up for each message.
pub(super) const KNOWN: &str = "SELECT d.n, d.product, r.ak, r.ek_class, r.manufacturer, r.first_seen, r.revoked_why, r.generation, \
     r.since, r.approved_at, r.key_changed, r.uncertified, r.denied_code, r.denied_why, r.denied_at, \
     r.revoked_at, s.state, r.product_source, r.serial \
     FROM device d JOIN registration r ON r.device = d.n LEFT JOIN device_state s ON s.device = d.n WHERE d.id = ?1";

pub(super) fn known(c: &Connection, device: DeviceId) -> Sql<Option<Known>> {
    let found = c.prepare_cached(KNOWN)?.query_row([device.0], |row| {
        let state: Option<Vec<u8>> = row.get("state")?;
        let state = state.map(|bytes| decode("device state", &bytes)).transpose()?;
        Ok(Known { registration: read(device, row)?, state })
    });
    found.optional()
}

pub(super) fn registration(c: &Connection, device: DeviceId) -> Sql<Option<Registration>> {
    let mut select = c.prepare_cached(KNOWN)?;
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
        ek_class: class_from(row.get(3)?),
        manufacturer: row.get(4)?,
        first_seen: unsigned(row.get(5)?),
        product: row.get(1)?,
        revoked: row.get(6)?,
        revoked_at: unsigned(row.get::<_, Option<i64>>(15)?.unwrap_or(0)),
        generation: row.get(7)?,
        since: unsigned(row.get(8)?),
        approved_at: unsigned(row.get(9)?),
        key_changed: row.get::<_, Option<i64>>(10)?.map(unsigned),
        uncertified: row.get(11)?,
        denied: denial(row.get(12)?, row.get(13)?, row.get(14)?),
        by_list: row.get::<_, Option<String>>("product_source")?.as_deref() == Some(BY_LIST),
        serial: row.get("serial")?,
    })
}

/// From its three columns.
pub(super) fn denial(code: Option<String>, why: Option<String>, at: Option<i64>) -> Option<Denial> {
    Some(Denial { code: code?, why: why.unwrap_or_default(), at: unsigned(at.unwrap_or(0)) })
}

/// The cause of a code that a registration holds.
pub(crate) fn identity_cause(code: &str) -> Code {
    // A code that a later version wrote is no reason to think better of the device.
    Code::from_code(code).unwrap_or(Code::IdentityRevoked)
}

pub(super) const fn class_number(class: EkClass) -> i64 {
    match class {
        EkClass::Software => 0,
        EkClass::Hardware => 1,
    }
}

pub(super) const fn class_from(number: i64) -> EkClass {
    if number == class_number(EkClass::Hardware) { EkClass::Hardware } else { EkClass::Software }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        Committed,
        tests::{NOW, accepted, commit, contraindicated, id, registration, store, with_boot_log, with_files},
    };

    fn rows(store: &Store, table: &str) -> i64 {
        store.read(|c| c.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))).unwrap()
    }

    fn with_ak_of(number: u64, generation: u32) -> NewRegistration {
        NewRegistration { ak: registration(number).ak, generation, now: NOW + 5, ..registration(1) }
    }

    fn readmit(store: &Store) {
        store.revoke(id(1), "resold", "test", NOW).unwrap();
        store.approve(id(1), Some("a/b"), "test", NOW + 3).unwrap();
    }

    #[test]
    fn of_a_replaced_key_nothing_stays_but_history_and_it_is_free_again() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        let shown = with_boot_log(with_files(contraindicated(accepted(1, 1, None)), &["a", "b"]), b"log");
        commit(&store, shown);
        readmit(&store);
        assert_eq!(store.register(with_ak_of(7, 2)), Ok(Registered::Replaced));
        assert_eq!(store.state(id(1)).unwrap(), None);
        for table in ["device_state", "device_cause", "boot_log", "mset", "mset_file", "file"] {
            assert_eq!(rows(&store, table), 0, "{table}");
        }
        let shown = store.device(id(1), NOW + 9).unwrap().unwrap();
        assert_eq!(shown.summary.causes.iter().map(|cause| cause.code).collect::<Vec<_>>(), [Code::NeverSeen]);
        assert_eq!(shown.summary.product.as_deref(), Some("a/b"));
        let history = store.history(id(1), NOW + 9).unwrap();
        let what: Vec<What> = history.iter().map(|row| row.what).collect();
        assert_eq!(what, [What::Enrolled, What::Evidence, What::Revoked, What::Approved, What::Enrolled]);
        // Evidence that was judged by the last key is on its way yet.
        assert_eq!(commit(&store, accepted(1, 2, Some(1))), Committed::Lost);
        // The key that was given up belongs to whoever proves it.
        assert_eq!(store.register(NewRegistration { ak: registration(1).ak, ..registration(2) }), Ok(Registered::New));
    }

    #[test]
    fn evidence_that_was_judged_by_an_earlier_registration_is_not_taken_for_the_present_one() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        // No state tells the two apart.
        readmit(&store);
        assert_eq!(commit(&store, accepted(1, 1, None)), Committed::Lost, "of the generation before");
        store.register(with_ak_of(7, 2)).unwrap();
        assert_eq!(commit(&store, accepted(1, 1, None)), Committed::Lost, "by the key before");
        store.forget(id(1), false, "test", NOW).unwrap();
        store.register(with_ak_of(7, 1)).unwrap();
        assert_eq!(commit(&store, accepted(1, 1, None)), Committed::Lost, "by the key of what was forgotten");
        assert_eq!(store.state(id(1)).unwrap(), None);
    }

    #[test]
    fn a_proof_for_another_generation_or_of_a_revoked_device_registers_nothing() {
        let (_folder, store) = store();
        assert_eq!(store.register(with_ak_of(1, 2)), Ok(Registered::Outdated));
        assert_eq!(rows(&store, "device"), 0);
        store.register(registration(1)).unwrap();
        store.revoke(id(1), "?", "test", NOW).unwrap();
        let before = store.registration(id(1)).unwrap();
        for (number, generation) in [(1, 1), (7, 1), (7, 2)] {
            assert_eq!(store.register(with_ak_of(number, generation)), Ok(Registered::Outdated));
        }
        assert_eq!(store.registration(id(1)).unwrap(), before);
        store.approve(id(1), None, "test", NOW + 3).unwrap();
        for (number, generation) in [(1, 1), (7, 1), (7, 3)] {
            assert_eq!(store.register(with_ak_of(number, generation)), Ok(Registered::Outdated));
        }
        assert_eq!(store.register(with_ak_of(7, 2)), Ok(Registered::Replaced));
    }

    #[test]
    fn only_the_end_of_a_revocation_opens_a_generation() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        store.approve(id(1), Some("a/b"), "test", NOW + 1).unwrap();
        let approved = store.registration(id(1)).unwrap().unwrap();
        assert_eq!((approved.generation, approved.since, approved.approved_at), (1, 0, NOW + 1));
        store.revoke(id(1), "?", "test", NOW + 2).unwrap();
        store.revoke(id(1), "??", "test", NOW + 3).unwrap();
        store.approve(id(1), None, "test", NOW + 4).unwrap();
        store.approve(id(1), None, "test", NOW + 5).unwrap();
        let readmitted = store.registration(id(1)).unwrap().unwrap();
        assert_eq!((readmitted.generation, readmitted.since, readmitted.approved_at), (2, NOW + 4, NOW + 5));
    }

    #[test]
    fn an_endorsement_key_that_was_proved_once_stays_its_tpms() {
        let (_folder, store) = store();
        let eks = vec![[1; 32], [2; 32]];
        store.register(NewRegistration { eks: eks.clone(), ..registration(1) }).unwrap();
        store.register(NewRegistration { eks: vec![[1; 32], [3; 32]], ..registration(1) }).unwrap();
        assert_eq!(store.registration(id(1)).unwrap().unwrap().eks, [[1; 32], [2; 32], [3; 32]]);
        assert_eq!(store.owner_of(&[[9; 32], [2; 32]]).unwrap(), Some(id(1)));
        assert_eq!(store.register(NewRegistration { eks, ..registration(2) }), Ok(Registered::KeyElsewhere));
    }
}
