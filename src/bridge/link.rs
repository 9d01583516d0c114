//! The agent's end of the line to a data plane: starts one, or knocks at the door of one that runs, and asks it.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream as StdStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    pin::pin,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    time::{Instant, timeout, timeout_at},
};

use super::orders::{self, Answer, Hello, Order, State};
use crate::{
    limits,
    sys::pidfd::{Pidfd, WatchedPidfd},
};

/// Read at once.
const READ_BYTES: usize = 16 * 1024;

/// This very executable, even where its file has been replaced.
const SELF: &str = "/proc/self/exe";

/// What a plane is started with.
#[derive(Debug, Clone, Default)]
pub struct PlaneSettings {
    /// Its Unix socket.
    pub socket: PathBuf,
    /// Bind the ports, even where the kernel could steer.
    pub bind: bool,
    /// How long it goes on without an agent.
    pub grace: Duration,
    /// What it logs.
    pub log_level: &'static str,
}

impl PlaneSettings {
    /// What tells its planes from others: a plane of another build or with other settings makes room for ours.
    ///
    /// To be asked for once: the file's own part changes when another one takes its place. Size and time of modification alone do not
    /// tell builds apart, for a reproducible image sets the latter.
    pub(super) fn identity(&self) -> String {
        let build = std::fs::metadata(SELF).map_or_else(
            |error| error.to_string(),
            |file| {
                let (modified, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
                let (size, device, inode) = (file.size(), file.dev(), file.ino());
                format!(
                    "{size} bytes of {}.{:09} at {device}:{inode} since {}.{:09}",
                    modified.0, modified.1, changed.0, changed.1
                )
            },
        );
        let (version, bind, grace, log) =
            (env!("CARGO_PKG_VERSION"), self.bind, self.grace.as_millis(), self.log_level);
        format!("guestd {version}, {build}, bind {bind}, grace {grace} ms, log {log}")
    }

    fn command(&self, identity: &str, agent: OwnedFd) -> Command {
        let mut command = Command::new(SELF);
        command.arg0("guestd");
        command.arg("bridge").arg("--socket").arg(&self.socket).args(["--identity", identity]);
        command.arg("--grace-ms").arg(self.grace.as_millis().to_string()).args(["--log-level", self.log_level]);
        command.args(self.bind.then_some("--bind")).stdin(agent).stdout(Stdio::null());
        command
    }
}

/// What a plane says without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Who it is, which is in [`Link::hello`] now.
    Hello,
    /// That something is new.
    News,
}

/// A line to a plane.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    /// Of lines that are not taken out yet.
    begun: Vec<u8>,
    pub(super) pid: i32,
    /// None where it has ended already, or no descriptor is left.
    process: Option<WatchedPidfd>,
    /// What it has said of itself, once it has.
    pub(super) hello: Option<Hello>,
    /// When it has had the time to.
    give_up: Instant,
}

impl Link {
    fn new(stream: UnixStream, pid: i32) -> Self {
        let process = Pidfd::open(pid).ok().and_then(|pidfd| WatchedPidfd::new(pidfd).ok());
        let give_up = Instant::now() + limits::BRIDGE_STUCK_TIME;
        Self { stream, begun: Vec::new(), pid, process, hello: None, give_up }
    }

    /// Knocks at a plane's door, if there is one. Waits for nothing: it has still to say who it is.
    ///
    /// # Errors
    /// `WouldBlock` where so many knock already that no more can; it is another user's.
    pub(super) async fn knock(door: &Path) -> io::Result<Option<Self>> {
        let stream = match UnixStream::connect(door).await {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            result => result?,
        };
        let peer = stream.peer_cred()?;
        if peer.uid() != nix::unistd::geteuid().as_raw() {
            let error = format!("{} belongs to uid {}", door.display(), peer.uid());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, error));
        }
        let link = Self::new(stream, peer.pid().unwrap_or_default());
        // Nobody else holds the other end: if it is there, the handle is on who has it, and not on a successor with the same number.
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(link.stream.as_raw_fd(), &mut [0], flags) {
            Ok(0) | Err(Errno::ECONNRESET) => Ok(None),
            _ => Ok(Some(link)),
        }
    }

    /// Starts a plane. `know` is told of the sockets that it will listen with, before it does.
    ///
    /// # Errors
    /// It did not come as far as to hold anything, and is gone.
    pub(super) async fn start(
        settings: &PlaneSettings,
        identity: &str,
        know: impl FnOnce(Vec<u64>),
    ) -> io::Result<(Self, Child)> {
        let (ours, its) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let stream = UnixStream::from_std(ours)?;
        // It stands still until the new process has its program, which an agent that starts has no time for.
        let mut command = settings.command(identity, its.into());
        let mut child = tokio::task::spawn_blocking(move || command.spawn()).await.map_err(io::Error::other)??;
        let mut link = Self::new(stream, child.id().cast_signed());
        match link.begin(know).await {
            Ok(()) => Ok((link, child)),
            Err(error) => {
                // It has ended already, or does now.
                let _ = child.kill();
                link.ended().await;
                let status = child.try_wait().ok().flatten().map_or_else(String::new, |status| format!(" ({status})"));
                Err(io::Error::new(error.kind(), format!("{error}{status}")))
            }
        }
    }

    async fn begin(&mut self, know: impl FnOnce(Vec<u64>)) -> io::Result<()> {
        match self.answer().await? {
            Answer::About { listeners } => know(listeners),
            other => return Err(unexpected(other)),
        }
        self.say(&Order::Begin).await?;
        match self.answer().await? {
            Answer::Hello(hello) => self.hello = Some(hello),
            other => return Err(unexpected(other)),
        }
        Ok(())
    }

    /// Has an order carried out. After an error the line is of no use any more, except where the plane has said that it cannot.
    pub(super) async fn ask(&mut self, order: &Order) -> io::Result<State> {
        self.say(order).await?;
        match self.answer().await? {
            Answer::State(state) => Ok(state),
            other => Err(unexpected(other)),
        }
    }

    /// Waits until it says something unasked, or has ended, or has not said who it is for too long. Nothing is lost if this is given up.
    pub(super) async fn heard(&mut self) -> io::Result<Said> {
        let answer = match self.hello {
            Some(_) => self.next().await?,
            None => {
                let give_up = self.give_up;
                timeout_at(give_up, self.next()).await??
            }
        };
        match answer {
            Answer::Hello(hello) if self.hello.is_none() => {
                self.hello = Some(hello);
                Ok(Said::Hello)
            }
            Answer::News => Ok(Said::News),
            other => Err(unexpected(other)),
        }
    }

    /// Has the plane end; returns when it has, by itself or by force.
    pub(super) async fn end(mut self) {
        let told = async {
            self.say(&Order::End).await?;
            // Its end is what is waited for, whatever it says before.
            while self.next().await.is_ok() {}
            io::Result::Ok(())
        };
        if timeout(limits::BRIDGE_ANSWER_TIME, told).await.is_err() {
            tracing::warn!(pid = self.pid, "bridge: the data plane does not end when it is told, and is ended");
            self.kill();
        }
        self.ended().await;
    }

    /// Ends the process with all its connections.
    pub(super) fn kill(&self) {
        if let Some(process) = &self.process
            && let Err(error) = process.get().signal(libc::SIGKILL)
        {
            tracing::error!(pid = self.pid, %error, "bridge: the data plane cannot be ended");
        }
    }

    /// Waits a moment for the process to be gone.
    pub(super) async fn ended(&self) {
        if let Some(process) = &self.process {
            // One that goes on has another agent.
            let _ = timeout(limits::BRIDGE_REAP_TIME, process.ended()).await;
        }
    }

    async fn say(&mut self, order: &Order) -> io::Result<()> {
        timeout(limits::BRIDGE_STUCK_TIME, self.stream.write_all(&orders::line(order)?)).await?
    }

    /// What is said next that is no news. One who is slow is given more time than most would need, for its end is that of all its
    /// connections.
    async fn answer(&mut self) -> io::Result<Answer> {
        let pid = self.pid;
        let mut answer = pin!(async {
            loop {
                match self.next().await? {
                    Answer::News => {}
                    answer => return Ok(answer),
                }
            }
        });
        if let Ok(answer) = timeout(limits::BRIDGE_ANSWER_TIME, &mut answer).await {
            return answer;
        }
        tracing::warn!(pid, "bridge: the data plane is slow to answer");
        timeout(limits::BRIDGE_STUCK_TIME.saturating_sub(limits::BRIDGE_ANSWER_TIME), answer).await?
    }

    /// The next line. Nothing is lost if this is given up.
    async fn next(&mut self) -> io::Result<Answer> {
        let mut looked = 0;
        loop {
            if let Some(end) = self.begun[looked..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.begun.drain(..=looked + end).collect();
                let unread = |error| io::Error::other(format!("an answer that cannot be read: {error}"));
                return serde_json::from_slice(&line).map_err(unread);
            }
            looked = self.begun.len();
            if looked > limits::BRIDGE_LINE_BYTES {
                return Err(io::Error::other(format!("a line of more than {} bytes", limits::BRIDGE_LINE_BYTES)));
            }
            self.stream.readable().await?;
            self.begun.reserve(READ_BYTES);
            match self.stream.try_read_buf(&mut self.begun) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }
}

fn unexpected(answer: Answer) -> io::Error {
    match answer {
        Answer::Error { message } => io::Error::other(message),
        _ => io::Error::other("it says what it was not asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_setting_is_another_identity_and_so_is_a_file_that_was_changed() {
        let settings = PlaneSettings { log_level: "info", ..PlaneSettings::default() };
        let identity = settings.identity();
        assert_eq!(settings.identity(), identity);
        for other in [
            PlaneSettings { log_level: "debug", ..settings.clone() },
            PlaneSettings { bind: true, ..settings.clone() },
            PlaneSettings { grace: Duration::from_secs(1), ..settings.clone() },
        ] {
            assert_ne!(other.identity(), identity);
        }
        let file = std::fs::metadata(SELF).unwrap();
        for part in [format!("at {}:{} ", file.dev(), file.ino()), format!("since {}.", file.ctime())] {
            assert!(identity.contains(&part), "{identity}");
        }
    }
}
