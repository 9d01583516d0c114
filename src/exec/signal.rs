//! The signal that a request names.

use super::error::{ExecError, shown};
use crate::signals;

/// Number of a signal given as `TERM`, `sigterm`, `RTMIN+3`, `RTMAX-1` or `15`.
///
/// # Errors
/// [`ExecError::BadSignal`].
pub(super) fn number(text: &str) -> Result<i32, ExecError> {
    signals::number(text).ok_or_else(|| ExecError::BadSignal { signal: shown(text) })
}
