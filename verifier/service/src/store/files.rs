//! Measurement sets: what runs on a device is one of few sets that devices share, so that unchanged evidence writes
//! nothing and "where does this run?" is answered from the sets.

use std::collections::BTreeSet;

use appraisal::MeasuredFile;
use evidence::pcr::sha256;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Sql, signed};
use crate::limits::MAX_FILES;

/// The set that a device has next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextSet {
    /// This one; none where nothing is reported.
    Is(Option<i64>),
    /// It would be larger than is kept; nothing has been written.
    TooMany,
}

/// The set of `base` and `new` together.
pub(super) fn next(c: &Connection, device: i64, base: Option<i64>, new: &[MeasuredFile]) -> Sql<NextSet> {
    if new.is_empty() {
        return Ok(NextSet::Is(base));
    }
    let mut numbers = base.map(|mset| members(c, mset)).transpose()?.unwrap_or_default();
    let mut absent = BTreeSet::new();
    let mut added = BTreeSet::new();
    for file in new {
        match number(c, file)? {
            Some(n) if numbers.contains(&n) => {}
            Some(n) => drop(added.insert(n)),
            None => drop(absent.insert(file)),
        }
    }
    if numbers.len() + added.len() + absent.len() > MAX_FILES {
        return Ok(NextSet::TooMany);
    }
    for file in absent {
        added.insert(insert(c, file)?);
    }
    if added.is_empty() {
        return Ok(NextSet::Is(base));
    }
    numbers.extend(&added);
    let hash = hash(&numbers);
    if let Some(known) = find(c, &hash)? {
        return Ok(NextSet::Is(Some(known)));
    }
    match base {
        // Nobody else has the old set: it grows in place.
        Some(mset) if !shared(c, mset, device)? => grow(c, mset, &hash, &numbers, &added).map(|()| NextSet::Is(base)),
        _ => create(c, &hash, &numbers).map(|mset| NextSet::Is(Some(mset))),
    }
}

/// Forgets a set that no device has any more, and files that are in no set.
pub(super) fn drop_unused(c: &Connection, mset: i64) -> Sql<()> {
    let used: bool = c
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM device WHERE mset IS NOT NULL AND mset = ?1)")?
        .query_row([mset], |row| row.get(0))?;
    if used {
        return Ok(());
    }
    let files = members(c, mset)?;
    c.prepare_cached("DELETE FROM mset_file WHERE mset = ?1")?.execute([mset])?;
    c.prepare_cached("DELETE FROM mset WHERE n = ?1")?.execute([mset])?;
    let mut forget =
        c.prepare_cached("DELETE FROM file WHERE n = ?1 AND NOT EXISTS (SELECT 1 FROM mset_file WHERE file = ?1)")?;
    files.into_iter().try_for_each(|file| forget.execute([file]).map(drop))
}

fn members(c: &Connection, mset: i64) -> Sql<BTreeSet<i64>> {
    c.prepare_cached("SELECT file FROM mset_file WHERE mset = ?1")?.query_map([mset], |row| row.get(0))?.collect()
}

fn number(c: &Connection, file: &MeasuredFile) -> Sql<Option<i64>> {
    c.prepare_cached("SELECT n FROM file WHERE digest = ?1 AND path = ?2 AND kind = ?3")?
        .query_row(params![file.digest, file.path, file.kind], |row| row.get(0))
        .optional()
}

fn insert(c: &Connection, file: &MeasuredFile) -> Sql<i64> {
    c.prepare_cached("INSERT INTO file (digest, path, kind) VALUES (?1, ?2, ?3)")?.insert(params![
        file.digest,
        file.path,
        file.kind
    ])
}

/// Names a set: a file's number stands for its digest, path and kind for as long as any set holds it.
fn hash(numbers: &BTreeSet<i64>) -> [u8; 32] {
    sha256(&numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>())
}

fn find(c: &Connection, hash: &[u8; 32]) -> Sql<Option<i64>> {
    c.prepare_cached("SELECT n FROM mset WHERE hash = ?1")?.query_row([hash], |row| row.get(0)).optional()
}

fn shared(c: &Connection, mset: i64, device: i64) -> Sql<bool> {
    c.prepare_cached("SELECT EXISTS (SELECT 1 FROM device WHERE mset IS NOT NULL AND mset = ?1 AND n <> ?2)")?
        .query_row([mset, device], |row| row.get(0))
}

fn grow(c: &Connection, mset: i64, hash: &[u8; 32], all: &BTreeSet<i64>, added: &BTreeSet<i64>) -> Sql<()> {
    c.prepare_cached("UPDATE mset SET hash = ?2, files = ?3 WHERE n = ?1")?.execute(params![
        mset,
        hash,
        signed(all.len() as u64)
    ])?;
    add(c, mset, added)
}

fn create(c: &Connection, hash: &[u8; 32], all: &BTreeSet<i64>) -> Sql<i64> {
    let mset = c
        .prepare_cached("INSERT INTO mset (hash, files) VALUES (?1, ?2)")?
        .insert(params![hash, signed(all.len() as u64)])?;
    add(c, mset, all).map(|()| mset)
}

fn add(c: &Connection, mset: i64, files: &BTreeSet<i64>) -> Sql<()> {
    let mut insert = c.prepare_cached("INSERT INTO mset_file (file, mset) VALUES (?1, ?2)")?;
    files.iter().try_for_each(|file| insert.execute([*file, mset]).map(drop))
}
