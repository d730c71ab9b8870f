//! The keys that the verifier signs with at present. Each set replaces the last by comparing and setting, so that of two
//! processes which rotate at once one wins and the other takes its keys.

use evidence::verifier_message::VerifierKeyId;
use rusqlite::{Connection, OptionalExtension as _, params};
use zeroize::Zeroizing;

use super::{Sql, Store, StoreError, signed, unsigned};

/// A set of keys, private halves in PKCS#8.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKeys {
    /// Order of the set.
    pub sequence: u64,
    /// Until when it holds, seconds since 1970.
    pub not_after: u64,
    /// The root that vouches for it.
    pub root: VerifierKeyId,
    /// In this message.
    pub message: Vec<u8>,
    /// Signs requests, refusals, epochs, enrolments.
    pub request: Zeroizing<Vec<u8>>,
    /// Signs results.
    pub result: Zeroizing<Vec<u8>>,
    /// Signs the log.
    pub log: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for StoredKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredKeys").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Store {
    /// The present keys; `None` before there were any.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn keys(&self) -> Result<Option<StoredKeys>, StoreError> {
        self.read(present)
    }

    /// Order of the present keys.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn keys_sequence(&self) -> Result<Option<u64>, StoreError> {
        self.read(sequence)
    }

    /// The message in which the root vouches for the present keys.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn keys_message(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT message FROM verifier_key ORDER BY sequence DESC LIMIT 1";
        self.read(|c| c.query_row(sql, [], |row| row.get(0)).optional())
    }

    /// Puts keys in the place of those with the sequence `replaces`, whose private halves go. False where others are in
    /// force by now, or these would not come after them: nothing has changed then.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be written.
    pub fn replace_keys(&self, new: StoredKeys, replaces: Option<u64>) -> Result<bool, StoreError> {
        self.write(1, move |c| {
            if sequence(c)? != replaces || replaces.is_some_and(|old| new.sequence <= old) {
                return Ok(false);
            }
            c.execute("UPDATE verifier_key SET request = NULL, result = NULL, log = NULL", [])?;
            c.execute(
                "INSERT INTO verifier_key (sequence, not_after, root, message, request, result, log) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    signed(new.sequence),
                    signed(new.not_after),
                    new.root.0,
                    new.message,
                    *new.request,
                    *new.result,
                    *new.log
                ],
            )?;
            Ok(true)
        })
    }
}

fn sequence(c: &Connection) -> Sql<Option<u64>> {
    c.query_row("SELECT max(sequence) FROM verifier_key", [], |row| row.get::<_, Option<i64>>(0))
        .map(|found| found.map(unsigned))
}

fn present(c: &Connection) -> Sql<Option<StoredKeys>> {
    let sql = "SELECT sequence, not_after, root, message, request, result, log FROM verifier_key \
               ORDER BY sequence DESC LIMIT 1";
    c.query_row(sql, [], |row| {
        let secret = |column| row.get(column).map(Zeroizing::new);
        Ok(StoredKeys {
            sequence: unsigned(row.get(0)?),
            not_after: unsigned(row.get(1)?),
            root: VerifierKeyId(row.get(2)?),
            message: row.get(3)?,
            request: secret(4)?,
            result: secret(5)?,
            log: secret(6)?,
        })
    })
    .optional()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(sequence: u64) -> StoredKeys {
        let secret = |byte| Zeroizing::new(vec![byte; 4]);
        StoredKeys {
            sequence,
            not_after: sequence + 100,
            root: VerifierKeyId([1; 32]),
            message: sequence.to_be_bytes().to_vec(),
            request: secret(1),
            result: secret(2),
            log: secret(3),
        }
    }

    #[test]
    fn of_two_processes_that_rotate_at_once_one_wins_and_both_see_the_same_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.sqlite");
        let [a, b] = [(); 2].map(|()| Store::open(&path).unwrap());
        assert_eq!((a.keys().unwrap(), a.keys_message().unwrap()), (None, None));
        assert!(a.replace_keys(keys(5), None).unwrap());
        assert!(!b.replace_keys(keys(6), None).unwrap(), "made for a store without keys");
        assert_eq!(b.keys().unwrap(), Some(keys(5)));
        assert!(b.replace_keys(keys(6), Some(5)).unwrap());
        assert!(!a.replace_keys(keys(7), Some(5)).unwrap(), "in the place of keys that are gone");
        for store in [a, b] {
            assert_eq!(store.keys().unwrap(), Some(keys(6)));
            assert_eq!(store.keys_message().unwrap(), Some(keys(6).message));
        }
    }

    #[test]
    fn keys_never_go_back_and_replaced_ones_leave_only_their_message() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.sqlite")).unwrap();
        assert!(store.replace_keys(keys(5), None).unwrap());
        for sequence in [4, 5] {
            assert!(!store.replace_keys(keys(sequence), Some(5)).unwrap(), "{sequence}");
        }
        assert!(store.replace_keys(keys(9), Some(5)).unwrap());
        let left = "SELECT count(*), count(request), count(result), count(log), count(message) FROM verifier_key";
        let counts: [i64; 5] = store
            .read(|c| {
                c.query_row(left, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]))
            })
            .unwrap();
        assert_eq!(counts, [2, 1, 1, 1, 2]);
    }
}
