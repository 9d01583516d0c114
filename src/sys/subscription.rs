//! What the kernel tells unasked over NETLINK sockets: that listening sockets have gone, that links and addresses change.
//!
//! Only that something was told is of use here: what is the case now is asked for afterwards, so that nothing depends on messages
//! that may be lost.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_ROUTE, NETLINK_SOCK_DIAG},
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use socket2::{SockFilter, SockRef};

use super::sock_diag;

/// Messages taken out at once. More are there for the next time.
const BATCH: usize = 512;

/// Groups of `linux/sock_diag.h`: TCP sockets that were destroyed.
const INET_TCP_DESTROY: u32 = 1;
const INET6_TCP_DESTROY: u32 = 3;

/// A socket in multicast groups.
#[derive(Debug)]
pub struct Subscription(Socket);

impl Subscription {
    /// Listening TCP sockets that are gone from the kernel's table, in this network namespace, and in others as far as the
    /// kernel has given them an id here (as it does for the ends of veth pairs).
    ///
    /// # Errors
    /// No INET_DIAG in the kernel, or no right to it.
    pub fn to_closed_listeners() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        // Before the groups: one that ends without ever having been connected, as listeners do, wakes us, and connections do not.
        SockRef::from(&socket).attach_filter(&unconnected())?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(INET_TCP_DESTROY)?;
        socket.add_membership(INET6_TCP_DESTROY)?;
        // Without it, those of other namespaces are missed that were there before the agent; so be it.
        let _ = socket.set_listen_all_namespaces(true);
        Ok(Self(socket))
    }

    /// Changes of links and addresses of this network namespace.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn to_addresses() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, groups as u32))?;
        Ok(Self(socket))
    }

    /// Takes out what is there; was there anything? Messages that were lost (ENOBUFS) count.
    pub fn drain(&self) -> bool {
        // What does not fit is thrown away, and that is all of it.
        let mut nothing = [0; 1];
        for told in 0..BATCH {
            match recv(self.0.as_raw_fd(), &mut nothing, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                // EAGAIN, and nothing else is to be expected of a socket that is open.
                Err(_) => return told > 0,
            }
        }
        true
    }
}

impl Subscription {
    /// Takes out what is there, and gives each socket's cookie, of those of [`Subscription::to_closed_listeners`]. Were some lost?
    ///
    /// Kernels before 5.15 count cookies in each network namespace anew, so that one may be another namespace's socket.
    pub fn drain_cookies(&self, mut each: impl FnMut(u64)) -> bool {
        // Behind the header of 16 bytes, `struct inet_diag_msg` has 4 bytes, the ports, two addresses, an interface, the cookie.
        const COOKIE: std::ops::Range<usize> = 60..68;
        let mut message = [0; COOKIE.end];
        for _ in 0..BATCH {
            match recv(self.0.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => {
                    let cookie = message[COOKIE].try_into().unwrap_or_default();
                    each(sock_diag::cookie(cookie));
                }
                Err(Errno::ENOBUFS) => return true,
                Err(Errno::EINTR) => {}
                // EAGAIN, and nothing else is to be expected of a socket that is open.
                Err(_) => return false,
            }
        }
        false
    }
}

impl AsFd for Subscription {
    /// Readable while there are messages.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A classic BPF program for messages of a `struct nlmsghdr` (16 bytes) and a `struct inet_diag_msg`: its fifth byte begins the
/// source port, its seventh the destination port. A message without them is dropped, too.
fn unconnected() -> [SockFilter; 6] {
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    [
        SockFilter::new(LOAD_HALF, 0, 0, 16 + 6),
        SockFilter::new(IF_EQUAL, 0, 3, 0),
        SockFilter::new(LOAD_HALF, 0, 0, 16 + 4),
        // Not even bound: it has never listened.
        SockFilter::new(IF_EQUAL, 1, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use nix::{
        poll::{PollFd, PollFlags, PollTimeout, poll},
        sched::{CloneFlags, unshare},
    };

    use super::*;

    /// A namespace of this thread's own, where no other test's sockets are.
    fn alone() {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
    }

    fn heard(subscription: &Subscription) -> bool {
        let mut readable = [PollFd::new(subscription.as_fd(), PollFlags::POLLIN)];
        poll(&mut readable, PollTimeout::from(30_000u16)).unwrap() == 1 && subscription.drain()
    }

    #[test]
    fn the_end_of_a_listener_is_heard_and_that_of_connections_is_not() {
        alone();
        let subscription = Subscription::to_closed_listeners().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let served = listener.accept().unwrap();
            drop((client, served));
            // The kernel tells in the order of the ends: after this one only the listener's own is left.
            drop(socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap());
            drop(listener);
            assert!(heard(&subscription));
            assert!(!subscription.drain(), "the listener's end was not the only message");
        }
    }

    #[test]
    fn messages_that_were_lost_count_as_heard() {
        alone();
        let subscription = Subscription::to_closed_listeners().unwrap();
        SockRef::from(&subscription.0).set_recv_buffer_size(1).unwrap();
        for _ in 0..100 {
            drop(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        }
        assert!(heard(&subscription));
    }

    #[test]
    fn change_of_an_address_is_heard() {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let subscription = Subscription::to_addresses().unwrap();
        assert!(!subscription.drain());
        let added = std::process::Command::new("ip").args(["addr", "add", "127.1.2.3/8", "dev", "lo"]).status();
        assert!(added.unwrap().success());
        assert!(heard(&subscription));
    }
}
