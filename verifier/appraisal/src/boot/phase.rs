//! PCR 11 after the boot log: systemd measures a word for each phase that the boot reaches (systemd-pcrphase.service(8)),
//! as long as the system runs. A soft reboot (systemd-soft-reboot.service(8)) goes through those of the system again.
//! Values in; whether such words lead from one to the other out.

use evidence::pcr::{extend_sha256, sha256};

/// PCR that systemd-stub and the phases extend.
pub(super) const PCR: u8 = 11;
/// In the order in which they come; any of them may be left out by how a system is set up.
const OF_INITRD: [&str; 2] = ["enter-initrd", "leave-initrd"];
const OF_SYSTEM: [&str; 4] = ["sysinit", "ready", "shutdown", "final"];
/// Soft reboots of one boot: it ends with a new kernel at the latest.
const MAX_ROUNDS: usize = 16;

/// Whether phases lead from `from` to `to`, in their order; those of the system round by round, each round the same.
pub(super) fn lead(from: &[u8; 32], to: &[u8; 32]) -> bool {
    let initrd = every_choice(&OF_INITRD);
    let begun: Vec<[u8; 32]> = initrd.iter().map(|words| words.iter().fold(*from, extended)).collect();
    let system = every_choice(&OF_SYSTEM);
    // What a system skips once, it skips in every round but the one that it is in.
    let within = |most| system.iter().any(|words| begun.iter().any(|start| rounds(*start, words, most, to)));
    begun.contains(to) || within(1) || within(MAX_ROUNDS)
}

fn extended(value: [u8; 32], digest: &[u8; 32]) -> [u8; 32] {
    extend_sha256(&value, digest)
}

/// The digests of every choice of `words`.
fn every_choice(words: &[&str]) -> Vec<Vec<[u8; 32]>> {
    let mut choices = vec![Vec::new()];
    for word in words {
        let digest = sha256(word.as_bytes());
        let with: Vec<Vec<[u8; 32]>> = choices.iter().map(|choice| [choice.as_slice(), &[digest]].concat()).collect();
        choices.extend(with);
    }
    choices
}

fn rounds(start: [u8; 32], words: &[[u8; 32]], most: usize, to: &[u8; 32]) -> bool {
    let steps = words.iter().cycle().take(words.len().saturating_mul(most));
    let mut values = steps.scan(start, |value, digest| {
        *value = extended(*value, digest);
        Some(*value)
    });
    values.any(|value| value == *to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(words: &[&str]) -> [u8; 32] {
        words.iter().fold([7; 32], |value, word| extend_sha256(&value, &sha256(word.as_bytes())))
    }

    #[test]
    fn phases_lead_on_in_their_order_and_nothing_else_does() {
        let whole = ["sysinit", "ready", "shutdown", "final"];
        let again = [&["enter-initrd", "leave-initrd"][..], &whole, &whole, &["sysinit"]].concat();
        let few = ["sysinit", "ready", "sysinit", "ready", "sysinit"];
        for words in [
            &[][..],
            &["enter-initrd"],
            &["enter-initrd", "leave-initrd", "sysinit", "ready"],
            &["leave-initrd", "ready"],
            &["sysinit"],
            &again,
            &few,
        ] {
            assert!(lead(&[7; 32], &after(words)), "{words:?}");
        }
        for words in [
            &["shutdown", "enter-initrd"][..],
            &["enter-initrd", "enter-initrd"],
            &["ready", "leave-initrd"],
            &["evil"],
            &["ready", "evil"],
        ] {
            assert!(!lead(&[7; 32], &after(words)), "{words:?}");
        }
    }
}
