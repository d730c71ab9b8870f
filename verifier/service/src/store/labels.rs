//! What operators call devices: a few `key=value` each, to find them by.

use std::collections::BTreeMap;

use appraisal::UnixSeconds;
use evidence::claims::DeviceId;
use rusqlite::{Connection, params};

use super::{Sql, Store, StoreError, What, registry};
use crate::limits::{MAX_LABEL_KEY, MAX_LABEL_VALUE, MAX_LABELS};

/// One label to be set, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelChange {
    key: String,
    value: Option<String>,
}

/// No label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLabel {
    /// The key.
    #[error("`{0}` is no label's key: 1 to {MAX_LABEL_KEY} lower-case letters, digits, `.`, `_` and `-`")]
    Key(String),
    /// The value.
    #[error("the value of label `{0}` is 1 to {MAX_LABEL_VALUE} printable characters")]
    Value(String),
}

/// What labelling came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labelled {
    /// It is as asked.
    Done,
    /// No such device.
    Unknown,
    /// It would have more than [`MAX_LABELS`]; nothing has changed.
    TooMany,
}

impl LabelChange {
    /// `None` removes the label.
    ///
    /// # Errors
    /// [`BadLabel`] for what cannot be a label.
    pub fn new(key: &str, value: Option<&str>) -> Result<Self, BadLabel> {
        let legal = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        if !(1..=MAX_LABEL_KEY).contains(&key.len()) || !key.bytes().all(legal) {
            return Err(BadLabel::Key(key.chars().take(2 * MAX_LABEL_KEY).collect()));
        }
        let printable =
            |value: &str| (1..=MAX_LABEL_VALUE).contains(&value.chars().count()) && !value.chars().any(char::is_control);
        if value.is_some_and(|value| !printable(value)) {
            return Err(BadLabel::Value(key.to_owned()));
        }
        Ok(Self { key: key.to_owned(), value: value.map(str::to_owned) })
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value to set.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }
}

impl Store {
    /// Sets and removes labels of a device: all of `changes`, or none.
    ///
    /// # Errors
    /// [`StoreError`] where it could not be written.
    pub fn label(
        &self,
        device: DeviceId,
        changes: Vec<LabelChange>,
        by: &str,
        now: UnixSeconds,
    ) -> Result<Labelled, StoreError> {
        let by = by.to_owned();
        self.write(1, move |c| {
            let Some(n) = registry::number(c, device)? else { return Ok(Labelled::Unknown) };
            let before = of(c, n)?;
            let mut after = before.clone();
            for LabelChange { key, value } in &changes {
                match value {
                    Some(value) => after.insert(key.clone(), value.clone()),
                    None => after.remove(key),
                };
            }
            if after.len() > MAX_LABELS {
                return Ok(Labelled::TooMany);
            }
            let changed: Vec<_> =
                changes.iter().filter(|change| before.get(&change.key) != after.get(&change.key)).collect();
            for change in &changed {
                write(c, n, change)?;
            }
            if !changed.is_empty() {
                let said = |change: &&LabelChange| format!("{}={}", change.key, change.value().unwrap_or(""));
                let note = changed.iter().map(said).collect::<Vec<_>>().join(" ");
                registry::note_in_history(c, device, n, What::Labelled, Some(&note), Some(&by), now)?;
            }
            Ok(Labelled::Done)
        })
    }
}

fn write(c: &Connection, n: i64, change: &LabelChange) -> Sql<()> {
    match &change.value {
        Some(value) => c.execute(
            "INSERT INTO label (device, key, value) VALUES (?1, ?2, ?3) \
             ON CONFLICT (device, key) DO UPDATE SET value = excluded.value",
            params![n, change.key, value],
        ),
        None => c.execute("DELETE FROM label WHERE device = ?1 AND key = ?2", params![n, change.key]),
    }
    .map(drop)
}

/// The labels of device number `n`.
pub(super) fn of(c: &Connection, n: i64) -> Sql<BTreeMap<String, String>> {
    let mut select = c.prepare_cached("SELECT key, value FROM label WHERE device = ?1")?;
    select.query_map([n], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}
