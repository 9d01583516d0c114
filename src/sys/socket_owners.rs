//! Which process holds a socket: a walk over `/proc/PID/fd` (proc(5)).
//!
//! The walk takes from 1 to some 100 ms with many processes, so callers ask for unknown sockets only.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use procfs::process::{FDTarget, Process, all_processes};

use crate::{facts::ProcessFact, limits};

/// Finds the owners of the sockets in `inodes` and takes out those that were found. Of several processes that share one,
/// the lowest pid counts.
pub fn find(inodes: &mut HashSet<u64>) -> BTreeMap<u64, ProcessFact> {
    let mut found = BTreeMap::new();
    let Ok(processes) = all_processes() else { return found };
    let mut processes: Vec<_> = processes.flatten().collect();
    processes.sort_by_key(Process::pid);
    for process in processes {
        // Processes come and go during the walk; one that is gone holds nothing.
        let Ok(descriptors) = process.fd() else { continue };
        let held: Vec<u64> = descriptors
            .flatten()
            .filter_map(|descriptor| match descriptor.target {
                FDTarget::Socket(inode) => Some(inode),
                _ => None,
            })
            .filter(|inode| inodes.remove(inode))
            .collect();
        if held.is_empty() {
            continue;
        }
        if let Some(fact) = describe(&process) {
            found.extend(held.into_iter().map(|inode| (inode, fact.clone())));
        }
        if inodes.is_empty() {
            break;
        }
    }
    found
}

/// Is there a process of this id?
pub fn is_alive(pid: i32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
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
        assert_eq!(found[&inode].pid, i32::try_from(std::process::id()).unwrap());
        assert!(!found[&inode].command.is_empty() && listener.as_raw_fd() > 2);
        assert_eq!(unknown, HashSet::from([u64::MAX]));
    }

    #[test]
    fn a_pid_that_cannot_exist_is_not_alive() {
        assert!(is_alive(1));
        assert!(!is_alive(-1));
    }
}
