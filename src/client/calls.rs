//! The client: one method per call of guestd's interface.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{AddKeys, Bridge, BridgeCut, BridgeUpdate, Health, Info, Keys, KeysChanged, Listener};
use crate::limits;

use super::http::{Question, Reply, escaped};
use super::{Call, ClientError, Endpoint, Token};

/// How long a client waits before it gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For an answer that does not wait for a command.
    pub answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: limits::CLIENT_CONNECT_TIME, answer: limits::CLIENT_ANSWER_TIME }
    }
}

/// Talks to the guestd of one VM. Cheap to make and to clone: every call connects anew, so that a client outlives
/// restores and restarts of its VM. Needs a tokio runtime with I/O and time.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    token: Option<Token>,
    timeouts: Timeouts,
}

impl Client {
    /// A client with no token and the usual time-outs.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, token: None, timeouts: Timeouts::default() }
    }

    /// Sends a bearer token with every request.
    #[must_use]
    pub fn with_token(self, token: Token) -> Self {
        let token = Some(token);
        Self { token, ..self }
    }

    /// Waits for other times.
    #[must_use]
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// The VM.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// State of the agent, whatever it is: an answer that says `starting` is no error. Where a token is needed and this
    /// client has none, the report comes without its checks.
    pub async fn health(&self) -> Result<Health, ClientError> {
        let reply = self.ask(Call::get("/v1/health")).await?;
        if reply.status == StatusCode::UNAUTHORIZED && self.token.is_none() {
            let call = Call::get("/health");
            let reply = self.ask(call).await?;
            return self.health_report(call, reply).await;
        }
        self.health_report(Call::get("/v1/health"), reply).await
    }

    /// Versions, identity and boot of the VM.
    pub async fn info(&self) -> Result<Info, ClientError> {
        self.get(Call::get("/v1/info")).await
    }

    /// TCP listeners of the VM, and whether the platform reaches them.
    pub async fn listeners(&self) -> Result<Vec<Listener>, ClientError> {
        self.get(Call::get("/v1/listeners")).await
    }

    /// State of the bridge.
    pub async fn bridge(&self) -> Result<Bridge, ClientError> {
        self.get(Call::get("/v1/bridge")).await
    }

    /// Changes the bridge and gives its new state.
    pub async fn set_bridge(&self, update: &BridgeUpdate) -> Result<Bridge, ClientError> {
        let call = Call::put("/v1/bridge");
        let patience = Some(self.timeouts.answer);
        let reply = self.send(self.json(call, update)?, patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// Resets the bridge's open connections, and gives its state then.
    pub async fn cut_bridge(&self, cut: &BridgeCut) -> Result<Bridge, ClientError> {
        let call = Call::post("/v1/bridge/cut");
        let patience = Some(self.timeouts.answer);
        let reply = self.send(self.json(call, cut)?, patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// SSH keys of the VM, their public halves.
    pub async fn keys(&self) -> Result<Keys, ClientError> {
        self.get(Call::get("/v1/keys")).await
    }

    /// Authorizes SSH keys, all of them or none, and gives them as they are then.
    pub async fn add_keys(&self, keys: &AddKeys) -> Result<KeysChanged, ClientError> {
        let call = Call::post("/v1/keys");
        self.changed(call, self.json(call, keys)?).await
    }

    /// Removes an authorized SSH key, and gives it as it was.
    pub async fn remove_key(&self, id: &str) -> Result<KeysChanged, ClientError> {
        let call = Call::delete("/v1/keys");
        self.changed(call, Question::new(call).to(format!("/v1/keys?id={}", escaped(id)))).await
    }

    /// What became of a change that was asked for.
    async fn changed<T: DeserializeOwned>(&self, call: Call, question: Question) -> Result<T, ClientError> {
        let patience = Some(self.timeouts.answer);
        let reply = self.send(question, patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// Counters, in Prometheus' text format.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let call = Call::get("/metrics");
        let reply = self.succeed(call, self.ask(call).await?).await?;
        let patience = Some(self.timeouts.answer);
        let limit = limits::CLIENT_BODY_BYTES;
        let body = self.collect(call, reply, limit, patience).await?;
        String::from_utf8(body.into()).map_err(|_| self.foreign(call, "it is no UTF-8".into()))
    }

    async fn ask(&self, call: Call) -> Result<Reply, ClientError> {
        self.send(Question::new(call), Some(self.timeouts.answer)).await
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let reply = self.ask(call).await?;
        self.parsed(call, reply, Some(self.timeouts.answer)).await
    }

    /// The reply, where it is a success.
    pub(super) async fn succeed(&self, call: Call, reply: Reply) -> Result<Reply, ClientError> {
        if reply.status.is_success() { Ok(reply) } else { Err(self.failure(call, reply).await) }
    }

    /// The JSON of a reply that is a success.
    pub(super) async fn parsed<T: DeserializeOwned>(
        &self,
        call: Call,
        reply: Reply,
        patience: Option<Duration>,
    ) -> Result<T, ClientError> {
        let reply = self.succeed(call, reply).await?;
        let limit = limits::CLIENT_BODY_BYTES;
        let body = self.collect(call, reply, limit, patience).await?;
        serde_json::from_slice(&body).map_err(|error| self.foreign(call, error.to_string()))
    }

    /// A report may come with 503 while the agent is not ready: it is an answer all the same.
    async fn health_report(&self, call: Call, reply: Reply) -> Result<Health, ClientError> {
        let (status, patience) = (reply.status, Some(self.timeouts.answer));
        if status != StatusCode::OK && status != StatusCode::SERVICE_UNAVAILABLE {
            return Err(self.failure(call, reply).await);
        }
        let limit = limits::CLIENT_ERROR_BODY_BYTES;
        let body = self.collect(call, reply, limit, patience).await?;
        serde_json::from_slice(&body).map_err(|error| match status {
            StatusCode::OK => self.foreign(call, error.to_string()),
            _ => self.refusal(call, status, &body),
        })
    }

    /// A request with this body.
    pub(super) fn json(&self, call: Call, body: &impl Serialize) -> Result<Question, ClientError> {
        let body = serde_json::to_vec(body);
        let body = body.map_err(|error| self.foreign(call, error.to_string()))?;
        Question::json(call, Bytes::from(body))
    }
}
