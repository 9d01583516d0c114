//! `GET /v1/listeners/watch`: who reads it knows the listeners, however slow they read, and costs nothing after they have gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::{fd::AsFd, unix::net::UnixStream},
    process::Command,
    time::Instant,
};

use guestd::limits;
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::{Signal, kill},
};
use serde_json::{Value, json};

use crate::{
    namespace::{agent, connect, enter, listen, netns_of, report, until_bridged},
    support::{DEADLINE, TestAgent, eventually, request},
};

/// A reader of the stream.
pub(crate) struct Watch {
    stream: BufReader<UnixStream>,
    /// What is left of the chunk that is being read.
    left: usize,
    /// All that came, in bytes.
    read: usize,
}

impl Watch {
    /// Asks, and reads the head of the answer.
    pub(crate) fn open(agent: &TestAgent) -> Self {
        let mut stream = BufReader::new(agent.connect());
        stream.get_mut().write_all(request("GET", "/v1/listeners/watch", "").as_bytes()).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: application/x-ndjson\r\n"), "{head}");
        Self { stream, left: 0, read: 0 }
    }

    /// The next event that is of this thread's network namespace, or of all; none at the clean end. Other tests' sockets are in
    /// other namespaces.
    pub(crate) fn next(&mut self) -> Option<Value> {
        let own = netns_of("thread-self");
        loop {
            let event = self.next_of_all()?;
            if event["listener"].is_null() || event["listener"]["netns"] == own {
                return Some(event);
            }
        }
    }

    fn next_of_all(&mut self) -> Option<Value> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            if self.left == 0 {
                let mut size = String::new();
                self.stream.read_line(&mut size).unwrap();
                self.left = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("no chunk: {size:?}"));
                if self.left == 0 {
                    assert!(line.is_empty(), "the stream ends within a line");
                    return None;
                }
            }
            let length = (&mut self.stream).take(self.left as u64).read_until(b'\n', &mut line).unwrap();
            self.left -= length;
            self.read += length;
            if self.left == 0 {
                self.stream.read_exact(&mut [0; 2]).unwrap();
            }
        }
        Some(serde_json::from_slice(&line).unwrap())
    }

    /// The next event that is not of a socket's being nobody's, as it is for a moment between the end of its descriptor and its own.
    fn next_but_of_a_close(&mut self) -> Value {
        loop {
            let event = self.next().unwrap();
            if event["type"] != "changed" || !event["listener"]["process"].is_null() {
                return event;
            }
        }
    }

    /// The events up to one for which this holds.
    pub(crate) fn until(&mut self, holds: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        while !events.last().is_some_and(&holds) {
            events.push(self.next().unwrap_or_else(|| panic!("the stream has ended after {events:?}")));
        }
        events
    }
}

pub(crate) fn is_synced(event: &Value) -> bool {
    event["type"] == "synced"
}

fn inode(socket: impl AsFd) -> u64 {
    nix::sys::stat::fstat(socket).unwrap().st_ino
}

/// Type, port and exposure.
fn gist(event: &Value) -> (&str, u64, &str) {
    let listener = &event["listener"];
    let port = listener["port"].as_u64().unwrap_or_default();
    (event["type"].as_str().unwrap(), port, listener["exposure"].as_str().unwrap_or_default())
}

/// Brings what is known to what the events tell; each must fit to what was known.
fn follow(known: &mut BTreeMap<u64, Value>, events: &[Value]) {
    for event in events {
        let listener = &event["listener"];
        let inode = listener["inode"].as_u64();
        match event["type"].as_str().unwrap() {
            "added" => assert_eq!(known.insert(inode.unwrap(), listener.clone()), None, "{event}"),
            "changed" => assert!(known.insert(inode.unwrap(), listener.clone()).is_some(), "{event}"),
            "removed" => assert!(known.remove(&inode.unwrap()).is_some(), "{event}"),
            _ => assert_eq!(inode, None, "{event}"),
        }
    }
}

#[test]
fn watcher_is_told_what_is_there_and_then_each_change() {
    let agent = agent();
    let first = listen("[::]:3000");
    report(&agent, &first, |_| true);
    let mut watch = Watch::open(&agent);
    let begin = watch.until(is_synced);
    assert_eq!(begin.iter().map(gist).collect::<Vec<_>>(), [("added", 3000, "direct"), ("synced", 0, "")]);
    assert_eq!(begin[0]["listener"]["process"]["pid"], std::process::id());

    let second = listen("[::]:4000");
    let event = watch.next().unwrap();
    assert_eq!((gist(&event), &event["listener"]["inode"]), (("added", 4000, "direct"), &inode(&second).into()));
    // Whose it is may take a walk over all processes, which the first word of it does not wait for.
    if event["listener"]["process"].is_null() {
        let event = watch.next().unwrap();
        assert_eq!(gist(&event), ("changed", 4000, "direct"));
        assert_eq!(event["listener"]["process"]["pid"], std::process::id());
    }
    drop(first);
    assert_eq!(gist(&watch.next_but_of_a_close()), ("removed", 3000, "direct"));

    // The bridge's part in the verdict is told, too.
    let _ipv4 = listen("0.0.0.0:5000");
    let events = watch.until(|event| event["listener"]["exposure"] == "bridged");
    let (kind, port, _) = gist(&events[0]);
    assert_eq!((kind, port), ("added", 5000));
    agent.call("PUT", "/v1/bridge", r#"{"auto": false}"#);
    watch.until(|event| gist(event) == ("changed", 5000, "unreachable"));
}

#[test]
fn waiting_connections_are_no_event() {
    let agent = agent();
    let service = listen("[::]:3000");
    report(&agent, &service, |_| true);
    let mut watch = Watch::open(&agent);
    let begin = watch.until(is_synced);
    assert_eq!((begin.len(), &begin[0]["listener"]["accept_queue"]), (2, &Value::Null), "{begin:?}");
    let _client = connect(3000);
    report(&agent, &service, |entry| entry["accept_queue"] == 1);
    let _other = listen("[::]:4000");
    assert_eq!(gist(&watch.next().unwrap()), ("added", 4000, "direct"));
}

#[test]
fn reader_that_is_slow_is_told_less_and_ends_with_the_truth() {
    enter();
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 50\n", &[]);
    let mut slow = Watch::open(&agent);
    let mut fast = Watch::open(&agent);
    let mut known = BTreeMap::new();
    follow(&mut known, &fast.until(is_synced));
    let sockets =
        |count: u16| -> Vec<TcpListener> { (0..count).map(|n| listen(&format!("[::]:{}", 3000 + n))).collect() };
    // Much more than what fits between the agent and one who does not read.
    for _ in 0..20 {
        let some = sockets(300);
        while known.len() < some.len() {
            follow(&mut known, &[fast.next().unwrap()]);
        }
        drop(some);
        while !known.is_empty() {
            follow(&mut known, &[fast.next().unwrap()]);
        }
    }
    let last = sockets(7);
    while known.len() < last.len() || known.values().any(|listener| listener["process"].is_null()) {
        follow(&mut known, &[fast.next().unwrap()]);
    }
    let mut slowly_known = BTreeMap::new();
    while slowly_known != known {
        follow(&mut slowly_known, &[slow.next().unwrap()]);
    }
    assert!(slow.read < fast.read / 2, "{} of {} bytes", slow.read, fast.read);
    // And nothing is left over: the next change is the next event of both.
    drop(last);
    for watch in [&mut slow, &mut fast] {
        assert_eq!(gist(&watch.next_but_of_a_close()).0, "removed");
    }
}

#[test]
fn watchers_are_bounded_and_those_that_have_gone_leave_their_places() {
    let agent = agent();
    let watching = || {
        let mut stream = agent.connect();
        stream.write_all(request("GET", "/metrics", "").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("guestd_listener_watchers "));
        line.unwrap().parse::<usize>().unwrap()
    };
    let watchers: Vec<_> = (0..limits::LISTENER_WATCHERS).map(|_| Watch::open(&agent)).collect();
    assert_eq!(watching(), limits::LISTENER_WATCHERS);
    let (status, body) = agent.call("GET", "/v1/listeners/watch", "");
    assert_eq!((status, &body["code"]), (429, &json!("limit_reached")));
    assert!(body["error"].as_str().unwrap().contains(&limits::LISTENER_WATCHERS.to_string()), "{body}");
    drop(watchers);
    // Nothing changes meanwhile: that they have gone is noticed by itself.
    eventually("all places are free", || (watching() == 0).then_some(()));
}

#[test]
fn watcher_of_an_agent_that_ends_is_told_so_at_once() {
    let agent = agent();
    let mut watch = Watch::open(&agent);
    watch.until(is_synced);
    let asked = Instant::now();
    kill(agent.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(watch.until(|event| event["type"] == "end").len(), 1);
    assert_eq!(watch.next(), None);
    assert!(agent.terminate().success());
    assert!(asked.elapsed() < limits::DRAIN_TIME / 2, "{:?}", asked.elapsed());
}

#[test]
fn services_that_flap_neither_starve_the_agent_nor_lose_the_last_state() {
    enter();
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 50\n", &[]);
    let mut watch = Watch::open(&agent);
    let mut known = BTreeMap::new();
    follow(&mut known, &watch.until(is_synced));
    let begun = Instant::now();
    // Answers come meanwhile.
    for _ in 0..200 {
        for _ in 0..10 {
            drop(listen("[::]:3000"));
        }
        agent.get("/v1/health");
    }
    let last = listen("[::]:3000");
    while !known.contains_key(&inode(&last)) || known.len() > 1 {
        follow(&mut known, &[watch.next().unwrap()]);
    }
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
}

#[test]
fn bridged_connections_go_on_while_somebody_watches() {
    let agent = agent();
    let mut watch = Watch::open(&agent);
    watch.until(is_synced);
    let service = listen("0.0.0.0:3000");
    until_bridged(&agent, &service);
    let _client = connect(3000);
    assert_eq!(
        service.accept().unwrap().1.ip(),
        std::net::IpAddr::V4(guestd::bridge::pseudo_ipv4(crate::namespace::CLIENT6))
    );
    // Connections are no event either: the next one is of another listener.
    watch.until(|event| event["listener"]["exposure"] == "bridged" && !event["listener"]["process"].is_null());
    let _other = listen("[::]:4000");
    assert_eq!(gist(&watch.next().unwrap()), ("added", 4000, "direct"));
}

#[test]
fn more_listeners_than_are_told_at_once_are_told_whole() {
    const MANY: u16 = 1500;
    assert!(usize::from(MANY) > limits::LISTENERS_AT_ONCE);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    enter();
    let sockets: Vec<_> = (0..MANY).map(|number| listen(&format!("[::]:{}", 3000 + number))).collect();
    let expected: BTreeSet<u64> = sockets.iter().map(inode).collect();
    // One look at the start and none for a minute.
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 60000\n", &[]);
    let mut watch = Watch::open(&agent);
    let told = watch.until(is_synced);
    let inodes = |entries: &[Value]| -> BTreeSet<u64> {
        entries.iter().filter_map(|entry| entry.pointer("/listener/inode").or(entry.get("inode"))?.as_u64()).collect()
    };
    assert_eq!((told.len(), inodes(&told)), (sockets.len() + 1, expected.clone()));

    let vm = format!("unix:{}", agent.socket().display());
    let guestctl = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_guestctl")).args(["--vm", &vm, "ports"]).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let listed: Vec<Value> = serde_json::from_slice(&guestctl(&["--json"])).unwrap();
    assert!(listed.is_sorted_by_key(|entry| entry["port"].as_u64()));
    assert!(inodes(&listed).is_superset(&expected));
    let text = String::from_utf8(guestctl(&[])).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("[::]")).count(), sockets.len());
}
