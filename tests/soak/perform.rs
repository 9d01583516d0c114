//! One exec after another over a connection of one's own: asks, and checks every byte of the answer.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guestd::api::{AttachRequest, ErrorBody, ErrorCode, ExecRequest, ExecResult, ExecState, ExecStatus, TtySize};
use serde::Serialize;

use crate::bytes::Source;
use crate::job::Job;
use crate::kit::http::{Http, NDJSON, OCTETS};
use crate::wire::{self, Exit};

/// Exit status after a time-out.
const TIMED_OUT: i32 = 124;

/// Somebody who asks for execs.
#[derive(Debug)]
pub(crate) struct Worker {
    socket: PathBuf,
    http: Option<Http>,
    program: PathBuf,
}

impl Worker {
    /// Not connected yet.
    pub(crate) fn new(socket: &Path) -> Self {
        // Where it is not known, every exec fails and says so.
        let program = std::env::current_exe().unwrap_or_default();
        Self { socket: socket.to_owned(), http: None, program }
    }

    /// Has a job done and checks all that is known of it.
    pub(crate) fn perform(&mut self, number: usize, job: &Job) -> Result<()> {
        // Connections are kept, but not for ever, nor after a failure.
        let mut http = match self.http.take().filter(|_| !number.is_multiple_of(16)) {
            Some(http) => http,
            None => Http::connect(&self.socket)?,
        };
        let keep = self.ask(&mut http, number, job)?;
        self.http = keep.then_some(http);
        Ok(())
    }

    /// Whether the connection can be used again.
    fn ask(&self, http: &mut Http, number: usize, job: &Job) -> Result<bool> {
        let seed = number as u64;
        match *job {
            Job::Run { out, err } => {
                let result: ExecResult = http.ask("POST", "/v1/exec", &json(&self.emit(number, out, err)))?;
                ensure!(!result.truncated && result.exit_code == 0, "{:?}", summary(&result));
                same("stdout", &bytes_of(&result.stdout, result.stdout_b64.as_deref())?, seed, out)?;
                same("stderr", &bytes_of(&result.stderr, result.stderr_b64.as_deref())?, seed + 1, err)?;
            }
            Job::Lines { out, err } => self.stream(http, NDJSON, number, out, err)?,
            Job::Frames { out, err } => self.stream(http, OCTETS, number, out, err)?,
            Job::Stdin { bytes } => {
                let mut request = exec(["cat"]);
                request.stdin_b64 = Some(STANDARD.encode(Source::new(seed, bytes).all()));
                let result: ExecResult = http.ask("POST", "/v1/exec", &json(&request))?;
                ensure!(result.exit_code == 0, "{:?}", summary(&result));
                same("stdout", &bytes_of(&result.stdout, result.stdout_b64.as_deref())?, seed, bytes)?;
            }
            Job::Exit { code } => {
                let result = run(http, &exec(["sh", "-c", &format!("exit {code}")]))?;
                ensure!(result.exit_code == code && result.signal.is_none(), "{:?}", summary(&result));
            }
            Job::Dies { signal } => {
                let result = run(http, &exec(["sh", "-c", &format!("kill -{signal} $$")]))?;
                let seen = (result.exit_code, result.signal);
                ensure!(seen == (128 + signal, Some(signal)), "{:?}", summary(&result));
            }
            Job::Missing => {
                let (status, body) = http.call("POST", "/v1/exec", &json(&exec(["/no/such/program"])))?;
                let error: ErrorBody = serde_json::from_slice(&body)?;
                ensure!(error.code == ErrorCode::ProgramNotFound, "answered {status}: {error:?}");
            }
            Job::Orphan => {
                let result = run(http, &exec(["sh", "-c", "sleep 0.05 & echo hi"]))?;
                ensure!(result.stdout == "hi\n" && result.exit_code == 0, "{:?}", summary(&result));
            }
            Job::TimesOut => {
                let mut request = exec(["sh", "-c", "setsid sleep 600 & sleep 600"]);
                request.timeout_secs = Some(1);
                let result = run(http, &request)?;
                ensure!(result.timed_out && result.exit_code == TIMED_OUT, "{:?}", summary(&result));
            }
            Job::Vanish { out } => {
                let mut gone = Http::with_buffer(&self.socket, 64)?;
                let request = json(&self.emit(number, out, 0));
                gone.send("POST", "/v1/exec/stream", NDJSON, &request)?;
                ensure!(gone.answer()?.status == 200, "the stream did not begin");
                drop(gone);
                let status = wait(http, &id(number))?;
                let code = status.exit.as_ref().map(|exit| exit.exit_code);
                ensure!(code == Some(0) && status.cursor == out, "{status:?}");
            }
            Job::Detached { out, from } => self.detached(http, number, out, from)?,
            Job::Signalled { tree } => self.signalled(http, number, tree)?,
            Job::Terminal { rows, cols } => {
                let mut request = exec(["sh", "-c", "stty size; test -t 0 && test -t 1 && test -t 2 && tty; exit 7"]);
                request.tty = Some(TtySize { rows, cols });
                http.send("POST", "/v1/exec/stream", NDJSON, &json(&request))?;
                let streamed = wire::collect(http.answer()?, 0)?;
                let text = String::from_utf8_lossy(&streamed.out);
                ensure!(
                    text.starts_with(&format!("{rows} {cols}\r\n/dev/pts/")) && streamed.exit.code == 7,
                    "{text:?}"
                );
            }
        }
        Ok(true)
    }

    fn emit(&self, number: usize, out: u64, err: u64) -> ExecRequest {
        let words = [&number as &dyn fmt::Display, &out, &err].map(|word| word.to_string());
        let mut request = exec([&self.program.to_string_lossy(), "emit", &words[0], &words[1], &words[2]]);
        request.exec_id = Some(id(number));
        request
    }

    fn stream(&self, http: &mut Http, accept: &str, number: usize, out: u64, err: u64) -> Result<()> {
        let mut request = self.emit(number, out, err);
        request.lossless = true;
        http.send("POST", "/v1/exec/stream", accept, &json(&request))?;
        let answer = http.answer()?;
        ensure!(answer.media_type == accept, "asked for {accept}, and got {} {}", answer.status, answer.media_type);
        let streamed = wire::collect(answer, 0)?;
        ensure!(streamed.exit == Exit { code: 0, signal: None }, "{:?}", streamed.exit);
        same("stdout", &streamed.out, number as u64, out)?;
        same("stderr", &streamed.err, number as u64 + 1, err)
    }

    fn detached(&self, http: &mut Http, number: usize, out: u64, from: u64) -> Result<()> {
        let mut request = self.emit(number, out, 0);
        request.detach = true;
        let status: ExecStatus = http.ask("POST", "/v1/exec", &json(&request))?;
        ensure!(status.exec_id == id(number), "{status:?}");
        if from > 0 {
            // A byte that is not there yet cannot be asked for.
            wait(http, &id(number))?;
        }
        let attach = AttachRequest { exec_id: id(number), cursor: Some(from), ..AttachRequest::default() };
        http.send("POST", "/v1/exec/stream/attach", OCTETS, &json(&attach))?;
        let streamed = wire::collect(http.answer()?, from)?;
        let whole = Source::new(number as u64, out).all();
        ensure!(streamed.out == whole[from as usize..], "the output from byte {from} on is not the same");
        let (status, body) = http.call("DELETE", &format!("/v1/exec/{}", id(number)), b"")?;
        // So many others may have ended meanwhile that its record had to go.
        if status != 404 {
            let status: ExecStatus = serde_json::from_slice(&body)?;
            ensure!(status.state == ExecState::Exited && status.cursor == out, "{status:?}");
        }
        let (status, _) = http.call("GET", &format!("/v1/exec/{}", id(number)), b"")?;
        ensure!(status == 404, "a removed exec is answered {status}");
        Ok(())
    }

    fn signalled(&self, http: &mut Http, number: usize, tree: bool) -> Result<()> {
        let mut request = exec(["sleep", "600"]);
        (request.exec_id, request.detach) = (Some(id(number)), true);
        let _: ExecStatus = http.ask("POST", "/v1/exec", &json(&request))?;
        let to = if tree { "tree" } else { "process" };
        let body = format!(r#"{{"signal": "KILL", "to": "{to}"}}"#);
        let (status, body) = http.call("POST", &format!("/v1/exec/{}/signal", id(number)), body.as_bytes())?;
        ensure!((200..300).contains(&status), "answered {status}: {}", String::from_utf8_lossy(&body));
        let status = wait(http, &id(number))?;
        let signal = status.exit.as_ref().and_then(|exit| exit.signal);
        ensure!(signal == Some(9), "{status:?}");
        Ok(())
    }
}

fn id(number: usize) -> String {
    format!("soak-{number}")
}

fn exec<'a>(argv: impl IntoIterator<Item = &'a str>) -> ExecRequest {
    ExecRequest { command: argv.into_iter().map(str::to_owned).collect(), ..ExecRequest::default() }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    // Requests are strings and numbers, which always serialize.
    serde_json::to_vec(body).unwrap_or_default()
}

fn run(http: &mut Http, request: &ExecRequest) -> Result<ExecResult> {
    http.ask("POST", "/v1/exec", &json(request))
}

/// Waits until an exec has ended.
fn wait(http: &mut Http, id: &str) -> Result<ExecStatus> {
    loop {
        let status: ExecStatus = http.ask("GET", &format!("/v1/exec/{id}?wait_secs=60"), b"")?;
        if status.state == ExecState::Exited {
            return Ok(status);
        }
    }
}

fn bytes_of(text: &str, exact: Option<&str>) -> Result<Vec<u8>> {
    Ok(match exact {
        Some(exact) => STANDARD.decode(exact)?,
        None => text.as_bytes().to_vec(),
    })
}

fn same(what: &str, got: &[u8], seed: u64, bytes: u64) -> Result<()> {
    let expected = Source::new(seed, bytes).all();
    if got == expected {
        return Ok(());
    }
    let at = got.iter().zip(&expected).position(|(one, other)| one != other);
    bail!("{what} has {} bytes, of {bytes}, and differs at {at:?}", got.len())
}

/// A result without its output.
fn summary(result: &ExecResult) -> (i32, Option<i32>, bool, usize, usize) {
    (result.exit_code, result.signal, result.timed_out, result.stdout.len(), result.stderr.len())
}
