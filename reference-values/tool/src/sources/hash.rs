//! Hashing: in, a list of files and a way to open each; out, what can run among them, each with its digests.
//!
//! Every core takes the next file, the largest first, so that the last one to end has little left. What comes out does
//! not depend on which core took what.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    thread,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reference_values::{BootImage, Executable, FurtherDigests, ImageKind};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};
use tracing::debug;

use super::{
    Algorithm, Found, Options,
    content::{self, Kind},
    limits::{BEGINNING, BLOCK, MAX_IMAGE, MAX_MEASURED, MAX_TOTAL},
    quiet,
    unpack::{Compression, fill},
};
use crate::{boot::pe::Pe, failure::Failure, sources::readable};

/// One regular file of a source.
pub(super) struct Entry<At> {
    /// From the root on; of several names, the first in order.
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// Whether it has an executable bit.
    pub(super) executable: bool,
    /// Where its source finds it.
    pub(super) at: At,
}

/// Where files are opened.
pub(super) trait Source: Sync {
    /// Where one file is.
    type At: Send + Sync;
    /// What each thread opens files with.
    type Opener;

    fn opener(&self) -> io::Result<Self::Opener>;

    fn open<'o>(&'o self, opener: &'o Self::Opener, entry: &'o Entry<Self::At>) -> io::Result<Box<dyn Read + 'o>>;

    /// The failure for what cannot be read, of the kind that fits the source.
    fn failed(&self, doing: &str, path: &Path, error: io::Error) -> Failure;

    /// The name of a file for people.
    fn shown(&self, path: &Path) -> String;
}

/// Measures what can run among the entries.
pub(super) fn measure<S: Source>(
    source: &S,
    mut entries: Vec<Entry<S::At>>,
    options: &Options,
) -> Result<Found, Failure> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut order = (0..entries.len()).collect::<Vec<_>>();
    order.sort_by_key(|&at| std::cmp::Reverse(entries.get(at).map(|entry| entry.size)));
    let queue = Queue {
        source,
        entries: &entries,
        order,
        options,
        next: AtomicUsize::new(0),
        hashed: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        progress: progress(entries.len(), options),
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(entries.len()).max(1);
    let done = thread::scope(|scope| {
        let workers = (0..threads).map(|_| scope.spawn(|| queue.work())).collect::<Vec<_>>();
        workers.into_iter().map(|worker| worker.join().unwrap_or_default()).collect::<Vec<_>>()
    });
    queue.progress.finish_and_clear();
    let mut all = done.into_iter().flatten().collect::<Vec<_>>();
    all.sort_by_key(|(at, _)| *at);
    let mut found = Found::default();
    for (_, outcome) in all {
        found.add(outcome?);
    }
    Ok(found)
}

/// A bar on stderr where that is a terminal.
fn progress(files: usize, options: &Options) -> ProgressBar {
    let target = if options.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(files as u64), target);
    let style = ProgressStyle::with_template("measuring {bar:40} {pos}/{len} files, {eta} left");
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

/// One file that counts.
pub(super) struct Measured {
    pub(super) executable: Executable,
    pub(super) further: Option<FurtherDigests>,
    /// Of a kernel, initrd or EFI program.
    pub(super) image: Option<BootImage>,
}

type Outcomes = Vec<(usize, Result<Measured, Failure>)>;

struct Queue<'a, S: Source> {
    source: &'a S,
    entries: &'a [Entry<S::At>],
    /// Numbers of entries, the largest file first.
    order: Vec<usize>,
    options: &'a Options,
    next: AtomicUsize,
    hashed: AtomicU64,
    /// Set once something failed.
    stop: AtomicBool,
    progress: ProgressBar,
}

impl<S: Source> Queue<'_, S> {
    /// What one thread does: a file after the other, until none is left.
    fn work(&self) -> Outcomes {
        let mut out = Vec::new();
        let opener = match quiet::contained(|| self.source.opener()) {
            Ok(opener) => opener,
            Err(error) => return vec![(0, Err(self.source.failed("read", Path::new("/"), error)))],
        };
        let mut block = vec![0; BLOCK];
        while !self.stop.load(Ordering::Relaxed) {
            let Some(&at) = self.order.get(self.next.fetch_add(1, Ordering::Relaxed)) else { break };
            let Some(entry) = self.entries.get(at) else { break };
            let outcome = quiet::contained(|| Ok(self.file(&opener, entry, &mut block)))
                .unwrap_or_else(|error| Err(self.source.failed("read", &entry.path, error)));
            self.progress.inc(1);
            if let Some(outcome) = outcome.transpose() {
                if outcome.is_err() {
                    self.stop.store(true, Ordering::Relaxed);
                }
                out.push((at, outcome));
            }
        }
        out
    }

    fn file(&self, opener: &S::Opener, entry: &Entry<S::At>, block: &mut [u8]) -> Result<Option<Measured>, Failure> {
        let path = &entry.path;
        let failed = |error| self.source.failed("read", path, error);
        let mut file = self.source.open(opener, entry).map_err(failed)?;
        let mut filled = fill(&mut file, &mut block[..BEGINNING]).map_err(failed)?;
        let mut beginning = Vec::new();
        if let Some(compression) = Compression::of(&block[..filled]) {
            beginning.extend_from_slice(&block[..filled]);
            let more = (compression.first_block() - filled) as u64;
            file.by_ref().take(more).read_to_end(&mut beginning).map_err(failed)?;
        }
        let known = if beginning.is_empty() { &block[..filled] } else { &beginning };
        let kind = Kind::of(path, known);
        if kind == Kind::Data && !entry.executable {
            return Ok(None);
        }
        self.check_size(entry)?;
        debug!("{}", path.display());
        let mut digests = Digests::new(&self.options.further);
        let mut whole = Vec::new();
        let keep = kind == Kind::Pe && entry.size <= MAX_IMAGE;
        if !beginning.is_empty() {
            digests.update(&beginning);
            filled = fill(&mut file, block).map_err(failed)?;
        }
        let mut total = beginning.len() as u64;
        while filled > 0 {
            digests.update(&block[..filled]);
            if keep {
                whole.extend_from_slice(&block[..filled]);
            }
            total = total.saturating_add(filled as u64);
            if total > MAX_MEASURED {
                return Err(self.refused(path, "it grows while it is read"));
            }
            filled = fill(&mut file, block).map_err(failed)?;
        }
        let (digest, further) = digests.finish();
        let executable = Executable { digest, path: readable(path) };
        let image = match kind {
            Kind::Boots(kind) => Some((kind, None)),
            Kind::Pe if keep => boots(&whole).map(|(kind, pe)| (kind, Some(pe))),
            _ => None,
        };
        let image = image.map(|(kind, pe)| image_of(kind, pe, &executable));
        // A program for another system.
        if kind == Kind::Pe && image.is_none() && !entry.executable {
            return Ok(None);
        }
        Ok(Some(Measured { executable, further, image }))
    }

    fn check_size(&self, entry: &Entry<S::At>) -> Result<(), Failure> {
        if entry.size > MAX_MEASURED {
            return Err(self.refused(
                &entry.path,
                &format!(
                    "it can run and has {} bytes, more than {MAX_MEASURED}: remove it, or its executable bit",
                    entry.size
                ),
            ));
        }
        let hashed = self.hashed.fetch_add(entry.size, Ordering::Relaxed).saturating_add(entry.size);
        if hashed > MAX_TOTAL {
            return Err(self.refused(&entry.path, &format!("more than {MAX_TOTAL} bytes can run")));
        }
        Ok(())
    }

    fn refused(&self, path: &Path, why: &str) -> Failure {
        Failure::Usage(format!("{}: {why}", self.source.shown(path)))
    }
}

/// What a PE image is to a boot; `None` for programs of other systems, and what only looks like one.
fn boots(bytes: &[u8]) -> Option<(ImageKind, Pe<'_>)> {
    let pe = Pe::read(bytes).ok()?;
    let kind = match () {
        () if !pe.is_efi() => return None,
        () if pe.sections.iter().any(|(name, _)| name == ".linux") => ImageKind::Uki,
        () if content::is_kernel(bytes) => ImageKind::Kernel,
        () => ImageKind::Loader,
    };
    Some((kind, pe))
}

fn image_of(kind: ImageKind, pe: Option<Pe<'_>>, file: &Executable) -> BootImage {
    let sections = match (&pe, kind) {
        (Some(pe), ImageKind::Uki) => pe.section_digests(),
        _ => Vec::new(),
    };
    let authenticode = pe.map(|pe| pe.authenticode);
    BootImage { kind, digest: file.digest, authenticode, sections, path: file.path.clone() }
}

/// SHA-256 of a file, and what else was asked for.
struct Digests {
    sha256: Context,
    further: Vec<(Algorithm, Context)>,
}

impl Digests {
    fn new(further: &[Algorithm]) -> Self {
        let context = |algorithm: &Algorithm| {
            Context::new(match algorithm {
                Algorithm::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
                Algorithm::Sha384 => &SHA384,
                Algorithm::Sha512 => &SHA512,
            })
        };
        let further = further.iter().map(|algorithm| (*algorithm, context(algorithm))).collect();
        Self { sha256: Context::new(&SHA256), further }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.further.iter_mut().for_each(|(_, context)| context.update(bytes));
    }

    fn finish(self) -> ([u8; 32], Option<FurtherDigests>) {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.sha256.finish().as_ref());
        let mut further = (!self.further.is_empty()).then(FurtherDigests::default);
        for (algorithm, context) in self.further {
            let value = context.finish();
            let Some(into) = &mut further else { break };
            match algorithm {
                Algorithm::Sha1 => into.sha1 = value.as_ref().try_into().ok(),
                Algorithm::Sha384 => into.sha384 = value.as_ref().try_into().ok(),
                Algorithm::Sha512 => into.sha512 = value.as_ref().try_into().ok(),
            }
        }
        (digest, further)
    }
}
