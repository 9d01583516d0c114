//! Sockets that come and go in storms, and very many of them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use guestd::limits;

use crate::{
    namespace::{enter, listen, own_listeners},
    support::{TestAgent, eventually, request},
};

/// Processes that hold listeners, and sockets of each: fewer than the descriptors that a process usually may have.
const HOLDERS: usize = 25;
const EACH: usize = 800;

/// How often the agent has looked at what listens. Asking does not make it look.
pub(crate) fn looks(agent: &TestAgent) -> u64 {
    let mut stream = agent.connect();
    stream.write_all(request("GET", "/metrics", "").as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix("guestd_listener_looks_total "));
    line.unwrap_or_else(|| panic!("no looks in {page}")).parse().unwrap()
}

/// CPU time of the agent, all its threads.
fn cpu(agent: &TestAgent) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_millis(ticks * 1000 / per_second as u64)
}

#[test]
fn listeners_that_flap_do_not_starve_the_agent_and_their_last_state_is_seen() {
    enter();
    // Nothing but the last event leads to the look that sees it.
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 60000\n", &[]);
    let (began, looks_before, cpu_before) = (Instant::now(), looks(&agent), cpu(&agent));
    let (mut flaps, mut asked) = (0, 0);
    let mut last = None;
    while began.elapsed() < Duration::from_secs(3) {
        // 1,000 times a second, or as fast as this machine makes it.
        let due = began + Duration::from_millis(1) * flaps;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        last = Some(listen(&format!("127.0.0.1:{}", 3000 + flaps % 100)));
        flaps += 1;
        if flaps % 500 == 0 {
            assert!(own_listeners(&agent).len() <= 1);
            asked += 1;
        }
    }
    let (took, looked, used) = (began.elapsed(), looks(&agent) - looks_before, cpu(&agent) - cpu_before);
    println!("{flaps} flaps in {took:?}: {looked} looks, {used:?} of CPU time");
    let at_once = limits::LISTENER_LOOK_BURST.as_micros() / limits::LISTENER_LOOK_COST.as_micros();
    let apart = limits::LISTENER_LOOK_COST * limits::LISTENER_LOOK_SHARE;
    let most = took.as_millis() / apart.as_millis() + at_once + asked + 1;
    assert!(u128::from(looked) <= most, "{looked} looks for {flaps} flaps in {took:?}");
    assert!(used < took / 2, "{used:?} of CPU time in {took:?}");

    let known = |number: usize| {
        let said = agent.check("listeners")["message"].as_str().unwrap().to_owned();
        said.starts_with(&format!("{number} by sock_diag;")).then_some(())
    };
    eventually("the last one is known", || known(1));
    drop(last);
    eventually("it is known to be gone", || known(0));
}

/// A process with [`EACH`] listeners on loopback, from this port on. It ends with this value, and with its standard input.
struct Holder(Child);

impl Holder {
    fn start(first: usize) -> Self {
        let script = "my ($first, $number) = @ARGV;
            for my $port ($first .. $first + $number - 1) {
                socket(my $socket, PF_INET, SOCK_STREAM, 0) or die $!;
                bind($socket, pack_sockaddr_in($port, INADDR_LOOPBACK)) && listen($socket, 1) or die $!;
                push @held, $socket;
            }
            $| = 1; print qq(listens\\n); <STDIN>;";
        let mut command = Command::new("perl");
        command.args(["-MSocket", "-e", script, &first.to_string(), &EACH.to_string()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("perl is installed");
        Self(child)
    }

    fn wait(&mut self) {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "listens\n");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn twenty_thousand_listeners_neither_stop_the_agent_nor_lose_the_last_state() {
    enter();
    let agent = TestAgent::start_with("bridge.auto = false\nlisteners.poll_ms = 60000\n", &[]);
    let (began, cpu_before) = (Instant::now(), cpu(&agent));
    let mut holders: Vec<_> = (0..HOLDERS).map(|holder| Holder::start(10_000 + holder * EACH)).collect();
    holders.iter_mut().for_each(Holder::wait);
    let word = || agent.check("listeners")["message"].as_str().unwrap().to_owned();
    let all = HOLDERS * EACH;
    eventually("all are known", || word().starts_with(&format!("{all} by sock_diag;")).then_some(()));
    assert_eq!(own_listeners(&agent).len(), all);
    drop(holders);
    eventually("all are known to be gone", || word().starts_with("0 by sock_diag;").then_some(()));
    let (took, used) = (began.elapsed(), cpu(&agent) - cpu_before);
    println!("{took:?}, {} looks, {used:?} of CPU time", looks(&agent));
}
