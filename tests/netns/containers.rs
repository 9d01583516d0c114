//! Listeners in other network namespaces: found, left alone, and what publishes them.

use std::{
    net::TcpListener,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::Value;

use crate::{
    namespace::{agent, elsewhere, enter, ip, listen, netns_of, own_listeners, report},
    support::{TestAgent, eventually},
};

/// A process that ends with this value, and with the test's thread.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts a program with a socket as its standard input.
    pub(crate) fn with_socket(words: &[&str], socket: impl Into<OwnedFd>) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(words).stdin(Stdio::from(socket.into()));
        Self(command.spawn().expect("setpriv of util-linux is installed"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

const SLEEP: [&str; 2] = ["sleep", "600"];

/// A process in a namespace of its own that listens there and nowhere else.
fn container(address: &str) -> (Process, TcpListener) {
    elsewhere(|| {
        ip("addr add 172.17.0.2/16 dev eth0");
        let listener = listen(address);
        (Process::with_socket(&SLEEP, listener.try_clone().unwrap()), listener)
    })
}

fn hint(entry: &Value) -> &str {
    entry["hint"].as_str().unwrap_or_default()
}

#[test]
fn container_is_listed_apart_and_never_bridged() {
    let agent = agent();
    let (process, listener) = container("0.0.0.0:3000");
    let entry = report(&agent, &listener, |entry| {
        entry["process"]["name"] == "sleep" || entry["process"]["pid"] == std::process::id()
    });
    assert_eq!((&entry["exposure"], &entry["cause"]), (&"unreachable".into(), &"other_netns".into()));
    assert_eq!(entry["netns"], netns_of(process.0.id()));
    // This process and sleep.
    report(&agent, &listener, |entry| entry["process"]["holders"] == 2);
    assert_eq!(agent.get("/v1/bridge")["ports"], serde_json::json!([]));
    assert_eq!(own_listeners(&agent), [] as [Value; 0]);
    // The same port in the VM's own namespace is another service's, and bridged.
    let own = listen("0.0.0.0:3000");
    crate::namespace::until_bridged(&agent, &own);
}

#[test]
fn published_port_and_what_it_leads_to_name_each_other() {
    let agent = agent();
    let (container, inside) = container("0.0.0.0:80");
    drop(inside.try_clone().unwrap());
    let published = listen("[::]:8080");
    let words = [
        "bash",
        "-c",
        "exec -a /usr/bin/docker-proxy bash \"$@\"",
        "bash",
        "-c",
        "kill -STOP $$",
        "-proto",
        "tcp",
        "-host-ip",
        "::",
        "-host-port",
        "8080",
        "-container-ip",
        "172.17.0.2",
        "-container-port",
        "80",
    ];
    let _proxy = Process::with_socket(&words, published.try_clone().unwrap());
    // This process's own hold on both would be told instead of theirs.
    let (inside_inode, published_inode) = (inode(&inside), inode(&published));
    drop((inside, published));
    let find = |inode: u64, words: &str| {
        eventually(words, || {
            let listeners = agent.get("/v1/listeners");
            let mut entries = listeners.as_array().unwrap().iter();
            entries.find(|entry| entry["inode"] == inode && hint(entry).contains(words)).cloned()
        })
    };
    let leads = format!("it leads to 172.17.0.2:80, where sleep (pid {}", container.0.id());
    let proxy = find(published_inode, &leads);
    assert_eq!((&proxy["exposure"], &proxy["url"]), (&"direct".into(), &"https://abc.vm.vers.sh:8080".into()));
    assert!(proxy["process"]["command"].as_str().unwrap().starts_with("/usr/bin/docker-proxy -c"), "{proxy}");
    let entry = find(inside_inode, "[::]:8080 of this VM, which the proxy reaches: https://abc.vm.vers.sh:8080");
    assert_eq!((&entry["exposure"], &entry["cause"]), (&"unreachable".into(), &"other_netns".into()));
    drop(container);
    find(published_inode, "it leads to 172.17.0.2:80, an address that no container has");
}

fn inode(listener: &TcpListener) -> u64 {
    nix::sys::stat::fstat(listener).unwrap().st_ino
}

#[test]
fn namespace_that_ends_is_gone_and_the_agent_has_kept_nothing_of_it() {
    let agent = agent();
    let (process, listener) = container("[::]:3000");
    report(&agent, &listener, |entry| entry["cause"] == "other_netns");
    let (inode, netns) = (inode(&listener), netns_of(process.0.id()));
    drop((process, listener));
    eventually("the listener is gone", || {
        let listeners = agent.get("/v1/listeners");
        (!listeners.as_array().unwrap().iter().any(|entry| entry["inode"] == inode)).then_some(())
    });
    // What else runs on this machine may be hidden from the agent; this namespace is not missed.
    let message = agent.check("listeners")["message"].to_string();
    assert!(!message.contains(&netns.to_string()), "{message}");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let kept: Vec<_> = targets.filter(|target| target.to_string_lossy().starts_with("net:")).collect();
    assert_eq!(kept, [] as [std::path::PathBuf; 0]);
}

#[test]
fn namespace_without_a_process_is_found_by_its_mount() {
    // Mounts of this thread and of what it starts alone.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a name\\with\nall");
    std::fs::write(&path, "").unwrap();
    enter();
    let listener = elsewhere(|| {
        mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        listen("[::]:3000")
    });
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 50\n", &[]);
    let entry = report(&agent, &listener, |entry| entry["cause"] == "other_netns");
    assert_eq!(entry["process"]["pid"], std::process::id());
    nix::mount::umount(&path).unwrap();
}

#[test]
fn namespace_that_cannot_be_entered_is_named_and_not_taken_for_empty() {
    enter();
    let (process, _inside) = container("[::]:3000");
    let own = listen("[::]:3001");
    let weak = ["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"];
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 50\n", &weak);
    report(&agent, &own, |entry| entry["exposure"] == "direct");
    let check = agent.check("listeners");
    let message = check["message"].as_str().unwrap();
    assert_eq!(check["state"], "degraded");
    assert!(message.contains("what else listens is not known") && message.contains("CAP_SYS_ADMIN"), "{message}");
    let netns = netns_of(process.0.id());
    let listeners = agent.get("/v1/listeners");
    assert!(listeners.as_array().unwrap().iter().all(|entry| entry["netns"] != netns), "{listeners}");
}
