//! Boot rules and IMA policies as `show` and `diff` print them: in, rules; out, JSON or text.

use std::collections::BTreeSet;

use evidence::eventlog::event_type_name;
use reference_values::{
    BootRules, Release,
    boot_rules::{AttesterIn, EventKey, EventRule, ImaPolicy, Kernel, Kexec, Keys, Lockdown},
};
use serde::Serialize;

use super::{count, hex, table};

/// Boot rules, in JSON.
#[derive(Serialize)]
pub(super) struct Rules {
    events: Vec<Event>,
    separators: BTreeSet<u8>,
    secure_boot: SecureBoot,
    command_lines: Vec<String>,
    kernel: Option<KernelFacts>,
    attester_in: Option<&'static str>,
}

#[derive(Serialize)]
struct Event {
    pcr: u8,
    event_type: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    #[serde(flatten)]
    allowed: Allowed,
}

#[derive(Serialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
enum Allowed {
    Sequences { sequences: Vec<Vec<String>> },
    AnyOf { digests: Vec<String>, at_least: u32, at_most: u32 },
    Unjudged,
}

#[derive(Serialize)]
struct SecureBoot {
    required: bool,
    pk: Option<Vec<String>>,
    kek: Option<Vec<String>>,
    db: Option<Vec<String>>,
    dbx_at_least: Vec<String>,
}

#[derive(Serialize)]
struct KernelFacts {
    release: String,
    modules_signed: bool,
    lockdown: &'static str,
    kexec: &'static str,
}

/// An IMA policy, in JSON.
#[derive(Serialize)]
pub(super) struct Policy {
    path: String,
    sha256: String,
    measures_kexec: bool,
}

impl From<&ImaPolicy> for Policy {
    fn from(policy: &ImaPolicy) -> Self {
        Self { path: policy.path.clone(), sha256: hex(&policy.digest), measures_kexec: policy.measures_kexec }
    }
}

impl Policy {
    pub(super) fn line(&self) -> String {
        let kexec = if self.measures_kexec { "measures kexec" } else { "does not measure kexec" };
        format!("{}  {} ({kexec})", self.sha256, self.path)
    }
}

fn digests<'a>(all: impl IntoIterator<Item = &'a [u8; 32]>) -> Vec<String> {
    all.into_iter().map(|digest| hex(digest)).collect()
}

impl From<&EventRule> for Allowed {
    fn from(rule: &EventRule) -> Self {
        match rule {
            EventRule::Sequences(all) => Self::Sequences { sequences: all.iter().map(digests).collect() },
            EventRule::AnyOf { digests: all, at_least, at_most } => {
                Self::AnyOf { digests: digests(all), at_least: *at_least, at_most: *at_most }
            }
            EventRule::Unjudged => Self::Unjudged,
        }
    }
}

impl From<&BootRules> for Rules {
    fn from(rules: &BootRules) -> Self {
        let events = rules.events().iter().map(|(key, rule)| Event {
            pcr: key.pcr,
            event_type: key.event_type,
            name: event_type_name(key.event_type),
            allowed: rule.into(),
        });
        let secure_boot = rules.secure_boot();
        let keys = |keys: &Option<Keys>| keys.as_ref().map(digests);
        Self {
            events: events.collect(),
            separators: rules.separators().clone(),
            secure_boot: SecureBoot {
                required: secure_boot.required,
                pk: keys(&secure_boot.pk),
                kek: keys(&secure_boot.kek),
                db: keys(&secure_boot.db),
                dbx_at_least: digests(&secure_boot.dbx_at_least),
            },
            command_lines: rules.command_lines().iter().map(ToString::to_string).collect(),
            kernel: rules.kernel().map(Into::into),
            attester_in: rules.attester().map(place),
        }
    }
}

const fn place(attester: AttesterIn) -> &'static str {
    match attester {
        AttesterIn::Initrd => "initrd",
        AttesterIn::Verity => "verity",
    }
}

impl From<&Kernel> for KernelFacts {
    fn from(kernel: &Kernel) -> Self {
        Self {
            release: kernel.release.clone(),
            modules_signed: kernel.modules_signed,
            lockdown: match kernel.lockdown {
                Lockdown::Absent => "absent",
                Lockdown::OnRequest => "on-request",
                Lockdown::WithSecureBoot => "with-secure-boot",
                Lockdown::Always => "always",
            },
            kexec: match kernel.kexec {
                Kexec::Absent => "absent",
                Kexec::FileOnly => "file-only",
                Kexec::Any => "any",
            },
        }
    }
}

impl KernelFacts {
    fn line(&self) -> String {
        let Self { release, modules_signed, lockdown, kexec } = self;
        let modules = if *modules_signed { "signed ones only" } else { "any" };
        format!("{release}, modules: {modules}, lockdown: {lockdown}, kexec: {kexec}")
    }
}

impl Allowed {
    fn text(&self) -> String {
        match self {
            Self::Sequences { sequences } => {
                let one = |sequence: &Vec<String>| {
                    if sequence.is_empty() { "(none)".to_owned() } else { sequence.join("\n") }
                };
                sequences.iter().map(one).collect::<Vec<_>>().join("\nor\n")
            }
            Self::AnyOf { digests, at_least, at_most } => {
                format!("{at_least} to {at_most} of\n{}", digests.join("\n"))
            }
            Self::Unjudged => "not judged".into(),
        }
    }
}

impl SecureBoot {
    fn line(&self) -> String {
        if !self.required {
            return "not required".into();
        }
        let allowed = [("PK", &self.pk), ("KEK", &self.kek), ("db", &self.db)].map(|(name, keys)| match keys {
            Some(keys) => format!("{name} of {}", count(keys.len(), "allowed entry", "allowed entries")),
            None => format!("any {name}"),
        });
        let dbx = count(self.dbx_at_least.len(), "entry", "entries");
        format!("required; {}, dbx with {dbx} at least", allowed.join(", "))
    }
}

impl Rules {
    pub(super) fn text(&self) -> String {
        let rows = self.events.iter().map(|event| {
            let name = event.name.map_or_else(|| format!("0x{:08x}", event.event_type), Into::into);
            vec![event.pcr.to_string(), name, event.allowed.text()]
        });
        let mut out = table(&["PCR", "EVENT", "SHA-256"], rows);
        let separators = self.separators.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        out.push_str(&format!("separators: PCR {separators}\nSecure Boot: {}\n", self.secure_boot.line()));
        for line in &self.command_lines {
            out.push_str(&format!("command line: {line}\n"));
        }
        if let Some(kernel) = &self.kernel {
            out.push_str(&format!("kernel: {}\n", kernel.line()));
        }
        if let Some(place) = self.attester_in {
            out.push_str(&format!("attester in: {place}\n"));
        }
        out
    }
}

/// What differs in one part of two sets of boot rules.
#[derive(Serialize)]
pub(super) struct Change {
    about: String,
    change: String,
    removed: Vec<String>,
    added: Vec<String>,
}

impl Change {
    pub(super) fn text(&self) -> String {
        let Self { about, change, removed, added } = self;
        let mut out = format!("~ {about}: {change}\n");
        removed.iter().for_each(|one| out.push_str(&format!("    - {one}\n")));
        added.iter().for_each(|one| out.push_str(&format!("    + {one}\n")));
        out
    }
}

/// What differs between the rules of two releases. Each has one set as a rule; where there are more, the first that
/// differs is held against the first, and so on.
pub(super) fn changes(from: &Release, to: &Release) -> Vec<Change> {
    let only_in = |one: &Release, other: &Release| {
        one.boot_rules().iter().filter(|rules| !other.boot_rules().contains(rules)).cloned().collect::<Vec<_>>()
    };
    let (before, after) = (only_in(from, to), only_in(to, from));
    let mut all = Vec::new();
    for at in 0..before.len().max(after.len()) {
        match (before.get(at), after.get(at)) {
            (Some(before), Some(after)) => all.extend(changes_of(before, after)),
            (before, _) => all.push(Change {
                about: "boot rules".into(),
                change: if before.is_some() { "removed" } else { "added" }.into(),
                removed: Vec::new(),
                added: Vec::new(),
            }),
        }
    }
    all.extend(policy_changes(from, to));
    all
}

fn changes_of(from: &BootRules, to: &BootRules) -> Vec<Change> {
    let keys = from.events().keys().chain(to.events().keys()).collect::<BTreeSet<_>>();
    let events = keys.into_iter().filter_map(|key| event_change(*key, from.events().get(key), to.events().get(key)));
    let mut all = events.collect::<Vec<_>>();
    let pcrs = |rules: &BootRules| rules.separators().iter().map(|pcr| format!("PCR {pcr}")).collect();
    all.extend(set_change("separators", pcrs(from), pcrs(to)));
    let (before, after) = (Rules::from(from), Rules::from(to));
    let (old, new) = (&before.secure_boot, &after.secure_boot);
    if old.required != new.required {
        let change = if new.required { "required now" } else { "no longer required" };
        all.push(Change { about: "Secure Boot".into(), change: change.into(), removed: vec![], added: vec![] });
    }
    let none = Vec::new();
    for (about, old, new) in [("PK", &old.pk, &new.pk), ("KEK", &old.kek, &new.kek), ("db", &old.db, &new.db)] {
        let set = |keys: &Option<Vec<String>>| keys.as_ref().unwrap_or(&none).iter().cloned().collect();
        all.extend(set_change(about, set(old), set(new)));
    }
    let set = |keys: &[String]| keys.iter().cloned().collect();
    all.extend(set_change("dbx", set(&old.dbx_at_least), set(&new.dbx_at_least)));
    all.extend(set_change("command lines", set(&before.command_lines), set(&after.command_lines)));
    let kernel = |rules: &Rules| rules.kernel.iter().map(KernelFacts::line).collect();
    all.extend(set_change("kernel", kernel(&before), kernel(&after)));
    let attester = |rules: &Rules| rules.attester_in.iter().map(ToString::to_string).collect();
    all.extend(set_change("attester in", attester(&before), attester(&after)));
    all
}

fn event_change(key: EventKey, from: Option<&EventRule>, to: Option<&EventRule>) -> Option<Change> {
    if from == to {
        return None;
    }
    let change = match (from, to) {
        (None, _) => "new",
        (_, None) => "gone",
        (Some(EventRule::Unjudged), _) => "judged now",
        (_, Some(EventRule::Unjudged)) => "no longer judged",
        _ => "",
    };
    let digests = |rule: Option<&EventRule>| match rule {
        Some(EventRule::Sequences(all)) => all.iter().flatten().map(|digest| hex(digest)).collect::<BTreeSet<_>>(),
        Some(EventRule::AnyOf { digests, .. }) => digests.iter().map(|digest| hex(digest)).collect(),
        Some(EventRule::Unjudged) | None => BTreeSet::new(),
    };
    let change = match set_change("", digests(from), digests(to)) {
        Some(digests) if change.is_empty() => digests,
        Some(digests) => Change { change: change.into(), ..digests },
        None => {
            let change = if change.is_empty() { "other order or number of events" } else { change };
            Change { about: String::new(), change: change.into(), removed: vec![], added: vec![] }
        }
    };
    Some(Change { about: key.to_string(), ..change })
}

fn set_change(about: &str, from: BTreeSet<String>, to: BTreeSet<String>) -> Option<Change> {
    let removed = from.difference(&to).cloned().collect::<Vec<_>>();
    let added = to.difference(&from).cloned().collect::<Vec<_>>();
    let change = match (removed.len(), added.len()) {
        (0, 0) => return None,
        (0, more) => format!("{more} added"),
        (less, 0) => format!("{less} removed"),
        (less, more) => format!("{less} removed, {more} added"),
    };
    Some(Change { about: about.into(), change, removed, added })
}

fn policy_changes(from: &Release, to: &Release) -> Option<Change> {
    let lines = |release: &Release| release.ima_policies().iter().map(|policy| Policy::from(policy).line()).collect();
    set_change("IMA policies", lines(from), lines(to))
}

/// Number of kinds of events by what their rules are, for a line about a release.
pub(super) fn summary(rules: &BootRules) -> String {
    let unjudged = rules.events().values().filter(|rule| matches!(rule, EventRule::Unjudged)).count();
    let judged = count(rules.events().len() - unjudged, "kind of event", "kinds of events");
    format!("{judged} judged, {unjudged} not")
}
