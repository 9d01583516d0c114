//! `guestd install --root DIR`: the build step that puts guestd into a root file system.
//!
//! Owns: what is installed (`contents`), what is decided for each path (`decision`, pure), what is done about it
//! (`apply`), the record of what was installed (`manifest`), what the builder should know (`notes`).
//! The files themselves are those of `rootfs-overlay/`, embedded; laying that directory on an image first is the same.
//!
//! ```text
//! on disk              recorded    installed now         outcome
//! absent               any         written               created
//! same content         any         left, access mended   unchanged, updated
//! other content        same        replaced              updated
//! other content        otherwise   FILE.guestd-new       kept: somebody edited it
//! ```
//!
//! A file that was removed comes back: to keep a unit from starting, mask it (`systemctl --root DIR mask guestd`), which
//! is an edit. Nothing of the image is executed, so that its architecture does not matter, and no path is followed out
//! of it. Refused: an image without the directory, keys that are no pair, a directory where a file belongs.

mod apply;
mod contents;
mod decision;
mod elf;
mod manifest;
mod notes;
mod report;

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
use contents::Selection;

/// Where a running program finds itself.
const RUNNING_PROGRAM: &str = "/proc/self/exe";

/// systemd itself, in the order in which distributions have it.
const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// Puts guestd, its units, its SSH configuration and the golden keys into a root file system. A second run changes nothing.
#[derive(Debug, Clone, clap::Args)]
pub struct InstallArgs {
    /// Root directory of the image
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Init system that starts guestd [default: systemd if the image has it, else none]
    #[arg(long, value_enum)]
    pub init: Option<Init>,
    /// Directory with the golden key pair, as `guestd keygen` makes it. Without it keys are left as they are
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// guestd's program, for an image of another architecture [default: the running one]
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
}

/// What starts guestd in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Init {
    /// Units, enabled.
    Systemd,
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
    /// Something in the image could not be read or written.
    #[error(transparent)]
    Files(#[from] RootDirError),
}

/// Runs `guestd install` and prints what was done.
pub fn run(args: &InstallArgs) -> anyhow::Result<()> {
    let report = install(args)?;
    // Not print!, which panics when the reader is gone.
    io::stdout().write_all(report.to_string().as_bytes()).context("cannot print the report; the image is complete")
}

/// Installs into `args.root` and says what was done for each path.
pub fn install(args: &InstallArgs) -> Result<Report, InstallError> {
    let root = RootDir::open(&args.root)?;
    let keys = args.keys.as_deref().map(load_keys).transpose()?;
    let program = Program::open(args.binary.as_deref().unwrap_or(Path::new(RUNNING_PROGRAM)))?;
    let init = match args.init {
        Some(init) => init,
        None => detect_init(&root)?,
    };
    let wanted = contents::wanted(&Selection { init, keys: keys.as_ref(), program: &program });
    let mut report = apply::apply(&root, &wanted)?;
    report.notes.extend(notes::notes(&notes::Survey::of(&root, init, &program)?));
    Ok(report)
}

fn load_keys(dir: &Path) -> Result<GoldenPair, InstallError> {
    GoldenPair::load(&RootDir::open(dir)?)?.ok_or_else(|| InstallError::NoKeys { dir: dir.to_owned() })
}

fn detect_init(root: &RootDir) -> Result<Init, RootDirError> {
    for path in SYSTEMD {
        if root.follow(path)?.is_some() {
            return Ok(Init::Systemd);
        }
    }
    Ok(Init::None)
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
        let args = Cli::try_parse_from(["install", "--root", "/image", "--init", "systemd"]).unwrap().install;
        assert_eq!(args.init, Some(Init::Systemd));
        let message = Cli::try_parse_from(["install", "--root", "/image", "--init", "openrc"]).unwrap_err().to_string();
        assert!(message.contains("[possible values: systemd, none]"), "{message}");
    }
}
