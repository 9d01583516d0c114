//! `guestctl ports --watch`: follows the listeners until it is told to go, over lost connections too.
//!
//! A task follows the VM and hands on what is to be told; it is shown as a table that is drawn in place (`redraw`) or, here, as a line
//! for each event. Writing waits for the reader, and then the following, and then the VM, which tells the latest state afterwards: nothing
//! is queued for a slow terminal.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::api::{ListenerEvent, OutputStream};
use crate::cli::failure::{Failure, exit};
use crate::cli::output::Output;
use crate::cli::signals::{Asked, Signals};
use crate::cli::sink::Sink;
use crate::cli::terminal;
use crate::cli::text::{escape, escape_json};
use crate::client::{Client, ClientError};
use crate::limits;

use super::live::LiveTable;
use super::mirror::Mirror;
use super::redraw;
use super::report::{exposure, owner};

/// Bytes of lines that are written at once.
const BATCH_BYTES: usize = 32 * 1024;

/// What is heard of the VM.
#[derive(Debug)]
pub(super) enum News {
    Events(Vec<ListenerEvent>),
    /// Nothing is heard at present; why, and after which pause it is tried again.
    Lost(String, Duration),
    /// It has no use any more.
    Failed(Failure),
}

pub(super) async fn run(client: &Client, all: bool, output: Output) -> Result<u8, Failure> {
    let (sender, mut news) = mpsc::channel(limits::CLIENT_QUEUED_CHUNKS);
    let following = tokio::spawn(follow(client.clone(), Mirror::new(all), sender));
    let result = if !output.json && terminal::can_redraw() {
        let table = LiveTable::new(client.endpoint().to_string(), all);
        redraw::run(table, Mirror::new(all), &mut news, output).await
    } else {
        lines(&mut news, output).await
    };
    following.abort();
    result
}

/// Tells of the listeners for as long as somebody listens.
async fn follow(client: Client, mut mirror: Mirror, news: mpsc::Sender<News>) {
    if let Err(failure) = keep_following(&client, &mut mirror, &news).await {
        // Nobody may listen any more.
        let _ = news.send(News::Failed(failure)).await;
    }
}

async fn keep_following(client: &Client, mirror: &mut Mirror, news: &mpsc::Sender<News>) -> Result<(), Failure> {
    let mut pause = limits::CLIENT_WATCH_PAUSE.0;
    // A VM that cannot be reached at first is more likely a wrong name than one that comes back.
    let mut watch = client.watch_listeners().await?;
    loop {
        let lost = loop {
            match watch.next().await {
                Ok(Some(ListenerEvent::End) | None) => break "guestd in the VM is ending".to_owned(),
                Ok(Some(event)) => {
                    if event == ListenerEvent::Synced {
                        pause = limits::CLIENT_WATCH_PAUSE.0;
                    }
                    let events = mirror.take(event)?;
                    if !events.is_empty() && news.send(News::Events(events)).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => break lasting(error)?,
            }
        };
        mirror.lost();
        let mut why = lost;
        watch = loop {
            if news.send(News::Lost(why, pause)).await.is_err() {
                return Ok(());
            }
            sleep(pause).await;
            pause = (pause * 2).min(limits::CLIENT_WATCH_PAUSE.1);
            match client.watch_listeners().await {
                Ok(watch) => break watch,
                Err(error) => why = lasting(error)?,
            }
        };
    }
}

/// What to say of an error that may go away; the error where it does not.
fn lasting(error: ClientError) -> Result<String, Failure> {
    if error.is_lasting() { Err(error.into()) } else { Ok(error.cause()) }
}

/// A line for each event.
async fn lines(news: &mut mpsc::Receiver<News>, output: Output) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let mut sink = Sink::default();
    let printing = async {
        let mut last_trouble = None;
        while let Some(first) = news.recv().await {
            let (mut batch, mut next) = (String::new(), Some(first));
            while let Some(news_item) = next {
                let events = match news_item {
                    News::Events(events) => events,
                    News::Lost(why, _) => vec![ListenerEvent::Unknown { message: why }],
                    News::Failed(failure) => {
                        sink.write(OutputStream::Stdout, batch.into()).await?;
                        return Err(failure);
                    }
                };
                for event in events {
                    // Each try at a connection would say the same.
                    let trouble = matches!(event, ListenerEvent::Unknown { .. }).then(|| event.clone());
                    if trouble.is_none() || trouble != last_trouble {
                        batch.push_str(&line(&event, output)?);
                    }
                    last_trouble = trouble;
                }
                next = if batch.len() < BATCH_BYTES { news.try_recv().ok() } else { None };
            }
            if !batch.is_empty() {
                sink.write(OutputStream::Stdout, Bytes::from(batch)).await?;
            }
        }
        Ok(exit::OK)
    };
    let end = tokio::select! {
        end = printing => end,
        asked = signals.next() => Ok(code_of(asked)),
    };
    let written = sink.finish_unless(&mut signals, end.is_ok().then_some(limits::CLIENT_LEAVE_TIME)).await;
    // Whoever asked it to go, and reads no more, knows.
    let code = end?;
    if code == exit::OK {
        written?;
    }
    Ok(code)
}

/// What a shell reports for a program that this ended.
pub(super) fn code_of(asked: Asked) -> u8 {
    u8::try_from(asked.number() + 128).unwrap_or(exit::FAILURE)
}

fn line(event: &ListenerEvent, output: Output) -> Result<String, Failure> {
    if output.json {
        let json = serde_json::to_string(event).map_err(|error| Failure::Stdout(error.into()))?;
        return Ok(format!("{}\n", escape_json(&json)));
    }
    let (what, listener) = match event {
        ListenerEvent::Added { listener } => ("added", listener),
        ListenerEvent::Changed { listener } => ("changed", listener),
        ListenerEvent::Removed { listener } => ("removed", listener),
        ListenerEvent::Unknown { message } => return Ok(format!("unknown  {}\n", escape(message))),
        ListenerEvent::Synced => return Ok("synced\n".to_owned()),
        _ => return Ok(String::new()),
    };
    let (tone, how) = exposure(listener.exposure);
    let how = output.palette.paint(tone, how);
    let at = SocketAddr::new(listener.address, listener.port);
    let rest: Vec<String> = [owner(listener, 1), listener.url.clone()].into_iter().flatten().collect();
    let rest = rest.iter().map(|part| format!(" {}", escape(part))).collect::<String>();
    Ok(format!("{what:<8} {at} {how}{rest}\n"))
}
