//! The listeners of a VM and their changes, on one connection.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::api::{Listener, ListenerEvent, UdpSocket};
use crate::limits;

use super::http::{Connection, Question, Reply, excerpt};
use super::lines::Lines;
use super::{Call, Client, ClientError, Endpoint};

const WATCH: Call = Call::get("/v1/listeners/watch");

/// Follows the listeners of a VM. Dropping it closes the connection.
#[derive(Debug)]
pub struct ListenerWatch {
    endpoint: Endpoint,
    body: Incoming,
    lines: Lines,
    ended: bool,
    connection: Connection,
}

impl Client {
    /// Follows the TCP listeners: those that are there, [`ListenerEvent::Synced`], and then every change as it comes. After a lost
    /// connection call it again: everything is told anew.
    pub async fn watch_listeners(&self) -> Result<ListenerWatch, ClientError> {
        let reply = self.send(Question::new(WATCH), Some(self.timeouts().answer)).await?;
        let Reply { body, connection, .. } = self.succeed(WATCH, reply).await?;
        let (endpoint, lines) = (self.endpoint().clone(), Lines::new(limits::CLIENT_LINE_BYTES));
        Ok(ListenerWatch { endpoint, body, lines, ended: false, connection })
    }

    /// The TCP listeners, each with what a connection like the proxy's sees of it. Takes some seconds where services do not
    /// answer.
    pub async fn probe_listeners(&self) -> Result<Vec<Listener>, ClientError> {
        let call = Call::get("/v1/listeners");
        let patience = Some(self.timeouts().answer + limits::PROBE_TIME);
        let reply = self.send(Question::new(call).to("/v1/listeners?probe=true".into()), patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// UDP sockets that take datagrams from anyone, which no proxy carries.
    pub async fn udp_sockets(&self) -> Result<Vec<UdpSocket>, ClientError> {
        self.get(Call::get("/v1/listeners/udp")).await
    }
}

impl ListenerWatch {
    /// The next event, which may take for ever; none after [`ListenerEvent::End`]. May be dropped at any await and called
    /// again.
    ///
    /// # Errors
    /// [`ClientError::WatchCutOff`] where the stream ends before its last line, [`ClientError::Protocol`] where it is not made of
    /// events. After an error there is no more.
    pub async fn next(&mut self) -> Result<Option<ListenerEvent>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let event = self.read_event().await;
        self.ended = matches!(event, Err(_) | Ok(ListenerEvent::End));
        event.map(Some)
    }

    async fn read_event(&mut self) -> Result<ListenerEvent, ClientError> {
        loop {
            let line = self.lines.next().map_err(|_| {
                self.foreign(format!("a line of it is longer than {} bytes", limits::CLIENT_LINE_BYTES))
            })?;
            if let Some(line) = line {
                match self.parsed(&line)? {
                    ListenerEvent::Other => continue,
                    event => return Ok(event),
                }
            }
            match self.read_packet().await? {
                Some(packet) => self.lines.push(&packet),
                None => return Err(self.cut_off("it ended without its last line".into())),
            }
        }
    }

    fn parsed(&self, line: &[u8]) -> Result<ListenerEvent, ClientError> {
        serde_json::from_slice(line).map_err(|error| self.foreign(format!("{error} in {}", excerpt(line))))
    }

    async fn read_packet(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.connection.drive(self.body.frame()).await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.cut_off(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(packet) = frame.into_data() {
                        return Ok(Some(packet));
                    }
                }
            }
        }
    }

    fn cut_off(&self, why: String) -> ClientError {
        ClientError::WatchCutOff { endpoint: self.endpoint.clone(), why }
    }

    fn foreign(&self, why: String) -> ClientError {
        ClientError::Protocol { endpoint: self.endpoint.clone(), call: WATCH, why }
    }
}
