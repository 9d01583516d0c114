//! One exec, as everyone but its own task sees it: what it is, where it is in its life, and the ways to act on it.
//!
//! ```text
//!   Starting ──> Running ──> Exited ──> Over
//!      │          pid         how it     all output is in the journal
//!      ▼                      ended
//!   Failed
//! ```
//!
//! The session's task alone moves it on. Once over it holds no descriptor, only memory, and is a record.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::attachment::{AttachFrom, Attachment, Event};
use super::collect::{Allowance, Kept};
use super::error::ExecError;
use super::fork::Fork;
use super::journal::{Journal, now};
use super::signal;
use super::stdin::Stdin;
use super::terminal::Terminal;
use super::tree::Tree;
use crate::api::{ExecExit, ExecRequest, ExecResult, ExecState, ExecStatus, OnBranch, SignalTarget, TtySize};
use crate::limits;
use crate::sys::pidfd::WatchedPidfd;
use crate::sys::process::signal_group;

/// A process that runs, with all that it started.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) leader: WatchedPidfd,
    pub(super) tree: Tree,
    pub(super) terminal: Option<Terminal>,
}

/// How it ended, or why that is not known.
type End = Result<ExecExit, Arc<ExecError>>;

#[derive(Debug, Clone)]
enum Progress {
    Starting,
    Running { pid: i32 },
    Exited { at: f64, since: Instant, end: End },
    Over { at: f64, since: Instant, end: End },
    Failed(Arc<ExecError>),
}

/// One exec. It belongs to the agent: dropping a handle ends nothing.
#[derive(Debug)]
pub struct Exec {
    id: String,
    /// Place in the order of all execs.
    pub(super) number: u64,
    pub(super) label: Label,
    started_at: f64,
    pub(super) journal: Arc<Journal>,
    pub(super) stdin: Stdin,
    /// Cancelled where it is to be ended.
    pub(super) stop: CancellationToken,
    progress: watch::Sender<Progress>,
    /// There until its leader is reaped, which is done with this taken out.
    live: Mutex<Option<Arc<Live>>>,
    /// Those who wait for the whole.
    waiting: AtomicUsize,
    /// The generation that it was started in, if it had a name.
    born: Option<Arc<str>>,
    /// Where it forks, if the VM was restored with it.
    fork: Mutex<Option<Fork>>,
    /// What copies of the VM have of it, too.
    committed: Mutex<Committed>,
    /// It stands still for good, or until somebody has it go on.
    frozen: AtomicBool,
}

/// How far an exec had come when the VM was last prepared for a commit.
#[derive(Debug, Clone, Copy, Default)]
struct Committed {
    /// The end of its output then. What came later the copies may not have.
    printed: u64,
    /// It has stood still since then: what was still on its way is in the copies, too.
    stands_still: bool,
}

/// What is kept of a request.
#[derive(Debug, Clone)]
pub(super) struct Label {
    /// Stands for the request without its id and the way of its answer: two that differ in it are not the same.
    pub(super) fingerprint: u64,
    command: Vec<String>,
    user: Option<String>,
    tty: bool,
    stdin_open: bool,
    on_branch: OnBranch,
}

impl Label {
    pub(super) fn of(request: &ExecRequest) -> Self {
        let ExecRequest { command, env, stdin, stdin_b64, working_dir, user, timeout_secs, .. } = request;
        let ExecRequest { exec_id: _, detach: _, lossless, spill, stdin_open, tty, limits, on_branch, .. } = request;
        let mut hasher = DefaultHasher::new();
        (command, env, stdin, stdin_b64, working_dir, user, timeout_secs).hash(&mut hasher);
        (lossless, spill, stdin_open, tty, limits, on_branch).hash(&mut hasher);
        let fingerprint = hasher.finish();
        let (command, user, tty) = (shown_command(command), user.clone(), tty.is_some());
        Self { fingerprint, command, user, tty, stdin_open: *stdin_open, on_branch: *on_branch }
    }
}

impl Exec {
    pub(super) fn new(
        (id, number): (String, u64),
        label: Label,
        journal: Arc<Journal>,
        stdin: Stdin,
        born: Option<Arc<str>>,
    ) -> Self {
        Self {
            id,
            number,
            label,
            started_at: now(),
            journal,
            stdin,
            stop: CancellationToken::new(),
            progress: watch::Sender::new(Progress::Starting),
            live: Mutex::default(),
            waiting: AtomicUsize::new(0),
            born,
            fork: Mutex::default(),
            committed: Mutex::default(),
            frozen: AtomicBool::new(false),
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it was asked to run on a terminal.
    pub fn has_terminal(&self) -> bool {
        self.label.tty
    }

    /// Whether it was asked to take input while it runs.
    pub fn takes_input(&self) -> bool {
        self.label.stdin_open
    }

    /// Where it is, and how it ended.
    pub fn status(&self) -> ExecStatus {
        let progress = self.progress.borrow().clone();
        let (pid, finished) = match &progress {
            Progress::Running { pid } => (Some(*pid), None),
            Progress::Exited { at, end, .. } | Progress::Over { at, end, .. } => (None, Some((*at, end.clone().ok()))),
            Progress::Failed(_) => (None, Some((self.started_at, None))),
            Progress::Starting => (None, None),
        };
        let (cursor_start, cursor) = self.journal.range();
        ExecStatus {
            exec_id: self.id.clone(),
            state: if finished.is_some() { ExecState::Exited } else { ExecState::Running },
            command: self.label.command.clone(),
            user: self.label.user.clone(),
            pid,
            tty: self.label.tty,
            started_at: self.started_at,
            finished_at: finished.as_ref().map(|(at, _)| *at),
            exit: finished.and_then(|(_, exit)| exit),
            cursor_start,
            cursor,
            readers: self.journal.readers(),
            generation_id: self.born.as_deref().map(str::to_owned),
            fork_cursor: self.fork().map(|fork| fork.cursor),
            frozen: self.is_frozen(),
        }
    }

    /// Reads its output, of which it is the caller's to take all: see [`Attachment`].
    ///
    /// # Errors
    /// The cursor is past the end, or there are `limits::EXEC_READERS` readers.
    pub fn attach(self: &Arc<Self>, from: AttachFrom) -> Result<Attachment, ExecError> {
        let cursor = match from {
            AttachFrom::Latest => None,
            AttachFrom::Cursor(cursor) => {
                let (_, end) = self.journal.range();
                if cursor > end {
                    return Err(ExecError::CursorPastEnd { id: self.id.clone(), cursor, end });
                }
                Some(cursor)
            }
        };
        let limit = limits::EXEC_READERS;
        let reader = self.journal.attach(cursor);
        let (reader, begin) = reader.ok_or_else(|| ExecError::TooManyReaders { id: self.id.clone(), limit })?;
        Ok(Attachment::new(Arc::clone(self), reader, begin))
    }

    /// What is to become of it in a branch.
    pub(super) fn on_branch(&self) -> OnBranch {
        self.label.on_branch
    }

    /// Where it forks, if the VM was restored with it.
    pub fn fork(&self) -> Option<Fork> {
        self.fork.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The VM is prepared for a commit; `stands_still` where it was stopped for that.
    pub(super) fn note_commit(&self, stands_still: bool) {
        let (_, printed) = self.journal.range();
        *self.committed() = Committed { printed, stands_still };
    }

    /// The VM was restored with it, as this generation. Two copies have the same output up to where it was committed, and no word about when
    /// that was: at the earliest when the VM was prepared for it, and at the beginning where it never was.
    pub(super) fn mark(&self, generation: &str) {
        let (_, end) = self.journal.range();
        let Committed { printed, stands_still } = *self.committed();
        let cursor = if stands_still { end } else { printed.min(end) };
        let fork = Fork { generation: generation.to_owned(), cursor };
        *self.fork.lock().unwrap_or_else(PoisonError::into_inner) = Some(fork);
    }

    fn committed(&self) -> MutexGuard<'_, Committed> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its process is not there yet.
    pub(super) fn is_starting(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Starting)
    }

    /// Whether it stands still until somebody sends SIGCONT.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Has all that it started stand still. Whether that was done; none where nothing of it is left.
    pub(super) fn freeze(&self) -> Option<bool> {
        self.with_tree(Tree::freeze)
    }

    /// The same, and it stays so.
    pub(super) fn freeze_for_good(&self) -> Option<bool> {
        let frozen = self.freeze();
        self.frozen.store(frozen == Some(true), Ordering::Release);
        frozen
    }

    /// Has it go on.
    pub(super) fn unfreeze(&self) {
        self.frozen.store(false, Ordering::Release);
        self.committed().stands_still = false;
        self.with_tree(Tree::thaw);
    }

    /// Whether none of it runs at the moment.
    pub(super) fn stands_still(&self) -> bool {
        self.with_tree(Tree::stands_still).unwrap_or(true)
    }

    /// Where its cgroup is, if it has one.
    pub(super) fn cgroup(&self) -> Option<PathBuf> {
        self.with_tree(|tree| tree.cgroup().map(Path::to_owned)).flatten()
    }

    /// Ends all of it at once, with no word of warning.
    pub(super) fn kill(&self) {
        self.with_tree(Tree::strike);
        self.terminate();
    }

    fn with_tree<T>(&self, act: impl FnOnce(&Tree) -> T) -> Option<T> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.as_ref().map(|live| act(&live.tree))
    }

    /// Gives it input, and waits while it has enough. Returns how much it has accepted so far.
    ///
    /// # Errors
    /// Its standard input is closed, or was never open.
    pub async fn write_stdin(&self, bytes: Bytes) -> Result<u64, ExecError> {
        self.stdin.write(&self.id, bytes, None).await
    }

    /// The same, for input that begins where the input so far ends.
    ///
    /// # Errors
    /// As [`Exec::write_stdin`], and where the offset is another one.
    pub async fn write_stdin_at(&self, offset: u64, bytes: Bytes) -> Result<u64, ExecError> {
        self.stdin.write(&self.id, bytes, Some(offset)).await
    }

    /// Ends its input after what it has accepted.
    pub fn close_stdin(&self) {
        self.stdin.close();
    }

    /// Sends a signal. Blocks for as long as a look through the processes takes.
    ///
    /// # Errors
    /// There is no such signal, or the command has ended.
    pub fn signal(&self, name: &str, to: SignalTarget) -> Result<(), ExecError> {
        let signal = signal::number(name)?;
        let ended = || ExecError::Ended { id: self.id.clone(), what: "signal" };
        if signal == libc::SIGCONT && self.is_frozen() {
            self.unfreeze();
        }
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        // The leader is not reaped while this is locked, so its number is its own.
        let live = live.as_ref().ok_or_else(ended)?;
        let sent = match to {
            SignalTarget::Process => live.leader.get().signal(signal),
            SignalTarget::Group => {
                let leader = live.leader.get().pid();
                let foreground = live.terminal.as_ref().and_then(|terminal| terminal.foreground_group(leader));
                signal_group(foreground.unwrap_or(leader), signal).map(|()| true)
            }
            SignalTarget::Tree => Ok(live.tree.tell_all(signal)),
        };
        match sent {
            Ok(true) => Ok(()),
            Ok(false) => Err(ended()),
            Err(source) => Err(ExecError::SignalFailed { id: self.id.clone(), signal, source }),
        }
    }

    /// Sets the size of its terminal, of which those on it are told by SIGWINCH.
    ///
    /// # Errors
    /// It has none, or the command has ended.
    pub fn resize(&self, size: TtySize) -> Result<(), ExecError> {
        let id = || self.id.clone();
        if !self.label.tty {
            return Err(ExecError::NoTerminal { id: id() });
        }
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let terminal = live.as_ref().and_then(|live| live.terminal.as_ref());
        let terminal = terminal.ok_or_else(|| ExecError::Ended { id: id(), what: "tell the size" })?;
        let TtySize { rows, cols } = size;
        terminal.resize(size).map_err(|source| ExecError::ResizeFailed { id: id(), rows, cols, source })
    }

    /// Has it ended, with all that it started: SIGTERM, then SIGKILL after the grace. [`Exec::exited`] tells when that is done.
    pub fn terminate(&self) {
        self.stop.cancel();
    }

    /// Returns when the command has ended, at once if it has.
    pub async fn exited(&self) {
        let ended = |progress: &Progress| !matches!(progress, Progress::Starting | Progress::Running { .. });
        // An error would be that the sender is gone, which self holds.
        let _ = self.progress.subscribe().wait_for(ended).await;
    }

    /// Returns when the command has started.
    ///
    /// # Errors
    /// It could not be started.
    pub(super) async fn started(&self) -> Result<(), ExecError> {
        let mut progress = self.progress.subscribe();
        let begun = progress.wait_for(|progress| !matches!(progress, Progress::Starting)).await;
        match begun.as_deref() {
            Ok(Progress::Failed(error)) => Err(Arc::clone(error).into()),
            Ok(_) => Ok(()),
            Err(_) => Err(ExecError::Lost),
        }
    }

    /// Waits for its end, and answers with the output that was kept for this, or else with what the replay ring has.
    pub(super) async fn result(self: Arc<Self>, allowance: &Arc<Allowance>) -> Result<ExecResult, ExecError> {
        let waiting = Waiting::begin(&self);
        if self.journal.keeps() {
            let over = |progress: &Progress| matches!(progress, Progress::Over { .. } | Progress::Failed(_));
            let _ = self.progress.subscribe().wait_for(over).await;
            let exit = self.end()?;
            let alone = self.waiting.load(Ordering::Acquire) == 1;
            if let Some(kept) = self.journal.kept(!alone) {
                drop(waiting);
                return Ok(kept.into_result(self.id.clone(), exit));
            }
        }
        self.started().await?;
        let mut kept = Kept::new(Arc::clone(allowance));
        let mut attachment = self.attach(AttachFrom::Cursor(0))?;
        while let Some(event) = attachment.next().await {
            match event {
                Event::Chunk { stream, bytes, .. } => kept.add(stream, &bytes),
                Event::Gap { .. } => kept.cut(),
                Event::Exit { exit, .. } => return Ok(kept.into_result(self.id.clone(), exit)),
                Event::Error(error) => return Err(error.into()),
            }
        }
        Err(ExecError::Lost)
    }

    /// How it ended.
    pub(super) fn end(&self) -> End {
        match &*self.progress.borrow() {
            Progress::Exited { end, .. } | Progress::Over { end, .. } => end.clone(),
            Progress::Failed(error) => Err(Arc::clone(error)),
            Progress::Starting | Progress::Running { .. } => Err(Arc::new(ExecError::Lost)),
        }
    }

    /// When it ended. Not by the wall clock, which a restore sets.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        match &*self.progress.borrow() {
            Progress::Exited { since, .. } | Progress::Over { since, .. } => Some(*since),
            _ => None,
        }
    }

    /// It runs.
    pub(super) fn set_running(&self, live: Arc<Live>) {
        let pid = live.leader.get().pid();
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(live);
        self.progress.send_replace(Progress::Running { pid });
    }

    /// Its leader is about to be reaped: from here on nothing signals it.
    pub(super) fn let_live_go(&self) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.stdin.ended();
    }

    /// It has ended; output may still come.
    pub(super) fn set_exited(&self, end: Result<ExecExit, ExecError>) {
        let end = end.map_err(Arc::new);
        self.journal.ended();
        self.progress.send_replace(Progress::Exited { at: now(), since: Instant::now(), end });
    }

    /// All output is there.
    pub(super) fn set_over(&self) {
        self.progress.send_if_modified(|progress| {
            let Progress::Exited { at, since, end } = progress else { return false };
            *progress = Progress::Over { at: *at, since: *since, end: end.clone() };
            true
        });
        self.journal.finish();
    }

    /// Nobody follows it any more. Whether it had not ended before.
    pub(super) fn set_lost(&self) -> bool {
        let ended = self.ended_at().is_some() || matches!(*self.progress.borrow(), Progress::Failed(_));
        if !ended {
            tracing::error!(exec_id = self.id, "the task of an exec has ended before the exec");
            self.let_live_go();
            self.set_exited(Err(ExecError::Lost));
        }
        // Nothing, if it is over.
        self.set_over();
        !ended
    }

    /// It was not started.
    pub(super) fn set_failed(&self, error: ExecError) {
        self.stdin.ended();
        self.progress.send_replace(Progress::Failed(Arc::new(error)));
        self.journal.finish();
    }
}

/// Somebody waits for the whole; when nobody does any more, nothing is kept for it.
struct Waiting<'a>(&'a Exec);

impl<'a> Waiting<'a> {
    fn begin(exec: &'a Exec) -> Self {
        exec.waiting.fetch_add(1, Ordering::AcqRel);
        Self(exec)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.journal.kept(false);
        }
    }
}

/// The argv, as far as it is kept for showing.
fn shown_command(command: &[String]) -> Vec<String> {
    let mut left = limits::EXEC_RECORD_COMMAND_BYTES;
    let mut shown = Vec::new();
    for word in command {
        if word.len() >= left {
            let cut = word.char_indices().map(|(at, _)| at).take_while(|at| *at < left).last().unwrap_or_default();
            shown.push(format!("{}…", &word[..cut]));
            break;
        }
        left -= word.len() + 1;
        shown.push(word.clone());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: &[&str]) -> ExecRequest {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        ExecRequest { command, ..ExecRequest::default() }
    }

    #[test]
    fn requests_are_the_same_but_for_id_and_way_of_answer() {
        let one = request(&["a", "b"]);
        let other = ExecRequest { exec_id: Some("x".into()), detach: true, ..one.clone() };
        let fingerprint = |request: &ExecRequest| Label::of(request).fingerprint;
        assert_eq!(fingerprint(&one), fingerprint(&other));
        for different in [
            request(&["ab"]),
            request(&["a", "b", ""]),
            ExecRequest { stdin: Some(String::new()), ..one.clone() },
            ExecRequest { lossless: true, ..one.clone() },
        ] {
            assert_ne!(fingerprint(&one), fingerprint(&different));
        }
    }

    #[test]
    fn a_long_command_is_cut_in_its_record() {
        assert_eq!(shown_command(&request(&["a", "b c"]).command), ["a", "b c"]);
        let long = shown_command(&request(&["cat", &"ä".repeat(5000), "more"]).command);
        assert_eq!((long.len(), long[0].as_str()), (2, "cat"));
        assert!(long[1].ends_with('…') && long[1].len() <= limits::EXEC_RECORD_COMMAND_BYTES + 3);
    }
}
