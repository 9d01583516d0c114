//! The thread that looks at the sockets when there is cause to, and those who are told.
//!
//! ```text
//!   Sources ──heard──> Pace ──Look──> Looker ──> Observation (watch channel)
//!      ^                                             │
//!      └── bell: LookNow, the end                    └──> answers to LookNow::fresh
//! ```

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    look::{Looker, Observation, Source},
    own::OwnSockets,
    pace::{Looked, Pace, Step},
    ration::processor_time,
    sources::{Bell, Events, Sources},
};
use crate::{config::ListenerEvents, limits};

/// How to know when to look.
#[derive(Debug, Clone, Copy)]
pub struct WatchSettings {
    /// `listeners.events`.
    pub events: ListenerEvents,
    /// `listeners.poll_ms`: time between two looks where there are no events and something has changed.
    pub poll_interval: Duration,
}

/// The looking thread. It stops when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    observations: watch::Receiver<Arc<Observation>>,
    events: Events,
    look_now: LookNow,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watcher {
    /// Takes a first look and starts the thread.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn spawn(settings: WatchSettings, own: OwnSockets) -> io::Result<Self> {
        let wishes = Arc::new(Wishes::new()?);
        // Before the first look, so that nothing falls between.
        let (mut sources, mut events) = Sources::open(settings.events, wishes.bell.clone());
        let mut looker = Looker::new(own);
        let first = looker.look(None);
        let first = looker.complete(&first, true).unwrap_or(first);
        if events == Events::Bpf && first.source == Source::Procfs {
            events = sources.do_without_events("the kernel has no INET_DIAG".to_owned());
        }
        let pace = Pace::new(Instant::now(), (events != Events::Bpf).then_some(settings.poll_interval));
        let (publish, observations) = watch::channel(Arc::new(first));
        let (answer, answered) = watch::channel(0);
        let mut watching = Watching { looker, sources, pace, wishes: Arc::clone(&wishes), publish, answer };
        // The first look may have failed, or have an owner to look for.
        watching.pace.hear();
        let thread = thread::Builder::new().name("listeners".to_owned()).spawn(move || watching.run())?;
        Ok(Self { observations, events, look_now: LookNow { wishes, answered }, thread: Some(thread) })
    }

    /// For those who change what there is to see, and those who want to see it.
    pub fn looker(&self) -> LookNow {
        self.look_now.clone()
    }

    /// The latest observation, and every later one.
    pub fn observations(&self) -> watch::Receiver<Arc<Observation>> {
        self.observations.clone()
    }

    /// How it is known when to look.
    pub fn events(&self) -> &Events {
        &self.events
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.look_now.wishes.stop.store(true, Ordering::Release);
        self.look_now.wishes.bell.ring();
        if let Some(thread) = self.thread.take() {
            // The thread holds no lock and waits for nothing but the bell that has been rung.
            let _ = thread.join();
        }
    }
}

/// What is asked of the thread: numbers, not a queue, so that any number of those who ask share one look.
#[derive(Debug)]
struct Wishes {
    /// Looks that were asked for.
    asked: AtomicU64,
    /// Looks that were made.
    made: AtomicU64,
    stop: AtomicBool,
    bell: Bell,
}

impl Wishes {
    fn new() -> io::Result<Self> {
        let (asked, made, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { asked, made, stop, bell: Bell::new()? })
    }
}

/// A way to ask for a look before its time.
///
/// Does not keep the thread alive.
#[derive(Debug, Clone)]
pub struct LookNow {
    wishes: Arc<Wishes>,
    /// The latest wish that has been answered.
    answered: watch::Receiver<u64>,
}

impl LookNow {
    /// Asks for a look.
    pub fn look_now(&self) {
        self.ask();
    }

    /// Waits for a look that was begun after this call; what is observed then is as new as that. It gives up after
    /// `limits::LISTENER_FRESH_TIME`.
    pub async fn fresh(&self) {
        let wish = self.ask();
        let mut answered = self.answered.clone();
        // An error is the end of the thread, after which there is nothing newer either.
        let _ = tokio::time::timeout(limits::LISTENER_FRESH_TIME, answered.wait_for(|done| *done >= wish)).await;
    }

    /// How many looks have been made.
    pub fn looks(&self) -> u64 {
        self.wishes.made.load(Ordering::Relaxed)
    }

    fn ask(&self) -> u64 {
        let wish = self.wishes.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.wishes.bell.ring();
        wish
    }
}

/// The thread's own.
#[derive(Debug)]
struct Watching {
    looker: Looker,
    sources: Sources,
    pace: Pace,
    wishes: Arc<Wishes>,
    publish: watch::Sender<Arc<Observation>>,
    answer: watch::Sender<u64>,
}

impl Watching {
    fn run(&mut self) {
        while !self.wishes.stop.load(Ordering::Acquire) {
            let wished = self.wishes.asked.load(Ordering::Acquire) != *self.answer.borrow();
            match self.pace.step(Instant::now()) {
                Step::Wait { until, deaf } if !wished => {
                    if let Err(error) = self.sources.wait(until, deaf) {
                        tracing::warn!(%error, "waiting for events of listeners failed");
                        // poll(2) fails for want of memory; trying again at once would spin.
                        thread::sleep(limits::LISTENER_POLL_LONGEST);
                        self.pace.hear();
                    }
                    self.drain();
                }
                _ => self.look(),
            }
        }
    }

    fn drain(&mut self) {
        if self.sources.drain(Instant::now(), |netns_cookie| self.looker.notice(netns_cookie)) {
            self.pace.hear();
        }
    }

    fn look(&mut self) {
        // Both before the look: what comes from now on is for the next one.
        let wish = self.wishes.asked.load(Ordering::Acquire);
        self.drain();
        let (begun, cpu_before) = (Instant::now(), processor_time());
        let next = self.looker.look(Some(&self.publish.borrow()));
        let there: HashSet<u64> = next.table.all_sockets().filter_map(|socket| socket.cookie).collect();
        let shows_closing = self.sources.shows_closing(begun, &there);
        // What procfs shows has no cookies, and what a failed look shows is old.
        let own: HashMap<u64, _> =
            next.table.sockets.iter().filter_map(|socket| Some((socket.cookie?, socket))).collect();
        let is_whole = next.failure.is_none() && !next.truncated && own.len() == next.table.sockets.len();
        if is_whole {
            let others = next
                .table
                .all_sockets()
                .filter(|socket| socket.cookie.is_some_and(|cookie| !own.contains_key(&cookie)));
            self.sources.shown(begun, &own, others);
        }
        let again = next.failure.is_some() || shows_closing;
        let mut news = self.publish(next);
        // Who listens may take longer to find out than that somebody does.
        let wished = wish != *self.answer.borrow();
        let whole = self.looker.complete(&Arc::clone(&self.publish.borrow()), wished);
        if let Some(whole) = whole {
            news |= self.publish(whole);
        }
        self.wishes.made.fetch_add(1, Ordering::Relaxed);
        self.answer.send_replace(wish);
        let cost = processor_time().saturating_sub(cpu_before);
        let due = [self.looker.next_retry(), self.sources.due()].into_iter().flatten().min();
        self.pace.looked(Looked { ended: Instant::now(), cost, news, again, due });
    }
}

impl Watching {
    /// Shows it to others; was it news?
    fn publish(&self, next: Observation) -> bool {
        self.publish.send_if_modified(|current| {
            let news = current.is_outdated_by(&next);
            if **current != next {
                *current = Arc::new(next);
            }
            news
        })
    }
}
