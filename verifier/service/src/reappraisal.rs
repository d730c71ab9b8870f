//! New rules and the fleet: in goes each swap of reference values or policy; out come verdicts by them, from what the store
//! knows, without asking a device.
//!
//! One device of each posture is re-appraised, and every query goes by that at once. Rows, history and signed results
//! follow in pages, between the commits of evidence. Another swap begins anew; after a restart it goes on.
//!
//! Devices are not sent these results: they take one for evidence that they have just sent, and ask for it by sending more.

use std::{
    sync::{Arc, LazyLock},
    thread::available_parallelism,
    time::Duration,
};

use appraisal::{DeviceState, Held, UnixSeconds, reappraise};
use evidence::{cbor, cose::Sign1, pcr::sha256, result::AttestationResult, verifier_message::Purpose};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    ingest::{Verifier, told_causes, told_tolerated, told_vector},
    limits::{MAX_REJUDGED, MAX_UNPOSED},
    references::Rules,
    store::{Behind, Follow, HeldAgainst, Outcome, Outcomes, Posture, Store, StoreError},
};

/// How often it is looked for devices whose posture has to be worked out.
const LOOK: Duration = Duration::from_secs(5);
/// Pages after which it is looked for what operators have said meanwhile.
const PAGES: usize = 32;
/// Walks through the rows, where evidence by earlier rules keeps coming in behind.
const MAX_WALKS: usize = 4;

/// What a pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Rows say what the rules say.
    Done,
    /// The rules have changed again.
    Superseded,
}

/// Holds the fleet against each new set of rules; ends with the service.
pub async fn run(verifier: Arc<Verifier>) {
    let mut rules = verifier.rules.clone();
    let mut last: Option<Arc<Rules>> = None;
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let present = Arc::clone(&rules.borrow_and_update());
        match hold(&verifier, last.as_ref(), &present, &rules).await {
            Ok(Pass::Done) => last = Some(present),
            Ok(Pass::Superseded) => {
                last = Some(present);
                continue;
            }
            Err(error) => {
                tracing::error!("the fleet was not held against the present rules, and will be: {error}");
                sleep(LOOK).await;
                continue;
            }
        }
        loop {
            tokio::select! {
                changed = rules.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                _ = ticks.tick() => {
                    let (rules, store) = (Arc::clone(&present_of(&rules)), verifier.store.clone());
                    let tidy = move |_: &Store| work_out(&store, &rules).and_then(|()| store.drop_unused_postures());
                    if let Err(error) = verifier.store.off_thread(tidy).await {
                        tracing::warn!("postures are not worked out: {error}");
                    }
                }
            }
        }
    }
}

fn present_of(rules: &tokio::sync::watch::Receiver<Arc<Rules>>) -> Arc<Rules> {
    Arc::clone(&rules.borrow())
}

type Changes = tokio::sync::watch::Receiver<Arc<Rules>>;

/// Holds the fleet against `rules`.
async fn hold(
    verifier: &Arc<Verifier>,
    before: Option<&Arc<Rules>>,
    rules: &Arc<Rules>,
    changes: &Changes,
) -> Result<Pass, StoreError> {
    let at = loop {
        match verifier.time() {
            Some(now) => break now,
            None => sleep(LOOK).await,
        }
    };
    let (before, present) = (before.map(Arc::clone), Arc::clone(rules));
    let concerned = verifier.store.off_thread(move |store| overlay(store, before.as_deref(), &present, at)).await?;
    let Some(concerned) = concerned else { return Ok(Pass::Done) };
    rows(verifier, rules, &concerned, at, changes).await
}

/// Which devices other rules may show otherwise.
#[derive(Clone)]
struct Concerned {
    all: bool,
    changed: Option<(reference_values::Affected, reference_values::Affected)>,
    left: Vec<i64>,
}

impl Concerned {
    /// None where nothing is.
    fn by(
        store: &Store,
        before: Option<&Rules>,
        rules: &Rules,
        at: UnixSeconds,
    ) -> Result<(Self, HeldAgainst), StoreError> {
        let present = HeldAgainst { hash: name(rules), at };
        let last = store.held_against()?;
        let since = last.map_or(0, |last| last.at);
        let due = rules.references.affected_by_time(since, at);
        let left = store.rejudged()?;
        let same = last.is_some_and(|last| last.hash == present.hash);
        let concerned = match before {
            Some(before) if before.policy == rules.policy => {
                Self { all: false, changed: Some((rules.references.affected(&before.references), due)), left }
            }
            None if same => {
                Self { all: false, changed: Some((rules.references.affected(&rules.references), due)), left }
            }
            _ => Self { all: true, changed: None, left },
        };
        Ok((concerned, present))
    }

    fn is_nothing(&self) -> bool {
        let unchanged = self.changed.as_ref().is_some_and(|(by, due)| by.is_empty() && due.is_empty());
        !self.all && unchanged && self.left.is_empty()
    }

    fn holds(&self, posture: &Posture) -> bool {
        let product = posture.product.as_deref();
        let changed = |(by, due): &(reference_values::Affected, reference_values::Affected)| {
            by.concerns(product) || due.concerns(product)
        };
        self.all || self.changed.as_ref().is_some_and(changed) || self.left.contains(&posture.number())
    }
}

/// What names rules, but for what is said of endorsement keys. Another version of this program may judge otherwise.
fn name(rules: &Rules) -> [u8; 32] {
    let policy = format!("{} {:?}", env!("CARGO_PKG_VERSION"), rules.policy);
    sha256(&[&rules.references.id()[..], policy.as_bytes()].concat())
}

/// Makes every query show what the rules say; none where there is nothing to do.
fn overlay(
    store: &Store,
    before: Option<&Rules>,
    rules: &Rules,
    at: UnixSeconds,
) -> Result<Option<Concerned>, StoreError> {
    let (mut concerned, present) = Concerned::by(store, before, rules, at)?;
    if concerned.is_nothing() {
        return Ok(None);
    }
    concerned.left.sort_unstable();
    work_out(store, rules)?;
    let postures: Vec<Posture> = store.postures()?.into_iter().filter(|posture| concerned.holds(posture)).collect();
    let outcomes = judge_all(store, rules, &postures, at)?;
    tracing::info!("{} postures of devices are re-appraised by other rules", outcomes.len());
    store.rejudge(outcomes, present)?;
    Ok(Some(concerned))
}

/// Works out the postures that are missing.
fn work_out(store: &Store, rules: &Rules) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let (page, last) = store.unposed(after, MAX_UNPOSED)?;
        let Some(last) = last else { return Ok(()) };
        let posed = page.into_iter().map(|unposed| {
            let posture = unposed.state.posture(&rules.standing(&unposed.registration));
            (unposed, posture)
        });
        store.pose(posed.collect())?;
        after = last;
    }
}

/// Re-appraises one device of each posture, on all cores.
fn judge_all(store: &Store, rules: &Rules, postures: &[Posture], at: UnixSeconds) -> Result<Vec<Outcome>, StoreError> {
    static CORES: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));
    let share = postures.len().div_ceil(*CORES).max(1);
    let judge = |posture| judge(store, rules, posture, at);
    std::thread::scope(|scope| {
        let shares: Vec<_> = postures
            .chunks(share)
            .map(|share| scope.spawn(move || share.iter().filter_map(|posture| judge(posture).transpose()).collect()))
            .collect();
        let mut outcomes = Vec::with_capacity(postures.len());
        for share in shares {
            let done: Result<Vec<Outcome>, StoreError> =
                share.join().unwrap_or_else(|fault| std::panic::resume_unwind(fault));
            outcomes.extend(done?);
        }
        Ok(outcomes)
    })
}

fn judge(store: &Store, rules: &Rules, posture: &Posture, at: UnixSeconds) -> Result<Option<Outcome>, StoreError> {
    let Some(one) = store.representative(posture)? else { return Ok(None) };
    let standing = rules.standing(&one.registration);
    let state = reappraise(Held {
        standing: &standing,
        state: &one.state,
        files: &one.files,
        boot_log: one.boot_log.as_deref(),
        references: &rules.references,
        policy: &rules.policy,
        now: at,
    })
    .state;
    Outcome::of(store, &one, &state).map(Some)
}

/// Brings rows, history and results in line with the outcomes; then these go.
async fn rows(
    verifier: &Arc<Verifier>,
    rules: &Arc<Rules>,
    concerned: &Concerned,
    at: UnixSeconds,
    changes: &Changes,
) -> Result<Pass, StoreError> {
    let mut written = 0;
    for _ in 0..MAX_WALKS {
        let mut outcomes = Arc::new(more(verifier, rules, concerned, at).await?);
        let (mut after, mut ready) = (Some(0), Vec::new());
        let mut pages = 0;
        while let Some(from) = after {
            if changes.has_changed().unwrap_or(true) {
                return Ok(Pass::Superseded);
            }
            pages += 1;
            if pages % PAGES == 0 {
                outcomes = Arc::new(more(verifier, rules, concerned, at).await?);
            }
            // One page is read, judged and signed while the one before is written.
            let page = std::mem::take(&mut ready);
            let (reader, held, policy) = (Arc::clone(verifier), Arc::clone(&outcomes), Arc::clone(rules));
            let (next, done) = tokio::join!(
                verifier.store.off_thread(move |store| prepare(store, &reader, &held, &policy, from, at)),
                verifier.store.off_thread(move |store| store.follow(page)),
            );
            written += done?;
            (ready, after) = next?;
        }
        written += verifier.store.off_thread(move |store| store.follow(ready)).await?;
        let (unposed, behind) = verifier
            .store
            .off_thread(|store| Ok::<_, StoreError>((store.unposed(0, 1)?.0.len(), store.is_behind()?)))
            .await?;
        if unposed == 0 && !behind {
            break;
        }
    }
    verifier.store.off_thread(Store::settle).await?;
    tracing::info!("{written} devices stand otherwise by the present rules, and their rows say so");
    Ok(Pass::Done)
}

/// All outcomes, with those of postures that have come since: by an operator's word, or by evidence that was judged by the
/// rules before.
async fn more(
    verifier: &Arc<Verifier>,
    rules: &Arc<Rules>,
    concerned: &Concerned,
    at: UnixSeconds,
) -> Result<Outcomes, StoreError> {
    let (scope, rules) = (concerned.clone(), Arc::clone(rules));
    let add = move |store: &Store| {
        work_out(store, &rules)?;
        let known = store.outcomes()?;
        let new: Vec<Posture> = store
            .postures()?
            .into_iter()
            .filter(|posture| scope.holds(posture) && !known.contains_key(&posture.number()))
            .collect();
        if new.is_empty() {
            return Ok(known);
        }
        store.rejudge_more(judge_all(store, &rules, &new, at)?, at)?;
        store.outcomes()
    };
    verifier.store.off_thread(add).await
}

type Prepared = (Vec<Follow>, Option<i64>);

fn prepare(
    store: &Store,
    verifier: &Verifier,
    outcomes: &Outcomes,
    rules: &Rules,
    after: i64,
    at: UnixSeconds,
) -> Result<Prepared, StoreError> {
    let (behind, next) = store.behind(outcomes, after, MAX_REJUDGED)?;
    let follow = behind.into_iter().map(|behind| {
        let result = if behind.tells_news() { sign(verifier, &behind, rules) } else { None };
        behind.follow(store, result, at)
    });
    Ok((follow.collect::<Result<_, _>>()?, next))
}

/// The result of a device's last evidence, as it stands by the present rules.
fn sign(verifier: &Verifier, behind: &Behind, rules: &Rules) -> Option<Vec<u8>> {
    let read = |bytes| {
        let sign1 = Sign1::decode("result", bytes).ok()?;
        cbor::decode::<AttestationResult>("result", sign1.payload).ok()
    };
    let Some(before) = read(&behind.result) else {
        tracing::warn!(device = %behind.device, "its last result cannot be read, and is not signed anew");
        return None;
    };
    let result = renewed(before, &behind.state, rules);
    verifier.keys.current().seal(Purpose::Result, &result).map_err(|error| tracing::error!("{error}")).ok()
}

fn renewed(before: AttestationResult, state: &DeviceState, rules: &Rules) -> AttestationResult {
    AttestationResult {
        status: state.verdict.tier(),
        vector: told_vector(state),
        policy: rules.policy.id.clone(),
        causes: told_causes(state),
        tolerated: told_tolerated(state),
        release: state.product.clone().zip(state.release.clone()),
        vouched: rules.vouched(state),
        ..before
    }
}
