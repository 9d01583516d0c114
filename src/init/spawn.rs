//! From a service's definition to its process.

use std::{ffi::CString, fs, io, os::fd::OwnedFd, path::Path, sync::Arc};

use super::service::{Bounds, Definition};
use crate::{
    accounts::{self, Account},
    limits,
    sys::{
        cgroup::{Bound, Cgroup, CgroupParent},
        process::{Allowance, Birth, Credentials, Forked, Inherited, Launch, c_string},
    },
};

const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const USER_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How many lives' cgroups there may be whose processes have not all ended yet.
const LIVES: u32 = 100;

/// What each start takes.
#[derive(Debug)]
pub(super) struct Spawner {
    inherited: Inherited,
    cgroups: Option<CgroupParent>,
}

impl Spawner {
    /// Looks what this process was given, and has the kernel account for services.
    ///
    /// # Errors
    /// Why there are no cgroups. Services run all the same.
    pub(super) fn new(problems: &mut Vec<String>) -> Self {
        let cgroups = match CgroupParent::of_root() {
            Ok(mut parent) => {
                if let Err(error) = parent.enable_controllers() {
                    problems.push(format!("services cannot be limited: {error}"));
                }
                Some(parent)
            }
            Err(error) => {
                problems.push(format!("services have no cgroups: {error}"));
                None
            }
        };
        Self { inherited: Inherited::look(), cgroups }
    }

    /// Starts a service. `env` is added to its own.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn start(
        &self,
        service: &Definition,
        env: &[(&str, String)],
        streams: (OwnedFd, OwnedFd),
        cgroup: Option<&Cgroup>,
    ) -> Result<Forked, String> {
        let account = account(&service.user)?;
        let path = if account.uid == 0 { ROOT_PATH } else { USER_PATH };
        let home = String::from_utf8_lossy(&account.home).into_owned();
        let base = [
            ("PATH", path.to_owned()),
            ("HOME", home.clone()),
            ("USER", account.name.clone()),
            ("LOGNAME", account.name.clone()),
        ];
        let base = base.into_iter().chain(env.iter().cloned());
        let own = service.env.iter().map(|(key, value)| (key.as_str(), value.clone()));
        // The last one of a name is what getenv(3) finds in none of the C libraries: the first is. So there is one of each.
        let mut all: Vec<(&str, String)> = Vec::new();
        for (key, value) in base.chain(own) {
            all.retain(|(there, _)| *there != key);
            all.push((key, value));
        }
        let search = all.iter().find(|(key, _)| *key == "PATH").map(|(_, value)| value.clone()).unwrap_or_default();
        let string = |text: &str| c_string(text).map_err(|error| error.to_string());
        let program = service.command.first().map(String::as_str).unwrap_or_default();
        let directories = match &service.cwd {
            Some(cwd) => vec![string(cwd)?],
            None => vec![string(&home)?, string("/")?],
        };
        let mut launch = Launch {
            programs: programs(program, &search)?,
            argv: service.command.iter().map(|word| string(word)).collect::<Result<_, _>>()?,
            env: all.iter().map(|(key, value)| string(&format!("{key}={value}"))).collect::<Result<_, _>>()?,
            directories,
            credentials: Some(Credentials { uid: account.uid, gid: account.gid, groups: account.groups }),
            stdin: None,
            stdout: streams.0,
            stderr: streams.1,
            controlling_terminal: false,
            birth: Arc::new(Birth::default()),
        };
        let Bounds { nofile, oom_score_adjust, .. } = service.bounds;
        let allowance = Allowance { open_files: nofile, oom_score: oom_score_adjust };
        launch.fork(&self.inherited, cgroup, allowance).map_err(|error| error.to_string())
    }

    /// A cgroup for a service's next life, and what is wrong with it: no reason not to start the service. One whose processes are still
    /// on their way out is left to them.
    pub(super) fn cgroup(&self, service: &Definition, problems: &mut Vec<String>) -> Option<Cgroup> {
        let parent = self.cgroups.as_ref()?;
        let make = || {
            for life in 1..=LIVES {
                let name = if life == 1 { String::new() } else { format!("~{life}") };
                let name = format!("{}{name}.service", service.name);
                match parent.create(&name) {
                    // What a life before has handed down in it must not be in the way of this one, so it is made anew.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        if parent.obtain(&name)?.remove().is_ok() {
                            return parent.create(&name);
                        }
                    }
                    other => return other,
                }
            }
            Err(io::ErrorKind::ResourceBusy.into())
        };
        let made: io::Result<Cgroup> = make();
        let cgroup = made.map_err(|error| problems.push(format!("{NO_CGROUP} of its own: {error}"))).ok()?;
        let Bounds { memory, pids, cpu_weight, .. } = service.bounds;
        let bounds = [memory.map(Bound::Memory), pids.map(Bound::Pids), cpu_weight.map(Bound::CpuWeight)];
        for bound in bounds.into_iter().flatten() {
            if let Err(error) = cgroup.bound(bound) {
                problems.push(format!("{NO_LIMIT} {bound:?} cannot be kept: {error}"));
            }
        }
        Some(cgroup)
    }
}

/// How sentences begin about what a service's next life may have again.
pub(super) const NO_CGROUP: &str = "it has no cgroup";

/// See [`NO_CGROUP`].
pub(super) const NO_LIMIT: &str = "its limit";

/// The user that a service runs as.
///
/// # Errors
/// A sentence.
pub(super) fn account(user: &str) -> Result<Account, String> {
    let read = |path: &str| match super::files::read_bounded(Path::new(path), limits::ACCOUNT_FILE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|error| format!("{path} cannot be read: {error}")),
    };
    let mut account = accounts::find(read("/etc/passwd")?.as_bytes(), user)
        .ok_or_else(|| format!("there is no user {user:?} in /etc/passwd"))?;
    account.groups = accounts::groups_of(&account, read("/etc/group")?.as_bytes());
    Ok(account)
}

/// Paths to try for a program.
fn programs(program: &str, search: &str) -> Result<Vec<CString>, String> {
    let string = |text: String| c_string(text).map_err(|error| error.to_string());
    if program.contains('/') {
        return Ok(vec![string(program.to_owned())?]);
    }
    search
        .split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| string(format!("{directory}/{program}")))
        .collect()
}

/// A way to say something to a service's owner alone: a directory of sockets that each is one user's.
pub(super) fn give_to(path: &Path, user: &str) -> io::Result<()> {
    let account = account(user).map_err(io::Error::other)?;
    std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_as_a_shell_does() {
        let found = |program| programs(program, "/bin::/usr/bin").unwrap();
        assert_eq!(found("web"), [c"/bin/web".to_owned(), c"/usr/bin/web".to_owned()]);
        assert_eq!(found("./web"), [c"./web".to_owned()]);
    }
}
