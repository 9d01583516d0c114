//! The real guestctl with a real agent: execs without a terminal, their records, and tunnels.
#![cfg(test)]
#![expect(dead_code, reason = "the agent's helpers serve other tests, too")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::TestAgent;

fn guestctl(agent: &TestAgent, args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_guestctl"), "--vm"]);
    command.arg(format!("unix:{}", agent.socket().display())).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("GUESTD_VM");
    command
}

fn run(agent: &TestAgent, args: &[&str]) -> Output {
    guestctl(agent, args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

/// Interrupts guestctl as ctrl-C does.
fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Bytes that look random and are the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

/// Gives all of `input` and its end to guestctl, while its output is read.
fn piped(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The command may not want it all.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

#[test]
fn output_streams_and_status_are_the_commands_own() {
    let agent = TestAgent::start();
    let output = run(&agent, &["exec", "-e", "A=b c", "-w", "/usr", "--", "sh", "-c", "echo $A; pwd >&2; exit 3"]);
    assert_eq!((output.status.code(), text(&output.stdout), text(&output.stderr)), (Some(3), "b c\n", "/usr\n"));
    let killed = run(&agent, &["exec", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137));
    let late = run(&agent, &["exec", "--timeout", "1", "sleep", "100"]);
    assert_eq!(late.status.code(), Some(124));
}

#[test]
fn megabytes_of_output_pass_whole_with_what_follows_them() {
    let agent = TestAgent::start();
    let size = 100 * 1024 * 1024;
    let output = run(&agent, &["exec", "--", "sh", "-c", "yes | head -c 104857600; echo end >&2; exit 3"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(3), "end\n"));
    assert_eq!(output.stdout.len(), size);
    assert!(output.stdout.chunks(2).all(|pair| pair == b"y\n"));
}

#[test]
fn standard_input_of_any_length_goes_there_and_back() {
    let agent = TestAgent::start();
    let input = noise(32 * 1024 * 1024 + 7);
    let output = piped(guestctl(&agent, &["exec", "-i", "cat"]), &input);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stdout == input);
    let empty = piped(guestctl(&agent, &["exec", "-i", "cat"]), b"");
    assert_eq!((empty.status.code(), empty.stdout.len()), (Some(0), 0));
}

#[test]
fn a_command_that_does_not_want_its_input_is_not_waited_for() {
    let agent = TestAgent::start();
    let input = vec![b'x'; 8 * 1024 * 1024];
    let output = piped(guestctl(&agent, &["exec", "-i", "--", "head", "-c", "3"]), &input);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "xxx"), "{}", text(&output.stderr));
    // Standard input that never ends.
    let mut idle = guestctl(&agent, &["exec", "-i", "true"]).stdin(Stdio::piped()).spawn().unwrap();
    assert_eq!(idle.wait().unwrap().code(), Some(0));
}

#[test]
fn input_is_passed_on_when_it_comes_and_not_at_its_end() {
    let agent = TestAgent::start();
    let mut child = guestctl(&agent, &["exec", "-i", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut lines = BufReader::new(stdout).lines();
    for line in ["one", "two"] {
        writeln!(stdin, "{line}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), line);
    }
    drop(stdin);
    assert!(lines.next().is_none());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn ctrl_c_is_the_commands_and_a_second_one_is_ours() {
    let agent = TestAgent::start();
    let handles = "trap 'echo int; exit 5' INT; echo up; while :; do sleep 0.05; done";
    let start = |id: &str, script: &str| {
        let mut child = guestctl(&agent, &["exec", "--id", id, "--", "sh", "-c", script]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "up");
        (child, lines)
    };
    let (mut child, mut lines) = start("handles", handles);
    signal(&child, Signal::SIGINT);
    assert_eq!((child.wait().unwrap().code(), lines.next().as_deref()), (Some(5), Some("int")));

    let (mut child, mut lines) = start("stubborn", "trap 'echo no' INT; echo up; while :; do sleep 0.05; done");
    signal(&child, Signal::SIGINT);
    assert_eq!(lines.next().as_deref(), Some("no"));
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    insta::assert_snapshot!(words, @r"
    guestctl: ended by signal 2; exec stubborn goes on in the VM
    advice: follow it: guestctl attach stubborn; end it: guestctl signal stubborn TERM --to tree
    ");
    assert_eq!(agent.get("/v1/exec/stubborn")["state"], "running");
    assert_eq!(run(&agent, &["signal", "stubborn", "SIGKILL", "--to", "tree"]).status.code(), Some(0));
    assert_eq!(run(&agent, &["wait", "stubborn"]).status.code(), Some(137));
}

#[test]
fn a_signal_that_nohup_had_ignored_ends_nothing() {
    let agent = TestAgent::start();
    let plain = guestctl(&agent, &["exec", "-i", "--", "sh", "-c", "echo up; read line; echo got $line"]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("up"));
    signal(&child, Signal::SIGHUP);
    child.stdin.take().unwrap().write_all(b"it\n").unwrap();
    assert_eq!((lines.next().as_deref(), child.wait().unwrap().code()), (Some("got it"), Some(0)));
}

#[test]
fn a_detached_exec_is_listed_followed_signalled_and_waited_for() {
    let agent = TestAgent::start();
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let script = format!("echo begun; until [ -e {} ]; do sleep 0.05; done; echo done >&2; exit 7", go.display());
    let started = run(&agent, &["exec", "-d", "--id", "job", "--", "sh", "-c", &script]);
    assert_eq!((started.status.code(), text(&started.stdout)), (Some(0), "job\n"));
    let listed = run(&agent, &["ps"]);
    assert!(text(&listed.stdout).contains("job"), "{}", text(&listed.stdout));
    let mut follow = guestctl(&agent, &["attach", "job"]).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("begun"));
    std::fs::write(go, "").unwrap();
    assert_eq!(follow.wait().unwrap().code(), Some(7));
    let waited = run(&agent, &["--json", "wait", "job"]);
    let status: Value = serde_json::from_slice(&waited.stdout).unwrap();
    assert_eq!((waited.status.code(), &status["state"]), (Some(7), &"exited".into()));
    assert_eq!(run(&agent, &["--json", "ps"]).stdout, b"[]\n");
    assert!(text(&run(&agent, &["ps", "-a"]).stdout).contains("exit 7"));
    let rest = run(&agent, &["attach", "job", "--from", "3"]);
    assert_eq!((rest.status.code(), text(&rest.stdout), text(&rest.stderr)), (Some(7), "un\n", "done\n"));
    let late = run(&agent, &["signal", "job", "TERM"]);
    assert_eq!(late.status.code(), Some(125));
    assert!(text(&late.stderr).starts_with("guestctl: POST /v1/exec/{id}/signal on "), "{}", text(&late.stderr));
}

#[test]
fn ctrl_c_leaves_a_follower_and_not_the_exec() {
    let agent = TestAgent::start();
    run(&agent, &["exec", "-d", "--id", "job", "--", "sh", "-c", "echo begun; exec sleep 1000"]);
    let mut follow = guestctl(&agent, &["attach", "job"]).spawn().unwrap();
    let mut begun = [0; 6];
    follow.stdout.take().unwrap().read_exact(&mut begun).unwrap();
    signal(&follow, Signal::SIGINT);
    assert_eq!(follow.wait().unwrap().code(), Some(130));
    assert_eq!(agent.get("/v1/exec/job")["state"], "running");
}

#[test]
fn the_same_id_is_the_same_exec_for_the_same_request_alone() {
    let agent = TestAgent::start();
    let once = |word: &str| run(&agent, &["exec", "--id", "once", "--", "sh", "-c", "echo $0 $$", word]);
    let (first, again) = (once("a"), once("a"));
    assert_eq!(first.stdout, again.stdout);
    let other = once("b");
    assert_eq!(other.status.code(), Some(125));
    assert!(text(&other.stderr).contains("advice: use another id"), "{}", text(&other.stderr));
}

#[test]
fn logs_of_one_exec_are_its_bytes_and_those_of_all_are_lines() {
    let agent = TestAgent::start();
    run(&agent, &["exec", "--id", "one", "--", "sh", "-c", r"printf 'a\033[2J\n'; echo b >&2"]);
    run(&agent, &["exec", "--id", "two", "--", "echo", "c"]);
    let one = run(&agent, &["logs", "--exec", "one"]);
    assert_eq!((text(&one.stdout), text(&one.stderr)), ("a\x1b[2J\n", "b\n"));
    assert_eq!(run(&agent, &["logs", "--exec", "two", "--follow"]).stdout, b"c\n");
    let all = run(&agent, &["logs"]);
    let mut lines: Vec<String> = text(&all.stdout).lines().map(|line| line[25..].to_owned()).collect();
    lines.sort();
    assert_eq!(lines, [r"one err | b", r"one | a\u{1b}[2J", "two | c"]);
}

#[test]
fn an_exec_that_is_not_there_is_told() {
    let agent = TestAgent::start();
    for args in
        [&["attach", "nobody"][..], &["wait", "nobody"], &["signal", "nobody", "TERM"], &["logs", "--exec", "nobody"]]
    {
        let output = run(&agent, args);
        assert_eq!(output.status.code(), Some(125), "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains("nobody") && said.contains("guestctl ps -a"), "{said}");
    }
}

// Tunnels.

/// A service for one connection, on a port of its own.
fn service<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (u16, std::thread::JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, std::thread::spawn(move || serve(listener.accept().unwrap().0)))
}

/// Reads to the end, then answers with how much that was.
fn count(mut stream: TcpStream) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    stream.write_all(all.len().to_string().as_bytes()).unwrap();
}

#[test]
fn a_tunnel_on_standard_input_and_output_passes_both_ends_of_file() {
    let agent = TestAgent::start();
    let (port, served) = service(count);
    let output = piped(guestctl(&agent, &["tunnel", "--stdio", &port.to_string()]), &noise(8 * 1024 * 1024));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "8388608"), "{}", text(&output.stderr));
    served.join().unwrap();
    // The service's end first: it is seen while our input stays open, and what comes after it still arrives.
    let (port, served) = service(|mut stream: TcpStream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        rest
    });
    let mut child = guestctl(&agent, &["tunnel", "--stdio", &port.to_string()]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut said = String::new();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");
    stdin.write_all(b"still here").unwrap();
    drop(stdin);
    assert_eq!(served.join().unwrap(), "still here");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_tunnel_takes_many_connections_on_the_port_that_it_names() {
    let agent = TestAgent::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let connections: Vec<_> = listener.incoming().take(8).map(Result::unwrap).collect();
        // All are open before one is answered.
        connections.into_iter().for_each(count);
    });
    let mut tunnel = guestctl(&agent, &["--json", "tunnel", &format!("0:127.0.0.1:{port}")]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(tunnel.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let local = said["listen"].as_str().unwrap().to_owned();
    let clients: Vec<_> = (1..=8usize)
        .map(|number| {
            let mut stream = TcpStream::connect(&local).unwrap();
            std::thread::spawn(move || {
                stream.write_all(&vec![b'x'; number * 100_000]).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, (number * 100_000).to_string());
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    served.join().unwrap();
    signal(&tunnel, Signal::SIGTERM);
    tunnel.wait().unwrap();
}

#[test]
fn a_port_on_which_nobody_listens_resets_the_connection_and_is_told() {
    let agent = TestAgent::start();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = run(&agent, &["tunnel", "--stdio", &closed.to_string()]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("refused"), "{}", text(&output.stderr));
    let mut tunnel = guestctl(&agent, &["tunnel", &format!("0:127.0.0.1:{closed}")]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(tunnel.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut stream = TcpStream::connect(line.split(' ').next().unwrap()).unwrap();
    let read = stream.read(&mut [0]);
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    signal(&tunnel, Signal::SIGTERM);
    tunnel.wait().unwrap();
}

#[test]
fn a_service_that_breaks_off_is_no_end_of_file() {
    let agent = TestAgent::start();
    let (port, served) = service(|mut stream: TcpStream| {
        stream.write_all(b"half").unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        nix::sys::socket::setsockopt(
            &stream,
            nix::sys::socket::sockopt::Linger,
            &nix::libc::linger { l_onoff: 1, l_linger: 0 },
        )
        .unwrap();
    });
    let mut child = guestctl(&agent, &["tunnel", "--stdio", &port.to_string()]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"x").unwrap();
    served.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(125));
}
