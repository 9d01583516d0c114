//! A child with memory of its own, whose parent does not wait for it: for process 1, which nothing may hold up.
//!
//! [`Launch::spawn`] waits until the program runs, and whoever the child has become can make that long. Here a pipe tells later what
//! went wrong: it is closed by the execve. Process 1 is small, so that its page tables cost next to nothing.

#![expect(unsafe_code, reason = "clone3, and a child that makes raw calls")]

use std::{
    io::{self, PipeReader, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use super::{Inherited, Launch, LaunchError, Stage, child::Child, is_of_cgroup, is_unknown, vfork};
use crate::sys::cgroup::Cgroup;

/// What a process may have beyond what a [`Launch`] says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowance {
    /// Open files, soft and hard.
    pub open_files: Option<u64>,
    /// For the OOM killer.
    pub oom_score: Option<i32>,
}

/// A child, perhaps still on its way to its program.
#[derive(Debug)]
pub struct Forked {
    /// Its pid, until it is reaped.
    pub pid: i32,
    /// What it has to say, until it has said it.
    news: Option<PipeReader>,
    failure: Option<LaunchError>,
}

impl Forked {
    /// Readable when it is known whether it runs its program.
    pub fn news(&self) -> Option<BorrowedFd<'_>> {
        self.news.as_ref().map(AsFd::as_fd)
    }

    /// Does it run its program? To be asked when there are news; it waits for them otherwise.
    pub fn runs(&mut self) -> bool {
        if let Some(mut news) = self.news.take() {
            let mut note = [0; NOTE];
            // Closed by the execve, with nothing said.
            if news.read_exact(&mut note).is_ok() {
                let [stage, errno @ ..] = note;
                let source = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
                self.failure = Some(LaunchError { stage: Stage::of_number(stage), source });
            }
        }
        self.failure.is_none()
    }

    /// What kept it from running its program. To be asked when it has ended.
    pub fn failure(mut self) -> Option<LaunchError> {
        self.runs();
        self.failure
    }
}

/// Stage and errno.
const NOTE: usize = 5;

impl Launch {
    /// Starts it, in a session of its own and in this cgroup, if any, without waiting for its program to run. To be called by a process with
    /// one thread.
    ///
    /// # Errors
    /// No process could be made.
    pub fn fork(
        &mut self,
        inherited: &Inherited,
        cgroup: Option<&Cgroup>,
        allowance: Allowance,
    ) -> Result<Forked, LaunchError> {
        let failed = |stage| move |source| LaunchError { stage, source };
        self.raise_streams().map_err(failed(Stage::Streams))?;
        let (news, note) = io::pipe().map_err(failed(Stage::Fork))?;
        let note = OwnedFd::from(note);
        let directory = cgroup.map(Cgroup::directory).transpose().map_err(failed(Stage::Cgroup))?;
        let mut made = vfork::fork(directory);
        let mut procs = None;
        if let (Err(error), Some(cgroup)) = (&made, cgroup)
            && (is_unknown(error) || is_of_cgroup(error))
        {
            // As before Linux 5.7: it joins by itself.
            procs = Some(cgroup.open_procs().map_err(failed(Stage::Cgroup))?);
            made = vfork::fork(None);
        }
        match made.map_err(failed(Stage::Fork))? {
            0 => {
                let child = Child::forked(self, inherited, procs.as_ref(), allowance);
                let (stage, error) = child.fail_to_become();
                let mut text = [stage.number(), 0, 0, 0, 0];
                text[1..].copy_from_slice(&error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes());
                // SAFETY: readable bytes of this length; then this process ends, with none of the parent's exit handlers run.
                unsafe {
                    libc::write(note.as_raw_fd(), text.as_ptr().cast(), text.len());
                    libc::_exit(127)
                }
            }
            pid => Ok(Forked { pid, news: Some(news), failure: None }),
        }
    }
}
