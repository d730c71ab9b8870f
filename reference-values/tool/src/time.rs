//! Points in time, as people write them and as releases hold them.

use std::{fmt, str::FromStr as _};

use jiff::Timestamp;

/// Seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    pub(crate) fn now() -> Self {
        Self(u64::try_from(Timestamp::now().as_second()).unwrap_or(0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()) {
            Some(time) => time.fmt(f),
            None => write!(f, "{} s after 1970", self.0),
        }
    }
}

/// Reads `2026-11-24` (midnight, UTC) or an RFC 3339 time.
pub(crate) fn parse_time(text: &str) -> Result<Time, String> {
    let time = Timestamp::from_str(text).or_else(|_| Timestamp::from_str(&format!("{text}T00:00:00Z")));
    time.ok()
        .and_then(|time| u64::try_from(time.as_second()).ok())
        .map(Time)
        .ok_or_else(|| "a date (2026-11-24) or a time with its offset (2026-11-24T12:00:00Z) is expected".into())
}

/// A length of time, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) u64);

/// Reads `90s`, `30m`, `36h` or `14d`.
pub(crate) fn parse_span(text: &str) -> Result<Span, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let read = UNITS.iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(*unit)?.parse::<u64>().ok()?;
        number.checked_mul(*seconds)
    });
    read.map(Span).ok_or_else(|| "a number with s, m, h or d is expected, as 14d or 36h".into())
}

#[cfg(test)]
mod tests {
    use super::{Span, Time, parse_span, parse_time};

    #[test]
    fn spans_have_a_unit() {
        assert_eq!(parse_span("14d"), Ok(Span(1_209_600)));
        assert_eq!(parse_span("36h"), Ok(Span(129_600)));
        for wrong in ["14", "d", "-1d", "1w", "99999999999999999d", "1 d"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn dates_and_times_are_read_and_printed() {
        assert_eq!(parse_time("2026-11-24"), Ok(Time(1_795_478_400)));
        assert_eq!(parse_time("2026-11-24T01:00:00+01:00"), Ok(Time(1_795_478_400)));
        assert_eq!(Time(1_795_478_400).to_string(), "2026-11-24T00:00:00Z");
        assert!(parse_time("tomorrow").is_err() && parse_time("1950-01-01").is_err());
    }
}
