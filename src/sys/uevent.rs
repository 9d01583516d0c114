//! What the kernel tells of devices that come, go and change (NETLINK_KOBJECT_UEVENT).

#![expect(unsafe_code, reason = "registering a descriptor with epoll")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The group that the kernel itself sends to; udev's own is 2.
const KERNEL_GROUP: u32 = 1;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change` …
    pub action: String,
    /// Path of the device below /sys.
    pub devpath: String,
    /// `block`, `memory`, `cpu` …
    pub subsystem: String,
    /// A block device has another size.
    pub resized: bool,
}

/// The events from its making on.
#[derive(Debug)]
pub struct Uevents(Socket);

impl Uevents {
    /// Listens.
    ///
    /// # Errors
    /// Those of netlink(7).
    pub fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
        socket.bind(&SocketAddr::new(0, KERNEL_GROUP))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// To be waited for by a task.
    ///
    /// # Errors
    /// Where epoll has no room.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: it owns its descriptor and never exchanges it, and the AsyncFd owns it.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// The next one that is there; none where there is none. What is not of the kernel is left out.
    ///
    /// # Errors
    /// `ENOBUFS` where there were more than the socket holds: some are lost.
    pub fn next(&self) -> io::Result<Option<Uevent>> {
        loop {
            match self.0.recv_from_full() {
                Ok((message, sender)) if sender.port_number() == 0 => {
                    if let Some(event) = parse(&message) {
                        return Ok(Some(event));
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for Uevents {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// `ACTION@DEVPATH`, then `KEY=VALUE`s, each with a NUL at its end.
fn parse(message: &[u8]) -> Option<Uevent> {
    let mut strings = message.split(|byte| *byte == 0).filter_map(|string| std::str::from_utf8(string).ok());
    let (action, devpath) = strings.next()?.split_once('@')?;
    let mut event =
        Uevent { action: action.to_owned(), devpath: devpath.to_owned(), subsystem: String::new(), resized: false };
    for (key, value) in strings.filter_map(|string| string.split_once('=')) {
        match key {
            "SUBSYSTEM" => event.subsystem = value.to_owned(),
            "RESIZE" => event.resized = value == "1",
            _ => {}
        }
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_and_what_is_none_is_not() {
        let message = b"change@/devices/pci0/virtio0/block/vda\0ACTION=change\0SUBSYSTEM=block\0RESIZE=1\0SEQNUM=9\0";
        let event = parse(message).unwrap();
        assert_eq!((event.action.as_str(), event.subsystem.as_str(), event.resized), ("change", "block", true));
        assert_eq!(event.devpath, "/devices/pci0/virtio0/block/vda");
        assert_eq!(parse(b"libudev\0\xfe\xed\xca\xfe"), None);
    }

    #[test]
    fn where_nothing_happens_there_is_no_event() {
        assert_eq!(Uevents::listen().unwrap().next().unwrap(), None);
    }
}
