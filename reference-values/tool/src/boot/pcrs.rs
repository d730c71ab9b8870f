//! Exact PCR values of one boot, for devices whose log nobody can read: in, a boot log, or what `tpm2_pcrread` prints;
//! out, the values that stay still.

use std::{collections::BTreeMap, path::Path};

use data_encoding::HEXLOWER_PERMISSIVE;
use evidence::{
    eventlog::{EventLog, looks_like},
    limits::MAX_LOG,
    pcr::HashAlgorithm,
};
use reference_values::BootPcrs;

use super::tell_problems;
use crate::{failure::Failure, files};

/// Reads either.
pub(crate) fn read(path: &Path) -> Result<BootPcrs, Failure> {
    let bytes = files::read(path, MAX_LOG)?;
    if looks_like(&bytes) {
        let replay = EventLog::read(&bytes)
            .and_then(|log| log.replay(Some(HashAlgorithm::Sha256)))
            .map_err(|error| Failure::input(path, error))?;
        tell_problems(path, &replay.problems);
        return BootPcrs::from_replay(&replay).map_err(|error| Failure::input(path, error));
    }
    let values = std::str::from_utf8(&bytes).ok().and_then(printed);
    let values = values
        .ok_or_else(|| Failure::input(path, "neither a TCG event log nor what `tpm2_pcrread sha256:0,1,2,…` prints"))?;
    BootPcrs::new(values).map_err(|error| Failure::input(path, error))
}

/// Lines `N : 0x…` after `sha256:`; PCRs that a boot cannot fix are passed over.
fn printed(text: &str) -> Option<BTreeMap<u8, [u8; 32]>> {
    let (_, lines) = text.split_once("sha256:")?;
    let mut values = BTreeMap::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (index, value) = line.split_once(':')?;
        let index: u8 = index.trim().parse().ok()?;
        let value = HEXLOWER_PERMISSIVE.decode(value.trim().strip_prefix("0x")?.as_bytes()).ok()?;
        let twice = values.insert(index, value.try_into().ok()?).is_some();
        if twice {
            return None;
        }
    }
    values.retain(|&index, _| BootPcrs::may_hold(index.into()));
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::printed;

    #[test]
    fn values_as_tpm2_pcrread_prints_them_are_read_and_anything_else_is_not() {
        let value = "AB".repeat(32);
        let text = format!("  sha256:\n    0 : 0x{value}\n    10: 0x{value}\n    11: 0x{value}\n");
        assert_eq!(printed(&text), Some([(0, [0xAB; 32]), (11, [0xAB; 32])].into()));
        for bad in [
            format!("  0 : 0x{value}\n"),
            format!("  sha256:\n    0 : 0x{value}\n    0 : 0x{value}\n"),
            format!("  sha256:\n    0 : 0x{}\n", "AB".repeat(20)),
            format!("  sha256:\n    0 : 0x{value}\n  sha384:\n"),
        ] {
            assert_eq!(printed(&bad), None, "{bad}");
        }
    }
}
