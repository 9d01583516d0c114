//! The live table on its terminal: when it is drawn, and the screen that always becomes what it was.
//!
//! ```text
//!  first news ──> the other screen, keys quiet ──> drawn when something is new ──> q, signal, failure, panic ──> as before
//!                        ^                                   │ ctrl-Z
//!                        └──────────── continued ────────────┴──> as before, stopped
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::api::{ListenerEvent, OutputStream};
use crate::cli::failure::{Failure, exit};
use crate::cli::input::{self, Input};
use crate::cli::output::{self, Output};
use crate::cli::signals::Signals;
use crate::cli::sink::Sink;
use crate::cli::terminal::{self, RawMode};
use crate::limits;

use super::live::LiveTable;
use super::mirror::Mirror;
use super::watch::{News, code_of};

/// Shortest and longest time between two drawings where there is something new. People read no faster than the one.
const DRAW_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Shows the table until somebody wants to go.
pub(super) async fn run(
    table: LiveTable,
    mirror: Mirror,
    news: &mut mpsc::Receiver<News>,
    output: Output,
) -> Result<u8, Failure> {
    // A VM that cannot be reached is no reason to touch the screen.
    let Some(first) = news.recv().await else { return Ok(exit::OK) };
    let mut shown = Shown { table, mirror, ready: false };
    shown.hear(first)?;
    let mut signals = Signals::new()?;
    let mut sink = Sink::default();
    let screen = Screen::enter()?;
    let end = tokio::select! {
        end = redraw(&mut shown, news, &mut sink, &screen, output) => end,
        asked = signals.next() => Ok(code_of(asked)),
    };
    // What is still to be written belongs on the screen that is left.
    let written = sink.finish_unless(&mut signals, Some(limits::CLIENT_LEAVE_TIME)).await;
    drop(screen);
    let code = end?;
    if code == exit::OK {
        written?;
    }
    Ok(code)
}

/// The table, and what it is made of.
struct Shown {
    table: LiveTable,
    mirror: Mirror,
    /// What was there at first has all been told.
    ready: bool,
}

impl Shown {
    fn hear(&mut self, news: News) -> Result<(), Failure> {
        match news {
            News::Events(events) => {
                for event in events {
                    match &event {
                        ListenerEvent::Synced => self.table.synced(),
                        ListenerEvent::Unknown { message } => self.table.trouble(message.clone()),
                        _ => {}
                    }
                    self.ready |= matches!(event, ListenerEvent::Synced | ListenerEvent::Unknown { .. });
                    // In the task that follows it was made one sequence, which passes here as it is.
                    self.mirror.take(event)?;
                }
            }
            News::Lost(why, pause) => {
                self.table.trouble(format!("trying again after {pause:?}: {why}"));
                self.ready = true;
            }
            News::Failed(failure) => return Err(failure),
        }
        Ok(())
    }
}

/// Draws until somebody types `q`.
async fn redraw(
    shown: &mut Shown,
    news: &mut mpsc::Receiver<News>,
    sink: &mut Sink,
    screen: &Screen,
    output: Output,
) -> Result<u8, Failure> {
    let receive = |kind| signal(kind).map_err(Failure::Signals);
    let mut resized = receive(SignalKind::window_change())?;
    let mut stopped = receive(SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw()))?;
    let mut keys = match screen.quiet {
        Some(_) => Some(input::start()?),
        None => None,
    };
    // Something is new; marks end; and what both may not be drawn before.
    let (mut new, mut expiry, mut earliest) = (true, None, Instant::now());
    loop {
        let draw_at = if new { Some(earliest) } else { expiry.map(|expiry: Instant| expiry.max(earliest)) };
        tokio::select! {
            () = sleep_until(draw_at.unwrap_or(earliest).into()), if draw_at.is_some() => {
                let begun = Instant::now();
                if std::mem::take(&mut new) && shown.ready {
                    shown.table.update(shown.mirror.listeners(), begun);
                }
                let drawn = shown.table.draw(terminal::size(), output.palette, begun);
                expiry = shown.table.next_expiry();
                // What takes long is not done all the time.
                earliest = Instant::now() + (4 * begun.elapsed()).clamp(DRAW_PAUSE.0, DRAW_PAUSE.1);
                sink.write(OutputStream::Stdout, drawn.into()).await?;
            }
            heard = news.recv() => match heard {
                Some(heard) => {
                    shown.hear(heard)?;
                    new |= shown.ready;
                }
                None => return Ok(exit::OK),
            },
            Some(()) = resized.recv() => new = true,
            Some(()) = stopped.recv() => {
                std::mem::take(sink).finish().await?;
                screen.stop()?;
                new = true;
            }
            typed = key(&mut keys) => match typed {
                Some(Ok(bytes)) if bytes.contains(&b'q') => return Ok(exit::OK),
                Some(Ok(_)) => {}
                // Without keys there is still ctrl-C.
                Some(Err(_)) | None => keys = None,
            },
        }
    }
}

async fn key(keys: &mut Option<Input>) -> Option<std::io::Result<Bytes>> {
    match keys {
        Some(keys) => keys.recv().await,
        None => std::future::pending().await,
    }
}

/// The other screen, without a cursor and with lines that end at the window's edge (DEC private modes 1049, 25 and 7).
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J";
const LEAVE: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";

/// A terminal that shows the table, until this is dropped: then it is as it was before.
#[derive(Debug)]
struct Screen {
    /// What is typed does not show; none where standard input is no terminal.
    quiet: Option<RawMode>,
    left: Arc<AtomicBool>,
}

impl Screen {
    fn enter() -> Result<Self, Failure> {
        let left = Arc::new(AtomicBool::new(false));
        let (of_panic, usual) = (left.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            leave(&of_panic);
            usual(panic);
        }));
        let screen = Self { quiet: RawMode::enter_quiet()?, left };
        output::stdout(ENTER)?;
        Ok(screen)
    }

    /// Stops this process, as ctrl-Z is meant to, with the terminal as it was before; returns when it is continued.
    fn stop(&self) -> Result<(), Failure> {
        output::stdout(LEAVE)?;
        if let Some(quiet) = &self.quiet {
            quiet.suspend();
        }
        kill_process(getpid(), rustix::process::Signal::STOP).map_err(|error| Failure::Signals(error.into()))?;
        if let Some(quiet) = &self.quiet {
            quiet.apply().map_err(Failure::Terminal)?;
        }
        output::stdout(ENTER)
    }
}

/// Leaves the screen, once.
fn leave(left: &AtomicBool) {
    if !left.swap(true, Ordering::Relaxed) {
        // Where it cannot be written, nobody sees it.
        let _ = output::stdout(LEAVE);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave(&self.left);
    }
}
