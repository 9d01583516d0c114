//! Unix sockets of SOCK_SEQPACKET: a message is a message, sent and received whole, and its sender is known.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen,
        recv, send, setsockopt, socket, sockopt,
    },
    stat::{Mode, umask},
    time::{TimeVal, TimeValLike},
};

#[expect(unsafe_code, reason = "accept4 hands out a bare number")]
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel just made this descriptor for us, and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A socket that accepts without ever waiting.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Makes it at this path, for its owner alone, in the place of what was there.
    ///
    /// # Errors
    /// Those of bind(2): the directory is not there, or read-only.
    pub fn bind(path: &Path, backlog: usize) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Never open to others, not for an instant.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = bind(listener.as_raw_fd(), &UnixAddr::new(path)?);
        umask(before);
        bound?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let backlog =
            i32::try_from(backlog).ok().and_then(|backlog| Backlog::new(backlog).ok()).unwrap_or(Backlog::MAXCONN);
        listen(&listener, backlog)?;
        Ok(Self(listener))
    }

    /// The next connection, which does not block either; None while there is none.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        match accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
            Ok(fd) => Ok(Some(Connection(owned(fd)))),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ECONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection(OwnedFd);

impl Connection {
    /// Connects; each later call waits this long at most.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused` where nobody listens, `WouldBlock` where its queue is full.
    pub fn open(path: &Path, patience: Duration) -> io::Result<Self> {
        let stream = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let millis = i64::try_from(patience.as_millis()).map_err(io::Error::other)?;
        setsockopt(&stream, sockopt::ReceiveTimeout, &TimeVal::milliseconds(millis))?;
        setsockopt(&stream, sockopt::SendTimeout, &TimeVal::milliseconds(millis))?;
        connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(stream))
    }

    /// User of the process that connected, or that listens.
    ///
    /// # Errors
    /// None that is known.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(getsockopt(&self.0, sockopt::PeerCredentials)?.uid())
    }

    /// Sends a message.
    ///
    /// # Errors
    /// `EMSGSIZE` for one that is too large, `WouldBlock` where the other side does not read, `BrokenPipe` where it is gone.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        Ok(send(self.0.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL).map(drop)?)
    }

    /// The next message, of at most this many bytes; empty where the other side has gone.
    ///
    /// # Errors
    /// `WouldBlock` while there is none, `FileTooLarge` for a longer one.
    pub fn receive(&self, most: usize) -> io::Result<Vec<u8>> {
        let mut message = vec![0; most + 1];
        let length = recv(self.0.as_raw_fd(), &mut message, MsgFlags::MSG_TRUNC)?;
        if length > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        message.truncate(length);
        Ok(message)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_apart_and_long_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = Listener::bind(&path, 4).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let client = Connection::open(&path, Duration::from_secs(5)).unwrap();
        let server = listener.accept().unwrap().unwrap();
        assert_eq!(server.peer_uid().unwrap(), nix::unistd::geteuid().as_raw());
        assert_eq!(server.receive(8).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for message in ["one", "two", "far too long"] {
            client.send(message.as_bytes()).unwrap();
        }
        assert_eq!((server.receive(8).unwrap(), server.receive(8).unwrap()), (b"one".to_vec(), b"two".to_vec()));
        assert_eq!(server.receive(8).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        drop(client);
        assert_eq!(server.receive(8).unwrap(), b"");
    }

    #[test]
    fn a_socket_is_its_owners_alone_and_takes_the_place_of_an_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        fs::write(&path, "").unwrap();
        let _listener = Listener::bind(&path, 4).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
