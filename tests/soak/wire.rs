//! Output streams as the wire has them, read to their last frame.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guestd::api::{Channel, ChannelStatus, OutputStream, StreamFrame};

use crate::kit::http::{Answer, NDJSON, OCTETS};

/// What a stream brought, checked for order.
#[derive(Debug, Default)]
pub(crate) struct Streamed {
    /// Bytes of standard output, or of the terminal.
    pub(crate) out: Vec<u8>,
    /// Bytes of standard error.
    pub(crate) err: Vec<u8>,
    /// The last frame.
    pub(crate) exit: Exit,
}

/// How it ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit status.
    pub(crate) code: i32,
    /// Signal.
    pub(crate) signal: Option<i32>,
}

/// Gives each piece of a stream that begins at byte `from` to `take`, and how it ended.
pub(crate) fn follow(
    answer: Answer<'_>,
    from: u64,
    mut take: impl FnMut(OutputStream, &[u8]) -> Result<()>,
) -> Result<Exit> {
    match answer.media_type.as_str() {
        NDJSON => lines(answer.success()?, from, &mut take),
        OCTETS => frames(answer.success()?, from, &mut take),
        other => {
            let (status, body) = (other.to_owned(), answer.whole()?);
            bail!("no stream but {status}: {} {}", body.0, String::from_utf8_lossy(&body.1))
        }
    }
}

/// Keeps it all.
pub(crate) fn collect(answer: Answer<'_>, from: u64) -> Result<Streamed> {
    let mut streamed = Streamed::default();
    let Streamed { out, err, .. } = &mut streamed;
    let exit = follow(answer, from, |stream, bytes| {
        match stream {
            OutputStream::Stdout => out.extend_from_slice(bytes),
            OutputStream::Stderr => err.extend_from_slice(bytes),
        }
        Ok(())
    })?;
    streamed.exit = exit;
    Ok(streamed)
}

type Take<'a> = &'a mut dyn FnMut(OutputStream, &[u8]) -> Result<()>;

fn lines(body: impl Read, from: u64, take: Take<'_>) -> Result<Exit> {
    let mut at = from;
    let mut end = None;
    for line in BufReader::new(body).lines() {
        ensure!(end.is_none(), "something follows the last frame");
        match serde_json::from_str(&line?)? {
            StreamFrame::Chunk { stream, data_b64, cursor, .. } => {
                let bytes = STANDARD.decode(data_b64)?;
                at += bytes.len() as u64;
                ensure!(at == cursor, "a chunk ends at byte {at} and says {cursor}");
                take(stream, &bytes)?;
            }
            frame => end = Some(exit(frame, at)?),
        }
    }
    end.context("the stream was cut off")
}

fn frames(body: impl Read, from: u64, take: Take<'_>) -> Result<Exit> {
    let mut body = BufReader::with_capacity(256 * 1024, body);
    let mut at = from;
    let mut begun = false;
    let mut payload = Vec::new();
    loop {
        let mut header = [0; 8];
        body.read_exact(&mut header).context("reading the header of a frame")?;
        let [channel, _, _, _, length @ ..] = header;
        payload.resize(u32::from_be_bytes(length) as usize, 0);
        body.read_exact(&mut payload).context("reading a frame")?;
        let stream = match Channel::try_from(channel) {
            Ok(Channel::Stdout) => OutputStream::Stdout,
            Ok(Channel::Stderr) => OutputStream::Stderr,
            Ok(Channel::Status) => match serde_json::from_slice(&payload)? {
                ChannelStatus::Attached { attached, .. } => {
                    ensure!(!begun && attached == from, "attached at {attached}, and {from} was asked for");
                    begun = true;
                    continue;
                }
                ChannelStatus::Frame(frame) => {
                    let exit = exit(frame, at)?;
                    ensure!(body.fill_buf()?.is_empty(), "something follows the last frame");
                    return Ok(exit);
                }
            },
            other => bail!("a frame of channel {other:?}"),
        };
        ensure!(begun, "output before it was said where it begins");
        at += payload.len() as u64;
        take(stream, &payload)?;
    }
}

fn exit(frame: StreamFrame, at: u64) -> Result<Exit> {
    match frame {
        StreamFrame::Exit { exit_code: code, signal, cursor, .. } => {
            ensure!(cursor == at, "{at} bytes came, and the exit says {cursor}");
            Ok(Exit { code, signal })
        }
        other => bail!("not an exit: {other:?}"),
    }
}
