//! `diff`: what changed between two documents of one kind. Of a file, what decides is the digest; the path tells which file it was.

use std::collections::{BTreeMap, BTreeSet};

use reference_values::{BootPcrs, Document, Executable, Release};
use serde::Serialize;

use super::{
    Summary, count, hex,
    notices::Lines,
    pcrs, print_json,
    rules::{self, Change},
};
use crate::{cli::Diff, failure::Failure, files};

/// `diff --json`.
#[derive(Serialize)]
struct Difference {
    from: Summary,
    to: Summary,
    #[serde(flatten)]
    changes: Changes,
}

/// By kind.
#[derive(Serialize)]
#[serde(untagged)]
enum Changes {
    Releases(Box<Between>),
    Lines(Lines),
}

#[derive(Serialize)]
struct Between {
    /// Same path, other content.
    changed: Vec<Changed>,
    added: Vec<File>,
    removed: Vec<File>,
    /// Same content, other path: the same files may run.
    moved: Vec<Moved>,
    boots_added: Vec<BTreeMap<u8, String>>,
    boots_removed: Vec<BTreeMap<u8, String>>,
    /// In boot rules and IMA policies.
    boot_changes: Vec<Change>,
}

#[derive(Serialize)]
struct File {
    path: String,
    sha256: String,
}

#[derive(Serialize)]
struct Changed {
    path: String,
    from: String,
    to: String,
}

#[derive(Serialize)]
struct Moved {
    from: String,
    to: String,
    sha256: String,
}

pub(crate) fn run(arguments: &Diff) -> Result<(), Failure> {
    let (from, to) = (files::read_document(&arguments.from)?, files::read_document(&arguments.to)?);
    let (from, to) = (from.document(), to.document());
    let changes = match (from, to) {
        (Document::Release(from), Document::Release(to)) => Changes::Releases(Box::new(Between::releases(from, to))),
        (Document::Endorsements(from), Document::Endorsements(to)) => Changes::Lines(Lines::of_lists(from, to)),
        (Document::Notice(from), Document::Notice(to)) => Changes::Lines(Lines::of_notices(from, to)),
        (from, to) => {
            let why = format!("one file is of kind {}, the other {}: give two of one kind", from.kind(), to.kind());
            return Err(Failure::Usage(why));
        }
    };
    let difference = Difference { from: Summary::of(from), to: Summary::of(to), changes };
    if arguments.json { print_json(&difference) } else { files::print(&difference.text()) }
}

impl Difference {
    fn text(&self) -> String {
        let changes = match &self.changes {
            Changes::Releases(changes) => changes.text(),
            Changes::Lines(lines) => lines.text(),
        };
        format!("from {}to   {}\n{changes}", self.from.lines(), self.to.lines())
    }
}

impl Between {
    fn releases(from: &Release, to: &Release) -> Self {
        let (before, after) = (by_digest(from), by_digest(to));
        let moved = before.iter().filter_map(|(digest, path)| {
            let new = after.get(digest).filter(|new| *new != path)?;
            Some(Moved { from: (*path).into(), to: (*new).into(), sha256: hex(*digest) })
        });
        // One path may stand for several digests, so pairs are made one by one.
        let mut removed = only_in(&before, &after).into_iter().peekable();
        let (mut changed, mut added, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for (path, digest) in only_in(&after, &before) {
            gone.extend(std::iter::from_fn(|| removed.next_if(|(old, _)| *old < path)));
            match removed.next_if(|(old, _)| *old == path) {
                Some((_, old)) => changed.push(Changed { path: path.into(), from: hex(old), to: hex(digest) }),
                None => added.push(File { path: path.into(), sha256: hex(digest) }),
            }
        }
        gone.extend(removed);
        Self {
            changed,
            added,
            removed: gone.into_iter().map(|(path, d)| File { path: path.into(), sha256: hex(d) }).collect(),
            moved: moved.collect(),
            boots_added: boots_only_in(to, from),
            boots_removed: boots_only_in(from, to),
            boot_changes: rules::changes(from, to),
        }
    }

    fn text(&self) -> String {
        let Self { changed, added, removed, moved, boots_added, boots_removed, boot_changes } = self;
        let mut out = String::new();
        for Changed { path, from, to } in changed {
            out.push_str(&format!("~ {path}\n    {from}\n    {to}\n"));
        }
        for File { path, sha256 } in added {
            out.push_str(&format!("+ {path}\n    {sha256}\n"));
        }
        for File { path, sha256 } in removed {
            out.push_str(&format!("- {path}\n    {sha256}\n"));
        }
        for Moved { from, to, .. } in moved {
            out.push_str(&format!("= {from}\n    is now {to}\n"));
        }
        boot_changes.iter().for_each(|change| out.push_str(&change.text()));
        out.push_str(&format!(
            "{} changed, {} added, {} removed, {} moved; {} added, {} removed; {} in boot rules\n",
            count(changed.len(), "executable", "executables"),
            added.len(),
            removed.len(),
            moved.len(),
            count(boots_added.len(), "boot", "boots"),
            boots_removed.len(),
            count(boot_changes.len(), "change", "changes"),
        ));
        out
    }
}

fn by_digest(release: &Release) -> BTreeMap<&[u8; 32], &str> {
    release.executables().iter().map(|Executable { digest, path }| (digest, path.as_str())).collect()
}

/// What is in one release alone, in order of path.
fn only_in<'a>(
    one: &BTreeMap<&'a [u8; 32], &'a str>,
    other: &BTreeMap<&[u8; 32], &str>,
) -> Vec<(&'a str, &'a [u8; 32])> {
    let mut own =
        one.iter().filter(|(digest, _)| !other.contains_key(*digest)).map(|(d, p)| (*p, *d)).collect::<Vec<_>>();
    own.sort_unstable();
    own
}

fn boots_only_in(one: &Release, other: &Release) -> Vec<BTreeMap<u8, String>> {
    let known = other.boots().iter().collect::<BTreeSet<&BootPcrs>>();
    one.boots().iter().filter(|boot| !known.contains(boot)).map(pcrs).collect()
}
