//! Tier `steer`: the kernel brings connections to one listening socket of the plane's, whatever port they are for.
//!
//! Automatic ports need no order from the agent: the programs know what listens, and [`super::targets`] looks where to.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    bridge::orders::Want,
    facts::SocketFact,
    limits,
    sys::{
        bpf::steer::{AUTO, Alarm, Class, NOT_LOOPBACK, RULE, Steering},
        cgroup, rtnl, sock_diag,
        subscription::Subscription,
    },
};

/// Connections that the kernel completes before they are accepted, of all ports together; net.core.somaxconn is the most.
const BACKLOG: i32 = 4096;

/// First and longest wait before what was in the way of steering is looked at again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(16));

/// Ports for the socket, the likeliest first: no service is known to use one of them, and the kernel gives none of them to connections or to
/// services that ask for any (ip_local_port_range ends at 60,999 by default). A service that binds the port on `[::]` is refused.
const PORTS: std::ops::Range<u16> = 62_801..62_817;

/// Shared with those who look for targets.
pub(super) type SharedSteering = Arc<RwLock<Steering>>;

/// A socket that is bound and does not listen yet.
#[derive(Debug)]
pub(super) struct Prepared {
    socket: Socket,
    pub(super) inode: u64,
}

impl Prepared {
    /// On `[::1]`: nobody is to come by its port, which is one of [`PORTS`], or else one that the kernel chooses.
    pub(super) fn new() -> Result<Self, String> {
        let prepare = |port| -> io::Result<Self> {
            let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
            socket.set_only_v6(true)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, port)).into())?;
            // Inherited by what is accepted, so that it is in no service's way.
            socket.set_reuse_address(true)?;
            let inode = nix::sys::stat::fstat(&socket)?.st_ino;
            Ok(Self { socket, inode })
        };
        let prepared = PORTS.map(prepare).find(Result::is_ok).unwrap_or_else(|| prepare(0));
        prepared.map_err(|error| format!("binding a socket to [::1] failed: {error}"))
    }
}

/// The programs, and the listeners that they do not see.
#[derive(Debug)]
pub(super) struct Steer {
    pub(super) steering: SharedSteering,
    pub(super) inode: u64,
    /// What else is to be said of this kernel.
    pub(super) variant: String,
    /// Listeners that are older than the programs, by cookie: those whose end these do not hear of, and, until then, those that may have been on their
    /// way out when they were counted.
    unheard: HashSet<u64>,
    settling: Option<(HashSet<u64>, Instant)>,
    /// By which their ends are heard of; none when there are none of both, for it costs every connection's end.
    closed: Option<Subscription>,
    /// Tells when the programs have found more listeners than they have room for.
    alarm: Option<Alarm>,
    /// Flags of ports that rules want.
    rules: BTreeMap<u16, u32>,
    auto: Option<Auto>,
    /// Listeners that can be counted.
    most: usize,
    /// What is in the way, and when it is looked at again. An idle plane that has nothing in the way has no timer.
    doubt: Doubt,
}

/// Where there is steering unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Auto {
    Everywhere,
    On(HashSet<u16>),
}

impl Auto {
    fn has(&self, port: u16) -> bool {
        match self {
            Self::Everywhere => true,
            Self::On(ports) => ports.contains(&port),
        }
    }
}

/// Why nothing is steered, or by counts that may be wrong.
#[derive(Debug, Default)]
struct Doubt {
    /// Why the listeners that there are are not all counted. More than there is room for is said by the programs.
    listeners: Option<String>,
    /// Why the VM's own addresses are not known.
    addresses: Option<String>,
    /// Listeners that have ended may be counted still: connections are steered to a service that is gone, and reset.
    uncounted: bool,
    retry: Option<Retry>,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    due: Instant,
    pause: Duration,
}

impl Doubt {
    /// Looks again later; ever later as long as nothing changes.
    fn put_off(&mut self, now: Instant) {
        let pause = self.retry.map_or(RETRY.0, |last| (last.pause * 2).min(RETRY.1));
        self.retry = Some(Retry { due: now + pause, pause });
    }
}

impl Steer {
    /// Begins to steer nothing. Gives the socket that connections come to.
    ///
    /// # Errors
    /// A sentence: why it cannot.
    pub(super) fn begin(prepared: Prepared) -> Result<(Self, Socket), String> {
        Self::begin_with_room(prepared, limits::STEERING_LISTENERS)
    }

    fn begin_with_room(prepared: Prepared, most: usize) -> Result<(Self, Socket), String> {
        let Prepared { socket, inode } = prepared;
        let root = cgroup::root().map_err(|error| error.to_string())?;
        let closed = Subscription::to_closed_listeners()
            .map_err(|error| format!("the kernel does not tell which listeners end: {error}"))?;
        socket.listen(BACKLOG).map_err(|error| format!("listening on [::1] failed: {error}"))?;
        let mut steering = Steering::attach(socket.as_fd(), &root, most).map_err(|error| error.to_string())?;
        let (variant, alarm) = (steering.variant().to_string(), steering.take_alarm());
        let steering = Arc::new(RwLock::new(steering));
        let mut steer = Self {
            steering,
            inode,
            variant,
            unheard: HashSet::new(),
            settling: None,
            closed: Some(closed),
            alarm,
            rules: BTreeMap::new(),
            auto: None,
            most,
            doubt: Doubt::default(),
        };
        steer.set_own_addresses();
        steer.seed().map_err(|error| format!("the listeners cannot be known: {error}"))?;
        steer.watch_for_room();
        Ok((steer, socket))
    }

    /// Counts the listeners that are there.
    fn seed(&mut self) -> io::Result<()> {
        let held = sock_diag::multipath_listeners(limits::LISTENERS_READ)?;
        let settled = Instant::now() + limits::LISTENER_FOLLOWED_TIME;
        for fact in listeners()? {
            let (Some(cookie), Some(class)) = (fact.cookie, Class::of(fact.address)) else { continue };
            let steering = read(&self.steering);
            if !steering.seed(cookie, fact.port, class)? {
                continue;
            }
            if steering.hears_of_ends() && !held.contains(&cookie) {
                let (settling, until) = self.settling.get_or_insert_with(|| (HashSet::new(), settled));
                settling.insert(cookie);
                *until = settled;
            } else {
                self.unheard.insert(cookie);
            }
        }
        self.forget_ended(Instant::now())
    }

    /// Uncounts what the programs may not hear the end of.
    fn forget_ended(&mut self, now: Instant) -> io::Result<()> {
        let there: HashSet<u64> = listeners()?.iter().filter_map(|fact| fact.cookie).collect();
        for listened in self.settling.as_mut().map(|(listened, _)| listened).into_iter().chain([&mut self.unheard]) {
            for ended in listened.iter().filter(|cookie| !there.contains(cookie)) {
                read(&self.steering).forget(*ended)?;
            }
            listened.retain(|cookie| there.contains(cookie));
        }
        self.settling.take_if(|(_, settled)| now >= *settled);
        if self.unheard.is_empty() && self.settling.is_none() {
            self.closed = None;
        }
        Ok(())
    }

    /// Readable when a listener may have ended of which the programs do not hear.
    pub(super) fn closed(&self) -> Option<BorrowedFd<'_>> {
        self.closed.as_ref().map(AsFd::as_fd)
    }

    /// To be called then.
    pub(super) fn attend_closed(&mut self) {
        let Some(closed) = &self.closed else { return };
        let mut is_ours = false;
        let is_lost = closed.drain_cookies(|cookie| is_ours |= self.may_be_unheard(cookie));
        if is_ours || is_lost {
            self.uncount_ended(Instant::now());
        }
    }

    fn may_be_unheard(&self, cookie: u64) -> bool {
        let settling = || self.settling.as_ref().is_some_and(|(listened, _)| listened.contains(&cookie));
        self.unheard.contains(&cookie) || settling()
    }

    fn uncount_ended(&mut self, now: Instant) {
        let forgotten = self.forget_ended(now);
        self.doubt.uncounted = forgotten.is_err();
        if let Err(error) = forgotten {
            tracing::warn!(%error, "bridge: the listeners cannot be known");
            self.doubt.put_off(now);
            if let Some((_, settled)) = &mut self.settling {
                *settled = (*settled).max(now + limits::LISTENER_FOLLOWED_TIME);
            }
        }
    }

    /// Readable when there were more listeners than there is room for.
    pub(super) fn alarm(&self) -> Option<BorrowedFd<'_>> {
        self.alarm.as_ref().map(AsFd::as_fd)
    }

    /// To be called then.
    pub(super) fn attend_alarm(&mut self) {
        if let Some(alarm) = &mut self.alarm {
            alarm.hear();
        }
        self.watch_for_room();
    }

    fn watch_for_room(&mut self) {
        if let Some(trouble) = self.trouble()
            && self.doubt.retry.is_none()
        {
            tracing::error!(trouble, "bridge: nothing is steered");
            self.doubt.put_off(Instant::now());
        }
    }

    /// When something is to be tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        let settled = self.settling.as_ref().map(|(_, settled)| *settled);
        [self.doubt.retry.map(|retry| retry.due), settled].into_iter().flatten().min()
    }

    /// To be called at each turn.
    pub(super) fn attend_time(&mut self, now: Instant) {
        if self.settling.as_ref().is_some_and(|(_, settled)| now >= *settled) {
            self.uncount_ended(now);
        }
        if self.doubt.retry.is_none_or(|retry| now < retry.due) {
            return;
        }
        if self.doubt.addresses.is_some() {
            self.learn_own_addresses();
        }
        if self.is_uncertain() {
            self.count_anew();
        } else if self.doubt.uncounted {
            self.uncount_ended(now);
        }
        if self.trouble().is_some() || self.doubt.uncounted {
            self.doubt.put_off(now);
        } else {
            tracing::info!("bridge: what was in the way of steering is over");
            self.doubt.retry = None;
        }
    }

    /// To be called when the VM's addresses have changed.
    pub(super) fn set_own_addresses(&mut self) {
        self.learn_own_addresses();
        self.watch_for_room();
    }

    fn learn_own_addresses(&mut self) {
        let own = rtnl::addresses().map(|own| {
            let own = own.into_iter().filter_map(|own| match own.address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            });
            own.collect::<Vec<_>>()
        });
        let mut steering = self.steering.write().unwrap_or_else(PoisonError::into_inner);
        self.doubt.addresses = match own {
            Ok(own) => steering.set_own_addresses(&own).err().map(|error| too_many_addresses(own.len(), &error)),
            Err(error) => {
                // What was known may not hold any more.
                steering.forget_own_addresses();
                Some(format!(
                    "the VM's own addresses are not known, so that nothing is bridged until they are: {error}"
                ))
            }
        };
    }

    /// Steers what is wanted from now on.
    pub(super) fn want(&mut self, want: &Want) {
        want.remains.iter().for_each(|port| read(&self.steering).expect_remains(*port));
        let flags = |everywhere| if everywhere { RULE } else { RULE | NOT_LOOPBACK };
        let rules: BTreeMap<_, _> = want.ports.iter().map(|port| (port.listen, flags(port.everywhere))).collect();
        let auto = want.auto.then(|| match &want.routable {
            None => Auto::Everywhere,
            Some(ports) => Auto::On(ports.iter().copied().collect()),
        });
        if self.auto != auto {
            (self.auto, self.rules) = (auto, rules);
            return self.set_all_flags();
        }
        let before = std::mem::replace(&mut self.rules, rules);
        let after: Vec<_> = self.rules.keys().copied().collect();
        before.into_keys().chain(after).for_each(|port| self.set_flags(port));
    }

    fn set_all_flags(&self) {
        (1..=u16::MAX).for_each(|port| self.set_flags(port));
    }

    fn set_flags(&self, port: u16) {
        let is_auto = self.auto.as_ref().is_some_and(|auto| auto.has(port));
        let flags = self.rules.get(&port).copied().unwrap_or(if is_auto { AUTO } else { 0 });
        read(&self.steering).set_flags(port, flags);
    }

    /// Are there listeners that are not counted?
    fn is_uncertain(&self) -> bool {
        read(&self.steering).is_full()
    }

    /// There were more listeners than are counted, so that nothing is steered; there may be fewer now.
    fn count_anew(&mut self) {
        // A look is cheaper than to count as many as there is room for and no more.
        let counts = |fact: &&SocketFact| Class::of(fact.address).is_some();
        if listeners().is_ok_and(|all| all.iter().filter(counts).count() > self.most) {
            return;
        }
        (1..=u16::MAX).for_each(|port| read(&self.steering).set_flags(port, 0));
        read(&self.steering).set_full(false);
        if self.closed.is_none() {
            self.closed = Subscription::to_closed_listeners().ok();
        }
        let counted = match self.closed {
            Some(_) => self.seed(),
            None => Err(io::Error::other("the kernel does not tell which listeners end")),
        };
        self.doubt.listeners = counted.err().map(|error| error.to_string());
        if self.doubt.listeners.is_some() {
            read(&self.steering).set_full(true);
        }
        self.set_all_flags();
    }

    /// Why nothing is steered, if that is so.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(why) = &self.doubt.addresses {
            return Some(why.clone());
        }
        self.is_uncertain().then(|| match &self.doubt.listeners {
            Some(why) => format!("what listens is not known, so that nothing is bridged until it is: {why}"),
            None => {
                let most = self.most;
                format!("more than {most} sockets listen, so that nothing is bridged until there are fewer")
            }
        })
    }

    /// Steers nothing any more, and looks at nothing.
    pub(super) fn stop(&mut self) {
        self.want(&Want::default());
        (self.closed, self.alarm, self.settling, self.doubt) = (None, None, None, Doubt::default());
    }
}

fn too_many_addresses(count: usize, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::E2BIG) => {
            let most = limits::STEERING_ADDRESSES;
            format!(
                "the VM has {count} IPv6 addresses of its own, more than {most}, so that nothing is bridged until there are fewer"
            )
        }
        _ => format!(
            "the VM's own addresses cannot be told to the kernel, so that nothing is bridged until they are: {error}"
        ),
    }
}

fn listeners() -> io::Result<Vec<SocketFact>> {
    sock_diag::listening_tcp(limits::LISTENERS_READ)
}

pub(super) fn read(steering: &RwLock<Steering>) -> std::sync::RwLockReadGuard<'_, Steering> {
    steering.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use nix::{
        poll::{PollFd, PollFlags, PollTimeout, poll},
        sched::{CloneFlags, unshare},
    };

    use super::*;
    use crate::bridge::orders::WantPort;

    const PORT: u16 = 3000;

    fn ip(arguments: &str) {
        let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    /// In a namespace of this thread's own.
    fn alone() {
        unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
        ip("link set lo up");
    }

    /// Lets the time go by in which what it has found may be on its way out.
    fn settle(steer: &mut Steer) {
        steer.attend_time(Instant::now() + limits::LISTENER_FOLLOWED_TIME);
    }

    /// Steers connections to this port by a rule, with room for so many listeners.
    fn steering(most: usize) -> (Steer, Socket) {
        let (mut steer, socket) = Steer::begin_with_room(Prepared::new().unwrap(), most).unwrap();
        settle(&mut steer);
        let to = "0.0.0.0:9".parse().unwrap();
        let port = WantPort { listen: PORT, to, mode: Default::default(), everywhere: true, take: false };
        steer.want(&Want { ports: vec![port], ..Want::default() });
        (steer, socket)
    }

    fn is_steered() -> bool {
        TcpStream::connect((Ipv6Addr::LOCALHOST, PORT)).is_ok()
    }

    fn rings(steer: &Steer) -> bool {
        let mut readable = [PollFd::new(steer.alarm().unwrap(), PollFlags::POLLIN)];
        poll(&mut readable, PollTimeout::ZERO).unwrap() == 1
    }

    fn counts(steer: &Steer, listener: &TcpListener) -> (u32, u32) {
        let counts = read(&steer.steering).port(listener.local_addr().unwrap().port());
        (counts.v4, counts.v6)
    }

    #[test]
    fn older_listeners_cost_no_messages_unless_the_kernel_holds_one() {
        alone();
        let older = TcpListener::bind("0.0.0.0:0").unwrap();
        let (mut steer, _socket) = Steer::begin(Prepared::new().unwrap()).unwrap();
        assert!(steer.closed().is_some() && steer.due().is_some(), "one that is on its way out is told of by them");
        settle(&mut steer);
        assert!(steer.closed().is_none() && steer.due().is_none());
        assert_eq!(counts(&steer, &older), (1, 0));
        let number = older.local_addr().unwrap().port();
        drop(older);
        assert_eq!(read(&steer.steering).port(number).v4, 0);
        drop(steer);

        let multipath = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).unwrap();
        multipath.bind(&SocketAddr::from(([0, 0, 0, 0], number)).into()).unwrap();
        multipath.listen(1).unwrap();
        let multipath = TcpListener::from(multipath);
        let (mut steer, _socket) = steering(1024);
        assert_eq!(counts(&steer, &multipath), (1, 0));
        drop(multipath);
        told_of_an_end(&mut steer);
        assert_eq!(read(&steer.steering).port(number).v4, 0);
        assert!(steer.closed().is_none());
    }

    fn told_of_an_end(steer: &mut Steer) {
        let mut readable = [PollFd::new(steer.closed().expect("nothing tells of ends"), PollFlags::POLLIN)];
        assert_eq!(poll(&mut readable, PollTimeout::from(30_000u16)).unwrap(), 1);
        steer.attend_closed();
    }

    /// The program for the end of sockets has run for it before it was counted, and nothing uncounts it but what the groups tell.
    #[test]
    fn one_that_was_on_its_way_out_when_it_was_counted_is_uncounted() {
        alone();
        let leaving = TcpListener::bind("0.0.0.0:0").unwrap();
        let (mut steer, _socket) = Steer::begin(Prepared::new().unwrap()).unwrap();
        let number = leaving.local_addr().unwrap().port();
        let cookie = socket2::SockRef::from(&leaving).cookie().unwrap();
        drop(leaving);
        assert!(read(&steer.steering).seed(cookie, number, Class::V4).unwrap());
        assert_eq!(read(&steer.steering).port(number).v4, 1);
        told_of_an_end(&mut steer);
        assert_eq!(read(&steer.steering).port(number).v4, 0);
    }

    #[test]
    fn too_many_listeners_are_told_at_once_and_steering_comes_back_by_itself_when_there_are_fewer() {
        alone();
        let (mut steer, _socket) = steering(8);
        assert!(is_steered() && steer.due().is_none(), "an idle plane has no timer");
        // Its own is counted, too.
        let mut many: Vec<_> = (0..8).map(|_| TcpListener::bind("0.0.0.0:0").unwrap()).collect();
        assert!(rings(&steer) && !is_steered());
        steer.attend_alarm();
        assert!(!rings(&steer));
        assert_eq!(
            steer.trouble().unwrap(),
            "more than 8 sockets listen, so that nothing is bridged until there are fewer"
        );
        // It looks again, and ever later.
        let first = steer.due().unwrap();
        steer.attend_time(first);
        let second = steer.due().unwrap();
        assert!(steer.trouble().is_some() && second >= first + RETRY.0);
        many.drain(..4);
        steer.attend_time(second);
        settle(&mut steer);
        assert_eq!((steer.trouble(), steer.due()), (None, None));
        assert!(is_steered());
        // Those that were not counted at first are.
        let kept = many.pop().unwrap().local_addr().unwrap().port();
        let left = many.iter().map(|one| one.local_addr().unwrap().port());
        let counts: Vec<_> = left.map(|port| read(&steer.steering).port(port).v4).collect();
        assert_eq!((counts, read(&steer.steering).port(kept).v4), (vec![1; 3], 0));
    }

    #[test]
    fn too_many_own_addresses_are_trouble_until_there_are_fewer() {
        alone();
        let (mut steer, _socket) = steering(1024);
        let mut lines = String::new();
        for number in 0..=limits::STEERING_ADDRESSES {
            lines.push_str(&format!("addr add fd00:9::{number:x}/128 dev lo nodad\n"));
        }
        let batch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(batch.path(), lines).unwrap();
        ip(&format!("-batch {}", batch.path().display()));
        steer.set_own_addresses();
        let trouble = steer.trouble().unwrap();
        assert!(trouble.starts_with("the VM has 4098 IPv6 addresses of its own, more than 4096"), "{trouble}");
        assert!(!is_steered());
        let due = steer.due().unwrap();
        ip("addr flush dev lo to fd00:9::/120");
        steer.attend_time(due);
        assert_eq!((steer.trouble(), steer.due()), (None, None));
        assert!(is_steered());
    }

    #[test]
    fn what_was_in_the_way_does_not_outlive_the_end_of_steering() {
        alone();
        let (mut steer, _socket) = steering(1);
        let _more = TcpListener::bind("0.0.0.0:0").unwrap();
        steer.attend_alarm();
        assert!(steer.due().is_some());
        steer.stop();
        assert_eq!((steer.due(), steer.alarm().is_none(), steer.closed().is_none()), (None, true, true));
    }

    #[test]
    fn own_port_is_none_that_services_are_given_and_another_where_it_is_taken() {
        alone();
        let port = |prepared: &Prepared| prepared.socket.local_addr().unwrap().as_socket().unwrap().port();
        let first = Prepared::new().unwrap();
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let highest: u16 = range.split_whitespace().last().unwrap().parse().unwrap();
        assert!(port(&first) > highest && PORTS.contains(&port(&first)));
        let mut all = vec![first];
        all.extend(PORTS.skip(1).map(|_| Prepared::new().unwrap()));
        let mut ports: Vec<_> = all.iter().map(port).collect();
        ports.dedup();
        assert_eq!(ports, PORTS.collect::<Vec<_>>());
        assert!(!PORTS.contains(&port(&Prepared::new().unwrap())));
    }
}
