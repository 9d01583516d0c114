//! Restores that nobody announced: what the kernel and the devices tell of them.
//!
//! ```text
//!   kernel log: "crng reseeded due to virtual machine fork" ──┐
//!   VMClock's disruption marker is another one ───────────────┼──> a sign: reseed, mend the clock, tell the task
//!   the vsock device has another CID ─────────────────────────┘
//!   the wall clock is seconds behind the host's ─────────────────> a pause: the same, and no sign
//! ```
//!
//! The first comes by itself. For the others somebody has to look: at a host's connection, which is what comes next after a restore, when
//! connections of the host are reset, when somebody sets the clock, and every few minutes. An idle VM is not woken up more often.

use std::fs::File;
use std::future::pending;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::handle::GenerationHandle;
use super::local;
use crate::api::{ClockMended, RestoreSign};
use crate::limits;
use crate::sys::clock::{self, ClockSets};
use crate::sys::kernel_log::KernelLog;

/// What the kernel says when the host has changed the VMGENID (drivers/char/random.c).
const FORK_MESSAGE: &str = "crng reseeded due to virtual machine fork";

const VMCLOCK: &str = "/dev/vmclock0";
/// Begins a struct vmclock_abi (linux/vmclock-abi.h).
const VMCLOCK_MAGIC: &[u8] = b"VCLK";

/// Between two looks because of connections: a host that asks often must not have the devices read as often.
const LOOK_GAP: Duration = Duration::from_secs(1);

/// Has the devices looked at soon.
#[derive(Debug, Clone, Default)]
pub struct LookForRestore(Arc<Notify>);

impl LookForRestore {
    /// A host has connected, or has lost its connections.
    pub fn look(&self) {
        self.0.notify_one();
    }
}

/// What was seen last.
#[derive(Debug, Default)]
struct Seen {
    cid: Option<u32>,
    marker: Option<u64>,
}

/// The task, before it runs.
#[derive(Debug)]
pub struct Detector {
    handle: GenerationHandle,
    look: LookForRestore,
    seen: Seen,
}

impl Detector {
    /// As it is now, nothing was restored.
    pub fn new(handle: GenerationHandle) -> (Self, LookForRestore) {
        let look = LookForRestore::default();
        (Self { handle, look: look.clone(), seen: Seen { cid: cid(), marker: marker() } }, look)
    }

    /// Looks out until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut log =
            watch_log().inspect_err(|error| tracing::info!(%error, "no kernel log to look for restores in")).ok();
        let sets = ClockSets::watch().and_then(ClockSets::watched);
        let sets = sets.inspect_err(|error| tracing::warn!(%error, "the clock's being set is not seen")).ok();
        let mut looked = Instant::now();
        loop {
            let due = looked + limits::CLOCK_LOOK;
            tokio::select! {
                message = fork_message(log.as_mut()) => {
                    if let Err(error) = message {
                        tracing::warn!(%error, "the kernel log cannot be read any more");
                        log = None;
                        continue;
                    }
                    self.found("kernel_message", format!("the kernel says: {FORK_MESSAGE}")).await;
                }
                () = was_set(sets.as_ref()) => {}
                () = self.look.0.notified() => tokio::time::sleep_until(looked + LOOK_GAP).await,
                () = tokio::time::sleep_until(due) => {}
                () = stop.cancelled() => return,
            }
            self.look().await;
            looked = Instant::now();
        }
    }

    async fn look(&mut self) {
        let now = Seen { cid: cid(), marker: marker() };
        for (sign, message) in self.seen.changed(&now) {
            self.found(sign, message).await;
        }
        self.seen = Seen { cid: now.cid.or(self.seen.cid), marker: now.marker };
        self.mend().await;
    }

    /// The VM was restored. What it can do at once it does; the rest is the host's to say.
    async fn found(&self, sign: &str, message: String) {
        let seen = Instant::now();
        if let Err(error) = local::reseed() {
            tracing::warn!(%error, "reseeding after a restore failed");
        }
        self.mend().await;
        let at = clock::now().as_secs_f64();
        self.handle.sign(RestoreSign { sign: sign.to_owned(), message, at }, seen).await;
    }

    /// Sets the clock right if it is seconds off.
    async fn mend(&self) {
        let Some((by, behind_secs)) = local::behind() else { return };
        // It waits for the tick of a real-time clock.
        let mended = tokio::task::spawn_blocking(local::mend_clock).await.map_err(io::Error::other).flatten();
        match mended {
            Ok(true) => {}
            // The host was faster.
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, behind_secs, by, "the clock is off, and could not be set");
                return;
            }
        }
        tracing::warn!(behind_secs, by, "the clock was off, as after a pause, and was set");
        // A pause may have been more.
        if let Err(error) = local::reseed() {
            tracing::warn!(%error, "reseeding after a pause failed");
        }
        let at = clock::now().as_secs_f64();
        self.handle.mended(ClockMended { behind_secs, by: by.to_owned(), at }).await;
    }
}

impl Seen {
    /// What of it cannot have come about without a restore.
    fn changed(&self, now: &Self) -> Vec<(&'static str, String)> {
        let mut changed = Vec::new();
        if let Some((before, now)) = self.cid.zip(now.cid).filter(|(before, now)| before != now) {
            changed.push(("vsock_cid", format!("the vsock device's CID was {before} and is {now}")));
        }
        if let Some((before, now)) = self.marker.zip(now.marker).filter(|(before, now)| before != now) {
            changed.push(("vmclock", format!("VMClock's disruption marker was {before} and is {now}")));
        }
        changed
    }
}

/// The CID that the host gave; none where there is no device, or loopback alone.
fn cid() -> Option<u32> {
    vsock::get_local_cid().ok().filter(|cid| (3..u32::MAX).contains(cid))
}

/// What VMClock counts up when the VM's time was disrupted.
fn marker() -> Option<u64> {
    let mut page = [0; 24];
    File::open(VMCLOCK).ok()?.read_exact_at(&mut page, 0).ok()?;
    let marker = page.get(16..24)?.try_into().ok().map(u64::from_le_bytes);
    marker.filter(|_| page.starts_with(VMCLOCK_MAGIC))
}

fn watch_log() -> io::Result<AsyncFd<KernelLog>> {
    KernelLog::open()?.watched()
}

/// Returns at the kernel's next word of a restore.
async fn fork_message(log: Option<&mut AsyncFd<KernelLog>>) -> io::Result<()> {
    let Some(log) = log else { return pending().await };
    loop {
        let mut ready = log.readable_mut().await?;
        while let Some(text) = ready.get_inner_mut().next_text()? {
            if text.contains(FORK_MESSAGE) {
                return Ok(());
            }
        }
        ready.clear_ready();
    }
}

/// Returns when somebody has set the clock.
async fn was_set(sets: Option<&AsyncFd<ClockSets>>) {
    let Some(sets) = sets else { return pending().await };
    while let Ok(mut ready) = sets.readable().await {
        if sets.get_ref().was_set().unwrap_or(false) {
            return;
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cid_or_marker_is_a_sign_and_one_that_comes_or_goes_is_not() {
        let seen = |cid, marker| Seen { cid, marker };
        let signs = |before: Seen, now: Seen| -> Vec<&'static str> {
            before.changed(&now).into_iter().map(|(sign, _)| sign).collect()
        };
        assert_eq!(signs(seen(Some(3), Some(1)), seen(Some(4), Some(2))), ["vsock_cid", "vmclock"]);
        assert_eq!(signs(seen(Some(3), Some(1)), seen(Some(3), Some(1))), [""; 0]);
        assert_eq!(signs(seen(None, None), seen(Some(3), Some(1))), [""; 0]);
        assert_eq!(signs(seen(Some(3), Some(1)), seen(None, None)), [""; 0]);
    }
}
