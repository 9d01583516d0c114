//! Exit statuses, and what the program is given.

use std::os::unix::ffi::OsStrExt;

use crate::program::{GUESTD, run, start};

#[test]
fn the_exit_status_is_the_programs_own() {
    for status in [0, 1, 7, 130, 255] {
        assert_eq!(run(&[], &format!("exit {status}")).0, status);
    }
}

#[test]
fn death_by_a_signal_is_128_and_its_number() {
    for (signal, status) in [("TERM", 143), ("KILL", 137), ("INT", 130), ("ABRT", 134), ("RTMIN", 162)] {
        assert_eq!(run(&[], &format!("kill -{signal} $$")).0, status, "{signal}");
    }
}

#[test]
fn the_end_is_seen_where_whoever_started_it_ignores_the_ends_of_children() {
    let script = "trap '' CHLD; exec \"$@\"";
    let (status, _, said) = start(&["timeout", "60", "sh", "-c", script, "sh"], ["--", "sh", "-c", "exit 7"]).end();
    assert_eq!(status, 7, "{said}");
}

#[test]
fn remapped_exit_statuses_are_0_and_others_stay() {
    assert_eq!(run(&["-e", "143"], "kill -TERM $$").0, 0);
    assert_eq!(run(&["-e", "143", "-e", "7"], "exit 7").0, 0);
    assert_eq!(run(&["-e", "143"], "exit 7").0, 7);
}

#[test]
fn a_program_that_is_not_there_or_not_one_has_a_shells_status() {
    let (status, _, said) = start(&[], ["--", "no-such-program"]).end();
    assert!(status == 127 && said.contains("no-such-program cannot be run"), "{status}: {said}");
    let (status, _, said) = start(&[], ["--", "/etc/passwd"]).end();
    assert!(status == 126 && said.contains("/etc/passwd cannot be run"), "{status}: {said}");
}

#[test]
fn a_wrong_option_is_said_and_nothing_runs() {
    let (status, out, said) = run(&["-x"], "echo ran");
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(said.contains("there is no option -x") && said.contains("usage: guestd init"), "{said}");
}

#[test]
fn it_is_no_init_of_a_vm_where_it_is_not_process_1() {
    let (status, _, said) = start(&[], [""; 0]).end();
    assert!(status == 2 && said.contains("this is not process 1"), "{status}: {said}");
}

#[test]
fn arguments_environment_and_directory_are_passed_on_as_they_are() {
    let odd = std::ffi::OsStr::from_bytes(b"a b\xff'\n");
    let argv = ["--", "sh", "-c", "printf %s \"$1$PWD$MARK\"", "sh"].map(std::ffi::OsString::from);
    let output = std::process::Command::new(GUESTD)
        .arg("init")
        .args(argv)
        .arg(odd)
        .env("MARK", "mark")
        .current_dir("/usr")
        .output()
        .unwrap();
    assert_eq!(output.stdout, [odd.as_bytes(), b"/usrmark"].concat());
}

#[test]
fn the_program_has_no_signal_blocked_and_none_ignored() {
    let ignored = |status: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
        // Those above 31 are the C library's own affair.
        u64::from_str_radix(line, 16).unwrap() & 0x7fff_ffff
    };
    let (_, out, _) = run(&[], "grep -E '^Sig(Blk|Ign)' /proc/self/status");
    assert!(out.starts_with("SigBlk:\t0000000000000000\n"), "{out}");
    // What whoever started us ignores stays so; SIGPIPE is the test's own, by its language's runtime.
    let ours = ignored(&std::fs::read_to_string("/proc/self/status").unwrap()) & !(1 << (13 - 1));
    assert_eq!(ignored(&out), ours);
}

#[test]
fn by_the_name_of_init_it_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("init");
    std::os::unix::fs::symlink(GUESTD, &link).unwrap();
    let status = std::process::Command::new(&link).args(["-e", "9", "--", "sh", "-c", "exit 9"]).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
