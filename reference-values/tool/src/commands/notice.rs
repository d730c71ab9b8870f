//! `notice`: takes releases and files back. In, what is typed and tables of digests; out, an unsigned notice.

use std::{collections::BTreeMap, path::Path};

use data_encoding::HEXLOWER_PERMISSIVE;
use reference_values::{Document, KnownBad, Minimum, Revoked, limits::MAX_FILE};

use super::{notices::TakenBack, sequence, write_unsigned};
use crate::{cli::Notice, failure::Failure, files};

pub(crate) fn run(arguments: &Notice) -> Result<(), Failure> {
    let mut known_bad = Vec::new();
    for table in &arguments.known_bad {
        known_bad.extend(read_known_bad(table)?);
    }
    let minimum = arguments.minimum.as_deref().map(minimum).transpose()?;
    let revoked = revoked(&arguments.revoke, &arguments.advisory)?;
    let edition = &arguments.of;
    let sequence = sequence(edition.sequence)?;
    let expires = edition.expires.map(|time| time.0);
    let notice = reference_values::Notice::new(
        &arguments.product,
        &edition.name,
        sequence,
        expires,
        minimum,
        revoked,
        known_bad,
    )
    .map_err(|error| Failure::Usage(error.to_string()))?;
    let taken = TakenBack::from(&notice);
    let document = Document::from(notice);
    write_unsigned(&document.encode(), &edition.output)?;
    let (product, name) = (document.product(), document.name());
    files::print(&format!("notice {name} about {product}, sequence {sequence}: {}; not signed yet\n", taken.summary()))
}

/// `NAME=VALUE`, in which the value may have more of `=`.
fn pair<'a>(text: &'a str, option: &str) -> Result<(&'a str, &'a str), Failure> {
    let wrong = || Failure::Usage(format!("{option} {text:?}: NAME=VALUE is expected"));
    text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty()).ok_or_else(wrong)
}

fn minimum(text: &str) -> Result<Minimum, Failure> {
    let (release, sequence) = pair(text, "--minimum")?;
    let wrong = |_| Failure::Usage(format!("--minimum {text:?}: the sequence is a number, as `show` prints it"));
    Ok(Minimum { release: release.to_owned(), sequence: sequence.parse().map_err(wrong)? })
}

fn revoked(reasons: &[String], advisories: &[String]) -> Result<Vec<Revoked>, Failure> {
    let mut revoked = BTreeMap::new();
    for text in reasons {
        let (release, why) = pair(text, "--revoke")?;
        let one = Revoked { release: release.to_owned(), why: why.to_owned(), advisory: None };
        if revoked.insert(release, one).is_some() {
            return Err(Failure::Usage(format!("--revoke {release}: it is revoked twice")));
        }
    }
    for text in advisories {
        let (release, advisory) = pair(text, "--advisory")?;
        let missing =
            || Failure::Usage(format!("--advisory {text:?}: {release} is not revoked (--revoke {release}=WHY)"));
        let one = revoked.get_mut(release).ok_or_else(missing)?;
        if one.advisory.replace(advisory.to_owned()).is_some() {
            return Err(Failure::Usage(format!("--advisory {release}: it has two")));
        }
    }
    Ok(revoked.into_values().collect())
}

/// Lines of `SHA256,ADVISORY,WHY`; empty ones and those that begin with `#` say nothing.
fn read_known_bad(path: &Path) -> Result<Vec<KnownBad>, Failure> {
    let bytes = files::read(path, MAX_FILE)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| Failure::input(path, error))?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty() && !line.starts_with('#'));
    let read = |(line, number): (&str, usize)| {
        let wrong = || Failure::input(path, format_args!("line {number}: SHA256,ADVISORY,WHY is expected"));
        let mut fields = line.splitn(3, ',').map(str::trim);
        let (Some(digest), Some(advisory), Some(why)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(wrong());
        };
        let digest = HEXLOWER_PERMISSIVE.decode(digest.as_bytes()).ok().and_then(|digest| digest.try_into().ok());
        Ok(KnownBad { digest: digest.ok_or_else(wrong)?, why: why.to_owned(), advisory: advisory.to_owned() })
    };
    let known: Vec<KnownBad> = lines.map(read).collect::<Result<_, _>>()?;
    if known.is_empty() {
        return Err(Failure::input(path, "no line in it names a file"));
    }
    Ok(known)
}
