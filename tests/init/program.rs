//! A `guestd init` that runs, and its program.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub(crate) const GUESTD: &str = env!("CARGO_BIN_EXE_guestd");

/// Process 1 of a namespace with a /proc of its own.
pub(crate) const AS_PROCESS_1: [&str; 6] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];

/// It ends with this value, and with the test should that be killed.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

/// Starts `WRAPPER… guestd init ARGS…`; without a wrapper it is our own child.
pub(crate) fn start<A: AsRef<OsStr>>(wrapper: &[&str], args: impl IntoIterator<Item = A>) -> Running {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(wrapper).arg(GUESTD).arg("init").args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    Running { child, stdout: BufReader::new(stdout), stderr: BufReader::new(stderr) }
}

/// Runs `guestd init OPTIONS… -- sh -c SCRIPT` to its end: exit status, and what it wrote to both outputs.
pub(crate) fn run(options: &[&str], script: &str) -> (i32, String, String) {
    start(&[], options.iter().copied().chain(["--", "sh", "-c", script])).end()
}

impl Running {
    /// The next line of standard output, without its end.
    pub(crate) fn line(&mut self) -> String {
        line(&mut self.stdout)
    }

    /// The next line of standard error, without its end.
    pub(crate) fn error_line(&mut self) -> String {
        line(&mut self.stderr)
    }

    /// Sends init a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives the program a line to read.
    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    /// Waits for init's own end: exit status, and what was not yet read of both outputs.
    pub(crate) fn end(mut self) -> (i32, String, String) {
        let status = self.child.wait().unwrap();
        let read = |from: &mut dyn Read| {
            let mut text = String::new();
            from.read_to_string(&mut text).unwrap();
            text
        };
        (status.code().unwrap_or(-1), read(&mut self.stdout), read(&mut self.stderr))
    }

    /// Waits for init's own end alone: others may hold its outputs.
    pub(crate) fn exit(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `end` there is nobody.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // It hands SIGTERM on, if it is given the time, and the program ends.
        self.signal(Signal::SIGTERM);
        for _ in 0..200 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}
