//! What this VM is called, and whom it asks for names: its host name, `/etc/hosts`, `/etc/resolv.conf`.
//!
//! Owns: the decision for each of the three (`hostname`, `hosts`, `resolv_conf`, all pure) and its carrying out below a root, `/` in a VM.
//! [`Names`] has it done when the agent starts and whenever a restore is announced; what is as it should be is not written again.
//! Refused: to write over name servers that somebody else has set, to touch lines of `/etc/hosts` that are not guestd's own, to rename
//! a VM that has a name of its own.
//!
//! ```text
//! file system ── look ──> Found ──┐
//! kernel ───── HostName ──────────┼── plan ──> Plan ── carry_out ──> file system, kernel
//! configuration, id ───> Wanted ──┘  (pure)        └──> Settled: what became of each, in words
//! ```

mod hostname;
mod hosts;
mod resolv_conf;
mod settling;

use std::{borrow::Cow, fmt, io, net::IpAddr};

use nix::unistd::{Gid, Uid, geteuid};

use crate::{
    config::HostNamePolicy,
    limits,
    sys::root_dir::{Entry, Existing, OpenFile, Owner, RootDir, RootDirError},
};
pub use resolv_conf::ResolvConf;
pub use settling::{Names, Told};

/// guestd's directory in a root file system. Where it is missing, this is a machine that merely runs guestd, in a test for one; its
/// names are its own.
const INSTALLED: &str = "/etc/guestd";

const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What the VM is to be called and whom to ask.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The VM's id.
    pub vm_id: Option<&'a str>,
    /// A host name that the VM's host has given it, which is taken whatever it is called.
    pub given: Option<&'a str>,
    /// Ids and names that it had before, as far as they are known: a host name that came from one of them may go.
    pub former: &'a [&'a str],
    /// Whether the host name follows the id.
    pub hostname: HostNamePolicy,
    /// Name servers; none leaves `/etc/resolv.conf` as it is.
    pub dns: &'a [IpAddr],
}

impl<'a> Wanted<'a> {
    /// What it is to be called.
    fn name(&self) -> Option<Cow<'a, str>> {
        self.given.map(Cow::from).or_else(|| self.vm_id.map(hostname::of_id))
    }
}

/// The kernel's host name (of this process's UTS namespace).
pub trait HostName {
    /// What it is.
    ///
    /// # Errors
    /// Those of uname(2).
    fn get(&self) -> io::Result<String>;

    /// Makes it another.
    ///
    /// # Errors
    /// Those of sethostname(2).
    fn set(&mut self, name: &str) -> io::Result<()>;
}

/// The kernel itself.
#[derive(Debug)]
pub struct KernelHostName;

impl HostName for KernelHostName {
    fn get(&self) -> io::Result<String> {
        Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned())
    }

    fn set(&mut self, name: &str) -> io::Result<()> {
        Ok(nix::unistd::sethostname(name)?)
    }
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The kernel's host name.
    pub kernel: String,
    /// What `/etc/hostname` says, if there is one.
    pub image: Option<String>,
    /// The text of `/etc/hosts`, empty where there is none; or what is there that is left alone.
    pub hosts: Result<Vec<u8>, String>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: ResolvConf,
}

/// What is to be done about one of the three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// Nothing: it is as it should be.
    Right,
    /// Nothing, and why.
    Leave(String),
    /// Make it this.
    To(T),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The kernel's host name.
    pub hostname: Change<String>,
    /// The text of `/etc/hosts`.
    pub hosts: Change<Vec<u8>>,
    /// The text of `/etc/resolv.conf`.
    pub resolv_conf: Change<Vec<u8>>,
}

/// Decides.
pub fn plan(wanted: &Wanted<'_>, found: &Found) -> Plan {
    let own = found.hosts.as_deref().ok().and_then(hosts::own_name);
    let hostname = hostname::decide(wanted, found, own.as_deref());
    let hosts = match (&hostname, wanted.name(), &found.hosts) {
        (Change::Right | Change::To(_), Some(name), Ok(text)) => hosts::decide(text, &name),
        (_, _, Err(what)) => Change::Leave(format!("it is {what}")),
        _ => Change::Leave("the host name is not guestd's".to_owned()),
    };
    Plan { hostname, hosts, resolv_conf: resolv_conf::decide(wanted.dns, &found.resolv_conf) }
}

/// What became of one of the three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it should be, and was so before or is now.
    Right {
        /// It was written now.
        changed: bool,
    },
    /// It was left alone; why.
    Left(String),
    /// It could not be done; why, and what to do.
    Failed(String),
}

/// What became of all three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The kernel's host name.
    pub hostname: Outcome,
    /// `/etc/hosts`.
    pub hosts: Outcome,
    /// `/etc/resolv.conf`.
    pub resolv_conf: Outcome,
}

impl Settled {
    fn parts(&self) -> [(&'static str, &Outcome); 3] {
        [("host name", &self.hostname), (HOSTS, &self.hosts), (RESOLV_CONF, &self.resolv_conf)]
    }

    /// Whether something could not be done.
    pub fn has_failed(&self) -> bool {
        self.parts().iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }
}

impl fmt::Display for Settled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, outcome)) in self.parts().into_iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            match outcome {
                Outcome::Right { changed: true } => write!(formatter, "{separator}{name}: set")?,
                Outcome::Right { changed: false } => write!(formatter, "{separator}{name}: right")?,
                Outcome::Left(why) => write!(formatter, "{separator}{name}: left alone, {why}")?,
                Outcome::Failed(why) => write!(formatter, "{separator}{name}: {why}")?,
            }
        }
        Ok(())
    }
}

/// Whether the disk is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Until what was written is on it.
    Synced,
    /// No: what a crash takes is announced again.
    Unsynced,
}

/// Whether guestd is installed below `root`, so that the names there are for it to set.
pub fn is_installed(root: &RootDir) -> bool {
    matches!(root.follow_directory(INSTALLED), Ok(Some(_)))
}

/// Looks, decides and does it. What cannot be looked at ends it; what cannot be done keeps nothing else from being done.
pub fn settle(root: &RootDir, wanted: &Wanted<'_>, kernel: &mut dyn HostName, durability: Durability) -> Settled {
    match look(root, kernel) {
        Ok(found) => carry_out(root, &plan(wanted, &found), kernel, durability),
        Err(why) => {
            let failed = || Outcome::Failed(why.clone());
            Settled { hostname: failed(), hosts: failed(), resolv_conf: failed() }
        }
    }
}

fn look(root: &RootDir, kernel: &dyn HostName) -> Result<Found, String> {
    let files = || -> Result<_, RootDirError> {
        let text = |file: &OpenFile| file.read(limits::NAMES_FILE_BYTES);
        let image = root.follow(HOSTNAME)?.as_ref().map(text).transpose()?;
        let hosts = match root.look(HOSTS)? {
            Entry::Absent => Ok(Vec::new()),
            Entry::File(file) => bounded(text(&file))?,
            Entry::Link(_) => Err("a link".to_owned()),
            Entry::Directory | Entry::Special => Err("no file".to_owned()),
        };
        Ok((image.as_deref().map(hostname::of_file), hosts, resolv_conf::look(root, RESOLV_CONF)?))
    };
    let (image, hosts, resolv_conf) = files().map_err(|error| error.to_string())?;
    let kernel = kernel.get().map_err(|error| format!("cannot read the kernel's host name: {error}"))?;
    Ok(Found { kernel, image, hosts, resolv_conf })
}

/// A file's text; or, where it is too large, that it is.
fn bounded(text: Result<Vec<u8>, RootDirError>) -> Result<Result<Vec<u8>, String>, RootDirError> {
    match text {
        Ok(text) => Ok(Ok(text)),
        Err(RootDirError::TooLarge { limit, .. }) => Ok(Err(format!("larger than {limit} bytes"))),
        Err(error) => Err(error),
    }
}

/// Files first: the new name is one that can be looked up from its first moment on.
fn carry_out(root: &RootDir, plan: &Plan, kernel: &mut dyn HostName, durability: Durability) -> Settled {
    let hosts = outcome(&plan.hosts, |text| write(root, HOSTS, text, durability));
    let resolv_conf = outcome(&plan.resolv_conf, |text| write(root, RESOLV_CONF, text, durability));
    let hostname = outcome(&plan.hostname, |name| {
        kernel.set(name).map_err(|error| format!("cannot make {name:?} the host name: {error}"))
    });
    Settled { hostname, hosts, resolv_conf }
}

fn outcome<T>(change: &Change<T>, make: impl FnOnce(&T) -> Result<(), String>) -> Outcome {
    match change {
        Change::Right => Outcome::Right { changed: false },
        Change::Leave(why) => Outcome::Left(why.clone()),
        Change::To(wanted) => match make(wanted) {
            Ok(()) => Outcome::Right { changed: true },
            Err(why) => Outcome::Failed(why),
        },
    }
}

/// Writes one of the files, with the mode and owner that it has; a link there, which leads to nothing, gives way to it.
fn write(root: &RootDir, path: &str, text: &[u8], durability: Durability) -> Result<(), String> {
    let root_owner: Owner = geteuid().is_root().then_some((Uid::from_raw(0), Gid::from_raw(0)));
    let put = || {
        let (mode, owner) = match root.look(path)? {
            Entry::File(file) => (file.mode, root_owner.map(|_| (Uid::from_raw(file.uid), Gid::from_raw(file.gid)))),
            _ => (0o644, root_owner),
        };
        root.make_directories("/etc", 0o755, root_owner)?;
        match durability {
            Durability::Synced => root.write(path, &mut &*text, mode, owner, Existing::Replace),
            Durability::Unsynced => root.place(path, text, mode, owner),
        }
    };
    put().map_err(|error: RootDirError| error.to_string())
}

#[cfg(test)]
mod tests;
