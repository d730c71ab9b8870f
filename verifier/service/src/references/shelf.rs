//! The folder of signed documents, and the last good copy of each beside the store: in go both, trust and policy; out
//! comes the set that counts, with what was refused and why.
//!
//! A file that is refused leaves its last good copy in force, as long as that copy would be accepted today: what a signer
//! has lost trust for does not live on. Files that contradict each other, or what was in force before, leave the whole last
//! set in force, which is what the copies are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use appraisal::{Policy, UnixSeconds};
use reference_values::{Kind, ReferenceIndex, Signer, Trust, Unusable};

use super::{
    document::{self, Fault, Title, UNREADABLE, Verified},
    files::{self, Incoming},
};
use crate::{limits::MAX_DOCUMENT_FILE, store::Reached};

/// Ending of files that are documents.
pub(super) const EXTENSION: &str = "corim";

/// A file that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its name in the folder.
    pub file: String,
    /// Why.
    pub fault: Fault,
    /// Whether its last good copy is in force in its place.
    pub held: bool,
}

/// A document that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Its name in the folder.
    pub file: String,
    /// What it is.
    pub title: Title,
    /// When it ends.
    pub expires: Option<UnixSeconds>,
    /// Who vouches for it.
    pub signers: Vec<Signer>,
    pub(super) content: [u8; 32],
}

/// A set that counts.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Compiled.
    pub index: ReferenceIndex,
    /// What it was compiled from.
    pub in_force: Vec<InForce>,
    /// What does not count.
    pub refused: Vec<Refused>,
    /// Why the last set is in force instead of what the folder holds.
    pub problem: Option<Fault>,
    pub(super) copies: Copies,
}

/// Copies that are to be kept: written whole, not yet in their places.
#[derive(Debug, Default)]
pub(super) struct Copies {
    incoming: Vec<(String, Incoming)>,
    /// All that are in force, by name.
    keep: BTreeSet<String>,
}

/// A file that is not in the folder yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offered<'a> {
    pub(super) file: &'a str,
    pub(super) bytes: &'a [u8],
}

/// Both places, and what documents are held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shelf<'a> {
    pub(super) folder: &'a Path,
    pub(super) copies: &'a Path,
    pub(super) trust: &'a Trust,
    pub(super) policy: &'a Policy,
    pub(super) seen: &'a Reached,
    pub(super) now: UnixSeconds,
    /// Whether copies are made.
    pub(super) keeps: bool,
}

/// Why there is no set at all.
#[derive(Debug)]
pub(super) enum Nothing {
    /// A folder.
    Io(PathBuf, io::Error),
    /// The files contradict, and there is no last set.
    Unusable(Unusable),
}

/// What one walk through the folder came to.
#[derive(Default)]
struct Gathered {
    documents: Vec<Verified>,
    in_force: Vec<InForce>,
    refused: Vec<Refused>,
    copies: Copies,
}

impl Gathered {
    fn take(&mut self, file: String, document: Verified) {
        let title = Title::of(document.document());
        let (expires, signers) = (document.document().expires(), document.signers().to_vec());
        self.copies.keep.insert(file.clone());
        self.in_force.push(InForce { file, title, expires, signers, content: *document.content() });
        self.documents.push(document);
    }
}

/// Code of a document whose signer's trust has ended.
const EXPIRED_SIGNER: &str = "release.expired-signer";

impl Shelf<'_> {
    /// What counts now, with `offered` in its place in the folder.
    pub(super) fn load(&self, offered: Option<Offered<'_>>) -> Result<Loaded, Nothing> {
        let first = match self.compile(self.gather(offered, &BTreeMap::new())?) {
            // Copies in the places of those that lack a signature; a copy that lacks one too is refused in its turn.
            Ok((loaded, lacking)) if !lacking.is_empty() => {
                drop(loaded);
                self.compile(self.gather(offered, &lacking)?).map(|(loaded, _)| loaded)
            }
            other => other.map(|(loaded, _)| loaded),
        };
        let checked = first.and_then(|loaded| self.check_not_older(loaded));
        checked.or_else(|unusable| self.last(unusable))
    }

    /// Every file, or its copy.
    fn gather(&self, offered: Option<Offered<'_>>, lacking: &BTreeMap<String, Fault>) -> Result<Gathered, Nothing> {
        let failed = |error| Nothing::Io(self.folder.to_owned(), error);
        let mut names: BTreeSet<String> = files::look(self.folder, EXTENSION).map_err(failed)?.into_keys().collect();
        names.extend(offered.map(|offered| offered.file.to_owned()));
        let mut gathered = Gathered::default();
        for file in names {
            let read = match offered.filter(|offered| offered.file == file) {
                Some(offered) => document::verify(offered.bytes, self.trust, self.now).map(|d| (d, None)),
                None => self.read(&self.folder.join(&file)).map(|(document, bytes)| (document, Some(bytes))),
            };
            let fault = match (read, lacking.get(&file)) {
                (_, Some(fault)) => fault.clone(),
                (Err(fault), None) => fault,
                (Ok((document, bytes)), None) => {
                    let bytes = bytes.as_deref().or(offered.map(|offered| offered.bytes)).unwrap_or_default();
                    if self.keeps {
                        gathered.copies.incoming.extend(self.copy(&file, bytes)?);
                    }
                    gathered.take(file, document);
                    continue;
                }
            };
            let copy = self.read_copy(&file).ok();
            gathered.refused.push(Refused { file: file.clone(), fault, held: copy.is_some() });
            if let Some(document) = copy {
                gathered.take(file, document);
            }
        }
        Ok(gathered)
    }

    fn read(&self, path: &Path) -> Result<(Verified, Vec<u8>), Fault> {
        let bytes = files::read(path, MAX_DOCUMENT_FILE).map_err(|error| Fault::new(UNREADABLE, error))?;
        Ok((document::verify(&bytes, self.trust, self.now)?, bytes))
    }

    /// The copy of what was in force. A notice outlives the key that signed it: that trust in a key ended of itself must allow
    /// nothing again that was taken back. Who is no longer trusted at all is not heard.
    fn read_copy(&self, file: &str) -> Result<Verified, Fault> {
        let bytes =
            files::read(&self.copies.join(file), MAX_DOCUMENT_FILE).map_err(|error| Fault::new(UNREADABLE, error))?;
        match document::verify(&bytes, self.trust, self.now) {
            Err(fault) if fault.code == EXPIRED_SIGNER => {
                let as_it_was = document::verify(&bytes, self.trust, 0)?;
                if as_it_was.document().kind() == Kind::Notice { Ok(as_it_was) } else { Err(fault) }
            }
            read => read,
        }
    }

    /// The copy that `file` is to have, where it has another or none.
    fn copy(&self, file: &str, bytes: &[u8]) -> Result<Option<(String, Incoming)>, Nothing> {
        let path = self.copies.join(file);
        let length = u64::try_from(bytes.len()).ok();
        let same_length = fs::metadata(&path).is_ok_and(|metadata| Some(metadata.len()) == length);
        if same_length && files::read(&path, MAX_DOCUMENT_FILE).is_ok_and(|known| known == bytes) {
            return Ok(None);
        }
        let failed = |error| Nothing::Io(self.copies.to_owned(), error);
        Ok(Some((file.to_owned(), Incoming::write(self.copies, bytes, 0o600).map_err(failed)?)))
    }

    /// The index, and the files that lack the signature of a role.
    fn compile(&self, gathered: Gathered) -> Result<(Loaded, BTreeMap<String, Fault>), Unusable> {
        let Gathered { documents, mut in_force, mut refused, mut copies } = gathered;
        let built = document::build(documents, self.policy, self.now)?;
        let mut lacking = BTreeMap::new();
        for (content, fault) in built.refused {
            for document in in_force.extract_if(.., |document| document.content == content) {
                copies.keep.remove(&document.file);
                copies.incoming.retain(|(file, _)| *file != document.file);
                match refused.iter_mut().find(|refused| refused.file == document.file) {
                    Some(refused) => refused.held = false,
                    None => {
                        refused.push(Refused { file: document.file.clone(), fault: fault.clone(), held: false });
                        lacking.insert(document.file, fault.clone());
                    }
                }
            }
        }
        Ok((Loaded { index: built.index, in_force, refused, problem: None, copies }, lacking))
    }

    fn check_not_older(&self, loaded: Loaded) -> Result<Loaded, Unusable> {
        loaded.index.check_not_older(self.seen, self.trust, self.now).map(|()| loaded)
    }

    fn copied(&self) -> Vec<String> {
        files::look(self.copies, EXTENSION).unwrap_or_default().into_keys().collect()
    }

    /// The last set that was accepted, less what is not trusted any more.
    fn last(&self, unusable: Unusable) -> Result<Loaded, Nothing> {
        let mut gathered = Gathered::default();
        let copied = self.copied();
        if copied.is_empty() {
            return Err(Nothing::Unusable(unusable));
        }
        for file in copied {
            if let Ok(document) = self.read_copy(&file) {
                gathered.take(file, document);
            }
        }
        let (mut loaded, _) = self.compile(gathered).map_err(Nothing::Unusable)?;
        loaded.refused.clear();
        loaded.problem = Some(Fault::new(document::unusable_code(&unusable), unusable));
        Ok(loaded)
    }

    /// Puts the copies in their places, after everything else has been found good, and removes what is left of an earlier
    /// set.
    pub(super) fn keep(&self, copies: Copies) -> io::Result<()> {
        for (file, incoming) in copies.incoming {
            incoming.name(&self.copies.join(file))?;
        }
        files::settle(self.copies)?;
        for name in self.copied().into_iter().filter(|name| !copies.keep.contains(name)) {
            fs::remove_file(self.copies.join(name))?;
        }
        Ok(())
    }
}
