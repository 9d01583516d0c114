//! What a command gets and gives: streams, environment, user, state, and the answer to a request that cannot be run.
//!
//! As root, which the agent is.

#![expect(clippy::unwrap_used, reason = "clippy allows it in test functions, and these have helpers")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use guestd::api::{ErrorCode, ExecExit, ExecRequest, ExecResult, OutputStream};
use guestd::exec::{CgroupParent, Event, ExecConfig, Execs};
use guestd::limits;

fn config() -> ExecConfig {
    ExecConfig {
        environment_file: "/nonexistent/environment".into(),
        cgroup: Some(CgroupParent::detect().unwrap()),
        ..ExecConfig::default()
    }
}

fn execs() -> Execs {
    Execs::new(config())
}

fn argv(words: &[&str]) -> ExecRequest {
    let command = words.iter().map(|word| (*word).to_owned()).collect();
    ExecRequest { command, ..ExecRequest::default() }
}

fn sh(script: &str) -> ExecRequest {
    argv(&["sh", "-c", script])
}

async fn run(request: ExecRequest) -> ExecResult {
    execs().run(request).await.unwrap()
}

async fn output(request: ExecRequest) -> String {
    let result = run(request).await;
    assert_eq!((result.exit_code, result.stderr.as_str()), (0, ""));
    result.stdout
}

async fn refusal(request: ExecRequest) -> (ErrorCode, String) {
    let error = execs().run(request).await.unwrap_err();
    (error.code(), error.to_string())
}

/// Bytes that do not repeat soon, from a fixed seed.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(count).collect()
}

fn decode(data: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(data).unwrap()
}

fn write_script(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn stdout_stderr_and_exit_code_come_apart() {
    let result = run(sh("echo out; echo err >&2; exit 7")).await;
    assert_eq!((result.stdout.as_str(), result.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!((result.exit_code, result.signal), (7, None));
    assert!(!result.truncated && !result.timed_out);
}

#[tokio::test]
async fn a_death_by_signal_is_told_with_its_number() {
    for signal in [9, 15, 40, 64] {
        let result = run(sh(&format!("kill -{signal} $$"))).await;
        assert_eq!((result.exit_code, result.signal), (128 + signal, Some(signal)));
    }
}

#[tokio::test]
async fn an_argument_is_passed_on_byte_for_byte_and_no_shell_sees_it() {
    let stdout = output(argv(&["printf", "%s|", "a b", "", "$HOME", "*", "\u{e4}\n"])).await;
    assert_eq!(stdout, "a b||$HOME|*|\u{e4}\n|");
}

#[tokio::test]
async fn sixty_four_mebibytes_arrive_byte_for_byte() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("noise");
    let expected = noise(64 * 1024 * 1024);
    fs::write(&file, &expected).unwrap();
    let request = ExecRequest { lossless: true, ..argv(&["cat", file.to_str().unwrap()]) };
    let mut stream = execs().stream(request).await.unwrap();
    let mut at = 0;
    while let Some(frame) = stream.next().await {
        match frame {
            Event::Chunk { stream, bytes, cursor } => {
                assert_eq!(stream, OutputStream::Stdout);
                assert!(expected[at..].starts_with(&bytes), "differs after byte {at}");
                at += bytes.len();
                assert_eq!(cursor, at as u64);
            }
            Event::Exit { exit, cursor } => {
                assert_eq!((exit.exit_code, cursor), (0, expected.len() as u64));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(at, expected.len());
}

#[tokio::test]
async fn one_cursor_counts_both_streams() {
    let script = "for i in 1 2 3 4 5; do echo out$i; echo error$i >&2; done";
    let mut stream = execs().stream(sh(script)).await.unwrap();
    let (mut out, mut err, mut total) = (Vec::new(), Vec::new(), 0);
    let end = loop {
        match stream.next().await.unwrap() {
            Event::Chunk { stream, bytes, cursor } => {
                total += bytes.len() as u64;
                assert_eq!(cursor, total);
                let one = if stream == OutputStream::Stdout { &mut out } else { &mut err };
                one.extend(bytes);
            }
            other => break other,
        }
    };
    assert!(matches!(end, Event::Exit { exit: ExecExit { exit_code: 0, .. }, cursor } if cursor == total));
    assert!(stream.next().await.is_none());
    assert_eq!(out, b"out1\nout2\nout3\nout4\nout5\n");
    assert_eq!(err, b"error1\nerror2\nerror3\nerror4\nerror5\n");
}

#[tokio::test]
async fn output_over_the_limit_is_cut_there_and_the_command_runs_on() {
    let over = limits::EXEC_BUFFERED_OUTPUT_BYTES + 1_000_000;
    let script = format!("yes | head -c {over}; echo kept >&2; exit 3");
    let result = run(sh(&script)).await;
    assert_eq!((result.exit_code, result.stderr.as_str()), (3, "kept\n"));
    assert_eq!(result.stdout.len(), limits::EXEC_BUFFERED_OUTPUT_BYTES);
    assert!(result.truncated);
}

#[tokio::test]
async fn output_that_is_no_text_comes_exactly_in_base64() {
    let result = run(sh(r"printf 'a\377\0b'; printf text >&2")).await;
    assert_eq!(decode(result.stdout_b64.as_deref().unwrap()), b"a\xff\0b");
    assert_eq!((result.stderr.as_str(), result.stderr_b64), ("text", None));
}

#[tokio::test]
async fn stdin_arrives_whole_and_ends() {
    let text: String = noise(3 * 1024 * 1024).iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let result = run(ExecRequest { stdin: Some(text.clone()), ..argv(&["cat"]) }).await;
    assert!(result.stdout == text);
    let bytes = ExecRequest { stdin_b64: Some("AP8K".into()), ..argv(&["od", "-An", "-tx1"]) };
    assert_eq!(output(bytes).await, " 00 ff 0a\n");
}

#[tokio::test]
async fn a_command_need_not_read_its_stdin() {
    let stdin = Some("x".repeat(4 * 1024 * 1024));
    assert_eq!(run(ExecRequest { stdin: stdin.clone(), ..argv(&["true"]) }).await.exit_code, 0);
    let first = ExecRequest { stdin, ..sh("head -c 1; exec <&-; echo") };
    assert_eq!(output(first).await, "x\n");
}

#[tokio::test]
async fn stdin_that_was_not_given_is_dev_null() {
    assert_eq!(output(argv(&["readlink", "/proc/self/fd/0"])).await, "/dev/null\n");
}

#[tokio::test]
async fn an_id_is_kept_or_made() {
    let given = ExecRequest { exec_id: Some("build.7".into()), ..argv(&["true"]) };
    assert_eq!(run(given).await.exec_id, "build.7");
    let made = run(argv(&["true"])).await.exec_id;
    assert_eq!(made.len(), 16);
    assert_ne!(made, run(argv(&["true"])).await.exec_id);
}

#[tokio::test]
async fn nothing_of_the_agents_own_state_is_inherited() {
    let script = "umask; ulimit -Sn; nice; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; \
                  grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let expected = "0022\n1024\n0\n0\n4\n\
                    SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    assert_eq!(output(sh(script)).await, expected);
}

#[tokio::test]
async fn a_broken_pipe_ends_a_command_as_everywhere_else() {
    let result = run(sh("yes | head -n 1; echo over")).await;
    assert_eq!(result.stdout, "y\nover\n");
}

#[tokio::test]
async fn a_command_leads_a_session_of_its_own_without_a_terminal() {
    let script = "set -- $(cat /proc/$$/stat); [ $1 = $5 ] && [ $1 = $6 ] && [ $7 = 0 ] && echo leads";
    assert_eq!(output(sh(script)).await, "leads\n");
}

#[tokio::test]
async fn a_command_is_in_a_cgroup_of_its_own_that_is_gone_afterwards() {
    let id = format!("cgroup-of-{}", std::process::id());
    let request = ExecRequest { exec_id: Some(id.clone()), ..argv(&["cat", "/proc/self/cgroup"]) };
    let execs = execs();
    let membership = execs.run(request).await.unwrap().stdout;
    assert!(membership.contains(&format!("/exec-{id}\n")), "{membership}");
    execs.drain().await;
    let parent = CgroupParent::detect().unwrap();
    assert!(!parent.path().join(format!("exec-{id}")).exists());
}

#[tokio::test]
async fn root_gets_what_a_login_gives() {
    let variables = output(argv(&["env"])).await;
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for line in ["HOME=/root", "USER=root", "LOGNAME=root", path] {
        assert!(variables.lines().any(|variable| variable == line), "{line} in {variables}");
    }
    assert_eq!(variables.lines().count(), 5, "{variables}");
    assert_eq!(output(argv(&["pwd"])).await, "/root\n");
}

#[tokio::test]
async fn each_layer_of_the_environment_goes_over_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("environment");
    fs::write(&file, "# account\nB=file\nexport C=\"file too\"\nD=file\nnonsense\nHOME=/file\n").unwrap();
    let own = [("A", "agent"), ("B", "agent"), ("USER", "agent")];
    let execs = Execs::new(ExecConfig {
        base_env: own.map(|(key, value)| (key.into(), value.into())).into(),
        environment_file: file.clone(),
        ..config()
    });
    let mut request = sh(r#"echo "$A $B $C $D $HOME $USER $LOGNAME""#);
    request.env.insert("D".into(), "request".into());
    let result = execs.run(request.clone()).await.unwrap();
    assert_eq!(result.stdout, "agent file file too request /file agent root\n");
    // Read anew for each command; and a bad one stops none.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let result = execs.run(request).await.unwrap();
    assert_eq!(result.stdout, "agent agent  request /root agent root\n");
}

#[tokio::test]
async fn a_command_runs_as_the_user_it_names_and_only_that() {
    let script = "id -u; id -g; id -G; echo $HOME $USER $PATH; pwd; grep -E '^(Uid|CapEff)' /proc/self/status; \
                  cat /etc/shadow 2>/dev/null || echo refused";
    let expected = "65534\n65534\n65534\n/nonexistent nobody /usr/local/bin:/usr/bin:/bin\n/\n\
                    Uid:\t65534\t65534\t65534\t65534\nCapEff:\t0000000000000000\nrefused\n";
    for user in ["nobody", "65534"] {
        assert_eq!(output(ExecRequest { user: Some(user.into()), ..sh(script) }).await, expected);
    }
}

#[tokio::test]
async fn a_user_has_the_supplementary_groups_of_the_group_file() {
    let directory = tempfile::tempdir().unwrap();
    let (passwd, group) = (directory.path().join("passwd"), directory.path().join("group"));
    fs::write(&passwd, "ada:x:4001:4002::/tmp:/bin/sh\n").unwrap();
    fs::write(&group, "ada:x:4002:\nwork:x:4003:bob,ada\nplay:x:4004:bob\n").unwrap();
    let execs = Execs::new(ExecConfig { passwd, group, ..config() });
    let request = ExecRequest { user: Some("ada".into()), ..sh("id -u; id -G; pwd") };
    assert_eq!(execs.run(request).await.unwrap().stdout, "4001\n4002 4003\n/tmp\n");
}

#[tokio::test]
async fn a_program_is_looked_up_in_the_path_of_its_own_environment() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("1"), directory.path().join("2"));
    for bin in [&first, &second] {
        fs::create_dir(bin).unwrap();
    }
    // What cannot be executed is passed over, as every shell does.
    write_script(&first.join("tool"), "no", 0o644);
    symlink("/bin/echo", second.join("tool")).unwrap();
    let mut request = argv(&["tool", "found"]);
    request.env.insert("PATH".into(), format!("{}:{}", first.display(), second.display()));
    assert_eq!(output(request).await, "found\n");
}

#[tokio::test]
async fn a_relative_program_starts_at_the_working_directory() {
    let directory = tempfile::tempdir().unwrap();
    symlink("/bin/pwd", directory.path().join("where")).unwrap();
    let working_dir = directory.path().to_str().unwrap().to_owned();
    let request = ExecRequest { working_dir: Some(working_dir.clone()), ..argv(&["./where"]) };
    assert_eq!(output(request).await, working_dir + "\n");
}

#[tokio::test]
async fn a_missing_program_is_told_with_what_to_do() {
    for (request, hint) in [
        (argv(&["no-such-program", "x"]), "PATH="),
        (argv(&["/no/such/program"]), "no such file"),
        (argv(&["./no-such-program"]), "/root"),
        (argv(&["ls -la"]), r#"["ls", "-la"], or ["sh", "-c", "ls -la"]"#),
    ] {
        let (code, text) = refusal(request).await;
        assert_eq!(code, ErrorCode::ProgramNotFound);
        assert!(text.contains(hint), "{text}");
    }
}

#[tokio::test]
async fn what_cannot_be_executed_is_told_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    write_script(&at("mode"), "#!/bin/sh\n", 0o640);
    write_script(&at("format"), "echo no shell runs this\n", 0o755);
    write_script(&at("empty"), "", 0o755);
    write_script(&at("interpreter"), "#! /no/such/shell -x\n", 0o755);
    write_script(&at("private"), "#!/bin/sh\n", 0o700);
    write_script(&at("busy"), "#!/bin/sh\n", 0o755);
    let _busy = fs::OpenOptions::new().append(true).open(at("busy")).unwrap();
    for (name, reason) in [
        ("", "it is a directory"),
        ("mode", "its mode is 0640"),
        ("format", "`#!`"),
        ("empty", "`#!`"),
        ("interpreter", r#""/no/such/shell""#),
        ("private", "user nobody may not execute it"),
        ("busy", "open for writing"),
    ] {
        let user = (name == "private").then(|| "nobody".to_owned());
        let (code, text) = refusal(ExecRequest { user, ..argv(&[at(name).to_str().unwrap()]) }).await;
        assert_eq!(code, ErrorCode::NotExecutable, "{text}");
        assert!(text.contains(reason), "{text}");
    }
}

#[tokio::test]
async fn a_bad_working_directory_is_told_with_the_reason() {
    let private = tempfile::tempdir().unwrap();
    fs::set_permissions(private.path(), fs::Permissions::from_mode(0o700)).unwrap();
    for (path, user, reason) in [
        ("/no/such/directory", "root", "does not exist"),
        ("/etc/passwd", "root", "not a directory"),
        ("relative", "root", "not absolute"),
        (private.path().to_str().unwrap(), "nobody", "user nobody cannot enter it"),
    ] {
        let (working_dir, user) = (Some(path.into()), Some(user.into()));
        let (code, text) = refusal(ExecRequest { working_dir, user, ..argv(&["true"]) }).await;
        assert_eq!(code, ErrorCode::BadWorkingDir);
        assert!(text.contains(reason), "{text}");
    }
}

#[tokio::test]
async fn malformed_requests_have_codes_of_their_own() {
    let with = |change: fn(&mut ExecRequest)| {
        let mut request = argv(&["true"]);
        change(&mut request);
        request
    };
    for (request, expected) in [
        (argv(&[]), ErrorCode::EmptyCommand),
        (argv(&[""]), ErrorCode::EmptyCommand),
        (argv(&["echo", "a\0b"]), ErrorCode::NulByte),
        (argv(&["echo", &"x".repeat(128 * 1024)]), ErrorCode::PayloadTooLarge),
        (with(|r| _ = r.env.insert("not-a-key".into(), String::new())), ErrorCode::BadEnv),
        (with(|r| r.user = Some("no-such-user".into())), ErrorCode::UserNotFound),
        (with(|r| r.user = Some("4294967295".into())), ErrorCode::UserNotFound),
        (with(|r| r.exec_id = Some("../up".into())), ErrorCode::InvalidField),
        (with(|r| r.stdin_b64 = Some("?".into())), ErrorCode::InvalidField),
    ] {
        assert_eq!(refusal(request).await.0, expected);
    }
}

#[tokio::test]
async fn more_environment_than_linux_takes_is_a_typed_error() {
    let mut request = argv(&["true"]);
    let value = "v".repeat(limits::ENV_VALUE_BYTES);
    request.env = (0..1000).map(|number| (format!("K{number}"), value.clone())).collect();
    assert_eq!(refusal(request).await.0, ErrorCode::PayloadTooLarge);
}

#[tokio::test]
async fn a_stream_that_cannot_start_is_an_error_and_no_stream() {
    let error = execs().stream(argv(&["/no/such/program"])).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ProgramNotFound);
}

#[tokio::test]
async fn counters_tell_the_started_from_the_failed() {
    let execs = execs();
    execs.run(argv(&["false"])).await.unwrap();
    for bad in [argv(&[]), argv(&["/no/such/program"])] {
        execs.run(bad).await.unwrap_err();
    }
    let counters = execs.counters();
    assert_eq!((counters.started, counters.failed, counters.timed_out), (1, 2, 0));
    assert_eq!(execs.running(), 0);
}
