//! `guestctl exec`, `attach` and `shell`: a command in the VM as if it ran here.
//!
//! Its bytes pass unchanged, standard output and standard error apart; its exit status becomes guestctl's.
//! ```text
//!  exec ──┬── -d ────────────────> its id
//!         ├── -t ───────────────> console ──┐
//!         └── otherwise ────────> follow ───┼──> exit status
//!  attach ── terminal on both sides? ───────┤
//!  shell ───────────────────────> console ──┘
//! ```

use std::io::{self, IsTerminal as _};

use crate::api::{ExecExit, ExecLimits, ExecRequest, TtySize};
use crate::client::{Client, ReadFrom, new_exec_id};

use super::args::ExecArgs;
use super::console::{Console, Typing};
use super::escape::Escapes;
use super::failure::{Failure, exit};
use super::follow::{self, Part};
use super::output::{self, Output};
use super::terminal;

pub(super) async fn run(client: &Client, args: ExecArgs, output: Output) -> Result<u8, Failure> {
    if args.tty && output.json {
        return Err(Failure::NoJson("exec -t"));
    }
    let (stdin, detach) = (args.stdin, args.detach);
    let request = request(args, terminal::size)?;
    if detach {
        let status = client.exec_start(&request).await?;
        output.show(&status, |status, _| format!("{}\n", super::text::escape(&status.exec_id)))?;
        return Ok(exit::OK);
    }
    let exit = if request.tty.is_some() {
        let id = client.exec_start(&request).await?.exec_id;
        let typing = if stdin { Typing::Keys(Escapes::docker()) } else { Typing::Nothing };
        Console { client, id, from: ReadFrom::Cursor(0), typing, redraw: false, hang_up: false }.run().await?
    } else {
        let follow = client.exec_follow(&request).await?;
        follow::run(client, follow, Part { stdin, signals: true }, output).await?
    };
    conclude(&exit, request.command.first(), request.timeout_secs)
}

/// The same exec again.
pub(super) async fn attach(
    client: &Client,
    id: String,
    from: Option<u64>,
    latest: bool,
    output: Output,
) -> Result<u8, Failure> {
    let status = client.exec_status(&id).await?;
    let here = io::stdin().is_terminal() && io::stdout().is_terminal() && !output.json;
    let begin = |usual| match (from, latest) {
        (Some(cursor), _) => ReadFrom::Cursor(cursor),
        (None, true) => ReadFrom::Latest,
        (None, false) => usual,
    };
    let exit = if status.tty && here {
        let typing = Typing::Keys(Escapes::docker());
        let from = begin(ReadFrom::Latest);
        Console { client, id, from, typing, redraw: true, hang_up: false }.run().await?
    } else {
        let follow = client.exec_follow_again(&id, begin(ReadFrom::Cursor(0))).await?;
        follow::run(client, follow, Part { stdin: false, signals: false }, output).await?
    };
    conclude(&exit, status.command.first(), None)
}

/// A login shell of a user, on a terminal.
pub(super) async fn shell(client: &Client, user: Option<String>, output: Output) -> Result<u8, Failure> {
    if output.json {
        return Err(Failure::NoJson("shell"));
    }
    // SHELL is that of the account; every shell takes -l.
    let argv = ["/bin/sh", "-c", r#"exec "${SHELL:-/bin/sh}" -l"#].map(String::from).to_vec();
    let args = ExecArgs { tty: true, stdin: true, user, argv, ..ExecArgs::default() };
    let request = request(args, terminal::size)?;
    let id = client.exec_start(&request).await?.exec_id;
    let typing = Typing::Keys(Escapes::ssh());
    let exit = Console { client, id, from: ReadFrom::Cursor(0), typing, redraw: false, hang_up: true }.run().await?;
    Ok(status(exit.exit_code, exit.signal))
}

fn request(args: ExecArgs, size: impl FnOnce() -> TtySize) -> Result<ExecRequest, Failure> {
    let mut env: std::collections::BTreeMap<String, String> = args.env.into_iter().collect();
    if args.tty
        && let Ok(term) = std::env::var("TERM")
    {
        env.entry("TERM".to_owned()).or_insert(term);
    }
    let limits = ExecLimits { memory_bytes: args.memory, pids: args.pids, cpu_weight: args.cpu_weight };
    Ok(ExecRequest {
        command: args.argv,
        env,
        working_dir: args.workdir,
        user: args.user,
        timeout_secs: args.timeout,
        // Chosen here, so that a request whose answer was lost is not run twice.
        exec_id: Some(match args.id {
            Some(id) => id,
            None => new_exec_id()?,
        }),
        // A command on a terminal or alone must not wait for a reader; one whose output is wanted must lose none of it.
        lossless: !args.detach && !args.tty,
        stdin_open: args.stdin,
        tty: args.tty.then(size),
        on_branch: args.on_branch.into(),
        limits: (limits != ExecLimits::default()).then_some(limits),
        ..ExecRequest::default()
    })
}

/// What an exit means for guestctl.
fn conclude(ended: &ExecExit, program: Option<&String>, after: Option<u64>) -> Result<u8, Failure> {
    if ended.oom_killed {
        output::stderr(b"guestctl: the kernel ended a process of it for want of memory\n");
    }
    if ended.timed_out {
        let program = program.cloned().unwrap_or_default();
        return Err(Failure::ExecTimedOut { program, after: after.filter(|secs| *secs > 0) });
    }
    Ok(status(ended.exit_code, ended.signal))
}

/// An exit status as a shell shows it.
pub(super) fn status(exit_code: i32, signal: Option<i32>) -> u8 {
    let status = signal.map_or(exit_code, |signal| signal.saturating_add(128));
    u8::try_from(status).unwrap_or(exit::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_the_commands_own_and_a_signal_counts_from_128() {
        assert_eq!(status(7, None), 7);
        assert_eq!(status(255, None), 255);
        assert_eq!(status(137, Some(9)), 137);
        assert_eq!(status(0, Some(15)), 143);
    }

    #[test]
    fn a_status_that_no_process_can_have_is_a_failure_and_never_a_success() {
        for impossible in [-1, 256, 512, i32::MAX] {
            assert_eq!(status(impossible, None), 125);
        }
        assert_eq!(status(0, Some(i32::MAX)), 125);
    }

    #[test]
    fn a_command_waits_for_its_reader_only_where_it_has_one_that_wants_all() {
        let lossless = |args| request(args, || TtySize { rows: 24, cols: 80 }).unwrap().lossless;
        assert!(lossless(ExecArgs::default()));
        assert!(!lossless(ExecArgs { detach: true, ..ExecArgs::default() }));
        assert!(!lossless(ExecArgs { tty: true, ..ExecArgs::default() }));
    }
}
