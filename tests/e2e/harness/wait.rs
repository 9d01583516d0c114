//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// For what an emulated guest does in a moment, on a machine that is busy or slow. Whoever waits goes on at once when it is done, so that
/// much of it costs nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks. Short against a guest under emulation, long against the cost of a look.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks until `look` answers `Ok(Some(_))`, fails, or `deadline` has passed. `Ok(None)` means "not yet".
pub(crate) fn until<T>(what: &str, deadline: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(what, deadline, LOOK_EVERY, look)
}

/// The same with looks this far apart.
pub(crate) fn until_every<T>(
    what: &str,
    deadline: Duration,
    every: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if started.elapsed() > deadline {
            bail!("waited {} s, and still not: {what}", deadline.as_secs());
        }
        thread::sleep(every);
    }
}
