//! Where reference values come into force: in go changes of the folder, documents that operators publish, and calls to read
//! everything anew; out come [`Rules`] that everyone takes from then on, and what an operator has to see to.
//!
//! One at a time, on threads that may block: whoever judges meanwhile goes on by the rules that he has, and new ones take
//! their place in one step. What cannot be taken leaves what is in force.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use appraisal::UnixSeconds;
use data_encoding::HEXLOWER;
use evidence::pcr::sha256;
use reference_values::{ReferenceIndex, Retired};
use thiserror::Error;
use tokio::{sync::watch, time::MissedTickBehavior};

use super::{
    Ground, Rules, RulesError,
    document::{self, Fault, Title},
    files::{self, Incoming, Look},
    shelf::{EXTENSION, InForce, Loaded, Nothing, Offered, Refused, Shelf},
};
use crate::{
    clock::ClockGuard,
    config::Config,
    http::Readiness,
    limits::{MAX_DOCUMENT_FILE, REFERENCE_LOOK, REFERENCE_RETRY},
    store::Store,
};

/// Name of what readiness warns of.
const WARNING: &str = "reference-values";
/// Code of what keeps everything from being read anew.
const UNUSABLE: &str = "rules.unusable";

/// How the documents stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// What counts, by file.
    pub in_force: Vec<InForce>,
    /// What does not.
    pub refused: Vec<Refused>,
    /// Why what was in force before is so still, or less than the folder holds.
    pub problem: Option<Fault>,
}

/// A document that is in force now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// What it is.
    pub title: Title,
    /// Its file in the folder.
    pub file: String,
    /// Products that stand otherwise than before.
    pub affected: Vec<String>,
}

/// Why a document is not published. Nothing has changed.
#[derive(Debug, Error)]
pub enum PublishError {
    /// By itself.
    #[error("{}", .0.why)]
    Refused(Fault),
    /// Beside what is in force.
    #[error("{}", .0.why)]
    Clash(Fault),
    /// It could not be written.
    #[error("cannot write to {}: {source}; nothing was published", path.display())]
    Unwritable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Trust, store or folder.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// What is kept between two changes.
struct State {
    config: Config,
    /// The folders as they were read, and as they were at the last look.
    read: Option<Folders>,
    looked: Option<Folders>,
    next_change: Option<UnixSeconds>,
    /// When what could not be taken is tried again.
    retry: Option<Instant>,
    retired: Retired<ReferenceIndex>,
    time: UnixSeconds,
}

type Folders = (Look, Look);

/// See the module.
pub struct Desk {
    store: Store,
    ready: Arc<Readiness>,
    clock: fn() -> UnixSeconds,
    guard: ClockGuard,
    rules: watch::Sender<Arc<Rules>>,
    status: watch::Sender<Arc<Status>>,
    state: Mutex<State>,
}

impl Desk {
    /// Reads everything for the first time.
    ///
    /// # Errors
    /// [`RulesError`] where the service cannot start by what it finds.
    pub fn open(
        config: &Config,
        store: &Store,
        ready: Arc<Readiness>,
        clock: fn() -> UnixSeconds,
    ) -> Result<Self, RulesError> {
        let latest = store.epochs()?.latest;
        let guard = ClockGuard::new(clock(), latest);
        let copies = copies(config);
        make_private(&copies).map_err(|source| RulesError::Io { path: copies.clone(), source })?;
        files::sweep(&copies, clock());
        files::sweep(&config.reference_values, clock());
        let ground = Ground::read(config)?;
        let state = State {
            config: config.clone(),
            read: None,
            looked: None,
            next_change: None,
            retry: None,
            retired: Retired::default(),
            time: latest,
        };
        let empty = Rules { references: Arc::default(), policy: ground.policy.clone(), roots: ground.roots.clone() };
        let desk = Self {
            store: store.clone(),
            ready,
            clock,
            guard,
            rules: watch::Sender::new(Arc::new(empty)),
            status: watch::Sender::default(),
            state: Mutex::new(state),
        };
        desk.take(&mut desk.lock(), ground, None)?;
        desk.rules().say();
        Ok(desk)
    }

    /// What is in force.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.borrow())
    }

    /// What is in force, and each time that it changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Rules>> {
        self.rules.subscribe()
    }

    /// How the documents stand.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads everything anew: policy, roots, deny list, trust and documents. Blocks.
    ///
    /// # Errors
    /// [`RulesError`]; what is in force stays.
    pub fn reload(&self, config: &Config) -> Result<(), RulesError> {
        let mut state = self.lock();
        let done = Ground::read(config).and_then(|ground| {
            state.config = config.clone();
            self.take(&mut state, ground, None).map(drop)
        });
        self.note(&done);
        done.inspect(|()| self.rules().say())
    }

    /// Reads trust and documents anew. Blocks.
    fn refresh(&self, state: &mut State) -> Result<(), RulesError> {
        let done = self.ground(state).and_then(|ground| self.take(state, ground, None).map(drop));
        self.note(&done);
        done
    }

    /// Present policy and roots, with the trust as the folder has it now.
    fn ground(&self, state: &State) -> Result<Ground, RulesError> {
        let rules = self.rules();
        let trust = super::read_trust(&state.config.trust)?;
        Ok(Ground { policy: rules.policy.clone(), roots: Arc::clone(&rules.roots), trust })
    }

    /// An operator is told of what could not be read, too.
    fn note(&self, done: &Result<(), RulesError>) {
        if let Err(error) = done {
            tracing::error!("not reloaded, what was in force stays: {error}");
            let problem = Some(Fault::new(UNUSABLE, error));
            self.show(Status { problem, ..Status::clone(&self.status()) });
        }
    }

    fn show(&self, status: Status) {
        self.ready.warn(WARNING, status.problem.is_some() || !status.refused.is_empty());
        let before = self.status();
        for Refused { file, fault, held } in status.refused.iter().filter(|refused| !before.refused.contains(refused)) {
            let held = if *held { "; its last good copy stays in force" } else { " and does not count" };
            tracing::error!("{file} is refused{held}: {}: {}", fault.code, fault.why);
        }
        if let Some(problem) = status.problem.as_ref().filter(|problem| before.problem.as_ref() != Some(problem)) {
            tracing::error!("reference values stay as they were: {}: {}", problem.code, problem.why);
        }
        self.status.send_replace(Arc::new(status));
    }

    /// A time that goes by the system's clock while that is right, and never back.
    fn time(&self, state: &mut State) -> UnixSeconds {
        let time = self.guard.check((self.clock)()).unwrap_or(state.time);
        state.time = time.max(state.time);
        state.time
    }

    /// Takes what the folder holds, with `offered` in it.
    fn take(&self, state: &mut State, ground: Ground, offered: Option<Offered<'_>>) -> Result<Vec<String>, RulesError> {
        let now = self.time(state);
        let (folder, copies) = (state.config.reference_values.clone(), copies(&state.config));
        let folders = look(&state.config);
        let seen = self.store.reached()?;
        let shelf = Shelf {
            folder: &folder,
            copies: &copies,
            trust: &ground.trust,
            policy: &ground.policy,
            seen: &seen,
            now,
            keeps: true,
        };
        state.retry = Some(Instant::now() + REFERENCE_RETRY);
        let loaded = shelf.load(offered).map_err(|nothing| failed(&folder, nothing))?;
        let Loaded { index, mut in_force, refused, problem, copies: to_keep } = loaded;
        if let Some(offered) = offered {
            accepted(offered, &refused, problem.as_ref())?;
        }
        if problem.is_none() {
            let incoming = offered.map(|offered| Incoming::write(&folder, offered.bytes, 0o644)).transpose();
            let unwritable = |path: &Path| {
                let path = path.to_owned();
                move |source| RulesError::Unwritable { path, source }
            };
            let incoming = incoming.map_err(unwritable(&folder))?;
            if let (Some(incoming), Some(offered)) = (incoming, offered) {
                incoming.name(&folder.join(offered.file)).map_err(unwritable(&folder))?;
                files::settle(&folder).map_err(unwritable(&folder))?;
            }
            shelf.keep(to_keep).map_err(unwritable(&copies))?;
            self.store.reach(index.series_after(seen.clone()))?;
        }
        in_force.sort_by(|a, b| a.file.cmp(&b.file));
        let affected = self.swap(state, index, &in_force, &ground, now);
        state.retry = None;
        // Its own writing is no change to be looked into, and what came meanwhile is one.
        state.read = if offered.is_some() { look(&state.config) } else { folders };
        self.show(Status { in_force, refused, problem });
        Ok(affected)
    }

    /// Puts a set in force, in one step; where it decides as the last did, that one stays. The products concerned.
    fn swap(
        &self,
        state: &mut State,
        index: ReferenceIndex,
        in_force: &[InForce],
        ground: &Ground,
        now: UnixSeconds,
    ) -> Vec<String> {
        let before = self.rules();
        let same = before.policy == ground.policy
            && Arc::ptr_eq(&before.roots, &ground.roots)
            && self.status().in_force == in_force
            && state.next_change.is_none_or(|change| now < change);
        if same {
            return Vec::new();
        }
        state.next_change = index.next_change(now);
        let affected = document::affected(&index, &before.references);
        let (policy, roots) = (ground.policy.clone(), Arc::clone(&ground.roots));
        state.retired.keep(Arc::clone(&before.references));
        drop(before);
        self.rules.send_replace(Arc::new(Rules { references: Arc::new(index), policy, roots }));
        affected
    }

    /// Checks a document against trust, policy and everything in force, and puts it into the folder and in force. Blocks.
    ///
    /// # Errors
    /// [`PublishError`]; then nothing has changed.
    pub fn publish(&self, bytes: &[u8]) -> Result<Published, PublishError> {
        let mut state = self.lock();
        let ground = self.ground(&state)?;
        let now = self.time(&mut state);
        let document = document::verify(bytes, &ground.trust, now).map_err(PublishError::Refused)?;
        let title = Title::of(document.document());
        self.check_sequence(&title, document.content())?;
        drop(document);
        let file = file_for(&state.config.reference_values, &title, bytes);
        let affected =
            self.take(&mut state, ground, Some(Offered { file: &file, bytes })).map_err(|error| match error {
                RulesError::Offered { fault, clash: false } => PublishError::Refused(fault),
                RulesError::Offered { fault, clash: true } => PublishError::Clash(fault),
                RulesError::Unwritable { path, source } => PublishError::Unwritable { path, source },
                other => PublishError::Rules(other),
            })?;
        let Title { product, kind, name, sequence } = &title;
        tracing::info!("{kind} {product} {name}, sequence {sequence}, is published as {file}");
        Ok(Published { title, file, affected })
    }

    /// Its own file would be replaced: what is in force must not be newer, nor another under the same number.
    fn check_sequence(&self, title: &Title, content: &[u8; 32]) -> Result<(), PublishError> {
        let named = |known: &&InForce| {
            let Title { product, kind, name, .. } = &known.title;
            (product, kind, name) == (&title.product, &title.kind, &title.name)
        };
        for known in self.status().in_force.iter().filter(named) {
            let (there, offered) = (known.title.sequence, title.sequence);
            if there > offered {
                let why = format!(
                    "{} {} has sequence {offered}, but {there} is in force ({})",
                    title.product, title.name, known.file
                );
                return Err(PublishError::Clash(Fault::new("release.older", why)));
            }
            if there == offered && known.content != *content {
                let why = format!(
                    "another {} {} with sequence {offered} is in force ({}); build it with a higher --sequence",
                    title.product, title.name, known.file
                );
                return Err(PublishError::Clash(Fault::new("release.conflict", why)));
            }
        }
        Ok(())
    }

    /// Looks at the folders for as long as the service runs.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(REFERENCE_LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let desk = Arc::clone(&self);
            // Only the end of the program keeps it from ending.
            drop(tokio::task::spawn_blocking(move || desk.look()).await);
        }
    }

    /// One look. A folder that has changed is read once it looks the same twice: what is being copied is not there yet.
    pub(crate) fn look(&self) {
        let mut state = self.lock();
        state.retired.drop_unused();
        let folders = look(&state.config);
        let now = self.time(&mut state);
        let due = state.next_change.is_some_and(|change| change <= now)
            || state.retry.is_some_and(|again| again <= Instant::now());
        let changed = folders != state.read;
        let rests = folders == state.looked;
        state.looked = folders;
        if due || (changed && rests) {
            drop(self.refresh(&mut state));
            if state.retry.is_some() {
                // Not again before then, unless it changes.
                state.read = state.looked.clone();
            }
        }
    }
}

/// A file refused as published is refused to whoever publishes it, and so is a set with it that cannot be.
fn accepted(offered: Offered<'_>, refused: &[Refused], problem: Option<&Fault>) -> Result<(), RulesError> {
    if let Some(problem) = problem {
        return Err(RulesError::Offered { fault: problem.clone(), clash: true });
    }
    match refused.iter().find(|refused| refused.file == offered.file) {
        Some(refused) => Err(RulesError::Offered { fault: refused.fault.clone(), clash: false }),
        None => Ok(()),
    }
}

/// Beside the store.
pub(crate) fn copies(config: &Config) -> PathBuf {
    config.data_dir.join("references")
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn look(config: &Config) -> Option<Folders> {
    Some((files::look(&config.reference_values, EXTENSION).ok()?, files::look(&config.trust, "toml").ok()?))
}

pub(super) fn failed(folder: &Path, nothing: Nothing) -> RulesError {
    match nothing {
        Nothing::Io(path, source) => RulesError::Io { path, source },
        Nothing::Unusable(source) => RulesError::Unusable { path: folder.to_owned(), source },
    }
}

/// The name that a published document has in the folder. An edition takes the place of the one before; what else has that
/// name, or the same content with other signatures, stays beside it.
fn file_for(folder: &Path, title: &Title, bytes: &[u8]) -> String {
    let kind = if title.kind == "release" { String::new() } else { format!("{}~", title.kind) };
    let stem = format!("{}~{kind}{}", files::safe(&title.product), files::safe(&title.name));
    let usual = format!("{stem}.{EXTENSION}");
    match files::read(&folder.join(&usual), MAX_DOCUMENT_FILE) {
        Ok(known) if !document::replaces(bytes, title, &known) => {
            format!("{stem}~{}.{EXTENSION}", HEXLOWER.encode(sha256(bytes).split_at(8).0))
        }
        _ => usual,
    }
}
