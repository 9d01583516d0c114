//! `guestctl cp`: files and trees between here and the VM.
//!
//! As `cp` has it: into a directory that exists, or under the name that is given; a link that is named itself is followed. A
//! file gets the source's permission bits where it is new and keeps its own where it is replaced. With `-r` all of a tree is
//! kept, as by `cp -a`: owners by number, times, attributes, hard links, holes; where guestctl does not run as root, what it
//! makes is its user's. `-` is standard input or output: a file's content, with `-r` a tar stream.
//!
//! ```text
//!   SRC ──look──> file ──> content ──────────────> DST, whole or not at all
//!             └─> directory (-r) ──> tar stream ──> DST/…, file by file
//! ```

mod down;
mod failure;
mod progress;
mod side;
mod up;

use std::path::PathBuf;

use serde::Serialize;

use crate::client::Client;

pub(super) use failure::CopyFailure;
pub(super) use side::{Side, side};

use super::args::CopyArgs;
use super::failure::{Failure, exit};
use super::output::Output;
use progress::Progress;

/// What was copied, for programs.
#[derive(Debug, Default, Serialize)]
struct Copied {
    /// The path that was written, bytes that are no UTF-8 replaced; null for standard output.
    #[serde(serialize_with = "lossy")]
    path: Option<PathBuf>,
    /// Bytes that passed, those of a tar stream for a tree.
    bytes: u64,
    /// Entries of a tree, where this side or the VM counted them.
    entries: Option<u64>,
    /// Attributes that could not be kept.
    xattrs_skipped: u64,
}

/// A copy that is done is told, whatever its name.
fn lossy<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

pub(super) async fn run(client: &Client, args: CopyArgs, output: Output) -> Result<u8, Failure> {
    let mut progress = Progress::new(!output.json);
    let recursive = args.recursive;
    let to_stdout = args.destination == Side::Pipe;
    let copied = match (args.source, args.destination) {
        (Side::Vm(source), Side::Pipe) => down::to_stdout(client, &source, recursive, &mut progress).await,
        (Side::Vm(source), Side::Here(target)) => {
            down::to_disk(client, &source, &target, recursive, &mut progress).await
        }
        (Side::Pipe, Side::Vm(target)) => up::from_stdin(client, &target, recursive, &mut progress).await,
        (Side::Here(source), Side::Vm(target)) => {
            up::from_disk(client, &source, &target, recursive, &mut progress).await
        }
        (Side::Vm(_), Side::Vm(_)) | (Side::Here(_) | Side::Pipe, Side::Here(_) | Side::Pipe) => {
            return Err(CopyFailure::Sides.into());
        }
    };
    progress.clear();
    let copied = copied?;
    if copied.xattrs_skipped > 0 {
        let count = copied.xattrs_skipped;
        super::output::stderr(format!("guestctl: {count} extended attributes could not be kept\n").as_bytes());
    }
    if output.json && !to_stdout {
        output.json_line(&copied)?;
    }
    Ok(exit::OK)
}
