//! What operators trust and deny, held against every device that is enrolled already: in go the rules, each time that they
//! change and once at the start; out come rulings in the registrations, which count from then on without waiting for
//! evidence, and end as soon as the lists no longer say so.
//!
//! Certificates are judged at the instant when they were accepted. That a maker's certificate ends some day says nothing
//! about the key in the TPM, and its maker will not come and certify it anew: whom a CA no longer vouches for, a CRL or
//! the deny list names.

use std::sync::Arc;

use appraisal::{Code, EkClass, UnixSeconds};
use evidence::claims::DeviceId;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::{
    http::Order,
    identity::{DeviceIdentity, EkChain, EkRoots, IdentityError, RootClass},
    limits::MAX_RECHECKED,
    references::Rules,
    store::{Denial, Endorsed, Place, Ruling, Store, StoreError},
};

/// What a walk through the fleet came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rechecked {
    /// Registrations looked at.
    pub all: usize,
    /// Those that stand otherwise than before.
    pub changed: Vec<DeviceId>,
}

/// Looks at the fleet now and whenever the rules decide otherwise about endorsement keys; ends with the service.
pub async fn run(
    store: Store,
    mut rules: watch::Receiver<Arc<Rules>>,
    orders: mpsc::Sender<Order>,
    clock: fn() -> UnixSeconds,
) {
    let mut last: Option<Arc<Rules>> = None;
    loop {
        let now = Arc::clone(&rules.borrow_and_update());
        if !last.as_ref().is_some_and(|last| last.roots.decide_as(&now.roots)) {
            match fleet(&store, &now, clock).await {
                Ok(done) => {
                    say(&done, &orders);
                    last = Some(now);
                }
                // Whoever reloads looks at the log; the next reload tries again.
                Err(error) => tracing::error!("the fleet was not held against the present lists: {error}"),
            }
        }
        if rules.changed().await.is_err() {
            return;
        }
    }
}

/// Verdicts follow with the next evidence: it is asked for. Where too many wait, it comes in its own time.
fn say(done: &Rechecked, orders: &mpsc::Sender<Order>) {
    let Rechecked { all, changed } = done;
    if changed.is_empty() {
        return;
    }
    tracing::warn!("endorsement keys of {} of {all} devices stand otherwise by the present lists", changed.len());
    for device in changed {
        if orders.try_send(Order::Check { device: *device }).is_err() {
            return;
        }
    }
}

/// Looks at all registrations, in pages, each on a thread that may block.
///
/// # Errors
/// [`StoreError`] where the store failed; what was ruled until then stays.
pub async fn fleet(store: &Store, rules: &Arc<Rules>, clock: fn() -> UnixSeconds) -> Result<Rechecked, StoreError> {
    let mut done = Rechecked::default();
    let mut place = Place::default();
    loop {
        let rules = Arc::clone(rules);
        let page = move |store: &Store| page(store, &rules.roots, place, clock());
        let (looked, next) = store.off_thread(page).await?;
        if looked.all == 0 {
            return Ok(done);
        }
        done.all += looked.all;
        done.changed.extend(looked.changed);
        place = next;
    }
}

fn page(store: &Store, roots: &EkRoots, after: Place, now: UnixSeconds) -> Result<(Rechecked, Place), StoreError> {
    let (registrations, next) = store.endorsed(after, MAX_RECHECKED)?;
    let mut looked = Rechecked { all: registrations.len(), changed: Vec::new() };
    let mut rulings = Vec::with_capacity(looked.all);
    for endorsed in registrations {
        let ruling = ruling(&endorsed, roots);
        if !is_same(endorsed.denied.as_ref(), &ruling) {
            looked.changed.push(endorsed.device);
        }
        rulings.push((endorsed, ruling));
    }
    store.rule(rulings, now)?;
    Ok((looked, next))
}

fn is_same(before: Option<&Denial>, now: &Ruling) -> bool {
    let before = before.map(|denial| (denial.code.as_str(), denial.why.as_str()));
    before == now.denied.as_ref().map(|(code, why)| (code.as_str(), why.as_str()))
}

fn ruling(endorsed: &Endorsed, roots: &EkRoots) -> Ruling {
    let denied = |code: Code, why: String| Ruling { denied: Some((code.row().code.to_owned(), why)), class: None };
    let list = roots.deny_list();
    if let Some(why) = endorsed.eks.iter().find_map(|ek| list.ek(ek)) {
        return denied(Code::IdentityEkDenied, format!("an endorsement key is on the deny list: {why}"));
    }
    if let Some(why) = list.manufacturer(&endorsed.manufacturer) {
        return denied(Code::IdentityEkDenied, format!("the TPM's maker is on the deny list: {why}"));
    }
    let class = match verify(endorsed, roots) {
        None => None,
        Some(Ok(class)) => Some(class),
        Some(Err(error)) => {
            // What was accepted once can only fail for want of a root, whatever the first check that fails.
            let code = Code::from_code(error.code()).unwrap_or(Code::IdentityEkUntrusted);
            return denied(code, error.to_string());
        }
    };
    match endorsed.firmware.and_then(|version| list.firmware_denied(&endorsed.manufacturer, version)) {
        Some(why) => denied(Code::HardwareFirmwareDenied, why),
        None => Ruling { denied: None, class },
    }
}

/// The certificates once more; `None` where there are none: an operator listed a key, or they were not kept yet.
fn verify(endorsed: &Endorsed, roots: &EkRoots) -> Option<Result<EkClass, IdentityError>> {
    let certificates: Vec<&[u8]> = endorsed.certificates.iter().map(Vec::as_slice).collect();
    if certificates.is_empty() {
        return None;
    }
    let at = i64::try_from(endorsed.verified).ok().and_then(|at| Timestamp::from_second(at).ok());
    let identity = EkChain::read(&certificates)
        .and_then(|chain| chain.verify(roots, at.unwrap_or(Timestamp::MAX)))
        .and_then(DeviceIdentity::from_eks);
    Some(identity.map(|identity| match identity.class() {
        RootClass::Hardware => EkClass::Hardware,
        RootClass::Software => EkClass::Software,
    }))
}
