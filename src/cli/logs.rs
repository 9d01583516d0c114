//! `guestctl logs`: what execs and services printed, as far as it is kept.
//!
//! Of one exec byte by byte, standard output and standard error apart. Of all, and of a service, line by line with its time and exec, and with
//! nothing in it that drives a terminal: whoever looks did not start all of them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::api::{LogEntry, OutputStream};
use crate::calendar;
use crate::client::{Client, LogQuery};

use super::failure::{Failure, exit};
use super::output::{self, Output};
use super::text::escape;

/// Pause of `--follow` when there is nothing new.
const FOLLOW_PAUSE: Duration = Duration::from_millis(250);

pub(super) async fn run(
    client: &Client,
    exec: Option<String>,
    service: Option<String>,
    follow: bool,
    output: Output,
) -> Result<u8, Failure> {
    let mut query = LogQuery { exec_id: exec, service, ..LogQuery::default() };
    loop {
        let logs = client.logs(&query).await?;
        for entry in &logs.entries {
            if output.json {
                output.json_line(entry)?;
                continue;
            }
            let bytes = STANDARD.decode(&entry.data_b64).map_err(|_| Failure::BadLog)?;
            match (&query.exec_id, entry.stream) {
                (None, _) => output::stdout(lines(entry, &bytes).as_bytes())?,
                (Some(_), OutputStream::Stdout) => output::stdout(&bytes)?,
                (Some(_), OutputStream::Stderr) => output::stderr(&bytes),
            }
        }
        // With an exec, the end means that it has ended; without, only that there is no more at present.
        let more = match logs.eof {
            true => follow && query.exec_id.is_none(),
            false => follow || !logs.entries.is_empty(),
        };
        if !more {
            return Ok(exit::OK);
        }
        if logs.entries.is_empty() {
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
        query.offset = logs.next_offset;
    }
}

/// An entry as lines, each with what it belongs to.
fn lines(entry: &LogEntry, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mark = match entry.stream {
        OutputStream::Stdout => "",
        OutputStream::Stderr => "err ",
    };
    let (time, id) = (utc(entry.timestamp), escape(entry.service.as_deref().unwrap_or(&entry.exec_id)));
    let line =
        |line: &str| format!("{time} {id} {mark}| {}\n", escape(line.trim_end_matches('\r')).replace(r"\t", "\t"));
    text.strip_suffix('\n').unwrap_or(&text).split('\n').map(line).collect()
}

/// Seconds since 1970 as RFC 3339 in UTC, in milliseconds.
fn utc(timestamp: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates when cast")]
    let millis = (timestamp.max(0.0) * 1000.0) as u64;
    let seconds = calendar::utc(millis / 1000);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), millis % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(utc(0.0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400.5), "2000-02-29T00:00:00.500Z");
        assert_eq!(utc(4_102_444_799.999), "2099-12-31T23:59:59.999Z");
        assert_eq!(utc(-1.0), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn each_line_says_whose_it_is_and_drives_no_terminal() {
        let entry =
            |stream| LogEntry { timestamp: 0.0, stream, data_b64: String::new(), exec_id: "e1".into(), service: None };
        let both = lines(&entry(OutputStream::Stdout), b"one\r\ntwo\x1b[2J\n")
            + &lines(&entry(OutputStream::Stderr), b"no end");
        insta::assert_snapshot!(both, @r"
        1970-01-01T00:00:00.000Z e1 | one
        1970-01-01T00:00:00.000Z e1 | two\u{1b}[2J
        1970-01-01T00:00:00.000Z e1 err | no end
        ");
    }
}
