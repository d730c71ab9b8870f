//! A kernel command line as a release allows it: in, a pattern; out, whether a text is one that it stands for.

use std::fmt;

use crate::{limits::MAX_COMMAND_LINE, release::Invalid};

/// A command line, exact or with places that vary.
///
/// `*` stands for any run of characters but space, `\*` for an asterisk, `\\` for a backslash; every other character
/// for itself, a lone backslash too. So no pattern lets another parameter in.
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
        left.strip_suffix(last.as_str()).is_some_and(|run| !run.contains(' '))
    }
}

/// What follows the leftmost `part` in `text` with no space before it.
fn find_in_run<'a>(text: &'a str, part: &str) -> Option<&'a str> {
    let (before, after) = text.split_once(part)?;
    (!before.contains(' ')).then_some(after)
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}
