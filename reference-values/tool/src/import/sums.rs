//! What `sha256sum` and its like print.

use std::path::Path;

use super::{Taken, sha256, text};
use crate::failure::Failure;

/// Reads one list: GNU's form, with its escapes, or BSD's.
pub(crate) fn read(path: &Path) -> Result<Taken, Failure> {
    let mut taken = Taken::default();
    for (line, number) in text(path)?.lines().zip(1_usize..) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || {
            Failure::input(path, format_args!("line {number}: `SHA256  NAME` or `SHA256 (NAME) = SHA256` is expected"))
        };
        let (digest, name) = gnu(line).or_else(|| bsd(line)).ok_or_else(wrong)?;
        taken.take(digest, &name);
    }
    Ok(taken)
}

/// `HEX  NAME`, `HEX *NAME`; with a backslash before it, `\\` and `\n` in the name stand for what they say.
fn gnu(line: &str) -> Option<([u8; 32], String)> {
    let (escaped, line) = line.strip_prefix('\\').map_or((false, line), |rest| (true, rest));
    let (digits, rest) = line.split_once(' ')?;
    let name = rest.strip_prefix([' ', '*'])?;
    let name = if escaped { unescaped(name)? } else { name.to_owned() };
    Some((sha256(digits)?, name)).filter(|(_, name)| !name.is_empty())
}

/// What `\\`, `\n` and `\r` stand for.
fn unescaped(name: &str) -> Option<String> {
    let mut out = String::new();
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        out.push(match character {
            '\\' => match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            other => other,
        });
    }
    Some(out)
}

/// `SHA256 (NAME) = HEX`.
fn bsd(line: &str) -> Option<([u8; 32], String)> {
    let (name, digits) = line.strip_prefix("SHA256 (")?.rsplit_once(") = ")?;
    Some((sha256(digits)?, name.to_owned())).filter(|(_, name)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let digits = "ab".repeat(32);
        let digest = [0xab; 32];
        assert_eq!(gnu(&format!("{digits}  /bin/a b")), Some((digest, "/bin/a b".into())));
        assert_eq!(gnu(&format!("{digits} */bin/a")), Some((digest, "/bin/a".into())));
        assert_eq!(gnu(&format!("\\{digits}  a\\nb")), Some((digest, "a\nb".into())));
        assert_eq!(gnu(&format!("\\{digits}  a\\\\nb")), Some((digest, "a\\nb".into())));
        assert_eq!(bsd(&format!("SHA256 (a) b) = {digits}")), Some((digest, "a) b".into())));
        assert!(gnu(&digits).is_none() && bsd("SHA256 (a) = 00").is_none());
    }
}
