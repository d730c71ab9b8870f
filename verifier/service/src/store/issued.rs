//! Certificates for the broker that devices were given, so that those of a revoked device can be revoked too.

use appraisal::UnixSeconds;
use evidence::claims::DeviceId;
use rusqlite::params;

use super::{Store, StoreError, signed, unsigned};
use crate::{
    broker_access::ShutOut,
    certificates::{Issued, Revoked},
};

impl Store {
    /// Remembers a certificate until it ends, and forgets those that have ended.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written: then it must not be handed out.
    pub fn remember_issued(&self, device: DeviceId, issued: &Issued, now: UnixSeconds) -> Result<(), StoreError> {
        let (serial, not_after) = (issued.serial.clone(), issued.not_after);
        self.write(1, move |c| {
            c.execute("DELETE FROM issued WHERE not_after <= ?1", [signed(now)])?;
            c.execute(
                "INSERT INTO issued (serial, device, not_after) SELECT ?1, n, ?3 FROM device WHERE id = ?2 \
                 ON CONFLICT DO NOTHING",
                params![serial, device.0, signed(not_after)],
            )?;
            Ok(())
        })
    }

    /// Who is revoked, with the certificates that have not ended.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn shut_out(&self, now: UnixSeconds) -> Result<ShutOut, StoreError> {
        self.read(|c| {
            let mut devices = c.prepare_cached("SELECT id FROM device WHERE revoked <> 0 ORDER BY id")?;
            let devices = devices.query_map([], |row| Ok(DeviceId(row.get(0)?)))?.collect::<Result<_, _>>()?;
            let mut certificates = c.prepare_cached(
                "SELECT i.serial, r.revoked_at FROM device d JOIN registration r ON r.device = d.n \
                 JOIN issued i ON i.device = d.n WHERE d.revoked <> 0 AND i.not_after > ?1 ORDER BY i.serial",
            )?;
            let revoked = |row: &rusqlite::Row<'_>| {
                let since = row.get::<_, Option<i64>>(1)?;
                Ok(Revoked { serial: row.get(0)?, since: since.map_or(now, unsigned) })
            };
            let certificates = certificates.query_map([signed(now)], revoked)?.collect::<Result<_, _>>()?;
            Ok(ShutOut { devices, certificates })
        })
    }
}
