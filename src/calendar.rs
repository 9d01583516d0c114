//! Points in time as people write them, in UTC. Pure. There are no leap seconds, as in Unix time.

use std::time::Duration;

const DAY: u64 = 86_400;

/// The last second of the year 9999: what comes after has five digits, which nobody who reads a date expects.
pub const LAST: u64 = 253_402_300_799;

/// A second of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the calendar's own")]
pub struct Civil {
    pub year: u64,
    pub month: u64,
    pub day: u64,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
}

impl Civil {
    /// The date and time in UTC of so many seconds after the beginning of 1970.
    pub fn of(seconds: u64) -> Self {
        let (days, second) = (seconds / DAY, seconds % DAY);
        // The calendar repeats every 400 years of 146,097 days (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
        let days = days + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        Self { year: era * 400 + year_of_era + next, month, day, hour, minute, second }
    }

    /// Seconds from the beginning of 1970 to this time in UTC; None before 1970 and where there is no such date or time.
    pub fn seconds(self) -> Option<u64> {
        let Self { year, month, day, hour, minute, second } = self;
        let exists = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
        if !exists || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        // The same the other way round: years begin in March, so that the leap day is their last.
        let year = if month <= 2 { year - 1 } else { year };
        let (era, of_era) = (year / 400, year % 400);
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        let seconds = days * DAY + hour * 3600 + minute * 60 + second;
        // A 30th of February is the 1st or 2nd of March by now.
        (Self::of(seconds) == self).then_some(seconds)
    }
}

/// Seconds since 1970 as RFC 3339 in UTC: `2026-12-31T23:59:59Z`.
pub fn utc(seconds: u64) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::of(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A time in UTC, `2026-12-31T23:59:59Z`, or the beginning of a day, `2026-12-31`; in seconds since 1970.
pub fn parse_utc(text: &str) -> Option<u64> {
    let (date, time) = match text.strip_suffix(['Z', 'z']) {
        Some(text) => text.split_once(['T', 't', ' '])?,
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    Civil { year, month, day, hour, minute, second }.seconds()
}

/// So many digits each, with a separator between them.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut fields = text.split(separator);
    let mut read = [0; N];
    for (number, digits) in read.iter_mut().zip(digits) {
        *number = number_of(fields.next()?, digits)?;
    }
    fields.next().is_none().then_some(read)
}

/// A number of exactly so many digits.
pub fn number_of(text: &str, digits: usize) -> Option<u64> {
    let valid = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| text.parse().ok()).flatten()
}

/// A span of time with its unit: `90s`, `30m`, `12h`, `7d` or `4w`.
pub fn parse_span(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => DAY,
        'w' => 7 * DAY,
        _ => return None,
    };
    let number = text.strip_suffix(unit)?;
    let number: u64 = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok()).flatten()?;
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(4_102_444_799), "2099-12-31T23:59:59Z");
    }

    #[test]
    fn a_time_is_read_with_its_z_and_a_day_without() {
        assert_eq!(parse_utc("2000-02-29"), Some(951_782_400));
        assert_eq!(parse_utc("2099-12-31 23:59:59z"), Some(4_102_444_799));
        for wrong in
            ["", "2000-02-30", "1900-01-01", "2000-1-1", "2000-01-01T00:00:00", "2000-01-01T24:00:00Z", "2000-01-01Z"]
        {
            assert_eq!(parse_utc(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_span_has_a_number_and_a_unit() {
        let seconds = |text| parse_span(text).map(|span| span.as_secs());
        assert_eq!(["90s", "2m", "12h", "7d", "4w"].map(seconds), [90, 120, 43_200, 604_800, 2_419_200].map(Some));
        for wrong in ["", "h", "5", "-1h", "1.5h", "1h30m", "99999999999999999999d", "18446744073709551615w"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_as_the_same_time(seconds in 0..=LAST) {
            prop_assert_eq!(parse_utc(&utc(seconds)), Some(seconds));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*") {
            let _ = (parse_utc(&text), parse_span(&text));
        }
    }
}
