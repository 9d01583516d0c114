//! Controllers of cgroup-v2: having memory, pids and cpu accounted and bounded for each exec.
//!
//! A controller works in a cgroup only where the parent hands it down (`cgroup.subtree_control`), and a cgroup that does has no
//! processes of its own (no-internal-process rule of the kernel's cgroup-v2.rst). So the agent moves into a child `agent` first.
//! That is done in a cgroup that was given to it, and in no other: a service manager's tree is the manager's.
//!
//! ```text
//!  detect ──> all handed down already ─────────────────────────────────────> these
//!        ├──> the root of the hierarchy ──────────────────> hand down ─────> these, or why not
//!        ├──> delegated to us, or nobody manages it ──> move ──> hand down ─> these, or why not
//!        └──> not ours ────────────────────────────────────────────────────> none, and why
//! ```

#![expect(unsafe_code, reason = "extended attributes have no safe wrapper here")]

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Cgroup, CgroupParent};

/// The child that the agent itself moves to. No exec's cgroup looks like it: those start with `exec-`.
const AGENT: &str = "agent";

/// What accounts or bounds one kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Memory: memory.max, memory.peak, memory.events.
    Memory,
    /// Processes and threads: pids.max.
    Pids,
    /// CPU time: cpu.weight. Its use is accounted without it.
    Cpu,
}

impl Controller {
    /// Every one that is of use here.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// A set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Controllers(u8);

impl Controllers {
    /// Is it in the set?
    pub fn has(self, controller: Controller) -> bool {
        self.0 & (1 << controller as u8) != 0
    }

    /// The set with this one too.
    #[must_use]
    pub fn with(self, controller: Controller) -> Self {
        Self(self.0 | (1 << controller as u8))
    }

    /// Is there none?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that a `cgroup.controllers` or `cgroup.subtree_control` names; others of the kernel are passed over.
    fn parse(text: &str) -> Self {
        let named = |controller: &Controller| text.split_ascii_whitespace().any(|name| name == controller.name());
        Controller::ALL.into_iter().filter(named).fold(Self::default(), Self::with)
    }

    fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

impl fmt::Display for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Controller::ALL.into_iter().filter(|each| self.has(*each)).map(Controller::name).collect();
        f.write_str(&names.join(", "))
    }
}

/// Why execs have no controllers. Not a fault: they run, and what they take is known in part.
#[derive(Debug, thiserror::Error)]
pub enum NoControllers {
    /// The kernel has none, or version 1 hierarchies hold them.
    #[error("{path} is offered none of memory, pids and cpu: they are not in the kernel, or used by cgroup version 1")]
    NotOffered {
        /// The agent's cgroup.
        path: PathBuf,
    },
    /// A service manager's cgroup.
    #[error("{path} is not delegated to guestd; give its unit Delegate=yes")]
    NotDelegated {
        /// The agent's cgroup.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{what} in {path} failed: {source}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a cgroup shows of itself.
#[derive(Debug, Clone, Copy)]
struct Situation {
    /// Controllers that it may hand down.
    offered: Controllers,
    /// Controllers that it hands down already.
    handed_down: Controllers,
    /// It is the root of the hierarchy, to which the rule on processes does not apply.
    root: bool,
    /// It was given to us.
    delegated: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// There is nothing to do.
    Keep,
    /// Hand these down, after moving out of the way or not.
    HandDown {
        missing: Controllers,
        move_first: bool,
    },
    NotOffered,
    NotDelegated,
}

fn plan(situation: Situation) -> Plan {
    let Situation { offered, handed_down, root, delegated } = situation;
    let missing = offered.without(handed_down);
    match (offered.is_empty(), missing.is_empty()) {
        (true, _) => Plan::NotOffered,
        (false, true) => Plan::Keep,
        (false, false) if root || delegated => Plan::HandDown { missing, move_first: !root },
        (false, false) => Plan::NotDelegated,
    }
}

impl CgroupParent {
    /// Has controllers handed down to the cgroups of execs, as far as that may be. To be called once, by the agent, before the
    /// first exec: the calling process may be moved to a child cgroup.
    ///
    /// # Errors
    /// Why some or all are missing; [`CgroupParent::controllers`] has what there is.
    pub fn enable_controllers(&mut self) -> Result<(), NoControllers> {
        let path = self.path.clone();
        let result = self.carry_out(plan(self.situation(&path)?));
        self.controllers = Controllers::parse(&read(&path, "cgroup.subtree_control")?);
        result
    }

    /// The controllers that execs have.
    pub fn controllers(&self) -> Controllers {
        self.controllers
    }

    fn situation(&self, path: &Path) -> Result<Situation, NoControllers> {
        Ok(Situation {
            offered: Controllers::parse(&read(path, "cgroup.controllers")?),
            handed_down: Controllers::parse(&read(path, "cgroup.subtree_control")?),
            // Only the root has no such file (cgroup-v2.rst, "cgroup.events").
            root: !path.join("cgroup.events").exists(),
            delegated: is_marked_delegated(path) || !Path::new("/run/systemd/system").exists(),
        })
    }

    fn carry_out(&self, plan: Plan) -> Result<(), NoControllers> {
        let path = self.path.clone();
        match plan {
            Plan::Keep => Ok(()),
            Plan::NotOffered => Err(NoControllers::NotOffered { path }),
            Plan::NotDelegated => Err(NoControllers::NotDelegated { path }),
            Plan::HandDown { missing, move_first } => {
                let failed = |what| move |source| NoControllers::Failed { what, path, source };
                if move_first {
                    self.step_aside().map_err(failed("moving the agent to a child cgroup"))?;
                }
                let itself = Cgroup::new(self.path.clone(), self.controllers);
                let mut result = Ok(());
                // One by one, so that one which is refused does not cost the others.
                for controller in Controller::ALL.into_iter().filter(|each| missing.has(*each)) {
                    let written = itself.write("cgroup.subtree_control", &format!("+{}", controller.name()));
                    result = result.and(written);
                }
                let path = self.path.clone();
                result.map_err(|source| NoControllers::Failed { what: "enabling controllers", path, source })
            }
        }
    }

    fn step_aside(&self) -> io::Result<()> {
        // It may be of an agent before us. 0 stands for the writer.
        self.obtain(AGENT)?.write("cgroup.procs", "0")
    }
}

fn read(path: &Path, file: &str) -> Result<String, NoControllers> {
    let path = path.join(file);
    fs::read_to_string(&path).map_err(|source| NoControllers::Failed { what: "reading", path, source })
}

/// systemd marks what it delegates: `user.delegate` since version 250, `trusted.delegate` before.
fn is_marked_delegated(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    [c"user.delegate", c"trusted.delegate"].into_iter().any(|name| {
        let mut value = [0_u8; 2];
        // SAFETY: two C strings and a buffer of the length that is given.
        let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        length == 1 && value[0] == b'1'
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Controllers = Controllers(0b111);
    const SITUATION: Situation = Situation { offered: ALL, handed_down: Controllers(0), root: false, delegated: true };

    #[test]
    fn controllers_are_read_past_those_that_are_of_no_use_here() {
        let controllers = Controllers::parse("cpuset cpu io memory hugetlb\n");
        assert_eq!(controllers.to_string(), "memory, cpu");
        assert!(!controllers.has(Controller::Pids));
    }

    #[test]
    fn a_delegated_cgroup_is_left_before_it_hands_controllers_down() {
        assert_eq!(plan(SITUATION), Plan::HandDown { missing: ALL, move_first: true });
    }

    #[test]
    fn the_root_hands_controllers_down_without_a_move() {
        let root = Situation { root: true, delegated: false, ..SITUATION };
        assert_eq!(plan(root), Plan::HandDown { missing: ALL, move_first: false });
    }

    #[test]
    fn a_cgroup_of_somebody_else_is_left_alone_but_used_as_it_is() {
        let foreign = Situation { delegated: false, ..SITUATION };
        assert_eq!(plan(foreign), Plan::NotDelegated);
        assert_eq!(plan(Situation { handed_down: ALL, ..foreign }), Plan::Keep);
    }

    #[test]
    fn where_nothing_is_offered_nothing_is_done() {
        assert_eq!(plan(Situation { offered: Controllers(0), ..SITUATION }), Plan::NotOffered);
    }

    #[test]
    fn only_what_is_missing_is_asked_for() {
        let memory = Controllers::default().with(Controller::Memory);
        let Plan::HandDown { missing, .. } = plan(Situation { handed_down: memory, ..SITUATION }) else { panic!() };
        assert_eq!(missing.to_string(), "pids, cpu");
    }

    /// A directory that looks like a cgroup.
    fn fake(offered: &str, handed_down: &str) -> (tempfile::TempDir, CgroupParent) {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in
            [("cgroup.controllers", offered), ("cgroup.subtree_control", handed_down), ("cgroup.events", "")]
        {
            fs::write(directory.path().join(file), text).unwrap();
        }
        let parent = CgroupParent::of(directory.path().to_owned());
        (directory, parent)
    }

    #[test]
    fn what_is_handed_down_already_is_found() {
        let (_directory, mut parent) = fake("cpu memory pids\n", "cpu memory pids\n");
        parent.enable_controllers().unwrap();
        assert_eq!(parent.controllers(), ALL);
    }

    #[test]
    fn a_refused_controller_is_told_with_the_place() {
        // No kernel behind it: what is written here is no state, so memory stays missing.
        let (directory, parent) = fake("memory\n", "");
        fs::create_dir(directory.path().join(AGENT)).unwrap();
        let plan = Plan::HandDown { missing: ALL, move_first: true };
        let error = parent.carry_out(plan).unwrap_err().to_string();
        assert!(error.starts_with("moving the agent to a child cgroup in "), "{error}");
    }

    #[test]
    fn a_missing_controller_is_asked_for_by_its_name() {
        let (directory, parent) = fake("memory pids cpu\n", "");
        let missing = Controllers::default().with(Controller::Pids);
        parent.carry_out(Plan::HandDown { missing, move_first: false }).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("cgroup.subtree_control")).unwrap(), "+pids");
    }
}
