//! A network namespace that looks like a VM's, with steering in it, and another one that clients come from.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    os::fd::AsFd,
    process::Command,
    sync::mpsc,
    thread,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
};
use socket2::{Domain, Socket, Type};

use crate::sys::{
    bpf::steer::{Kernel, Steering},
    cgroup,
};

pub(super) const VM6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2);
pub(super) const VM6_OTHER: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 3);
pub(super) const VM6_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
pub(super) const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1);

pub(super) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// A thread that stays in a network namespace of its own, and does there what it is told.
pub(super) struct Elsewhere {
    tid: i32,
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Elsewhere {
    pub(super) fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tid, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
            ip("link set lo up");
            tid.send(nix::unistd::gettid().as_raw()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        Self { tid: told.recv().unwrap(), jobs }
    }

    pub(super) fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.jobs.send(Box::new(move || done.send(what()).unwrap())).unwrap();
        result.recv().expect("what was to be done elsewhere panicked")
    }
}

/// Where a connection ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    Bridge,
    Service,
    Nothing,
}

pub(super) struct Rig {
    pub(super) steering: Steering,
    pub(super) bridge: TcpListener,
    pub(super) outside: Elsewhere,
}

/// The namespace of the VM, for this thread, and its outside.
pub(super) fn enter() -> Elsewhere {
    unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
    let outside = Elsewhere::new();
    ip("link set lo up");
    ip(&format!("link add eth0 type veth peer name outside netns {}", outside.tid));
    outside.run(|| {
        ip("link set outside up");
        ip(&format!("addr add {OUTSIDE6}/64 dev outside nodad"));
        ip("addr add fe80::1/64 dev outside nodad");
    });
    ip("link set eth0 up");
    ip(&format!("addr add {VM6}/64 dev eth0 nodad"));
    ip(&format!("addr add {VM6_OTHER}/64 dev eth0 nodad"));
    ip(&format!("addr add {VM6_LINK_LOCAL}/64 dev eth0 nodad"));
    ip("addr add 10.9.0.2/24 dev eth0");
    ip("addr add 169.254.9.2/16 dev eth0");
    outside
}

/// The bridge's socket, as the bridge makes it.
pub(super) fn bridge() -> TcpListener {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.set_only_v6(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into()).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.listen(1024).unwrap();
    socket.into()
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(1024, &Kernel::default())
    }

    pub(super) fn with(most: usize, kernel: &Kernel) -> Self {
        let outside = enter();
        let bridge = bridge();
        let mut steering = Steering::attach_with(bridge.as_fd(), &cgroup::root().unwrap(), most, kernel).unwrap();
        steering.set_own_addresses(&[VM6, VM6_OTHER, VM6_LINK_LOCAL, Ipv6Addr::LOCALHOST]).unwrap();
        Self { steering, bridge, outside }
    }

    pub(super) fn connect_from_outside(&self, to: Ipv6Addr, port: u16) -> io::Result<TcpStream> {
        self.outside.run(move || connect(to, port))
    }

    /// What a new connection from outside reaches. `service` is what else may be reached.
    pub(super) fn outside_reaches(&self, to: Ipv6Addr, port: u16, service: Option<&TcpListener>) -> Reached {
        self.reached(self.connect_from_outside(to, port), port, service)
    }

    /// The same from the VM itself.
    pub(super) fn inside_reaches(&self, to: Ipv6Addr, port: u16, service: Option<&TcpListener>) -> Reached {
        self.reached(connect(to, port), port, service)
    }

    fn reached(&self, client: io::Result<TcpStream>, port: u16, service: Option<&TcpListener>) -> Reached {
        match client {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Reached::Nothing,
            Err(error) => panic!("connecting to port {port}: {error}"),
            Ok(_client) => {
                let listeners: Vec<_> = [&self.bridge].into_iter().chain(service).collect();
                let mut ready: Vec<_> = listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)).collect();
                assert_eq!(poll(&mut ready, PollTimeout::from(30_000u16)).unwrap(), 1, "nobody has it alone");
                let to_bridge = ready[0].any().unwrap();
                let (accepted, _) = listeners[usize::from(!to_bridge)].accept().unwrap();
                assert_eq!(accepted.local_addr().unwrap().port(), port);
                if to_bridge { Reached::Bridge } else { Reached::Service }
            }
        }
    }
}

fn connect(to: Ipv6Addr, port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(SocketAddrV6::new(to, port, 0, scope(to)))
}

/// The only interface but the loopback one, on both sides.
fn scope(address: Ipv6Addr) -> u32 {
    if address.is_unicast_link_local() {
        nix::net::if_::if_nameindex().unwrap().iter().last().unwrap().index()
    } else {
        0
    }
}

/// A socket bound to an address, which does not listen.
pub(super) fn bound(address: &str, port: u16, only_v6: bool) -> io::Result<Socket> {
    bind(address, port, only_v6, false)
}

fn bind(address: &str, port: u16, only_v6: bool, reuse: bool) -> io::Result<Socket> {
    let address: IpAddr = address.parse().unwrap();
    let mut address = SocketAddr::from((address, port));
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let SocketAddr::V6(v6) = &mut address {
        v6.set_scope_id(scope(*v6.ip()));
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(reuse)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A service, with SO_REUSEADDR: its own former connections are not in its way.
pub(super) fn listen(address: &str, port: u16, only_v6: bool) -> TcpListener {
    let socket = bind(address, port, only_v6, true).unwrap_or_else(|error| panic!("binding {address} {port}: {error}"));
    socket.listen(1024).unwrap();
    socket.into()
}
