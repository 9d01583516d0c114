//! The plane's place among processes: a session and a cgroup of its own, so that what ends the agent does not end it.
//!
//! A unit is stopped by ending all processes of its cgroup (systemd.kill(5), `KillMode=control-group`), so the plane leaves it for
//! one of its own at the root of the tree.

use std::{fs, io, path::PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{limits, sys::cgroup};

/// How the names of planes' cgroups begin; the pid follows.
const PREFIX: &str = "guestd-bridge-";

/// A cgroup of the plane's own. Left and removed when this is dropped.
#[derive(Debug)]
pub(super) struct Home {
    root: PathBuf,
    own: PathBuf,
}

impl Home {
    /// Moves this process there.
    ///
    /// # Errors
    /// A sentence: why it stays where it is.
    pub(super) fn move_in() -> Result<Self, String> {
        if let Some(unit) = version_1_unit() {
            return Err(format!("the init system's cgroups are of version 1, and it is in {unit} of them"));
        }
        let root = cgroup::root().map_err(|error| error.to_string())?;
        remove_leftovers(&root);
        let pid = std::process::id();
        let home = Self { own: root.join(format!("{PREFIX}{pid}")), root };
        let failed = |what, error: io::Error| format!("{what} {} failed: {error}", home.own.display());
        fs::create_dir(&home.own).map_err(|error| failed("making the cgroup", error))?;
        fs::write(home.own.join("cgroup.procs"), pid.to_string())
            .map_err(|error| failed("moving into the cgroup", error))?;
        Ok(home)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What fails here is left to the next plane.
        let _ = fs::write(self.root.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(&self.own);
    }
}

/// Those of planes that were killed. One that has processes cannot be removed.
fn remove_leftovers(root: &std::path::Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        // One that lives may be about to move in.
        if pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// systemd on version 1 ends a unit by the processes of its cgroup in the hierarchy `name=systemd`.
fn version_1_unit() -> Option<String> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = membership.lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path))?;
    (path != "/").then(|| path.to_owned())
}

/// As many descriptors as there may be. Returns how many.
pub(super) fn raise_descriptor_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() => hard,
        Ok((soft, _)) => soft,
        // It does not fail for a limit that exists.
        Err(_) => 1024,
    }
}

/// Connections that so many descriptors allow: two each, and some are for other things.
pub(super) fn most_connections(descriptors: u64) -> u64 {
    let spare = limits::BRIDGE_SPARE_DESCRIPTORS.min(descriptors / 2);
    ((descriptors - spare) / 2).clamp(1, limits::BRIDGE_CONNECTIONS as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_still_allow_a_good_part_of_connections() {
        let allowed = [0, 256, 1024, 4096, 20_000, 1 << 20].map(most_connections);
        assert_eq!(allowed, [1, 64, 256, 1536, 9488, limits::BRIDGE_CONNECTIONS as u64]);
    }
}
