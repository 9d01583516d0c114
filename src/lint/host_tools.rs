//! `guestd lint --host-tools`: what this machine's own sshd and systemd say of an image's settings.
//!
//! Off unless asked for, so that an image is judged alike everywhere. Nothing of the image is run, and its sshd_config is not read by
//! its path, where `Include` would lead to this machine's files: sshd gets a text in which everything that the image includes stands in
//! its place, and a host key that was made for the occasion. Both are in memory alone.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::{
    finding::Findings,
    report::NotRun,
    rules::{SSHD_SAYS, SYSTEMD_SAYS},
    sshd_config::{Configuration, Directive},
    tree::{Kind, Tree},
};
use crate::{keys::GoldenPair, limits, sys::files};

const SSHD: &str = "sshd -t";
const SYSTEMD: &str = "systemd-analyze verify";

/// Where programs of this machine are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const CONFIGURATION: &str = "/etc/ssh/sshd_config";
const UNITS: &str = "/etc/systemd/system";

/// That none of them was asked.
pub(super) fn not_asked() -> Vec<NotRun> {
    [SSHD, SYSTEMD].map(|check| NotRun { check, why: "only with --host-tools".to_owned() }).into()
}

/// Asks them; what cannot be asked is told as not run.
pub(super) fn ask(source: &Path, tree: &Tree, found: &mut Findings) -> Vec<NotRun> {
    let asked = [(SSHD, sshd(tree, found)), (SYSTEMD, systemd(source, tree, found))];
    asked.into_iter().filter_map(|(check, result)| result.err().map(|why| NotRun { check, why })).collect()
}

fn sshd(tree: &Tree, found: &mut Findings) -> Result<(), String> {
    let configuration = Configuration::read(tree, CONFIGURATION).ok_or("the image has no sshd_config")?;
    // Host keys are the image's own, and not there before its first boot.
    let is_passed_on =
        |directive: &&Directive| !matches!(directive.keyword.as_str(), "include" | "hostkey" | "hostcertificate");
    let passed_on: Vec<&Directive> = configuration.directives.iter().filter(is_passed_on).collect();
    let text: String = passed_on.iter().flat_map(|directive| [directive.text.as_str(), "\n"]).collect();
    let key = GoldenPair::generate().map_err(|error| error.to_string())?;
    let in_memory = |content: &str| {
        files::in_memory(c"guestd-lint", content.as_bytes()).map_err(|error| format!("cannot hand it over: {error}"))
    };
    let (text, key) = (in_memory(&text)?, in_memory(key.private_text())?);
    // By way of this process: sshd closes what it inherits before it reads anything.
    let path = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let said = run(
        Command::new(program("sshd")?).args(["-t", "-f", &path(&text), "-h", &path(&key)]),
        limits::LINT_TOOL_TIME,
    )?;
    for line in said.lines() {
        // Looked for when the configuration was accepted: a machine has both while an sshd runs there.
        let of_the_machine =
            line.starts_with("Missing privilege separation directory") || line.starts_with("Privilege separation user");
        if of_the_machine || line.contains(": terminating, ") {
            continue;
        }
        let of_line = line
            .strip_prefix(&format!("{}: line ", path(&text)))
            .or_else(|| line.strip_prefix(&format!("{} line ", path(&text))));
        let numbered = of_line.and_then(|rest| {
            let (number, message) = rest.split_once(": ")?;
            let directive = passed_on.get(number.parse::<usize>().ok()?.checked_sub(1)?)?;
            Some((directive, message))
        });
        match numbered {
            Some((directive, message)) => {
                found.add(&SSHD_SAYS, &directive.file, format_args!("line {}: {message}", directive.line));
            }
            None => found.add(&SSHD_SAYS, CONFIGURATION, format_args!("{}", line.replace(&path(&text), CONFIGURATION))),
        }
    }
    Ok(())
}

fn systemd(source: &Path, tree: &Tree, found: &mut Findings) -> Result<(), String> {
    if tree.is_image() {
        return Err("it reads directories, and this is an image".to_owned());
    }
    let units = tree.follow(UNITS).into_iter().flat_map(|directory| directory.children()).filter(|place| {
        let is_unit = [&b".service"[..], b".socket", b".timer", b".target", b".mount", b".path"]
            .iter()
            .any(|end| place.name().ends_with(end));
        // A template wants an instance.
        is_unit && place.facts().kind == Kind::File && !place.name().contains(&b'@')
    });
    let units: Vec<String> =
        units.take(limits::LINT_FINDINGS).map(|unit| String::from_utf8_lossy(unit.name()).into_owned()).collect();
    if units.is_empty() {
        return Err(format!("the image has no units of its own in {UNITS}"));
    }
    let root = source.canonicalize().map_err(|error| error.to_string())?;
    let mut command = Command::new(program("systemd-analyze")?);
    command
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(format!("--root={}", root.display()))
        .arg("--")
        .args(&units);
    let said = run(&mut command, limits::LINT_TOOL_TIME)?;
    if said.contains("unrecognized option") {
        return Err("systemd-analyze of this machine is too old for it".to_owned());
    }
    for line in said.lines() {
        found.add(&SYSTEMD_SAYS, UNITS, format_args!("{}", line.replace(&format!("{}/", root.display()), "/")));
    }
    Ok(())
}

fn program(name: &str) -> Result<PathBuf, String> {
    let path = PATH.split(':').map(|directory| Path::new(directory).join(name)).find(|path| path.is_file());
    path.ok_or_else(|| format!("this machine has no {name}"))
}

/// Runs a program to its end, or to that of its time, and gives what it said on its standard error.
fn run(command: &mut Command, time: Duration) -> Result<String, String> {
    let failed = |error: io::Error| format!("it cannot be run: {error}");
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let (sender, said) = mpsc::channel();
    if let Some(mut stderr) = child.stderr.take() {
        thread::spawn(move || {
            let mut text = Vec::new();
            let read = stderr.by_ref().take(limits::LINT_TOOL_BYTES).read_to_end(&mut text);
            // The rest is let go, so that whoever writes it comes to an end.
            let rest = read.and_then(|_| io::copy(&mut stderr, &mut io::sink()));
            // Nobody waits any more after the time is up.
            let _ = sender.send(rest.map(|_| String::from_utf8_lossy(&text).into_owned()));
        });
    }
    let said = said.recv_timeout(time);
    if said.is_err() {
        // It may have ended in the meantime.
        let _ = child.kill();
    }
    child.wait().map_err(failed)?;
    said.map_err(|_| format!("it did not end in {} s", time.as_secs()))?.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> String {
        run(Command::new("sh").args(["-c", script]), MINUTE).unwrap()
    }

    #[test]
    fn what_a_program_says_is_read_to_the_bound_and_it_has_nothing_of_this_environment() {
        assert_eq!(shell("echo out; echo err >&2; exit 3"), "err\n");
        assert!(!shell("env >&2").contains("CARGO"));
        assert_eq!(shell("head -c 1000000 /dev/zero >&2").len() as u64, limits::LINT_TOOL_BYTES);
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let error = run(Command::new("sleep").arg("600"), Duration::from_millis(1)).unwrap_err();
        assert_eq!(error, "it did not end in 0 s");
        let error = run(&mut Command::new("/nowhere/sshd"), MINUTE).unwrap_err();
        assert!(error.starts_with("it cannot be run: "), "{error}");
    }
}
