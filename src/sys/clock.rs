//! The system's wall clock: how to set it, and to learn that somebody did.

#![expect(unsafe_code, reason = "timerfd_create(2)")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// CLOCK_REALTIME since 1970. A clock before that is 0.
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_REALTIME).map(since_1970).unwrap_or_default()
}

/// Steps CLOCK_REALTIME.
///
/// # Errors
/// `EPERM` without CAP_SYS_TIME.
pub fn set(to: Duration) -> io::Result<()> {
    Ok(clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from(to))?)
}

pub(super) fn since_1970(time: TimeSpec) -> Duration {
    let secs = u64::try_from(time.tv_sec()).unwrap_or_default();
    Duration::from_secs(secs) + Duration::from_nanos(u64::try_from(time.tv_nsec()).unwrap_or_default())
}

/// Becomes readable when somebody sets CLOCK_REALTIME (TFD_TIMER_CANCEL_ON_SET of timerfd_create(2)).
#[derive(Debug)]
pub struct ClockSets(OwnedFd);

impl ClockSets {
    /// From now on.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn watch() -> io::Result<Self> {
        // SAFETY: integers only.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us, and nothing else owns it.
        let watch = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        watch.arm()?;
        Ok(watch)
    }

    /// To be waited for by a task.
    ///
    /// # Errors
    /// Where epoll has no room.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: it owns its descriptor and never exchanges it, and the AsyncFd owns it.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    fn arm(&self) -> io::Result<()> {
        let never = libc::timespec { tv_sec: i64::MAX, tv_nsec: 0 };
        let timer = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: the kernel reads `timer`; the former value is not asked for.
        let armed = unsafe { libc::timerfd_settime(self.0.as_raw_fd(), flags, &raw const timer, std::ptr::null_mut()) };
        if armed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Whether the clock was set since the last time that this was asked.
    ///
    /// # Errors
    /// None that is known.
    pub fn was_set(&self) -> io::Result<bool> {
        let mut times = [0; 8];
        match nix::unistd::read(&self.0, &mut times) {
            Err(nix::errno::Errno::ECANCELED) => {}
            Err(nix::errno::Errno::EAGAIN) => return Ok(false),
            other => drop(other?),
        }
        self.arm()?;
        Ok(true)
    }
}

impl AsRawFd for ClockSets {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_set_is_told_as_such() {
        assert!(!ClockSets::watch().unwrap().was_set().unwrap());
    }
}
