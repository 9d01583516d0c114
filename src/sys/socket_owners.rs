//! Which process holds a socket: a walk over `/proc/PID/fd` (proc(5)).
//!
//! The walk takes from 1 to some 100 ms with many processes or descriptors, so callers ask for unknown sockets only. To look
//! whether a known holder still holds its sockets costs one readlink for each.

#![expect(
    unsafe_code,
    reason = "readlinkat(2) into a buffer of our own: a walk makes a hundred thousand of these calls"
)]

use std::{
    collections::{BTreeMap, HashSet},
    ffi::CStr,
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
};

use super::proc_pid::{inode_in_link, numbers_in, numbers_of};
use crate::limits;

/// A process and the descriptor by which it holds a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The process: the lowest pid that holds the socket, and pid 1 only where no other does. An init that activates services by
    /// their sockets holds these beside the service.
    pub pid: i32,
    /// Number of its descriptor, the lowest if it has several.
    pub descriptor: i32,
    /// Processes that hold it, this one counted.
    pub holders: u32,
}

const INIT: i32 = 1;

/// Descriptors that are looked at of each process, however many processes there are.
const LEAST_SHARE: usize = 32;

/// Finds the holders of those of `inodes` that are held, in one walk over all processes.
///
/// # Errors
/// `/proc` cannot be read.
pub fn find(inodes: &HashSet<u64>) -> io::Result<BTreeMap<u64, Holder>> {
    Ok(find_among(numbers_in("/proc")?, inodes, limits::WALK_DESCRIPTORS))
}

/// The same among these processes, and among some `most` descriptors together. Those that end meanwhile hold nothing.
///
/// Each process has its share, the lowest of its descriptors first, so that one with a million of them neither holds up the walk nor
/// hides the others. Services open what they listen on before they have many.
pub fn find_among(mut pids: Vec<i32>, inodes: &HashSet<u64>, most: usize) -> BTreeMap<u64, Holder> {
    pids.sort_unstable();
    let share = (most / pids.len().max(1)).max(LEAST_SHARE);
    let (mut left, mut large) = (most, Vec::new());
    let mut held_by: BTreeMap<i32, BTreeMap<u64, i32>> = BTreeMap::new();
    for pid in pids {
        let looked_at = look_at(pid, 0, share, inodes, &mut held_by);
        left = left.saturating_sub(looked_at);
        if looked_at == share {
            large.push(pid);
        }
    }
    // What those have left who have few.
    let more = left / large.len().max(1);
    for pid in large.into_iter().filter(|_| more > 0) {
        look_at(pid, share, more, inodes, &mut held_by);
    }
    let mut found = BTreeMap::new();
    for (pid, held) in held_by {
        for (inode, descriptor) in held {
            let holder = found.entry(inode).or_insert(Holder { pid, descriptor, holders: 0 });
            holder.holders += 1;
            if holder.pid == INIT {
                (holder.pid, holder.descriptor) = (pid, descriptor);
            }
        }
    }
    found
}

/// Enters what a process holds by `most` of its descriptors, after the first `passed` ones, and returns how many these are.
fn look_at(
    pid: i32,
    passed: usize,
    most: usize,
    inodes: &HashSet<u64>,
    held_by: &mut BTreeMap<i32, BTreeMap<u64, i32>>,
) -> usize {
    let path = format!("/proc/{pid}/fd");
    let (Ok(directory), Ok(descriptors)) = (File::open(&path).map(OwnedFd::from), numbers_of(&path)) else { return 0 };
    let mut looked_at = 0;
    for descriptor in descriptors.skip(passed).take(most) {
        looked_at += 1;
        if let Some(inode) = socket_of(&directory, descriptor).filter(|inode| inodes.contains(inode)) {
            let lowest = held_by.entry(pid).or_default().entry(inode).or_insert(descriptor);
            *lowest = descriptor.min(*lowest);
        }
    }
    looked_at
}

/// Of sockets that the process held by these descriptors, the inodes of those that it holds no more.
///
/// A process that lives may have closed one and left it to a child, and a pid may be another process's by now.
pub fn no_longer_held(pid: i32, held: &[(i32, u64)]) -> Vec<u64> {
    let directory = File::open(format!("/proc/{pid}/fd")).map(OwnedFd::from);
    let holds = |(descriptor, inode): &(i32, u64)| {
        directory.as_ref().is_ok_and(|directory| socket_of(directory, *descriptor) == Some(*inode))
    };
    held.iter().filter(|socket| !holds(socket)).map(|(_, inode)| *inode).collect()
}

/// The inode of the socket that a descriptor is, `directory` being its process's `/proc/PID/fd`.
fn socket_of(directory: &OwnedFd, descriptor: i32) -> Option<u64> {
    let mut name = [0u8; 12];
    // 11 bytes hold every i32, and the last one stays the end.
    write!(&mut name[..11], "{descriptor}").ok()?;
    let name = CStr::from_bytes_until_nul(&name).ok()?;
    // Longer than `socket:[18446744073709551615]`; what does not fit is no socket.
    let mut target = [0u8; 32];
    // SAFETY: the name ends with a NUL, and the buffer's length is its own; both live through the call.
    let length =
        unsafe { libc::readlinkat(directory.as_raw_fd(), name.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    let target = target.get(..usize::try_from(length).ok()?)?;
    inode_in_link(std::str::from_utf8(target).ok()?, "socket")
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd};

    use super::*;

    fn inode(socket: &TcpListener) -> u64 {
        nix::sys::stat::fstat(socket).unwrap().st_ino
    }

    #[test]
    fn the_owner_of_a_socket_is_found_and_one_that_nobody_holds_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let again = listener.try_clone().unwrap();
        let found = find(&HashSet::from([inode(&listener), u64::MAX])).unwrap();
        let descriptor = listener.as_raw_fd().min(again.as_raw_fd());
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(found, BTreeMap::from([(inode(&listener), Holder { pid: own, descriptor, holders: 1 })]));
    }

    #[test]
    fn process_with_very_many_descriptors_does_not_hold_up_the_walk_and_its_lowest_are_looked_at() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let many: Vec<_> = (0..500).map(|_| first.try_clone().unwrap()).collect();
        let last = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = HashSet::from([inode(&first), inode(&last)]);
        let own = i32::try_from(std::process::id()).unwrap();
        let found = |most| find_among(vec![own, i32::MAX], &wanted, most).into_keys().collect::<HashSet<_>>();
        assert_eq!(found(100), HashSet::from([inode(&first)]));
        // The share of the other, which has none, is this one's then.
        assert_eq!(found(900), wanted);
        drop(many);
    }

    #[test]
    fn process_that_lives_and_has_closed_the_socket_holds_it_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (inode, descriptor) = (inode(&listener), listener.as_raw_fd());
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(no_longer_held(own, &[(descriptor, inode), (descriptor, inode + 1)]), [inode + 1]);
        drop(listener);
        assert_eq!(no_longer_held(own, &[(descriptor, inode)]), [inode]);
        assert_eq!(no_longer_held(i32::MAX, &[(descriptor, inode)]), [inode]);
    }
}
