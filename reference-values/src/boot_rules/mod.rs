//! What a good boot of a release measures, event by event: in, rules that were made from logs of good boots or read
//! from a signed file; out, the same with everything checked, for whoever holds a device's log against it.
//!
//! An event is named by its PCR and its type. Its digest decides; which digests are allowed is told by an
//! [`EventRule`]. Beside the events stand what events alone cannot tell: which PCRs firmware closes with a separator,
//! what Secure Boot must be set up to, which command lines the kernel may get, and what that kernel does by itself.

mod command_line;
mod encoding;
mod from_logs;
mod secure_boot;

use std::collections::{BTreeMap, BTreeSet};

use evidence::eventlog::{EV_EFI_EVENT_BASE, EV_EVENT_TAG, EV_IPL, EV_NO_ACTION, EV_SEPARATOR, Event};

pub use command_line::CommandLine;
pub use from_logs::{Generalised, Given, NotGood};
pub use secure_boot::{SecureBootVariable, key_of, keys_of};

use crate::{
    limits::{MAX_COMMAND_LINES, MAX_EVENT_KEYS, MAX_KERNEL_RELEASE, MAX_RULE_DIGESTS, MAX_SEQUENCES},
    release::{Invalid, path_allowed},
};

/// What firmware measures where a debugger may change what runs (PC Client Platform Firmware Profile §3.3.4.8).
pub const DEBUG_MODE: &[u8] = b"UEFI Debug Mode";
/// The last PCR that rules can name, of those that are quoted; 14 has shim's MOK state before the runtime log.
const LAST_PCR: u8 = 15;
/// IMA's list: it grows while the system runs.
const IMA_PCR: u8 = 10;

/// Where an initrd is measured: by Linux's EFI stub, by systemd-stub within its image, by GRUB.
const INITRD_KEYS: [EventKey; 3] = [
    EventKey { pcr: 9, event_type: EV_EVENT_TAG },
    EventKey { pcr: 11, event_type: EV_IPL },
    EventKey { pcr: 9, event_type: EV_IPL },
];

/// Which events a rule is for: all of one type in one PCR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey {
    /// PCR that they extend.
    pub pcr: u8,
    /// Their type (PC Client Platform Firmware Profile §10.4.1).
    pub event_type: u32,
}

impl EventKey {
    /// Which rule an event falls under. `None` for one that is judged otherwise or not at all: it extends nothing, or a
    /// PCR that no rule is for; it is a separator, a command line, or a variable of Secure Boot.
    #[must_use]
    pub fn of(event: &Event<'_>) -> Option<Self> {
        let key = Self { pcr: u8::try_from(event.pcr).ok()?, event_type: event.event_type };
        let otherwise = event.command_line().is_some() || SecureBootVariable::of(event).is_some();
        (key.may_be_ruled() && !otherwise).then_some(key)
    }

    /// Whether it may be left unjudged: in PCRs of configuration alone. A log's author chooses the type, which is not
    /// extended; where one type is unjudged, whatever the PCR got can be called that.
    #[must_use]
    pub const fn may_be_unjudged(self) -> bool {
        matches!(self.pcr, 1 | 3 | 5 | 6)
    }

    /// Whether a rule can be for it: a PCR that firmware, loader or stub extend, and a type that extends and is no
    /// separator. Separators have a rule of their own.
    #[must_use]
    pub const fn may_be_ruled(self) -> bool {
        self.pcr <= LAST_PCR
            && self.pcr != IMA_PCR
            && self.event_type != EV_NO_ACTION
            && self.event_type != EV_SEPARATOR
    }
}

/// What the SHA-256 digests of all events of one key may be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventRule {
    /// All of them, in the order of the log, are one of these. The empty sequence, beside others, says that they may
    /// be missing.
    Sequences(BTreeSet<Vec<[u8; 32]>>),
    /// Each is one of these, in any order, and so many there are.
    AnyOf {
        /// Allowed digests.
        digests: BTreeSet<[u8; 32]>,
        /// Fewest events.
        at_least: u32,
        /// Most events.
        at_most: u32,
    },
    /// Varies between good boots and carries no code. Only where [`EventKey::may_be_unjudged`].
    Unjudged,
}

impl EventRule {
    /// Digests that it holds, and how many sequences.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Sequences(all) => (all.iter().map(Vec::len).sum(), all.len()),
            Self::AnyOf { digests, .. } => (digests.len(), 1),
            Self::Unjudged => (0, 0),
        }
    }

    fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::Sequences(all) if all.iter().all(Vec::is_empty) => {
                Err(Invalid::Rule("an event rule has sequences, and not only the empty one"))
            }
            Self::AnyOf { digests, at_most, .. } if digests.is_empty() || *at_most == 0 => {
                Err(Invalid::Rule("an event rule allows some digest, at least once"))
            }
            Self::AnyOf { at_least, at_most, .. } if at_least > at_most => {
                Err(Invalid::Rule("an event rule's fewest events are no more than its most"))
            }
            _ => Ok(()),
        }
    }
}

/// Entries of a signature database: SHA-256(SignatureType GUID ‖ SignatureData) of each (UEFI §32.4.1). Its owner,
/// which decides nothing, is left out.
pub type Keys = BTreeSet<[u8; 32]>;

/// How Secure Boot must be set up. `None` is not judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecureBootRule {
    /// Whether it must be on, in user mode.
    pub required: bool,
    /// The platform key: exactly these entries, or a subset of them.
    pub pk: Option<Keys>,
    /// Who may change db and dbx: no other entries than these.
    pub kek: Option<Keys>,
    /// What may run: no other entries than these.
    pub db: Option<Keys>,
    /// What must be forbidden: all of these; more may be.
    pub dbx_at_least: Keys,
}

impl SecureBootRule {
    fn size(&self) -> usize {
        let allowed = [&self.pk, &self.kek, &self.db].into_iter().flatten().map(BTreeSet::len).sum::<usize>();
        allowed.saturating_add(self.dbx_at_least.len())
    }
}

/// What the kernel does by itself, from its configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    /// What `uname -r` says.
    pub release: String,
    /// Whether it refuses modules without a valid signature, whatever the command line says: CONFIG_MODULE_SIG_FORCE,
    /// or no modules at all.
    pub modules_signed: bool,
    /// Whether it locks itself down.
    pub lockdown: Lockdown,
    /// Whether it can start another kernel by itself.
    pub kexec: Kexec,
}

/// How a kernel can start another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kexec {
    /// Not at all.
    Absent,
    /// By kexec_file_load(2), which IMA measures where its policy says so.
    FileOnly,
    /// By kexec_load(2) too, which IMA does not measure: it gets no file.
    Any,
}

/// Whether a kernel locks itself down (kernel_lockdown(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lockdown {
    /// Not compiled in.
    Absent,
    /// Where `lockdown=` on the command line says so.
    OnRequest,
    /// On request, and by itself where Secure Boot is on.
    WithSecureBoot,
    /// In every boot.
    Always,
}

/// How the attester's own file is bound to the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttesterIn {
    /// It stands in a measured initrd.
    Initrd,
    /// It stands on a file system whose root hash is on the measured command line.
    Verity,
}

/// A policy that IMA may be given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImaPolicy {
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// Where it stands, for people to read.
    pub path: String,
    /// Whether it measures what kexec loads (`measure func=KEXEC_KERNEL_CHECK`).
    pub measures_kexec: bool,
}

impl ImaPolicy {
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if path_allowed(&self.path) { Ok(()) } else { Err(Invalid::Path(self.path.clone())) }
    }
}

fn are_of_uefi<'a>(mut keys: impl Iterator<Item = &'a EventKey>) -> bool {
    keys.any(|key| key.event_type >= EV_EFI_EVENT_BASE)
}

/// What a good boot of a release measures. A boot is good where it meets all of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootRules {
    events: BTreeMap<EventKey, EventRule>,
    separators: BTreeSet<u8>,
    secure_boot: SecureBootRule,
    command_lines: Vec<CommandLine>,
    kernel: Option<Kernel>,
    attester: Option<AttesterIn>,
}

impl BootRules {
    /// Rules for events, separators and Secure Boot.
    ///
    /// # Errors
    /// [`Invalid`] for a key that no rule can be for, a rule that allows nothing, or more than [`crate::limits`] has.
    pub fn new(
        events: BTreeMap<EventKey, EventRule>,
        separators: BTreeSet<u8>,
        secure_boot: SecureBootRule,
    ) -> Result<Self, Invalid> {
        if events.is_empty() {
            return Err(Invalid::Rule("no event is named; does the log show a boot?"));
        }
        if events.len() > MAX_EVENT_KEYS {
            return Err(Invalid::TooMany { what: "kinds of events in boot rules", limit: MAX_EVENT_KEYS });
        }
        if !events.keys().all(|key| key.may_be_ruled()) || separators.iter().any(|&pcr| pcr > LAST_PCR) {
            return Err(Invalid::Rule("they are for events that extend PCR 0 to 15 without 10, and are no separators"));
        }
        let mut digests = secure_boot.size();
        for (key, rule) in &events {
            rule.check()?;
            if *rule == EventRule::Unjudged && !key.may_be_unjudged() {
                return Err(Invalid::Rule("only events in PCR 1, 3, 5 and 6, which carry no code, may be unjudged"));
            }
            let (size, sequences) = rule.size();
            if sequences > MAX_SEQUENCES {
                return Err(Invalid::TooMany { what: "sequences of one kind of event", limit: MAX_SEQUENCES });
            }
            digests = digests.saturating_add(size);
        }
        if digests > MAX_RULE_DIGESTS {
            return Err(Invalid::TooMany { what: "digests in boot rules", limit: MAX_RULE_DIGESTS });
        }
        let (command_lines, kernel, attester) = (Vec::new(), None, None);
        Ok(Self { events, separators, secure_boot, command_lines, kernel, attester })
    }

    /// The same with the command lines that the kernel may get.
    ///
    /// # Errors
    /// [`Invalid::TooMany`].
    pub fn with_command_lines(mut self, lines: impl IntoIterator<Item = CommandLine>) -> Result<Self, Invalid> {
        self.command_lines = lines.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        if self.command_lines.len() > MAX_COMMAND_LINES {
            return Err(Invalid::TooMany { what: "command lines", limit: MAX_COMMAND_LINES });
        }
        Ok(self)
    }

    /// The same with what its kernel does by itself.
    ///
    /// # Errors
    /// [`Invalid::Rule`] for a release that `uname -r` cannot say.
    pub fn with_kernel(mut self, kernel: Kernel) -> Result<Self, Invalid> {
        let said = !kernel.release.is_empty() && kernel.release.bytes().all(|byte| byte.is_ascii_graphic());
        if !said || kernel.release.len() > MAX_KERNEL_RELEASE {
            return Err(Invalid::Rule("a kernel's release is 1 to 64 printable ASCII characters without spaces"));
        }
        self.kernel = Some(kernel);
        Ok(self)
    }

    /// The same with the attester bound to the boot.
    ///
    /// # Errors
    /// [`Invalid::Rule`] where these rules do not bind it: no rule for an initrd, or a command line without root hash.
    pub fn with_attester(mut self, place: AttesterIn) -> Result<Self, Invalid> {
        let bound = match place {
            AttesterIn::Initrd => INITRD_KEYS.iter().any(|key| {
                matches!(self.events.get(key), Some(EventRule::Sequences(all)) if all.iter().all(|one| !one.is_empty()))
            }),
            AttesterIn::Verity => {
                !self.command_lines.is_empty() && self.command_lines.iter().all(CommandLine::names_root_hash)
            }
        };
        if !bound {
            return Err(Invalid::Rule(match place {
                AttesterIn::Initrd => "the attester cannot be in the initrd, because no event measures one",
                AttesterIn::Verity => {
                    "the attester cannot be under dm-verity, because a command line has no roothash=, usrhash= or \
                     dm-mod.create= with a fixed root hash, or lets root= or mount.usr= vary beside it"
                }
            }));
        }
        self.attester = Some(place);
        Ok(self)
    }

    /// What the events of each PCR and type may be. Events without a rule are not part of a good boot.
    #[must_use]
    pub const fn events(&self) -> &BTreeMap<EventKey, EventRule> {
        &self.events
    }

    /// Whether they are for UEFI firmware. Other firmware measures what decides into PCRs of configuration, too: U-Boot's
    /// `bootm` the kernel's command line into PCR 1.
    #[must_use]
    pub fn are_of_uefi(&self) -> bool {
        are_of_uefi(self.events.keys())
    }

    /// PCRs that have exactly one separator.
    #[must_use]
    pub const fn separators(&self) -> &BTreeSet<u8> {
        &self.separators
    }

    /// How Secure Boot must be set up.
    #[must_use]
    pub const fn secure_boot(&self) -> &SecureBootRule {
        &self.secure_boot
    }

    /// What the kernel may be told, in ascending order; every command line in a log must match one of them.
    #[must_use]
    pub fn command_lines(&self) -> &[CommandLine] {
        &self.command_lines
    }

    /// What the kernel does by itself.
    #[must_use]
    pub const fn kernel(&self) -> Option<&Kernel> {
        self.kernel.as_ref()
    }

    /// How the attester's own file is bound to this boot.
    #[must_use]
    pub const fn attester(&self) -> Option<AttesterIn> {
        self.attester
    }
}
