//! The root of the cgroup2 tree, to which every process and every socket of the machine belongs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::cgroup2_mount;

/// Why it is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum NoRoot {
    /// /proc could not be read.
    #[error("cannot find the cgroup2 tree: reading /proc/self/mountinfo failed ({0}); mount /proc")]
    Unreadable(io::Error),
    /// A kernel without it, or nobody mounted it whole.
    #[error("the root of the cgroup2 tree is not mounted; mount it: mount -t cgroup2 none /sys/fs/cgroup")]
    NotMounted,
}

/// The directory of the root cgroup.
///
/// # Errors
/// It is not mounted, or what is mounted as root is a container's part of the tree.
pub fn root() -> Result<PathBuf, NoRoot> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(NoRoot::Unreadable)?;
    candidates(&mountinfo).find(|path| is_whole(path)).ok_or(NoRoot::NotMounted)
}

/// Where the mounts are that are of a root, as far as our cgroup namespace shows.
fn candidates(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    let mounts = mountinfo.lines().filter_map(cgroup2_mount);
    mounts.filter(|(root, _)| root == Path::new("/")).map(|(_, point)| point)
}

/// Every cgroup has a `cgroup.type` but the root (Documentation/admin-guide/cgroup-v2.rst); all have `cgroup.procs`.
fn is_whole(directory: &Path) -> bool {
    directory.join("cgroup.procs").exists() && !directory.join("cgroup.type").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mount_of_the_whole_tree_counts() {
        let mountinfo = "\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:38 /machine /machine rw - cgroup2 none rw
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";
        assert!(candidates(mountinfo).eq([PathBuf::from("/sys/fs/cgroup/unified")]));
    }

    #[test]
    fn root_of_this_machine_is_found_and_a_cgroup_below_is_none() {
        let root = root().unwrap();
        assert!(is_whole(&root));
        assert!(!is_whole(&root.join("nonexistent")));
    }
}
