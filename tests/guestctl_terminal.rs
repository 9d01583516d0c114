//! The real guestctl on a terminal, with a real agent: keys, sizes, escapes, and a terminal that is always given back.
#![cfg(test)]
#![expect(dead_code, reason = "the agent's helpers serve other tests, too")]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use guestd::limits::CLIENT_LEAVE_TIME;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use support::{DEADLINE, TestAgent, eventually};

/// A terminal with guestctl on it, as from a login.
struct Screen {
    child: Child,
    keys: File,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    /// What was waited for and before.
    all: Vec<u8>,
    slave: OwnedFd,
}

impl Screen {
    fn new(agent: &TestAgent, args: &[&str]) -> Self {
        Self::with(agent, args, &[])
    }

    fn with(agent: &TestAgent, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let stdio = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "setsid", "--ctty", env!("CARGO_BIN_EXE_guestctl"), "--vm"]);
        command.arg(format!("unix:{}", agent.socket().display())).args(args).env("TERM", "vt220").env_remove("SHELL");
        command.env_remove("NO_COLOR").envs(variables.iter().copied());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let mut master = File::from(pty.master);
        let keys = master.try_clone().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO is the end: nobody holds the slave any more.
            while let Ok(length) = master.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, output, seen: Vec::new(), all: Vec::new(), slave: pty.slave }
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    /// Waits for this text after all that was waited for before.
    fn shows(&mut self, text: &str) {
        let give_up = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.seen.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.all.extend(self.seen.drain(..at + text.len()));
                return;
            }
            let more = self.output.recv_timeout(give_up.saturating_duration_since(Instant::now()));
            let seen = String::from_utf8_lossy(&self.seen).into_owned();
            self.seen.extend(more.unwrap_or_else(|error| panic!("{error} instead of {text:?} after {seen:?}")));
        }
    }

    /// Is this in what was shown and not waited for, now?
    fn seen_any(&mut self, text: &str) -> bool {
        self.seen.extend(self.output.try_iter().flatten());
        self.all.windows(text.len()).chain(self.seen.windows(text.len())).any(|window| window == text.as_bytes())
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(self.slave.as_fd()).unwrap().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    fn resize(&self, rows: u16, cols: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.keys, size).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for guestctl to end, which must give the terminal back.
    fn end(mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        assert!(!self.is_raw(), "the terminal is left raw");
        status
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // After its end there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const WAITS: &str = "while :; do sleep 0.05; done";

fn state(agent: &TestAgent, id: &str) -> serde_json::Value {
    agent.get(&format!("/v1/exec/{id}"))["state"].clone()
}

#[test]
fn keys_size_and_kind_of_the_terminal_are_the_commands() {
    let agent = TestAgent::start();
    let script = "stty size; echo $TERM; tty; read line; echo got $line; exit 7";
    let mut screen = Screen::new(&agent, &["exec", "-it", "--", "sh", "-c", script]);
    screen.shows("33 101\r\nvt220\r\n/dev/pts/");
    assert!(screen.is_raw());
    screen.type_in(b"one\r");
    screen.shows("one\r\ngot one\r\n");
    assert_eq!(screen.end().code(), Some(7));
}

#[test]
fn a_new_size_reaches_the_command_and_ctrl_c_is_its_own() {
    let agent = TestAgent::start();
    let script = format!("trap 'stty size' WINCH; echo up; {WAITS}");
    let mut screen = Screen::new(&agent, &["exec", "-it", "--", "sh", "-c", &script]);
    screen.shows("up");
    screen.resize(40, 120);
    screen.shows("40 120");
    screen.type_in(b"\x03");
    assert_eq!(screen.end().code(), Some(130));
}

#[test]
fn ctrl_d_is_the_end_of_input() {
    let agent = TestAgent::start();
    let mut screen = Screen::new(&agent, &["exec", "-it", "cat"]);
    screen.type_in(b"line\r");
    screen.shows("line\r\nline\r\n");
    screen.type_in(b"\x04");
    assert_eq!(screen.end().code(), Some(0));
}

#[test]
fn what_is_piped_to_a_terminal_ends_there_too() {
    let agent = TestAgent::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
    command.arg("--vm").arg(format!("unix:{}", agent.socket().display())).args(["exec", "-it", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"word\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"word\r\nword\r\n"[..]));
}

#[test]
fn an_exec_is_left_running_by_ctrl_p_ctrl_q_and_draws_its_screen_for_who_comes_back() {
    let agent = TestAgent::start();
    let script = format!("trap 'echo drawn; stty size' WINCH; echo up; {WAITS}");
    let mut screen = Screen::new(&agent, &["exec", "-it", "--id", "job", "--", "sh", "-c", &script]);
    screen.shows("up");
    screen.type_in(b"\x10");
    screen.type_in(b"\x11");
    screen.shows("exec job goes on; to come back: guestctl attach job");
    assert_eq!(screen.end().code(), Some(0));
    assert_eq!(state(&agent, "job"), "running");
    let mut screen = Screen::new(&agent, &["attach", "job"]);
    screen.shows("drawn");
    screen.shows("33 101");
    screen.type_in(b"\x03");
    assert_eq!(screen.end().code(), Some(130));
}

#[test]
fn a_signal_gives_the_terminal_back_and_leaves_the_exec_running() {
    let agent = TestAgent::start();
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGQUIT, 131)] {
        let id = format!("job-{code}");
        let script = format!("printf '\\033[?1049h'; echo up; {WAITS}");
        let mut screen = Screen::new(&agent, &["exec", "-it", "--id", &id, "--", "sh", "-c", &script]);
        screen.shows("up");
        screen.signal(signal);
        // Back from the full screen, with a cursor.
        screen.shows("\x1b[?1049l\x1b[?25h");
        screen.shows(&format!("guestctl: ended by signal {}; exec {id} goes on in the VM", code - 128));
        assert_eq!(screen.end().code(), Some(code));
        assert_eq!(state(&agent, &id), "running");
    }
}

#[test]
fn a_shell_is_a_login_shell_and_is_hung_up_by_its_escape() {
    let agent = TestAgent::start();
    let mut screen = Screen::new(&agent, &["shell"]);
    screen.type_in(b"echo $((40 + 2)) $HOME\r");
    screen.shows("42 /root");
    screen.type_in(b"~?");
    screen.shows("~.  hang up");
    let id = agent.get("/v1/exec")[0]["exec_id"].as_str().unwrap().to_owned();
    screen.type_in(b"\r~.");
    screen.shows(&format!("guestctl: exec {id} was hung up"));
    assert_eq!(screen.end().code(), Some(129));
    eventually("the shell has ended", || (state(&agent, &id) == "exited").then_some(()));
}

#[test]
fn a_shell_in_a_vm_that_stands_still_is_left_at_once() {
    let agent = TestAgent::start();
    let mut screen = Screen::new(&agent, &["shell"]);
    screen.type_in(b"echo u''p\r");
    screen.shows("up\r\n");
    kill(agent.pid(), Signal::SIGSTOP).unwrap();
    let asked = Instant::now();
    screen.type_in(b"\r~.");
    let status = screen.end();
    kill(agent.pid(), Signal::SIGCONT).unwrap();
    // An answer is waited for ten times as long.
    assert_eq!((status.code(), asked.elapsed() < 5 * CLIENT_LEAVE_TIME), (Some(129), true), "{:?}", asked.elapsed());
}

#[test]
fn keys_that_nobody_takes_do_not_keep_who_is_told_to_go() {
    let agent = TestAgent::start();
    let mut screen =
        Screen::new(&agent, &["exec", "-it", "--", "sh", "-c", "stty raw -echo; echo up; exec sleep 1000"]);
    screen.shows("up");
    let mut keys = screen.keys.try_clone().unwrap();
    fcntl(&keys, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    // Until guestctl takes no more of them, for as long as it would need for all that it can take.
    eventually("nothing is taken", || {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(500) {
            match keys.write(&[b'k'; 4096]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                written => return written.map(|_| None).unwrap(),
            }
        }
        Some(())
    });
    screen.signal(Signal::SIGTERM);
    assert_eq!(screen.end().code(), Some(143));
}

#[test]
fn the_status_of_a_shell_is_that_of_its_last_command() {
    let agent = TestAgent::start();
    let mut screen = Screen::new(&agent, &["shell", "-u", "root"]);
    screen.type_in(b"exit 9\r");
    assert_eq!(screen.end().code(), Some(9));
}

#[test]
fn a_terminal_without_input_leaves_ctrl_c_to_the_command() {
    let agent = TestAgent::start();
    let script = format!("trap 'echo int; exit 5' INT; echo up; {WAITS}");
    let mut screen = Screen::new(&agent, &["exec", "-t", "--", "sh", "-c", &script]);
    screen.shows("up");
    assert!(!screen.is_raw());
    screen.type_in(b"\x03");
    screen.shows("int");
    assert_eq!(screen.end().code(), Some(5));
}

#[test]
fn a_vm_that_is_lost_gives_the_terminal_back() {
    let agent = TestAgent::start();
    let mut screen = Screen::new(&agent, &["exec", "-it", "--", "sh", "-c", "echo up; exec sleep 1000"]);
    screen.shows("up");
    // Killed, and not told to end: that would end the exec, which is another story. The terminal's end ends the command.
    nix::sys::signal::kill(agent.pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
    screen.shows("guestctl: ");
    assert!(matches!(screen.end().code(), Some(69 | 125)));
}

/// An agent in a network namespace where nothing listens.
fn agent_by_itself() -> TestAgent {
    unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
    // With an address that the outside could reach, as a VM has.
    for arguments in [
        "link set lo up",
        "link add eth0 type veth peer name outside",
        "link set outside up",
        "link set eth0 up",
        "addr add fd00:9::2/64 dev eth0 nodad",
    ] {
        let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
        assert!(status.success(), "ip {arguments}");
    }
    TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 50\n", &[])
}

const ENTERED: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEFT: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

#[test]
fn the_live_table_shows_changes_in_place_and_fits_the_window() {
    let agent = agent_by_itself();
    let first = TcpListener::bind("[::]:3000").unwrap();
    let mut screen = Screen::with(&agent, &["ports", "--watch"], &[("NO_COLOR", "1")]);
    screen.shows(ENTERED);
    screen.shows("1 listener\r\r\n\x1b[K   PORT  ADDRESS  EXPOSURE  PROCESS");
    screen.shows("\r\r\n\x1b[K   3000  [::]     direct    ");
    assert!(screen.is_raw(), "what is typed would show");
    let many: Vec<_> = (4000..4040).map(|port| TcpListener::bind(("::", port)).unwrap()).collect();
    // Marked in the first picture that has it, whether it has all the others or not.
    screen.shows("\r\r\n\x1b[K+  4000  [::]     direct    ");
    // 33 lines: status, titles, 30 listeners, and this one.
    screen.shows("\r\r\n\x1b[K11 more do not fit into the window\x1b[J");
    screen.resize(10, 30);
    screen.shows("\r\r\n\x1b[K34 more do not fit into the wi\x1b[J");
    screen.resize(60, 100);
    screen.shows("  4039  [::]  ");
    drop(first);
    screen.shows(": 40 listeners\r\r\n");
    screen.shows("\r\r\n\x1b[K-  3000  [::]     gone      ");
    // Marks go, and with them the line of what is gone.
    screen.shows(": 40 listeners\r\r\n\x1b[K   PORT  ADDRESS  EXPOSURE  PROCESS");
    screen.shows("\r\r\n\x1b[K   4000  [::]     direct    ");
    assert!(!screen.seen_any("\x1b[0m"), "colours in spite of NO_COLOR");
    screen.type_in(b"xq");
    screen.shows(LEFT);
    assert_eq!(screen.end().code(), Some(0));
    drop(many);
}

#[test]
fn the_live_table_says_in_place_that_the_vm_is_lost_until_ctrl_c() {
    let agent = agent_by_itself();
    let _service = TcpListener::bind("[::]:3000").unwrap();
    let mut screen = Screen::new(&agent, &["ports", "--watch"]);
    screen.shows(ENTERED);
    screen.resize(33, 200);
    screen.shows("1 listener\x1b[0m\r\r\n");
    kill(agent.pid(), Signal::SIGKILL).unwrap();
    screen.shows("1 listener when last heard of; trying again after 250ms: the ");
    // What was known stays.
    screen.shows("\r\r\n\x1b[K   3000  ");
    // Again and again, ever less often.
    screen.shows(": cannot reach the VM at ");
    screen.shows("1 listener when last heard of; trying again after 5s: cannot reach the VM at ");
    screen.type_in(b"\x03");
    screen.shows(LEFT);
    assert_eq!(screen.end().code(), Some(130));
}

#[test]
fn the_live_table_is_stopped_and_continued_with_the_terminal_as_each_expects_it() {
    let agent = agent_by_itself();
    let mut screen = Screen::new(&agent, &["ports", "--watch"]);
    screen.shows("0 listeners");
    let child = Pid::from_raw(screen.child.id().try_into().unwrap());
    // As ctrl-Z does where a shell looks after the group of processes; here nobody does, so the kernel would not.
    kill(child, Signal::SIGTSTP).unwrap();
    screen.shows(LEFT);
    let status = waitpid(child, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(status, WaitStatus::Stopped(child, Signal::SIGSTOP));
    assert!(!screen.is_raw());
    kill(child, Signal::SIGCONT).unwrap();
    screen.shows(ENTERED);
    screen.shows("0 listeners");
    assert!(screen.is_raw());
    screen.type_in(b"\x03");
    assert_eq!(screen.end().code(), Some(130));
}
