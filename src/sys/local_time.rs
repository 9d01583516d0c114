//! The machine's time zone, by the C library: what a date and time means in it.

#![expect(unsafe_code, reason = "mktime(3) has no safe wrapper")]

use crate::calendar::Civil;

/// Seconds since 1970 at which a clock in the machine's time zone shows this, daylight saving left out as OpenSSH does
/// (`tm_isdst` is 0); None where that cannot be told.
pub fn seconds(shown: Civil) -> Option<i64> {
    let field = |number: u64| libc::c_int::try_from(number).ok();
    // SAFETY: tm is plain data, for which zeroes are a value.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    time.tm_year = field(shown.year)?.checked_sub(1900)?;
    time.tm_mon = field(shown.month)?.checked_sub(1)?;
    time.tm_mday = field(shown.day)?;
    time.tm_hour = field(shown.hour)?;
    time.tm_min = field(shown.minute)?;
    time.tm_sec = field(shown.second)?;
    // SAFETY: time lives until the call returns. The environment that it may read is not changed by guestd once threads run.
    let seconds = unsafe { libc::mktime(&raw mut time) };
    (seconds != -1).then_some(seconds)
}
