//! One evidence message, judged: boot, runtime, policy, in that order; envelope, quote and freshness stand behind the
//! type [`Fresh`].

use evidence::{
    claims::LogKind,
    pcr::PcrValues,
    result::{Acknowledged, Claim, TrustVector},
};
use reference_values::{ProductRef, ReferenceIndex, boot_rules::AttesterIn};

use crate::{
    UnixSeconds,
    boot::{
        self, Against, BootMatch, Matched,
        protection::{self, Known},
    },
    cause::{Cause, Code, End},
    continuity::{AnotherBoot, Course, When, unseen_before},
    freshness::{Fresh, Last},
    information::{self, Information, Notice},
    life::{self, Life},
    policy::{Excluded, Policy, SecureBoot, Unlisted},
    runtime::{self, Finder, Reach, Replay},
    standing::{EkClass, Standing},
    state::{Approval, Attested, BootState, DeviceState, Finding, ImaSight, MeasuredFile, keep_compromise},
    verdict::Verdict,
};

/// Files of this boot that are held from earlier evidence.
#[derive(Debug, Clone, Copy)]
pub enum Files<'a> {
    /// Not loaded: allowed where there is no state, or [`DeviceState::asks_for_files`] says no.
    Unchanged,
    /// All of them, to be held against reference values that have changed.
    All(&'a [MeasuredFile]),
}

/// All that a judgement rests on.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Evidence, shown to be authentic and fresh.
    pub evidence: &'a Fresh,
    /// What is known of the device beside evidence.
    pub standing: &'a Standing,
    /// What the last accepted evidence left behind.
    pub state: Option<&'a DeviceState>,
    /// Files held of this boot.
    pub files: Files<'a>,
    /// The boot log held of this boot, where [`DeviceState::asks_for_boot_log`] says yes and the store has it.
    pub boot_log: Option<&'a [u8]>,
    /// Signed reference values.
    pub references: &'a ReferenceIndex,
    /// What this verifier asks for.
    pub policy: &'a Policy,
    /// The instant of the judgement.
    pub now: UnixSeconds,
    /// Since when the clock that `now` was read from has run without being set: a TPM's clock is not held against
    /// readings from before.
    pub steady_since: UnixSeconds,
}

/// The judgement, and what to keep of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appraisal {
    /// Next state of the device.
    pub state: DeviceState,
    /// Files reported for the first time by this message, to be kept beside the state.
    pub new_files: Vec<MeasuredFile>,
    /// Whether this is the first evidence of a boot: files of the boot before are history.
    pub new_boot: bool,
    /// Whether the attached boot log is to be kept, in the place of the one that is held.
    pub new_boot_log: bool,
    /// What the device need not send again.
    pub acknowledged: Acknowledged,
    /// Causes that policy tolerated, with what they were about.
    pub tolerated: Vec<Cause>,
    /// What was attested without a gap until this message, where it begins anew with it: after a boot, or after the verdict
    /// had expired.
    pub closed: Option<Attested>,
}

/// Judges.
#[must_use]
pub fn appraise(input: Input<'_>) -> Appraisal {
    let evidence = input.evidence.evidence();
    let product = input.standing.product.as_deref().and_then(|name| input.references.product(name));
    let against = Against { product, runtime_pcr: input.policy.runtime_pcr, now: input.now };
    let Followed { mut boot, files, measured, new_boot } = follow(&input, &against);
    if !new_boot && !measured.boot_log && input.asks_again() {
        boot::judge_again(&mut boot, input.boot_log, &against);
    }
    let ground = input.ground();
    reconsider(&ground, product, &mut boot, input.files, &files, new_boot);
    let closed = time(&input, &mut boot, &measured, new_boot);
    let past = Past::of(&ground, product, new_boot, input.evidence.clears());

    let mut causes = Causes::new(&ground);
    let claims = judge(&ground, &against, &boot, &measured, &past, &mut causes);
    let Life { release, update, highest, information: updating } =
        life::judge(&ground, product, &claims.boot_releases, &boot, &mut causes);
    let (vector, verdict) = causes.sum_up(claims.vector);

    let not_older_than = input.when().not_older_than;
    let state = DeviceState {
        last: Last { counters: evidence.quote().counters, evidence: *evidence.digest() },
        verdict,
        vector,
        tolerated: causes.tolerated.iter().map(|cause| cause.code).collect(),
        causes: causes.standing,
        judged: input.now,
        expires: not_older_than.saturating_add(input.policy.validity),
        last_check: evidence.attester().why,
        release,
        references: input.references.standing_id(input.standing.product.as_deref()),
        product: input.standing.product.clone(),
        firmware_version: evidence.quote().firmware_version,
        attester_version: evidence.attester().version.clone(),
        since: past.since,
        not_older_than,
        cleared: past.cleared,
        compromised: past.compromised,
        information: with_update(information::tell(&input, &boot, new_boot), updating, &ground),
        update,
        highest,
        boot,
    };
    let acknowledged = state.boot.acknowledged();
    let new_boot_log = measured.boot_log && (new_boot || !input.keeps_log_of(&state.boot));
    Appraisal { acknowledged, new_boot, new_boot_log, state, new_files: files.all, tolerated: causes.tolerated, closed }
}

/// What a judgement rests on beside the logs of one message.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'a> {
    pub(crate) standing: &'a Standing,
    pub(crate) state: Option<&'a DeviceState>,
    pub(crate) references: &'a ReferenceIndex,
    pub(crate) policy: &'a Policy,
    pub(crate) now: UnixSeconds,
    /// As the last quote states it.
    firmware_version: u64,
}

impl<'a> Ground<'a> {
    fn files_against(&self, product: Option<ProductRef<'a>>) -> runtime::References<'a> {
        runtime::References { index: self.references, product, name: self.standing.product.as_deref() }
    }

    pub(crate) const fn approval(&self) -> Approval {
        Approval(self.standing.approved_at)
    }

    const fn finder(&self) -> Finder {
        Finder { now: self.now, approval: self.approval() }
    }

    fn held(&self) -> Option<&BootState> {
        self.state.map(|state| &state.boot)
    }
}

/// A device as the last evidence left it, to be held against other reference values, or by another policy.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// What is known of the device beside evidence.
    pub standing: &'a Standing,
    /// What the last accepted evidence left behind.
    pub state: &'a DeviceState,
    /// All files of this boot.
    pub files: &'a [MeasuredFile],
    /// The boot log held of this boot, where the store has it.
    pub boot_log: Option<&'a [u8]>,
    /// Signed reference values.
    pub references: &'a ReferenceIndex,
    /// What this verifier asks for.
    pub policy: &'a Policy,
    /// The instant of the judgement.
    pub now: UnixSeconds,
}

/// What another judgement of the same evidence came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reappraisal {
    /// Next state of the device. What evidence alone can tell is as it was: counters, positions, when it was judged, and
    /// when the verdict expires.
    pub state: DeviceState,
    /// Causes that policy tolerated, with what they were about.
    pub tolerated: Vec<Cause>,
}

/// Judges the last evidence once more: what the next one comes to if the device has nothing new to tell.
#[must_use]
pub fn reappraise(held: Held<'_>) -> Reappraisal {
    let Held { standing, state, files, boot_log, references, policy, now } = held;
    let ground =
        Ground { standing, state: Some(state), references, policy, now, firmware_version: state.firmware_version };
    let product = standing.product.as_deref().and_then(|name| references.product(name));
    let against = Against { product, runtime_pcr: policy.runtime_pcr, now };
    let mut boot = state.boot.clone();
    let id = references.standing_id(standing.product.as_deref());
    if state.references != id || state.product != standing.product {
        boot::judge_again(&mut boot, boot_log, &against);
    }
    reconsider(&ground, product, &mut boot, Files::All(files), &runtime::Files::default(), false);
    let measured = Measured::held(state, &boot, policy.runtime_pcr);
    let past = Past::of(&ground, product, false, false);
    let mut causes = Causes::new(&ground);
    let claims = judge(&ground, &against, &boot, &measured, &past, &mut causes);
    let Life { release, update, highest, information } =
        life::judge(&ground, product, &claims.boot_releases, &boot, &mut causes);
    let (vector, verdict) = causes.sum_up(claims.vector);
    let state = DeviceState {
        verdict,
        vector,
        tolerated: causes.tolerated.iter().map(|cause| cause.code).collect(),
        causes: causes.standing,
        release,
        references: id,
        product: standing.product.clone(),
        cleared: past.cleared,
        compromised: past.compromised,
        information: with_update(information::tell_again(state, &boot, now), information, &ground),
        update,
        highest,
        boot,
        ..state.clone()
    };
    Reappraisal { state, tolerated: causes.tolerated }
}

/// What is told beside the verdict, with the update that the device is in the middle of.
fn with_update(mut told: Vec<Information>, updating: Option<String>, ground: &Ground<'_>) -> Vec<Information> {
    let code = Notice::ReleaseUpdating;
    told.retain(|known| known.code != code);
    if let Some(detail) = updating {
        let earlier = ground.state.map(|state| state.information.as_slice()).unwrap_or_default();
        let since = earlier.iter().find(|known| known.code == code && known.detail == detail);
        told.push(Information { code, detail, since: since.map_or(ground.now, |known| known.since) });
    }
    told
}

impl Input<'_> {
    fn ground(&self) -> Ground<'_> {
        Ground {
            standing: self.standing,
            state: self.state,
            references: self.references,
            policy: self.policy,
            now: self.now,
            firmware_version: self.evidence.evidence().quote().firmware_version,
        }
    }

    /// When the quote was made. It is later than the last accepted one, by the TPM's counters or by the challenge that it
    /// answers, and so not older than that one either.
    fn when(&self) -> When {
        let before = self.state.map_or(0, |state| state.not_older_than);
        let not_older_than = self.evidence.not_older_than().max(before);
        When { not_older_than, received: self.now, steady_since: self.steady_since }
    }

    const fn approval(&self) -> Approval {
        Approval(self.standing.approved_at)
    }

    const fn finder(&self) -> Finder {
        Finder { now: self.now, approval: self.approval() }
    }

    fn held(&self) -> Option<&BootState> {
        self.state.map(|state| &state.boot)
    }

    /// Whether what is held was judged by other reference values, or for another product.
    fn asks_again(&self) -> bool {
        self.state.is_some_and(|state| state.asks_for_boot_log(self.references, self.standing))
    }

    /// Whether the boot log of this boot is held already, byte for byte.
    fn keeps_log_of(&self, boot: &BootState) -> bool {
        let digest = |boot: &BootState| boot.boot_log.as_ref().map(|log| log.digest);
        self.held().is_some_and(|held| !held.log_wanted && digest(held) == digest(boot))
    }
}

/// The boot that the evidence is of, with what the evidence adds to it.
struct Followed {
    boot: BootState,
    files: runtime::Files,
    measured: Measured,
    new_boot: bool,
}

/// Goes on with the boot that is held where the evidence does, or begins another.
fn follow(input: &Input<'_>, against: &Against<'_>) -> Followed {
    let counters = input.evidence.evidence().quote().counters;
    let course = Course::of(input.held(), &counters, input.evidence.clears());
    let continued = match (course, input.held()) {
        (Course::Same, Some(held)) => Some(held.clone()),
        (Course::Restarted, Some(held)) => Some(held.resumed(&counters)),
        _ => None,
    };
    if let Some(mut boot) = continued {
        let mut files = runtime::Files::default();
        if let Ok(measured) = measure(input, against, &mut boot, &mut files) {
            settle(input, &mut boot, &measured);
            return Followed { boot, files, measured, new_boot: false };
        }
    }
    let mut boot = BootState::new(&counters);
    let unseen = input.held().filter(|_| course != Course::New).map_or(0, |held| unseen_before(held, &counters));
    find_unseen(input, &mut boot, unseen);
    let mut files = runtime::Files::default();
    let measured = measure(input, against, &mut boot, &mut files).unwrap_or(Measured::NOTHING);
    Followed { boot, files, measured, new_boot: true }
}

/// Once the logs explain a quote after the TPM started again, the boot is known to have gone on.
fn settle(input: &Input<'_>, boot: &mut BootState, measured: &Measured) {
    let Some(from) = boot.resumed_from.filter(|_| measured.is_explained()) else { return };
    boot.resumed_from = None;
    // Where nothing had been extended, a boot in between leaves no trace but its count.
    if input.held().is_some_and(|held| held.explained().is_trivial()) {
        let unseen = boot.restart.saturating_sub(from).saturating_sub(1);
        find_unseen(input, boot, unseen);
    }
}

fn find_unseen(input: &Input<'_>, boot: &mut BootState, unseen: u32) {
    if unseen > input.policy.unseen_boots {
        let detail = format!("starts of the TPM without evidence before this one: {unseen}");
        input.finder().find(boot, Code::BootUnseen, detail, true);
    }
}

/// What is covered without a gap, and whether the TPM's clock keeps pace. Returns what is covered no more.
fn time(input: &Input<'_>, boot: &mut BootState, measured: &Measured, new_boot: bool) -> Option<Attested> {
    let when = input.when();
    if !boot.keeps_pace(input.evidence.evidence().quote().counters.clock, &when) {
        let detail = "it advances by more than 135 % or by less than 65 % of time".to_owned();
        input.finder().find(boot, Code::TpmClockPace, detail, true);
    }
    let before = input.state.and_then(DeviceState::attested);
    let contradicted = boot.is_contradicted();
    let lapsed = input.state.is_some_and(|state| state.expires <= input.now);
    let closed = boot.cover(measured.is_explained() && !contradicted, lapsed, &when);
    before.filter(|_| new_boot || closed.is_some())
}

/// What stays of earlier boots, whatever this one shows.
struct Past {
    since: UnixSeconds,
    cleared: Option<UnixSeconds>,
    compromised: Vec<Finding>,
}

impl Past {
    fn of<'a>(ground: &Ground<'a>, product: Option<ProductRef<'a>>, new_boot: bool, clears: bool) -> Self {
        let state = ground.state;
        let approval = ground.approval();
        let cleared =
            if clears { Some(approval.first_after(ground.now)) } else { state.and_then(|state| state.cleared) };
        let mut compromised = state.map(|state| state.compromised.clone()).unwrap_or_default();
        for finding in ground.held().into_iter().filter(|_| new_boot).flat_map(|held| &held.findings) {
            let lasting = finding.code.row().end == End::Operator;
            if lasting && ground.policy.tolerates(finding.code, ground.now).is_none() {
                keep_compromise(&mut compromised, finding);
            }
        }
        // A release that was put back is no finding of a boot's logs.
        let causes = state.into_iter().filter(|_| new_boot).flat_map(|state| &state.causes);
        for cause in causes.filter(|cause| cause.code == Code::ReleaseRolledBack) {
            let finding = Finding { code: cause.code, detail: cause.detail.clone(), since: cause.first_seen };
            keep_compromise(&mut compromised, &finding);
        }
        let references = ground.files_against(product);
        compromised.retain(|finding| {
            let over = runtime::is_over(&references, finding, ground.now);
            !over && !approval.ended(finding)
        });
        // Nonces count by the second, and one that was given out within this one may be in a quote from before the clear.
        let since = if clears { ground.now.saturating_add(1) } else { state.map_or(0, |state| state.since) };
        Self { since, cleared: cleared.filter(|at| *at > approval.0), compromised }
    }

    fn judge(&self, causes: &mut Causes<'_>) {
        if let Some(since) = self.cleared {
            causes.add_since(Code::TpmCleared, "its counters went backward", since);
        }
        for Finding { code, detail, since } in &self.compromised {
            causes.add_since(Code::HistoryCompromised, &format!("{}: {detail}", code.row().code), *since);
        }
    }
}

/// Detail of [`Code::LogIncomplete`] where not even the PCRs are known.
const UNKNOWN_VALUES: &str = "the values of the quoted PCRs are not known";

/// What the logs of this message show.
struct Measured {
    pcrs: Option<PcrValues>,
    /// Whether a boot log came that counts.
    boot_log: bool,
    runtime: Reach,
    ima: Reach,
}

impl Measured {
    const NOTHING: Self = Self { pcrs: None, boot_log: false, runtime: Reach::Short, ima: Reach::Short };

    /// What the logs that are held show of the last quote.
    fn held(state: &DeviceState, boot: &BootState, runtime_pcr: u8) -> Self {
        let unknown =
            state.causes.iter().any(|cause| cause.code == Code::LogIncomplete && cause.detail == UNKNOWN_VALUES);
        let tolerated =
            state.tolerated.contains(&Code::LogIncomplete) && state.vector.get(Claim::Executables).is_none();
        let Some(pcrs) = boot.pcrs().filter(|_| !unknown && !tolerated) else { return Self::NOTHING };
        let (runtime, ima) = runtime::reached(boot, &pcrs, runtime_pcr);
        Self { pcrs: Some(pcrs), boot_log: false, runtime, ima }
    }

    /// Whether the logs lead to the quote.
    fn is_explained(&self) -> bool {
        self.pcrs.is_some() && self.runtime != Reach::Short && self.ima != Reach::Short
    }
}

/// Replays what is attached to the quoted PCR values. `Err` where the boot would have gone on after the TPM started again,
/// and did not.
fn measure(
    input: &Input<'_>,
    against: &Against<'_>,
    boot: &mut BootState,
    files: &mut runtime::Files,
) -> Result<Measured, AnotherBoot> {
    let evidence = input.evidence.evidence();
    let finder = input.finder();
    let attached = evidence.pcr_values().unwrap_or_else(|refused| {
        finder.find(boot, Code::LogMismatch, format!("PCR values: {refused}"), true);
        None
    });
    let resuming = boot.resumed_from.is_some();
    let quoted = |values: &PcrValues| values.quote_digest() == evidence.quote().pcr_digest;
    let held = boot.pcrs();
    let Some(pcrs) = attached.or_else(|| held.clone()).filter(quoted) else { return Ok(Measured::NOTHING) };
    let extended = held.as_ref().and_then(|held| boot::differing(held, &pcrs));
    if resuming && extended.is_some() {
        return Err(AnotherBoot);
    }
    boot.set_pcrs(&pcrs);
    if !resuming && runtime::begin_anew(evidence, &pcrs, boot, against.runtime_pcr) {
        let detail = "IMA's list began anew, and goes on from where the list before it stood".to_owned();
        finder.find(boot, Code::BootKexec, detail, true);
    }
    let explained = boot.explained();
    let boot_log = boot::take_log(evidence, &pcrs, boot, against).unwrap_or_else(|contradiction| {
        finder.find(boot, Code::LogMismatch, contradiction, true);
        false
    });
    if let Some(pcr) = extended.filter(|_| !boot_log && boot.boot_log.is_some()) {
        let detail = format!("boot log: something extended PCR {pcr} after the boot, and it leads there no more");
        finder.find(boot, Code::LogMismatch, detail, true);
    }
    let attached_log = evidence.attachment(LogKind::Boot).filter(|_| boot_log).map(|log| log.bytes.as_slice());
    let mut replay = Replay {
        pcrs: &pcrs,
        runtime_pcr: against.runtime_pcr,
        boot,
        files,
        explained,
        resuming,
        boot_log: attached_log.or(input.boot_log),
        finder,
    };
    let runtime = runtime::take_log(evidence, &mut replay)?;
    let ima = runtime::take_ima(evidence, &mut replay)?;
    let measured = Measured { pcrs: Some(pcrs), boot_log, runtime, ima };
    boot.set_explained(explained, measured.is_explained());
    Ok(measured)
}

/// Holds files against reference values: the new ones, or all where the reference values are others than before.
fn reconsider<'a>(
    ground: &Ground<'a>,
    product: Option<ProductRef<'a>>,
    boot: &mut BootState,
    held: Files<'_>,
    new: &runtime::Files,
    new_boot: bool,
) {
    let (finder, exclusions) = (ground.finder(), ground.policy.exclusions(ground.now));
    let references =
        runtime::References { index: ground.references, product, name: ground.standing.product.as_deref() };
    let judge = |boot: &mut BootState, files: &[MeasuredFile], seen| {
        runtime::judge_files(&references, files, seen, &exclusions, boot, &finder);
    };
    // What is held is of the boot before, where this is another.
    if let Files::All(held) = held
        && !new_boot
    {
        let earlier: Vec<Finding> = boot.findings.clone();
        boot.findings.retain(|finding| !is_by_reference(finding));
        boot.releases = None;
        boot.others = None;
        boot.excluded = None;
        boot.ima_policy = None;
        boot.ima_sight = Some(ImaSight::NONE);
        boot.further_findings = 0;
        judge(boot, held, runtime::Seen::Held);
        for finding in &mut boot.findings {
            if let Some(known) = earlier.iter().find(|e| e.code == finding.code && e.detail == finding.detail) {
                finding.since = known.since;
            }
        }
    }
    let (again, anew) = new.all.split_at_checked(new.told_again).unwrap_or((&[], &new.all));
    judge(boot, again, runtime::Seen::Again);
    judge(boot, anew, runtime::Seen::Anew);
}

/// Whether reference values may take a finding away. Memory without a file has no digest that they could list.
fn is_by_reference(finding: &Finding) -> bool {
    let by_reference = runtime::BY_REFERENCE.contains(&finding.code);
    by_reference && runtime::digest_in(&finding.detail).is_some()
}

/// Claims before causes lower them.
#[derive(Default)]
struct Claims {
    vector: TrustVector,
    boot_releases: Vec<String>,
    /// Whether the boot vouches for the attester's own file.
    anchored: bool,
    /// Whether the kernel was told, or given a policy, to measure programs with IMA.
    ima_told: bool,
}

fn judge(
    ground: &Ground<'_>,
    against: &Against<'_>,
    boot: &BootState,
    measured: &Measured,
    past: &Past,
    causes: &mut Causes<'_>,
) -> Claims {
    let mut claims = Claims::default();
    for Finding { code, detail, since } in ground.standing.faults(Some(ground.firmware_version)) {
        causes.add_since(code, &detail, since);
    }
    judge_identity(ground.standing, &mut claims, causes);
    past.judge(causes);
    let Some(pcrs) = &measured.pcrs else {
        causes.add(Code::LogIncomplete, UNKNOWN_VALUES);
        causes.add_findings(boot);
        return claims;
    };
    match (&ground.standing.product, against.product) {
        (Some(name), None) => causes.add(Code::ReferenceNone, &format!("product {name}")),
        (Some(_), Some(_)) => judge_boot(boot, pcrs, against, &mut claims, causes),
        (None, _) => {}
    }
    judge_runtime(measured, boot, against.product.is_some(), &mut claims, causes);
    causes.add_findings(boot);
    causes.add_excluded(boot);
    for claim in &ground.policy.require {
        if claims.vector.get(*claim).is_none() && !causes.explain(*claim) {
            causes.add(Code::PolicyClaimMissing, claim.name());
        }
    }
    claims
}

fn judge_identity(standing: &Standing, claims: &mut Claims, causes: &mut Causes<'_>) {
    match &standing.product {
        Some(_) => claims.vector.set(Claim::InstanceIdentity, 2),
        None => causes.add(Code::IdentityUnendorsed, "no product is assigned"),
    }
    match standing.ek_class {
        // Nothing says what kind of TPM it is.
        _ if standing.no_ek_certificate => {
            causes.add(Code::IdentityNoEkCertificate, "an operator's list vouches for its endorsement key");
        }
        EkClass::Hardware => claims.vector.set(Claim::Hardware, 2),
        EkClass::Software => causes.add(Code::HardwareSoftwareTpm, "its EK certificate is by a software TPM's root"),
    }
}

fn judge_boot(boot: &BootState, pcrs: &PcrValues, against: &Against<'_>, claims: &mut Claims, causes: &mut Causes<'_>) {
    match boot::judge(boot, pcrs, against) {
        BootMatch::NoReference => {}
        BootMatch::NoLog if boot.is_contradicted() => {}
        BootMatch::NoLog => causes.add(Code::LogIncomplete, "the boot log is missing"),
        BootMatch::Releases(matched) => {
            claims.vector.set(Claim::Configuration, 2);
            let missing = matched.iter().map(|matched| (matched, protection::missing(&known(boot, matched))));
            if let Some((matched, missing)) = missing.min_by_key(|(_, missing)| missing.len())
                && !missing.is_empty()
            {
                let detail = format!("release {}: not shown: {}", matched.release.name(), missing.join("; "));
                causes.add(Code::BootUnprotected, &detail);
            }
            claims.ima_told = matched.iter().any(|matched| is_told_to_measure(boot, matched));
            claims.anchored = matched.iter().any(|matched| anchors_attester(matched));
            claims.boot_releases = matched.iter().map(|matched| matched.release.name().to_owned()).collect();
        }
        BootMatch::Mismatch(violations) => {
            claims.vector.set(Claim::Configuration, 2);
            violations.iter().for_each(|violation| causes.add(violation.code, &violation.detail));
        }
    }
}

/// What is known of the kernel that a release's boot started.
fn known<'a>(boot: &'a BootState, matched: &Matched<'a>) -> Known<'a> {
    let policies = matched.release.ima_policies().iter();
    let mut loaded = policies.filter(|policy| Some(policy.digest) == boot.ima_policy);
    Known {
        kernel: matched.rules.and_then(|(rules, _)| rules.kernel()),
        command_line: matched.rules.and_then(|(_, judged)| judged.command_line.as_deref()),
        secure_boot: boot.boot_log.as_ref().and_then(|log| log.secure_boot) == Some(true),
        measures_kexec: loaded.any(|policy| policy.measures_kexec),
    }
}

/// Whether IMA measures programs by what was measured before it began: the command line, or a policy of the release.
fn is_told_to_measure(boot: &BootState, matched: &Matched<'_>) -> bool {
    let command_line = matched.rules.and_then(|(_, judged)| judged.command_line.as_deref());
    let policy = matched.release.ima_policies().iter().any(|policy| Some(policy.digest) == boot.ima_policy);
    policy || command_line.is_some_and(protection::measures_programs)
}

/// Whether the attester's own file is bound to this boot: rules are made so only where an initrd is listed, or every command
/// line names a root hash, and the boot is by these rules.
fn anchors_attester(matched: &Matched<'_>) -> bool {
    let place = matched.rules.and_then(|(rules, _)| rules.attester());
    matches!(place, Some(AttesterIn::Initrd | AttesterIn::Verity))
}

fn judge_runtime(measured: &Measured, boot: &BootState, judged: bool, claims: &mut Claims, causes: &mut Causes<'_>) {
    // Of a log that contradicts the quote, nothing more is asked for.
    let contradicted = boot.is_contradicted();
    for (log, reach, next) in
        [("runtime log", measured.runtime, boot.runtime.next), ("IMA list", measured.ima, boot.ima.next)]
    {
        if reach == Reach::Short && !contradicted {
            causes.add(Code::LogIncomplete, &format!("{log}: entries after {next} are missing"));
        }
    }
    let other_kernel = boot.findings.iter().any(|finding| finding.code == Code::BootKexec);
    match (measured.ima, measured.runtime) {
        _ if !judged => {}
        (Reach::Quote, _) | (_, Reach::Quote) if other_kernel => {
            claims.vector.set(Claim::Executables, 3);
            // What measures now came with it.
            let detail = "another kernel was started, and nothing that was measured before vouches for it";
            causes.add(Code::RuntimeUnanchored, detail);
        }
        (Reach::Quote, runtime) if claims.ima_told || boot.ima_shows_programs(runtime != Reach::Unused) => {
            claims.vector.set(Claim::Executables, 2);
        }
        (Reach::Quote, _) | (_, Reach::Quote) => {
            claims.vector.set(Claim::Executables, 3);
            if !claims.anchored {
                causes.add(Code::RuntimeUnanchored, "the attester is not measured by anything that ran before it");
            }
        }
        _ => {}
    }
}

/// Collects causes, apart by what policy tolerates.
pub(crate) struct Causes<'a> {
    policy: &'a Policy,
    earlier: &'a [Cause],
    approval: Approval,
    now: UnixSeconds,
    standing: Vec<Cause>,
    tolerated: Vec<Cause>,
}

impl<'a> Causes<'a> {
    fn new(ground: &Ground<'a>) -> Self {
        let earlier = ground.state.map(|state| state.causes.as_slice()).unwrap_or_default();
        Self {
            policy: ground.policy,
            earlier,
            approval: ground.approval(),
            now: ground.now,
            standing: Vec::new(),
            tolerated: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, code: Code, detail: &str) {
        self.add_since(code, detail, 0);
    }

    /// `since` is 0 where only evidence tells.
    fn add_since(&mut self, code: Code, detail: &str, since: UnixSeconds) {
        let known = self.earlier.iter().find(|cause| cause.code == code && cause.detail == detail);
        // What an operator ends, and was judged with their approval in view, was not there for it.
        let by_operator = code.row().end == End::Operator;
        let first = if by_operator { self.approval.first_after(self.now) } else { self.now };
        let first_seen = if since > 0 { since } else { known.map_or(first, |cause| cause.first_seen) };
        self.push(Cause { code, detail: detail.to_owned(), first_seen, last_seen: self.now });
    }

    fn push(&mut self, cause: Cause) {
        // A revocation is an operator's word to this very device: no policy tolerates it away.
        let tolerated = cause.code != Code::IdentityRevoked && self.policy.tolerates(cause.code, self.now).is_some();
        if tolerated { &mut self.tolerated } else { &mut self.standing }.push(cause);
    }

    fn add_findings(&mut self, boot: &BootState) {
        let approval = self.approval;
        for Finding { code, detail, since } in boot.findings.iter().filter(|finding| !approval.ended(finding)) {
            self.push(Cause { code: *code, detail: detail.clone(), first_seen: *since, last_seen: self.now });
        }
    }

    /// What exclusions let through, where policy does not let it pass.
    fn add_excluded(&mut self, boot: &BootState) {
        let Some(excluded) = &boot.excluded else { return };
        if self.policy.excluded == Excluded::Warning {
            let first = excluded.paths.first().map(String::as_str).unwrap_or_default();
            self.add(
                Code::CoverageExcluded,
                &format!("{} files that no release lists, the first {first}", excluded.count),
            );
        }
    }

    /// Whether a cause says already why a claim is not made.
    fn explain(&self, claim: Claim) -> bool {
        self.standing.iter().any(|cause| cause.code.row().claim.0 == claim)
    }

    /// Lowers the claims by the causes that stand, and takes the worst verdict among them.
    fn sum_up(&self, mut vector: TrustVector) -> (TrustVector, Verdict) {
        let mut verdict = Verdict::Affirmed;
        for cause in &self.standing {
            let row = cause.code.row();
            let (value, worst) = match cause.code {
                Code::RuntimeUnknownExecutable if self.policy.unlisted == Unlisted::Warning => (33, Verdict::Warning),
                Code::BootSecureBootOff if self.policy.secure_boot == SecureBoot::Warning => (36, Verdict::Warning),
                _ => (row.claim.1, row.verdict),
            };
            verdict = verdict.max(worst);
            row.lower(&mut vector, value);
        }
        (vector, verdict)
    }
}
