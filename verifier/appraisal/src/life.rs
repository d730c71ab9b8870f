//! The life of releases: which one a device runs, whether it still may, and how long an update may take. In go what boot and
//! files match; out come the release and what is to be remembered of it, and causes.

use reference_values::{ProductRef, ReleaseEntry, ReleaseId};

use crate::{
    appraise::{Causes, Ground},
    boot::is_valid,
    cause::Code,
    state::{BootState, Highest, Update},
};

/// What a device runs, and what is remembered of it.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// The release, derived from what matches.
    pub(crate) release: Option<String>,
    /// The last update.
    pub(crate) update: Option<Update>,
    /// The highest release since the last approval.
    pub(crate) highest: Option<Highest>,
    /// The update that goes on, in words.
    pub(crate) information: Option<String>,
}

/// Which release this is: by boot where boot is judged, narrowed down by what runs; and whether it may run.
pub(crate) fn judge(
    ground: &Ground<'_>,
    product: Option<ProductRef<'_>>,
    by_boot: &[String],
    boot: &BootState,
    causes: &mut Causes<'_>,
) -> Life {
    let before = ground.state.filter(|state| state.product == ground.standing.product);
    let update = before.and_then(|state| state.update.clone());
    let highest = before.and_then(|state| state.highest).filter(|highest| highest.at > ground.standing.approved_at);
    let kept = Life { update, highest, ..Life::default() };
    let Some(product) = product else { return kept };
    let running = boot.releases.as_deref().unwrap_or_default();
    let mixture = mixture(by_boot, running, boot.others.as_deref());
    let pair = mixture.as_ref().and_then(|mixture| adjacent(product, mixture));
    let both = by_boot.iter().rev().find(|name| running.contains(name));
    // Without a boot to say so, what an update begins from: whichever files came first.
    let earlier = pair.map(|(earlier, _)| earlier.name());
    let name = both.or(by_boot.last()).map(String::as_str).or(earlier).or(running.last().map(String::as_str));
    let Some((_, release)) = name.and_then(|name| find(product, name)) else { return kept };

    let (update, information) = match (&mixture, pair) {
        (None, _) => (kept.update, None),
        (Some(_), Some(pair)) => updating(ground, product, pair, kept.update, causes),
        (Some(mixture), None) => {
            causes.add(Code::ReleaseStale, &apart(mixture));
            (kept.update, None)
        }
    };
    for part in parts(product, release, mixture.as_ref(), pair) {
        may_run(product, part, kept.highest, ground, causes);
    }
    let highest = if mixture.is_none() { climbed(kept.highest, release, ground) } else { kept.highest };
    Life { release: Some(release.name().to_owned()), update, highest, information }
}

/// All releases that have to be allowed: the one that the boot is of, and each part of a mixture, so that nothing old hides
/// behind something new.
fn parts<'a>(
    product: ProductRef<'a>,
    release: &'a ReleaseEntry,
    mixture: Option<&Mixture<'_>>,
    pair: Option<(&'a ReleaseEntry, &'a ReleaseEntry)>,
) -> Vec<&'a ReleaseEntry> {
    let mut all = vec![release];
    let last = |names: &[String]| names.last().and_then(|name| find(product, name)).map(|(_, release)| release);
    let sides = match (mixture, pair) {
        (_, Some((earlier, later))) => [Some(earlier), Some(later)],
        (Some(mixture), None) => [last(mixture.0), last(mixture.1)],
        (None, None) => [None, None],
    };
    for part in sides.into_iter().flatten() {
        if all.iter().all(|known| known.name() != part.name()) {
            all.push(part);
        }
    }
    all
}

fn find<'a>(product: ProductRef<'a>, name: &str) -> Option<(ReleaseId, &'a ReleaseEntry)> {
    product.releases().find(|(_, release)| release.name() == name)
}

/// Two sets of releases, one of each of which this is a mixture of; an empty one where there are more.
#[derive(Clone, Copy)]
struct Mixture<'a>(&'a [String], &'a [String]);

fn mixture<'a>(by_boot: &'a [String], running: &'a [String], others: Option<&'a [String]>) -> Option<Mixture<'a>> {
    let apart = !by_boot.is_empty() && !running.is_empty() && !by_boot.iter().any(|name| running.contains(name));
    match others {
        // Files of two releases, and a boot of neither.
        Some(others) if apart && !by_boot.iter().any(|name| others.contains(name)) => Some(Mixture(running, &[])),
        Some(others) => Some(Mixture(running, others)),
        None if apart => Some(Mixture(by_boot, running)),
        None => None,
    }
}

fn apart(mixture: &Mixture<'_>) -> String {
    let last = |names: &[String]| names.last().map_or("others", String::as_str).to_owned();
    let (one, other) = (last(mixture.0), last(mixture.1));
    let (first, second) = if one <= other { (one, other) } else { (other, one) };
    format!("files of releases {first} and {second}, which do not follow each other")
}

/// Holds a mixture against the window of the later release. An update that stops and begins anew goes on from where it began,
/// unless it was away for a whole window: whoever goes to and fro gains nothing. Neither does who goes back to an earlier
/// pair in between: only a later one than any before has a time of its own.
fn updating(
    ground: &Ground<'_>,
    product: ProductRef<'_>,
    (earlier, later): (&ReleaseEntry, &ReleaseEntry),
    before: Option<Update>,
    causes: &mut Causes<'_>,
) -> (Option<Update>, Option<String>) {
    let (from, to) = (earlier.name(), later.name());
    let window = later.update_window().unwrap_or(ground.policy.update_window);
    let goes_on = |known: &Update| {
        let furthest = find(product, &known.to).is_some_and(|(_, known)| known.sequence() >= later.sequence());
        furthest && ground.now.saturating_sub(known.seen) <= window
    };
    let update = match before.filter(goes_on) {
        Some(known) => Update { seen: ground.now, ..known },
        None => Update { from: from.to_owned(), to: to.to_owned(), since: ground.now, seen: ground.now },
    };
    let deadline = update.since.saturating_add(window);
    let late = deadline <= ground.now;
    if late {
        causes.add(Code::ReleaseStale, &format!("an update from {from} to {to} has not ended in its time"));
    }
    let told = (!late).then(|| format!("from {from} to {to}, until {deadline} (seconds since 1970)"));
    (Some(update), told)
}

/// A pair, one of each set, that follow each other.
fn adjacent<'a>(product: ProductRef<'a>, mixture: &Mixture<'_>) -> Option<(&'a ReleaseEntry, &'a ReleaseEntry)> {
    let of = |names: &[String]| -> Vec<(ReleaseId, &'a ReleaseEntry)> {
        names.iter().filter_map(|name| find(product, name)).collect()
    };
    let (one, other) = (of(mixture.0), of(mixture.1));
    let mut pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
    let ((a, first), (b, second)) = pairs.rfind(|((a, _), (b, _))| product.adjacent(*a, *b))?;
    Some(if a < b { (first, second) } else { (second, first) })
}

/// Whether the release is revoked, retired, or below the lowest that may run.
fn may_run(
    product: ProductRef<'_>,
    release: &ReleaseEntry,
    highest: Option<Highest>,
    ground: &Ground<'_>,
    causes: &mut Causes<'_>,
) {
    let name = release.name();
    if let Some(revoked) = release.revoked() {
        let advisory = revoked.advisory.as_ref().map(|advisory| format!(" ({advisory})")).unwrap_or_default();
        causes.add(Code::ReleaseRevoked, &format!("release {name}{advisory}: {}", revoked.why));
    }
    if release.retire_at().is_some_and(|retired| retired <= ground.now) {
        causes.add(Code::ReleaseStale, &format!("release {name}"));
    }
    let Some(minimum) = product.minimum().filter(|minimum| release.sequence() < minimum.sequence) else { return };
    let lowest = &minimum.release;
    if highest.is_some_and(|highest| highest.sequence >= minimum.sequence) {
        let detail = format!("release {name} after one from {lowest} on, which is the lowest that may run");
        causes.add(Code::ReleaseRolledBack, &detail);
    } else {
        causes.add(Code::ReleaseStale, &format!("release {name} is below {lowest}, the lowest that may run"));
    }
}

/// The higher of what was and what is.
fn climbed(highest: Option<Highest>, release: &ReleaseEntry, ground: &Ground<'_>) -> Option<Highest> {
    let sequence = release.sequence();
    if !is_valid(release, ground.now) {
        return highest;
    }
    match highest {
        Some(known) if known.sequence >= sequence => Some(known),
        _ => Some(Highest { sequence, at: ground.approval().first_after(ground.now) }),
    }
}
