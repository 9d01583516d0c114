//! A request, read once into what the kernel can be given, or refused. Pure: nothing is looked up here.

use std::ffi::CString;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::environment::{Variables, is_identifier};
use super::error::{ExecError, shown};
use super::resources;
use crate::api::{ExecRequest, TtySize};
use crate::limits;
use crate::sys::cgroup::Bound;

/// A request that has the right shape.
#[derive(Debug)]
pub(super) struct Order {
    /// The first word as it was given.
    pub(super) program: String,
    /// All words, the first included.
    pub(super) argv: Vec<CString>,
    /// The request's layer of the environment.
    pub(super) env: Variables,
    /// Absolute.
    pub(super) working_dir: Option<String>,
    /// Name or number.
    pub(super) user: Option<String>,
    /// None, and not `stdin_open`: `/dev/null`.
    pub(super) stdin: Option<Vec<u8>>,
    /// None: no limit.
    pub(super) timeout: Option<Duration>,
    /// None: make one.
    pub(super) exec_id: Option<String>,
    /// More input may come after `stdin`.
    pub(super) stdin_open: bool,
    /// None: pipes.
    pub(super) tty: Option<TtySize>,
    /// What its cgroup is to keep.
    pub(super) bounds: Vec<Bound>,
}

impl TryFrom<ExecRequest> for Order {
    type Error = ExecError;

    fn try_from(request: ExecRequest) -> Result<Self, ExecError> {
        let program = match request.command.first() {
            Some(program) if !program.is_empty() => program.clone(),
            _ => return Err(ExecError::EmptyCommand),
        };
        if let Some(id) = &request.exec_id {
            check_id(id)?;
        }
        let stdin = match (request.stdin, request.stdin_b64) {
            (Some(_), Some(_)) => return Err(ExecError::StdinTwice),
            (Some(text), None) => Some(text.into_bytes()),
            (None, Some(coded)) => Some(STANDARD.decode(coded).map_err(|source| ExecError::BadBase64 { source })?),
            (None, None) => None,
        };
        if let Some(path) = &request.working_dir {
            no_nul("`working_dir`", path)?;
            if !path.starts_with('/') {
                return Err(ExecError::WorkingDirRelative { path: shown(path) });
            }
        }
        if let Some(user) = &request.user {
            no_nul("`user`", user)?;
        }
        Ok(Self {
            program,
            argv: arguments(request.command)?,
            env: request.env.into_iter().map(variable).collect::<Result<_, _>>()?,
            working_dir: request.working_dir,
            user: request.user,
            stdin,
            timeout: request.timeout_secs.filter(|secs| *secs > 0).map(Duration::from_secs),
            exec_id: request.exec_id,
            stdin_open: request.stdin_open,
            tty: request.tty,
            bounds: request.limits.as_ref().map_or(Ok(Vec::new()), resources::bounds)?,
        })
    }
}

fn check_id(id: &str) -> Result<(), ExecError> {
    let limit = limits::EXEC_ID_BYTES;
    let fits = (1..=limit).contains(&id.len());
    if fits && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Ok(());
    }
    Err(ExecError::BadExecId { id: shown(id), limit })
}

fn arguments(command: Vec<String>) -> Result<Vec<CString>, ExecError> {
    let total: usize = command.iter().map(|word| word.len() + 1).sum();
    if let Some((index, word)) = command.iter().enumerate().find(|(_, word)| word.len() >= limits::EXEC_ARGUMENT_BYTES)
    {
        let limit = limits::EXEC_ARGUMENT_BYTES - 1;
        return Err(ExecError::ArgumentTooLong { index, bytes: word.len(), limit });
    }
    if total > limits::EXEC_ARGV_BYTES {
        let limit = limits::EXEC_ARGV_BYTES;
        return Err(ExecError::ArgumentsTooLong { bytes: total, limit });
    }
    let word = |(index, word): (usize, String)| {
        CString::new(word).map_err(|_| ExecError::NulByte { field: format!("argument {index} of `command`") })
    };
    command.into_iter().enumerate().map(word).collect()
}

fn variable((key, value): (String, String)) -> Result<(String, Vec<u8>), ExecError> {
    let too_long = |what, bytes, limit| Err(ExecError::EnvTooLong { what, key: shown(&key), bytes, limit });
    no_nul("a key in `env`", &key)?;
    if key.len() > limits::ENV_KEY_BYTES {
        return too_long("key", key.len(), limits::ENV_KEY_BYTES);
    }
    if !is_identifier(&key) {
        return Err(ExecError::BadEnvKey { key: shown(&key) });
    }
    if value.len() > limits::ENV_VALUE_BYTES {
        return too_long("value", value.len(), limits::ENV_VALUE_BYTES);
    }
    no_nul(&format!("the value of {key} in `env`"), &value)?;
    Ok((key, value.into_bytes()))
}

fn no_nul(field: &str, text: &str) -> Result<(), ExecError> {
    if text.contains('\0') {
        return Err(ExecError::NulByte { field: field.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ErrorCode;

    fn request(command: &[&str]) -> ExecRequest {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        ExecRequest { command, ..ExecRequest::default() }
    }

    fn refusal(request: ExecRequest) -> ExecError {
        Order::try_from(request).unwrap_err()
    }

    #[test]
    fn a_plain_command_is_taken_as_it_is() {
        let order = Order::try_from(request(&["ls", "", "a b"])).unwrap();
        assert_eq!(order.argv, [c"ls", c"", c"a b"].map(CString::from));
        assert_eq!((order.stdin, order.timeout), (None, None));
    }

    #[test]
    fn no_words_and_an_empty_program_are_an_empty_command() {
        for command in [&[][..], &["", "x"]] {
            assert_eq!(refusal(request(command)).code(), ErrorCode::EmptyCommand);
        }
    }

    #[test]
    fn a_nul_byte_is_refused_wherever_it_is_and_the_place_is_named() {
        let with = |change: fn(&mut ExecRequest)| {
            let mut request = request(&["true", "x"]);
            change(&mut request);
            refusal(request)
        };
        let cases = [
            (with(|r| r.command[1] = "a\0b".into()), "argument 1"),
            (with(|r| r.working_dir = Some("/\0".into())), "`working_dir`"),
            (with(|r| r.user = Some("\0".into())), "`user`"),
            (with(|r| _ = r.env.insert("A".into(), "\0".into())), "value of A"),
            (with(|r| _ = r.env.insert("A\0".into(), "x".into())), "a key in `env`"),
        ];
        for (error, place) in cases {
            assert_eq!(error.code(), ErrorCode::NulByte, "{error}");
            assert!(error.to_string().contains(place), "{error}");
        }
    }

    #[test]
    fn an_argument_may_be_as_long_as_linux_takes_and_no_longer() {
        let longest = "x".repeat(limits::EXEC_ARGUMENT_BYTES - 1);
        assert!(Order::try_from(request(&["true", &longest])).is_ok());
        let error = refusal(request(&["true", &(longest + "x")]));
        assert_eq!(error.code(), ErrorCode::PayloadTooLarge);
        assert!(error.to_string().contains("argument 1"), "{error}");
    }

    #[test]
    fn arguments_are_counted_together_with_their_ends() {
        let word = "x".repeat(64 * 1024 - 1);
        let words = vec![word.as_str(); 16];
        assert!(Order::try_from(request(&words)).is_ok());
        let more = [&words[..], &[""]].concat();
        assert_eq!(refusal(request(&more)).code(), ErrorCode::PayloadTooLarge);
    }

    #[test]
    fn keys_are_shell_identifiers_within_the_limits_of_the_platform() {
        let with = |key: &str, value: &str| {
            let mut request = request(&["true"]);
            request.env.insert(key.into(), value.into());
            Order::try_from(request)
        };
        assert!(with(&"K".repeat(256), &"v".repeat(8192)).is_ok());
        for (key, value) in [
            ("", "x"),
            ("1A", "x"),
            ("A-B", "x"),
            ("A=B", "x"),
            ("Ä", "x"),
            (&"K".repeat(257), "x"),
            ("A", &"v".repeat(8193)),
        ] {
            assert_eq!(with(key, value).unwrap_err().code(), ErrorCode::BadEnv);
        }
    }

    #[test]
    fn an_error_about_a_huge_word_is_short() {
        let mut request = request(&["true"]);
        request.exec_id = Some("x".repeat(100_000));
        assert!(refusal(request).to_string().len() < 400);
    }

    #[test]
    fn ids_are_1_to_128_harmless_characters() {
        for (id, good) in [
            ("a.B_c-1", true),
            (&"x".repeat(128), true),
            ("", false),
            (&"x".repeat(129), false),
            ("a/b", false),
            ("a b", false),
        ] {
            let mut request = request(&["true"]);
            request.exec_id = Some(id.into());
            assert_eq!(Order::try_from(request).is_ok(), good, "{id:?}");
        }
    }

    #[test]
    fn stdin_is_text_or_base64_and_not_both() {
        let with = |text: Option<&str>, coded: Option<&str>| {
            let mut request = request(&["cat"]);
            (request.stdin, request.stdin_b64) = (text.map(Into::into), coded.map(Into::into));
            Order::try_from(request)
        };
        assert_eq!(with(Some("hi"), None).unwrap().stdin, Some(b"hi".to_vec()));
        assert_eq!(with(None, Some("/wA=")).unwrap().stdin, Some(vec![255, 0]));
        assert_eq!(with(Some(""), None).unwrap().stdin, Some(Vec::new()));
        for error in [with(Some("a"), Some("YQ==")), with(None, Some("YQ")), with(None, Some("!"))] {
            assert_eq!(error.unwrap_err().code(), ErrorCode::InvalidField);
        }
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        let mut request = request(&["true"]);
        request.working_dir = Some("src".into());
        assert_eq!(refusal(request).code(), ErrorCode::BadWorkingDir);
    }

    #[test]
    fn a_timeout_of_0_is_none() {
        let mut request = request(&["true"]);
        request.timeout_secs = Some(0);
        assert_eq!(Order::try_from(request).unwrap().timeout, None);
    }
}
