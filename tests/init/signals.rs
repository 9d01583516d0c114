//! Signals that init gets are the program's.

use nix::sys::signal::Signal::{self, *};

use crate::program::{AS_PROCESS_1, Running, start};

/// Says which signals it gets, and ends at SIGTERM with 3. Its children are told nothing by it.
const SAYS: &str =
    "for each in HUP INT QUIT USR1 USR2 ALRM PIPE WINCH URG VTALRM PROF PWR; do trap \"echo $each\" $each; done
trap 'echo TERM; kill $!; exit 3' TERM
echo ready
while :; do sleep 600 & wait $!; kill $!; done";

/// A child that says when it gets SIGTERM, beside its parent, who waits for it and then ends with 4.
const GROUP: &str = "trap : TERM
sh -c 'trap \"echo inner; exit 0\" TERM; echo ready; while :; do sleep 600 & wait; done' &
while ! wait $!; do :; done
exit 4";

fn ready(options: &[&str], script: &str) -> Running {
    let mut running = start(&[], options.iter().copied().chain(["--", "sh", "-c", script]));
    assert_eq!(running.line(), "ready");
    running
}

#[test]
fn every_signal_is_forwarded() {
    let mut running = ready(&[], SAYS);
    let signals: [Signal; 12] =
        [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGPIPE, SIGWINCH, SIGURG, SIGVTALRM, SIGPROF, SIGPWR];
    for signal in signals {
        running.signal(signal);
        assert_eq!(format!("SIG{}", running.line()), signal.as_str());
    }
    running.signal(SIGTERM);
    assert_eq!((running.line().as_str(), running.exit()), ("TERM", 3));
}

#[test]
fn signals_are_rewritten_and_those_for_nothing_are_not_forwarded() {
    let mut running = ready(&["-r", "TERM:USR1", "-r", "SIGHUP:0", "-r", "2:15"], SAYS);
    running.signal(SIGHUP);
    running.signal(SIGTERM);
    assert_eq!(running.line(), "USR1", "neither HUP nor TERM");
    running.signal(SIGINT);
    assert_eq!((running.line().as_str(), running.exit()), ("TERM", 3));
}

#[test]
fn a_stopped_program_can_be_continued() {
    let mut running = ready(&[], SAYS);
    // The program's own stop; init itself cannot be told to stop by this one.
    running.signal(SIGTSTP);
    running.signal(SIGCONT);
    running.signal(SIGUSR1);
    assert_eq!(running.line(), "USR1");
    running.signal(SIGTERM);
    assert_eq!((running.line().as_str(), running.exit()), ("TERM", 3));
}

#[test]
fn signals_go_to_the_whole_group_if_asked_and_to_the_program_alone_if_not() {
    let mut running = ready(&["-g"], GROUP);
    running.signal(SIGTERM);
    assert_eq!((running.line().as_str(), running.exit()), ("inner", 4));

    let script = GROUP.replace("trap : TERM", "trap 'echo outer; kill $!' TERM");
    let mut running = ready(&[], &script);
    running.signal(SIGTERM);
    assert_eq!([running.line(), running.line()], ["outer", "inner"], "the child hears of it by its parent alone");
    assert_eq!(running.exit(), 4);
}

#[test]
fn the_end_of_the_parent_is_told_if_asked() {
    let guestd = crate::program::GUESTD;
    let script = format!("{guestd} init -p USR1 -- sh -c \"$1\" & read line; kill -KILL $$");
    // In a namespace with which all of them end. Its program outlives the parent that is meant.
    let program = "sh -c \"$1\" sh \"$2\"; read line";
    let mut running = start(&AS_PROCESS_1, ["--", "sh", "-c", program, "sh", &script, SAYS]);
    assert_eq!(running.line(), "ready");
    running.say("go");
    assert_eq!(running.line(), "USR1");
    running.say("go");
    assert_eq!(running.exit(), 0);
}
