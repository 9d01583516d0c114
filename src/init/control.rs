//! The agent's questions, answered. One question a connection, and an answer at once; who is slow is hung up on.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

use super::{
    service::AGENT,
    timeline::now,
    vm::{Source, Supervisor},
};
use crate::{
    api::{Service, ServiceAction},
    control::{Answer, Output, Piece, Question, Refusal, SOCKET, State},
    limits,
    sys::seqpacket::{Connection, Listener},
};

/// What a piece of output takes in an answer beside its bytes.
const PIECE_OVERHEAD: usize = 120;

/// The listener and those who have not asked yet.
#[derive(Debug)]
pub(super) struct Desk {
    listener: Option<Listener>,
    /// With when they are hung up on.
    connections: [Option<(Connection, Duration)>; limits::CONTROL_CONNECTIONS],
}

impl Desk {
    /// Begins to listen. Without it services run, and nobody can ask about them.
    pub(super) fn open(problems: &mut Vec<String>) -> Self {
        let path = Path::new(SOCKET);
        let directory = path.parent().map_or(Ok(()), fs::create_dir_all);
        let listener = directory.and_then(|()| Listener::bind(path, limits::CONTROL_CONNECTIONS));
        let listener =
            listener.map_err(|error| problems.push(format!("{SOCKET}: {error}; services cannot be looked at")));
        Self { listener: listener.ok(), connections: Default::default() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.listener.is_some()
    }

    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn connection(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.connections.get(index)?.as_ref().map(|(connection, _)| connection.as_fd())
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.connections.iter().flatten().map(|(_, until)| *until).min()
    }

    /// Takes a connection in; the number of its place. Beyond the limit it is closed.
    fn take(&mut self, connection: Connection) -> Option<usize> {
        let index = self.connections.iter().position(Option::is_none)?;
        *self.connections.get_mut(index)? = Some((connection, now() + limits::CONTROL_TIME));
        Some(index)
    }
}

impl Supervisor {
    /// Lets those in who have come, if they are root.
    pub(super) fn greet(&mut self) {
        while let Some(Ok(Some(connection))) = self.desk.listener.as_ref().map(Listener::accept) {
            if !matches!(connection.peer_uid(), Ok(0)) {
                continue;
            }
            let Some(index) = self.desk.take(connection) else { continue };
            if self.watch(Source::Connection(index)).is_err() {
                self.desk.connections[index] = None;
            }
        }
    }

    /// Closes those that did not ask in time.
    pub(super) fn hang_up(&mut self) {
        let now = now();
        for index in 0..self.desk.connections.len() {
            if self.desk.connections[index].as_ref().is_some_and(|(_, until)| now >= *until) {
                self.let_go(index);
            }
        }
    }

    /// Gives a place back.
    fn let_go(&mut self, index: usize) -> Option<Connection> {
        let (connection, _) = self.desk.connections.get_mut(index)?.take()?;
        self.unwatch(&connection);
        Some(connection)
    }

    /// Reads a question, answers it, and closes.
    pub(super) fn answer(&mut self, index: usize) {
        let Some(connection) = self.let_go(index) else { return };
        let answer = match connection.receive(limits::CONTROL_REQUEST_BYTES) {
            Ok(message) if message.is_empty() => return,
            Ok(message) => match serde_json::from_slice(&message) {
                Ok(question) => self.consider(question),
                Err(error) => refusal(Refusal::Unreadable(error.to_string())),
            },
            Err(error) => refusal(Refusal::Unreadable(error.to_string())),
        };
        // Whoever has gone meanwhile does not want it.
        let _ = answer.and_then(|answer| connection.send(&answer));
    }

    fn consider(&mut self, question: Question) -> io::Result<Vec<u8>> {
        match question {
            Question::State => {
                let mut state = State {
                    services: self.services(),
                    steps: self.timeline.steps().to_vec(),
                    crashes: self.crashes.iter().cloned().collect(),
                };
                let whole = told(&state)?;
                if whole.len() <= limits::CONTROL_ANSWER_BYTES {
                    return Ok(whole);
                }
                // What matters most fits in any case: names, states, and what is wrong.
                state.services.iter_mut().for_each(|service| service.command.clear());
                state.crashes.clear();
                told(state)
            }
            Question::Act { service, action } => match self.command(&service, action) {
                Ok(service) => told(service),
                Err(why) => refusal(why),
            },
            Question::Output { service, from, most } => match self.output(&service, from, most) {
                Some(output) => told(output),
                None => refusal(Refusal::UnknownService),
            },
            Question::Power { action } => {
                self.end(action);
                told(())
            }
        }
    }

    fn command(&mut self, name: &str, action: ServiceAction) -> Result<Service, Refusal> {
        if self.is_ending() {
            return Err(Refusal::Ending);
        }
        let now = now();
        let unit = self.units.iter_mut().find(|unit| unit.definition.name == name).ok_or(Refusal::UnknownService)?;
        match action {
            // Nobody could start it again.
            ServiceAction::Stop if name == AGENT => return Err(Refusal::Agent),
            ServiceAction::Start => unit.life.start(now),
            ServiceAction::Stop => unit.life.stop(false, now),
            ServiceAction::Restart => unit.life.stop(true, now),
        }
        let report = unit.report(now);
        // A start that cannot succeed is seen by who asked for it.
        self.act();
        Ok(self.units.iter().find(|unit| unit.definition.name == name).map_or(report, |unit| unit.report(now)))
    }

    fn output(&self, name: &str, from: u64, most: usize) -> Option<Output> {
        let unit = self.units.iter().find(|unit| unit.definition.name == name)?;
        let mut pieces = unit.ring.read(from, most.min(limits::SERVICE_LOG_BYTES));
        // Small pieces cost more than their bytes.
        let mut room = limits::CONTROL_ANSWER_BYTES - limits::CONTROL_REQUEST_BYTES;
        let fit = pieces.iter().take_while(|piece| {
            let cost = piece.bytes.len() * 4 / 3 + PIECE_OVERHEAD;
            room.checked_sub(cost).inspect(|left| room = *left).is_some()
        });
        pieces.truncate(fit.count());
        let next =
            pieces.last().map_or_else(|| unit.ring.end().min(from), |last| last.offset + last.bytes.len() as u64);
        let piece = |piece: super::ring::Piece| Piece {
            timestamp: piece.timestamp,
            is_error: piece.is_error,
            end: piece.offset + piece.bytes.len() as u64,
            data_b64: STANDARD.encode(piece.bytes),
        };
        Some(Output { pieces: pieces.into_iter().map(piece).collect(), next })
    }
}

fn told(answer: impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Answer::Told(answer))?)
}

fn refusal(why: Refusal) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Answer::<()>::Refused(why))?)
}
