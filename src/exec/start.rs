//! From an order to a running process. Blocks: it reads account files, forks, and waits for the execve.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::accounts::{self, Account, AccountFiles};
use super::cleanup::{Cleanup, Remains};
use super::config::ExecConfig;
use super::environment::{self, Variables};
use super::error::{ExecError, shown};
use super::io::Io;
use super::order::Order;
use super::program::{Attempt, candidates};
use super::record::Live;
use super::resources;
use super::terminal::{self, Terminal};
use super::tree::Tree;
use crate::api::TtySize;
use crate::sys::cgroup::{Cgroup, CgroupParent};
use crate::sys::pidfd::{Pidfd, WatchedPidfd};
use crate::sys::process::{Birth, Credentials, Inherited, Launch, LaunchError, Stage, c_string, effective_ids};

/// A program that somebody has open for writing cannot be run. Mostly that somebody is a fork of ours in the instant before its
/// own execve, with a file that was being uploaded; so it is tried again for a moment.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// How the name of an exec's cgroup begins.
pub const CGROUP_PREFIX: &str = "exec-";

/// A command that runs.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) live: Live,
    pub(super) io: Io,
    /// What the command is to read first.
    pub(super) stdin: Option<Vec<u8>>,
    pub(super) at: Instant,
}

/// What starting a command takes, the same for all of them.
#[derive(Debug)]
pub(super) struct Launcher {
    pub(super) config: ExecConfig,
    /// `VERS_VM_ID` of commands.
    pub(super) vm_id: Mutex<Option<String>>,
    files: AccountFiles,
    inherited: Inherited,
    cleanup: Cleanup,
}

impl Launcher {
    pub(super) fn new(config: ExecConfig, cleanup: Cleanup) -> Self {
        let files = AccountFiles::new(&config);
        Self { config, vm_id: Mutex::default(), files, inherited: Inherited::look(), cleanup }
    }

    /// Starts an order under this id, unless its birth is ended before. Needs to be called within a runtime, on a thread that may
    /// block.
    pub(super) fn start(&self, id: &str, order: Order, birth: Arc<Birth>) -> Result<Started, ExecError> {
        let Self { config, cleanup, .. } = self;
        let ready = Ready::new(self, order, birth)?;
        let cgroup = config.cgroup.as_ref().and_then(|parent| {
            let made = make_cgroup(id, |name| parent.create(name));
            made.inspect_err(|error| {
                tracing::warn!(%error, parent = ?parent.path(), "no cgroup for an exec; it gets a session only");
            })
            .ok()
        });
        let have = config.cgroup.as_ref().map(CgroupParent::controllers).unwrap_or_default();
        if let Err(error) = resources::impose(&ready.order.bounds, cgroup.as_ref(), have) {
            discard(cleanup, cgroup);
            return Err(error);
        }
        match ready.launch(cgroup.as_ref()) {
            Ok(launched) => ready.started(launched, cgroup),
            Err(Failure::Launch(error)) if error.stage == Stage::Cgroup && ready.order.bounds.is_empty() => {
                tracing::warn!(%error, "an exec could not join its cgroup; it gets a session only");
                discard(cleanup, cgroup);
                match ready.launch(None) {
                    Ok(launched) => ready.started(launched, None),
                    Err(failure) => Err(ready.explain(failure)),
                }
            }
            Err(failure) => {
                discard(cleanup, cgroup);
                Err(ready.explain(failure))
            }
        }
    }
}

/// Removes the cgroup of a command that did not start.
fn discard(cleanup: &Cleanup, cgroup: Option<Cgroup>) {
    if let Some(cgroup) = cgroup {
        cleanup.add(Remains::of_cgroup(cgroup));
    }
}

/// An order with all looked up that it names.
struct Ready<'a> {
    inherited: &'a Inherited,
    birth: Arc<Birth>,
    order: Order,
    account: Account,
    env: Variables,
    candidates: Vec<Vec<u8>>,
    directories: Vec<PathBuf>,
    /// Whose terminals can be written to by write(1) and wall(1).
    tty_group: Option<u32>,
}

/// Our ends of what was started.
struct Launched {
    leader: Pidfd,
    io: Io,
}

/// The command's ends of its streams.
struct Theirs {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

enum Failure {
    Launch(LaunchError),
    Other(ExecError),
}

impl<'a> Ready<'a> {
    fn new(launcher: &'a Launcher, mut order: Order, birth: Arc<Birth>) -> Result<Self, ExecError> {
        let Launcher { config, files, inherited, .. } = launcher;
        let user = order.user.clone().unwrap_or_else(|| effective_ids().0.to_string());
        let account = accounts::find(&user, files)?;
        let file = environment::of_file(&files.environment).unwrap_or_else(|error| {
            // One bad file must not stop every command, the one that would mend it among them.
            tracing::warn!(%error, path = ?config.environment_file, "the environment file is left out");
            Variables::new()
        });
        let mut env = environment::login(&account);
        if order.tty.is_some() {
            env.insert("TERM".to_owned(), terminal::TERM.into());
        }
        env.extend(config.base_env.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes())));
        let vm_id = launcher.vm_id.lock().unwrap_or_else(PoisonError::into_inner).clone();
        env.extend(vm_id.map(|id| ("VERS_VM_ID".to_owned(), id.into_bytes())));
        env.extend(file);
        env.append(&mut order.env);
        let directories = match &order.working_dir {
            Some(directory) => vec![PathBuf::from(directory)],
            None => vec![path(&account.home), "/".into()],
        };
        if let Some(directory) = &order.working_dir {
            check_directory(directory)?;
        }
        let candidates = candidates(&order.program, env.get("PATH").map_or(b"", Vec::as_slice));
        let tty_group = order.tty.and_then(|_| accounts::group("tty", files));
        Ok(Self { inherited, birth, order, account, env, candidates, directories, tty_group })
    }

    fn launch(&self, cgroup: Option<&Cgroup>) -> Result<Launched, Failure> {
        let mut tries = 1;
        loop {
            match self.launch_once(cgroup) {
                Err(Failure::Launch(error))
                    if error.source.raw_os_error() == Some(libc::ETXTBSY) && tries < BUSY_TRIES =>
                {
                    tries += 1;
                    std::thread::sleep(BUSY_PAUSE);
                }
                other => return other,
            }
        }
    }

    fn launch_once(&self, cgroup: Option<&Cgroup>) -> Result<Launched, Failure> {
        let other = |what| move |source| Failure::Other(ExecError::Start { what, source });
        let (mut io, theirs) = self.streams()?;
        let mut launch = Launch {
            programs: strings(&self.candidates).map_err(other("reading PATH"))?,
            argv: self.order.argv.clone(),
            env: environment::strings(&self.env).map_err(other("building its environment"))?,
            directories: directories(&self.directories).map_err(other("reading its home"))?,
            credentials: self.credentials(),
            stdin: theirs.stdin,
            stdout: theirs.stdout,
            stderr: theirs.stderr,
            controlling_terminal: self.order.tty.is_some(),
            birth: Arc::clone(&self.birth),
        };
        let leader = launch.spawn(self.inherited, cgroup).map_err(Failure::Launch)?;
        io.hold([launch.stdout, launch.stderr]);
        Ok(Launched { leader, io })
    }

    /// Our ends and those of the command.
    fn streams(&self) -> Result<(Io, Theirs), Failure> {
        match self.order.tty {
            Some(size) => self.terminal(size),
            None => self.pipes(),
        }
    }

    fn terminal(&self, size: TtySize) -> Result<(Io, Theirs), Failure> {
        let owner = self.credentials().map(|credentials| credentials.uid);
        let (terminal, [stdin, stdout, stderr]) =
            Terminal::open(size, owner, self.tty_group).map_err(|source| match source.raw_os_error() {
                // Told as for processes: there is no room for another one now.
                Some(libc::ENOSPC | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                    Failure::Launch(LaunchError { stage: Stage::Terminal, source })
                }
                _ => Failure::Other(ExecError::Start { what: "opening a terminal for it", source }),
            })?;
        Ok((Io::Terminal(terminal), Theirs { stdin: Some(stdin), stdout, stderr }))
    }

    fn pipes(&self) -> Result<(Io, Theirs), Failure> {
        let pipe = || {
            let ends = io::pipe().map(|(read, write)| (OwnedFd::from(read), OwnedFd::from(write)));
            ends.map_err(|source| Failure::Launch(LaunchError { stage: Stage::Fork, source }))
        };
        let (stdout, child_stdout) = pipe()?;
        let (stderr, child_stderr) = pipe()?;
        let wanted = self.order.stdin.is_some() || self.order.stdin_open;
        let (child_stdin, stdin) = wanted.then(pipe).transpose()?.unzip();
        let io = Io::pipes(stdout, stderr, stdin)
            .map_err(|source| Failure::Other(ExecError::Start { what: "watching its streams", source }))?;
        Ok((io, Theirs { stdin: child_stdin, stdout: child_stdout, stderr: child_stderr }))
    }

    /// None for an agent without privileges that runs a command as itself: it may not even set the groups that it has.
    fn credentials(&self) -> Option<Credentials> {
        let Account { uid, gid, ref groups, .. } = self.account;
        let us = effective_ids();
        (us.0 == 0 || us != (uid, gid)).then(|| Credentials { uid, gid, groups: groups.clone() })
    }

    fn started(self, launched: Launched, cgroup: Option<Cgroup>) -> Result<Started, ExecError> {
        let at = Instant::now();
        let Launched { leader, io } = launched;
        let tree = cgroup.map_or(Tree::Session(leader.pid()), Tree::Cgroup);
        let leader = WatchedPidfd::new(leader).map_err(|(leader, source)| {
            // Nobody could tell when it ends, so it does not run.
            tree.strike();
            let _ = leader.signal(libc::SIGKILL).and_then(|_| leader.wait());
            ExecError::Start { what: "watching it", source }
        })?;
        let terminal = io.terminal();
        Ok(Started { live: Live { leader, tree, terminal }, io, stdin: self.order.stdin, at })
    }

    fn explain(&self, failure: Failure) -> ExecError {
        let error = match failure {
            Failure::Launch(error) => error,
            Failure::Other(error) => return error,
        };
        match error.stage {
            Stage::Directory => return self.bad_directory(error.source),
            Stage::Execute => {}
            // Of one that was ended because it hung, nothing is looked at that may hang as well.
            _ => return ExecError::of_launch(error),
        }
        let root = PathBuf::from("/");
        let attempt = Attempt {
            program: &self.order.program,
            alone: self.order.argv.len() == 1,
            candidates: &self.candidates,
            path: self.env.get("PATH").map_or(b"", Vec::as_slice),
            directory: self.directories.iter().find(|directory| directory.is_dir()).unwrap_or(&root),
            user: &self.account.name,
        };
        attempt.explain(error)
    }

    /// It was there and a directory when we looked; the user could not enter it, or it went.
    fn bad_directory(&self, source: io::Error) -> ExecError {
        let path = self.directories.first().map(|path| shown(&path.to_string_lossy())).unwrap_or_default();
        let why = format!("user {} cannot enter it: {source}", self.account.name);
        ExecError::BadWorkingDir { path, why }
    }
}

fn check_directory(directory: &str) -> Result<(), ExecError> {
    let why = match Path::new(directory).metadata() {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => "it is not a directory".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "it does not exist in the guest; make it first, or leave `working_dir` out for the user's home".to_owned()
        }
        Err(error) => error.to_string(),
    };
    Err(ExecError::BadWorkingDir { path: shown(directory), why })
}

/// `exec-ID`. A daemon that an exec of the same id left behind may still be in that; then `exec-ID~2` and so on, which no id
/// can look like.
fn make_cgroup(id: &str, create: impl Fn(&str) -> io::Result<Cgroup>) -> io::Result<Cgroup> {
    const SAME_ID: u32 = 100;
    let mut made = create(&format!("{CGROUP_PREFIX}{id}"));
    for number in 2..=SAME_ID {
        match &made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                made = create(&format!("{CGROUP_PREFIX}{id}~{number}"));
            }
            _ => break,
        }
    }
    made
}

fn path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

fn strings(all: &[Vec<u8>]) -> io::Result<Vec<CString>> {
    all.iter().map(|bytes| c_string(bytes.clone())).collect()
}

fn directories(all: &[PathBuf]) -> io::Result<Vec<CString>> {
    use std::os::unix::ffi::OsStrExt;
    all.iter().map(|path| c_string(path.as_os_str().as_bytes())).collect()
}
