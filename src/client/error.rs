//! What can go wrong between a client and guestd, and what to do about it.
//!
//! A [`ClientError`] prints as one sentence: its [cause](ClientError::cause), then its [advice](ClientError::advice).
//! Texts from the guest are in it as they came; whoever prints them to a terminal escapes them.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use hyper::Method;

use crate::api::{ErrorBody, ErrorCode};
use crate::limits;

use super::Endpoint;

/// One call of guestd's HTTP interface; prints as `GET /v1/info`. Where its path has a variable part, as in
/// `GET /v1/exec/{id}`, guestd's own sentence says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    verb: Verb,
    pub(super) path: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

impl Call {
    pub(super) const fn get(path: &'static str) -> Self {
        let verb = Verb::Get;
        Self { verb, path }
    }

    pub(super) const fn put(path: &'static str) -> Self {
        let verb = Verb::Put;
        Self { verb, path }
    }

    pub(super) const fn post(path: &'static str) -> Self {
        let verb = Verb::Post;
        Self { verb, path }
    }

    pub(super) const fn delete(path: &'static str) -> Self {
        let verb = Verb::Delete;
        Self { verb, path }
    }

    pub(super) fn method(self) -> Method {
        match self.verb {
            Verb::Get => Method::GET,
            Verb::Put => Method::PUT,
            Verb::Post => Method::POST,
            Verb::Delete => Method::DELETE,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method(), self.path)
    }
}

/// A call that did not give what it should.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.cause(), self.advice())]
#[non_exhaustive]
pub enum ClientError {
    /// No connection to guestd; nothing was asked.
    Unreachable {
        /// The VM.
        endpoint: Endpoint,
        /// Why.
        #[source]
        why: ConnectFailure,
    },
    /// The request is over the limit of guestd; nothing was asked.
    RequestTooLarge {
        /// The call.
        call: Call,
        /// Size of its body.
        bytes: usize,
    },
    /// A name in the request is longer than any path can be; nothing was asked.
    TargetTooLong {
        /// The call.
        call: Call,
    },
    /// Connected, asked, and not answered in time.
    Timeout {
        /// The VM.
        endpoint: Endpoint,
        /// The call.
        call: Call,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection ended before the answer did.
    Disconnected {
        /// The VM.
        endpoint: Endpoint,
        /// The call.
        call: Call,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// guestd refused or failed the call.
    Api {
        /// The VM.
        endpoint: Endpoint,
        /// The call.
        call: Call,
        /// HTTP status.
        status: u16,
        /// guestd's own words.
        body: ErrorBody,
    },
    /// What answers is not guestd, or not one that this client understands.
    Protocol {
        /// The VM.
        endpoint: Endpoint,
        /// The call.
        call: Call,
        /// What came instead of an answer.
        why: String,
    },
    /// A tunnel ended otherwise than by an end in both directions.
    TunnelBroken {
        /// The VM.
        endpoint: Endpoint,
        /// TCP port in the VM.
        port: u16,
        /// Which of the three broke, and how.
        why: String,
    },
    /// The kernel gave no random number; nothing was asked.
    NoRandomness {
        /// Why.
        why: String,
    },
    /// What was to be sent could not be read; the guest keeps what it had.
    Source {
        /// The call.
        call: Call,
        /// Why.
        why: String,
    },
    /// The listeners cannot be followed any more: the stream ended without its last line.
    WatchCutOff {
        /// The VM.
        endpoint: Endpoint,
        /// How the stream ended.
        why: String,
    },
    /// An exec's stream ended without its last frame: whether and how the command ended is not known.
    StreamCutOff {
        /// The VM.
        endpoint: Endpoint,
        /// Id of the exec, if a frame came that gave it.
        exec_id: Option<String>,
        /// Bytes of output that came before.
        cursor: u64,
        /// How the stream ended.
        why: String,
    },
}

impl ClientError {
    /// What was tried, on what, and why it failed.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Unreachable { endpoint, why } => {
                format!("cannot reach the VM at {endpoint}: {why}")
            }
            Self::RequestTooLarge { call, bytes } => format!(
                "{call} was not sent: its body has {bytes} bytes and guestd takes at most {}",
                limits::REQUEST_BODY_BYTES
            ),
            Self::TargetTooLong { call } => {
                format!(
                    "{call} was not sent: with the name that it was given its path is longer than HTTP's 65534 bytes"
                )
            }
            Self::Timeout { endpoint, call, after } => format!("no answer to {call} from {endpoint} within {after:?}"),
            Self::Disconnected { endpoint, call, source } => {
                format!("the connection to {endpoint} ended before the answer to {call}: {source}")
            }
            Self::Api { endpoint, call, status, body } => {
                format!("{call} on {endpoint} was answered {status}: {}", body.error)
            }
            Self::Protocol { endpoint, call, why } => {
                format!("the answer to {call} from {endpoint} is not guestd's: {why}")
            }
            Self::TunnelBroken { endpoint, port, why } => {
                format!("the tunnel to port {port} of {endpoint} broke: {why}")
            }
            Self::NoRandomness { why } => format!("no id for an exec could be made, nor a key for a connection: {why}"),
            Self::Source { call, why } => format!("{call} was not completed: what it sends cannot be read: {why}"),
            Self::WatchCutOff { endpoint, why } => {
                format!("the listeners of {endpoint} cannot be followed any more: {why}")
            }
            Self::StreamCutOff { endpoint, exec_id, cursor, why } => {
                let exec = exec_id.as_deref().map_or(Cow::Borrowed("an exec"), |id| Cow::Owned(format!("exec {id}")));
                format!(
                    "the output of {exec} on {endpoint} was cut off after {cursor} bytes, before its exit was known: {why}"
                )
            }
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Cow<'static, str> {
        match self {
            Self::Unreachable { endpoint, why } => why.advice(endpoint),
            Self::RequestTooLarge { .. } => "give it less standard input or a shorter command line".into(),
            Self::TargetTooLong { .. } => "check the name: it may be the content of a file and not its name".into(),
            Self::Timeout { .. } => "the VM may be paused or overloaded: look at its console, then try again".into(),
            Self::Disconnected { endpoint: Endpoint::Unix { path }, .. } => {
                format!("try again; if this is a Firecracker vsock socket, the endpoint is fc:{}", path.display())
                    .into()
            }
            Self::Disconnected { .. } | Self::WatchCutOff { .. } => {
                "guestd or the VM was stopped or restored meanwhile: see `guestctl health`, then try again".into()
            }
            Self::Api { body, call, .. }
                if body.code == ErrorCode::NotFound && ["/v1/files", "/v1/tree"].contains(&call.path) =>
            {
                "check the path; the directory that something is put into must exist in the VM".into()
            }
            Self::Api { body, .. } => advice_for(body.code).into(),
            Self::Protocol { .. } => {
                "check the endpoint, and that guestd in the VM and this client are of one version".into()
            }
            Self::TunnelBroken { .. } => "see whether the service in the VM still runs, then connect again".into(),
            Self::NoRandomness { .. } => "check that this system has getrandom(2) or /dev/urandom".into(),
            Self::StreamCutOff { exec_id: Some(id), .. } => {
                format!("the command may still run in the VM: see it with `guestctl attach {id}`").into()
            }
            Self::Source { .. } => "check the file or program that it comes from".into(),
            Self::StreamCutOff { .. } => {
                "the command may still run in the VM: see what it has done before running it again".into()
            }
        }
    }

    /// Will the same call fail again for sure, however long one waits?
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Unreachable { why, .. } => why.is_lasting(),
            Self::Api { status, .. } => (400..500).contains(status) && !matches!(status, 408 | 429),
            Self::Protocol { .. } | Self::RequestTooLarge { .. } | Self::TargetTooLong { .. } | Self::Source { .. } => {
                true
            }
            Self::NoRandomness { .. } => true,
            Self::Timeout { .. }
            | Self::Disconnected { .. }
            | Self::StreamCutOff { .. }
            | Self::WatchCutOff { .. }
            | Self::TunnelBroken { .. } => false,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// The system refused it.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// Neither accepted nor refused.
    #[error("not connected within {after:?}")]
    TimedOut {
        /// How long it was waited for.
        after: Duration,
    },
    /// The hybrid socket closed the connection instead of an `OK`.
    #[error("nobody listens on vsock port {port} in the guest (no OK to CONNECT {port})")]
    NobodyListens {
        /// The vsock port.
        port: u32,
    },
    /// The hybrid socket accepted the connection and said nothing.
    #[error("the socket took CONNECT {port} and gave no OK within {after:?}")]
    NoOk {
        /// The vsock port.
        port: u32,
        /// How long it was waited for.
        after: Duration,
    },
    /// What answers on the hybrid socket is something else.
    #[error("the socket answered {answer:?} to CONNECT and not `OK` with a number")]
    NotHybrid {
        /// The start of the answer.
        answer: String,
    },
}

impl ConnectFailure {
    fn advice(&self, endpoint: &Endpoint) -> Cow<'static, str> {
        match (self, endpoint) {
            (Self::Io(error), _) => io_advice(error.kind(), endpoint).into(),
            (Self::NobodyListens { .. }, _) => {
                "guestd may not be up yet: wait with `guestctl health --wait 60`, or look at the VM's console".into()
            }
            (Self::NotHybrid { .. }, Endpoint::Firecracker { path, .. }) => format!(
                "give the uds_path of the VM's vsock device; if this is guestd's own socket, the endpoint is unix:{}",
                path.display()
            )
            .into(),
            (Self::NotHybrid { .. } | Self::NoOk { .. } | Self::TimedOut { .. }, _) => {
                "the VM may be paused or still in its boot: wait with `guestctl health --wait 60`, or look at its console"
                    .into()
            }
        }
    }

    fn is_lasting(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() == io::ErrorKind::PermissionDenied,
            Self::NotHybrid { .. } => true,
            Self::TimedOut { .. } | Self::NobodyListens { .. } | Self::NoOk { .. } => false,
        }
    }
}

fn io_advice(kind: io::ErrorKind, endpoint: &Endpoint) -> &'static str {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied, WouldBlock};
    match (endpoint, kind) {
        (_, WouldBlock) => "too many connections wait to be accepted: try again later",
        (Endpoint::Unix { .. }, PermissionDenied) => "guestd's socket is for root alone: run this as root",
        (Endpoint::Unix { .. }, NotFound | ConnectionRefused) => {
            "in the VM, see `systemctl status guestd`; from the host, name the VM with --vm or GUESTD_VM"
        }
        (Endpoint::Unix { .. }, _) => "check the path of the endpoint",
        (Endpoint::Firecracker { .. }, PermissionDenied) => "run this as root or as the user that runs the VM",
        (Endpoint::Firecracker { .. }, NotFound) => {
            "check that it is the uds_path of the VM's vsock device, and that the VM was started"
        }
        (Endpoint::Firecracker { .. }, ConnectionRefused) => "the VM that owned this socket has ended: start it again",
        (Endpoint::Firecracker { .. }, _) => "check the path of the endpoint",
        (Endpoint::Vsock { .. }, PermissionDenied) => "run this as root, or give this user access to vsock",
        (Endpoint::Vsock { .. }, _) => {
            "check the CID, that the VM runs and that this host has vsock (for Firecracker the endpoint is fc:UDS_PATH)"
        }
    }
}

/// What to do about an error that guestd answered, or sent as the last frame of a stream.
#[must_use]
pub fn advice_for(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidField => "give a value as the message says",
        ErrorCode::NotFound => {
            "check the path or id (`guestctl ps -a` lists execs), and that guestd is not older than this client (`guestctl info`)"
        }
        ErrorCode::BadRequest | ErrorCode::MethodNotAllowed => {
            "guestd in the VM and this client may be of different versions: compare them with `guestctl info`"
        }
        ErrorCode::Unauthorized => "give the VM's token (guestctl: --token-file FILE)",
        ErrorCode::PeerForbidden => "call from the host over vsock, or in the VM as root over /run/guestd.sock",
        ErrorCode::RequestTimeout | ErrorCode::LimitReached | ErrorCode::Unavailable => "try again later",
        ErrorCode::Conflict => "use another id, or none",
        ErrorCode::StaleGeneration => {
            "look at the present generation first (`guestctl generation`), and begin anew from there"
        }
        ErrorCode::PayloadTooLarge => "send less at once",
        ErrorCode::EmptyCommand => "give a program and its arguments",
        ErrorCode::ProgramNotFound => {
            "check the name and that it is installed in the VM, or give its full path; a shell line is run by sh -c 'LINE'"
        }
        ErrorCode::NotExecutable => {
            "check in the VM that it is a file with an execute permission; a script needs a #! line"
        }
        ErrorCode::NulByte => "leave out the NUL byte; bytes can be passed as standard input",
        ErrorCode::BadEnv => "variables are KEY=VALUE with a shell identifier as key, of at most 256 and 8192 bytes",
        ErrorCode::BadWorkingDir => "give a directory that exists in the VM",
        ErrorCode::UserNotFound => "give a user of the VM's /etc/passwd, by name or number",
        ErrorCode::IsDirectory => "copy a directory with -r, or name a file in it",
        ErrorCode::NotDirectory => "check each directory of the path in the VM",
        ErrorCode::NotRegular => "run a command in the VM that reads or writes it",
        ErrorCode::Permission => "see in the VM how it is mounted (findmnt), and its attributes (lsattr) and owner",
        ErrorCode::NoSpace => "make room in the VM (df -h, df -i), or grow its disk",
        ErrorCode::Exists => "remove it first, or use another name",
        ErrorCode::NotEmpty => "remove what is in it as well, with recursive",
        ErrorCode::BadRange => "ask for the file's size first",
        ErrorCode::BadArchive => "give an uncompressed tar stream without such an entry",
        ErrorCode::CutOff => "send it again whole",
        ErrorCode::Internal => "see guestd's log in the VM: journalctl -u guestd",
        _ => "guestd in the VM is newer than this client: update the client",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fc() -> Endpoint {
        Endpoint::Firecracker { path: "/vm/v.sock".into(), port: 1024 }
    }

    fn unreachable(endpoint: Endpoint, why: ConnectFailure) -> ClientError {
        ClientError::Unreachable { endpoint, why }
    }

    #[test]
    fn the_text_says_what_was_tried_on_what_why_and_what_to_do() {
        let error = unreachable(fc(), ConnectFailure::NobodyListens { port: 1024 });
        insta::assert_snapshot!(error, @"cannot reach the VM at fc:/vm/v.sock:1024: nobody listens on vsock port 1024 in the guest (no OK to CONNECT 1024); guestd may not be up yet: wait with `guestctl health --wait 60`, or look at the VM's console");
        let error = ClientError::Api {
            endpoint: fc(),
            call: Call::post("/v1/exec"),
            status: 429,
            body: ErrorBody::new(ErrorCode::LimitReached, "64 execs run already"),
        };
        insta::assert_snapshot!(error, @"POST /v1/exec on fc:/vm/v.sock:1024 was answered 429: 64 execs run already; try again later");
    }

    #[test]
    fn a_socket_that_is_not_there_is_explained_by_its_kind() {
        let missing = || ConnectFailure::Io(io::ErrorKind::NotFound.into());
        let unix = Endpoint::Unix { path: "/run/guestd.sock".into() };
        insta::assert_snapshot!(unreachable(unix, missing()).advice(), @"in the VM, see `systemctl status guestd`; from the host, name the VM with --vm or GUESTD_VM");
        insta::assert_snapshot!(unreachable(fc(), missing()).advice(), @"check that it is the uds_path of the VM's vsock device, and that the VM was started");
    }

    #[test]
    fn only_what_cannot_change_by_waiting_is_lasting() {
        let io = |kind: io::ErrorKind| unreachable(fc(), ConnectFailure::Io(kind.into()));
        assert!(!io(io::ErrorKind::NotFound).is_lasting());
        assert!(!io(io::ErrorKind::ConnectionRefused).is_lasting());
        assert!(io(io::ErrorKind::PermissionDenied).is_lasting());
    }
}
