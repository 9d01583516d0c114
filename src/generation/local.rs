//! What the VM can do by itself when it finds itself restored: random numbers from what it has, the clock from its devices.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::limits;
use crate::sys::{clock, host_clock, random};

const HWRNG: &str = "/dev/hwrng";

/// Looks at the real-time clock within a second, so that its tick is known to some milliseconds.
const RTC_LOOK: Duration = Duration::from_millis(4);

/// Seeds the random number generator with the host's, if there is such a device, and with all clocks. Only the former is counted as random;
/// the latter differ between two copies of a VM, too.
pub(super) fn reseed() -> io::Result<()> {
    let mut device = [0; 64];
    let of_host = read_hwrng(&mut device).unwrap_or_default();
    if of_host > 0 {
        random::reseed(&device[..of_host], true)?;
    }
    let mut times = Vec::new();
    for id in [ClockId::CLOCK_REALTIME, ClockId::CLOCK_MONOTONIC_RAW, ClockId::CLOCK_BOOTTIME] {
        if let Ok(time) = clock_gettime(id) {
            times.extend(time.tv_nsec().to_ne_bytes().into_iter().chain(time.tv_sec().to_ne_bytes()));
        }
    }
    if let Ok((_, time)) = host_time() {
        times.extend(time.as_nanos().to_ne_bytes());
    }
    random::reseed(&times, false)
}

/// It may have nothing to give, and must not be waited for.
fn read_hwrng(bytes: &mut [u8]) -> io::Result<usize> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(HWRNG)?.read(bytes)
}

/// The host's time, and which device says it. A real-time clock knows whole seconds: the middle of it is given.
pub(super) fn host_time() -> io::Result<(&'static str, Duration)> {
    let (time, device) = host_clock::machine_time()?;
    Ok((device, if device == "rtc0" { time + Duration::from_millis(500) } else { time }))
}

/// How far the wall clock is behind the host's, where that is further than a device's own error.
pub(super) fn behind() -> Option<(&'static str, f64)> {
    let (device, host) = host_time().ok()?;
    let behind = host.as_secs_f64() - clock::now().as_secs_f64();
    (behind.abs() > limits::CLOCK_SKEW.as_secs_f64()).then_some((device, behind))
}

/// Sets the wall clock by the host's, unless somebody has meanwhile. Blocks for up to a second where that is a real-time clock, to see its
/// tick. Whether it was set.
pub(super) fn mend_clock() -> io::Result<bool> {
    if let Ok(time) = host_clock::ptp() {
        return set_unless_right(time);
    }
    let first = host_clock::rtc()?;
    for _ in 0..300 {
        let second = host_clock::rtc()?;
        if second != first {
            return set_unless_right(Duration::from_secs(second));
        }
        std::thread::sleep(RTC_LOOK);
    }
    Err(io::Error::other("the real-time clock stands still"))
}

fn set_unless_right(time: Duration) -> io::Result<bool> {
    if clock::now().abs_diff(time) <= limits::CLOCK_SKEW {
        return Ok(false);
    }
    clock::set(time).map(|()| true)
}
