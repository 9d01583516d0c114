//! Programs that a test starts: servers that end with the test, and clients that it waits for.
//!
//! Each is in a process namespace of its own, so that whatever it starts ends with it, and it with the test's thread.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Where the program of this name is, or the path itself. Debian keeps PostgreSQL's out of the PATH.
pub(crate) fn find(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    dirs.extend(versions.map(|version| version.path().join("bin")));
    let executable =
        |file: &PathBuf| fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    // To join a path that is absolute is to replace the first one.
    dirs.into_iter()
        .map(|dir| dir.join(name))
        .find(executable)
        .unwrap_or_else(|| panic!("{name} is missing: `./dev test` installs what the tests need"))
}

/// A command in a process namespace of its own; its arguments are to be added.
pub(crate) fn program(name: &str) -> Command {
    wrapped(&[], name)
}

/// The same for a user without rights. To become that user takes away the death signal that unshare has set, hence another.
pub(crate) fn program_of_nobody(name: &str) -> Command {
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--pdeathsig", "KILL"];
    wrapped(&nobody, name)
}

/// When a client that hangs is ended: later than one on a machine that is busy with other things, sooner than nextest ends the test,
/// so that the client is what is named.
const CLIENT_SECONDS: &str = "100";

/// The same for a client, which must end by itself.
pub(crate) fn client(name: &str) -> Command {
    wrapped(&["timeout", CLIENT_SECONDS], name)
}

/// A Python program of the tests', with the packages that `./dev test` puts below target.
pub(crate) fn python(program: fn(&str) -> Command, script: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join("target/tools/bridge-clients");
    assert!(
        packages.join("grpc").exists(),
        "{} lacks Python's packages: `./dev test` installs them",
        packages.display()
    );
    let mut command = program("python3");
    command.arg(root.join("tests/bridge_clients/python").join(script));
    command.env("PYTHONPATH", packages).env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn wrapped(by: &[&str], name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]);
    command.args(by).arg(find(name)).stdin(Stdio::null());
    // Neither a proxy nor a configuration of the user's may lead elsewhere.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C").env("HOME", "/");
    command
}

/// Runs a client to its end, with this as its input.
pub(crate) fn output_with(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // One that ends early does not read all, which its status tells.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

/// Runs a client to its end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// What a client wrote that must succeed.
pub(crate) fn stdout(command: &mut Command) -> Vec<u8> {
    let output = output(command);
    assert_success(command, &output);
    output.stdout
}

/// The same as text.
pub(crate) fn text(command: &mut Command) -> String {
    String::from_utf8(stdout(command)).unwrap()
}

/// What a client said that must fail.
pub(crate) fn refusal(command: &mut Command) -> String {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{command:?} succeeded: {said}");
    assert_ne!(output.status.code(), Some(124), "{command:?} did not end: {said}");
    said
}

pub(crate) fn assert_success(command: &Command, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
}

/// A running program. It ends with this value.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it; what it says goes to a file, shown if it fails.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let file = File::create(log).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    /// Starts it with pipes to its standard streams.
    pub(crate) fn talk(mut command: Command, log: &Path) -> (Self, ChildStdin, BufReader<ChildStdout>) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(log).unwrap());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        (Self { child, log: log.to_owned() }, stdin, BufReader::new(stdout))
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn assert_running(&self) {
        let pid = nix::sys::wait::Id::Pid(Pid::from_raw(self.child.id().try_into().unwrap()));
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitid};
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        assert_eq!(waitid(pid, flags).unwrap(), WaitStatus::StillAlive, "it has ended: {}", self.log());
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn wait(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Waits for its end, and returns its exit code and what it said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), None);
        (status.code(), self.log())
    }

    /// Interrupts the program itself, as ctrl-C does: the last of its line of processes.
    pub(crate) fn interrupt(&self) {
        let mut pid = self.child.id();
        while let Some(child) = first_child(pid) {
            pid = child;
        }
        assert_ne!(pid, self.child.id(), "it has not begun");
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGINT).unwrap();
    }
}

fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // The namespace's first process, whose end is that of all in it; unshare waits for it, so that nothing is left to reap.
        match first_child(self.child.id()) {
            Some(first) => drop(kill(Pid::from_raw(first.try_into().unwrap()), Signal::SIGKILL)),
            None => drop(self.child.kill()),
        }
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), self.log());
        }
    }
}

/// The next line.
pub(crate) fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// All that is left.
pub(crate) fn rest(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}
