//! How a command ended, as its readers are told.

use std::time::Duration;

use super::resources::Spent;
use crate::api::ExecExit;
use crate::sys::pidfd::Exit;

/// Exit status that stands for a time-out, as of timeout(1).
const TIMED_OUT: i32 = 124;

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) exit: Exit,
    pub(super) timed_out: bool,
    pub(super) duration: Duration,
    pub(super) spent: Spent,
}

impl From<Ending> for ExecExit {
    fn from(ending: Ending) -> Self {
        let (code, signal) = match ending.exit {
            Exit::Code(code) => (code, None),
            Exit::Signal(signal) => (128 + signal, Some(signal)),
        };
        Self {
            exit_code: if ending.timed_out { TIMED_OUT } else { code },
            signal,
            timed_out: ending.timed_out,
            oom_killed: ending.spent.oom_killed,
            duration_ms: u64::try_from(ending.duration.as_millis()).unwrap_or(u64::MAX),
            usage: ending.spent.usage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_is_124_however_the_command_took_it() {
        let code = |exit, timed_out| {
            let ending = Ending { exit, timed_out, duration: Duration::ZERO, spent: Spent::default() };
            ExecExit::from(ending).exit_code
        };
        assert_eq!((code(Exit::Code(0), true), code(Exit::Signal(15), true)), (124, 124));
        assert_eq!((code(Exit::Signal(9), false), code(Exit::Code(7), false)), (137, 7));
    }
}
