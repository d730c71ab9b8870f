//! PCR 11 after the boot log: systemd measures a word for each phase that the boot reaches (systemd-pcrphase.service(8)),
//! as long as the system runs. Values in; whether such words lead from one to the other out.

use evidence::pcr::{extend_sha256, sha256};

/// PCR that systemd-stub and the phases extend.
pub(super) const PCR: u8 = 11;
/// In the order in which they come; any of them may be left out by how a system is set up.
const WORDS: [&str; 6] = ["enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"];

/// Whether phases lead from `from` to `to`, none of them twice and none out of order.
pub(super) fn lead(from: &[u8; 32], to: &[u8; 32]) -> bool {
    let mut reached = vec![*from];
    for word in WORDS {
        let digest = sha256(word.as_bytes());
        let further: Vec<[u8; 32]> = reached.iter().map(|value| extend_sha256(value, &digest)).collect();
        reached.extend(further);
    }
    reached.contains(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(words: &[&str]) -> [u8; 32] {
        words.iter().fold([7; 32], |value, word| extend_sha256(&value, &sha256(word.as_bytes())))
    }

    #[test]
    fn phases_lead_on_in_their_order_and_nothing_else_does() {
        for words in [&[][..], &["enter-initrd"], &["enter-initrd", "leave-initrd", "sysinit", "ready"], &["sysinit"]] {
            assert!(lead(&[7; 32], &after(words)), "{words:?}");
        }
        for words in [&["ready", "sysinit"][..], &["enter-initrd", "enter-initrd"], &["evil"], &["ready", "evil"]] {
            assert!(!lead(&[7; 32], &after(words)), "{words:?}");
        }
    }
}
