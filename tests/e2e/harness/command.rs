//! Programs that a test runs to their end under a deadline. Those that it lets run are in [`running`](super::running).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::running::{Resident, Started};

/// Default for programs that should answer at once; generous, because the guest is emulated and the machine may be busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A program with its arguments, and what to put before it to run it in the right place.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    prefix: Vec<OsString>,
    argv: Vec<OsString>,
}

impl Invocation {
    /// Run on the machine itself.
    pub(crate) fn new<A: AsRef<OsStr>>(argv: impl IntoIterator<Item = A>) -> Self {
        let argv = argv.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        Self { prefix: Vec::new(), argv }
    }

    /// Run by a program that enters some place and executes the rest of its arguments there.
    pub(crate) fn inside(mut self, prefix: Vec<String>) -> Self {
        self.prefix = prefix.into_iter().map(OsString::from).collect();
        self
    }

    /// Runs it to its end. It is killed, and this fails, when `deadline` passes; any exit status is a result.
    pub(crate) fn run(&self, deadline: Duration) -> Result<Ran> {
        let started = Instant::now();
        let output = self
            .command(&deadline_prefix(deadline))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting `{self}`: is it installed? `./dev` installs what the tests need"))?;
        let ran = Ran {
            command: self.to_string(),
            code: code(output.status),
            stdout: output.stdout,
            stderr: output.stderr,
            took: started.elapsed(),
        };
        if ran.took >= deadline {
            bail!("{ran}\n`{self}` was killed: it took longer than {} s", deadline.as_secs());
        }
        Ok(ran)
    }

    /// Starts it with its output captured, to be talked to while it runs.
    pub(crate) fn start(&self, deadline: Duration) -> Result<Started> {
        let child = self
            .command(&deadline_prefix(deadline))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{self}`"))?;
        Started::new(child, self.to_string())
    }

    /// Starts it for as long as the handle lives, its output going to `log`.
    pub(crate) fn keep(&self, log: &File) -> Result<Resident> {
        let copy = || log.try_clone().context("duplicating the descriptor of a log");
        let child = self
            .command(&[])
            .stdin(Stdio::null())
            .stdout(copy()?)
            .stderr(copy()?)
            // Ctrl-C at the terminal is for us alone: we end what we started, in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting `{self}`: is it installed? `./dev` installs what the tests need"))?;
        Ok(Resident::new(child, self.to_string()))
    }

    /// Its words as a line of shell.
    pub(crate) fn line(&self) -> String {
        self.argv.iter().map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }

    fn command(&self, before: &[OsString]) -> Command {
        let mut words = before.iter().chain(&self.prefix).chain(&self.argv);
        let mut command = Command::new(words.next().map(OsString::as_os_str).unwrap_or_default());
        command.args(words);
        command
    }
}

/// Runs a program on the machine itself to its end.
pub(crate) fn on_this_machine<A: AsRef<OsStr>>(argv: impl IntoIterator<Item = A>) -> Result<Ran> {
    Invocation::new(argv).run(DEADLINE)
}

/// As a person would type it, without the way into the namespace.
impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, word) in self.argv.iter().enumerate() {
            let word = word.to_string_lossy();
            // What matters of a program's path is its name.
            let word = if n == 0 { word.rsplit('/').next().unwrap_or_default() } else { &word };
            write!(f, "{}{}", if n > 0 { " " } else { "" }, quoted(word))?;
        }
        Ok(())
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%,+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// timeout(1) of coreutils: the standard library cannot wait for a child with a deadline.
fn deadline_prefix(deadline: Duration) -> Vec<OsString> {
    ["timeout", "--signal=KILL", &format!("{}", deadline.as_secs_f64())].map(OsString::from).to_vec()
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// As a person would type it.
    pub(crate) command: String,
    /// Exit status; 128+n after signal n.
    pub(crate) code: i32,
    /// What it wrote to standard output.
    pub(crate) stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub(crate) stderr: Vec<u8>,
    /// From its start to its end.
    pub(crate) took: Duration,
}

impl Ran {
    /// Fails, with the output, unless the exit status is `code`.
    pub(crate) fn exits(self, code: i32) -> Result<Self> {
        if self.code != code {
            bail!("{self}\nits exit status should be {code}");
        }
        Ok(self)
    }

    /// Fails, with the output, unless the exit status is 0.
    pub(crate) fn ok(self) -> Result<Self> {
        self.exits(0)
    }

    /// Standard output as text, without the last line's end.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text, without the last line's end.
    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }

    /// Standard output as one JSON document.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.stdout).with_context(|| format!("{self}\nreading its output as JSON"))
    }
}

/// The whole story, for a failure.
impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$ {}\nexit status {} after {:.1} s", self.command, self.code, self.took.as_secs_f64())?;
        for (name, text) in [("stdout", self.out()), ("stderr", self.err())] {
            if !text.is_empty() {
                write!(f, "\n--- {name}\n{text}")?;
            }
        }
        Ok(())
    }
}

/// Exit status as a shell has it: 128+n after signal n.
pub(super) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let shown = Invocation::new(["/bin/sh", "-c", "echo it's"]).inside(vec!["nsenter".into()]).to_string();
        assert_eq!(shown, r"sh -c 'echo it'\''s'");
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed() {
        let error = Invocation::new(["sleep", "600"]).run(Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("it took longer"), "{error}");
    }
}
