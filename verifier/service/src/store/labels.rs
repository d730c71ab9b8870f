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
        let printable = |value: &str| {
            (1..=MAX_LABEL_VALUE).contains(&value.chars().count()) && !value.chars().any(char::is_control)
        };
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

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Filter,
            tests::{NOW, id, registration, store},
        },
        *,
    };

    fn set(key: &str, value: &str) -> LabelChange {
        LabelChange::new(key, Some(value)).unwrap()
    }

    #[test]
    fn labels_are_set_replaced_removed_and_found_by() {
        let (_folder, store) = store();
        for number in 1..3 {
            store.register(registration(number)).unwrap();
        }
        let label = |number, changes: Vec<LabelChange>| store.label(id(number), changes, "ada", NOW).unwrap();
        assert_eq!(label(1, vec![set("site", "Tromsø 7"), set("rack", "12")]), Labelled::Done);
        assert_eq!(label(1, vec![LabelChange::new("rack", None).unwrap(), set("site", "Bodø")]), Labelled::Done);
        assert_eq!(label(3, vec![set("site", "x")]), Labelled::Unknown);
        let shown = store.device(id(1), NOW).unwrap().unwrap().summary.labels;
        assert_eq!(shown.into_iter().collect::<Vec<_>>(), [("site".to_owned(), "Bodø".to_owned())]);
        let filter = |value: &str| Filter { label: Some(("site".into(), value.into())), ..Filter::default() };
        let found = store.devices(&filter("Bodø"), NOW).unwrap();
        assert_eq!((found.total, found.devices[0].id), (1, id(1)));
        assert_eq!(store.devices(&filter("Tromsø 7"), NOW).unwrap().total, 0);
        let last = store.history(id(1), NOW).unwrap().pop().unwrap();
        assert_eq!((last.what, last.who.as_deref()), (What::Labelled, Some("ada")));
        assert_eq!(last.note.as_deref(), Some("rack= site=Bodø"));
        // What is as asked already is no news.
        label(1, vec![set("site", "Bodø")]);
        assert_eq!(store.history(id(1), NOW).unwrap().len(), 3);
    }

    #[test]
    fn a_device_has_so_many_labels_and_no_more() {
        let (_folder, store) = store();
        store.register(registration(1)).unwrap();
        let many = (0..=MAX_LABELS).map(|n| set(&format!("k{n}"), "v")).collect::<Vec<_>>();
        assert_eq!(store.label(id(1), many.clone(), "ada", NOW), Ok(Labelled::TooMany));
        assert!(store.device(id(1), NOW).unwrap().unwrap().summary.labels.is_empty());
        assert_eq!(store.label(id(1), many[1..].to_vec(), "ada", NOW), Ok(Labelled::Done));
        // Replacing one needs no room.
        assert_eq!(store.label(id(1), vec![set("k1", "w")], "ada", NOW), Ok(Labelled::Done));
    }

    #[test]
    fn what_cannot_be_a_label_is_refused() {
        for key in ["", "A", "a b", "ä", "a=b", &"k".repeat(33)] {
            assert!(matches!(LabelChange::new(key, Some("v")), Err(BadLabel::Key(_))), "{key}");
        }
        for value in ["", "a\nb", "\u{1b}[2J", &"v".repeat(129)] {
            assert!(matches!(LabelChange::new("k", Some(value)), Err(BadLabel::Value(_))), "{value:?}");
        }
        assert!(LabelChange::new("a.b_c-9", Some(&"é".repeat(128))).is_ok());
    }
}
