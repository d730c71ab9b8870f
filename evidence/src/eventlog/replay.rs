//! What a log leads to: its events in; PCR values of every bank and a list of what is odd out.

use std::collections::BTreeMap;

use ring::digest;

use super::{Event, Format, PCR_COUNT, Problem, STARTUP_LOCALITY, event_type::EV_EFI_HCRTM_EVENT, note};
use crate::pcr::HashAlgorithm;

/// PCR values of one bank.
pub type Bank = BTreeMap<u32, Vec<u8>>;

/// What a log replays to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Events, the Spec ID event included.
    pub events: usize,
    /// Values per bank, of the PCRs that were extended or given a start.
    pub banks: BTreeMap<HashAlgorithm, Bank>,
    /// What is odd, in the order of the log.
    pub problems: Vec<Problem>,
    /// Value that PCR 0 had before its first extension: its last byte.
    start: u8,
    pcr0: Pcr0,
}

/// How far PCR 0 has come: its start may be stated only before anything is measured into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pcr0 {
    Untouched,
    Located,
    HardwareCrtm,
    Extended,
}

impl Replay {
    pub(super) fn new(algorithms: impl Iterator<Item = HashAlgorithm>, problems: Vec<Problem>) -> Self {
        let banks = algorithms.map(|algorithm| (algorithm, Bank::new())).collect();
        Self { events: 0, banks, problems, start: 0, pcr0: Pcr0::Untouched }
    }

    /// Value of one PCR in the SHA-256 bank.
    #[must_use]
    pub fn sha256(&self, pcr: u32) -> Option<[u8; 32]> {
        self.banks.get(&HashAlgorithm::Sha256)?.get(&pcr)?.as_slice().try_into().ok()
    }

    pub(super) fn event(&mut self, event: &Event<'_>, only: Option<HashAlgorithm>) {
        self.events = event.index.saturating_add(1);
        if !event.extends() {
            return self.no_action(event);
        }
        self.check_digests(event);
        if event.pcr >= PCR_COUNT {
            return note(&mut self.problems, event.index, "eventlog.pcr-index", || {
                format!("PCR {} does not exist, nothing extended", event.pcr)
            });
        }
        if event.pcr == 0 {
            self.pcr0_extended(event);
        }
        for (declared, digest) in event.digests() {
            let Some(algorithm) = declared.computable().filter(|found| only.is_none_or(|wanted| wanted == *found))
            else {
                continue;
            };
            let start = if event.pcr == 0 { self.start } else { 0 };
            extend(self.banks.entry(algorithm).or_default(), algorithm, (event.pcr, start), digest);
        }
    }

    /// A crypto-agile event has one digest for each declared bank (§10.2.2).
    fn check_digests(&mut self, event: &Event<'_>) {
        if event.format != Format::CryptoAgile {
            return;
        }
        for bank in event.banks.all() {
            let count = event.digests().filter(|(declared, _)| declared.id == bank.id).count();
            if count != 1 {
                note(&mut self.problems, event.index, "eventlog.digest-count", || {
                    format!("{count} digests for bank 0x{:04x}", bank.id)
                });
            }
        }
        for (declared, _) in event.digests() {
            if !event.banks.all().iter().any(|bank| bank.id == declared.id) {
                note(&mut self.problems, event.index, "eventlog.undeclared-bank", || {
                    format!("digest for bank 0x{:04x}, which the Spec ID event does not declare", declared.id)
                });
            }
        }
    }

    /// TPM2_Startup from locality 3, or after an H-CRTM (4), leaves the locality in PCR 0 (TPM 2.0 Part 1 §34.3).
    fn no_action(&mut self, event: &Event<'_>) {
        let Some(locality) = event.startup_locality() else {
            if event.pcr == 0 && event.data.starts_with(STARTUP_LOCALITY) {
                note(&mut self.problems, event.index, "eventlog.startup-locality", || {
                    format!("StartupLocality of {} instead of 17 bytes, ignored", event.data.len())
                });
            }
            return;
        };
        let problem = match (self.pcr0, locality) {
            (_, 1 | 2 | 5..) => "a locality that TPM2_Startup does not have, ignored",
            (Pcr0::Extended, _) => "StartupLocality after the first extension of PCR 0, ignored",
            (Pcr0::Located, _) if locality != self.start => "a second StartupLocality with another value, ignored",
            // After an H-CRTM event the start is 4 whatever TPM2_Startup's locality was.
            (Pcr0::HardwareCrtm | Pcr0::Located, _) => return,
            (Pcr0::Untouched, _) => {
                self.pcr0 = Pcr0::Located;
                self.start = locality;
                for (algorithm, bank) in &mut self.banks {
                    bank.insert(0, start_value(*algorithm, locality));
                }
                return;
            }
        };
        note(&mut self.problems, event.index, "eventlog.startup-locality", || {
            format!("locality {locality}: {problem}")
        });
    }

    fn pcr0_extended(&mut self, event: &Event<'_>) {
        let first = matches!(self.pcr0, Pcr0::Untouched | Pcr0::Located);
        if event.event_type == EV_EFI_HCRTM_EVENT && first {
            self.start = 4;
            self.pcr0 = Pcr0::HardwareCrtm;
            self.banks.values_mut().for_each(|bank| drop(bank.remove(&0)));
        } else {
            self.pcr0 = Pcr0::Extended;
        }
    }
}

pub(super) fn start_value(algorithm: HashAlgorithm, last: u8) -> Vec<u8> {
    let mut value = vec![0; algorithm.len()];
    if let Some(byte) = value.last_mut() {
        *byte = last;
    }
    value
}

/// PCR new := H(PCR old ‖ digest) (TPM 2.0 Part 1 §17.2); a PCR not seen before begins with zeros and `start`.
pub(crate) fn extend(bank: &mut Bank, algorithm: HashAlgorithm, (pcr, start): (u32, u8), digest: &[u8]) {
    let Some(implementation) = algorithm.implementation() else { return };
    let value = bank.entry(pcr).or_insert_with(|| start_value(algorithm, start));
    let mut context = digest::Context::new(implementation);
    context.update(value);
    context.update(digest);
    let new = context.finish();
    value.clear();
    value.extend_from_slice(new.as_ref());
}
