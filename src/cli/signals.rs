//! Signals that ask guestctl to go.
//!
//! From the first use on they no longer end it by themselves: whoever holds this decides. What whoever started guestctl had
//! ignored, as nohup(1) does, stays so.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::sys::process::ignores;

use super::failure::Failure;

/// Within this time of the first, a second signal means guestctl itself.
const INSIST_TIME: Duration = Duration::from_secs(2);

/// The signals.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
    quit: Option<Signal>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Interrupt,
    Terminate,
    HangUp,
    Quit,
}

impl Asked {
    /// As guestd calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
            Self::HangUp => "HUP",
            Self::Quit => "QUIT",
        }
    }

    /// As the kernel counts it (signal(7)).
    pub(super) fn number(self) -> i32 {
        match self {
            Self::HangUp => 1,
            Self::Interrupt => 2,
            Self::Quit => 3,
            Self::Terminate => 15,
        }
    }
}

impl Signals {
    /// Begins to receive them.
    pub(super) fn new() -> Result<Self, Failure> {
        let receive = |kind: SignalKind| {
            let ignored = ignores(kind.as_raw_value()).map_err(Failure::Signals)?;
            if ignored { Ok(None) } else { signal(kind).map(Some).map_err(Failure::Signals) }
        };
        Ok(Self {
            interrupt: receive(SignalKind::interrupt())?,
            terminate: receive(SignalKind::terminate())?,
            hang_up: receive(SignalKind::hangup())?,
            quit: receive(SignalKind::quit())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            () = received(&mut self.interrupt) => Asked::Interrupt,
            () = received(&mut self.terminate) => Asked::Terminate,
            () = received(&mut self.hang_up) => Asked::HangUp,
            () = received(&mut self.quit) => Asked::Quit,
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// What a signal means while a command runs that has no terminal. Pure but for the clock.
#[derive(Debug, Default)]
pub(super) struct Insistence {
    last: Option<Instant>,
}

impl Insistence {
    /// Is this one for the command, and not for guestctl?
    pub(super) fn is_for_command(&mut self, asked: Asked, now: Instant) -> bool {
        let insists = self.last.is_some_and(|last| now.duration_since(last) < INSIST_TIME);
        self.last = Some(now);
        // Whoever hung up cannot see what the command makes of it.
        asked != Asked::HangUp && !insists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_signal_within_two_seconds_is_for_guestctl() {
        let start = Instant::now();
        let mut insistence = Insistence::default();
        assert!(insistence.is_for_command(Asked::Interrupt, start));
        assert!(insistence.is_for_command(Asked::Interrupt, start + INSIST_TIME));
        assert!(!insistence.is_for_command(Asked::Interrupt, start + INSIST_TIME + Duration::from_millis(1)));
    }

    #[test]
    fn a_hang_up_is_never_for_the_command() {
        assert!(!Insistence::default().is_for_command(Asked::HangUp, Instant::now()));
    }
}
