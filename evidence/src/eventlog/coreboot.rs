//! coreboot's own TPM log (`struct tpm_cb_log_table`, `src/commonlib/include/commonlib/tpm_log_serialized.h`): a table
//! of fixed entries, little-endian, packed. Each entry is one extension of one bank and a name; no data is held, so
//! nothing but digests can ever be proven.

use super::{DeclaredAlgorithm, Event, Format, WHAT, event_type::EV_ACTION, read::Banks, text::without_nul};
use crate::{error::Malformed, limits::MAX_PCR_BANKS, pcr::HashAlgorithm, reader::Reader};

/// max_entries and num_entries.
pub(super) const HEADER: usize = 4;
/// PCR, name of the algorithm, digest, its length, name of what was measured.
pub(super) const ENTRY: usize = 4 + ALGORITHM + DIGEST + 4 + NAME;
const ALGORITHM: usize = 10;
const DIGEST: usize = 64;
const NAME: usize = 50;

/// Entries of the table, where `bytes` begin like one: some, not more than there is room for, and the first one reads.
/// A log of the profile begins with a PCR, whose upper half is zero.
pub(super) fn entries(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(WHAT, bytes);
    let (most, count) = (reader.u16_le().ok()?, reader.u16_le().ok()?);
    (1..=most).contains(&count).then_some(())?;
    let first = entry(&mut reader, 0).ok()?;
    (first.pcr < super::PCR_COUNT && !first.data.is_empty()).then_some(usize::from(count))
}

/// Where the last entry in use ends.
pub(super) const fn end(count: usize) -> usize {
    HEADER.saturating_add(ENTRY.saturating_mul(count))
}

pub(super) fn entry<'a>(reader: &mut Reader<'a>, index: usize) -> Result<Event<'a>, Malformed> {
    let pcr = reader.u32_le()?;
    let at_algorithm = reader.malformed("the name of an algorithm that is no text");
    let algorithm = text(reader.take(ALGORITHM)?).ok_or(at_algorithm)?;
    let digest = reader.take(DIGEST)?;
    let at_length = reader.malformed("a digest that does not have its algorithm's length");
    let length = usize::try_from(reader.u32_le()?).unwrap_or(usize::MAX);
    let digests = digest.get(..length).filter(|digest| !digest.is_empty()).ok_or(at_length.clone())?;
    let bank = declared(algorithm, length).ok_or(at_length)?;
    let at_name = reader.malformed("a name that is no text");
    let data = text(reader.take(NAME)?).ok_or(at_name)?;
    let banks = Banks { list: [bank; MAX_PCR_BANKS], count: 1 };
    Ok(Event { index, pcr, event_type: EV_ACTION, data, digests, format: Format::Coreboot, banks, u_boot: false })
}

/// The bank by vboot's name for it, `SHA256` for instance; id 0 for one that is not known. `None` where the digest is not
/// as long as the algorithm's.
fn declared(name: &[u8], length: usize) -> Option<DeclaredAlgorithm> {
    let size = u16::try_from(length).ok()?;
    let lower = name.to_ascii_lowercase();
    let known = std::str::from_utf8(&lower).ok().and_then(HashAlgorithm::from_name);
    match known {
        Some(algorithm) if algorithm.len() == length => Some(DeclaredAlgorithm { id: algorithm.tpm_id(), size }),
        Some(_) => None,
        None => Some(DeclaredAlgorithm { id: 0, size }),
    }
}

/// A field of printable text that NULs fill up.
fn text(field: &[u8]) -> Option<&[u8]> {
    let text = without_nul(field);
    text.iter().all(|byte| matches!(byte, b' '..=b'~')).then_some(text)
}
