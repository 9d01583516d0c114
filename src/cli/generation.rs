//! `guestctl snapshot` and `guestctl generation`: what a host does around a commit and after a restore.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::api::{
    GenerationNet, GenerationReport, GenerationRequest, GenerationSsh, GenerationState, SnapshotPrepare,
    SnapshotReport, SnapshotThaw, StepOutcome, StepReport,
};
use crate::client::{Client, ClientError, new_exec_id};

use super::args::{GenerationArgs, SnapshotAction};
use super::failure::{Failure, exit};
use super::output::Output;
use super::table::{Cell, Palette, Table, Tone};

pub(super) async fn snapshot(client: &Client, action: SnapshotAction, output: Output) -> Result<u8, Failure> {
    let report = match action {
        SnapshotAction::Prepare { freeze, watchdog } => {
            client.snapshot_prepare(&SnapshotPrepare { freeze, watchdog_secs: watchdog }).await?
        }
        SnapshotAction::Thaw => client.snapshot_thaw(&SnapshotThaw { wall_clock: Some(now()) }).await?,
    };
    output.show(&report, render_snapshot)?;
    Ok(if report.complete { exit::OK } else { exit::NOT_READY })
}

pub(super) async fn run(client: &Client, args: GenerationArgs, output: Output) -> Result<u8, Failure> {
    let Some(request) = request(args)? else {
        let state = client.generation().await?;
        output.show(&state, render_state)?;
        return Ok(exit::OK);
    };
    let report = client.announce_generation(&request).await?;
    output.show(&report, render_report)?;
    Ok(if report.complete { exit::OK } else { exit::NOT_READY })
}

/// The announcement, with this machine's time and random bytes; none where nothing was given.
fn request(args: GenerationArgs) -> Result<Option<GenerationRequest>, Failure> {
    let GenerationArgs { id, kind, vm_id, parent, commit, hostname, env, ip6, gateway, dns, mtu, .. } = args;
    let net = GenerationNet { ip6, gateway, dns, mtu };
    let authorized = (!args.authorized.is_empty()).then_some(args.authorized);
    let ssh = GenerationSsh { authorized, host_key_policy: args.host_keys.map(Into::into) };
    let request = GenerationRequest {
        generation_id: id.unwrap_or_default(),
        kind: kind.map(Into::into).unwrap_or_default(),
        vm_id,
        parent_vm_id: parent,
        commit_id: commit,
        hostname,
        env: (!env.is_empty()).then(|| env.into_iter().collect()),
        net: (net != GenerationNet::default()).then_some(net),
        ssh: (ssh != GenerationSsh::default()).then_some(ssh),
        machine_id: args.machine_id.map(Into::into).unwrap_or_default(),
        wall_clock: None,
        entropy: None,
    };
    if kind.is_none() && request == GenerationRequest::default() {
        return Ok(None);
    }
    let mut entropy = [0; 64];
    getrandom::fill(&mut entropy).map_err(|error| ClientError::NoRandomness { why: error.to_string() })?;
    let id = request.generation_id.clone();
    Ok(Some(GenerationRequest {
        generation_id: if id.is_empty() { new_exec_id()? } else { id },
        wall_clock: Some(now()),
        entropy: Some(STANDARD.encode(entropy)),
        ..request
    }))
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn render_snapshot(report: &SnapshotReport, palette: Palette) -> String {
    format!("{}{:?} after {} ms\n", steps(&report.steps, palette), report.phase, report.took_ms)
}

fn render_report(report: &GenerationReport, palette: Palette) -> String {
    let how = match (report.replayed, report.complete) {
        (true, _) => "was carried out before",
        (false, true) => "is complete",
        (false, false) => "is not complete; the same command with its --id repeats what failed",
    };
    let (id, steps) = (super::text::escape_lines(&report.generation_id), steps(&report.steps, palette));
    format!("{steps}generation {id} {how}; execs waited {} ms\n", report.gate_ms)
}

fn render_state(state: &GenerationState, palette: Palette) -> String {
    let mut table = Table::new(&["", ""]);
    let known = |text: &Option<String>| text.clone();
    let rows = [
        ("generation", known(&state.generation_id)),
        ("phase", Some(format!("{:?}", state.phase).to_lowercase())),
        ("kind", state.kind.map(|kind| format!("{kind:?}").to_lowercase())),
        ("vm id", known(&state.vm_id)),
        ("parent", known(&state.parent_vm_id)),
        ("commit", known(&state.commit_id)),
        ("interrupted", known(&state.interrupted)),
    ];
    for (name, value) in rows {
        table.row([Cell::new(name), Cell::or_dash(value)]);
    }
    let mut text: String = table.render(palette).lines().skip(1).map(|line| format!("{line}\n")).collect();
    for sign in &state.unacked {
        text.push_str(&format!("restored, and not announced: {}\n", super::text::escape_lines(&sign.message)));
    }
    text
}

fn steps(steps: &[StepReport], palette: Palette) -> String {
    let mut table = Table::new(&["STEP", "OUTCOME", "MS", "WHAT"]);
    for step in steps {
        let outcome = match step.outcome {
            StepOutcome::Done => Cell::toned(Tone::Good, "done"),
            StepOutcome::Skipped => Cell::new("skipped"),
            StepOutcome::Failed => Cell::toned(Tone::Bad, "failed"),
        };
        table.row([Cell::new(&step.step), outcome, Cell::new(step.took_ms.to_string()), Cell::new(&step.message)]);
    }
    table.render(palette)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::args::{Args, Command};
    use super::*;

    fn request_of(words: &[&str]) -> Option<GenerationRequest> {
        let words = ["guestctl", "generation"].iter().chain(words);
        let Command::Generation(args) = Args::try_parse_from(words).unwrap().command else { panic!("another command") };
        request(args).unwrap()
    }

    #[test]
    fn without_options_it_asks_and_with_them_it_announces() {
        assert_eq!(request_of(&[]), None);
        let request = request_of(&["--vm-id", "b", "--parent", "a", "-e", "K=v", "--ip6", "fd00::2/64"]).unwrap();
        assert_eq!((request.vm_id.as_deref(), request.env.unwrap()["K"].as_str()), (Some("b"), "v"));
        assert!(request.generation_id.len() == 32 && request.entropy.is_some() && request.wall_clock.is_some());
        assert_eq!(request_of(&["--kind", "resume", "--id", "x"]).unwrap().generation_id, "x");
    }

    #[test]
    fn a_report_says_of_each_step_what_came_of_it() {
        let step = |step: &str, outcome, message: &str| StepReport {
            step: step.to_owned(),
            outcome,
            message: message.to_owned(),
            took_ms: 0.25,
        };
        let report = GenerationReport {
            generation_id: "g-1".to_owned(),
            steps: vec![
                step("clock", StepOutcome::Done, "set by +3.000 s"),
                step("hook pre-thaw/10-a", StepOutcome::Failed, "exit 1"),
            ],
            gate_ms: 4.5,
            ..GenerationReport::default()
        };
        insta::assert_snapshot!(render_report(&report, Palette::Plain), @"
        STEP                OUTCOME  MS    WHAT
        clock               done     0.25  set by +3.000 s
        hook pre-thaw/10-a  failed   0.25  exit 1
        generation g-1 is not complete; the same command with its --id repeats what failed; execs waited 4.5 ms
        ");
    }
}
