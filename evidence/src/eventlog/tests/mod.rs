//! Logs made by hand, event by event.

mod content;
mod replay;

use super::{read::SPEC_ID_AGILE, *};

const SHA256: (u16, u16) = (0xB, 32);
const ONE: [u8; 32] = [1; 32];

fn sha1(pcr: u32, event_type: u32, digest: [u8; 20], data: &[u8]) -> Vec<u8> {
    let size = u32::try_from(data.len()).unwrap();
    [&pcr.to_le_bytes()[..], &event_type.to_le_bytes(), &digest, &size.to_le_bytes(), data].concat()
}

fn header(banks: &[(u16, u16)]) -> Vec<u8> {
    let mut data = [&SPEC_ID_AGILE[..], &[0, 0, 0, 0, 0, 2, 0, 2]].concat();
    data.extend(u32::try_from(banks.len()).unwrap().to_le_bytes());
    for (id, size) in banks {
        data.extend(id.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(0);
    sha1(0, EV_NO_ACTION, [0; 20], &data)
}

fn agile(pcr: u32, event_type: u32, digests: &[(u16, &[u8])], data: &[u8]) -> Vec<u8> {
    let mut out = [pcr.to_le_bytes(), event_type.to_le_bytes()].concat();
    out.extend(u32::try_from(digests.len()).unwrap().to_le_bytes());
    for (id, digest) in digests {
        out.extend(id.to_le_bytes());
        out.extend(*digest);
    }
    out.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    out.extend(data);
    out
}
