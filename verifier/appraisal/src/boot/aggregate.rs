//! The tie between boot and IMA's list: its first entry, boot_aggregate, in; whether it is of this boot out.
//!
//! It is a hash over PCR 0–7, or 0–9 since Linux 5.8, of the bank whose hash IMA's list uses
//! (security/integrity/ima/ima_crypto.c). The SHA-256 bank is the quoted one. Another bank is not quoted: there the boot log
//! has to agree with the list, as far as it has that bank.

use evidence::{
    eventlog::EventLog,
    ima,
    pcr::{HashAlgorithm, PcrValues},
};

/// How many PCRs from 0 on are hashed.
const COUNTS: [usize; 2] = [8, 10];

pub(crate) fn is_of_this_boot(entry: &ima::Entry<'_>, pcrs: &PcrValues, boot_log: Option<&[u8]>) -> bool {
    let Some(digest) = entry.fields.digest else { return true };
    let Some(algorithm) = HashAlgorithm::from_name(digest.algorithm) else { return true };
    let values: Vec<Vec<u8>> = match algorithm {
        HashAlgorithm::Sha256 => pcrs.all().iter().map(|value| value.to_vec()).collect(),
        other => match boot_log.and_then(|log| bank(log, other)) {
            Some(values) => values,
            None => return true,
        },
    };
    COUNTS.into_iter().any(|count| {
        let set = values.get(..count).unwrap_or_default().concat();
        algorithm.hash(&set).is_none_or(|hash| hash.as_ref() == digest.bytes)
    })
}

/// PCR 0–9 of a bank, as the log leads to them; `None` where it does not have the bank.
fn bank(log: &[u8], algorithm: HashAlgorithm) -> Option<Vec<Vec<u8>>> {
    let replay = EventLog::read(log).and_then(|log| log.replay(Some(algorithm))).ok()?;
    let bank = replay.banks.get(&algorithm).filter(|bank| !bank.is_empty())?;
    Some((0..10).map(|pcr| bank.get(&pcr).cloned().unwrap_or_else(|| vec![0; algorithm.len()])).collect())
}
