//! Programs that run beside a test: talked to until they end, or kept for as long as their handle lives.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::{Ran, code};

/// A program that runs, with its output to be read. Dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Started {
    child: Child,
    command: String,
    begun: Instant,
    stdout: Seen<ChildStdout>,
    stderr: Seen<ChildStderr>,
}

impl Started {
    /// Takes over a child that was started with pipes for its output.
    pub(super) fn new(mut child: Child, command: String) -> Result<Self> {
        let stdout = Seen::new(child.stdout.take().context("standard output is no pipe")?);
        let stderr = Seen::new(child.stderr.take().context("standard error is no pipe")?);
        Ok(Self { child, command, begun: Instant::now(), stdout, stderr })
    }

    /// Waits for the next line on standard output; empty at its end.
    pub(crate) fn line(&mut self) -> Result<&str> {
        self.stdout.line().with_context(|| format!("reading what `{}` writes", self.command))
    }

    /// Waits for the next line on standard error; empty at its end.
    pub(crate) fn error_line(&mut self) -> Result<&str> {
        self.stderr.line().with_context(|| format!("reading what `{}` complains of", self.command))
    }

    /// Fails when it has ended.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("`{}` has ended already: {status}, {:?}, {:?}", self.command, self.stdout.seen, self.stderr.seen);
        }
        Ok(())
    }

    /// Waits for its end; the result has all that it wrote, what was read before too.
    pub(crate) fn end(mut self) -> Result<Ran> {
        let read = self.stdout.rest().and_then(|()| self.stderr.rest());
        read.with_context(|| format!("reading what `{}` writes", self.command))?;
        let status = self.child.wait().with_context(|| format!("waiting for `{}`", self.command))?;
        Ok(Ran {
            command: self.command.clone(),
            code: code(status),
            stdout: std::mem::take(&mut self.stdout.seen).into_bytes(),
            stderr: std::mem::take(&mut self.stderr.seen).into_bytes(),
            took: self.begun.elapsed(),
        })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // timeout(1) hands SIGTERM on to the program. An ended child has no id to be confused about before it is waited for.
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
            let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
            let _ = self.child.wait();
        }
    }
}

/// A pipe, and all that has been read of it.
#[derive(Debug)]
struct Seen<P> {
    pipe: BufReader<P>,
    seen: String,
}

impl<P: Read> Seen<P> {
    fn new(pipe: P) -> Self {
        Self { pipe: BufReader::new(pipe), seen: String::new() }
    }

    fn line(&mut self) -> io::Result<&str> {
        let before = self.seen.len();
        self.pipe.read_line(&mut self.seen)?;
        Ok(&self.seen[before..])
    }

    fn rest(&mut self) -> io::Result<()> {
        self.pipe.read_to_string(&mut self.seen).map(drop)
    }
}

/// A program that runs until its handle is dropped.
#[derive(Debug)]
pub(crate) struct Resident {
    child: Child,
    command: String,
}

impl Resident {
    pub(super) fn new(child: Child, command: String) -> Self {
        Self { child, command }
    }

    /// Process id of the program itself, which nsenter(1) has as its only child.
    pub(crate) fn inner_pid(&self) -> Result<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        children
            .trim()
            .parse()
            .with_context(|| format!("`{}` should be one process in {path}: {children:?}", self.command))
    }

    /// Has it ended by itself, whatever its status?
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().with_context(|| format!("looking after `{}`", self.command))?.is_some())
    }

    /// Fails when the program has ended by itself.
    pub(crate) fn alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().with_context(|| format!("looking after `{}`", self.command))? {
            bail!("`{}` has ended by itself: {status}", self.command);
        }
        Ok(())
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after the wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
