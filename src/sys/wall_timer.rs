//! A timer for a point in time by the clock on the wall (timerfd_create(2)), which may be set meanwhile: it is when a VM goes on
//! after a pause or in a clone.

#![expect(unsafe_code, reason = "tokio has no safe way to register a descriptor that is not its own")]

use std::{
    future::poll_fn,
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    task::{Poll, ready},
};

use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// The timer. It costs nothing while it waits.
#[derive(Debug)]
pub struct WallTimer(AsyncFd<Timer>);

/// A descriptor as tokio wants it.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl WallTimer {
    /// A timer that is not set, in the runtime that this is called in.
    ///
    /// # Errors
    /// Out of descriptors, or epoll has no room.
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // SAFETY: Timer owns its descriptor and never exchanges it; AsyncFd owns the Timer, and only shared references to it are made.
        let registered = unsafe { AsyncFd::register_with_interest(Timer(timer), Interest::READABLE) };
        registered.map(Self).map_err(|error| error.into_parts().1)
    }

    /// Sets it for this time, in seconds since 1970, or for none.
    ///
    /// # Errors
    /// Those of timerfd_settime(2).
    pub fn set(&self, seconds: Option<u64>) -> io::Result<()> {
        let timer = &self.0.get_ref().0;
        let Some(seconds) = seconds else { return Ok(timer.unset()?) };
        // Zero would be no time at all, and what is in the past is due now.
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).max(1);
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        Ok(timer.set(Expiration::OneShot(TimeSpec::new(seconds, 0)), flags)?)
    }

    /// Returns when the time has come, or the clock was set: look at it, and set the timer anew.
    pub async fn changed(&self) {
        // An error is that the runtime shuts down, with all tasks.
        let _: io::Result<()> = poll_fn(|context| {
            loop {
                let mut ready = ready!(self.0.poll_read_ready(context))?;
                match self.0.get_ref().0.wait() {
                    Err(Errno::EAGAIN) => ready.clear_ready(),
                    // ECANCELED is that the clock was set.
                    _ => return Poll::Ready(Ok(())),
                }
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use futures_util::FutureExt;

    use super::*;

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    #[tokio::test]
    async fn it_fires_at_its_time_and_not_before_and_at_once_for_the_past() {
        let timer = WallTimer::new().unwrap();
        let at = now() + 2;
        timer.set(Some(at)).unwrap();
        tokio::time::timeout(Duration::from_secs(30), timer.changed()).await.unwrap();
        assert!(now() >= at);
        timer.set(Some(1)).unwrap();
        tokio::time::timeout(Duration::from_secs(30), timer.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_is_not_set_or_set_for_later_does_not_fire() {
        let timer = WallTimer::new().unwrap();
        assert!(timer.changed().now_or_never().is_none());
        timer.set(Some(1)).unwrap();
        timer.set(Some(now() + 3600)).unwrap();
        assert!(timer.changed().now_or_never().is_none());
        timer.set(None).unwrap();
        assert!(timer.changed().now_or_never().is_none());
    }
}
