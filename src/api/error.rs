//! The one error body of every endpoint.

use serde::{Deserialize, Serialize};

/// JSON body of every response that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence: what was tried, on what, why it failed, what to do.
    pub error: String,
    /// For programs to branch on.
    pub code: ErrorCode,
    /// Always `false`.
    pub success: bool,
    /// Of `stale_generation`, for a cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<Box<ForkPoint>>,
}

/// Where an exec's output in this VM parts from that in the VM that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkPoint {
    /// The present generation; null where none was announced.
    pub generation_id: Option<String>,
    /// Offset of the first byte that may differ.
    pub cursor: u64,
}

impl ErrorBody {
    /// An error body with `success: false`.
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self { error: error.into(), code, success: false, fork: None }
    }
}

/// Stable codes of errors. `snake_case` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// 400: the body is not JSON, or the query cannot be read.
    BadRequest,
    /// 401: a token is needed and absent or wrong.
    Unauthorized,
    /// 403: this peer may not use the endpoint (a vsock CID other than the host's, a uid other than root).
    PeerForbidden,
    /// 404: no such path or object.
    NotFound,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 408: the body did not arrive in time.
    RequestTimeout,
    /// 409: it exists already with another content, or belongs to another generation.
    Conflict,
    /// 409: a generation that another one has followed, or a cursor of one; the body's `fork` says how far the two have the same.
    StaleGeneration,
    /// 413: the body is larger than the limit.
    PayloadTooLarge,
    /// 422: JSON of the wrong shape; the sentence names the field.
    InvalidField,
    /// 422: exec with an empty `command`.
    EmptyCommand,
    /// 422: the program was not found in the exec's PATH or at the path given.
    ProgramNotFound,
    /// 422: the program exists and cannot be executed (mode, directory, format).
    NotExecutable,
    /// 422: a NUL byte in an argument, a variable or a path.
    NulByte,
    /// 422: an environment key that is no shell identifier, or a key or value over its limit.
    BadEnv,
    /// 422: the working directory is missing or no directory.
    BadWorkingDir,
    /// 422: no such user or group in the guest.
    UserNotFound,
    /// 422: a limit on an exec that nothing in the guest can keep; the sentence names the cgroup2 controller that is missing.
    LimitsUnsupported,
    /// 422: the path leads to a directory, where a file was expected.
    IsDirectory,
    /// 422: the path, or what is on its way, is no directory.
    NotDirectory,
    /// 422: the path leads to a pipe, socket or device.
    NotRegular,
    /// 403: the file system does not let root do this: read-only, immutable, or a link of another user that leads elsewhere.
    Permission,
    /// 507: the disk, its inodes or a quota are used up.
    NoSpace,
    /// 409: there is something of that name already.
    Exists,
    /// 409: the directory is not empty, and `recursive` was not asked for.
    NotEmpty,
    /// 416: the range begins after the file's end.
    BadRange,
    /// 422: the body is no tar stream, or has an entry that cannot be extracted; the sentence names it.
    BadArchive,
    /// 400: the body ended before its end mark.
    CutOff,
    /// 429: a limit was reached; the sentence names it.
    LimitReached,
    /// 500: guestd's own failure.
    Internal,
    /// 503: not now; `Retry-After` says when.
    Unavailable,
    /// A code that this version of the client does not know.
    #[serde(other)]
    Unknown,
}
