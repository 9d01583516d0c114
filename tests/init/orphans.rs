//! Processes that lose their parent, and the order of ends.

use nix::sys::signal::Signal;

use crate::program::{AS_PROCESS_1, start};

/// Says how many zombies there are, until there are none.
const UNTIL_NONE: &str = "while grep -qs '^State:.Z' /proc/[0-9]*/status; do :; done; echo none";

#[test]
fn ten_thousand_orphans_in_a_burst_are_reaped_and_none_is_left() {
    let script = format!(
        "count=0; while [ $count -lt 100 ]; do
           (i=0; while [ $i -lt 100 ]; do (: &); i=$((i+1)); done) & count=$((count+1))
         done; wait; {UNTIL_NONE}"
    );
    let (status, out, _) = start(&AS_PROCESS_1, ["--", "sh", "-c", &script]).end();
    assert_eq!((status, out.as_str()), (0, "none\n"));
}

#[test]
fn an_orphan_that_ends_first_is_reaped_and_ends_nothing() {
    let mut running = start(&AS_PROCESS_1, ["-w", "--", "sh", "-c", "(sh -c 'exit 9' &); read line; exit 5"]);
    let said = running.error_line();
    assert!(said.contains("reaped process") && said.ends_with("exit status 9"), "{said}");
    running.say("go on");
    assert_eq!(running.exit(), 5);
}

#[test]
fn orphans_come_to_a_subreaper_that_is_not_process_1_and_only_then() {
    let script = "(sh -c 'exit 9' &); read line";
    let mut running = start(&[], ["-s", "-w", "--", "sh", "-c", script]);
    assert!(running.error_line().contains("reaped process"));
    running.say("go on");
    assert_eq!(running.exit(), 0);

    let mut running = start(&[], ["-w", "--", "sh", "-c", script]);
    running.say("go on");
    assert_eq!(running.end().2, "");
}

#[test]
fn the_end_of_the_program_is_the_end_whatever_goes_on_and_that_ends_with_the_namespace() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Holds the fifo for as long as it lives, which without an init would be ten minutes.
    let script = "sh -c 'exec 3>\"$1\"; echo held >&3; exec sleep 600 >/dev/null 2>&1' sh \"$1\" & read line; exit 6";
    let argv = ["--", "sh", "-c", script, "sh"].map(std::ffi::OsString::from);
    let mut running = start(&AS_PROCESS_1, argv.into_iter().chain([fifo.clone().into()]));
    let mut held = std::io::BufReader::new(std::fs::File::open(&fifo).unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut held, &mut line).unwrap();
    assert_eq!(line, "held\n");
    running.say("go on");
    assert_eq!(running.exit(), 6);
    assert_eq!(std::io::BufRead::read_line(&mut held, &mut line).unwrap(), 0, "whoever held it has ended");
}

#[test]
fn process_1_hands_signals_on_that_the_kernel_would_not_give_it() {
    // Without a handler the kernel keeps SIGTERM from process 1.
    let mut running = start(&AS_PROCESS_1, ["--", "sh", "-c", "echo ready; exec sleep 600"]);
    assert_eq!(running.line(), "ready");
    // unshare(1) ends by a signal as its child does; the namespace's process 1 is that child.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid())).unwrap();
    let init: i32 = children.trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), Signal::SIGTERM).unwrap();
    assert_eq!(running.exit(), 128 + 15);
}
