//! How far signed documents have come: in go the series of a set that is taken, out comes what a later set must not go
//! behind, over restarts too.

use std::collections::BTreeMap;

use reference_values::{Kind, Seen, Series};
use rusqlite::{Connection, params};

use super::{Sql, Store, StoreError, damaged, signed, unsigned};

/// All series.
pub type Reached = BTreeMap<Series, Seen>;

impl Store {
    /// How far each series has come: reference values never go back behind it.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be read.
    pub fn reached(&self) -> Result<Reached, StoreError> {
        self.read(all)
    }

    /// Remembers what is in force now; what is not among it is forgotten.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written; then what was known stays.
    pub fn reach(&self, reached: Reached) -> Result<(), StoreError> {
        self.write(1, move |c| {
            c.execute("DELETE FROM reference_series", [])?;
            reached.iter().try_for_each(|(series, seen)| insert(c, series, seen))
        })
    }
}

pub(super) fn all(c: &Connection) -> Sql<Reached> {
    let mut select =
        c.prepare_cached("SELECT product, kind, name, sequence, expires, content, keys FROM reference_series")?;
    let read = select.query_map([], |row| {
        let series = Series { product: row.get(0)?, kind: kind(&row.get::<_, String>(1)?)?, name: row.get(2)? };
        let (expires, keys): (Option<i64>, Vec<u8>) = (row.get(4)?, row.get(6)?);
        let keys = keys.as_chunks().0.to_vec();
        Ok((
            series,
            Seen { sequence: unsigned(row.get(3)?), expires: expires.map(unsigned), content: row.get(5)?, keys },
        ))
    })?;
    read.collect()
}

/// From a database that knew releases only.
pub(super) fn before_version_4(c: &Connection) -> Sql<Reached> {
    let mut select = c.prepare_cached("SELECT product, sequence FROM reference_sequence")?;
    let read = select.query_map([], |row| {
        let series = Series { product: row.get(0)?, kind: Kind::Release, name: String::new() };
        Ok((series, Seen { sequence: unsigned(row.get(1)?), expires: None, content: [0; 32], keys: Vec::new() }))
    })?;
    read.collect()
}

fn kind(name: &str) -> Sql<Kind> {
    let known = [Kind::Release, Kind::Endorsements, Kind::Notice].into_iter().find(|kind| kind.name() == name);
    known.ok_or_else(|| damaged("kind of document", name))
}

fn insert(c: &Connection, series: &Series, seen: &Seen) -> Sql<()> {
    c.prepare_cached(
        "INSERT INTO reference_series (product, kind, name, sequence, expires, content, keys) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        series.product,
        series.kind.name(),
        series.name,
        signed(seen.sequence),
        seen.expires.map(signed),
        seen.content,
        seen.keys.concat()
    ])
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::store, *};

    #[test]
    fn what_was_reached_is_remembered_as_it_was_given() {
        let (_folder, store) = store();
        let series = |kind| Series { product: "acme/*".to_owned(), kind, name: "n".to_owned() };
        let seen = |sequence, expires, keys| Seen { sequence, expires, content: [7; 32], keys };
        let first = Reached::from([(series(Kind::Notice), seen(5, Some(100), vec![[1; 32], [2; 32]]))]);
        store.reach(first.clone()).unwrap();
        assert_eq!(store.reached().unwrap(), first);
        let then = Reached::from([
            (series(Kind::Notice), seen(6, None, vec![])),
            (series(Kind::Endorsements), seen(1, None, vec![[3; 32]])),
        ]);
        store.reach(then.clone()).unwrap();
        assert_eq!(store.reached().unwrap(), then);
    }
}
