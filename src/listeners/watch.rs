//! When to look at the sockets, on a thread of its own, and who is told.

use std::{
    io,
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    look::{Looker, Observation},
    own::OwnSockets,
};

/// The looking thread. It stops when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    observations: watch::Receiver<Arc<Observation>>,
    /// A wish to look at once; its end is the end of the thread.
    looks: Option<Arc<mpsc::SyncSender<()>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watcher {
    /// Takes a first look and starts the thread.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn spawn(interval: Duration, own: OwnSockets) -> io::Result<Self> {
        let mut looker = Looker::new(own);
        let first = looker.look(None);
        let (publish, observations) = watch::channel(Arc::new(first));
        let (looks, wishes) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("listeners".to_owned()).spawn(move || {
            while !matches!(wishes.recv_timeout(interval), Err(mpsc::RecvTimeoutError::Disconnected)) {
                let next = looker.look(Some(&publish.borrow()));
                publish.send_if_modified(|current| {
                    let news = current.is_outdated_by(&next);
                    if **current != next {
                        *current = Arc::new(next);
                    }
                    news
                });
            }
        })?;
        Ok(Self { observations, looks: Some(Arc::new(looks)), thread: Some(thread) })
    }

    /// For those who change what there is to see.
    pub fn looker(&self) -> LookNow {
        LookNow(self.looks.as_ref().map(Arc::downgrade).unwrap_or_default())
    }

    /// The latest observation, and every later one.
    pub fn observations(&self) -> watch::Receiver<Arc<Observation>> {
        self.observations.clone()
    }
}

/// A way to ask for a look before its time.
///
/// Does not keep the thread alive.
#[derive(Debug, Clone)]
pub struct LookNow(Weak<mpsc::SyncSender<()>>);

impl LookNow {
    /// Asks for a look.
    pub fn look_now(&self) {
        if let Some(looks) = self.0.upgrade() {
            // A full channel holds a wish already.
            let _ = looks.try_send(());
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.looks.take();
        if let Some(thread) = self.thread.take() {
            // The thread holds no lock and waits for nothing but the channel that is closed now.
            let _ = thread.join();
        }
    }
}
