//! What the host gives a VM while it runs: a larger disk, more memory, more CPUs. The kernel sees the device; that the VM gets something of it is
//! done here.
//!
//! ```text
//!   uevent: block device has another size ──> its file system grows       (also at the start, and when the host asks)
//!   uevent: memory block, CPU came        ──> it is brought online
//! ```
//!
//! Refused: to shrink anything, and to grow what is frozen for a commit. Partitions are nobody's here: the platform's disks have none.

mod disk;
mod hotplug;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;

pub use disk::{Disks, GrowError, grow};

use crate::api::{DiskGrow, GenerationPhase, GenerationState};
use crate::sys::uevent::{Uevent, Uevents};

/// Before another try, while a file system is being grown for somebody.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// What an event asks for.
#[derive(Debug, PartialEq, Eq)]
enum Reaction {
    Grow,
    Online(PathBuf),
}

/// Listens to the kernel.
#[derive(Debug)]
pub struct Growth {
    disks: Arc<Disks>,
    /// Something may have grown.
    hint: Notify,
}

impl Growth {
    /// For these disks.
    pub fn new(disks: Arc<Disks>) -> Self {
        Self { disks, hint: Notify::new() }
    }

    /// Has everything be as large as it may until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let events = Uevents::listen().and_then(Uevents::watched);
        // What came before the socket was there.
        self.hint.notify_one();
        if let Err(error) = tokio::task::spawn_blocking(hotplug::online_all).await.map_err(io::Error::other).flatten() {
            tracing::info!(%error, "looking for memory and CPUs that are offline");
        }
        let follow = async {
            match events {
                Ok(events) => self.follow(&events).await,
                Err(error) => {
                    tracing::warn!(%error, "the kernel's events are not heard: disks grow when the host asks for it, memory and CPUs at a start");
                }
            }
        };
        stop.run_until_cancelled(async { tokio::join!(follow, self.grow_by_hints()) }).await;
    }

    async fn follow(&self, events: &AsyncFd<Uevents>) {
        while let Ok(mut ready) = events.readable().await {
            loop {
                match events.get_ref().next() {
                    Ok(Some(event)) => self.react(&event).await,
                    Ok(None) => break,
                    // Some were lost, so anything may have come.
                    Err(error) => {
                        tracing::warn!(%error, "events of the kernel were lost");
                        self.hint.notify_one();
                        let _ = tokio::task::spawn_blocking(hotplug::online_all).await;
                        break;
                    }
                }
            }
            ready.clear_ready();
        }
    }

    /// Grows the root file system when an event says so, and in each generation: of a branch onto a larger disk there is no event. What comes while
    /// the VM is prepared for a commit waits for the thaw.
    async fn grow_by_hints(&self) {
        let mut generation = self.disks.generation();
        let mut present = generation.borrow_and_update().generation_id.clone();
        loop {
            let other = async {
                let is_other = |state: &Arc<GenerationState>| state.generation_id != present;
                generation.wait_for(is_other).await.map(|state| state.generation_id.clone())
            };
            tokio::select! {
                () = self.hint.notified() => {}
                Ok(other) = other => present = other,
            }
            while self.grow().await.is_break() {
                if generation.wait_for(|state| state.phase == GenerationPhase::Running).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn react(&self, event: &Uevent) {
        match reaction(event) {
            Some(Reaction::Grow) => self.hint.notify_one(),
            Some(Reaction::Online(path)) => {
                let _ = tokio::task::spawn_blocking(move || online(&path)).await;
            }
            None => {}
        }
    }

    /// A break is for a VM that is prepared for a commit.
    async fn grow(&self) -> ControlFlow<()> {
        match self.disks.grow(DiskGrow::default()).await {
            Ok(grown) if grown.grown => {
                tracing::info!(
                    device = grown.device,
                    before = grown.before_bytes,
                    after = grown.after_bytes,
                    "the root file system has grown"
                );
            }
            Ok(_) => {}
            Err(GrowError::Frozen) => return ControlFlow::Break(()),
            // Who is at it may have asked for less.
            Err(GrowError::Busy) => {
                tokio::time::sleep(BUSY_PAUSE).await;
                self.hint.notify_one();
            }
            Err(error) => tracing::info!(%error, "the root file system does not grow by itself"),
        }
        ControlFlow::Continue(())
    }
}

fn online(path: &Path) {
    match hotplug::online(path) {
        Ok(true) => tracing::info!(?path, "brought online"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, ?path, "bringing it online failed"),
    }
}

fn reaction(event: &Uevent) -> Option<Reaction> {
    let device = || Path::new("/sys").join(event.devpath.trim_start_matches('/'));
    match (event.action.as_str(), event.subsystem.as_str()) {
        ("change", "block") if event.resized => Some(Reaction::Grow),
        ("add", "memory" | "cpu") => Some(Reaction::Online(device())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, subsystem: &str, resized: bool) -> Uevent {
        let (action, subsystem) = (action.to_owned(), subsystem.to_owned());
        Uevent { action, devpath: "/devices/system/memory/memory9".to_owned(), subsystem, resized }
    }

    #[test]
    fn a_larger_disk_grows_and_new_memory_and_cpus_come_online() {
        let online = || Some(Reaction::Online("/sys/devices/system/memory/memory9".into()));
        assert_eq!(reaction(&event("change", "block", true)), Some(Reaction::Grow));
        assert_eq!(reaction(&event("change", "block", false)), None);
        assert_eq!(reaction(&event("add", "memory", false)), online());
        assert_eq!(reaction(&event("add", "cpu", false)), online());
        assert_eq!(reaction(&event("remove", "memory", false)), None);
        assert_eq!(reaction(&event("add", "net", false)), None);
    }
}
