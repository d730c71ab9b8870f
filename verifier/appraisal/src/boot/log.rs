//! A boot log as rules are held against it: bytes in; every event that extended a quoted PCR out, each in the class by which
//! it is judged, with its SHA-256 digest.
//!
//! A digest is all that a quote vouches for. Classes go by PCR and type, which are labels; what keeps labels from lying is
//! that no digest is left out: whatever class an event is put into, a rule of that class must know its digest.

use std::collections::BTreeMap;

use evidence::{
    eventlog::{
        CommandLineEvent, Content, EV_EVENT_TAG, EV_SEPARATOR, Event, EventLog, Hex, INITRD_TAG, Proof, Separator,
        event_type_name,
    },
    pcr::{HashAlgorithm, PROFILE_PCRS, sha256},
};
use reference_values::boot_rules::{DEBUG_MODE, EventKey, Keys, SecureBootVariable, keys_of};

/// Events that are judged: ten times what firmware, loader and kernel of a full server leave behind.
const MAX_EVENTS: usize = 8192;
/// Command lines that are judged: each is held against every text that is known.
const MAX_COMMAND_LINES: usize = 16;
/// Longest command line that is kept, bytes: what Linux takes (COMMAND_LINE_SIZE).
const MAX_COMMAND_LINE: usize = 4096;
/// PCR of secure boot's variables.
pub(super) const SECURE_BOOT_PCR: u8 = 7;
/// PCR into which Linux's EFI stub measures the load options, and then an initrd.
pub(super) const STUB_PCR: u8 = 9;

/// See the module.
pub(crate) struct BootLog<'a> {
    /// What rules list.
    pub(super) events: BTreeMap<EventKey, Vec<Measured<'a>>>,
    pub(super) separators: Vec<Closed<'a>>,
    pub(super) variables: Vec<Setup<'a>>,
    pub(super) command_lines: Vec<CommandLineAt<'a>>,
    pub(super) debugger: Vec<Measured<'a>>,
    /// Whether secure boot was on, in user mode and with a platform key; `None` where the log does not prove it either way.
    pub(super) secure_boot: Option<bool>,
    /// Number of events, those that extend nothing included.
    pub(super) len: usize,
}

/// An event that extended a PCR.
#[derive(Clone, Copy)]
pub(super) struct Measured<'a> {
    pub(super) pcr: u8,
    pub(super) digest: [u8; 32],
    pub(super) event: Event<'a>,
}

/// An event that is labelled as a separator; what its digest says.
pub(super) struct Closed<'a> {
    pub(super) measured: Measured<'a>,
    pub(super) says: Separator,
}

/// A variable that tells secure boot's state; the digest commits to all of it.
pub(super) struct Setup<'a> {
    pub(super) measured: Measured<'a>,
    pub(super) variable: SecureBootVariable,
    pub(super) data: &'a [u8],
    /// Entries of a signature database; `None` where it does not decode.
    pub(super) keys: Option<Keys>,
}

/// The command line, where the log says that it is measured.
pub(super) struct CommandLineAt<'a> {
    pub(super) measured: Measured<'a>,
    pub(super) event: CommandLineEvent<'a>,
    /// What it says, where the log proves it by itself, and it can be shown: it stands in tables and on terminals.
    pub(super) text: Option<String>,
}

impl<'a> BootLog<'a> {
    /// Sorts the events of a log.
    ///
    /// # Errors
    /// Says which event does not decode, or has more than one digest for the quoted bank: only the first would be judged.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let log = EventLog::read(bytes).map_err(|error| error.to_string())?;
        let mut sorted = Self {
            events: BTreeMap::new(),
            separators: Vec::new(),
            variables: Vec::new(),
            command_lines: Vec::new(),
            debugger: Vec::new(),
            secure_boot: None,
            len: 0,
        };
        let debugger = sha256(DEBUG_MODE);
        for event in log.events() {
            let event = event.map_err(|error| error.to_string())?;
            sorted.len = event.index.saturating_add(1);
            if sorted.len > MAX_EVENTS {
                return Err(format!("it has more than {MAX_EVENTS} events"));
            }
            if let Some(measured) = Measured::of(event)? {
                sorted.sort(measured, &debugger);
            }
        }
        if sorted.command_lines.len() > MAX_COMMAND_LINES {
            return Err(format!("it has more than {MAX_COMMAND_LINES} command lines"));
        }
        sorted.secure_boot = sorted.secure_boot();
        Ok(sorted)
    }

    fn sort(&mut self, measured: Measured<'a>, debugger: &[u8; 32]) {
        let Measured { pcr, digest, event } = measured;
        if digest == *debugger {
            self.debugger.push(measured);
        } else if event.event_type == EV_SEPARATOR {
            let says = match event.content() {
                Content::Separator(says) => says,
                _ => Separator::Other,
            };
            self.separators.push(Closed { measured, says });
        } else if let Some(line) = event.command_line() {
            let shown = |text: &String| text.chars().all(|one| matches!(one, ' '..='~') || one.is_alphanumeric());
            let text = line.text().filter(|text| text.len() <= MAX_COMMAND_LINE).filter(shown);
            self.command_lines.push(CommandLineAt { measured, event: line, text });
        } else if let Some((variable, data)) = SecureBootVariable::of(&event) {
            let database = matches!(
                variable,
                SecureBootVariable::Pk | SecureBootVariable::Kek | SecureBootVariable::Db | SecureBootVariable::Dbx
            );
            let keys = if database { keys_of(data).ok() } else { None };
            self.variables.push(Setup { measured, variable, data, keys });
        } else {
            let key = EventKey { pcr, event_type: event.event_type };
            self.events.entry(key).or_default().push(measured);
        }
    }

    /// This variable, where the log has it once.
    fn variable(&self, variable: SecureBootVariable) -> Option<&Setup<'a>> {
        let mut all = self.variables.iter().filter(|setup| setup.variable == variable);
        all.next().filter(|_| all.next().is_none())
    }

    /// Only what firmware measured before it closed the PCR counts: whoever owns the system can extend it further.
    fn secure_boot(&self) -> Option<bool> {
        let end = self.closed_at(SECURE_BOOT_PCR)?;
        if self.variables.iter().any(|setup| setup.measured.event.index > end) {
            return None;
        }
        let on = self.variable(SecureBootVariable::SecureBoot)?.data == [1];
        // Firmware that does not measure the mode cannot be in another than user mode with secure boot on (UEFI §32.3).
        let off = |mode| {
            let measured = self.variables.iter().any(|setup| setup.variable == mode);
            !measured || self.variable(mode).is_some_and(|setup| setup.data == [0])
        };
        let user_mode = off(SecureBootVariable::SetupMode) && off(SecureBootVariable::AuditMode);
        let platform_key = self.variable(SecureBootVariable::Pk).and_then(|setup| setup.keys.as_ref());
        Some(on && user_mode && platform_key.is_some_and(|keys| !keys.is_empty()))
    }

    /// Where this PCR's first separator is.
    pub(super) fn closed_at(&self, pcr: u8) -> Option<usize> {
        self.separators.iter().find(|closed| closed.measured.pcr == pcr).map(|closed| closed.measured.event.index)
    }

    /// Where Linux's EFI stub measured an initrd: it has measured the command line before. What is in its PCR later may be
    /// anybody's.
    pub(super) fn stub_ends_at(&self) -> Option<usize> {
        let tags = self.events.get(&EventKey { pcr: STUB_PCR, event_type: EV_EVENT_TAG })?;
        let initrd = |measured: &&Measured<'_>| matches!(measured.event.content(), Content::Tagged(tagged) if tagged.id == INITRD_TAG);
        tags.iter().find(initrd).map(|measured| measured.event.index)
    }

    /// The command line that the log itself proves, where it proves one.
    pub(crate) fn command_line(&self) -> Option<&str> {
        one(self.command_lines.iter().filter_map(|line| line.text.as_deref()))
    }

    /// Positions of a PCR's events in the log, the first few.
    pub(crate) fn positions(&self, pcr: u8) -> String {
        const SHOWN: usize = 6;
        let mut all: Vec<usize> =
            self.all().filter(|measured| measured.pcr == pcr).map(|measured| measured.event.index).collect();
        all.sort_unstable();
        let shown: Vec<String> = all.iter().take(SHOWN).map(usize::to_string).collect();
        match (all.len().saturating_sub(SHOWN), shown.join(", ")) {
            (_, none) if none.is_empty() => "the log has no event for it".into(),
            (0, shown) => format!("its events in the log: {shown}"),
            (more, shown) => format!("its events in the log: {shown} and {more} more"),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Measured<'a>> {
        let separators = self.separators.iter().map(|closed| &closed.measured);
        let variables = self.variables.iter().map(|setup| &setup.measured);
        let lines = self.command_lines.iter().map(|line| &line.measured);
        self.events.values().flatten().chain(&self.debugger).chain(separators).chain(variables).chain(lines)
    }
}

/// The only one, however often it comes.
pub(super) fn one<'t>(mut texts: impl Iterator<Item = &'t str>) -> Option<&'t str> {
    let first = texts.next()?;
    texts.all(|text| text == first).then_some(first)
}

impl<'a> Measured<'a> {
    /// What extended a PCR that is quoted. An event without a SHA-256 digest extended nothing there.
    fn of(event: Event<'a>) -> Result<Option<Self>, String> {
        let quoted = u8::try_from(event.pcr).ok().filter(|pcr| usize::from(*pcr) < PROFILE_PCRS);
        let Some(pcr) = quoted.filter(|_| event.extends()) else { return Ok(None) };
        let mut digests = event.digests().filter(|(bank, _)| bank.known() == Some(HashAlgorithm::Sha256));
        let Some((_, digest)) = digests.next() else { return Ok(None) };
        if digests.next().is_some() {
            return Err(format!("event {} has more than one SHA-256 digest", event.index));
        }
        Ok(digest.try_into().ok().map(|digest| Self { pcr, digest, event }))
    }

    /// Where and what it is, in few printable words. What it holds is shown as far as its digest commits to it.
    pub(super) fn describe(&self) -> String {
        const SHOWN: usize = 96;
        let digest = Hex(&self.digest);
        let mut text = format!("PCR {}, event {}, {}, sha256:{digest}", self.pcr, self.event.index, self.type_name());
        let said: String = self.event.content().to_string().chars().take(SHOWN).collect();
        let proved = self.event.proof(HashAlgorithm::Sha256) != Proof::Nothing;
        text.push_str(if proved { ", " } else { ", by its own word " });
        text.push_str(&said);
        text
    }

    fn type_name(&self) -> String {
        type_name(self.event.event_type)
    }
}

/// Name of an event type, or its number.
pub(super) fn type_name(event_type: u32) -> String {
    event_type_name(event_type).map_or_else(|| format!("type 0x{event_type:08x}"), str::to_owned)
}
