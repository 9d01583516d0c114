//! A GiB each way, by SHA-256.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use guestd::api::{AttachRequest, ExecRequest, ExecStatus, OutputStream};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::bytes::{Source, digest, hex};
use crate::kit::agent::{Agent, Home};
use crate::kit::http::{Http, NDJSON, OCTETS};
use crate::wire::follow;

/// Each way.
const BYTES: u64 = 1 << 30;
/// Pieces of the attached one.
const PIECES: u64 = 3;
/// Seed of the bytes.
const SEED: u64 = 77;

/// Sends or receives them all, and gives the digest of what came.
type Way<'a> = &'a dyn Fn() -> Result<String>;

/// One way of many bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Big {
    /// Which.
    pub(crate) what: &'static str,
    /// How fast, the making and checking of the bytes included.
    pub(crate) gib_s: f64,
    /// What did not hold.
    pub(crate) error: Option<String>,
}

/// All ways; `guestd` is the client too, by another name.
pub(crate) fn all(agent: &Agent, home: &Home, guestd: &Path) -> Result<Vec<Big>> {
    symlink(guestd, home.path("guestctl")).context("giving guestd its other name")?;
    let expected = Source::new(SEED, BYTES).digest()?;
    let ways: [(&str, Way<'_>); 6] = [
        ("1 GiB of stdout, binary frames", &|| stdout(agent, OCTETS)),
        ("1 GiB of stdout, lines", &|| stdout(agent, NDJSON)),
        ("1 GiB of stdin", &|| stdin(agent)),
        ("1 GiB by attach, in three pieces", &|| attach(agent)),
        ("1 GiB by guestctl cp, in", &|| cp(agent, home, Target::Vm)),
        ("1 GiB by guestctl cp, out", &|| cp(agent, home, Target::Host)),
    ];
    let measure = |(what, way): (&'static str, Way<'_>)| {
        let began = Instant::now();
        let same = way().and_then(|digest| {
            ensure!(digest == expected, "SHA-256 is {digest}, and not {expected}");
            Ok(())
        });
        let gib_s = BYTES as f64 / f64::from(1 << 30) / began.elapsed().as_secs_f64();
        Big { what, gib_s, error: same.err().map(|error| format!("{error:#}")) }
    };
    Ok(ways.into_iter().map(measure).collect())
}

fn command(words: &[&str]) -> Result<ExecRequest> {
    let program = std::env::current_exe()?.display().to_string();
    let command = std::iter::once(program.as_str()).chain(words.iter().copied()).map(str::to_owned).collect();
    Ok(ExecRequest { command, lossless: true, ..ExecRequest::default() })
}

fn emit() -> Result<ExecRequest> {
    command(&["emit", &SEED.to_string(), &BYTES.to_string(), "0"])
}

fn stdout(agent: &Agent, accept: &str) -> Result<String> {
    let mut http = Http::connect(agent.socket())?;
    http.send("POST", "/v1/exec/stream", accept, &serde_json::to_vec(&emit()?)?)?;
    let mut hash = Sha256::new();
    let exit = follow(http.answer()?, 0, |stream, bytes| {
        ensure!(stream == OutputStream::Stdout, "it wrote to stderr: {}", String::from_utf8_lossy(bytes));
        hash.update(bytes);
        Ok(())
    })?;
    ensure!(exit.code == 0, "{exit:?}");
    Ok(hex(hash))
}

/// The command says what it got.
fn stdin(agent: &Agent) -> Result<String> {
    let mut request = command(&["digest"])?;
    (request.exec_id, request.stdin_open) = (Some("soak-stdin".into()), true);
    let mut reading = Http::connect(agent.socket())?;
    reading.send("POST", "/v1/exec/stream", NDJSON, &serde_json::to_vec(&request)?)?;
    let answer = reading.answer()?;
    ensure!(answer.status == 200, "it did not start: {}", answer.status);

    let mut writing = Http::connect(agent.socket())?;
    let mut upload = writing.upload("POST", "/v1/exec/soak-stdin/stdin?eof=true", OCTETS)?;
    let mut source = Source::new(SEED, BYTES);
    let mut block = vec![0; 256 * 1024];
    loop {
        match std::io::Read::read(&mut source, &mut block)? {
            0 => break,
            count => upload.write_all(&block[..count]).context("writing its standard input")?,
        }
    }
    let (status, body) = upload.end()?.whole()?;
    ensure!((200..300).contains(&status), "the upload was answered {status}: {}", String::from_utf8_lossy(&body));
    let streamed = crate::wire::collect(answer, 0)?;
    Ok(String::from_utf8_lossy(&streamed.out).trim().to_owned())
}

/// Three readers one after the other; each goes in the middle, and the next goes on where it was.
fn attach(agent: &Agent) -> Result<String> {
    let mut request = emit()?;
    (request.exec_id, request.detach) = (Some("soak-attach".into()), true);
    let mut http = Http::connect(agent.socket())?;
    let _: ExecStatus = http.ask("POST", "/v1/exec", &serde_json::to_vec(&request)?)?;
    let mut hash = Sha256::new();
    let mut at = 0;
    for piece in 1..=PIECES {
        let until = if piece == PIECES { u64::MAX } else { BYTES / PIECES * piece };
        let mut http = Http::connect(agent.socket())?;
        let attach = AttachRequest { exec_id: "soak-attach".into(), cursor: Some(at), ..AttachRequest::default() };
        http.send("POST", "/v1/exec/stream/attach", OCTETS, &serde_json::to_vec(&attach)?)?;
        let exit = follow(http.answer()?, at, |_, bytes| {
            hash.update(bytes);
            at += bytes.len() as u64;
            ensure!(at < until, "{ENOUGH}");
            Ok(())
        });
        match exit {
            Ok(exit) => ensure!(exit.code == 0, "{exit:?}"),
            Err(error) if error.to_string() == ENOUGH => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hex(hash))
}

/// Where a copy goes.
#[derive(Debug, Clone, Copy)]
enum Target {
    Vm,
    Host,
}

/// A file, by the client. Agent and client see the same disk here, so the copy is read where it was made.
fn cp(agent: &Agent, home: &Home, target: Target) -> Result<String> {
    let (source, copy) = (home.path("source"), home.path("copy"));
    std::io::copy(&mut Source::new(SEED, BYTES), &mut File::create(&source)?).context("making a file")?;
    let there = |path: &Path| format!("vm:{}", path.display());
    let (from, to) = match target {
        Target::Vm => (source.display().to_string(), there(&copy)),
        Target::Host => (there(&source), copy.display().to_string()),
    };
    let endpoint = format!("unix:{}", agent.socket().display());
    let ran = Command::new(home.path("guestctl")).args(["--vm", &endpoint, "cp", &from, &to]).output()?;
    ensure!(ran.status.success(), "guestctl cp: {}: {}", ran.status, String::from_utf8_lossy(&ran.stderr));
    fs::remove_file(source)?;
    let digest = digest(File::open(&copy)?)?;
    fs::remove_file(copy)?;
    Ok(digest)
}

/// A reader that has what it wanted.
const ENOUGH: &str = "enough";
