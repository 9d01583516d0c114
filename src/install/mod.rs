//! `guestd install --root DIR` and `guestd uninstall --root DIR`: the build step that puts guestd into a root file system, and its undoing.
//!
//! Owns: which init system an image has (`detect`), what else is seen in it (`survey`, `openssh`), what is installed (`contents`,
//! `shipped`), what is decided for each path (`decision`, pure), all steps before the first is done (`plan`, `removal`), their doing
//! (`apply`), the record of what was installed (`manifest`), what the builder should know (`notes`).
//!
//! ```text
//! on disk              recorded    installed now         outcome             uninstalled
//! absent               any         written               created             nothing
//! same content         any         left, access mended   unchanged, updated  removed
//! other content        same        replaced              updated             removed
//! other content        otherwise   FILE.guestd-new       kept: edited        kept
//! recorded, not wanted same        removed               removed             removed
//! ```
//!
//! The files are those of `rootfs-overlay/` and `image/init-overlays/`, embedded. Into files of somebody else's (`/etc/inittab`, OpenSSH's
//! configuration where it does not include what is beside it) go marked lines, which come out again without a trace. What `--init pid1`
//! takes the place of, `/sbin/init`, keeps another name until then.
//!
//! A file that was removed comes back: to keep a unit from starting, mask it (`systemctl --root DIR mask guestd`), which
//! is an edit. Nothing of the image is executed, so that its architecture does not matter, and no path is followed out
//! of it. Refused, before anything is written: an image without the directory, keys that are no pair, a directory where a file belongs.

mod apply;
mod contents;
mod decision;
mod detect;
pub(crate) mod elf;
pub(crate) mod inits;
mod manifest;
mod notes;
mod openssh;
mod plan;
mod removal;
mod report;
mod shipped;
mod survey;

use std::{
    fs::File,
    io::{self, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
pub use report::{Line, Outcome, Report};

use crate::{
    keys::{GoldenError, GoldenPair},
    sys::root_dir::{RootDir, RootDirError},
};
pub(crate) use contents::PROGRAM;
use contents::Selection;
use manifest::MANIFEST;
use plan::{Plan, Step};
use removal::Removal;
use survey::Survey;

/// Where a running program finds itself.
const RUNNING_PROGRAM: &str = "/proc/self/exe";

/// Puts guestd, what starts it, its SSH configuration and the golden keys into a root file system. A second run changes nothing.
#[derive(Debug, Clone, clap::Args)]
pub struct InstallArgs {
    /// Root directory of the image
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Init system that starts guestd [default: the one that the image has; pid1 where it has none]
    #[arg(long, value_enum)]
    pub init: Option<Init>,
    /// Directory with the golden key pair, as `guestd keygen` makes it. Without it keys are left as they are
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// guestd's program, for an image of another architecture [default: the running one]
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Takes out of a root file system what `guestd install` has put there. What was edited since stays, and is named.
#[derive(Debug, Clone, clap::Args)]
pub struct UninstallArgs {
    /// Root directory of the image
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What starts guestd in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Init {
    /// Units, enabled.
    Systemd,
    /// A script, in a runlevel.
    Openrc,
    /// A script that rcS calls, and a line in /etc/inittab where there is one.
    Busybox,
    /// A service directory, among those that run.
    Runit,
    /// guestd itself is the image's init: `/sbin/init` is a link to it.
    Pid1,
    /// Nothing: the image has its own way.
    None,
}

/// Why an installation was not done, or not to its end. Running it again after the cause is gone completes it.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The key directory has no pair.
    #[error("no golden key pair in {dir}; make one with `guestd keygen --out {dir}`", dir = dir.display())]
    NoKeys {
        /// The directory.
        dir: PathBuf,
    },
    /// The key directory has something else than a pair.
    #[error(transparent)]
    Keys(#[from] GoldenError),
    /// guestd's program could not be read.
    #[error("cannot read guestd's program {path}: {source}; name it with --binary", path = path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A directory or device is where a file belongs.
    #[error("{path} is {what}, where guestd's file belongs; move it away", path = path.display())]
    InTheWay {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// Two installations into one image would remove each other's temporary files.
    #[error("another `guestd install` is at work in {root}; wait until it has ended", root = root.display())]
    AtWork {
        /// The image.
        root: PathBuf,
    },
    /// Something in the image could not be read; nothing has been written.
    #[error(transparent)]
    Files(#[from] RootDirError),
    /// Something in the image could not be written.
    #[error("{cause}; the image is not finished: when that is mended, the same command completes it")]
    Unfinished {
        /// What could not be done.
        cause: Box<InstallError>,
    },
}

/// Runs `guestd install` and prints what was done.
pub fn run(args: &InstallArgs) -> anyhow::Result<()> {
    print(&install(args)?)
}

/// Runs `guestd uninstall` and prints what was done.
pub fn run_uninstall(args: &UninstallArgs) -> anyhow::Result<()> {
    print(&uninstall(args)?)
}

fn print(report: &Report) -> anyhow::Result<()> {
    // Not print!, which panics when the reader is gone.
    io::stdout().write_all(report.to_string().as_bytes()).context("cannot print the report; the image is complete")
}

/// Installs into `args.root` and says what was done for each path.
pub fn install(args: &InstallArgs) -> Result<Report, InstallError> {
    let root = open(&args.root)?;
    let keys = args.keys.as_deref().map(load_keys).transpose()?;
    let program = Program::open(args.binary.as_deref().unwrap_or(Path::new(RUNNING_PROGRAM)))?;
    let init = match args.init {
        Some(init) => init,
        None => detect::detect(&root)?,
    };
    let survey = Survey::of(&root, init, &program, keys.is_some())?;
    let selection = Selection { survey: &survey, keys: keys.as_ref(), program: &program };
    let mut plan = plan::plan(&root, contents::wanted(&selection), &selection)?;
    plan.notes.extend(notes::notes(&survey));
    carry_out(&root, plan, args.dry_run)
}

/// Takes out of `args.root` what was installed and says what was done for each path.
pub fn uninstall(args: &UninstallArgs) -> Result<Report, InstallError> {
    let root = open(&args.root)?;
    let Some((record, note)) = plan::read_manifest(&root)? else {
        let note = format!("there is no record ({MANIFEST}) of an installation in {}", args.root.display());
        return Ok(Report { is_dry: args.dry_run, notes: vec![note], ..Report::default() });
    };
    let steps = removal_of(&root, &record)?;
    carry_out(&root, Plan { steps, meanwhile: None, notes: note.into_iter().collect() }, args.dry_run)
}

/// The record goes when all that it names is gone, and what is above it after it: an interrupted run can be completed.
fn removal_of(root: &RootDir, record: &manifest::Manifest) -> Result<Vec<Step<'static>>, InstallError> {
    let above_record = |directory: &str| MANIFEST.starts_with(&format!("{directory}/"));
    let mut removal = Removal::new(root, record);
    removal.links(|_| true)?;
    removal.lines(|_| true)?;
    removal.files(|_| true)?;
    removal.directories(|directory| !above_record(directory), true)?;
    removal.remove(MANIFEST);
    removal.directories(above_record, true)?;
    Ok(removal.end().0)
}

fn carry_out(root: &RootDir, plan: Plan<'_>, is_dry: bool) -> Result<Report, InstallError> {
    if !is_dry {
        apply::apply(root, &plan).map_err(|cause| InstallError::Unfinished { cause: Box::new(cause) })?;
    }
    Ok(Report { is_dry, lines: plan.steps.into_iter().map(|step| step.line).collect(), notes: plan.notes })
}

/// Opens an image and keeps others from installing into it until the value is dropped.
fn open(path: &Path) -> Result<RootDir, InstallError> {
    let root = RootDir::open(path)?;
    if root.lock()? { Ok(root) } else { Err(InstallError::AtWork { root: path.to_owned() }) }
}

fn load_keys(dir: &Path) -> Result<GoldenPair, InstallError> {
    GoldenPair::load(&RootDir::open(dir)?)?.ok_or_else(|| InstallError::NoKeys { dir: dir.to_owned() })
}

/// guestd's program, open.
#[derive(Debug)]
struct Program {
    file: File,
    path: PathBuf,
}

impl Program {
    fn open(path: &Path) -> Result<Self, InstallError> {
        let failed = |source| InstallError::Program { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::other("it is not a regular file")));
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// The program as a stream; it is read more than once.
    fn rewound(&self) -> io::Result<&File> {
        (&self.file).rewind()?;
        Ok(&self.file)
    }

    fn unreadable(&self, source: io::Error) -> InstallError {
        InstallError::Program { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        install: InstallArgs,
    }

    #[test]
    fn an_init_system_that_is_not_supported_is_refused_with_those_that_are() {
        let args = Cli::try_parse_from(["install", "--root", "/image", "--init", "openrc"]).unwrap().install;
        assert_eq!(args.init, Some(Init::Openrc));
        let message = Cli::try_parse_from(["install", "--root", "/image", "--init", "s6"]).unwrap_err().to_string();
        assert!(message.contains("[possible values: systemd, openrc, busybox, runit, pid1, none]"), "{message}");
    }
}
