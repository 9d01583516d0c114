//! Control groups, version 2: one for each exec, so that a whole tree of processes can be named and ended.
//!
//! A process leaves its process group and its session as it likes; it does not leave its cgroup by accident. No controllers are
//! needed for that, so this works in a delegated unit, on a hybrid hierarchy (cgroup2 beside version 1) and in the root cgroup.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

mod controllers;
mod leftover;
mod root;
mod tree;
mod usage;

use super::{mountinfo, pidfd::Pidfd};
use leftover::Lock;

pub use controllers::{Controller, Controllers, NoControllers};
pub use root::{NoRoot, root};
pub use tree::CgroupTree;
pub use usage::{Bound, Usage};

/// Looks for members that are not killed yet. The last finds none, but for a tree that forks as fast as it is looked at.
const KILL_LOOKS: usize = 16;

/// Handles of processes that are open at once meanwhile.
const KILL_HANDLES: usize = 128;

/// How the name of a cgroup begins that is made to see whether that can be done.
const PROBE: &str = "guestd-probe-";

/// The cgroup that this process was in at its start, found to take children.
#[derive(Debug, Clone)]
pub struct CgroupParent {
    path: PathBuf,
    /// Those that the children have.
    controllers: Controllers,
    lock: Lock,
}

/// Why there is no cgroup for execs. Commands run nevertheless; what escapes their process group is then followed by
/// parentage only.
#[derive(Debug, thiserror::Error)]
pub enum CgroupUnavailable {
    /// /proc could not be read.
    #[error("cannot find the agent's cgroup: reading {path} failed ({source}); mount /proc")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A kernel without cgroups, or cgroup version 1 only.
    #[error(
        "the agent is in no version 2 cgroup: /proc/self/cgroup has no `0::` line; use a kernel with CONFIG_CGROUPS"
    )]
    NotMember,
    /// The kernel could, but it is not mounted, or only a part that does not have our cgroup.
    #[error(
        "the agent's cgroup {cgroup:?} is not in any mounted cgroup2 file system; mount one: mount -t cgroup2 none /sys/fs/cgroup"
    )]
    NotMounted {
        /// The cgroup by the kernel's name.
        cgroup: PathBuf,
    },
    /// Mounted, but not for us.
    #[error("cannot make a cgroup below {path}: {source}; mount it writable, or give the agent's unit Delegate=yes")]
    CannotCreate {
        /// The agent's cgroup.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl CgroupParent {
    /// Finds the cgroup of this process and makes sure, by making one and removing it, that it takes children.
    ///
    /// # Errors
    /// Why there is none to be had, with what to do, for the health report.
    pub fn detect() -> Result<Self, CgroupUnavailable> {
        let read = |path| fs::read_to_string(path).map_err(|source| CgroupUnavailable::Unreadable { path, source });
        let path = locate(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)?;
        let parent = Self::of(path);
        // Of several threads, agents and pid namespaces each has its own.
        let mut unique = [0; 8];
        let filled = getrandom::fill(&mut unique).map_err(io::Error::other);
        let probe = format!("{PROBE}{:016x}", u64::from_ne_bytes(unique));
        match filled.and_then(|()| parent.create(&probe)).and_then(|cgroup| cgroup.remove()) {
            Ok(()) => Ok(parent),
            Err(source) => Err(CgroupUnavailable::CannotCreate { path: parent.path, source }),
        }
    }

    /// That of process 1, which is in the root of the tree where nobody has put it elsewhere. Untried.
    ///
    /// # Errors
    /// The tree is not mounted.
    pub fn of_root() -> Result<Self, NoRoot> {
        root().map(Self::of)
    }

    /// This one, untried.
    fn of(path: PathBuf) -> Self {
        Self { lock: Lock::shared(&path), path, controllers: Controllers::default() }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cgroup with this name in it, made if it is not there.
    ///
    /// # Errors
    /// As for [`CgroupParent::create`], but for one that exists.
    pub fn obtain(&self, name: &str) -> io::Result<Cgroup> {
        match self.create(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(Cgroup::new(self.path.join(name), self.controllers))
            }
            other => other,
        }
    }

    /// Makes a cgroup with this name in it.
    ///
    /// # Errors
    /// `AlreadyExists`, `EROFS`, `EACCES`, or `EAGAIN` at the limit of descendants.
    pub fn create(&self, name: &str) -> io::Result<Cgroup> {
        let path = self.path.join(name);
        fs::create_dir(&path)?;
        Ok(Cgroup::new(path, self.controllers))
    }
}

/// Where the cgroup of a process is in the file system, by the texts of its /proc/PID/cgroup and mountinfo.
fn locate(membership: &str, mountinfo: &str) -> Result<PathBuf, CgroupUnavailable> {
    let cgroup = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(PathBuf::from)
        .ok_or(CgroupUnavailable::NotMember)?;
    mountinfo
        .lines()
        .filter_map(cgroup2_mount)
        // A cgroup outside of our cgroup namespace shows as `/..`, and no mount of ours has it.
        .filter(|_| !cgroup.components().any(|part| part == Component::ParentDir))
        .find_map(|(root, point)| Some(point.join(cgroup.strip_prefix(&root).ok()?)))
        .ok_or(CgroupUnavailable::NotMounted { cgroup })
}

/// Root and mount point, if a mountinfo line (proc(5)) is of a cgroup2 file system.
fn cgroup2_mount(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    (file_system.split(' ').next()? == "cgroup2")
        .then(|| (mountinfo::unescape(root.as_bytes()), mountinfo::unescape(point.as_bytes())))
}

/// One cgroup of ours. It stays when this is dropped: it may have processes.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    controllers: Controllers,
    /// Its directory, once it was needed.
    directory: OnceLock<OwnedFd>,
}

impl Cgroup {
    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn new(path: PathBuf, controllers: Controllers) -> Self {
        Self { path, controllers, directory: OnceLock::new() }
    }

    /// A handle on its directory, for a child to be born into, and for short ways to what is in it: close-on-exec.
    ///
    /// # Errors
    /// Those of open(2).
    pub(super) fn directory(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(directory) = self.directory.get() {
            return Ok(directory.as_fd());
        }
        let directory =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(&self.path)?;
        Ok(self.directory.get_or_init(|| directory.into()).as_fd())
    }

    /// Keeps no descriptor of it until one is needed again.
    pub fn rest(&mut self) {
        self.directory.take();
    }

    /// Its `cgroup.procs`, for a child to join through: close-on-exec, write only.
    ///
    /// # Errors
    /// Those of open(2).
    pub(super) fn open_procs(&self) -> io::Result<OwnedFd> {
        let file = OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))?;
        Ok(file.into())
    }

    /// Pids of the processes in it and in the cgroups that they made below. Processes that have ended are not listed, reaped or
    /// not.
    ///
    /// # Errors
    /// Those of reading the directory, but not that a part of it went away meanwhile.
    pub fn members(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for directory in self.subtree()? {
            match fs::read_to_string(directory.join("cgroup.procs")) {
                // 0 stands for a process of another pid namespace.
                Ok(text) => {
                    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid != 0))
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pids)
    }

    /// Kills all that is in it and below, forks under way included (cgroup.kill, Linux 5.14).
    ///
    /// # Errors
    /// `NotFound` on an older kernel.
    pub fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// The same on every kernel: before Linux 5.14 one by one, while none of it runs and could make others.
    ///
    /// # Errors
    /// It is gone, or cannot be read.
    pub fn kill_all(&self) -> io::Result<()> {
        match self.kill() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.kill_each(),
            other => other,
        }
    }

    fn kill_each(&self) -> io::Result<()> {
        // Before Linux 5.2 it is not to be had, and what is made meanwhile is found by the next look.
        let _ = self.freeze();
        let mut killed = HashSet::new();
        for _ in 0..KILL_LOOKS {
            let strangers: Vec<i32> = self.members()?.into_iter().filter(|pid| !killed.contains(pid)).collect();
            if strangers.is_empty() {
                break;
            }
            for some in strangers.chunks(KILL_HANDLES) {
                let opened: Vec<Pidfd> = some.iter().filter_map(|pid| Pidfd::open(*pid).ok()).collect();
                // Who is a member before and after is the one that is meant.
                let still = HashSet::<i32>::from_iter(self.members()?);
                for process in opened.into_iter().filter(|process| still.contains(&process.pid())) {
                    let _ = process.signal(libc::SIGKILL);
                    killed.insert(process.pid());
                }
            }
        }
        // Whoever was not found would stand still for ever.
        let _ = self.thaw();
        Ok(())
    }

    /// Stops all that is in it and below from running, so that it can be killed one by one without forking away meanwhile; a
    /// frozen process can be killed.
    ///
    /// # Errors
    /// `NotFound` before Linux 5.2.
    pub fn freeze(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "1")
    }

    /// Has all run on that [`Cgroup::freeze`] stopped.
    ///
    /// # Errors
    /// As there.
    pub fn thaw(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "0")
    }

    /// Whether all that is in it has stopped: some of it may still be on its way out of the kernel.
    pub fn is_frozen(&self) -> bool {
        let events = fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "frozen 1")
    }

    /// Removes it with the empty cgroups below. One that is gone already is no error.
    ///
    /// # Errors
    /// `ResourceBusy` while a process is in it.
    pub fn remove(&self) -> io::Result<()> {
        // Mostly it has none below.
        if fs::remove_dir(&self.path).is_ok() {
            return Ok(());
        }
        let mut directories = match self.subtree() {
            Err(error) if is_gone(&error) => return Ok(()),
            other => other?,
        };
        directories.reverse();
        for directory in directories {
            match fs::remove_dir(directory) {
                Err(error) if !is_gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Itself and all below, each before its children.
    fn subtree(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = vec![self.path.clone()];
        let mut next = 0;
        while let Some(directory) = found.get(next) {
            let entries = match fs::read_dir(directory) {
                Err(error) if next > 0 && is_gone(&error) => {
                    next += 1;
                    continue;
                }
                other => other?,
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.push(entry.path());
                }
            }
            next += 1;
        }
        Ok(found)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        // Not fs::write: that would create a missing file, were this not a cgroup.
        let mut file: File = OpenOptions::new().write(true).open(self.path.join(file))?;
        file.write_all(text.as_bytes())
    }
}

/// Has the cgroup at this path run on, which an agent before this one has frozen. One that is gone is no error.
///
/// # Errors
/// Those of writing to it.
pub fn thaw_left(path: &Path) -> io::Result<()> {
    match Cgroup::new(path.to_owned(), Controllers::default()).thaw() {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

/// A cgroup removed under our hands answers ENOENT, or ENODEV where its file was open.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    #[test]
    fn a_unit_of_systemd_is_found_where_cgroup2_is_mounted() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let path = locate("0::/system.slice/guestd.service\n", mountinfo).unwrap();
        assert_eq!(path, Path::new("/sys/fs/cgroup/system.slice/guestd.service"));
    }

    #[test]
    fn a_hybrid_hierarchy_is_read_past_its_version_1_parts() {
        let membership = "4:memory:/elsewhere\n1:cpu:/\n0::/here\n";
        assert_eq!(locate(membership, HYBRID).unwrap(), Path::new("/sys/fs/cgroup/unified/here"));
    }

    #[test]
    fn a_mount_of_a_part_of_the_hierarchy_is_taken_off_the_path() {
        let mountinfo = "41 31 0:38 /machine /sys/fs/cgroup\\040two rw - cgroup2 none rw\n";
        let path = locate("0::/machine/agent\n", mountinfo).unwrap();
        assert_eq!(path, Path::new("/sys/fs/cgroup two/agent"));
    }

    #[test]
    fn version_1_alone_and_an_unmounted_version_2_are_told_apart() {
        let only_1 = locate("1:cpu:/\n", HYBRID);
        assert!(matches!(only_1, Err(CgroupUnavailable::NotMember)));
        let unmounted = locate("0::/x\n", "35 31 0:32 / /m rw - cgroup cgroup rw\n");
        assert!(matches!(unmounted, Err(CgroupUnavailable::NotMounted { .. })));
    }

    #[test]
    fn a_cgroup_outside_of_our_namespace_is_not_taken_for_one_inside() {
        let mountinfo = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 none rw\n";
        assert!(locate("0::/../other\n", mountinfo).is_err());
    }

    #[test]
    fn a_cgroup_of_our_own_can_be_made_and_removed() {
        let parent = CgroupParent::detect().unwrap();
        let name = format!("guestd-unit-test-{}", std::process::id());
        let cgroup = parent.create(&name).unwrap();
        assert!(cgroup.members().unwrap().is_empty());
        cgroup.remove().unwrap();
        assert!(!cgroup.path().exists());
        cgroup.remove().unwrap();
    }

    #[test]
    fn all_of_a_cgroup_can_be_killed_one_by_one_also_what_goes_on_forking() {
        let name = format!("guestd-unit-kill-{}", std::process::id());
        let cgroup = CgroupParent::detect().unwrap().create(&name).unwrap();
        let forks = format!("echo $$ >{}/cgroup.procs; sleep 600 & while :; do true & done", cgroup.path().display());
        let mut child = std::process::Command::new("sh").args(["-c", &forks]).spawn().unwrap();
        let looks = std::iter::repeat_with(|| std::thread::sleep(std::time::Duration::from_millis(5)));
        looks.take(2000).take_while(|()| cgroup.members().unwrap().len() < 3).for_each(drop);
        cgroup.kill_each().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(libc::SIGKILL));
        let gone = std::iter::repeat_with(|| std::thread::sleep(std::time::Duration::from_millis(5)));
        assert!(gone.take(2000).any(|()| cgroup.remove().is_ok()), "left: {:?}", cgroup.members());
    }
}
