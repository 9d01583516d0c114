//! An exec on our terminal: keys there, screen here, until it ends or is left.
//!
//! ```text
//!             ┌──────────── lost, for less than 5 s ────────────┐
//!             v                                                 │
//!  start ──> connected ── exit ──> its status                   │
//!             │  │ └────────────────────────────────────────────┘
//!             │  └── ctrl-p ctrl-q, ~d ──> left running (0)
//!             └── ~., signals ──> hung up or left running (128+n)
//! ```
//! Owns raw mode for as long as it runs. Refuses to let output wait for keys, or keys for output: they are two futures over one
//! connection.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::api::{ExecExit, OutputStream, SignalRequest, SignalTarget, TtySize};
use crate::client::{Client, ClientError, ExecEvent, ExecSession, ReadFrom, Retry, SessionReader, SessionWriter};
use crate::limits;

use super::escape::{Escapes, Wish};
use super::failure::Failure;
use super::follow::{missing, to_group};
use super::input::{self, Input};
use super::output;
use super::signals::{Asked, Signals};
use super::sink::Sink;
use super::terminal::{self, RawMode, Screen};

/// Between two changes of a terminal's size: a program that is told of both at once sees no change and does not draw anew.
const REDRAW_PAUSE: Duration = Duration::from_millis(50);

/// What becomes of keys.
#[derive(Debug)]
pub(super) enum Typing {
    /// The exec gets them, but for these.
    Keys(Escapes),
    /// They are not read.
    Nothing,
}

/// How to be on an exec's terminal.
#[derive(Debug)]
pub(super) struct Console<'a> {
    pub(super) client: &'a Client,
    pub(super) id: String,
    /// Where its output begins; then, where it stands.
    pub(super) from: ReadFrom,
    pub(super) typing: Typing,
    /// Make the program draw its screen anew at first.
    pub(super) redraw: bool,
    /// The exec is to end when it is left without being asked to run on.
    pub(super) hang_up: bool,
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    Exited(ExecExit),
    Lost(ClientError),
    Detached,
    HungUp,
    Told(Asked),
}

/// What lasts longer than a connection.
struct Local {
    raw: Option<RawMode>,
    input: Option<Input>,
    screen: Screen,
    signals: Signals,
    resized: Signal,
    continued: Signal,
}

impl Console<'_> {
    /// Until the exec ends or is left. The terminal is as before when this returns, however it does.
    pub(super) async fn run(mut self) -> Result<ExecExit, Failure> {
        let receive = |kind| signal(kind).map_err(Failure::Signals);
        let typing = matches!(self.typing, Typing::Keys(_));
        let mut local = Local {
            raw: if typing { RawMode::enter()? } else { None },
            input: if typing { Some(input::start()?) } else { None },
            screen: Screen::default(),
            signals: Signals::new()?,
            resized: receive(SignalKind::window_change())?,
            continued: receive(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
        };
        let mut sink = Sink::default();
        let end = self.until_end(&mut local, &mut sink).await;
        if !matches!(end, Ok(End::Exited(_))) && local.raw.is_some() {
            // Where it cannot be written, nobody sees it.
            let _ = sink.write(OutputStream::Stdout, local.screen.leave().into()).await;
        }
        let patience = matches!(end, Ok(End::Told(_))).then_some(limits::CLIENT_LEAVE_TIME);
        let finished = sink.finish_unless(&mut local.signals, patience).await;
        drop(local);
        let end = end?;
        // Whoever asked it to go is told of that.
        if !matches!(end, End::Told(_)) {
            finished?;
        }
        self.left(end).await
    }

    async fn until_end(&mut self, local: &mut Local, sink: &mut Sink) -> Result<End, Failure> {
        let mut retry = Retry::default();
        loop {
            let error = match self.client.exec_session(&self.id, self.from).await {
                Ok(session) => {
                    let (before, begun) = (self.from, Instant::now());
                    match self.connected(session, local, sink).await? {
                        End::Lost(error) => {
                            if self.from != before {
                                retry.reset();
                            }
                            retry.forget_what_came_before(begun);
                            error
                        }
                        end => return Ok(end),
                    }
                }
                Err(error) => error,
            };
            retry.pause_after(error).await?;
        }
    }

    async fn connected(&mut self, session: ExecSession, local: &mut Local, sink: &mut Sink) -> Result<End, Failure> {
        let ExecSession { mut writer, mut reader } = session;
        let redraw = std::mem::take(&mut self.redraw);
        let Local { raw, input, screen, signals, resized, continued } = local;
        let sent = async {
            match size(&mut writer, redraw).await {
                Ok(()) => typed(&mut writer, &mut self.typing, input, resized, continued, raw.as_ref()).await,
                Err(error) => Ok(End::Lost(error)),
            }
        };
        let client = self.client;
        let told = async {
            loop {
                match signals.next().await {
                    // Without raw mode, ctrl-C is a signal here and a key there.
                    Asked::Interrupt if raw.is_none() => {
                        let request = to_group(Asked::Interrupt);
                        tokio::select! {
                            _ = client.exec_signal(&self.id, &request) => {}
                            again = signals.next() => return again,
                        }
                    }
                    asked => return asked,
                }
            }
        };
        let end = tokio::select! {
            end = shown(&mut reader, sink, screen) => end?,
            end = sent => end?,
            asked = told => End::Told(asked),
        };
        if let Some(cursor) = reader.cursor() {
            self.from = ReadFrom::Cursor(cursor);
        }
        if !matches!(end, End::Lost(_)) {
            // Behind keys that nobody takes, it is not sent.
            let _ = timeout(limits::CLIENT_LEAVE_TIME, writer.close()).await;
        }
        Ok(end)
    }

    /// With the terminal as it was: what is said and done of how it ended.
    async fn left(self, end: End) -> Result<ExecExit, Failure> {
        let id = &self.id;
        let running = format!("\nexec {id} goes on; to come back: guestctl attach {id}\n");
        match end {
            End::Exited(exit) => Ok(exit),
            End::Lost(error) => Err(error.into()),
            End::Detached => {
                output::stderr(running.as_bytes());
                Ok(ExecExit::default())
            }
            End::HungUp => {
                self.end_it().await;
                Err(Failure::HungUp { exec_id: self.id })
            }
            End::Told(asked) => {
                if self.hang_up {
                    self.end_it().await;
                    return Err(Failure::HungUp { exec_id: self.id });
                }
                Err(Failure::Left { exec_id: self.id, signal: asked.number() })
            }
        }
    }

    /// As when a terminal goes away. That it did not reach the exec is seen by `guestctl ps`; a VM that stands still is what
    /// people leave this way, and must not keep them.
    async fn end_it(&self) {
        let hang_up = SignalRequest { signal: Asked::HangUp.name().into(), to: SignalTarget::Tree };
        let _ = timeout(limits::CLIENT_LEAVE_TIME, self.client.exec_signal(&self.id, &hang_up)).await;
    }
}

async fn size(writer: &mut SessionWriter, redraw: bool) -> Result<(), ClientError> {
    let size = terminal::size();
    if redraw {
        // One column more, as docker does: a smaller screen could make a program throw lines away.
        writer.resize(TtySize { cols: size.cols.saturating_add(1), ..size }).await?;
        sleep(REDRAW_PAUSE).await;
    }
    writer.resize(size).await
}

/// Output, to its end.
async fn shown(reader: &mut SessionReader, sink: &mut Sink, screen: &mut Screen) -> Result<End, Failure> {
    loop {
        match reader.next().await {
            Ok(Some(ExecEvent::Chunk { stream, bytes, .. })) => {
                screen.see(&bytes);
                sink.write(stream, bytes).await?;
            }
            Ok(Some(ExecEvent::Gap { from, to })) => sink.write(OutputStream::Stderr, missing(from, to)).await?,
            Ok(Some(ExecEvent::Exit { exit, .. })) => return Ok(End::Exited(exit)),
            Ok(Some(ExecEvent::Error { code, message })) => return Err(Failure::Exec { code, message }),
            Ok(None) => return std::future::pending().await,
            Err(error) => return Ok(End::Lost(error)),
        }
    }
}

/// Keys and sizes, until a wish ends it.
async fn typed(
    writer: &mut SessionWriter,
    typing: &mut Typing,
    input: &mut Option<Input>,
    resized: &mut Signal,
    continued: &mut Signal,
    raw: Option<&RawMode>,
) -> Result<End, Failure> {
    loop {
        let sent = tokio::select! {
            Some(()) = resized.recv() => writer.resize(terminal::size()).await,
            Some(()) = continued.recv() => {
                if let Some(raw) = raw {
                    raw.apply().map_err(Failure::Terminal)?;
                }
                writer.resize(terminal::size()).await
            }
            read = next_key(input) => match read {
                Some(Ok(bytes)) => match keys(writer, typing, &bytes).await {
                    Ok(None) => Ok(()),
                    Ok(Some(end)) => return Ok(end),
                    Err(error) => Err(error),
                },
                Some(Err(error)) => return Err(Failure::Stdin(error)),
                None => {
                    let told = writer.close_stdin().await;
                    // Else it is told by the next connection.
                    if told.is_ok() {
                        *input = None;
                    }
                    told
                }
            },
        };
        if let Err(error) = sent {
            return Ok(End::Lost(error));
        }
    }
}

async fn next_key(input: &mut Option<Input>) -> Option<std::io::Result<bytes::Bytes>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// Sends what was typed; gives the end that was wished for.
async fn keys(writer: &mut SessionWriter, typing: &mut Typing, bytes: &[u8]) -> Result<Option<End>, ClientError> {
    let Typing::Keys(escapes) = typing else { return Ok(None) };
    let mut from = 0;
    while from < bytes.len() {
        let mut keys = Vec::new();
        let (wish, taken) = escapes.take(&bytes[from..], &mut keys);
        from += taken;
        if !keys.is_empty() {
            writer.write(&keys).await?;
        }
        match wish {
            Some(Wish::Detach) => return Ok(Some(End::Detached)),
            Some(Wish::HangUp) => return Ok(Some(End::HungUp)),
            Some(Wish::Help) => output::stderr(escapes.help().as_bytes()),
            None => {}
        }
    }
    Ok(None)
}
