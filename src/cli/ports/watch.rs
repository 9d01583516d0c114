//! `guestctl ports --watch`: follows the listeners until it is told to go, over lost connections too.
//!
//! A task follows the VM and hands on what is to be told; here it is shown, as a table that is drawn in place or as a line for each
//! event. Writing waits for the reader, and then the following, and then the VM, which tells the latest state afterwards: nothing
//! is queued for a slow terminal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use crate::api::{ListenerEvent, OutputStream};
use crate::cli::failure::{Failure, exit};
use crate::cli::input::{self, Input};
use crate::cli::output::{self, Output};
use crate::cli::signals::{Asked, Signals};
use crate::cli::sink::Sink;
use crate::cli::terminal::{self, RawMode};
use crate::cli::text::{escape, escape_json};
use crate::client::{Client, ClientError};
use crate::limits;

use super::live::LiveTable;
use super::mirror::Mirror;
use super::report::{exposure, owner};

/// Shortest and longest time between two drawings where there is something new. People read no faster than the one.
const DRAW_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Bytes of lines that are written at once.
const BATCH_BYTES: usize = 32 * 1024;

/// What is heard of the VM.
#[derive(Debug)]
enum News {
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
        live(table, Mirror::new(all), &mut news, output).await
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
fn code_of(asked: Asked) -> u8 {
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

/// A table that is drawn in place.
async fn live(
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
