//! `guestctl ps`, `signal` and `wait`: execs as they are.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::{ExecState, ExecStatus, SignalRequest, SignalTarget};
use crate::client::Client;

use super::exec::status;
use super::failure::{Failure, exit};
use super::output::Output;
use super::services;
use super::table::{Cell, Palette, Table, Tone};

pub(super) async fn list(client: &Client, all: bool, output: Output) -> Result<u8, Failure> {
    let mut execs = client.execs().await?;
    execs.retain(|exec| all || exec.state == ExecState::Running);
    // Programs have `service list --json` for those.
    let services = if output.json { None } else { client.services().await? };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    output.show(&execs, |execs, palette| {
        let services = services.map(|services| format!("\n{}", services::render(&services, palette)));
        render(execs, now, palette) + &services.unwrap_or_default()
    })?;
    Ok(exit::OK)
}

pub(super) async fn signal(client: &Client, id: &str, signal: String, to: SignalTarget) -> Result<u8, Failure> {
    client.exec_signal(id, &SignalRequest { signal: bare(&signal), to }).await?;
    Ok(exit::OK)
}

/// Silent for people: its answer is the exit status.
pub(super) async fn wait(client: &Client, id: &str, output: Output) -> Result<u8, Failure> {
    let ended = client.exec_wait(id).await?;
    if output.json {
        output.json_line(&ended)?;
    }
    Ok(ended.exit.map_or(exit::FAILURE, |ended| match ended.timed_out {
        true => exit::TIMED_OUT,
        false => status(ended.exit_code, ended.signal),
    }))
}

/// The name without SIG, in capitals, as guestd has it; a number as it is.
fn bare(signal: &str) -> String {
    let name = signal.to_ascii_uppercase();
    name.strip_prefix("SIG").unwrap_or(&name).to_owned()
}

fn render(execs: &[ExecStatus], now: f64, palette: Palette) -> String {
    if execs.is_empty() {
        return "no execs\n".to_owned();
    }
    let mut table = Table::new(&["ID", "STATE", "AGE", "PID", "USER", "TTY", "OUTPUT", "COMMAND"]);
    for exec in execs {
        table.row([
            Cell::new(&exec.exec_id),
            state(exec),
            Cell::new(age(now - exec.started_at)),
            Cell::or_dash(exec.pid.map(|pid| pid.to_string())),
            Cell::new(exec.user.as_deref().unwrap_or("root")),
            Cell::new(if exec.tty { "yes" } else { "-" }),
            Cell::new(super::text::bytes(exec.cursor)),
            Cell::new(command(&exec.command)),
        ]);
    }
    table.render(palette)
}

fn state(exec: &ExecStatus) -> Cell {
    let Some(ended) = &exec.exit else {
        return Cell::toned(Tone::Good, "running");
    };
    match (ended.timed_out, ended.oom_killed, ended.signal, ended.exit_code) {
        (true, ..) => Cell::toned(Tone::Bad, "timed out"),
        (_, true, ..) => Cell::toned(Tone::Bad, "out of memory"),
        (_, _, Some(signal), _) => Cell::toned(Tone::Bad, format!("signal {signal}")),
        (.., 0) => Cell::new("exit 0"),
        (.., code) => Cell::toned(Tone::Bad, format!("exit {code}")),
    }
}

/// A command line as it would be typed, cut to what fits a line.
pub(super) fn command(argv: &[String]) -> String {
    const SHOWN: usize = 60;
    let line = argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN {
        return line;
    }
    line.chars().take(SHOWN - 1).chain(['…']).collect()
}

fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_alphanumeric() || "-_./:=,+@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Seconds for people; clocks of a host and a VM may differ, so that an age may be nonsense, but never negative.
fn age(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float saturates when cast; ages are shown in whole units"
    )]
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use crate::api::ExecExit;

    use super::*;

    fn exec(id: &str, exit: Option<ExecExit>) -> ExecStatus {
        ExecStatus {
            exec_id: id.into(),
            state: if exit.is_some() { ExecState::Exited } else { ExecState::Running },
            command: ["sh", "-c", "echo it's \u{1b}[2J"].map(String::from).into(),
            user: None,
            pid: exit.is_none().then_some(412),
            tty: exit.is_none(),
            started_at: 1000.0,
            finished_at: None,
            exit,
            cursor_start: 0,
            cursor: 2048,
            readers: 0,
            generation_id: None,
            fork_cursor: None,
            frozen: false,
        }
    }

    #[test]
    fn execs_are_a_table_that_cannot_drive_a_terminal() {
        let killed = ExecExit { exit_code: 137, signal: Some(9), ..ExecExit::default() };
        let execs = [exec("build-7", None), exec("old", Some(ExecExit::default())), exec("shot", Some(killed))];
        insta::assert_snapshot!(render(&execs, 1090.0, Palette::Plain), @r"
        ID       STATE     AGE   PID  USER  TTY  OUTPUT   COMMAND
        build-7  running   90 s  412  root  yes  2.0 KiB  sh -c 'echo it'\''s \u{1b}[2J'
        old      exit 0    90 s  -    root  -    2.0 KiB  sh -c 'echo it'\''s \u{1b}[2J'
        shot     signal 9  90 s  -    root  -    2.0 KiB  sh -c 'echo it'\''s \u{1b}[2J'
        ");
    }

    #[test]
    fn a_signal_is_named_as_people_do() {
        for name in ["TERM", "term", "SIGTERM", "sigterm"] {
            assert_eq!(bare(name), "TERM");
        }
        assert_eq!(bare("9"), "9");
    }

    #[test]
    fn an_age_is_never_negative() {
        let ages = [-5.0, 119.9, 120.0, 7200.0, 1e9].map(age);
        assert_eq!(ages, ["0 s", "119 s", "2 min", "2 h", "11574 d"]);
    }

    #[test]
    fn a_long_command_is_cut() {
        assert_eq!(command(&["x".repeat(200)]).chars().count(), 60);
        assert_eq!(command(&["".into(), "a b".into()]), "'' 'a b'");
    }
}
