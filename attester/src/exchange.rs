//! The conversation with one verifier: in go its messages and the passing of time, out comes what to do next. No clock, no
//! network, no TPM in here. Only what a key for the purpose signed counts, and a result only for the evidence that was
//! sent last.
//!
//! In the normal course one message goes out in each epoch, and nothing comes back: evidence to which nothing was attached
//! changes nothing at the verifier but the time. Wherever something was attached, asked or new, a signed result is
//! expected, and asked for again until it is there.

mod allowance;
mod epochs;

use std::time::{Duration, Instant};

use evidence::{
    challenge::{Challenge, Refusal},
    claims::{DeviceId, Nonce, Why},
    epoch::Epoch,
    pcr::sha256,
    result::AttestationResult,
    verifier_message::Purpose,
};

use crate::{
    attest::Made,
    pinned::{NotTrusted, Pinned},
    positions::{Held, Shown},
    state::jitter,
};
use allowance::Allowance;
pub(crate) use epochs::Arrival;
use epochs::{Open, spread};

/// First time to wait for a challenge or a result; doubled with each try.
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(900);
/// Time in which the broker brings the epoch that it keeps; without one a challenge is asked for.
const EPOCH_WITHIN: Duration = Duration::from_secs(2);
/// Time from one event's evidence to the next: what happens in between goes together.
const EVENTS_TOGETHER: Duration = Duration::from_secs(5);
/// Part of the device's own period that is drawn at random.
const DRAWN_FROM: f64 = 0.8;
/// Challenges that nobody asked for: so many at once, then one each [`UNASKED_EACH`].
const UNASKED: u32 = 4;
/// Time in which one more challenge is allowed.
const UNASKED_EACH: Duration = Duration::from_secs(10);
/// Quotes for one verifier at once: a long log on its way. A quote takes a TPM up to half a second.
const QUOTES: u32 = 16;
/// Time in which one more is allowed.
const QUOTES_EACH: Duration = Duration::from_secs(2);
/// Messages of one verifier that are looked at, at once: a signature takes a small processor milliseconds.
const MESSAGES: u32 = 64;
/// Time in which one more is looked at.
const MESSAGES_EACH: Duration = Duration::from_millis(500);
/// Largest epoch that is kept until its keys come: it has 300 bytes.
const MAX_EARLY: usize = 512;
/// Results without progress that one attestation may meet: a verifier that lost its state begins anew once.
const MAX_SETBACKS: u32 = 1;
/// Cause that asks for the rest of a log (`docs/causes.md`).
const INCOMPLETE: &str = "log.incomplete";

/// Where the conversation stands.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Nothing to do.
    Idle,
    /// A challenge is expected.
    Asked { why: Why, until: Instant },
    /// Evidence has to be made.
    Ready(Make),
    /// Evidence is being made.
    Making(Make),
    /// A result is expected.
    Sent { why: Why, until: Instant },
}

/// Evidence that was sent.
#[derive(Debug, Clone)]
struct Sent {
    nonce: Nonce,
    digest: [u8; 32],
    message: [u8; 32],
    shown: Shown,
    /// Whether anything was attached.
    attached: bool,
    why: Why,
    at: Instant,
}

/// What a verifier lacks of a log.
#[derive(Debug, Clone, Copy)]
enum Missing {
    /// What did not fit the message. It asks for that by itself.
    Rest,
    /// What it was sent before: it has lost what it held, and does not know that there is more here.
    Earlier,
}

/// An attestation that has to be made.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    why: Why,
    at: Instant,
}

/// Make evidence for this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Make {
    pub(crate) nonce: Nonce,
    pub(crate) why: Why,
}

/// Evidence goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    /// An answer is expected.
    ToBeAnswered,
    /// No answer means that nothing has changed.
    Silent,
}

/// A result that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) result: AttestationResult,
    /// What the verifier holds now.
    pub(crate) held: Held,
    /// Whether it waits for the rest of a log.
    pub(crate) incomplete: bool,
}

/// Why a message does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ignored {
    /// Not signed by the verifier's key for it.
    #[error(transparent)]
    NotTrusted(#[from] NotTrusted),
    /// For another device.
    #[error("it is for another device")]
    OtherDevice,
    /// More challenges than any verifier needs.
    #[error("challenges come too fast")]
    TooFast,
    /// Nothing was sent that it could answer.
    #[error("it does not answer the evidence that was sent last")]
    NotOurs,
    /// It says nothing any more.
    #[error("it had expired when it came")]
    Expired,
    /// Brought again by somebody.
    #[error("epoch {0} is not newer than {1}")]
    OldEpoch(u64, u64),
    /// No epoch at all.
    #[error("an epoch of no length")]
    NoEpoch,
}

/// How a device attests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Time from one attestation to the next, where there are no epochs.
    pub(crate) every: Duration,
    /// Whether a result is asked for each time.
    pub(crate) results_always: bool,
    /// Whether it attests of its own accord again and again, or when it is told to.
    pub(crate) goes_on: bool,
}

/// The conversation.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) verifier: Pinned,
    device: DeviceId,
    manner: Manner,
    connected: bool,
    /// Whether there has been a connection.
    connected_before: bool,
    step: Step,
    /// An attestation that has to follow the present one.
    wanted: Option<Wanted>,
    /// A challenge that came while evidence was being made.
    newer: Option<Make>,
    open: Option<Open>,
    /// Highest number of an epoch under the present keys.
    newest: u64,
    /// An epoch that came before its keys.
    early: Option<(Vec<u8>, Arrival)>,
    /// Evidence that the verifier has not judged.
    latest: Option<Sent>,
    /// When the device attests without an epoch.
    unprompted: Instant,
    last_event: Option<Instant>,
    tries: u32,
    /// The furthest log position that this attestation has reached.
    furthest: u64,
    /// Results of this attestation that did not get further.
    setbacks: u32,
    unasked: Allowance,
    quotes: Allowance,
    messages: Allowance,
}

impl Exchange {
    /// Nothing said yet.
    pub(crate) fn new(verifier: Pinned, device: DeviceId, manner: Manner, now: Instant) -> Self {
        Self {
            verifier,
            device,
            manner,
            connected: false,
            connected_before: false,
            step: Step::Idle,
            wanted: None,
            newer: None,
            open: None,
            newest: 0,
            early: None,
            latest: None,
            unprompted: now + jitter(manner.every, DRAWN_FROM),
            last_event: None,
            tries: 0,
            furthest: 0,
            setbacks: 0,
            unasked: Allowance::new(UNASKED, UNASKED_EACH, now),
            quotes: Allowance::new(QUOTES, QUOTES_EACH, now),
            messages: Allowance::new(MESSAGES, MESSAGES_EACH, now),
        }
    }

    /// Whether one more message of this verifier is looked at.
    pub(crate) fn listens(&mut self, now: Instant) -> bool {
        self.messages.take(1, now)
    }

    /// An attestation is due.
    pub(crate) fn want(&mut self, why: Why, now: Instant) {
        let at = match (why, self.last_event) {
            (Why::Event, Some(last)) => now.max(last + EVENTS_TOGETHER),
            _ => now,
        };
        if why == Why::Event {
            self.last_event = Some(at);
        }
        self.want_at(why, at);
    }

    /// Of two that are wanted the period's is the one that says less.
    fn want_at(&mut self, why: Why, at: Instant) {
        let (why, at) = match self.wanted {
            Some(wanted) if wanted.why != Why::Epoch => (wanted.why, wanted.at.min(at)),
            Some(wanted) => (why, wanted.at.min(at)),
            None => (why, at),
        };
        self.wanted = Some(Wanted { why, at });
    }

    /// The connection is there (again).
    pub(crate) fn connected(&mut self, now: Instant) {
        let again = std::mem::replace(&mut self.connected_before, true);
        self.connected = true;
        let period = self.open.map_or(self.manner.every, |open| open.period);
        let at = match (self.manner.goes_on, again) {
            (false, _) => now,
            (true, false) if self.open.is_some() => now,
            (true, false) => now + EPOCH_WITHIN,
            // All devices lost the broker at the same time.
            (true, true) => now + jitter(spread(period), 0.0).max(EPOCH_WITHIN.min(spread(period))),
        };
        if let Some(wanted) = &mut self.wanted {
            wanted.at = at;
        }
        if let Some(open) = self.open.as_mut().filter(|open| open.due < at) {
            open.due = at;
        }
        self.unprompted = self.unprompted.max(at);
    }

    /// The connection is gone: what was under way is wanted again.
    pub(crate) fn disconnected(&mut self, now: Instant) {
        self.connected = false;
        if let Some(why) = self.why() {
            self.want_at(why, now);
        }
        (self.step, self.newer) = (Step::Idle, None);
    }

    const fn why(&self) -> Option<Why> {
        match &self.step {
            Step::Idle => None,
            Step::Ready(make) | Step::Making(make) => Some(make.why),
            Step::Asked { why, .. } | Step::Sent { why, .. } => Some(*why),
        }
    }

    /// When [`Self::turn`] has to be called next.
    pub(crate) fn until(&mut self, now: Instant) -> Option<Instant> {
        if !self.connected {
            return None;
        }
        let epoch = self.open.filter(|open| !open.used).map(|open| open.due);
        let wanted = self.wanted.map(|wanted| wanted.at);
        match self.step {
            Step::Making(_) => None,
            // What may be made at once is made by whoever made it ready, or as soon as the TPM is free.
            Step::Ready(_) => Some(self.quotes.next(now)).filter(|next| *next > now),
            Step::Idle => [epoch, wanted].into_iter().flatten().chain(self.goes_on_at()).min(),
            Step::Asked { until, .. } => [Some(until), epoch].into_iter().flatten().min(),
            Step::Sent { until, .. } => [Some(until), epoch, self.event_at()].into_iter().flatten().min(),
        }
    }

    fn goes_on_at(&self) -> Option<Instant> {
        self.manner.goes_on.then_some(self.unprompted)
    }

    /// When an event no longer waits for the result of what was sent before it.
    fn event_at(&self) -> Option<Instant> {
        let wanted = self.wanted.filter(|wanted| wanted.why == Why::Event)?;
        Some(wanted.at.max(self.latest.as_ref()?.at + EVENTS_TOGETHER))
    }

    /// Looks what is due. Say hello where this returns why; evidence that is due is in [`Self::ready`] then.
    pub(crate) fn turn(&mut self, now: Instant) -> Option<Why> {
        if !self.connected {
            return None;
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let epoch_is_due = is_due(self.open.filter(|open| !open.used).map(|open| open.due));
        let wanted_is_due = is_due(self.wanted.map(|wanted| wanted.at));
        let idle_is_due = epoch_is_due || wanted_is_due || is_due(self.goes_on_at());
        match self.step {
            Step::Idle if idle_is_due => self.begin(Why::Epoch, now),
            Step::Asked { why, until } | Step::Sent { why, until } if until <= now => {
                tracing::warn!(verifier = %self.verifier.name, "no answer, or one without what was sent before: asking again");
                self.tries = self.tries.saturating_add(1);
                self.begin(why, now)
            }
            Step::Asked { why, .. } | Step::Sent { why, .. } if epoch_is_due => self.begin(why, now),
            Step::Sent { .. } if is_due(self.event_at()) => self.begin(Why::Event, now),
            _ => None,
        }
    }

    /// Begins an attestation, which is also that which was wanted: one message for all.
    fn begin(&mut self, why: Why, now: Instant) -> Option<Why> {
        let why = match self.wanted.take() {
            Some(wanted) if why == Why::Epoch => wanted.why,
            _ => why,
        };
        if self.tries == 0 {
            (self.furthest, self.setbacks) = (0, 0);
        }
        self.unprompted = self.unprompted.max(now + jitter(self.manner.every, DRAWN_FROM));
        if let Some(nonce) = self.open_nonce(why, now) {
            self.step = Step::Ready(Make { nonce, why });
            return None;
        }
        if let Some(open) = self.open.as_mut().filter(|open| open.due <= now) {
            open.used = true;
        }
        self.step = Step::Asked { why, until: now + self.wait() };
        Some(why)
    }

    /// The open epoch's nonce, where it may be used. An event need not wait for another.
    fn open_nonce(&self, why: Why, now: Instant) -> Option<Nonce> {
        let open = self.open.filter(|open| open.is_taken(now) && !self.manner.results_always && self.manner.goes_on)?;
        let again = why == Why::Event && self.tries == 0;
        (!open.used || again).then_some(open.nonce)
    }

    fn wait(&self) -> Duration {
        jitter(FIRST_WAIT.saturating_mul(1 << self.tries.min(10)).min(LONGEST_WAIT), 0.75)
    }

    /// Keys came. Whether they are new, and have to be kept.
    pub(crate) fn keys(&mut self, message: &[u8], now: Instant) -> Result<bool, Ignored> {
        if !self.verifier.take_keys(message)? {
            return Ok(false);
        }
        // A number that somebody with a key of the past made up binds nobody any more.
        self.newest = 0;
        if let Some((message, arrival)) = self.early.take()
            && let Err(error) = self.epoch(&message, arrival, now)
        {
            tracing::debug!(verifier = %self.verifier.name, "the epoch that was kept does not count: {error}");
        }
        Ok(true)
    }

    /// An epoch came.
    pub(crate) fn epoch(&mut self, message: &[u8], arrival: Arrival, now: Instant) -> Result<(), Ignored> {
        if !self.manner.goes_on {
            return Ok(());
        }
        let opened = self.verifier.open(Purpose::Epoch, message);
        let epoch: Epoch = opened.inspect_err(|_| {
            // Keys that open it may be on their way.
            self.early = Some((message.to_vec(), arrival)).filter(|(message, _)| message.len() <= MAX_EARLY);
        })?;
        if epoch.period == 0 {
            return Err(Ignored::NoEpoch);
        }
        if epoch.number <= self.newest {
            return Err(Ignored::OldEpoch(epoch.number, self.newest));
        }
        self.verifier.saw_time(epoch.number)?;
        self.newest = epoch.number;
        let open = Open::new(&epoch, self.open.as_ref(), arrival, now);
        self.unprompted = self.unprompted.max(open.closes + open.period * 2);
        self.open = Some(open);
        if let Some(wanted) = self.wanted.as_mut().filter(|wanted| wanted.why == Why::Startup) {
            wanted.at = wanted.at.min(now);
        }
        Ok(())
    }

    /// A request came.
    pub(crate) fn challenge(&mut self, message: &[u8], now: Instant) -> Result<(), Ignored> {
        let challenge: Challenge = self.verifier.open(Purpose::Request, message)?;
        if challenge.device() != self.device {
            return Err(Ignored::OtherDevice);
        }
        // An operator's question is rare, and so is one about evidence; what a verifier asks by itself is answered rarely.
        let price = if challenge.asked() || self.latest.is_some() { 1 } else { UNASKED };
        if !matches!(self.step, Step::Asked { .. }) && !self.unasked.take(price, now) {
            return Err(Ignored::TooFast);
        }
        let why = if challenge.asked() { Why::Request } else { self.why().unwrap_or(Why::Request) };
        let make = Make { nonce: *challenge.nonce(), why };
        // It takes the place of the epoch's evidence.
        if let (Step::Ready(under_way) | Step::Making(under_way), Some(open)) = (self.step, &mut self.open) {
            open.used |= open.nonce == under_way.nonce;
        }
        // One at a time, and the latest counts.
        if matches!(self.step, Step::Making(_)) {
            self.newer = Some(make);
        } else {
            self.step = Step::Ready(make);
        }
        Ok(())
    }

    /// Evidence that has to be made now.
    pub(crate) fn ready(&mut self, now: Instant) -> Option<Make> {
        let Step::Ready(make) = self.step else { return None };
        (self.quotes.next(now) <= now).then_some(make)
    }

    /// The nonce that goes along into a message that is made now for another verifier with this reason.
    pub(crate) fn goes_along(&mut self, why: Why, now: Instant) -> Option<Nonce> {
        if !self.connected || self.quotes.next(now) > now {
            return None;
        }
        match self.step {
            Step::Ready(make) => (make.why == why).then_some(make.nonce),
            Step::Idle if why == Why::Epoch && self.wanted.is_none() => self.open_nonce(why, now),
            _ => None,
        }
    }

    /// Evidence for `make` is being made.
    pub(crate) fn making(&mut self, make: Make, now: Instant) {
        // Whoever asks for more than is left was told so by `ready` and `goes_along`.
        self.quotes.take(1, now);
        self.step = Step::Making(make);
    }

    /// Evidence for `nonce` is there. Send it where this says so.
    pub(crate) fn made(&mut self, nonce: &Nonce, made: &Made, now: Instant) -> Option<Sending> {
        let Step::Making(make) = self.step else { return None };
        if *nonce != make.nonce {
            return None;
        }
        if let Some(newer) = self.newer.take() {
            self.step = Step::Ready(newer);
            return None;
        }
        let (digest, message, shown, why) = (made.digest, sha256(&made.message), made.shown.clone(), make.why);
        self.latest = Some(Sent { nonce: *nonce, digest, message, shown, attached: made.attached, why, at: now });
        let by_epoch = self.open.is_some_and(|open| open.nonce == *nonce);
        if let Some(open) = &mut self.open {
            open.used |= by_epoch;
        }
        if by_epoch && why == Why::Epoch && !made.attached {
            (self.step, self.tries) = (Step::Idle, 0);
            return Some(Sending::Silent);
        }
        // A result may take a verifier longer than a challenge: it commits first.
        self.step = Step::Sent { why, until: now + self.wait() * 2 };
        Some(Sending::ToBeAnswered)
    }

    /// Evidence could not be made: asked for again after a while.
    pub(crate) fn failed(&mut self, nonce: &Nonce, now: Instant) {
        if let Step::Making(make) = self.step
            && *nonce == make.nonce
        {
            self.ask_later(make.why, now);
        }
    }

    fn ask_later(&mut self, why: Why, now: Instant) {
        self.tries = self.tries.saturating_add(1);
        let until = now + self.wait();
        self.step = Step::Asked { why, until };
        if let Some(open) = &mut self.open {
            open.due = open.due.max(until);
        }
    }

    /// A result came.
    pub(crate) fn result(&mut self, message: &[u8], now: Instant) -> Result<Accepted, Ignored> {
        let result: AttestationResult = self.verifier.open(Purpose::Result, message)?;
        if result.device != self.device {
            return Err(Ignored::OtherDevice);
        }
        let evidence = self.latest.as_ref().ok_or(Ignored::NotOurs)?;
        if result.nonce != evidence.nonce || result.evidence != evidence.digest {
            return Err(Ignored::NotOurs);
        }
        // By the time since sending: neither clock needs to be right for that.
        let valid = Duration::from_secs(result.expires.saturating_sub(result.issued));
        if now.saturating_duration_since(evidence.at) >= valid {
            return Err(Ignored::Expired);
        }
        self.verifier.saw_time(result.issued)?;
        let incomplete = result.causes.iter().any(|cause| cause.code == INCOMPLETE);
        let held = Held::after(&result.acknowledged, &evidence.shown, incomplete);
        let why = evidence.why;
        let lost = held.is_before(&evidence.shown) || !evidence.attached;
        self.latest = None;
        let missing = incomplete.then_some(if lost { Missing::Earlier } else { Missing::Rest });
        self.judged(missing, &held, why, now);
        Ok(Accepted { result, held, incomplete })
    }

    /// What a result means for the conversation. One that came late interrupts nothing.
    fn judged(&mut self, missing: Option<Missing>, held: &Held, why: Why, now: Instant) {
        if !matches!(self.step, Step::Idle | Step::Sent { .. }) {
            return;
        }
        match missing {
            Some(missing) if self.leads_on(held) => {
                self.ask_later(why, now);
                if let (Missing::Earlier, Step::Asked { until, .. }) = (missing, &mut self.step) {
                    *until = now;
                }
            }
            _ => (self.step, self.tries) = (Step::Idle, 0),
        }
    }

    /// Whether sending more of a log may complete it. A log that does not lead to the quote never will: without a bound,
    /// device and verifier would go round in circles as fast as the TPM quotes.
    fn leads_on(&mut self, held: &Held) -> bool {
        let reached = held.runtime.saturating_add(held.ima);
        if reached > self.furthest {
            self.furthest = reached;
        } else {
            self.setbacks = self.setbacks.saturating_add(1);
        }
        self.setbacks <= MAX_SETBACKS
    }

    /// A refusal came.
    pub(crate) fn refusal(&mut self, message: &[u8], now: Instant) -> Result<Refusal, Ignored> {
        let refusal: Refusal = self.verifier.open(Purpose::Refusal, message)?;
        let evidence = self.latest.take_if(|sent| sent.message == refusal.message).ok_or(Ignored::NotOurs)?;
        if matches!(self.step, Step::Idle | Step::Sent { .. }) {
            self.ask_later(evidence.why, now);
        }
        Ok(refusal)
    }

    /// Whether something is under way or has to be done.
    pub(crate) const fn is_busy(&self) -> bool {
        !matches!(self.step, Step::Idle) || self.wanted.is_some()
    }

    /// When the next attestation comes at the latest, if nothing brings one sooner.
    pub(crate) fn next_check(&self, now: Instant) -> Instant {
        match (self.wanted, self.open) {
            (Some(wanted), _) => wanted.at,
            (None, Some(open)) if !open.used => open.due,
            (None, Some(open)) if open.is_taken(now) => open.closes + open.period,
            _ => self.unprompted,
        }
    }
}

#[cfg(test)]
mod tests;
