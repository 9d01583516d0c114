//! `guestctl exec`: a command in the VM as if it ran here.
//!
//! Its bytes pass unchanged, standard output and standard error apart; its exit status becomes guestctl's.

use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::api::{ExecRequest, OutputStream, StreamFrame};
use crate::client::{Client, decode_chunk};
use crate::limits;

use super::args::ExecArgs;
use super::failure::{Failure, exit};
use super::output::{self, Output};

pub(super) async fn run(client: &Client, args: ExecArgs, output: Output) -> Result<u8, Failure> {
    let stdin = match args.stdin {
        true => Some(read_stdin(io::stdin().lock())?),
        false => None,
    };
    let request = request(args, stdin.as_deref());
    let mut stream = client.exec_stream(&request).await?;
    let mut code = exit::OK;
    while let Some(frame) = stream.next().await? {
        if output.json {
            output.json_line(&frame)?;
        } else if let StreamFrame::Chunk { stream, data_b64, .. } = &frame {
            let bytes = decode_chunk(data_b64).ok_or(Failure::BadFrame)?;
            match stream {
                OutputStream::Stdout => output::stdout(&bytes)?,
                OutputStream::Stderr => output::stderr(&bytes),
            }
        }
        match frame {
            StreamFrame::Chunk { .. } | StreamFrame::Gap { .. } => {}
            StreamFrame::Exit { timed_out: true, .. } => {
                let program = request.command.first().cloned().unwrap_or_default();
                let after = request.timeout_secs.filter(|secs| *secs > 0);
                return Err(Failure::ExecTimedOut { program, after });
            }
            StreamFrame::Exit { exit_code, signal, .. } => code = status(exit_code, signal),
            StreamFrame::Error { code, message } => return Err(Failure::Exec { code, message }),
        }
    }
    Ok(code)
}

fn request(args: ExecArgs, stdin: Option<&[u8]>) -> ExecRequest {
    ExecRequest {
        command: args.argv,
        env: args.env.into_iter().collect(),
        stdin: None,
        // Base64 for text, too: its size is known, where JSON may write one byte as six.
        stdin_b64: stdin.map(|bytes| STANDARD.encode(bytes)),
        working_dir: args.workdir,
        user: args.user,
        timeout_secs: args.timeout,
        exec_id: args.id,
        ..ExecRequest::default()
    }
}

fn read_stdin(stdin: impl Read) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let one_too_many = limits::EXEC_STDIN_BYTES as u64 + 1;
    stdin.take(one_too_many).read_to_end(&mut bytes).map_err(Failure::Stdin)?;
    if bytes.len() > limits::EXEC_STDIN_BYTES {
        return Err(Failure::StdinTooLarge);
    }
    Ok(bytes)
}

/// An exit status as a shell shows it.
fn status(exit_code: i32, signal: Option<i32>) -> u8 {
    let status = signal.map_or(exit_code, |signal| signal.saturating_add(128));
    u8::try_from(status).unwrap_or(exit::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_the_commands_own_and_a_signal_counts_from_128() {
        assert_eq!(status(7, None), 7);
        assert_eq!(status(255, None), 255);
        assert_eq!(status(137, Some(9)), 137);
        assert_eq!(status(0, Some(15)), 143);
    }

    #[test]
    fn a_status_that_no_process_can_have_is_a_failure_and_never_a_success() {
        for impossible in [-1, 256, 512, i32::MAX] {
            assert_eq!(status(impossible, None), 125);
        }
        assert_eq!(status(0, Some(i32::MAX)), 125);
    }

    #[test]
    fn standard_input_is_taken_up_to_its_limit() {
        let limit = limits::EXEC_STDIN_BYTES as u64;
        let read = |length| read_stdin(io::repeat(0xff).take(length));
        assert_eq!(read(0).unwrap(), Vec::<u8>::new());
        assert_eq!(read(limit).unwrap().len() as u64, limit);
        assert!(matches!(read(limit + 1), Err(Failure::StdinTooLarge)));
    }

    #[test]
    fn the_most_of_standard_input_fits_a_request() {
        let encoded = limits::EXEC_STDIN_BYTES.div_ceil(3) * 4;
        assert!(encoded + limits::EXEC_ARGV_BYTES <= limits::REQUEST_BODY_BYTES);
    }
}
