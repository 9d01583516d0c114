//! Points in time as sshd reads them in an authorized_keys file (`parse_absolute_time` of `misc.c`): `YYYYMMDD[HHMM[SS]]`, in the
//! machine's time zone, or in UTC with a `Z` at the end, which OpenSSH knows since 9.1.

use crate::{
    calendar::{Civil, number_of},
    sys::local_time,
};

/// The option that takes one.
pub(super) const OPTION: &str = "expiry-time";

/// In which words sshd is told of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// With a `Z`.
    Utc,
    /// Without: an sshd before 9.1 refuses a key with a `Z`.
    Local,
}

/// Seconds since 1970 in these words.
pub(super) fn write(seconds: u64, dialect: Dialect) -> String {
    let text = |seconds: u64| {
        let Civil { year, month, day, hour, minute, second } = Civil::of(seconds);
        format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
    };
    match dialect {
        Dialect::Utc => text(seconds) + "Z",
        Dialect::Local => text(shown_locally(seconds)),
    }
}

/// What a clock on the wall shows, as if it were UTC: the time that sshd takes for the one that is meant.
fn shown_locally(seconds: u64) -> u64 {
    // The zone's difference can be another one at the time itself than at the same figures in UTC.
    let mut shown = seconds;
    for _ in 0..2 {
        let Some(meant) = local_time::seconds(Civil::of(shown)) else { return seconds };
        let Some(next) = i64::try_from(seconds).ok().and_then(|wanted| shown.checked_add_signed(wanted - meant)) else {
            return seconds;
        };
        shown = next;
    }
    shown
}

/// Seconds since 1970 of such a text; None where it is none.
pub(super) fn parse(text: &str) -> Option<u64> {
    let without = |end: &str| {
        let at = text.len().checked_sub(end.len())?;
        text.get(at..)?.eq_ignore_ascii_case(end).then(|| &text[..at])
    };
    let utc = without("Z").or_else(|| without("UTC"));
    let digits = utc.unwrap_or(text);
    let field = |from: usize, length: usize| match digits.get(from..from + length) {
        Some(field) => number_of(field, length),
        None => Some(0),
    };
    if ![8, 12, 14].contains(&digits.len()) {
        return None;
    }
    let civil = Civil {
        year: field(0, 4)?,
        month: field(4, 2)?,
        day: field(6, 2)?,
        hour: field(8, 2)?,
        minute: field(10, 2)?,
        second: field(12, 2)?,
    };
    let in_utc = civil.seconds()?;
    if utc.is_some() {
        return Some(in_utc);
    }
    local_time::seconds(civil).and_then(|seconds| u64::try_from(seconds).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_and_read_in_both_dialects() {
        assert_eq!(write(1_767_225_599, Dialect::Utc), "20251231235959Z");
        for seconds in [0, 951_782_400, 1_767_225_599, 1_774_746_000, 1_774_749_600, 4_102_444_799] {
            assert_eq!(parse(&write(seconds, Dialect::Utc)), Some(seconds));
            assert_eq!(parse(&write(seconds, Dialect::Local)), Some(seconds), "{}", write(seconds, Dialect::Local));
        }
    }

    #[test]
    fn days_and_minutes_are_read_and_what_is_no_time_is_not() {
        assert_eq!(parse("20000229z"), Some(951_782_400));
        assert_eq!(parse("200002290000UTC"), Some(951_782_400));
        for wrong in
            ["", "Z", "2000022", "20000230Z", "200002292500Z", "20000229000060Z", "2000-02-29", "20000229+1Z", "ééééZ"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
