//! What the processes of a cgroup took, and bounds on what they may take.

use std::fs::File;
use std::io::{self, Read};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::{Cgroup, Controller};

/// What was taken so far; none where the kernel does not account it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time in microseconds, of ended processes too (cpu.stat; needs no controller).
    pub cpu_time_us: Option<u64>,
    /// Most memory at once, in bytes (memory.peak, Linux 5.19).
    pub memory_peak_bytes: Option<u64>,
    /// Processes killed for want of memory, in cgroups below as well (memory.events).
    pub oom_kills: u64,
}

/// A bound to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Bytes of memory (memory.max).
    Memory(u64),
    /// Processes and threads (pids.max).
    Pids(u64),
    /// Share of the CPU, 1 to 10000 (cpu.weight).
    CpuWeight(u64),
}

impl Bound {
    fn file(self) -> (&'static str, u64) {
        match self {
            Self::Memory(bytes) => ("memory.max", bytes),
            Self::Pids(count) => ("pids.max", count),
            Self::CpuWeight(weight) => ("cpu.weight", weight),
        }
    }
}

impl Cgroup {
    /// What its processes took until now.
    pub fn usage(&self) -> Usage {
        let read = |file| self.read_small(file).ok();
        let of_memory = |file| if self.controllers.has(Controller::Memory) { read(file) } else { None };
        Usage {
            cpu_time_us: read("cpu.stat").and_then(|text| field(&text, "usage_usec")),
            memory_peak_bytes: of_memory("memory.peak").and_then(|text| text.trim().parse().ok()),
            oom_kills: of_memory("memory.events").and_then(|text| field(&text, "oom_kill")).unwrap_or(0),
        }
    }

    /// A file that the kernel writes in one piece, far shorter than this.
    fn read_small(&self, file: &str) -> io::Result<String> {
        let mut text = [0; 4096];
        let file = openat(self.directory()?, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let count = File::from(file).read(&mut text)?;
        Ok(String::from_utf8_lossy(&text[..count]).into_owned())
    }

    /// Sets a bound, for what is in it and will be.
    ///
    /// # Errors
    /// `NotFound` without the controller, `InvalidInput` and `ERANGE` for a value that the kernel does not take.
    pub fn bound(&self, bound: Bound) -> io::Result<()> {
        let (file, value) = bound.file();
        self.write(file, &value.to_string())
    }
}

/// The value of a line `key value`.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Controllers;
    use super::*;

    fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(directory.path().join(file), text).unwrap();
        }
        let controllers = Controllers::default().with(Controller::Memory);
        let cgroup = Cgroup::new(directory.path().to_owned(), controllers);
        (directory, cgroup)
    }

    #[test]
    fn usage_is_read_from_the_files_of_the_kernel() {
        let (_directory, cgroup) = fake(&[
            ("cpu.stat", "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n"),
            ("memory.peak", "4096\n"),
            ("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n"),
        ]);
        let usage = Usage { cpu_time_us: Some(1234), memory_peak_bytes: Some(4096), oom_kills: 1 };
        assert_eq!(cgroup.usage(), usage);
    }

    #[test]
    fn what_is_not_accounted_is_absent_and_not_0() {
        let (_directory, cgroup) = fake(&[("cpu.stat", "usage_usec 0\n")]);
        assert_eq!(cgroup.usage(), Usage { cpu_time_us: Some(0), ..Usage::default() });
    }

    #[test]
    fn bounds_go_to_their_files_and_a_missing_controller_is_an_error() {
        let (directory, cgroup) = fake(&[("memory.max", "max"), ("cpu.weight", "100")]);
        cgroup.bound(Bound::Memory(65536)).unwrap();
        cgroup.bound(Bound::CpuWeight(200)).unwrap();
        let read = |file| fs::read_to_string(directory.path().join(file)).unwrap();
        assert_eq!((read("memory.max"), read("cpu.weight")), ("65536".into(), "200".into()));
        assert_eq!(cgroup.bound(Bound::Pids(3)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
