//! `guestd lint DIR|IMAGE.ext4`: what must and must not be in a golden image, looked for before anybody boots it.
//!
//! ```text
//! directory ──┐                      rules (pure)
//!             ├──> tree (read once) ──────────────> findings ──> waivers ──> report: table or JSON
//! ext4 image ─┘                      host_tools, if asked
//! ```
//! Owns the tree as it is read, the rules, waivers and the report. Refuses: to run anything of an image, to mount it, to write to it,
//! to follow a link out of it, to show a secret. The image is not trusted: names are made harmless, and all is bounded.

mod finding;
mod host_tools;
mod pattern;
mod report;
mod rules;
mod sshd_config;
mod tree;
mod units;
mod waivers;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

pub use finding::{Finding, Rule, Severity};
pub use report::{NotRun, Report};
pub use tree::OpenError;
pub use waivers::WaiverError;

use crate::{
    display::{table::Palette, text::escape},
    limits,
};
use finding::Findings;
use waivers::Waivers;

/// Exit codes: an error finding, and a lint that could not be made.
const FOUND: u8 = 1;
const NOT_LINTED: u8 = 2;

/// Looks a golden image over before it is booted: exit 1 on an error finding, 2 if it could not be looked at.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LintArgs {
    /// Directory with a root file system, or ext4 image; neither booted nor mounted
    #[arg(value_name = "DIR|IMAGE", required_unless_present = "rules")]
    pub source: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// TOML file of findings that are meant to be so: `[[waiver]]` with `rule`, `path` and `reason`
    #[arg(long, value_name = "FILE")]
    pub waivers: Option<PathBuf>,
    /// Also ask this machine's `sshd -t` and `systemd-analyze verify` about the image's settings
    #[arg(long)]
    pub host_tools: bool,
    /// List the rules
    #[arg(long)]
    pub rules: bool,
}

/// Why an image could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// It cannot be opened, or is none.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The waivers cannot be used.
    #[error(transparent)]
    Waivers(#[from] WaiverError),
    /// It takes longer than any image.
    #[error(
        "given up after {} s: there is more to read than any image has, or it was made to be read without an end",
        limits::LINT_TIME.as_secs()
    )]
    Endless,
    /// The report cannot be written.
    #[error("cannot print the report: {0}")]
    Print(#[from] io::Error),
}

/// All rules.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    rules::all()
}

/// Runs `guestd lint` and prints what was found.
pub fn run(args: &LintArgs) -> ExitCode {
    match print(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("guestd: {}", escape(&error.to_string()));
            ExitCode::from(NOT_LINTED)
        }
    }
}

fn print(args: &LintArgs) -> Result<ExitCode, LintError> {
    let (text, code) = if args.rules {
        let rules = rules::all();
        let text =
            if args.json { report::rules_json(rules) } else { Ok(report::rules_text(rules, Palette::of_stdout())) };
        (text, ExitCode::SUCCESS)
    } else {
        let given = args.clone();
        let report = within(limits::LINT_TIME, move || lint(&given)).ok_or(LintError::Endless)??;
        let text = if args.json { report.json() } else { Ok(report.text(Palette::of_stdout())) };
        (text, if report.failed() { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
    };
    // Not print!, which panics when the reader is gone.
    io::stdout().write_all(text.map_err(io::Error::from)?.as_bytes())?;
    Ok(code)
}

/// Does something on a thread of its own, which is left behind if it takes longer: nothing else can stop a reader that a crafted file
/// system keeps busy. It ends with the process.
fn within<T: Send + 'static>(time: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, done) = mpsc::sync_channel(1);
    let worker = thread::spawn(move || {
        // Nobody waits any more when the time is up.
        let _ = sender.send(work());
    });
    match done.recv_timeout(time) {
        Ok(result) => Some(result),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => match worker.join() {
            Ok(()) => None,
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// Looks at `args.source` and says what was found.
pub fn lint(args: &LintArgs) -> Result<Report, LintError> {
    let waivers = args.waivers.as_deref().map(Waivers::load).transpose()?.unwrap_or_default();
    let source = args.source.clone().unwrap_or_default();
    let medium = tree::open(&source)?;
    let mut found = Findings::new(waivers);
    let builder = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    rules::check(&medium, builder.as_deref(), &mut found);
    let not_run = match &medium.tree {
        Some(tree) if args.host_tools => host_tools::ask(&source, tree, &mut found),
        _ => host_tools::not_asked(),
    };
    rules::conclude(&medium, &mut found);
    Ok(Report { source: source.display().to_string(), ext4: medium.ext4, findings: found.finish(), not_run })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_given_up() {
        let (_never, wait) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || wait.recv()), None);
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
    }

    #[test]
    #[should_panic(expected = "of the work")]
    fn a_panic_is_passed_on() {
        within(Duration::from_secs(60), || panic!("of the work"));
    }
}
