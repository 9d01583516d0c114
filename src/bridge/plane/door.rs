//! The plane's Unix socket, where agents come in.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Instant,
};

use nix::sys::{
    socket::{getsockopt, sockopt::PeerCredentials},
    stat::{Mode, umask},
};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{bridge::name_lock::NameLock, limits};

/// Where agents come in. Its file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    /// While the plane has the name that agents look for first.
    lock: Option<NameLock>,
    /// A descriptor in reserve, so that an agent is let in though the connections have all others.
    reserve: Option<File>,
    /// Out of descriptors or memory: nobody is let in until then.
    paused: Option<Instant>,
}

impl Door {
    /// Binds `path`, over a socket that a dead plane left there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::bind(path).map_err(|error| io::Error::new(error.kind(), format!("binding {}: {error}", path.display())))
    }

    fn bind(path: &Path) -> io::Result<Self> {
        // Between the look at what is there and the bind nobody else can have the name.
        let lock = NameLock::take(path)?;
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(there) if !there.file_type().is_socket() => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something is there that is no socket"));
            }
            Ok(_) if answers(path)? => return Err(io::Error::other("another program listens there")),
            Ok(_) => std::fs::remove_file(path)?,
        }
        // There is no other thread yet that could make a file meanwhile.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound?;
        listener.set_nonblocking(true)?;
        let inode = std::fs::symlink_metadata(path)?.ino();
        let reserve = Some(File::open("/dev/null")?);
        Ok(Self { listener, path: path.to_owned(), inode, lock: Some(lock), reserve, paused: None })
    }

    /// Leaves the name to another plane, for one with our own number at its end: agents find that, too.
    pub(super) fn make_room(&mut self) -> io::Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{}", std::process::id()));
        let renamed = std::fs::rename(&self.path, &path);
        if renamed.is_ok() {
            self.path = path.into();
        } else {
            self.remove();
        }
        // Only now: whoever takes the name finds nothing there.
        self.lock = None;
        renamed
    }

    /// An agent, if one has come. Others than our own user are sent away.
    pub(super) fn admit(&mut self) -> Option<UnixStream> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                if is_shortage(&error) {
                    return self.admit_with_reserve(&error);
                }
                return None;
            }
        };
        let peer = getsockopt(&stream, PeerCredentials).ok()?;
        if peer.uid() != nix::unistd::geteuid().as_raw() {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "bridge: a stranger at the data plane's socket");
            return None;
        }
        Some(stream)
    }

    fn admit_with_reserve(&mut self, error: &io::Error) -> Option<UnixStream> {
        if self.reserve.take().is_some() {
            return self.admit();
        }
        tracing::warn!(%error, "bridge: an agent cannot be let in");
        self.paused = Some(Instant::now() + limits::ACCEPT_PAUSE);
        None
    }

    /// Readable when an agent has come; none while nobody can be let in.
    pub(super) fn awaited(&self) -> Option<BorrowedFd<'_>> {
        self.paused.is_none().then(|| self.listener.as_fd())
    }

    /// When a pause is over.
    pub(super) fn due(&self) -> Option<Instant> {
        self.paused
    }

    /// To be called at each turn.
    pub(super) fn attend_time(&mut self, now: Instant) {
        if self.reserve.is_none() {
            self.reserve = File::open("/dev/null").ok();
        }
        if self.paused.is_some_and(|until| until <= now) {
            self.paused = None;
        }
    }

    fn remove(&self) {
        // Another plane may have taken the path over.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Does anybody listen there? One who never accepts does, too, and must not hold us up.
fn answers(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

/// Such an error leaves who came in the queue, so that trying again at once would spin.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;

    #[test]
    fn what_is_no_socket_stays_and_a_dead_ones_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door");
        std::fs::write(&path, "precious").unwrap();
        let refused = Door::open(&path).unwrap_err();
        assert!(refused.to_string().ends_with("something is there that is no socket"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let door = Door::open(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(door);
        // Nor is its lock's file left.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn program_that_listens_there_and_accepts_nobody_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door");
        let other = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        other.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        other.listen(0).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        for _ in 0..2 {
            let refused = Door::open(&path).unwrap_err();
            assert!(refused.to_string().ends_with("another program listens there"), "{refused}");
        }
    }

    #[test]
    fn who_made_room_is_found_by_another_name_and_a_successor_has_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door");
        let mut old = Door::open(&path).unwrap();
        old.make_room().unwrap();
        assert!(UnixStream::connect(&path).is_err());
        let new = Door::open(&path).unwrap();
        let other = dir.path().join(format!("door.{}", std::process::id()));
        let mode = std::fs::metadata(&other).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let _agents = [&path, &other].map(|path| UnixStream::connect(path).unwrap());
        let mut new = new;
        assert!(old.admit().is_some() && new.admit().is_some());
        drop(old);
        assert!(!other.exists() && path.exists());
    }

    #[test]
    fn out_of_descriptors_one_agent_is_let_in_and_then_nobody_for_a_moment() {
        // Limits are of the process, and other tests' threads need descriptors: this one has a process of its own.
        if std::env::var_os("GUESTD_TEST_ALONE").is_none() {
            let name =
                "bridge::plane::door::tests::out_of_descriptors_one_agent_is_let_in_and_then_nobody_for_a_moment";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let status = alone.args(["--exact", name]).env("GUESTD_TEST_ALONE", "1").status().unwrap();
            assert!(status.success());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door");
        let mut door = Door::open(&path).unwrap();
        let _agents: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
        let held: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let first = door.admit();
        assert!(first.is_some() && door.awaited().is_some());
        let now = Instant::now();
        assert!(door.admit().is_none());
        assert!(door.awaited().is_none(), "it would be told again and again");
        door.attend_time(now);
        let until = door.due().unwrap();
        assert!(until > now && until < now + Duration::from_secs(1));
        drop(held);
        door.attend_time(until);
        assert!(door.awaited().is_some() && door.admit().is_some());
    }
}
