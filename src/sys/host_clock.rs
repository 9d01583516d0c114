//! The machine's own time, which goes on while a VM stands still: the host's by ptp_kvm or VMClock, else that of the real-time clock.

#![expect(unsafe_code, reason = "ioctl(2)")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::clock::since_1970;

/// Names of hypervisors' PTP clocks (drivers/ptp): another one may be a network card's, and tell any time.
const HYPERVISORS: [&str; 3] = ["KVM virtual PTP", "vmclock", "hyperv"];

/// `_IOR('p', 0x09, struct rtc_time)` of linux/rtc.h.
const RTC_RD_TIME: libc::Ioctl = 0x8024_7009_u32 as libc::Ioctl;

/// The host's time since 1970, to some microseconds.
///
/// # Errors
/// There is no `/dev/ptp0` of a hypervisor's, or its driver has no time to give.
pub fn ptp() -> io::Result<Duration> {
    let name = std::fs::read_to_string("/sys/class/ptp/ptp0/clock_name")?;
    if !HYPERVISORS.contains(&name.trim()) {
        return Err(io::Error::other(format!("/dev/ptp0 is no hypervisor's clock but {:?}", name.trim())));
    }
    let device = open(Path::new("/dev/ptp0"))?;
    // FD_TO_CLOCKID of clock_getres(2).
    let id = (!device.as_raw_fd() << 3) | 3;
    Ok(since_1970(clock_gettime(ClockId::from_raw(id))?))
}

/// The real-time clock, `/dev/rtc0`: whole seconds since 1970, in UTC, which in a VM are the host's.
///
/// # Errors
/// There is none, or another process has it open.
pub fn rtc() -> io::Result<u64> {
    read_rtc(Path::new("/dev/rtc0"))
}

/// What the machine says the time is, and which device says it.
///
/// # Errors
/// There is neither, with what is wrong with the real-time clock.
pub fn machine_time() -> io::Result<(Duration, &'static str)> {
    match ptp() {
        Ok(time) => Ok((time, "ptp0")),
        Err(_) => Ok((Duration::from_secs(rtc()?), "rtc0")),
    }
}

fn read_rtc(device: &Path) -> io::Result<u64> {
    let device = open(device)?;
    // struct rtc_time: seconds, minutes, hours, day of the month, month from 0, years since 1900, and three that are not set.
    let mut fields = [0 as libc::c_int; 9];
    // SAFETY: the kernel writes nine ints.
    if unsafe { libc::ioctl(device.as_raw_fd(), RTC_RD_TIME, fields.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let fields = fields.map(i64::from);
    let [seconds, minutes, hours, day, month, years, ..] = fields;
    let days = days_since_1970(years + 1900, month + 1, day);
    u64::try_from(((days * 24 + hours) * 60 + minutes) * 60 + seconds).map_err(io::Error::other)
}

/// Days of the Gregorian calendar: years begin in March, so that the odd day is their last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_march = 153 * month + 2;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + before_march / 5 + day - 719_469
}

fn open(device: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK).open(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_over_leap_years() {
        let dates = [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 29), 20_786),
            ((2100, 1, 1), 47_482),
        ];
        for (date, days) in dates {
            let (year, month, day) = date;
            assert_eq!(days_since_1970(year, month, day), days, "{date:?}");
        }
    }

    #[test]
    fn a_device_that_is_none_is_an_error() {
        assert!(read_rtc(Path::new("/dev/null")).is_err());
    }
}
