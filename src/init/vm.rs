//! Process 1 of a VM: what it owns, and its one loop.

use std::{
    collections::VecDeque,
    ffi::CString,
    fs, io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{
    control::Desk,
    early, ending, late,
    service::{self, AGENT, Act, Definition, Member as _, agent},
    spawn::Spawner,
    timeline::{Timeline, now, secs, shorten, tell},
    unit::{Unit, shown},
};
use crate::{
    api::{AgentCrash, PowerAction, Service, ServiceState},
    control, limits,
    sys::{
        pidfd::Exit,
        process::foreground,
        supervise::{self, Signals},
    },
};

/// What an event is about; with a number, as the kernel keeps it for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Control,
    /// Of this unit: 0 standard output, 1 standard error, 2 the notify socket, 3 news of its start.
    Unit(usize, usize),
    /// A connection to the control socket.
    Connection(usize),
}

impl Source {
    fn number(self) -> u64 {
        match self {
            Self::Signals => 0,
            Self::Control => 1,
            Self::Connection(index) => 0x1_0000 + index as u64,
            Self::Unit(index, source) => 0x2_0000 + (index * 4 + source) as u64,
        }
    }

    fn of_number(number: u64) -> Self {
        let number = usize::try_from(number).unwrap_or_default();
        match number {
            0 => Self::Signals,
            1 => Self::Control,
            0x1_0000..0x2_0000 => Self::Connection(number - 0x1_0000),
            _ => Self::Unit((number - 0x2_0000) / 4, (number - 0x2_0000) % 4),
        }
    }
}

/// See [`Source::Unit`].
const NEWS: usize = 3;

/// The VM is to end.
#[derive(Debug, Clone, Copy)]
struct Ending {
    action: PowerAction,
    begun: Duration,
    /// Then whatever still runs is killed.
    until: Duration,
    killed: bool,
}

/// All that process 1 knows.
#[derive(Debug)]
pub(super) struct Supervisor {
    epoll: Epoll,
    signals: Signals,
    pub(super) desk: Desk,
    spawner: Spawner,
    pub(super) timeline: Timeline,
    /// The agent first, then the services by name.
    pub(super) units: Vec<Unit>,
    /// Definitions that cannot be used, by name.
    broken: Vec<(String, String)>,
    pub(super) crashes: VecDeque<AgentCrash>,
    ending: Option<Ending>,
}

/// Boots the VM, and looks after it until it ends.
pub(super) fn run() -> ExitCode {
    ending::survive_nothing();
    let mut timeline = Timeline::default();
    let config = early::steps(&mut timeline);
    ending::know(config.power);
    if let Some(init) = &config.handoff {
        match early::check_handoff(init) {
            Ok(()) => timeline.step("hand-over", |problems| problems.push(hand_over(init))),
            Err(why) => timeline.step("hand-over", |problems| problems.push(format!("{why}; guestd goes on as init"))),
        }
    }
    let signals = essential("taking signals", Signals::take());
    let spawner = timeline.step("cgroups", Spawner::new);
    let desk = timeline.step("control socket", Desk::open);
    let epoll = essential("epoll", Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from));
    let mut supervisor = Supervisor {
        epoll,
        signals,
        desk,
        spawner,
        timeline,
        units: Vec::new(),
        broken: Vec::new(),
        crashes: VecDeque::new(),
        ending: None,
    };
    supervisor.begin();
    loop {
        supervisor.turn();
    }
}

/// What process 1 cannot do without. There is nobody to be told but the console, and nothing to go on with.
#[expect(
    clippy::panic,
    reason = "the end of process 1 is the end of the VM, and is made an orderly one by its panic hook"
)]
fn essential<T>(what: &str, result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{what} failed: {error}"))
}

/// Becomes another init. Its process is this one, so that it is process 1 as well. Returns why it could not.
fn hand_over(init: &Path) -> String {
    let program = CString::new(init.as_os_str().as_bytes()).unwrap_or_default();
    let _ = supervise::let_signals_be();
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(key, value)| CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok())
        .collect();
    // Of a program that is many, such as busybox, the name says which.
    let Err(error) = nix::unistd::execve(&program, &[c"init"], &env);
    format!("hand-over to {} failed: {error}; guestd goes on as init", init.display())
}

impl Supervisor {
    fn begin(&mut self) {
        let watched = self.watch(Source::Signals).and_then(|()| self.watch(Source::Control));
        essential("watching signals", watched);
        let program = fs::read_link("/proc/self/exe").ok().and_then(|path| path.to_str().map(str::to_owned));
        let env =
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let mut env: Vec<_> = env.filter(|(key, _)| !matches!(key.as_str(), "HOME" | "PATH" | "TERM")).collect();
        if self.desk.is_open() {
            env.push((control::VARIABLE.to_owned(), control::SOCKET.to_owned()));
        }
        let agent = agent(program.as_deref().unwrap_or("/usr/local/bin/guestd"), env);
        let mut timeline = std::mem::take(&mut self.timeline);
        timeline.step("agent", |problems| {
            self.add(agent, problems);
            self.act();
        });
        let (services, problems) = late::steps(&mut timeline);
        timeline.step("first services", |said| {
            for service in services {
                self.add(service, said);
            }
            for (name, mut why) in problems {
                tell(&format!("service {name}: {why}"));
                match self.units.iter_mut().find(|unit| unit.definition.name == name) {
                    Some(unit) => unit.notes.push(why),
                    None => {
                        shorten(&mut why);
                        self.broken.push((name, why));
                    }
                }
            }
            self.act();
        });
        self.timeline = timeline;
    }

    fn add(&mut self, definition: Definition, problems: &mut Vec<String>) {
        let name = definition.name.clone();
        match Unit::new(definition, now()) {
            Ok(unit) => self.units.push(unit),
            Err(error) => return problems.push(format!("the service {name} cannot be run: {error}")),
        }
        let index = self.units.len() - 1;
        for source in 0..3 {
            if let Err(error) = self.watch(Source::Unit(index, source)) {
                problems.push(format!("the service {name} cannot be watched: {error}"));
            }
        }
    }

    /// Has a descriptor tell when it can be read.
    pub(super) fn watch(&self, source: Source) -> io::Result<()> {
        let fd = match source {
            Source::Signals => Some(self.signals.as_fd()),
            Source::Control => self.desk.listener(),
            Source::Connection(index) => self.desk.connection(index),
            Source::Unit(index, source) => {
                self.units.get(index).and_then(|unit| unit.sources().get(source).copied().flatten())
            }
        };
        let Some(fd) = fd else { return Ok(()) };
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source.number()))?)
    }

    /// Is told no more by a descriptor. To close it is not enough: a child that has not run its program yet has it, too.
    pub(super) fn unwatch(&self, fd: impl AsFd) {
        let _ = self.epoll.delete(fd);
    }

    /// Waits for something to happen, and sees to it.
    fn turn(&mut self) {
        let deadlines = self.units.iter().filter_map(Unit::deadline).chain(self.desk.deadline());
        let deadlines = deadlines.chain(self.ending.map(|ending| ending.until));
        let wait = deadlines.min().map(|at| at.saturating_sub(now()));
        // Rounded up, or the last millisecond would be spent in circles.
        let wait = wait.map_or(EpollTimeout::NONE, |wait| {
            EpollTimeout::try_from(wait + Duration::from_micros(999)).unwrap_or(EpollTimeout::MAX)
        });
        let mut events = [EpollEvent::empty(); 32];
        let count = match self.epoll.wait(&mut events, wait) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => {
                tell(&format!("waiting for events failed: {error}"));
                std::thread::sleep(limits::CONTROL_TIME);
                0
            }
        };
        for event in &events[..count] {
            match Source::of_number(event.data()) {
                Source::Signals => self.signals(),
                Source::Control => self.greet(),
                Source::Connection(index) => self.answer(index),
                Source::Unit(index, source) => {
                    let Some(unit) = self.units.get_mut(index) else { continue };
                    match source {
                        2 => unit.hear(now()),
                        3 => unit.has_news(now()),
                        stream => drop(unit.read(stream)),
                    }
                }
            }
        }
        self.hang_up();
        self.act();
        self.go_on_ending();
    }

    fn signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.next() {
            match signal {
                libc::SIGCHLD => self.reap(),
                // Ctrl-Alt-Del; kill 1; the power fails; what busybox's halt and poweroff send.
                libc::SIGINT | libc::SIGTERM | libc::SIGPWR | libc::SIGUSR1 | libc::SIGUSR2 => {
                    self.end(PowerAction::Off);
                }
                // What systemctl poweroff and reboot send (SIGRTMIN+4 and +5, systemd(1)); 34 is the C library's SIGRTMIN there.
                38 => self.end(PowerAction::Off),
                39 => self.end(PowerAction::Reboot),
                _ => {}
            }
        }
    }

    /// All that have ended, however many signals there were for them: each may stand for thousands.
    fn reap(&mut self) {
        while let Ok(Some((pid, exit))) = supervise::reap() {
            self.ended(pid, exit);
        }
        self.units.iter_mut().for_each(Unit::tidy);
    }

    fn ended(&mut self, pid: i32, exit: Exit) {
        let now = now();
        let Some(unit) = self.units.iter_mut().find(|unit| unit.pid() == Some(pid)) else {
            // An orphan.
            return;
        };
        // It may have said that it is ready in its last instant.
        unit.hear(now);
        let is_agent = unit.definition.name == AGENT;
        let report = unit.ended(exit, now);
        tell_failure(unit, now);
        if let (Some(report), true) = (report, is_agent) {
            self.crashes.push_back(AgentCrash { pid, at_secs: secs(now), exit: shown(exit), report });
            while self.crashes.len() > limits::AGENT_CRASHES {
                self.crashes.pop_front();
            }
        }
    }

    /// Carries out all that is due.
    pub(super) fn act(&mut self) {
        let now = now();
        self.units.iter_mut().for_each(|unit| unit.look(now));
        while let Some((index, act)) = service::due(&mut self.units, now, self.ending.is_some()) {
            let Some(unit) = self.units.get_mut(index) else { return };
            unit.act(act, &self.spawner, &[], now);
            tell_failure(unit, now);
            if act == Act::Spawn
                && self.watch(Source::Unit(index, NEWS)).is_err()
                && let Some(unit) = self.units.get_mut(index)
            {
                // To be waited for, which takes an instant but in the worst of cases.
                unit.has_news(now);
            }
        }
    }

    /// Has the VM end. Once is enough.
    pub(super) fn end(&mut self, action: PowerAction) {
        if self.ending.is_some() {
            return;
        }
        let now = now();
        // What is not on the disk yet gets there while services end.
        let _ = foreground::aside(nix::unistd::sync);
        let running = self.units.iter().skip(1).filter(|unit| unit.life.runs());
        let until = now + service::stop_time(running.map(Unit::definition)) + limits::POWER_SERVICES_TIME;
        self.ending = Some(Ending { action, begun: now, until, killed: false });
        for unit in &mut self.units {
            unit.life.stop(false, now);
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    fn go_on_ending(&mut self) {
        let Some(ending) = &mut self.ending else { return };
        let now = now();
        let services = self.units.get(1..).unwrap_or_default();
        if services.iter().all(|unit| !unit.life.runs()) || ending.killed && now >= ending.until {
            ending::finish(ending.action, ending.begun);
        }
        if now >= ending.until {
            ending.killed = true;
            ending.until = now + limits::POWER_OTHERS_TIME.1;
            services.iter().for_each(Unit::kill);
        }
    }

    /// Services as they are told, those that cannot be used among them.
    pub(super) fn services(&self) -> Vec<Service> {
        let now = now();
        let broken = self.broken.iter().map(|(name, why)| Service {
            name: name.clone(),
            state: ServiceState::Failed,
            pid: None,
            started_secs: None,
            command: Vec::new(),
            since_secs: 0.0,
            restarts: 0,
            last_exit: None,
            exited_secs: None,
            problem: Some(why.clone()),
        });
        self.units.iter().map(|unit| unit.report(now)).chain(broken).collect()
    }
}

/// A line on the console for a service that is given up.
fn tell_failure(unit: &Unit, now: Duration) {
    if unit.life.state() == ServiceState::Failed {
        tell(&format!("service {}: {}", unit.definition.name, unit.life.problem(now).unwrap_or_default()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_known_by_its_number() {
        let units = (0..limits::SERVICES + 1).flat_map(|index| (0..4).map(move |source| Source::Unit(index, source)));
        let connections = (0..limits::CONTROL_CONNECTIONS).map(Source::Connection);
        for source in [Source::Signals, Source::Control].into_iter().chain(connections).chain(units) {
            assert_eq!(Source::of_number(source.number()), source);
        }
    }
}
