//! Which process holds a socket: a walk over `/proc/PID/fd` (proc(5)).
//!
//! The walk takes from 1 to some 100 ms with many processes, so callers ask for unknown sockets only.

use std::collections::{BTreeMap, HashSet};

use procfs::process::{FDTarget, Process, all_processes};

use crate::{facts::ProcessFact, limits};

/// A process and the descriptor by which it holds a socket.
#[derive(Debug, Clone)]
pub struct Holder {
    /// The process.
    pub process: ProcessFact,
    /// Number of its descriptor, the lowest if it has several.
    pub descriptor: i32,
}

/// Finds the owners of the sockets in `inodes` and takes out those that were found. Of several processes that share one,
/// the lowest pid counts.
pub fn find(inodes: &mut HashSet<u64>) -> BTreeMap<u64, Holder> {
    let mut found = BTreeMap::new();
    let Ok(processes) = all_processes() else { return found };
    let mut processes: Vec<_> = processes.flatten().collect();
    processes.sort_by_key(Process::pid);
    for process in processes {
        // Processes come and go during the walk; one that is gone holds nothing.
        let Ok(descriptors) = process.fd() else { continue };
        let held: Vec<(u64, i32)> = descriptors
            .flatten()
            .filter_map(|descriptor| match descriptor.target {
                FDTarget::Socket(inode) => Some((inode, descriptor.fd)),
                _ => None,
            })
            .filter(|(inode, _)| inodes.remove(inode))
            .collect();
        if held.is_empty() {
            continue;
        }
        if let Some(fact) = describe(&process) {
            let holder = |descriptor| Holder { process: fact.clone(), descriptor };
            found.extend(held.into_iter().map(|(inode, descriptor)| (inode, holder(descriptor))));
        }
        if inodes.is_empty() {
            break;
        }
    }
    found
}

/// Does the process still hold the socket by that descriptor?
///
/// One readlink(2). A process that lives may have closed it and left it to a child, and a pid may be another process's by now.
pub fn still_holds(holder: &Holder, inode: u64) -> bool {
    let link = format!("/proc/{}/fd/{}", holder.process.pid, holder.descriptor);
    std::fs::read_link(link).is_ok_and(|target| target.to_str() == Some(&format!("socket:[{inode}]")))
}

fn describe(process: &Process) -> Option<ProcessFact> {
    let stat = process.stat().ok()?;
    let mut command = process.cmdline().unwrap_or_default().join(" ");
    command.truncate(command.floor_char_boundary(limits::PROCESS_COMMAND_BYTES));
    // Version 2 has hierarchy 0; a hybrid system keeps units in systemd's named one too.
    let cgroups = process.cgroups().ok();
    let cgroup = cgroups.iter().flatten().find(|group| group.hierarchy == 0).map(|group| group.pathname.clone());
    Some(ProcessFact {
        pid: process.pid(),
        name: stat.comm,
        command,
        uid: process.uid().ok()?,
        cgroup: cgroup.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd};

    use super::*;

    #[test]
    fn the_owner_of_a_socket_is_found_and_described() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = nix::sys::stat::fstat(&listener).unwrap().st_ino;
        let mut unknown = HashSet::from([inode, u64::MAX]);
        let found = find(&mut unknown);
        assert_eq!(found[&inode].process.pid, i32::try_from(std::process::id()).unwrap());
        assert!(!found[&inode].process.command.is_empty() && listener.as_raw_fd() > 2);
        assert_eq!(unknown, HashSet::from([u64::MAX]));
    }

    #[test]
    fn process_that_lives_and_has_closed_the_socket_holds_it_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = nix::sys::stat::fstat(&listener).unwrap().st_ino;
        let holder = find(&mut HashSet::from([inode])).remove(&inode).unwrap();
        assert!(still_holds(&holder, inode) && !still_holds(&holder, inode + 1));
        drop(listener);
        assert!(!still_holds(&holder, inode));
    }
}
