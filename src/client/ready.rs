//! Waiting for a VM to come up.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::api::{Health, Status};
use crate::limits;

use super::{Client, ClientError, Timeouts};

impl Client {
    /// Asks for health until it is `ready`, or until `deadline`: then gives the last report, which says what is missing,
    /// or the last error. Asks at least once, and gives up at once where waiting cannot help (no permission, a token that
    /// is wrong, something else than guestd).
    pub async fn wait_ready(&self, deadline: Instant) -> Result<Health, ClientError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.clone().with_timeouts(probe(self.timeouts(), left));
            let health = answer.health().await;
            let settled = match &health {
                Ok(health) => health.status == Status::Ready,
                Err(error) => error.is_lasting(),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if settled || left.is_zero() {
                return health;
            }
            sleep(limits::CLIENT_PROBE_PAUSE.min(left)).await;
        }
    }
}

/// Time-outs of one try: a try must end soon, so that one that was lost in a boot does not hold up the next.
fn probe(usual: Timeouts, left: Duration) -> Timeouts {
    let longest = limits::CLIENT_PROBE_TIME.min(left.max(limits::CLIENT_PROBE_PAUSE));
    Timeouts { connect: usual.connect.min(longest), answer: usual.answer.min(longest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_ends_with_the_deadline_and_is_never_without_time() {
        let secs = Duration::from_secs;
        let usual = Timeouts::default();
        assert_eq!(probe(usual, secs(60)).answer, limits::CLIENT_PROBE_TIME);
        assert_eq!(probe(usual, secs(1)).connect, secs(1));
        assert_eq!(probe(usual, secs(0)).answer, limits::CLIENT_PROBE_PAUSE);
    }
}
