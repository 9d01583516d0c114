//! What the agent asks of `guestd init`, and the way there: one message for each question and one for its answer.
//!
//! Process 1 never waits for anybody: it answers what is, or that it has begun. Who wants to see the end of something asks again.

use std::{io, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    api::{AgentCrash, BootStep, PowerAction, Service, ServiceAction},
    limits,
    sys::seqpacket::Connection,
};

/// Where process 1 listens.
pub const SOCKET: &str = "/run/guestd/init.sock";

/// The variable by which the agent is told of that, and so that process 1 is one of ours.
pub const VARIABLE: &str = "GUESTD_INIT_SOCKET";

/// A question, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Question {
    /// All that there is to know; the answer is a [`State`].
    State,
    /// Do something with a service; the answer is the [`Service`], which may be on its way still.
    Act {
        /// Its name.
        service: String,
        /// What to do.
        action: ServiceAction,
    },
    /// What a service has printed; the answer is [`Output`].
    Output {
        /// Its name.
        service: String,
        /// Offset of the first byte.
        from: u64,
        /// Bytes that are wanted.
        most: usize,
    },
    /// End the VM; the answer is `null`, and comes before the end.
    Power {
        /// How.
        action: PowerAction,
    },
}

/// What process 1 knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The agent first, then the others by name.
    pub services: Vec<Service>,
    /// The boot, step by step.
    pub steps: Vec<BootStep>,
    /// Unwanted ends of the agent, the latest last.
    pub crashes: Vec<AgentCrash>,
}

/// Output of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// In order.
    pub pieces: Vec<Piece>,
    /// Where to go on.
    pub next: u64,
}

/// A piece of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// Seconds since 1970.
    pub timestamp: f64,
    /// It came by standard error.
    pub is_error: bool,
    /// Offset after its last byte.
    pub end: u64,
    /// The bytes, in base64.
    pub data_b64: String,
}

/// Answer to a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// What was asked for.
    Told(T),
    /// Why not.
    Refused(Refusal),
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no service of that name.
    UnknownService,
    /// The agent is not stopped by its own hand.
    Agent,
    /// The VM ends.
    Ending,
    /// The question could not be read.
    Unreadable(String),
}

/// Why process 1 could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It cannot be reached, or does not answer.
    #[error("asking process 1 by {SOCKET} failed: {0}")]
    Unreachable(#[from] io::Error),
    /// It is of another version.
    #[error("process 1 gave an answer that cannot be read: {0}; is it of another version?")]
    Foreign(#[from] serde_json::Error),
}

/// Asks, and waits for the answer: some tenths of a millisecond, and never longer than [`limits::CONTROL_TIME`].
///
/// # Errors
/// See [`ControlError`].
pub fn ask<T: DeserializeOwned>(socket: &Path, question: &Question) -> Result<Answer<T>, ControlError> {
    let connection = Connection::open(socket, limits::CONTROL_TIME)?;
    if connection.peer_uid()? != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user listens there").into());
    }
    connection.send(&serde_json::to_vec(question)?)?;
    let answer = connection.receive(limits::CONTROL_ANSWER_BYTES)?;
    Ok(serde_json::from_slice(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_read_as_they_were_written() {
        let question = Question::Act { service: "web".into(), action: ServiceAction::Restart };
        let text = serde_json::to_string(&question).unwrap();
        assert_eq!(text, r#"{"ask":"act","service":"web","action":"restart"}"#);
        assert_eq!(serde_json::from_str::<Question>(&text).unwrap(), question);
        let answer: Answer<()> = Answer::Refused(Refusal::UnknownService);
        assert_eq!(serde_json::from_str::<Answer<()>>(&serde_json::to_string(&answer).unwrap()).unwrap(), answer);
        assert_eq!(serde_json::to_string(&Answer::Told(())).unwrap(), r#"{"told":null}"#);
    }
}
