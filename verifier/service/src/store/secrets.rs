//! Secrets that must outlive the process, made on first use.

use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::{OptionalExtension as _, params};
use zeroize::Zeroizing;

use super::{Sql, Store, StoreError, damaged, signed};
use crate::limits::ENROLMENT_KEY_HOURS;

/// 32 secret bytes, wiped when dropped.
pub type Secret = Zeroizing<[u8; 32]>;

impl Store {
    /// The secret of this name; random, made when first asked for.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read or written.
    pub fn secret(&self, name: &str) -> Result<Secret, StoreError> {
        let name = name.to_owned();
        self.write(1, move |c| {
            let read = "SELECT value FROM secret WHERE name = ?1";
            if let Some(known) = c.query_row(read, [&name], |row| row.get(0)).optional()? {
                return Ok(Zeroizing::new(known));
            }
            let fresh = random()?;
            c.execute("INSERT INTO secret (name, value) VALUES (?1, ?2)", params![name, *fresh])?;
            Ok(fresh)
        })
    }

    /// The enrolment key of an hour (Unix time / 3600), made when first asked for; those of hours long before are
    /// deleted.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read or written.
    pub fn enrolment_key(&self, hour: u64) -> Result<Secret, StoreError> {
        self.write(1, move |c| {
            let read = "SELECT value FROM enrolment_key WHERE hour = ?1";
            if let Some(known) = c.query_row(read, [signed(hour)], |row| row.get(0)).optional()? {
                return Ok(Zeroizing::new(known));
            }
            let fresh = random()?;
            c.execute("INSERT INTO enrolment_key (hour, value) VALUES (?1, ?2)", params![signed(hour), *fresh])?;
            let oldest = signed(hour.saturating_sub(ENROLMENT_KEY_HOURS));
            c.execute("DELETE FROM enrolment_key WHERE hour < ?1", [oldest])?;
            Ok(fresh)
        })
    }
}

fn random() -> Sql<Secret> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *bytes).map_err(|_| damaged("random numbers", "the system has none"))?;
    Ok(bytes)
}
