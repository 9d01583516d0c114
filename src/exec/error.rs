//! Why a command was not run, or could not be followed to its end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::api::ErrorCode;
use crate::limits;
use crate::sys::process::{LaunchError, Stage};

/// A failed exec. The text is for the person who sent the request; a program branches on [`ExecError::code`].
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// `command` has no words, or an empty first one.
    #[error(r#"there is nothing to run: `command` needs the program as its first word, such as ["uname", "-a"]"#)]
    EmptyCommand,
    /// A NUL byte where the kernel takes strings that end with one.
    #[error("{field} has a NUL byte in it, which Linux cannot pass to a program; take it out")]
    NulByte {
        /// Which field.
        field: String,
    },
    /// One argument over Linux's limit.
    #[error(
        "argument {index} of `command` is {bytes} bytes long and Linux takes at most {limit}; pass it as stdin or in a file"
    )]
    ArgumentTooLong {
        /// Its index; 0 is the program.
        index: usize,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// All arguments together.
    #[error(
        "the arguments in `command` are {bytes} bytes together and the limit is {limit}; pass data as stdin or in a file"
    )]
    ArgumentsTooLong {
        /// Their length with an end for each.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The kernel's own limit on arguments and environment.
    #[error(
        "arguments and environment together are more than Linux passes to a program; pass data as stdin or in a file"
    )]
    TooLongForKernel,
    /// A key that no shell could name.
    #[error("{key} in `env` is no name of a variable: use letters, digits and _, no digit first")]
    BadEnvKey {
        /// The key, quoted and cut to what can be shown.
        key: String,
    },
    /// A key or value that is too long.
    #[error("the {what} of {key} in `env` is {bytes} bytes long and the limit is {limit}")]
    EnvTooLong {
        /// `key` or `value`.
        what: &'static str,
        /// The key, quoted and cut to what can be shown.
        key: String,
        /// The length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An id of another shape.
    #[error("{id} cannot be an `exec_id`: use 1 to {limit} characters of A-Za-z0-9._-")]
    BadExecId {
        /// The id, quoted and cut to what can be shown.
        id: String,
        /// The limit.
        limit: usize,
    },
    /// Both kinds of stdin.
    #[error("`stdin` and `stdin_b64` are both given; send one of them")]
    StdinTwice,
    /// stdin_b64 is no base64.
    #[error("`stdin_b64` is not standard base64 with padding: {source}")]
    BadBase64 {
        /// Where it is not.
        source: base64::DecodeError,
    },
    /// working_dir is relative.
    #[error("`working_dir` {path} is not absolute; let it start with /")]
    WorkingDirRelative {
        /// The path, quoted.
        path: String,
    },
    /// working_dir cannot be entered.
    #[error("cannot run in `working_dir` {path}: {why}")]
    BadWorkingDir {
        /// The path, quoted.
        path: String,
        /// What it is instead, and what to do.
        why: String,
    },
    /// A limit of no use.
    #[error("`limits.{field}` cannot be kept: {why}")]
    BadLimit {
        /// Which one.
        field: &'static str,
        /// What it could be.
        why: &'static str,
    },
    /// A limit that nothing in this guest can keep.
    #[error(
        "`limits.{field}` needs the cgroup2 controller {controller}, which execs of this guest do not have; leave it out, or see the health check `cgroup2` for why"
    )]
    LimitsUnsupported {
        /// Which one.
        field: &'static str,
        /// What is missing.
        controller: &'static str,
    },
    /// The kernel does not take a limit.
    #[error("setting `limits.{field}` on the command's cgroup failed: {source}; try another value")]
    LimitRefused {
        /// Which one.
        field: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No such program.
    #[error("program {program} was not found: {why}")]
    ProgramNotFound {
        /// The first word, quoted.
        program: String,
        /// Where it was looked for, and what to do.
        why: String,
    },
    /// The program is there and cannot be run.
    #[error("cannot execute {program}: {why}")]
    NotExecutable {
        /// Its path, quoted.
        program: String,
        /// What it is instead, and what to do.
        why: String,
    },
    /// No such user.
    #[error(
        "there is no user {user} in {passwd} of the guest; name one that is, or its number (`getent passwd` lists them)"
    )]
    UserNotFound {
        /// The name or number, quoted.
        user: String,
        /// The file.
        passwd: PathBuf,
    },
    /// The account files could not be read.
    #[error("cannot look up users of the guest: reading {path} failed: {source}")]
    AccountsUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The id stands for another request.
    #[error("the id {id:?} belongs to an exec of another request; use another id, or remove that exec by DELETE")]
    IdInUse {
        /// The id.
        id: String,
    },
    /// No exec has this id.
    #[error(
        "there is no exec {id}: it never was, or its record is gone, of which the last {records} are kept for {minutes} min; GET /v1/exec lists those that are there"
    )]
    Unknown {
        /// The id, quoted and cut to what can be shown.
        id: String,
        /// Records kept.
        records: usize,
        /// For how long.
        minutes: u64,
    },
    /// As many readers as may be.
    #[error("{limit} readers are attached to exec {id:?}, which is the limit; close one")]
    TooManyReaders {
        /// The id.
        id: String,
        /// The limit.
        limit: usize,
    },
    /// A cursor that is not there yet.
    #[error("the cursor {cursor} is past the end of exec {id:?}'s output, which is {end}; attach at most there")]
    CursorPastEnd {
        /// The id.
        id: String,
        /// What was asked for.
        cursor: u64,
        /// The end of the output so far.
        end: u64,
    },
    /// Nobody reads the standard input.
    #[error(
        "the standard input of exec {id:?} takes nothing: {why}; an exec with `stdin_open` takes input until it is closed or the command ends"
    )]
    StdinClosed {
        /// The id.
        id: String,
        /// Which of the reasons.
        why: &'static str,
    },
    /// Input for another place.
    #[error(
        "the input for exec {id:?} begins at offset {offset} and the exec has accepted {accepted} bytes; go on at offset {accepted}"
    )]
    StdinOffset {
        /// The id.
        id: String,
        /// What was asked for.
        offset: u64,
        /// What it would have to be.
        accepted: u64,
    },
    /// The command is over.
    #[error("exec {id:?} has ended, so there is no process left to {what}")]
    Ended {
        /// The id.
        id: String,
        /// What was to be done.
        what: &'static str,
    },
    /// No such signal.
    #[error("{signal} is no signal: use a name such as TERM, RTMIN+3, or a number from 1 to 64")]
    BadSignal {
        /// What was given, quoted and cut to what can be shown.
        signal: String,
    },
    /// A signal that could not be sent.
    #[error("sending signal {signal} to exec {id:?} failed: {source}")]
    SignalFailed {
        /// The id.
        id: String,
        /// Its number.
        signal: i32,
        /// Why.
        source: io::Error,
    },
    /// It runs on pipes.
    #[error("exec {id:?} has no terminal to resize; start it with `tty` for one")]
    NoTerminal {
        /// The id.
        id: String,
    },
    /// The kernel did not take the size.
    #[error("setting the terminal of exec {id:?} to {rows} lines of {cols} failed: {source}")]
    ResizeFailed {
        /// The id.
        id: String,
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
        /// Why.
        source: io::Error,
    },
    /// The same error for everyone who waited for the same exec.
    #[error(transparent)]
    Shared(#[from] Arc<ExecError>),
    /// As many run as may.
    #[error("{limit} execs are running, which is the limit; wait for one to end, or give long ones a `timeout_secs`")]
    TooManyRunning {
        /// The limit.
        limit: usize,
    },
    /// The kernel has no room for another process.
    #[error("the guest has no room to start a process now: {source}; end something in it, or try again")]
    NoRoom {
        /// What failed, and why.
        source: LaunchError,
    },
    /// Starting failed in a way that the request is not to blame for.
    #[error("guestd could not start the command: {what}: {source}")]
    Start {
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Its exit status is gone.
    #[error(
        "the command ended and its exit status was lost: {source}; something else in the agent's process waits for children"
    )]
    ExitLost {
        /// Why.
        source: io::Error,
    },
    /// SIGKILL did not end it.
    #[error(
        "the command (pid {pid}) is still there {secs} s after SIGKILL: it is stuck in the kernel, mostly on a disk or network file system, or held by a debugger"
    )]
    Unkillable {
        /// Its pid.
        pid: i32,
        /// How long ago.
        secs: u64,
    },
    /// The VM is being committed or restored, for longer than a request waits.
    #[error(
        "the VM is being committed or restored, and no command is started meanwhile; {secs} s were waited for that: try again"
    )]
    Gated {
        /// How long was waited.
        secs: u64,
    },
    /// The request waited in a VM that was committed and restored.
    #[error(
        "the VM was restored from a commit while the request waited in it, so it was not carried out; send it again if it is meant for this VM"
    )]
    Branched,
    /// A cursor into another VM's output.
    #[error(
        "the cursor for exec {id:?} is not known to be of the present generation {}: up to byte {fork} the output is the same; attach there, and say `generation_id`",
        .generation.as_deref().unwrap_or("(none was announced)")
    )]
    StaleCursor {
        /// The id.
        id: String,
        /// Up to where the two have the same.
        fork: u64,
        /// The present generation.
        generation: Option<String>,
    },
    /// The task that followed it is gone.
    #[error("guestd lost track of the command while it ran; this is a bug in guestd")]
    Lost,
}

impl ExecError {
    /// The code for programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::EmptyCommand => ErrorCode::EmptyCommand,
            Self::NulByte { .. } => ErrorCode::NulByte,
            Self::ArgumentTooLong { .. } | Self::ArgumentsTooLong { .. } | Self::TooLongForKernel => {
                ErrorCode::PayloadTooLarge
            }
            Self::BadEnvKey { .. } | Self::EnvTooLong { .. } => ErrorCode::BadEnv,
            Self::LimitsUnsupported { .. } => ErrorCode::LimitsUnsupported,
            Self::BadExecId { .. }
            | Self::StdinTwice
            | Self::BadBase64 { .. }
            | Self::CursorPastEnd { .. }
            | Self::BadSignal { .. }
            | Self::BadLimit { .. }
            | Self::LimitRefused { .. } => ErrorCode::InvalidField,
            Self::WorkingDirRelative { .. } | Self::BadWorkingDir { .. } => ErrorCode::BadWorkingDir,
            Self::ProgramNotFound { .. } => ErrorCode::ProgramNotFound,
            Self::NotExecutable { .. } => ErrorCode::NotExecutable,
            Self::UserNotFound { .. } => ErrorCode::UserNotFound,
            Self::IdInUse { .. }
            | Self::StdinClosed { .. }
            | Self::StdinOffset { .. }
            | Self::Ended { .. }
            | Self::NoTerminal { .. } => ErrorCode::Conflict,
            Self::Unknown { .. } => ErrorCode::NotFound,
            Self::TooManyRunning { .. } | Self::TooManyReaders { .. } => ErrorCode::LimitReached,
            Self::Shared(error) => error.code(),
            Self::NoRoom { .. } | Self::Gated { .. } | Self::Branched => ErrorCode::Unavailable,
            Self::StaleCursor { .. } => ErrorCode::StaleGeneration,
            Self::AccountsUnreadable { source, .. } | Self::Start { source, .. } if is_want_of_room(source) => {
                ErrorCode::Unavailable
            }
            Self::AccountsUnreadable { .. }
            | Self::Start { .. }
            | Self::ExitLost { .. }
            | Self::SignalFailed { .. }
            | Self::ResizeFailed { .. }
            | Self::Unkillable { .. }
            | Self::Lost => ErrorCode::Internal,
        }
    }

    /// No exec of this id is known.
    pub(super) fn unknown(id: &str) -> Self {
        let minutes = limits::EXEC_RECORD_AGE.as_secs() / 60;
        Self::Unknown { id: shown(id), records: limits::EXEC_RECORDS, minutes }
    }

    /// A failed launch that tells nothing about the program or its directory.
    pub(super) fn of_launch(error: LaunchError) -> Self {
        match error.source.raw_os_error() {
            _ if is_want_of_room(&error.source) => Self::NoRoom { source: error },
            Some(libc::E2BIG) if error.stage == Stage::Execute => Self::TooLongForKernel,
            _ => Self::Start { what: error.stage.call(), source: error.source },
        }
    }
}

/// Whether something failed for want of processes, memory or descriptors, of which there may be some again soon.
fn is_want_of_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE))
}

/// What a request said, quoted for an error text and cut: the text must not be as long as what it complains of.
pub(super) fn shown(text: &str) -> String {
    const CHARACTERS: usize = 120;
    match text.char_indices().nth(CHARACTERS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}
