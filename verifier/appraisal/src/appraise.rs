//! One evidence message, judged: boot, runtime, policy, in that order; envelope, quote and freshness stand behind the
//! type [`Fresh`].

use evidence::{
    pcr::PcrValues,
    result::{Acknowledged, Claim, Tier, TrustVector},
};
use reference_values::{ProductRef, ReferenceIndex};

use crate::{
    UnixSeconds,
    boot::{self, BootMatch},
    cause::{Cause, Code},
    freshness::{Fresh, Last},
    policy::{Policy, Unlisted},
    runtime::{self, Reach, Replay},
    state::{Attested, BootState, DeviceState, EkClass, Finding, MeasuredFile, Standing},
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
    /// Signed reference values.
    pub references: &'a ReferenceIndex,
    /// What this verifier asks for.
    pub policy: &'a Policy,
    /// The instant of the judgement.
    pub now: UnixSeconds,
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
    let counters = evidence.quote().counters;
    let held = input.state.map(|state| &state.boot);
    let same_boot = held.filter(|boot| (boot.reset, boot.restart) == (counters.reset, counters.restart));
    let mut boot = same_boot.cloned().unwrap_or_else(|| BootState::new(&counters));
    let product = input.standing.product.as_deref().and_then(|name| input.references.product(name));

    let mut causes = Causes::new(&input);
    let mut new_files = Vec::new();
    let measured = measure(&input, &mut boot, &mut new_files);
    reconsider(&input, product, &mut boot, &new_files);
    let claims = judge(&input, product, &boot, &measured, &mut causes);
    let release = release(&claims, &boot, product, &mut causes, input.now);
    let (vector, verdict) = causes.sum_up(claims.vector);

    let state = DeviceState {
        last: Last { counters, evidence: *evidence.digest() },
        verdict,
        vector,
        tolerated: causes.tolerated.iter().map(|cause| cause.code).collect(),
        causes: causes.standing,
        judged: input.now,
        expires: input.evidence.not_older_than().saturating_add(input.policy.validity),
        last_check: evidence.attester().why,
        release,
        references: *input.references.id(),
        product: input.standing.product.clone(),
        firmware_version: evidence.quote().firmware_version,
        attester_version: evidence.attester().version.clone(),
        since: input.state.map_or(0, |state| state.since),
        not_older_than: input.evidence.not_older_than(),
        cleared: None,
        compromised: Vec::new(),
        boot,
    };
    let acknowledged = state.boot.acknowledged();
    Appraisal {
        acknowledged,
        new_boot: same_boot.is_none(),
        state,
        new_files,
        tolerated: causes.tolerated,
        closed: None,
    }
}

/// What the logs of this message show.
struct Measured {
    pcrs: Option<PcrValues>,
    runtime: Reach,
    ima: Reach,
}

/// Replays what is attached to the quoted PCR values.
fn measure(input: &Input<'_>, boot: &mut BootState, files: &mut Vec<MeasuredFile>) -> Measured {
    let evidence = input.evidence.evidence();
    let attached = match evidence.pcr_values() {
        Ok(values) => values,
        Err(refused) => {
            boot.find(Code::LogMismatch, format!("PCR values: {refused}"), input.now);
            None
        }
    };
    let quoted = |values: &PcrValues| values.quote_digest() == evidence.quote().pcr_digest;
    let Some(pcrs) = attached.or_else(|| boot.pcrs()).filter(quoted) else {
        return Measured { pcrs: None, runtime: Reach::Short, ima: Reach::Short };
    };
    boot.set_pcrs(&pcrs);
    let runtime_pcr = input.policy.runtime_pcr;
    boot::take_log(evidence, &pcrs, boot, runtime_pcr, input.now);
    let mut replay = Replay { pcrs: &pcrs, runtime_pcr, boot, files, now: input.now };
    let runtime = runtime::take_log(evidence, &mut replay);
    let ima = runtime::take_ima(evidence, &mut replay);
    Measured { pcrs: Some(pcrs), runtime, ima }
}

/// Holds files against reference values: the new ones, or all where the reference values are others than before.
fn reconsider(input: &Input<'_>, product: Option<ProductRef<'_>>, boot: &mut BootState, new: &[MeasuredFile]) {
    let Some(product) = product else { return };
    if let Files::All(held) = input.files {
        let by_reference = [Code::RuntimeUnknownExecutable, Code::RuntimeFromMemory];
        let earlier: Vec<Finding> = boot.findings.clone();
        boot.findings.retain(|finding| !by_reference.contains(&finding.code) || is_about_memory(finding));
        boot.releases = None;
        boot.further_findings = 0;
        runtime::judge_files(input.references, product, held, boot, input.now);
        for finding in &mut boot.findings {
            if let Some(known) = earlier.iter().find(|e| e.code == finding.code && e.detail == finding.detail) {
                finding.since = known.since;
            }
        }
    }
    runtime::judge_files(input.references, product, new, boot, input.now);
}

/// Anonymous memory has no digest that reference values could list.
fn is_about_memory(finding: &Finding) -> bool {
    finding.code == Code::RuntimeFromMemory && !finding.detail.contains(" sha256:")
}

/// Claims before causes lower them.
struct Claims {
    vector: TrustVector,
    boot_releases: Vec<String>,
}

fn judge(
    input: &Input<'_>,
    product: Option<ProductRef<'_>>,
    boot: &BootState,
    measured: &Measured,
    causes: &mut Causes<'_>,
) -> Claims {
    let mut claims = Claims { vector: TrustVector::default(), boot_releases: Vec::new() };
    judge_identity(input.standing, &mut claims, causes);
    let Some(pcrs) = &measured.pcrs else {
        causes.add(Code::LogIncomplete, "the values of the quoted PCRs are not known");
        causes.add_findings(boot);
        return claims;
    };
    match (&input.standing.product, product) {
        (Some(name), None) => causes.add(Code::ReferenceNone, &format!("product {name}")),
        (Some(_), Some(product)) => judge_boot(product, pcrs, input.now, &mut claims, causes),
        (None, _) => {}
    }
    judge_runtime(measured, boot, product.is_some(), &mut claims, causes);
    causes.add_findings(boot);
    for claim in &input.policy.require {
        if claims.vector.get(*claim).is_none() && !causes.explain(*claim) {
            causes.add(Code::PolicyClaimMissing, claim.name());
        }
    }
    claims
}

fn judge_identity(standing: &Standing, claims: &mut Claims, causes: &mut Causes<'_>) {
    if let Some(why) = &standing.revoked {
        causes.add(Code::IdentityRevoked, why);
    }
    match &standing.product {
        Some(_) => claims.vector.set(Claim::InstanceIdentity, 2),
        None => causes.add(Code::IdentityUnendorsed, "no product is assigned"),
    }
    match standing.ek_class {
        EkClass::Hardware => claims.vector.set(Claim::Hardware, 2),
        EkClass::Software => causes.add(Code::HardwareSoftwareTpm, "its EK certificate is by a software TPM's root"),
    }
}

fn judge_boot(
    product: ProductRef<'_>,
    pcrs: &PcrValues,
    now: UnixSeconds,
    claims: &mut Claims,
    causes: &mut Causes<'_>,
) {
    match boot::judge(product, pcrs, now) {
        BootMatch::NoReference => {}
        BootMatch::Releases(names) => {
            claims.vector.set(Claim::Configuration, 2);
            claims.boot_releases = names;
            causes.add(
                Code::BootUnprotected,
                "module signatures, lockdown and kexec are not shown by a measured command line",
            );
        }
        BootMatch::Mismatch { release, pcrs } => {
            claims.vector.set(Claim::Configuration, 2);
            let list: Vec<String> = pcrs.iter().map(u8::to_string).collect();
            causes.add(Code::BootPcrMismatch, &format!("PCR {} differ from release {release}", list.join(", ")));
        }
    }
}

fn judge_runtime(measured: &Measured, boot: &BootState, judged: bool, claims: &mut Claims, causes: &mut Causes<'_>) {
    // Of a log that contradicts the quote, nothing more is asked for.
    let contradicted = boot.findings.iter().any(|finding| finding.code == Code::LogMismatch);
    for (log, reach, next) in
        [("runtime log", measured.runtime, boot.runtime.next), ("IMA list", measured.ima, boot.ima.next)]
    {
        if reach == Reach::Short && !contradicted {
            causes.add(Code::LogIncomplete, &format!("{log}: entries after {next} are missing"));
        }
    }
    match (measured.ima, measured.runtime) {
        _ if !judged => {}
        (Reach::Quote, _) => claims.vector.set(Claim::Executables, 2),
        (_, Reach::Quote) => {
            claims.vector.set(Claim::Executables, 3);
            causes.add(Code::RuntimeUnanchored, "the attester is not measured by anything that ran before it");
        }
        _ => {}
    }
}

/// Which release this is: by boot where boot is judged, narrowed down by what runs.
fn release(
    claims: &Claims,
    boot: &BootState,
    product: Option<ProductRef<'_>>,
    causes: &mut Causes<'_>,
    now: UnixSeconds,
) -> Option<String> {
    let running = boot.releases.as_deref().unwrap_or_default();
    let by_boot = || claims.boot_releases.last();
    let both = claims.boot_releases.iter().rev().find(|name| running.contains(name));
    let name = both.or_else(by_boot).or_else(|| running.last())?;
    let entry = product?.releases().find(|(_, release)| release.name() == name)?.1;
    if entry.retire_at().is_some_and(|retired| retired <= now) {
        causes.add(Code::ReleaseStale, &format!("release {name}"));
    }
    Some(name.clone())
}

/// Collects causes, apart by what policy tolerates.
struct Causes<'a> {
    policy: &'a Policy,
    earlier: &'a [Cause],
    now: UnixSeconds,
    standing: Vec<Cause>,
    tolerated: Vec<Cause>,
}

impl<'a> Causes<'a> {
    fn new(input: &Input<'a>) -> Self {
        let earlier = input.state.map(|state| state.causes.as_slice()).unwrap_or_default();
        Self { policy: input.policy, earlier, now: input.now, standing: Vec::new(), tolerated: Vec::new() }
    }

    fn add(&mut self, code: Code, detail: &str) {
        let known = self.earlier.iter().find(|cause| cause.code == code && cause.detail == detail);
        let first_seen = known.map_or(self.now, |cause| cause.first_seen);
        self.push(Cause { code, detail: detail.to_owned(), first_seen, last_seen: self.now });
    }

    fn push(&mut self, cause: Cause) {
        let tolerated = self.policy.tolerates(cause.code, self.now).is_some();
        if tolerated { &mut self.tolerated } else { &mut self.standing }.push(cause);
    }

    fn add_findings(&mut self, boot: &BootState) {
        for Finding { code, detail, since } in &boot.findings {
            self.push(Cause { code: *code, detail: detail.clone(), first_seen: *since, last_seen: self.now });
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
            let (claim, value) = row.claim;
            let unlisted_is_warning =
                cause.code == Code::RuntimeUnknownExecutable && self.policy.unlisted == Unlisted::Warning;
            let (value, worst) = if unlisted_is_warning { (33, Verdict::Warning) } else { (value, row.verdict) };
            verdict = verdict.max(worst);
            match vector.get(claim).unwrap_or(0) {
                // A claim that cannot be made is dropped, unless something says worse of it.
                held if value == 0 && Tier::of(held) <= Tier::Affirming => vector.unset(claim),
                held => vector.set(claim, held.max(value)),
            }
        }
        (vector, verdict)
    }
}
