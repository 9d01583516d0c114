//! The table is what `ss` of iproute2 says, whatever listens.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, SocketAddr},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, fchown},
    },
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::{
    namespace::{VM4, VM6, elsewhere, enter, netns_of},
    support::{TestAgent, eventually},
};

/// Set to the seed that a failed test has printed, it makes the same sockets again.
const SEED_VARIABLE: &str = "GUESTD_TEST_SEED";

/// Sockets that listen.
const LISTENERS: usize = 500;

/// The same in each of the other namespaces.
const LISTENERS_ELSEWHERE: usize = 100;

/// Processes besides the test's that hold some of them: each by its standard input, output and error.
const HOLDERS: usize = 24;

/// Ports to choose from: fewer than sockets, so that many share one, as far as the kernel lets them.
const PORTS: std::ops::Range<u64> = 10_000..10_300;

/// splitmix64: the same numbers from the same seed everywhere.
struct Dice(u64);

impl Dice {
    fn throw() -> Self {
        let seed = std::env::var(SEED_VARIABLE).map_or_else(
            // A random number that needs no dependency: the keys of a hash map.
            |_| RandomState::new().build_hasher().finish(),
            |seed| seed.parse().expect("the seed is a number"),
        );
        println!("{SEED_VARIABLE}={seed}");
        Self(seed)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// Every kind of bind: address, and IPV6_V6ONLY.
fn bind_of(dice: &mut Dice) -> (IpAddr, bool) {
    let kinds = [
        ("0.0.0.0", false),
        (VM4, false),
        ("127.0.0.1", false),
        ("127.1.2.3", false),
        ("::", false),
        ("::", true),
        (&VM6.to_string(), false),
        (&VM6.to_string(), true),
        ("::1", true),
        (&format!("::ffff:{VM4}"), false),
        ("::ffff:0.0.0.0", false),
        ("::ffff:127.0.0.1", false),
    ];
    let (address, v6only) = kinds[dice.below(kinds.len() as u64) as usize];
    (address.parse().unwrap(), v6only)
}

/// One service's sockets: one, or a group of workers' that share the port.
fn service(dice: &mut Dice) -> std::io::Result<Vec<Socket>> {
    let (address, v6only) = bind_of(dice);
    let port = (PORTS.start + dice.below(PORTS.end - PORTS.start)) as u16;
    let workers = if dice.one_in(8) { 2 + dice.below(3) } else { 1 };
    let mut owned = Vec::new();
    for _ in 0..workers {
        let at = SocketAddr::new(address, port);
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
        socket.set_reuse_port(workers > 1)?;
        if address.is_ipv6() {
            socket.set_only_v6(v6only)?;
        }
        socket.bind(&at.into())?;
        // Some beyond net.core.somaxconn, which the kernel cuts.
        socket.listen(dice.below(6000) as i32)?;
        owned.push(socket);
    }
    // Afterwards: the kernel lets only sockets of one user share a port.
    let uid = dice.below(3) as u32 * 1000;
    for socket in &owned {
        fchown(socket, Some(uid), None)?;
    }
    Ok(owned)
}

/// Brings the sockets to exactly this number.
fn fill(dice: &mut Dice, sockets: &mut Vec<Socket>, wanted: usize) {
    for _ in 0..100 * wanted {
        match service(dice) {
            Ok(more) => sockets.extend(more),
            // Two wildcards of one port, say.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => panic!("listening: {error}"),
        }
        if sockets.len() >= wanted {
            sockets.truncate(wanted);
            return;
        }
    }
    panic!("{} listeners found room, of {wanted}", sockets.len());
}

/// A process that holds three sockets and does nothing.
struct HolderProcess(Child);

impl HolderProcess {
    fn start(dice: &mut Dice, sockets: &[Socket]) -> Self {
        let mut any = || {
            let socket = &sockets[dice.below(sockets.len() as u64) as usize];
            Stdio::from(OwnedFd::from(socket.try_clone().unwrap()))
        };
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sleep", "600"]).stdin(any()).stdout(any()).stderr(any());
        Self(command.spawn().expect("setpriv of util-linux starts sleep"))
    }
}

impl Drop for HolderProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace with services and processes of its own.
struct Elsewhere {
    sockets: Vec<Socket>,
    // Keep it alive, and hold some of the sockets.
    holders: Vec<HolderProcess>,
}

impl Elsewhere {
    fn make(dice: &mut Dice) -> Self {
        elsewhere(|| {
            let mut sockets = Vec::new();
            fill(dice, &mut sockets, LISTENERS_ELSEWHERE);
            let holders = (0..4).map(|_| HolderProcess::start(dice, &sockets)).collect();
            Self { sockets, holders }
        })
    }

    fn by_ss(&self) -> BTreeMap<u64, Row> {
        let pid = self.holders[0].0.id();
        by_ss(netns_of(pid), &["nsenter", &format!("--net=/proc/{pid}/ns/net")])
    }
}

/// What both tell of a socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    netns: u64,
    family: &'static str,
    address: IpAddr,
    port: u64,
    v6only: bool,
    uid: u64,
    cgroup_id: u64,
    waiting: u64,
    backlog: u64,
    /// The lowest pid of those that hold it.
    pid: Option<u64>,
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

/// What ss says, by inode; `inside` runs it in another namespace.
fn by_ss(netns: u64, inside: &[&str]) -> BTreeMap<u64, Row> {
    let words = [inside, &["ss", "-Hltnpe"]].concat();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("iproute2 and util-linux are installed");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: BTreeMap<u64, Row> = text.lines().map(|line| ss_row(netns, line)).collect();
    assert_eq!(rows.len(), text.lines().count(), "inodes are unique");
    rows
}

/// What it says of all of these together.
fn all_by_ss(others: &[Elsewhere]) -> BTreeMap<u64, Row> {
    let mut rows = by_ss(netns_of("thread-self"), &[]);
    let before = rows.len();
    let elsewhere: Vec<_> = others.iter().map(Elsewhere::by_ss).collect();
    let expected = before + elsewhere.iter().map(BTreeMap::len).sum::<usize>();
    rows.extend(elsewhere.into_iter().flatten());
    assert_eq!(rows.len(), expected, "inodes are unique over namespaces");
    rows
}

/// A line as `LISTEN 0 128 [::1]:80 [::]:* users:(("sleep",pid=7,fd=0)) uid:5 ino:9 sk:1 cgroup:/ v6only:1 <->`; of a dual-stack
/// wildcard the address is `*`.
fn ss_row(netns: u64, line: &str) -> (u64, Row) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |text: &str| -> u64 { text.parse().unwrap_or_else(|_| panic!("no number in {text:?} of {line:?}")) };
    let word = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
    let value = |name: &str| word(name).map(number);
    let (address, port) = words[3].rsplit_once(':').unwrap();
    let address: IpAddr = match address.trim_matches(['[', ']']) {
        "*" => "::".parse().unwrap(),
        address => address.parse().unwrap_or_else(|_| panic!("no address in {line:?}")),
    };
    let canonical = address.to_canonical();
    let pids = line.split("pid=").skip(1).map(|rest| number(rest.split(',').next().unwrap()));
    let row = Row {
        netns,
        family: family(canonical),
        address: canonical,
        port: number(port),
        v6only: canonical.is_ipv6() && value("v6only:") == Some(1),
        uid: value("uid:").unwrap_or(0),
        cgroup_id: cgroup_id(word("cgroup:").expect("the kernel and ss tell cgroups")),
        waiting: number(words[1]),
        backlog: number(words[2]),
        pid: pids.min(),
    };
    (value("ino:").unwrap(), row)
}

/// The id of a cgroup that ss names by its path, or by the id itself where it finds no path.
fn cgroup_id(name: &str) -> u64 {
    if let Some(id) = name.strip_prefix("unreachable:") {
        return u64::from_str_radix(id, 16).unwrap();
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount =
        mounts.find(|mount| mount[2] == "cgroup2").expect("ss has found the path below a cgroup2 mount")[1].to_owned();
    std::fs::metadata(mount + name).unwrap().ino()
}

/// What `guestctl ports` says, by inode, of the namespaces of these. Other tests have namespaces of their own.
fn by_guestctl(agent: &TestAgent, others: &[Elsewhere]) -> BTreeMap<u64, Row> {
    let vm = format!("unix:{}", agent.socket().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
    let output = command.args(["--vm", &vm, "--json", "ports", "--all"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let listeners: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut rows: BTreeMap<u64, Row> = listeners.iter().map(guestctl_row).collect();
    assert_eq!(rows.len(), listeners.len(), "inodes are unique");
    let own = netns_of("thread-self");
    assert!(listeners.iter().all(|entry| (entry["netns"] == own) != (entry["cause"] == "other_netns")));
    let wanted: BTreeSet<u64> = others.iter().map(|other| netns_of(other.holders[0].0.id())).chain([own]).collect();
    rows.retain(|_, row| wanted.contains(&row.netns));
    rows
}

fn guestctl_row(entry: &Value) -> (u64, Row) {
    let number = |name: &str| entry[name].as_u64().unwrap_or_else(|| panic!("no {name} in {entry}"));
    let address: IpAddr = entry["address"].as_str().unwrap().parse().unwrap();
    assert_eq!(entry["family"], family(address), "{entry}");
    let row = Row {
        netns: number("netns"),
        family: family(address),
        address,
        port: number("port"),
        v6only: entry["v6only"].as_bool().unwrap(),
        uid: number("uid"),
        cgroup_id: number("cgroup_id"),
        waiting: number("accept_queue"),
        backlog: number("backlog"),
        pid: entry["process"]["pid"].as_u64(),
    };
    (number("inode"), row)
}

/// Differences, which a failure shows instead of two tables of hundreds of lines.
fn difference<'a>(
    ss: &'a BTreeMap<u64, Row>,
    guestctl: &'a BTreeMap<u64, Row>,
) -> Vec<(Option<&'a Row>, Option<&'a Row>)> {
    let inodes: BTreeSet<&u64> = ss.keys().chain(guestctl.keys()).collect();
    inodes.into_iter().map(|inode| (ss.get(inode), guestctl.get(inode))).filter(|(one, other)| one != other).collect()
}

/// Waits until the agent says what ss says.
fn until_agreed(agent: &TestAgent, others: &[Elsewhere]) {
    let ss = all_by_ss(others);
    let mut rest = String::new();
    eventually("guestctl says what ss says", || {
        let guestctl = by_guestctl(agent, others);
        let now = format!("{:?}", difference(&ss, &guestctl));
        // Each once, so that a failure ends with what is still different.
        if now != rest {
            println!("ss, guestctl: {now}");
            rest = now;
        }
        (rest == "[]").then_some(())
    });
}

#[test]
fn five_hundred_listeners_of_all_kinds_are_those_of_ss_and_so_they_are_when_half_have_gone() {
    let mut dice = Dice::throw();
    enter();
    let mut sockets = Vec::new();
    fill(&mut dice, &mut sockets, LISTENERS);
    let mut holders: Vec<_> = (0..HOLDERS).map(|_| HolderProcess::start(&mut dice, &sockets)).collect();
    let mut others: Vec<_> = (0..3).map(|_| Elsewhere::make(&mut dice)).collect();
    // Those that have become sleep hold nothing else, so all of them are what ss is going to see.
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 50\n", &[]);
    let ss = all_by_ss(&others);
    assert_eq!(ss.len(), LISTENERS + 3 * LISTENERS_ELSEWHERE);
    let kinds: BTreeSet<_> = ss.values().map(|row| (row.family, row.address, row.v6only)).collect();
    assert!(kinds.len() >= 8, "all kinds of bind: {kinds:?}");
    let guestctl = by_guestctl(&agent, &others);
    assert_eq!(difference(&ss, &guestctl), [], "ss and guestctl");

    // Sockets go, some of them stay with another process, some holders go, and new sockets take the ports.
    let all = std::mem::take(&mut sockets);
    sockets.extend(all.into_iter().filter(|_| dice.one_in(2)));
    holders.truncate(HOLDERS / 2);
    let own = netns_of("thread-self");
    let left = by_ss(own, &[]);
    let test = Some(u64::from(std::process::id()));
    let inherited = |row: &&Row| row.pid != test;
    assert!(left.len() < LISTENERS && left.values().filter(inherited).count() > 0, "{} are left", left.len());
    fill(&mut dice, &mut sockets, LISTENERS);
    // One namespace ends, one loses half of what it had and the process by which it was found, and one is new.
    let ended = others.remove(0);
    let of_ended = ended.by_ss();
    drop(ended);
    others[0].sockets.truncate(LISTENERS_ELSEWHERE / 2);
    drop(others[0].holders.remove(0));
    others.push(Elsewhere::make(&mut dice));
    until_agreed(&agent, &others);
    eventually("what has ended is gone", || {
        let listeners = agent.get("/v1/listeners");
        let is_left = |entry: &Value| of_ended.contains_key(&entry["inode"].as_u64().unwrap());
        (!listeners.as_array().unwrap().iter().any(is_left)).then_some(())
    });
}
