//! A kernel command line as a release allows it: in, a pattern; out, whether a text is one that it stands for.

use std::fmt;

use crate::{limits::MAX_COMMAND_LINE, release::Invalid};

/// A command line, exact or with places that vary.
///
/// `*` stands for any run of characters but white space and quotation marks, `\*` for an asterisk, `\\` for a backslash;
/// every other character for itself, a lone backslash too. It does not make a word `--` either. So no pattern lets another
/// parameter in, or takes one away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandLine {
    pattern: String,
    /// What stands between the asterisks; one: the pattern has none.
    parts: Vec<String>,
}

impl CommandLine {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`Invalid::CommandLine`] for one that is too long, or has control characters.
    pub fn parse(pattern: &str) -> Result<Self, Invalid> {
        if pattern.len() > MAX_COMMAND_LINE || pattern.chars().any(char::is_control) {
            return Err(Invalid::CommandLine(pattern.chars().take(80).collect()));
        }
        let (mut parts, mut part) = (Vec::new(), String::new());
        let mut characters = pattern.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '*' => parts.push(std::mem::take(&mut part)),
                '\\' => part.push(characters.next_if(|next| matches!(next, '*' | '\\')).unwrap_or('\\')),
                other => part.push(other),
            }
        }
        parts.push(part);
        Ok(Self { pattern: pattern.into(), parts })
    }

    /// The pattern that stands for exactly `text`.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn exact(text: &str) -> Result<Self, Invalid> {
        Self::parse(&text.replace('\\', "\\\\").replace('*', "\\*"))
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The only text that it stands for; `None` for one with places that vary.
    #[must_use]
    pub fn is_exact(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [text] => Some(text),
            _ => None,
        }
    }

    /// Whether every text that it stands for has dm-verity check the root or `/usr` against one root hash, the same in
    /// all: `roothash=` and `usrhash=` (systemd), `dm-mod.create=` (dm-init). What is mounted must be fixed too: with
    /// `root=*`, a file system that nothing checks could be.
    #[must_use]
    pub fn names_root_hash(&self) -> bool {
        let values = |name: &'static str| self.pattern.split(' ').filter_map(move |word| word.strip_prefix(name));
        let fixed = |name, mounted| {
            let mut all = values(name);
            // Which of two counts is the reader's choice.
            let hash = matches!((all.next(), all.next()), (Some(hash), None) if !hash.is_empty() && is_fixed(hash));
            hash && values(mounted).all(is_fixed) && !self.may_have(name) && !self.may_have(mounted)
        };
        let table = self.is_exact().and_then(|text| text.split_once("dm-mod.create="));
        fixed("roothash=", "root=")
            || fixed("usrhash=", "mount.usr=")
            || table.is_some_and(|(_, table)| table.contains(" verity "))
    }

    /// Whether an asterisk may begin, or go on into, a parameter of this name: `*`, `ro*`.
    fn may_have(&self, name: &str) -> bool {
        let mut heads = self.pattern.split(' ').filter_map(|word| word.split_once('*').map(|(head, _)| head));
        heads.any(|head| name.starts_with(head) && head.len() < name.len())
    }

    /// Whether it stands for `text`, in time linear in both: each part is searched for once, leftmost, and where no
    /// leftmost place does, no other does.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.parts.split_first() else { return false };
        let Some((last, middle)) = rest.split_last() else { return first == text };
        let Some(mut left) = text.strip_prefix(first.as_str()) else { return false };
        for part in middle {
            match find_in_run(left, part) {
                Some(after) => left = after,
                None => return false,
            }
        }
        left.strip_suffix(last.as_str()).is_some_and(is_run) && ends(&self.pattern) == ends(text)
    }
}

fn is_fixed(value: &str) -> bool {
    !value.contains(['*', '\\'])
}

/// What follows the leftmost `part` in `text` with a run before it.
fn find_in_run<'a>(text: &'a str, part: &str) -> Option<&'a str> {
    let (before, after) = text.split_once(part)?;
    is_run(before).then_some(after)
}

/// How many words end what the kernel reads: after `--`, quoted or not, all is for init (kernel/params.c, `parse_args`).
fn ends(text: &str) -> usize {
    text.as_bytes().split(|byte| is_space(*byte)).filter(|word| matches!(*word, b"--" | b"\"--\"")).count()
}

/// White space of Latin-1, as the kernel takes every byte (lib/ctype.c), 0xA0 of a UTF-8 character too.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 0x09..=0x0D | 0xA0)
}

/// Whether an asterisk may stand for `text`: it neither ends a parameter nor makes the next ones part of it. Init
/// reads single quotes as well (systemd's `proc_cmdline_parse`).
fn is_run(text: &str) -> bool {
    !text.bytes().any(|byte| is_space(byte) || matches!(byte, b'"' | b'\''))
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::CommandLine;

    fn matches(pattern: &str, text: &str) -> bool {
        CommandLine::parse(pattern).unwrap().matches(text)
    }

    #[test]
    fn a_star_never_ends_what_the_kernel_reads() {
        for (pattern, text) in [
            ("a=1 * lockdown=integrity", "a=1 -- lockdown=integrity"),
            ("a=1 -* lockdown=integrity", "a=1 -- lockdown=integrity"),
            ("a=1 \"*\" lockdown=integrity", "a=1 \"--\" lockdown=integrity"),
        ] {
            assert!(!matches(pattern, text), "{pattern}");
        }
        assert!(matches("a=\"x y\" b=* -- c", "a=\"x y\" b=1 -- c"));
        assert!(matches("b=*", "b=--") && matches("a -- b", "a -- b"));
    }

    #[test]
    fn a_star_never_lets_another_parameter_in() {
        assert!(matches("root=UUID=* ro quiet", "root=UUID=1234-5678 ro quiet"));
        assert!(!matches("root=UUID=* ro", "root=UUID=1 init=/bin/sh ro"));
        assert!(!matches("ro *", "ro init=/bin/sh single"));
        assert!(matches("a=* b=*-x c", "a=1 b=-x-x c"));
        assert!(!matches("a=* c", "a=1  c"));
        assert!(!matches("quiet", "quiet init=/bin/sh") && !matches("quiet", "init=/bin/sh quiet"));
        for white in ['\t', '\n', '\u{B}', '\u{C}', '\r', '\u{A0}'] {
            assert!(!matches("root=* ro", &format!("root=1{white}init=/bin/sh ro")), "{white:?}");
            assert!(!matches("root=*x* ro", &format!("root=1{white}init=/bin/sh x ro")), "{white:?}");
        }
    }

    #[test]
    fn a_star_never_takes_the_parameters_after_it_away() {
        for quote in ["\"", "'"] {
            assert!(!matches("root=* lockdown=integrity", &format!("root={quote}x lockdown=integrity")), "{quote}");
        }
        assert!(matches("root=\"*\" ro", "root=\"x\" ro"));
    }

    #[test]
    fn an_escaped_star_is_a_star_and_a_backslash_elsewhere_itself() {
        assert!(matches(r"a=\*", "a=*") && !matches(r"a=\*", "a=b"));
        assert!(matches(r"initrd=\initrd-*", r"initrd=\initrd-6.1"));
        assert!(matches(r"a\\*", r"a\xyz") && !matches(r"a\\*", "axyz"));
        let text = r"dyndbg=\* x\\y *";
        assert_eq!(CommandLine::exact(text).unwrap().is_exact(), Some(text));
        assert!(CommandLine::exact(text).unwrap().matches(text));
        assert_eq!(CommandLine::parse("a*").unwrap().is_exact(), None);
    }

    #[test]
    fn what_no_kernel_gets_is_refused() {
        assert!(CommandLine::parse(&"x".repeat(4097)).is_err());
        assert!(CommandLine::parse("quiet\n").is_err());
        assert!(CommandLine::parse("").is_ok());
    }

    #[test]
    fn a_root_hash_is_named_where_it_is_one_and_fixed() {
        let names = |pattern: &str| CommandLine::parse(pattern).unwrap().names_root_hash();
        assert!(names("roothash=ab12 quiet") && names("quiet usrhash=ab12") && names("tty=* roothash=ab12"));
        assert!(names("root=/dev/mapper/root roothash=ab12") && names("mount.usr=/dev/mapper/usr usrhash=ab12"));
        assert!(!names("root=* roothash=ab12") && !names("roothash=ab12 root=/dev/*"));
        assert!(!names("usrhash=ab12 mount.usr=*") && names("root=* usrhash=ab12"));
        // A pattern that can be another parameter altogether.
        assert!(!names("* roothash=ab12") && !names("roothash=ab12 ro*") && names("roothash=ab12 x*"));
        assert!(names("dm-mod.create=\"v,,,ro,0 8 verity 1 a b\" root=/dev/dm-0"));
        for none in ["", "roothash=", "roothash=*", "roothash=a roothash=b", "xroothash=ab", "dm-mod.create=\"linear\""]
        {
            assert!(!names(none), "{none}");
        }
        assert!(!names("dm-mod.create=\"v,,,ro,0 8 verity 1 a *\""));
    }

    /// Every way to choose what the stars stand for.
    fn slowly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                (0..=text.len()).take_while(|&end| !text[..end].contains(&b' ')).any(|end| slowly(rest, &text[end..]))
            }
            ([first, rest @ ..], [next, after @ ..]) if first == next => slowly(rest, after),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_leftmost_place_of_each_part_finds_every_match(pattern in "[ab *]{0,8}", text in "[ab ]{0,12}") {
            prop_assert_eq!(matches(&pattern, &text), slowly(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
