//! A boot log in few words: its bytes in; out come the PCRs that it leads to, what was started, and what its digests prove
//! of secure boot and command line. For people at the device: a verifier reads the log itself.

use std::collections::BTreeMap;

use evidence::{
    error::Malformed,
    eventlog::{
        Ascii, Content, EFI_GLOBAL_VARIABLE, EV_EFI_BOOT_SERVICES_APPLICATION, EV_EFI_VARIABLE_DRIVER_CONFIG, EV_IPL,
        Event, EventLog, INITRD_TAG, Proof, Utf16, Words,
    },
    pcr::{HashAlgorithm, PcrValues},
};

/// Programs listed of one log; a boot starts a handful.
const MAX_PROGRAMS: usize = 256;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events.
    pub events: u64,
    /// SHA-256 values of the PCRs that the log mentions.
    pub pcrs: BTreeMap<u32, [u8; 32]>,
    /// What is odd.
    pub problems: Vec<String>,
    /// Whether secure boot was on; none where the log does not prove it.
    pub secure_boot: Option<bool>,
    /// The kernel's command line; none where the log does not prove it.
    pub command_line: Option<String>,
    /// Boot loaders, kernels and initrds, in order.
    pub programs: Vec<Program>,
}

/// Something that was measured to be started or loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Into this PCR.
    pub pcr: u32,
    /// Where it came from, by the log's word: no digest covers that.
    pub name: String,
    /// SHA-256, of EFI programs Authenticode's.
    pub digest: [u8; 32],
}

impl Summary {
    /// Reads a log.
    ///
    /// # Errors
    /// [`Malformed`] where it is none.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let log = EventLog::read(bytes)?;
        let replay = log.replay(Some(HashAlgorithm::Sha256))?;
        let mut summary = Self {
            events: replay.events as u64,
            pcrs: (0..PCRS).filter_map(|pcr| Some((pcr, replay.sha256(pcr)?))).collect(),
            problems: replay.problems.iter().map(|problem| problem.detail.clone()).collect(),
            ..Self::default()
        };
        for event in log.events() {
            summary.take(&event?);
        }
        Ok(summary)
    }

    fn take(&mut self, event: &Event<'_>) {
        // The first counts: anybody may extend the same once more later.
        self.secure_boot = self.secure_boot.or_else(|| secure_boot(event));
        if self.command_line.is_none() {
            self.command_line = event.command_line().and_then(|line| line.text());
        }
        if self.programs.len() < MAX_PROGRAMS {
            self.programs.extend(program(event));
        }
    }

    /// PCRs before the operating system whose `quoted` values the log does not lead to. One that it does not mention must
    /// be untouched.
    #[must_use]
    pub fn differs(&self, quoted: &PcrValues) -> Vec<u32> {
        let replayed = |pcr| self.pcrs.get(&pcr).copied().unwrap_or_default();
        (0..=LAST_BOOT_PCR).filter(|pcr| quoted.get(*pcr as usize) != Some(&replayed(*pcr))).collect()
    }
}

/// PCRs that a quote covers.
const PCRS: u32 = PcrValues::BYTES as u32 / 32;
/// What the operating system extends after boot is in no boot log.
const LAST_BOOT_PCR: u32 = 9;

/// Sections of a unified kernel image that hold what runs, or what the kernel or the firmware obeys (UAPI.5).
const SECTIONS: [&str; 5] = [".linux", ".initrd", ".ucode", ".dtb", ".efifw"];

/// What the variable says that the firmware measured, where the digest covers it and its name.
fn secure_boot(event: &Event<'_>) -> Option<bool> {
    let Content::Variable(variable) = event.content() else { return None };
    let is_it = (event.pcr, event.event_type) == (7, EV_EFI_VARIABLE_DRIVER_CONFIG)
        && variable.is(EFI_GLOBAL_VARIABLE, "SecureBoot")
        && event.proof(HashAlgorithm::Sha256) == Proof::Whole;
    is_it.then_some(variable.data == [1])
}

fn program(event: &Event<'_>) -> Option<Program> {
    let digest: [u8; 32] = event.digest(HashAlgorithm::Sha256)?.try_into().ok()?;
    let name = match (event.pcr, event.event_type, event.content()) {
        (_, EV_EFI_BOOT_SERVICES_APPLICATION, Content::Image(image)) => image.path().to_string(),
        (9, _, Content::Tagged(tagged)) if tagged.id == INITRD_TAG => "initrd".to_owned(),
        // GRUB measures each file that it reads, systemd-stub each section of a unified kernel image after its name.
        (9, EV_IPL, Content::Words(words)) if words.label().is_none() => text(&words),
        (11, EV_IPL, Content::Words(words)) if !words.is_name(&digest) => {
            Some(text(&words)).filter(|name| SECTIONS.contains(&name.as_str()))?
        }
        _ => return None,
    };
    Some(Program { pcr: event.pcr, name, digest })
}

fn text(words: &Words<'_>) -> String {
    if words.wide() { Utf16(words.bytes()).to_string() } else { Ascii(words.bytes()).to_string() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn log(name: &str) -> Vec<u8> {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/boot");
        std::fs::read(vectors.join(name).join("eventlog.bin")).unwrap()
    }

    #[test]
    fn what_was_started_is_told_and_of_the_rest_what_digests_prove() {
        let good = Summary::read(&log("qemu-good1")).unwrap();
        let secure = Summary::read(&log("qemu-secureboot")).unwrap();
        assert_eq!((good.secure_boot, secure.secure_boot), (Some(false), Some(true)));
        for summary in [&good, &secure] {
            let names: Vec<&str> = summary.programs.iter().map(|program| program.name.as_str()).collect();
            assert!(names[0].ends_with("BOOTX64.EFI") && names[1..3] == [".linux", ".initrd"], "{names:?}");
            assert!((0..8).all(|pcr| summary.pcrs.contains_key(&pcr)));
        }
        assert_ne!(good.programs, secure.programs);
    }

    #[test]
    fn a_variable_whose_digest_does_not_cover_it_says_nothing_of_secure_boot() {
        let mut bytes = log("qemu-secureboot");
        let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len();
        assert_eq!(bytes[at], 1);
        bytes[at] = 0;
        assert_eq!(Summary::read(&bytes).unwrap().secure_boot, None);
    }

    #[test]
    fn a_pcr_that_the_log_does_not_lead_to_is_named_and_so_is_one_that_it_hides() {
        let mut summary = Summary::read(&log("qemu-good1")).unwrap();
        let mut quoted = [[0; 32]; 16];
        for (pcr, value) in &summary.pcrs {
            quoted[*pcr as usize] = *value;
        }
        // The operating system's own.
        quoted[10] = [7; 32];
        assert_eq!(summary.differs(&PcrValues::new(quoted)), Vec::<u32>::new());
        quoted[4] = [7; 32];
        summary.pcrs.remove(&7);
        assert_eq!(summary.differs(&PcrValues::new(quoted)), [4, 7]);
    }

    #[test]
    fn what_is_no_log_has_no_summary() {
        assert!(Summary::read(b"no log").is_err());
    }
}
