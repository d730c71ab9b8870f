//! Operators: the tokens by which they are known, kept as digests alone, and the log of what they did that is about no
//! device that is still known.

use appraisal::UnixSeconds;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::{Sql, Store, StoreError, damaged, signed, unsigned};
use crate::limits::{MAX_PAGE, MAX_TOKENS};

/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// What the holder of a token may do; each may do what those before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Reader,
    /// Act on devices.
    Operator,
    /// Act on the verifier: tokens and keys.
    Administrator,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Reader, Self::Operator, Self::Administrator];

    /// Name in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Administrator => "administrator",
        }
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A token, without what opens doors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEntry {
    /// Whose it is; stands in history.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// When it was made.
    pub created: UnixSeconds,
    /// Midnight before it was last used.
    pub last_used: Option<UnixSeconds>,
}

/// What adding a token came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAdded {
    /// It counts from now on.
    Done,
    /// There is one of this name.
    Taken,
    /// There are [`MAX_TOKENS`] already.
    TooMany,
}

/// One line of the operators' log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorAction {
    /// When.
    pub at: UnixSeconds,
    /// Name of the token.
    pub who: String,
    /// What was done.
    pub what: String,
    /// To what.
    pub about: String,
}

impl Store {
    /// Adds a token by its SHA-256.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn add_token(
        &self,
        name: &str,
        digest: [u8; 32],
        role: Role,
        by: &str,
        now: UnixSeconds,
    ) -> Result<TokenAdded, StoreError> {
        let (name, by) = (name.to_owned(), by.to_owned());
        self.write(1, move |c| {
            let taken = c.query_row("SELECT 1 FROM api_token WHERE name = ?1", [&name], |_| Ok(())).optional()?;
            if taken.is_some() {
                return Ok(TokenAdded::Taken);
            }
            let count: i64 = c.query_row("SELECT count(*) FROM api_token", [], |row| row.get(0))?;
            if unsigned(count) >= MAX_TOKENS as u64 {
                return Ok(TokenAdded::TooMany);
            }
            let insert = "INSERT INTO api_token (name, digest, role, created) VALUES (?1, ?2, ?3, ?4)";
            c.execute(insert, params![name, digest, role.name(), signed(now)])?;
            log(c, &by, "token create", &format!("{name} ({})", role.name()), now)?;
            Ok(TokenAdded::Done)
        })
    }

    /// Ends a token. False where there is none of this name.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn revoke_token(&self, name: &str, by: &str, now: UnixSeconds) -> Result<bool, StoreError> {
        let (name, by) = (name.to_owned(), by.to_owned());
        self.write(1, move |c| {
            let gone = c.execute("DELETE FROM api_token WHERE name = ?1", [&name])? > 0;
            if gone {
                log(c, &by, "token revoke", &name, now)?;
            }
            Ok(gone)
        })
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn tokens(&self) -> Result<Vec<TokenEntry>, StoreError> {
        self.read(|c| {
            let mut select = c.prepare_cached("SELECT name, role, created, used_day FROM api_token ORDER BY name")?;
            select.query_map([], entry)?.collect()
        })
    }

    /// Whose token has this SHA-256. Every digest is compared, each in constant time.
    ///
    /// # Errors
    /// [`StoreError`] where they could not be read.
    pub fn token(&self, digest: &[u8; 32]) -> Result<Option<TokenEntry>, StoreError> {
        self.read(|c| {
            let mut select = c.prepare_cached("SELECT name, role, created, used_day, digest FROM api_token")?;
            let mut found = None;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let known: [u8; 32] = row.get(4)?;
                if bool::from(known.ct_eq(digest)) {
                    found = Some(entry(row)?);
                }
            }
            Ok(found)
        })
    }

    /// Notes the day on which a token was used.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn token_used(&self, name: &str, now: UnixSeconds) -> Result<(), StoreError> {
        let name = name.to_owned();
        let update = "UPDATE api_token SET used_day = ?2 WHERE name = ?1";
        self.write(1, move |c| c.execute(update, params![name, signed(now / DAY)]).map(drop))
    }

    /// Notes what an operator did that is about no device.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn log_operator(&self, by: &str, what: &str, about: &str, now: UnixSeconds) -> Result<(), StoreError> {
        let (by, what, about) = (by.to_owned(), what.to_owned(), about.to_owned());
        self.write(1, move |c| log(c, &by, &what, &about, now))
    }

    /// The newest lines of the operators' log, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn operator_log(&self) -> Result<Vec<OperatorAction>, StoreError> {
        self.read(|c| {
            let mut select =
                c.prepare_cached("SELECT at, who, what, about FROM operator_log ORDER BY n DESC LIMIT ?1")?;
            let read = |row: &Row<'_>| {
                let at = unsigned(row.get(0)?);
                Ok(OperatorAction { at, who: row.get(1)?, what: row.get(2)?, about: row.get(3)? })
            };
            let mut newest_first =
                select.query_map([signed(MAX_PAGE as u64)], read)?.collect::<Sql<Vec<OperatorAction>>>()?;
            newest_first.reverse();
            Ok(newest_first)
        })
    }
}

impl TokenEntry {
    /// Whether its use at `now` has to be noted.
    #[must_use]
    pub fn first_use_of_day(&self, now: UnixSeconds) -> bool {
        self.last_used.is_none_or(|last| last / DAY != now / DAY)
    }
}

fn entry(row: &Row<'_>) -> Sql<TokenEntry> {
    let role: String = row.get(1)?;
    let day: Option<i64> = row.get(3)?;
    Ok(TokenEntry {
        name: row.get(0)?,
        role: Role::from_name(&role).ok_or_else(|| damaged("role of a token", role))?,
        created: unsigned(row.get(2)?),
        last_used: day.map(|day| unsigned(day).saturating_mul(DAY)),
    })
}

pub(super) fn log(c: &Connection, by: &str, what: &str, about: &str, now: UnixSeconds) -> Sql<()> {
    let insert = "INSERT INTO operator_log (at, who, what, about) VALUES (?1, ?2, ?3, ?4)";
    c.execute(insert, params![signed(now), by, what, about]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{NOW, store},
        *,
    };

    #[test]
    fn a_token_counts_from_its_making_to_its_end() {
        let (_folder, store) = store();
        let add = |name: &str, digest: u8| store.add_token(name, [digest; 32], Role::Operator, "init", NOW).unwrap();
        assert_eq!(store.token(&[1; 32]), Ok(None));
        assert_eq!(
            (add("ada", 1), add("ada", 2), add("bob", 3)),
            (TokenAdded::Done, TokenAdded::Taken, TokenAdded::Done)
        );
        let ada = store.token(&[1; 32]).unwrap().unwrap();
        assert_eq!((ada.name.as_str(), ada.role, ada.last_used), ("ada", Role::Operator, None));
        assert_eq!(store.token(&[2; 32]), Ok(None), "that one was not taken");
        assert!(ada.first_use_of_day(NOW));
        store.token_used("ada", NOW).unwrap();
        let ada = store.token(&[1; 32]).unwrap().unwrap();
        assert!(!ada.first_use_of_day(NOW) && ada.first_use_of_day(NOW + DAY));
        assert_eq!(ada.last_used, Some(NOW / DAY * DAY));
        assert_eq!(
            (store.revoke_token("ada", "bob", NOW), store.revoke_token("ada", "bob", NOW)),
            (Ok(true), Ok(false))
        );
        assert_eq!(store.token(&[1; 32]), Ok(None));
        let log: Vec<_> = store.operator_log().unwrap().into_iter().map(|line| (line.who, line.what)).collect();
        let expected = [("init", "token create"), ("init", "token create"), ("bob", "token revoke")];
        assert_eq!(log, expected.map(|(who, what)| (who.to_owned(), what.to_owned())));
    }

    #[test]
    fn there_are_so_many_tokens_and_no_more() {
        let (_folder, store) = store();
        for n in 0..MAX_TOKENS {
            let digest = evidence::pcr::sha256(&n.to_be_bytes());
            assert_eq!(store.add_token(&n.to_string(), digest, Role::Reader, "init", NOW), Ok(TokenAdded::Done));
        }
        assert_eq!(store.add_token("more", [0; 32], Role::Reader, "init", NOW), Ok(TokenAdded::TooMany));
        assert_eq!(store.tokens().unwrap().len(), MAX_TOKENS);
    }
}
