//! A service with all that process 1 holds of it: process, cgroup, pipes, ring, notify socket.

use std::{
    fs,
    io::{self, PipeReader, PipeWriter, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{
    ring::Ring,
    service::{Act, Definition, Ended, Life, Member, Policy, Ready},
    spawn::{NO_CGROUP, NO_LIMIT, Spawner, give_to},
    timeline::{secs, shorten},
};
use crate::{
    api, limits, signals,
    sys::{
        cgroup::Cgroup,
        pidfd::Exit,
        process::{Forked, LaunchError, Stage},
        sock_diag, supervise,
    },
};

/// Where the sockets are that services say by that they are ready.
const NOTIFY: &str = "/run/guestd/notify";

/// One service.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) definition: Definition,
    pub(super) life: Life,
    pub(super) ring: Ring,
    /// Standard output and standard error.
    streams: [Stream; 2],
    notify: Option<(UnixDatagram, PathBuf)>,
    process: Option<Forked>,
    /// When the last process was started, and when it or the one before ended.
    started: Option<Duration>,
    exited: Option<Duration>,
    cgroup: Option<Cgroup>,
    /// Those of lives before, in which something is still on its way out.
    emptying: Vec<Cgroup>,
    /// When to look whether its port is listened on, and how long to wait then.
    look: Option<(Duration, Duration)>,
    /// Offset in the ring where this life's output begins.
    said_before: u64,
    /// What is wrong with it beside how it runs.
    pub(super) notes: Vec<String>,
}

/// A pipe whose ends we both hold: it is the same in each of the service's lives, and never at its end.
#[derive(Debug)]
struct Stream {
    read: PipeReader,
    write: PipeWriter,
}

impl Stream {
    fn new() -> io::Result<Self> {
        let (read, write) = io::pipe()?;
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { read, write })
    }

    fn for_child(&self) -> io::Result<OwnedFd> {
        self.write.as_fd().try_clone_to_owned()
    }
}

impl Member for Unit {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn life(&self) -> &Life {
        &self.life
    }

    fn life_mut(&mut self) -> &mut Life {
        &mut self.life
    }
}

impl Unit {
    /// A service that does not run yet.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn new(definition: Definition, now: Duration) -> io::Result<Self> {
        let policy = Policy {
            restart: definition.restart,
            pause: definition.pause,
            grace: definition.grace,
            ready_time: definition.ready_time,
            one_shot: definition.ready == Ready::Exit,
            at_once: definition.at_once,
        };
        let mut unit = Self {
            life: Life::new(policy, definition.enabled, now),
            ring: Ring::new(limits::SERVICE_RING_BYTES),
            streams: [Stream::new()?, Stream::new()?],
            notify: None,
            process: None,
            started: None,
            exited: None,
            cgroup: None,
            emptying: Vec::new(),
            look: None,
            said_before: 0,
            notes: Vec::new(),
            definition,
        };
        if unit.definition.ready == Ready::Notify
            && let Err(error) = unit.open_notify()
        {
            unit.notes.push(format!("it cannot say that it is ready, and counts as that when it runs: {error}"));
        }
        Ok(unit)
    }

    fn open_notify(&mut self) -> io::Result<()> {
        fs::create_dir_all(NOTIFY)?;
        let path = PathBuf::from(NOTIFY).join(format!("{}.sock", self.definition.name));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        give_to(&path, &self.definition.user)?;
        self.notify = Some((socket, path));
        Ok(())
    }

    /// What is to be watched: standard output, standard error, the notify socket, and, after each start, what becomes of that.
    pub(super) fn sources(&self) -> [Option<BorrowedFd<'_>>; 4] {
        let [out, err] = &self.streams;
        let notify = self.notify.as_ref().map(|(socket, _)| socket.as_fd());
        let news = self.process.as_ref().and_then(Forked::news);
        [Some(out.read.as_fd()), Some(err.read.as_fd()), notify, news]
    }

    /// It runs its program by now, or could not and is about to end.
    pub(super) fn has_news(&mut self, now: Duration) {
        let runs = self.process.as_mut().is_some_and(Forked::runs);
        let is_enough = match self.definition.ready {
            Ready::Start => true,
            Ready::Notify => self.notify.is_none(),
            Ready::Port(_) | Ready::Exit => false,
        };
        if runs && is_enough {
            self.life.ready(now);
        }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(|process| process.pid)
    }

    /// Carries out what its life says.
    pub(super) fn act(&mut self, act: Act, spawner: &Spawner, env: &[(&str, String)], now: Duration) {
        match act {
            Act::Spawn => self.spawn(spawner, env, now),
            Act::Signal => {
                if let Some(pid) = self.pid() {
                    let _ = supervise::kill(pid, self.definition.stop_signal);
                    // One that is stopped (SIGSTOP) gets it, too.
                    let _ = supervise::kill(pid, libc::SIGCONT);
                }
            }
            Act::Kill => self.kill(),
        }
    }

    /// Ends all of it at one stroke.
    pub(super) fn kill(&self) {
        let whole = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.kill_all().is_ok());
        if let (Some(pid), false) = (self.pid(), whole) {
            // It leads a group of its own.
            let _ = supervise::kill(-pid, libc::SIGKILL);
            let _ = supervise::kill(pid, libc::SIGKILL);
        }
    }

    fn spawn(&mut self, spawner: &Spawner, env: &[(&str, String)], now: Duration) {
        self.notes.retain(|note| !note.starts_with(NO_CGROUP) && !note.starts_with(NO_LIMIT));
        self.cgroup = spawner.cgroup(&self.definition, &mut self.notes);
        if let Some(made) = &self.cgroup {
            // One that was to be removed may have been, and its name is this one's now.
            self.emptying.retain(|old| old.path() != made.path());
        }
        let mut env = env.to_vec();
        if let Some((_, path)) = &self.notify {
            env.push(("NOTIFY_SOCKET", path.display().to_string()));
        }
        let [out, err] = &self.streams;
        let streams = out.for_child().and_then(|out| Ok((out, err.for_child()?)));
        let started = streams
            .map_err(|error| error.to_string())
            .and_then(|streams| spawner.start(&self.definition, &env, streams, self.cgroup.as_ref()));
        match started {
            Ok(process) => {
                self.process = Some(process);
                self.started = Some(now);
                self.said_before = self.ring.end();
                self.life.spawned(now);
                if let Ready::Port(_) = self.definition.ready {
                    self.look = Some((now, limits::SERVICE_PORT_LOOK.0));
                }
            }
            Err(why) => {
                self.leave_cgroup();
                self.life.not_spawned(why, now);
            }
        }
    }

    /// Reads output that waits, a turn's worth. Whether there may be more.
    pub(super) fn read(&mut self, stream: usize) -> bool {
        let mut buffer = [0; limits::SERVICE_READ_BYTES];
        let Some(Stream { read, .. }) = self.streams.get_mut(stream) else { return false };
        match read.read(&mut buffer) {
            Ok(length) if length > 0 => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                self.ring.push(stream == 1, now, &buffer[..length]);
                length == buffer.len()
            }
            _ => false,
        }
    }

    /// Reads what it has said of its being ready.
    pub(super) fn hear(&mut self, now: Duration) {
        let Some((socket, _)) = &self.notify else { return };
        let mut message = [0; 1024];
        // Some at a time: who sends without end must not keep us here.
        for _ in 0..16 {
            let Ok(length) = socket.recv(&mut message) else { break };
            if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                self.life.ready(now);
            }
        }
    }

    /// Looks for its port, if it is time to.
    pub(super) fn look(&mut self, now: Duration) {
        let (Some((at, pause)), Ready::Port(port)) = (self.look, self.definition.ready) else { return };
        if !self.life.is_starting() {
            self.look = None;
        } else if now >= at {
            if listens(port) {
                self.look = None;
                self.life.ready(now);
            } else {
                self.look = Some((now + pause, (pause * 2).min(limits::SERVICE_PORT_LOOK.1)));
            }
        }
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Duration> {
        [self.life.deadline(), self.look.map(|(at, _)| at)].into_iter().flatten().min()
    }

    /// Its main process was reaped. What it has said last, where nobody wanted it to end.
    pub(super) fn ended(&mut self, exit: Exit, now: Duration) -> Option<String> {
        for stream in 0..self.streams.len() {
            // What it wrote is in the pipe; what others write to it meanwhile is not waited for.
            for _ in 0..16 {
                if !self.read(stream) {
                    break;
                }
            }
        }
        // One that was quicker than the news of it has been ready all the same.
        self.has_news(now);
        self.exited = Some(now);
        let pid = self.pid();
        let failure = self.process.take().and_then(Forked::failure);
        let why = failure.map(|error| explain(&self.definition, &error));
        self.kill_leftovers(pid);
        let ended = Ended { well: exit == Exit::Code(0), how: shown(exit) };
        let unwanted = !self.life.is_stopping();
        self.life.ended(ended, why.clone(), now);
        unwanted.then(|| {
            let most = usize::try_from(self.ring.end() - self.said_before).unwrap_or(usize::MAX);
            let said = self.ring.tail(most.min(limits::AGENT_CRASH_BYTES));
            // In JSON each control character would be six.
            let said = String::from_utf8_lossy(&said).replace(|c: char| c.is_control() && !"\n\t".contains(c), "?");
            why.into_iter().chain([said]).collect::<Vec<_>>().join("\n")
        })
    }

    /// What a service leaves running ends with it, who was this process.
    fn kill_leftovers(&mut self, pid: Option<i32>) {
        let whole = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.kill_all().is_ok());
        if let (Some(pid), false) = (pid, whole) {
            let _ = supervise::kill(-pid, libc::SIGKILL);
        }
        self.leave_cgroup();
    }

    fn leave_cgroup(&mut self) {
        self.emptying.extend(self.cgroup.take());
        self.tidy();
    }

    /// Removes the cgroups of ended lives that have become empty.
    pub(super) fn tidy(&mut self) {
        self.emptying.retain(|cgroup| cgroup.remove().is_err());
    }

    /// As it is told.
    pub(super) fn report(&self, now: Duration) -> api::Service {
        let problems = self.life.problem(now).into_iter().chain(self.notes.iter().cloned());
        let problem = problems.reduce(|a, b| format!("{a}; {b}")).map(|mut problem| {
            shorten(&mut problem);
            problem
        });
        api::Service {
            name: self.definition.name.clone(),
            state: self.life.state(),
            pid: self.pid(),
            started_secs: self.started.filter(|_| self.process.is_some()).map(secs),
            command: shortened(&self.definition.command),
            since_secs: secs(self.life.since()),
            restarts: self.life.restarts(),
            last_exit: self.life.last().map(str::to_owned),
            exited_secs: self.exited.map(secs),
            problem,
        }
    }
}

/// As much of a command line as is shown of one.
fn shortened(command: &[String]) -> Vec<String> {
    let mut left = limits::PROCESS_COMMAND_BYTES;
    let mut words = Vec::new();
    for word in command {
        if word.len() > left {
            words.push("…".to_owned());
            break;
        }
        left -= word.len();
        words.push(word.clone());
    }
    words
}

/// Does anybody listen on this port?
fn listens(port: u16) -> bool {
    let sockets = sock_diag::listening_tcp(limits::LISTENERS_READ);
    let sockets = sockets.or_else(|_| sock_diag::procfs_listening_tcp(limits::LISTENERS_READ));
    sockets.is_ok_and(|sockets| sockets.iter().any(|socket| socket.port == port))
}

/// An end for people.
pub(super) fn shown(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit status {code}"),
        Exit::Signal(signal) => signals::name(signal),
    }
}

fn explain(service: &Definition, error: &LaunchError) -> String {
    let program = service.command.first().map(String::as_str).unwrap_or_default();
    match error.stage {
        Stage::Execute => format!("{program} could not be run: {}", error.source),
        Stage::Directory => {
            format!("its directory {} could not be entered: {}", service.cwd.as_deref().unwrap_or("/"), error.source)
        }
        _ => format!("it could not be started: {error}"),
    }
}
