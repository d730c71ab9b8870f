//! Boot logs: one a device, of its present boot. It is kept once it has been judged, and read again only where reference
//! values have changed since.

use appraisal::Appraisal;
use evidence::{claims::DeviceId, pcr::sha256};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Sql, Store, StoreError, Trouble};

impl Store {
    /// The boot log of a device whose SHA-256 this is. One that is missing or damaged is none: its device has it, and sends
    /// it again, so that a row at fault stops nobody.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read now.
    pub fn boot_log(&self, device: DeviceId, digest: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.read(|c| {
            c.prepare_cached(
                "SELECT b.bytes FROM device d JOIN boot_log b ON b.device = d.n WHERE d.id = ?1 AND b.digest = ?2",
            )?
            .query_row(params![device.0, digest], |row| row.get::<_, Vec<u8>>(0))
            .optional()
        });
        let damaged = |why: &dyn std::fmt::Display| {
            tracing::warn!(%device, "the boot log that is kept is damaged, and the device is asked for it again: {why}");
        };
        match read {
            Ok(Some(bytes)) if sha256(&bytes) != *digest => {
                damaged(&"it has another digest");
                Ok(None)
            }
            Err(StoreError::Database { kind: Trouble::Damaged | Trouble::Other, why, .. }) => {
                damaged(&why);
                Ok(None)
            }
            read => read,
        }
    }
}

/// Keeps `log` as that of the boot that was judged; a boot without one leaves none of the boot before.
pub(super) fn keep(c: &Connection, device: i64, log: Option<&[u8]>, appraisal: &Appraisal) -> Sql<()> {
    let facts = appraisal.state.boot.boot_log.as_ref();
    if let Some((bytes, facts)) = log.zip(facts) {
        let write = "INSERT INTO boot_log (device, digest, bytes) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (device) DO UPDATE SET digest = excluded.digest, bytes = excluded.bytes";
        c.prepare_cached(write)?.execute(params![device, facts.digest, bytes])?;
    } else if appraisal.new_boot {
        c.prepare_cached("DELETE FROM boot_log WHERE device = ?1")?.execute([device])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Committed, backup,
            tests::{NOW, accepted, commit, id, registration, store, with_boot_log},
        },
        *,
    };

    fn changes(store: &Store) -> i64 {
        store.write(1, |c| c.query_row("SELECT total_changes()", [], |row| row.get(0))).unwrap()
    }

    fn execute(store: &Store, sql: &'static str) {
        store.write(1, move |c| c.execute(sql, [])).unwrap();
    }

    fn rows(store: &Store) -> i64 {
        store.read(|c| c.query_row("SELECT count(*) FROM boot_log", [], |row| row.get(0))).unwrap()
    }

    #[test]
    fn a_boot_log_is_kept_with_the_judgement_until_another_boot_and_found_by_its_digest_alone() {
        let (_folder, store) = store();
        for number in 1..3 {
            store.register(registration(number)).unwrap();
            commit(&store, with_boot_log(accepted(number, 1, None), &[number as u8; 9]));
        }
        let held = |number: u64, log: &[u8]| store.boot_log(id(number), &sha256(log)).unwrap();
        assert_eq!(held(1, &[1; 9]).as_deref(), Some(&[1; 9][..]));
        assert_eq!(held(1, &[2; 9]), None, "another device's");
        assert_eq!(commit(&store, accepted(1, 2, Some(1))), Committed::Done);
        assert!(held(1, &[1; 9]).is_some(), "it stays while the boot goes on");
        let mut lost = with_boot_log(accepted(1, 3, Some(1)), &[3; 9]);
        assert_eq!(commit(&store, lost.clone()), Committed::Lost);
        assert_eq!(held(1, &[3; 9]), None, "with the judgement or not at all");
        (lost.expected, lost.appraisal.new_boot) = (Some(accepted(1, 2, None).appraisal.state.last), true);
        commit(&store, lost);
        assert_eq!((held(1, &[3; 9]).as_deref(), held(1, &[1; 9]), rows(&store)), (Some(&[3; 9][..]), None, 2));
        let mut without = accepted(1, 4, Some(3));
        without.appraisal.new_boot = true;
        commit(&store, without);
        assert_eq!((held(1, &[3; 9]), held(2, &[2; 9]).as_deref(), rows(&store)), (None, Some(&[2; 9][..]), 1));
    }

    #[test]
    fn evidence_without_news_writes_two_rows_and_none_of_them_is_a_boot_log() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        commit(&store, with_boot_log(accepted(1, 1, None), &[1; 9]));
        let mut before = changes(&store);
        for clock in 2..10 {
            let mut next = accepted(1, clock, Some(clock - 1));
            next.appraisal.state.boot.boot_log = with_boot_log(next.clone(), &[1; 9]).appraisal.state.boot.boot_log;
            commit(&store, next);
            let now = changes(&store);
            assert_eq!(now - before, 2, "times and state");
            before = now;
        }
    }

    #[test]
    fn a_damaged_boot_log_is_none() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        let held = |store: &Store| store.boot_log(id(1), &sha256(&[1; 9])).unwrap();
        for damage in [
            "UPDATE boot_log SET bytes = x'00'",
            "UPDATE boot_log SET bytes = 'text'",
            "UPDATE boot_log SET digest = x'00'",
            "DELETE FROM boot_log",
        ] {
            let state = store.state(id(1)).unwrap();
            let mut next = with_boot_log(accepted(1, 1, None), &[1; 9]);
            next.expected = state.map(|state| state.last);
            commit(&store, next);
            assert!(held(&store).is_some());
            execute(&store, damage);
            assert_eq!(held(&store), None, "{damage}");
        }
    }

    #[test]
    fn a_backup_has_boot_logs_and_what_is_forgotten_has_none() {
        let (folder, store) = store();
        store.register(registration(1)).unwrap();
        commit(&store, with_boot_log(accepted(1, 1, None), &[1; 9]));
        let copy = folder.path().join("copy");
        backup(store.path(), &copy).unwrap();
        assert!(Store::open(&copy).unwrap().boot_log(id(1), &sha256(&[1; 9])).unwrap().is_some());
        store.forget(id(1), false, "test", NOW).unwrap();
        assert_eq!(rows(&store), 0);
    }
}
