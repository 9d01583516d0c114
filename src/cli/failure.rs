//! What ends guestctl without success: one line of cause, one of advice, one exit code.

use std::io;

use crate::api::{BadRule, BridgeListen, BridgeRule, ErrorCode};
use crate::client::{ClientError, EndpointError, TokenError, advice_for};
use crate::limits;

use super::cp::CopyFailure;
use super::keys::KeyFileError;
use super::proxy::ProxyFailure;
use super::text::escape;

/// Exit codes that are guestctl's own.
pub(super) mod exit {
    /// It worked.
    pub(crate) const OK: u8 = 0;
    /// The VM answered that it is not, or not wholly, ready.
    pub(crate) const NOT_READY: u8 = 1;
    /// The command line cannot be understood.
    pub(crate) const USAGE: u8 = 2;
    /// EX_UNAVAILABLE of sysexits(3): the VM cannot be reached.
    pub(crate) const UNREACHABLE: u8 = 69;
    /// A time-out, as timeout(1) has it.
    pub(crate) const TIMED_OUT: u8 = 124;
    /// guestctl or guestd failed, and not the command.
    pub(crate) const FAILURE: u8 = 125;
    /// As a shell has it: the program cannot be executed.
    pub(crate) const NOT_EXECUTABLE: u8 = 126;
    /// As a shell has it: the program was not found.
    pub(crate) const NOT_FOUND: u8 = 127;
    /// What a shell reports for a program that SIGHUP ended.
    pub(crate) const HUNG_UP: u8 = 129;
    /// What a shell reports for a program that SIGPIPE ended.
    pub(crate) const BROKEN_PIPE: u8 = 141;
}

/// Why guestctl ends without success.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.cause(), self.advice())]
pub(super) enum Failure {
    Client(#[from] ClientError),
    Endpoint(#[source] EndpointError),
    Token(#[from] TokenError),
    Copy(#[from] CopyFailure),
    Proxy(ProxyFailure),
    Keys(#[from] KeyFileError),
    /// A command that has no output in JSON.
    NoJson(&'static str),
    Stdin(#[source] io::Error),
    /// guestctl was told by a signal to go; the exec goes on.
    Left {
        exec_id: String,
        signal: i32,
    },
    /// guestctl was told by a signal to go before all output was written; the exec has ended.
    Unwritten {
        signal: i32,
    },
    /// The exec's terminal was hung up.
    HungUp {
        exec_id: String,
    },
    /// A log entry is no base64.
    BadLog,
    Terminal(#[source] io::Error),
    Signals(#[source] io::Error),
    Listen {
        address: String,
        error: io::Error,
    },
    Stdout(#[source] io::Error),
    /// Whoever read our output has gone: as with other tools of a pipe, no failure to talk about.
    StdoutClosed,
    /// The last frame of a stream said so.
    Exec {
        code: ErrorCode,
        message: String,
    },
    ExecTimedOut {
        program: String,
        after: Option<u64>,
    },
    RuleExists {
        listen: BridgeListen,
        known: BridgeRule,
    },
    NoRule {
        listen: BridgeListen,
        automatic: bool,
        /// The rule for several ports that the port is bridged by.
        wider: Option<BridgeListen>,
    },
    /// Rules that cannot be carried out.
    BadRule(#[source] BadRule),
    /// Process 1 is another init.
    NoServices,
    BridgeFailed {
        listen: u16,
        why: String,
    },
    /// More listeners than a VM can have.
    TooManyListeners,
    Runtime(#[source] io::Error),
}

impl Failure {
    /// The code to exit with.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(ClientError::Unreachable { .. }) => exit::UNREACHABLE,
            Self::Client(ClientError::Api { body, .. }) => exit_code_of(body.code),
            Self::Exec { code, .. } => exit_code_of(*code),
            Self::Endpoint(_) | Self::NoJson(_) | Self::BadRule(_) => exit::USAGE,
            Self::Copy(failure) if failure.is_usage() => exit::USAGE,
            Self::Proxy(failure) => failure.exit_code(),
            Self::ExecTimedOut { .. } => exit::TIMED_OUT,
            Self::StdoutClosed => exit::BROKEN_PIPE,
            Self::HungUp { .. } => exit::HUNG_UP,
            Self::Left { signal, .. } | Self::Unwritten { signal } | Self::Copy(CopyFailure::Asked { signal }) => {
                u8::try_from(signal.saturating_add(128)).unwrap_or(exit::FAILURE)
            }
            _ => exit::FAILURE,
        }
    }

    /// The lines for standard error; none where there is nothing to say.
    pub(super) fn lines(&self) -> String {
        if matches!(self, Self::StdoutClosed) {
            return String::new();
        }
        let (cause, advice) = (self.cause(), self.advice());
        format!("guestctl: {}\nadvice: {}\n", escape(&cause), escape(&advice))
    }

    fn cause(&self) -> String {
        match self {
            Self::Client(error) => error.cause(),
            Self::Endpoint(error) => format!("GUESTD_VM cannot be used: {error}"),
            Self::Token(error) => error.to_string(),
            Self::Copy(failure) => failure.cause(),
            Self::Proxy(failure) => failure.cause(),
            Self::Keys(failure) => failure.to_string(),
            Self::NoJson(command) => format!("{command} has no output in JSON"),
            Self::Stdin(error) => format!("cannot read standard input: {error}"),
            Self::Left { exec_id, signal } => format!("ended by signal {signal}; exec {exec_id} goes on in the VM"),
            Self::Unwritten { signal } => format!("ended by signal {signal} before all output was written"),
            Self::HungUp { exec_id } => format!("exec {exec_id} was hung up"),
            Self::BadLog => "a log entry is no base64: what follows is not known".into(),
            Self::Terminal(error) => format!("the terminal cannot be set up: {error}"),
            Self::Signals(error) => format!("signals cannot be received: {error}"),
            Self::Listen { address, error } => format!("cannot listen on {address}: {error}"),
            Self::Stdout(error) => format!("cannot write the output: {error}"),
            Self::StdoutClosed => "whoever read the output has gone".into(),
            Self::Exec { message, .. } => {
                format!("the command could not be followed to its end: {message}")
            }
            Self::ExecTimedOut { program, after } => match after {
                Some(secs) => format!("{program} was ended by its time-out of {secs} s"),
                None => format!("{program} was ended by a time-out of the VM"),
            },
            Self::RuleExists { listen, known } => {
                format!("a rule bridges {} to {} in mode {} already", ports_of(*listen), known.to, known.mode)
            }
            Self::NoRule { listen, wider: Some(wider), .. } => {
                format!("no rule of its own bridges {}: the one for {} does", ports_of(*listen), ports_of(*wider))
            }
            Self::NoRule { listen, automatic: true, .. } => {
                format!("no rule bridges {}: guestd bridges it by itself", ports_of(*listen))
            }
            Self::NoRule { listen, .. } => format!("no rule bridges {}", ports_of(*listen)),
            Self::BadRule(bad) => format!("the rule {bad}"),
            Self::NoServices => "the VM's process 1 is not guestd init".into(),
            Self::BridgeFailed { listen, why } => {
                format!("the rule for port {listen} is in place and the bridge could not be set up: {why}")
            }
            Self::TooManyListeners => {
                format!("the VM tells of more than {} listeners, which cannot be", limits::CLIENT_LISTENERS)
            }
            Self::Runtime(error) => format!("cannot start: {error}"),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Client(error) => error.advice().into_owned(),
            Self::Endpoint(_) => "set GUESTD_VM to an endpoint, unset it, or give --vm".into(),
            Self::Token(_) => "give --token-file a file that holds the VM's token and nothing else".into(),
            Self::Copy(failure) => failure.advice().into(),
            Self::Proxy(failure) => failure.advice().into(),
            Self::Keys(failure) => failure.advice().into(),
            Self::NoJson(_) => "leave out --json".into(),
            Self::Stdin(_) => "leave out -i, or check what standard input is".into(),
            Self::Left { exec_id, .. } => {
                format!("follow it: guestctl attach {exec_id}; end it: guestctl signal {exec_id} TERM --to tree")
            }
            Self::Unwritten { .. } => "see that whatever standard output is connected to reads it".into(),
            Self::HungUp { exec_id } => {
                format!("see whether it ended: guestctl ps; to end it: guestctl signal {exec_id} KILL --to tree")
            }
            Self::BadLog => "guestd in the VM and this client may be of different versions: see `guestctl info`".into(),
            Self::Terminal(_) => "leave out -t, or check that standard input is a terminal of this session".into(),
            Self::Signals(_) => "check the limit of open files (ulimit -n)".into(),
            Self::Listen { .. } => "choose another port; port 0 takes any that is free".into(),
            Self::Stdout(_) | Self::StdoutClosed => {
                "check what standard output is, and that its disk is not full".into()
            }
            Self::Exec { code, .. } => advice_for(*code).into(),
            Self::ExecTimedOut { .. } => "give it longer with --timeout, or leave --timeout out".into(),
            Self::RuleExists { listen, .. } => {
                format!("remove it first: guestctl bridge remove {}", quoted(*listen))
            }
            Self::NoRule { wider: Some(wider), .. } => {
                format!("to end all that it bridges: guestctl bridge remove {}", quoted(*wider))
            }
            Self::NoRule { automatic: true, .. } => "to end all automatic bridging: guestctl bridge auto off".into(),
            Self::NoRule { .. } => "see what there is: guestctl bridge list".into(),
            Self::NoServices => "ask its own init, such as: guestctl exec -- systemctl".into(),
            Self::BadRule(_) => "nothing was changed; see what there is: guestctl bridge list".into(),
            Self::BridgeFailed { listen, .. } => {
                format!("guestd tries again by itself; to give up: guestctl bridge remove {listen}")
            }
            Self::TooManyListeners => "see whether it is guestd that answers: guestctl info".into(),
            Self::Runtime(_) => "check the limits of open files and processes (ulimit -a)".into(),
        }
    }
}

fn ports_of(listen: BridgeListen) -> String {
    match listen {
        BridgeListen::Port(port) => format!("port {port}"),
        BridgeListen::Range(first, last) => format!("ports {first}-{last}"),
        BridgeListen::All => "all ports".to_owned(),
    }
}

/// For a shell, to which `*` means something.
fn quoted(listen: BridgeListen) -> String {
    if listen == BridgeListen::All { "'*'".to_owned() } else { listen.to_string() }
}

fn exit_code_of(code: ErrorCode) -> u8 {
    match code {
        ErrorCode::ProgramNotFound => exit::NOT_FOUND,
        ErrorCode::NotExecutable => exit::NOT_EXECUTABLE,
        _ => exit::FAILURE,
    }
}
