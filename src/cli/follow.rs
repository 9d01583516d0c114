//! An exec without a terminal: its output here, our input there, signals passed on.
//!
//! Three things go on at once, in one task: output to its end, which is the end of all; input, whose end is only its own; and
//! signals.

use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::api::{ExecExit, OutputStream, SignalRequest, SignalTarget};
use crate::client::{Client, ExecEvent, ExecFollow};
use crate::limits;

use super::failure::Failure;
use super::input;
use super::output::Output;
use super::signals::{Asked, Insistence, Signals};
use super::sink::Sink;
use super::text::escape_json;

/// What is done beside printing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Pass standard input on.
    pub(super) stdin: bool,
    /// Pass signals on; otherwise the first one ends guestctl.
    pub(super) signals: bool,
}

/// Prints an exec to its end.
pub(super) async fn run(
    client: &Client,
    mut follow: ExecFollow,
    part: Part,
    output: Output,
) -> Result<ExecExit, Failure> {
    let exec_id = follow.exec_id().to_owned();
    let mut signals = Signals::new()?;
    let mut sink = Sink::default();
    let print = print(&mut follow, &mut sink, output);
    let asked = async {
        let mut insistence = Insistence::default();
        loop {
            let asked = signals.next().await;
            if !part.signals || !insistence.is_for_command(asked, Instant::now()) {
                return asked;
            }
            // Where it cannot be passed on, as to a VM that stands still, there is still the second one.
            let request = to_group(asked);
            tokio::select! {
                _ = client.exec_signal(&exec_id, &request) => {}
                again = signals.next() => return again,
            }
        }
    };
    let feed = async {
        if part.stdin {
            feed(client, &exec_id).await?;
        }
        std::future::pending::<Result<(), Failure>>().await
    };
    let end = tokio::select! {
        exit = print => exit,
        failed = feed => Err(failed.err().unwrap_or(Failure::StdoutClosed)),
        asked = asked => Err(Failure::Left { exec_id: exec_id.clone(), signal: asked.number() }),
    };
    // However it ended, what came before that is shown. That may take long, and needs no connection.
    drop(follow);
    let patience = matches!(end, Err(Failure::Left { .. })).then_some(limits::CLIENT_LEAVE_TIME);
    let written = sink.finish_unless(&mut signals, patience).await;
    let exit = end?;
    written?;
    Ok(exit)
}

/// As from a terminal, which signals the group in its foreground.
pub(super) fn to_group(asked: Asked) -> SignalRequest {
    SignalRequest { signal: asked.name().to_owned(), to: SignalTarget::Group }
}

async fn feed(client: &Client, exec_id: &str) -> Result<(), Failure> {
    let (failed, failure) = oneshot::channel();
    let input = input::stream(input::start()?, failed);
    tokio::select! {
        fed = client.exec_feed(exec_id, input) => fed.map(drop).map_err(Failure::Client),
        Ok(error) = failure => Err(Failure::Stdin(error)),
    }
}

async fn print(follow: &mut ExecFollow, sink: &mut Sink, output: Output) -> Result<ExecExit, Failure> {
    while let Some(event) = follow.next().await? {
        if output.json {
            sink.write(OutputStream::Stdout, line(&event, follow.exec_id())?).await?;
        }
        match event {
            ExecEvent::Chunk { stream, bytes, .. } if !output.json => sink.write(stream, bytes).await?,
            ExecEvent::Gap { from, to } if !output.json => {
                sink.write(OutputStream::Stderr, missing(from, to)).await?;
            }
            ExecEvent::Chunk { .. } | ExecEvent::Gap { .. } => {}
            ExecEvent::Exit { exit, .. } => return Ok(exit),
            ExecEvent::Error { code, message } => return Err(Failure::Exec { code, message }),
        }
    }
    // A follow gives its last event or an error.
    Ok(ExecExit::default())
}

fn line(event: &ExecEvent, exec_id: &str) -> Result<Bytes, Failure> {
    let json = serde_json::to_string(&event.frame(exec_id)).map_err(|error| Failure::Stdout(error.into()))?;
    Ok(format!("{}\n", escape_json(&json)).into())
}

/// What is said of output that is not there any more.
pub(super) fn missing(from: u64, to: u64) -> Bytes {
    let bytes = to.saturating_sub(from);
    format!("guestctl: {bytes} bytes of output are missing here: they were overwritten before they were read\n").into()
}
