//! Where a case is run: a VM's network namespace with a service that restarts and a bridge that accepts, and a client outside.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv6Addr, TcpStream},
    os::fd::AsFd,
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use guestd::{
    limits,
    sys::{
        bpf::steer::{RULE, Steering},
        cgroup,
    },
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
};
use rustix::{process::Uid, thread::set_thread_res_uid};
use socket2::Socket;

use crate::{
    bridge::{Bridge, accept},
    case::{Case, How, Outcome},
};

const VM6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2);
const PORT: u16 = 3000;
/// Connections that client and bridge hold beside the one that stays.
pub(crate) const HELD: usize = 8;
/// Between two connections of the client that keeps connecting.
const PACE: Duration = Duration::from_micros(200);
/// For what takes microseconds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status().context("running ip(8)")?;
    ensure!(status.success(), "ip {arguments}: {status}");
    Ok(())
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread outside.
struct Outside {
    tid: i32,
    jobs: mpsc::Sender<Job>,
}

impl Outside {
    fn new() -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let entered = unshare(CloneFlags::CLONE_NEWNET).map(|()| nix::unistd::gettid().as_raw());
            if tell.send(entered).is_ok() {
                queue.into_iter().for_each(|job| job());
            }
        });
        Ok(Self { tid: told.recv()?.context("a network namespace of its own; it takes root")?, jobs })
    }

    fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move || drop(done.send(what())));
        self.jobs.send(job).ok().context("the thread outside has ended")?;
        result.recv().context("the thread outside panicked")
    }
}

/// The two namespaces, which are gone when this and its threads are.
pub(crate) struct World {
    outside: Outside,
    steering: Option<(Steering, Bridge)>,
}

impl World {
    /// Moves this thread into the VM's namespace.
    pub(crate) fn enter(steered: bool) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own; it takes root")?;
        let outside = Outside::new()?;
        ip("link set lo up")?;
        ip(&format!("link add eth0 type veth peer name outside netns {}", outside.tid))?;
        outside.run(|| ip("link set outside up").and_then(|()| ip("addr add fd00:9::1/64 dev outside nodad")))??;
        ip("link set eth0 up")?;
        ip(&format!("addr add {VM6}/64 dev eth0 nodad"))?;
        ip("addr add 10.9.0.2/24 dev eth0")?;
        let steering = steered.then(|| {
            let listener = Bridge::listener()?;
            let mut steering = Steering::attach(listener.as_fd(), &cgroup::root()?, limits::STEERING_LISTENERS)?;
            ensure!(steering.variant().no_rebind.is_none(), "{}", steering.variant());
            steering.set_own_addresses(&[VM6, Ipv6Addr::LOCALHOST])?;
            Ok((steering, Bridge::start(listener)))
        });
        Ok(Self { outside, steering: steering.transpose()? })
    }

    fn set_flags(&self, flags: u32) {
        if let Some((steering, _)) = &self.steering {
            steering.set_flags(PORT, flags);
        }
    }

    /// One case, so many rounds.
    pub(crate) fn run(&self, case: &Case, rounds: u32) -> Result<Outcome> {
        let before = self.accepted();
        let mut stays = None;
        if let Some((_, bridge)) = &self.steering {
            // Steered without any listener, and held by the bridge until the end.
            self.set_flags(RULE);
            let client = self.outside.run(|| TcpStream::connect((VM6, PORT)))?.context("the connection that stays")?;
            bridge.keep(client.local_addr()?.port())?;
            stays = Some(client);
        }
        self.set_flags(case.flags());
        let hammer = self.hammer()?;
        let mut outcome = self.service(case, rounds, &hammer.door)?;
        hammer.end()?;
        self.set_flags(0);
        outcome.bridged = self.accepted() - before;
        if let Some(stays) = stays {
            stays.set_nonblocking(true)?;
            outcome.cut = !matches!(stays.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        }
        if let Some((_, bridge)) = &self.steering {
            bridge.release();
        }
        Ok(outcome)
    }

    fn accepted(&self) -> u64 {
        self.steering.as_ref().map_or(0, |(_, bridge)| bridge.accepted())
    }

    /// The rounds, on a thread of the service's user.
    fn service(&self, case: &Case, rounds: u32, client: &Door) -> Result<Outcome> {
        let netns = std::fs::File::open("/proc/thread-self/ns/net")?;
        thread::scope(|scope| {
            let service = scope.spawn(|| {
                setns(netns, CloneFlags::CLONE_NEWNET)?;
                if case.uid != 0 {
                    let uid = Uid::from_raw(case.uid);
                    set_thread_res_uid(uid, uid, uid).context("becoming another user")?;
                }
                let mut outcome = Outcome::default();
                for round in 0..rounds {
                    self.round(case, round, client, &mut outcome)?;
                }
                Ok(outcome)
            });
            service.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the service panicked")))
        })
    }

    fn round(&self, case: &Case, round: u32, client: &Door, outcome: &mut Outcome) -> Result<()> {
        outcome.rounds += 1;
        let mut refuse = |which: &str, error: io::Error| {
            let name = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            *outcome.refused.entry(format!("{which}: {name:?}")).or_default() += 1;
        };
        let old = case.old.listen(round, PORT, case.option);
        let mut held = None;
        match (old, case.how) {
            (Err(error), _) => refuse("old", error),
            (Ok(old), How::Beside) => held = Some(old),
            (Ok(old), How::After) => self.close(vec![old], case.old.is_reached(), client)?,
        }
        wait(case.gap());
        let new = match case.new.listen(round, PORT, case.option) {
            Ok(new) => Some(new),
            Err(error) => {
                refuse("new", error);
                None
            }
        };
        if let Some(new) = &new
            && case.new.is_reached()
        {
            // Beside an old one that is reached too, either may get it.
            let listeners: Vec<_> = [Some(new), held.as_ref()].into_iter().flatten().collect();
            outcome.astray += u32::from(!self.reaches(&listeners, client)?);
        }
        let reached = case.new.is_reached() || case.old.is_reached();
        self.close(new.into_iter().chain(held).collect(), reached, client)
    }

    /// Does a connection that begins now come to one of these?
    fn reaches(&self, listeners: &[&Socket], client: &Door) -> Result<bool> {
        let Ok(fresh) = self.outside.run(|| TcpStream::connect((VM6, PORT)))? else { return Ok(false) };
        socket2::SockRef::from(&fresh).set_linger(Some(Duration::ZERO))?;
        let port = fresh.local_addr()?.port();
        self.accepted_by(listeners, port, |peer| client.came(peer))
    }

    /// Accepts what comes until the connection of this client is there, or at the bridge: then it is false.
    fn accepted_by(&self, listeners: &[&Socket], port: u16, came: impl Fn(u16)) -> Result<bool> {
        let until = Instant::now() + DEADLINE;
        loop {
            for listener in listeners {
                listener.set_nonblocking(true)?;
                while let Some((accepted, peer)) = accept(listener)? {
                    accepted.set_linger(Some(Duration::ZERO))?;
                    drop(accepted);
                    came(peer);
                    if peer == port {
                        return Ok(true);
                    }
                }
            }
            if let Some((_, bridge)) = &self.steering
                && bridge.has(port)
            {
                return Ok(false);
            }
            ensure!(Instant::now() < until, "a connection came to nobody");
            let mut ready: Vec<_> = listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut ready, PollTimeout::from(1u16))?;
        }
    }

    /// Closes what the service holds.
    ///
    /// A handshake that is completed by a packet while its listener is being closed leaves a socket for a moment, which is in the way of the next
    /// bind, with steering or without. So where the client's connections come to these listeners, they are closed between two of its
    /// connections.
    fn close(&self, listeners: Vec<Socket>, reached: bool, client: &Door) -> Result<()> {
        if reached {
            let mut last = client.closed();
            if let Some(port) = last.take() {
                self.accepted_by(&listeners.iter().collect::<Vec<_>>(), port, |_| ())?;
            }
            drop(listeners);
            drop(last);
        }
        Ok(())
    }

    /// A client that keeps connecting, and holds the last connections.
    fn hammer(&self) -> Result<Hammer> {
        let (stop, door) = (Arc::new(AtomicBool::new(false)), Door::default());
        let (stopped, mine) = (Arc::clone(&stop), door.clone());
        // A thread of its own, there.
        let thread = self.outside.run(move || {
            thread::spawn(move || -> io::Result<()> {
                let mut held = VecDeque::new();
                while !stopped.load(Ordering::Relaxed) {
                    let mut last = mine.closed();
                    // Refused and reset is what clients of a service that restarts see.
                    let client =
                        TcpStream::connect((VM6, PORT)).and_then(|client| Ok((client.local_addr()?.port(), client)));
                    *last = client.as_ref().ok().map(|(port, _)| *port);
                    drop(last);
                    if let Ok((_, client)) = client {
                        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
                        held.push_back(client);
                    }
                    if held.len() > HELD {
                        held.pop_front();
                    }
                    thread::sleep(PACE);
                }
                Ok(())
            })
        })?;
        Ok(Hammer { stop, door, thread })
    }
}

/// The gap: short ones by waiting busily, or they would be longer.
fn wait(gap: Duration) {
    if gap < Duration::from_millis(1) {
        let until = Instant::now() + gap;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    } else {
        thread::sleep(gap);
    }
}

/// What the client passes through for each connection: the port of the last one, unless that was refused or is known to have come.
#[derive(Clone, Default)]
struct Door(Arc<Mutex<Option<u16>>>);

impl Door {
    /// No connection is made while this is held.
    fn closed(&self) -> MutexGuard<'_, Option<u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection with this port has come.
    fn came(&self, port: u16) {
        let mut last = self.closed();
        if *last == Some(port) {
            *last = None;
        }
    }
}

struct Hammer {
    stop: Arc<AtomicBool>,
    door: Door,
    thread: JoinHandle<io::Result<()>>,
}

impl Hammer {
    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the client panicked")?.context("the client")
    }
}
