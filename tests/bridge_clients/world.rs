//! A VM's network and the one outside of it, an agent in the VM that bridges, and the services there.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsRawFd, unix::fs::MetadataExt, unix::fs::PermissionsExt},
    path::PathBuf,
    process::Command,
};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    program::{Program, find},
    support::{DEADLINE, TestAgent, eventually},
};

/// The VM's addresses.
pub(crate) const VM6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2);
pub(crate) const VM4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// Those of the clients outside.
pub(crate) const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1);
pub(crate) const OUTSIDE4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// How a client outside reaches a service that listens on IPv4 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// At its own address, past guestd.
    Direct,
    /// At the VM's IPv6 address.
    Bridged,
}

/// What a bridged connection does is what a direct one does.
pub(crate) const BOTH: [Way; 2] = [Way::Direct, Way::Bridged];

impl Way {
    /// The address to connect to.
    pub(crate) fn address(self) -> IpAddr {
        match self {
            Self::Direct => IpAddr::V4(VM4),
            Self::Bridged => IpAddr::V6(VM6),
        }
    }

    /// With the port, as URLs and the like have it.
    pub(crate) fn socket(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    /// The address that a service sees of a client.
    pub(crate) fn client_as_seen(self) -> Ipv4Addr {
        match self {
            Self::Direct => OUTSIDE4,
            Self::Bridged => guestd::bridge::pseudo_ipv4(OUTSIDE6),
        }
    }
}

/// The two namespaces live as long as what was started in them; the test's own thread is in the VM's.
pub(crate) struct World {
    pub(crate) agent: TestAgent,
    outside: File,
    netns: u64,
    dir: TempDir,
}

/// How the agent may take connections: the best that the kernel allows, or by binding the ports.
pub(crate) const TIERS: [&str; 2] = ["auto", "bind"];

impl World {
    pub(crate) fn new() -> Self {
        Self::in_tier("auto")
    }

    /// One whose agent has this in its configuration.
    pub(crate) fn in_tier(tier: &str) -> Self {
        let outside = namespace();
        let vm = namespace();
        ip(&format!(
            "link add eth0 type veth peer name eth0 netns /proc/{}/fd/{}",
            std::process::id(),
            outside.as_raw_fd()
        ));
        link_up(VM6, VM4);
        within(&outside, || link_up(OUTSIDE6, OUTSIDE4));
        let dir = tempfile::tempdir().unwrap();
        // Some servers run as nobody.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let agent =
            TestAgent::start_with(&format!("vm_id = \"abc\"\nlisteners.poll_ms = 50\nbridge.tier = \"{tier}\"\n"), &[]);
        if tier == "bind" {
            assert_eq!(agent.get("/v1/bridge")["tier"], tier);
        }
        Self { agent, outside, netns: vm.metadata().unwrap().ino(), dir }
    }

    /// Does something outside of the VM. What it starts stays there.
    pub(crate) fn outside<T>(&self, what: impl FnOnce() -> T) -> T {
        within(&self.outside, what)
    }

    /// A path in the test's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same, with that in it.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Starts a server in the VM and waits until it is bridged.
    pub(crate) fn serve(&self, command: Command, port: u16) -> Program {
        let server = Program::start(command, &self.path(&format!("{port}.log")));
        self.until(Some(&server), port, "bridged");
        server
    }

    /// A listener of the test's own in the VM, when it is bridged.
    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        self.until(None, port, "bridged");
        listener
    }

    /// Waits until what listens on the port has this exposure, and returns what the agent says of it.
    pub(crate) fn until(&self, server: Option<&Program>, port: u16, exposure: &str) -> Value {
        eventually(&format!("port {port} is {exposure}"), || {
            if let Some(server) = server {
                server.assert_running();
            }
            let listeners = self.agent.get("/v1/listeners");
            let of_port = |entry: &&Value| entry["netns"] == self.netns && entry["port"] == port;
            listeners.as_array().unwrap().iter().find(of_port).filter(|entry| entry["exposure"] == exposure).cloned()
        })
    }

    /// A connection from outside.
    pub(crate) fn connect(&self, way: Way, port: u16) -> std::io::Result<TcpStream> {
        let stream = self.outside(|| TcpStream::connect_timeout(&way.socket(port), DEADLINE))?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Ok(stream)
    }

    /// A connection from outside to a listener of the test's own, from both ends.
    pub(crate) fn pair(&self, way: Way, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = self.connect(way, listener.local_addr().unwrap().port()).unwrap();
        let (served, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), way.client_as_seen());
        served.set_read_timeout(Some(DEADLINE)).unwrap();
        served.set_write_timeout(Some(DEADLINE)).unwrap();
        (client, served)
    }
}

/// Moves this thread into a namespace of its own with only loopback in it.
fn namespace() -> File {
    unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
    ip("link set lo up");
    here()
}

fn here() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn within<T>(namespace: &File, what: impl FnOnce() -> T) -> T {
    /// Goes back, also when `what` panics.
    struct Back(File);
    impl Drop for Back {
        fn drop(&mut self) {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
        }
    }
    let _back = Back(here());
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    what()
}

fn link_up(ipv6: Ipv6Addr, ipv4: Ipv4Addr) {
    ip(&format!("addr add {ipv6}/64 dev eth0 nodad"));
    ip(&format!("addr add {ipv4}/24 dev eth0"));
    ip("link set eth0 up");
}

fn ip(arguments: &str) {
    let status = Command::new(find("ip")).args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Bytes in which a missing, doubled or swapped piece shows: words that are all different, and each block begins elsewhere in them.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let block: Vec<u8> = (0..65_536u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut bytes = Vec::with_capacity(length + block.len());
    for number in 0..length.div_ceil(block.len()) {
        let (end, beginning) = block.split_at(number * 4099 % block.len());
        bytes.extend_from_slice(beginning);
        bytes.extend_from_slice(end);
    }
    bytes.truncate(length);
    bytes
}

/// Asserts without a screenful of bytes.
pub(crate) fn assert_same(got: &[u8], expected: &[u8]) {
    if got != expected {
        let same = got.iter().zip(expected).take_while(|(left, right)| left == right).count();
        panic!("{} bytes of {} came, they are the same up to {same}", got.len(), expected.len());
    }
}
