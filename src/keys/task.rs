//! The task that owns the keys: it does what is asked of it one after the other, and takes out what has expired.
//!
//! ```text
//!            ┌──────────────── a job: list, add, remove, replace, apply ───┐
//!            v                                                             │
//!  look for what has expired ──> the timer is set for the next ──> wait ───┤
//!            ^                                                             │
//!            └──────────────── the time has come, or the clock was set ────┘
//! ```
//!
//! sshd holds by the times itself, so that a key is over also while no agent runs. Without a key that expires there is no timer.

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Applied, GOLDEN_SOURCE, KeysError, NewKey, OwnKeys, SshdProcesses, Store, VM_SOURCE, authorized::Parts, identity,
    own, set,
};
use crate::{
    api::{AddKeys, HostKeyPolicy, IdentityKey, Keys, KeysChanged, PublicSshKey},
    limits,
    sys::wall_timer::WallTimer,
};

/// Jobs that wait for the task. Each caller waits for its answer, so a short queue will do.
const QUEUED_JOBS: usize = 8;

/// What is done with the files; it sends its answer itself.
type Job = Box<dyn FnOnce(&Files) + Send>;

/// What jobs work on.
#[derive(Debug)]
struct Files {
    store: Store,
    own: OwnKeys,
}

/// What does not work at present, each until it works again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Why what has expired is still there.
    expiry: Option<String>,
    /// Why the VM's own keys are not its own.
    own: Option<String>,
    /// Why sshd was not told of them.
    untold: Option<String>,
}

impl Trouble {
    /// A sentence each.
    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        [&self.expiry, &self.own, &self.untold].into_iter().filter_map(|why| why.as_deref())
    }
}

/// What others need of the keys' task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KeysHandle {
    jobs: mpsc::Sender<Job>,
    trouble: Arc<watch::Sender<Trouble>>,
}

/// The task, before it runs.
#[derive(Debug)]
pub struct KeysTask {
    files: Arc<Files>,
    jobs: mpsc::Receiver<Job>,
    trouble: Arc<watch::Sender<Trouble>>,
    /// What was begun before.
    begun: Option<JoinHandle<()>>,
}

impl KeysTask {
    /// The task that owns the keys below `root`, and the handle to it. `sshd` gives the processes that may be an sshd which listens.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn new(root: &Path, sshd: SshdProcesses) -> Result<(Self, KeysHandle), KeysError> {
        let files = Arc::new(Files { store: Store::open(root)?, own: OwnKeys::new(sshd) });
        let (send_job, jobs) = mpsc::channel(QUEUED_JOBS);
        let trouble = Arc::new(watch::Sender::default());
        let handle = KeysHandle { jobs: send_job, trouble: Arc::clone(&trouble) };
        Ok((Self { files, jobs, trouble, begun: None }, handle))
    }

    /// Begins at once with what is done before all else, on a thread of its own: takes away what is half-written, and does as [`KeysHandle::apply`].
    /// What becomes of that is given when it is done, whether the task runs by then or not.
    pub fn begin(
        &mut self,
        policy: HostKeyPolicy,
        vm_id: Option<String>,
    ) -> impl Future<Output = Result<Applied, KeysError>> + use<> {
        let (files, trouble) = (Arc::clone(&self.files), Arc::clone(&self.trouble));
        let (answer, answered) = oneshot::channel();
        self.begun = Some(tokio::task::spawn_blocking(move || {
            sweep(&files);
            // The caller may have gone; what was done stands.
            let _ = answer.send(files.own.apply(&files.store, policy, vm_id.as_deref(), now()));
        }));
        async move {
            // A panic of it is an end, too.
            let result = answered.await.unwrap_or(Err(KeysError::Stopped));
            note(&trouble, &result);
            result
        }
    }

    /// Does jobs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let timer = WallTimer::new().inspect_err(|error| tracing::warn!(%error, "keys: no timer")).ok();
        match self.begun.take() {
            // Whoever waits for it is told of its panic.
            Some(begun) => drop(begun.await),
            None => drop(self.aside(sweep).await),
        }
        loop {
            let next = self.expire().await;
            let set = timer.as_ref().map(|timer| timer.set(next));
            if let Some(Err(error)) = set {
                tracing::warn!(%error, "keys: the timer cannot be set");
            }
            let is_time = async {
                match &timer {
                    Some(timer) => timer.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                job = self.jobs.recv() => match job {
                    Some(job) => self.aside(job).await.unwrap_or_default(),
                    None => break,
                },
                () = is_time => {}
            }
        }
    }

    /// Takes out what has expired, and says when to look again.
    async fn expire(&self) -> Option<u64> {
        let done = self.aside(|files| files.store.expire(now())).await;
        let result = done.unwrap_or(Err(KeysError::Stopped));
        let why = result.as_ref().err().map(|error| format!("keys that have expired are still there: {error}"));
        let is_news =
            self.trouble.send_if_modified(|trouble| std::mem::replace(&mut trouble.expiry, why.clone()) != why);
        if let Some(why) = why.filter(|_| is_news) {
            tracing::warn!(why, "keys");
        }
        result.unwrap_or_else(|_| Some(now() + limits::KEYS_RETRY.as_secs()))
    }

    /// Works on the files on a thread of its own; None where that panicked.
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce(&Files) -> T + Send + 'static) -> Option<T> {
        let files = Arc::clone(&self.files);
        tokio::task::spawn_blocking(move || work(&files)).await.ok()
    }
}

/// Has health tell how it stands with the VM's own keys.
fn note(trouble: &watch::Sender<Trouble>, applied: &Result<Applied, KeysError>) {
    trouble.send_modify(|trouble| {
        let failed = applied.as_ref().err();
        trouble.own = failed.map(|error| format!("the VM's own keys are not all made: {error}"));
        trouble.untold = applied.as_ref().ok().and_then(|applied| applied.note.clone());
    });
}

fn sweep(files: &Files) {
    let swept = files.store.sweep().and_then(|removed| Ok(removed + own::sweep(files.store.root())?));
    match swept {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "keys: half-written files of an agent before this one"),
        Err(error) => tracing::warn!(%error, "keys: half-written files may be left"),
    }
}

impl KeysHandle {
    /// All keys and their fingerprints; no private half.
    ///
    /// # Errors
    /// [`KeysError::Stopped`].
    pub async fn list(&self) -> Result<Keys, KeysError> {
        self.ask(|files| Ok(list(files))).await
    }

    /// [`Store::add`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn add(&self, request: AddKeys) -> Result<KeysChanged, KeysError> {
        self.ask(move |files| files.store.add(&request, now())).await
    }

    /// [`Store::remove`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove(&self, id: String) -> Result<KeysChanged, KeysError> {
        self.ask(move |files| Ok(KeysChanged { keys: files.store.remove(&id)?, note: None })).await
    }

    /// [`Store::replace_source`]: what the generation protocol needs for the keys that the host gives.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn replace_source(&self, source: &str, keys: Vec<NewKey>) -> Result<(), KeysError> {
        let source = source.to_owned();
        self.ask(move |files| files.store.replace_source(&source, &keys, now())).await
    }

    /// Has the VM's own keys (host keys and identity) be this VM's: made where there are none, made anew where they were made for
    /// another id. sshd is told. The id is the one that the VM has now: with an older one the keys would be made anew for that. The
    /// kernel's random numbers must be this VM's own by now.
    ///
    /// # Errors
    /// Some key could not be made. To call it again does what is missing.
    pub async fn apply(&self, policy: HostKeyPolicy, vm_id: Option<String>) -> Result<Applied, KeysError> {
        let result = self.ask(move |files| files.own.apply(&files.store, policy, vm_id.as_deref(), now())).await;
        note(&self.trouble, &result);
        result
    }

    /// Has sshds that listen read their host keys again, and gives how many. [`KeysHandle::apply`] does it by itself for those that are
    /// known by then.
    ///
    /// # Errors
    /// [`KeysError::Stopped`]. Why sshd was not told is in health.
    pub async fn tell_sshd(&self) -> Result<usize, KeysError> {
        let told = self.ask(|files| Ok(files.own.tell(&files.store))).await?;
        self.trouble.send_modify(|trouble| trouble.untold = told.as_ref().err().cloned());
        Ok(told.unwrap_or_default())
    }

    /// What does not work at present.
    pub fn trouble(&self) -> Trouble {
        self.trouble.borrow().clone()
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, KeysError> + Send + 'static,
    ) -> Result<T, KeysError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |files| {
            // The caller may have gone; what was done stands.
            let _ = answer.send(work(files));
        });
        self.jobs.send(job).await.map_err(|_| KeysError::Stopped)?;
        answered.await.map_err(|_| KeysError::Stopped)?
    }
}

fn list(files: &Files) -> Keys {
    let root = files.store.root();
    let (authorized, mut problems) = files.store.list();
    let mut identities = Vec::new();
    for (name, identity) in [(GOLDEN_SOURCE, identity::golden(root)), (VM_SOURCE, identity::own(root))] {
        match identity {
            Ok(Some(pair)) => {
                identities.extend(public(pair.public_text()).map(|key| IdentityKey { name: name.to_owned(), key }))
            }
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    let host_keys = own::public_host_keys(root).unwrap_or_else(|error| {
        problems.push(error.to_string());
        Vec::new()
    });
    let read = |path: String| match root.follow(&path) {
        Ok(Some(file)) => {
            file.read(limits::KEY_FILE_BYTES).ok().and_then(|text| public(&String::from_utf8_lossy(&text)))
        }
        _ => None,
    };
    Keys { authorized, identities, host_keys: host_keys.into_iter().filter_map(read).collect(), problems }
}

/// The public key on a line, and nothing else of it.
fn public(line: &str) -> Option<PublicSshKey> {
    let Parts { algorithm, data, blob, .. } = Parts::of(line)?;
    let fingerprint = set::fingerprint(&set::hash(&blob));
    Some(PublicSshKey { algorithm: algorithm.to_owned(), fingerprint, key: format!("{algorithm} {data}") })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
