//! On a terminal: the program is in its foreground, and init is not stopped for being in its background.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use nix::pty::openpty;

use crate::program::GUESTD;

struct OnTerminal {
    child: Child,
    keys: File,
    screen: BufReader<File>,
}

/// Runs `guestd init OPTIONS… -- sh -c SCRIPT` in a session of its own with a terminal that echoes nothing.
fn start(options: &[&str], script: &str) -> OnTerminal {
    let pty = openpty(None, None).unwrap();
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    let script = format!("stty -echo -onlcr; {script}");
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", "setpriv", "--pdeathsig", "KILL", GUESTD, "init"]).args(options);
    command.args(["--", "sh", "-c", &script]).stdin(slave()).stdout(slave()).stderr(slave());
    let child = command.spawn().unwrap();
    let keys = File::from(pty.master);
    OnTerminal { child, screen: BufReader::new(keys.try_clone().unwrap()), keys }
}

impl OnTerminal {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.screen.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn exit(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_program_reads_its_terminal_and_is_not_stopped_by_it() {
    let mut running = start(&[], "echo ready; read line; echo got $line; exit 3");
    assert_eq!(running.line(), "ready");
    running.press("hello\n");
    assert_eq!((running.line().as_str(), running.exit()), ("got hello", Some(3)));
}

#[test]
fn keys_that_are_signals_reach_the_program() {
    let mut running = start(&[], "trap 'echo INT; exit 4' INT; echo ready; while :; do read line; done");
    assert_eq!(running.line(), "ready");
    running.press("\u{3}");
    assert_eq!((running.line().as_str(), running.exit()), ("INT", Some(4)));
}

#[test]
fn init_may_write_to_a_terminal_that_stops_those_in_its_background() {
    let mut running = start(&["-s", "-w"], "stty tostop; (sh -c 'exit 9' &); read line; echo got $line");
    let said = running.line();
    assert!(said.contains("reaped process"), "{said}");
    running.press("go on\n");
    assert_eq!((running.line().as_str(), running.exit()), ("got go on", Some(0)));
}
