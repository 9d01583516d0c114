//! The VM's network namespaces (network_namespaces(7)): which there are, and a look from inside of each.
//!
//! Found are those that a process is in (its first thread) and those that are mounted where this process sees it. One that only a
//! descriptor, a socket or a further thread keeps alive has no name to be found by.
//!
//! They are entered by a thread that is made for it and ends with the look, never by one that does anything else. Nothing that
//! would keep a namespace alive outlasts the look.

#![expect(unsafe_code, reason = "getsockopt(2) of an option that the socket crates lack")]

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

use super::{
    mountinfo,
    proc_pid::{inode_in_link, numbers_in},
};
use crate::{facts::NamespaceWay, limits};

/// Why a namespace could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// What was to lead to it has ended, or leads elsewhere by now.
    #[error("{way} leads to it no more")]
    Gone {
        /// What was to lead to it.
        way: NamespaceWay,
    },
    /// It is there and cannot be entered.
    #[error("entering {way} failed: {error}; guestd needs CAP_SYS_ADMIN and CAP_SYS_PTRACE for it")]
    Entry {
        /// What leads to it.
        way: NamespaceWay,
        /// Of open(2) or setns(2).
        error: io::Error,
    },
    /// It was entered, and the look failed.
    #[error("looking into {way} failed: {error}")]
    Look {
        /// What leads to it.
        way: NamespaceWay,
        /// Of the look.
        error: io::Error,
    },
    /// The thread that was to enter it could not be made, or has panicked.
    #[error("no thread to enter it: {0}")]
    Thread(io::Error),
}

/// A namespace that was looked into.
#[derive(Debug)]
pub struct Seen<T> {
    /// SO_NETNS_COOKIE of its sockets, unique as long as the kernel runs; from Linux 5.14 on.
    pub cookie: Option<u64>,
    /// What the look gave.
    pub value: T,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walk {
    /// A way to each namespace, by its inode number; at most `limits::NETWORK_NAMESPACES` besides the own one.
    pub ways: BTreeMap<u64, NamespaceWay>,
    /// There were more.
    pub truncated: bool,
    /// The number of processes whose namespace may not be known, and one of them with the reason.
    pub unreadable: Option<(usize, String)>,
}

/// What stands for the number of the one network of a kernel that has no others (built without CONFIG_NET_NS). Never a namespace's.
const ONLY: u64 = 1;

/// Inode number of the namespace that this thread is in. A kernel that has one network only gives it no number; 1 stands for it.
///
/// # Errors
/// `/proc` is not mounted.
pub fn own() -> io::Result<u64> {
    own_in(Path::new("/proc/thread-self/ns"))
}

fn own_in(namespaces: &Path) -> io::Result<u64> {
    match std::fs::metadata(namespaces.join("net")) {
        // Other namespaces are there, and this one is not.
        Err(error) if error.kind() == io::ErrorKind::NotFound && namespaces.is_dir() => Ok(ONLY),
        found => Ok(found?.ino()),
    }
}

/// The cookie of the namespace that this thread is in, where the kernel tells it.
pub fn own_cookie() -> Option<u64> {
    let socket = std::os::unix::net::UnixDatagram::unbound().ok()?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to locals that live through the call, and `length` is the size of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (result == 0 && length as usize == size_of::<u64>()).then_some(cookie)
}

/// Finds all namespaces but `own`. One readlink(2) for each process.
///
/// # Errors
/// `/proc` cannot be read.
pub fn walk(own: u64) -> io::Result<Walk> {
    let mut walk = Walk::default();
    // A mount lasts longer than a process mostly, so it comes first.
    let mut mounts = Vec::new();
    File::open("/proc/thread-self/mountinfo")?.take(limits::MOUNT_TABLE_BYTES).read_to_end(&mut mounts)?;
    for (netns, path) in mounts.split(|byte| *byte == b'\n').filter_map(mounted_namespace) {
        // A later mount may hide it.
        if std::fs::metadata(&path).is_ok_and(|there| there.ino() == netns) {
            walk.enter(own, netns, NamespaceWay::Mount(path));
        }
    }
    let mut pids = numbers_in("/proc")?;
    pids.sort_unstable();
    for pid in pids {
        match std::fs::read_link(format!("/proc/{pid}/ns/net")) {
            Ok(link) => {
                if let Some(netns) = link.to_str().and_then(|link| inode_in_link(link, "net")) {
                    walk.enter(own, netns, NamespaceWay::Process(pid));
                }
            }
            // Refused for a process that is there; the same error is given for one that has just ended.
            Err(error) if is_refused(&error) && is_alive(pid) => {
                let unreadable = walk.unreadable.get_or_insert_with(|| (0, format!("/proc/{pid}/ns/net: {error}")));
                unreadable.0 += 1;
            }
            // It has ended.
            Err(_) => {}
        }
    }
    Ok(walk)
}

impl Walk {
    fn enter(&mut self, own: u64, netns: u64, way: NamespaceWay) {
        if netns == own || self.ways.contains_key(&netns) {
        } else if self.ways.len() >= limits::NETWORK_NAMESPACES {
            self.truncated = true;
        } else {
            self.ways.insert(netns, way);
        }
    }
}

/// Of a line of mountinfo (proc(5)) that mounts a network namespace: its inode number and where.
fn mounted_namespace(line: &[u8]) -> Option<(u64, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ').skip(3);
    let netns = inode_in_link(std::str::from_utf8(fields.next()?).ok()?, "net")?;
    Some((netns, mountinfo::unescape(fields.next()?)))
}

/// Looks into each of these namespaces. One that fails does not hold up the others.
pub fn look_into<T: Send>(
    namespaces: &[(u64, NamespaceWay)],
    look: impl Fn() -> io::Result<T> + Sync,
) -> Vec<Result<Seen<T>, EntryError>> {
    if namespaces.is_empty() {
        return Vec::new();
    }
    let look_into_each = || {
        let each = namespaces.iter().map(|(netns, way)| {
            enter(*netns, way)?;
            let value = look().map_err(|error| EntryError::Look { way: way.clone(), error })?;
            Ok(Seen { cookie: own_cookie(), value })
        });
        each.collect()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, look_into_each)?;
        thread.join().map_err(|_| io::Error::other("it has panicked"))
    })
    .unwrap_or_else(|error: io::Error| {
        let copy = || EntryError::Thread(io::Error::new(error.kind(), error.to_string()));
        namespaces.iter().map(|_| Err(copy())).collect()
    })
}

/// Moves this thread for good.
fn enter(netns: u64, way: &NamespaceWay) -> Result<(), EntryError> {
    let path = match way {
        NamespaceWay::Process(pid) => &PathBuf::from(format!("/proc/{pid}/ns/net")),
        NamespaceWay::Mount(path) => path,
    };
    // Whatever is at the path by now: nothing that can be there holds up an open with O_NONBLOCK.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let failed = |error: io::Error| EntryError::Entry { way: way.clone(), error };
    let file = match (opened, way) {
        (Ok(file), _) => file,
        (Err(error), NamespaceWay::Process(pid)) if is_end(&error) || (is_refused(&error) && !is_alive(*pid)) => {
            return Err(EntryError::Gone { way: way.clone() });
        }
        (Err(error), NamespaceWay::Mount(_)) if is_end(&error) => {
            return Err(EntryError::Gone { way: way.clone() });
        }
        (Err(error), _) => return Err(failed(error)),
    };
    // The pid may be another process's by now, and something else be mounted there.
    if file.metadata().map_err(failed)?.ino() != netns {
        return Err(EntryError::Gone { way: way.clone() });
    }
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// What opening a file of a process gives that has ended.
fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Does the process have namespaces? One that has ended and was not waited for has none.
fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    !matches!(state, None | Some(b'Z' | b'X' | b'x'))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use nix::sched::unshare;

    use super::*;
    use crate::sys::sock_diag;

    #[test]
    fn mounts_of_network_namespaces_are_read_with_whatever_their_path_holds() {
        let line = br"36 24 0:4 net:[4026532281] /run/netns/a\040b\134\012c rw shared:1 - nsfs nsfs rw";
        assert_eq!(mounted_namespace(line), Some((4_026_532_281, "/run/netns/a b\\\nc".into())));
        assert_eq!(mounted_namespace(b"36 24 0:4 mnt:[4026532281] /run/a rw - nsfs nsfs rw"), None);
        assert_eq!(mounted_namespace(b"24 1 254:0 / / rw - ext4 /dev/vda rw"), None);
        assert_eq!(mounted_namespace(b""), None);
    }

    #[test]
    fn the_only_network_of_a_kernel_has_a_number_all_the_same_and_without_proc_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        // As with CONFIG_NET_NS unset: the others are there.
        std::fs::write(dir.path().join("uts"), "").unwrap();
        assert_eq!(own_in(dir.path()).unwrap(), ONLY);
        assert_eq!(own_in(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(own().unwrap() > ONLY);
    }

    #[test]
    fn another_namespace_is_looked_into_and_this_thread_stays_where_it_is() {
        let before = (own().unwrap(), own_cookie());
        // A namespace that a thread is in: it can be entered by its path as a mounted one can be.
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let listener = TcpListener::bind("0.0.0.0:0").unwrap();
            let path = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
            tell.send((own().unwrap(), own_cookie(), path, listener.local_addr().unwrap().port())).unwrap();
            let _ = ended.recv();
        });
        let (netns, cookie, path, port) = told.recv().unwrap();
        let way = NamespaceWay::Mount(path.into());
        let gone = NamespaceWay::Process(i32::MAX);
        let look = || Ok((own()?, sock_diag::listening_tcp(99)?, sock_diag::procfs_listening_tcp(99)?));
        let mut seen = look_into(&[(7, gone), (netns, way.clone()), (netns + 1, way)], look).into_iter();
        assert!(matches!(seen.next(), Some(Err(EntryError::Gone { .. }))));
        let found = seen.next().unwrap().unwrap();
        assert_eq!((found.value.0, found.cookie), (netns, cookie));
        assert_ne!((found.value.0, found.cookie), before);
        for sockets in [&found.value.1, &found.value.2] {
            assert_eq!(sockets.iter().map(|socket| socket.port).collect::<Vec<_>>(), [port]);
        }
        assert!(matches!(seen.next(), Some(Err(EntryError::Gone { .. }))));
        assert_eq!((own().unwrap(), own_cookie()), before);
        drop(end);
        other.join().unwrap();
    }

    #[test]
    fn what_is_no_network_namespace_is_named() {
        let way = NamespaceWay::Mount("/proc/self/ns/uts".into());
        let inode = std::fs::metadata("/proc/self/ns/uts").unwrap().ino();
        let error = look_into(&[(inode, way)], || Ok(())).remove(0).unwrap_err();
        assert!(matches!(error, EntryError::Entry { .. }), "{error}");
        assert!(error.to_string().contains("/proc/self/ns/uts"));
    }

    #[test]
    fn a_walk_finds_the_namespaces_of_processes_but_not_ones_own() {
        let own = own().unwrap();
        assert!(!walk(own).unwrap().ways.contains_key(&own));
        assert!(walk(0).unwrap().ways.contains_key(&own));
    }
}
