//! Calls about execs: one method each.

use std::time::{Duration, Instant};

use hyper::header::{ACCEPT, HeaderValue};

use crate::api::{
    AttachRequest, ExecRequest, ExecResult, ExecState, ExecStatus, Logs, OutputStream, SignalRequest, TtySize,
};
use crate::limits;

use super::http::{Question, Reply, escaped};
use super::stream::BINARY;
use super::{Call, Client, ClientError, ExecStream, Retry};

/// Where in an exec's output a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// At this offset; 0 is the beginning. What is not kept any more is told by a gap.
    Cursor(u64),
    /// With what comes from now on.
    Latest,
}

impl ReadFrom {
    /// The offset, where it is one.
    pub(super) fn cursor(self) -> Option<u64> {
        match self {
            Self::Cursor(cursor) => Some(cursor),
            Self::Latest => None,
        }
    }
}

/// Which entries `GET /v1/logs` is to give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Of this exec alone.
    pub exec_id: Option<String>,
    /// Of this service of `guestd init`, and of no exec.
    pub service: Option<String>,
    /// Of this stream alone.
    pub stream: Option<OutputStream>,
    /// From here on: 0, or the `next_offset` of an earlier answer.
    pub offset: u64,
    /// At most these many; none leaves it to guestd.
    pub max_entries: Option<usize>,
}

impl LogQuery {
    fn target(&self) -> String {
        let mut target = format!("/v1/logs?offset={}", self.offset);
        if let Some(id) = &self.exec_id {
            target.push_str("&exec_id=");
            target.push_str(&escaped(id));
        }
        if let Some(name) = &self.service {
            target.push_str("&service=");
            target.push_str(&escaped(name));
        }
        match self.stream {
            Some(OutputStream::Stdout) => target.push_str("&stream=stdout"),
            Some(OutputStream::Stderr) => target.push_str("&stream=stderr"),
            None => {}
        }
        if let Some(entries) = self.max_entries {
            target.push_str(&format!("&max_entries={entries}"));
        }
        target
    }
}

impl Client {
    /// Runs a command to its end and gives its output whole, up to guestd's limit. With a time-out in the request this
    /// waits that long and a little more; without one, without end.
    pub async fn exec(&self, request: &ExecRequest) -> Result<ExecResult, ClientError> {
        let call = Call::post("/v1/exec");
        let patience = self.exec_patience(request);
        let reply = self.send(self.json(call, request)?, patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// Starts a command and leaves it to itself; its output is there for [`Client::exec_attach`].
    pub async fn exec_detached(&self, request: &ExecRequest) -> Result<ExecStatus, ClientError> {
        let request = ExecRequest { detach: true, ..request.clone() };
        let call = Call::post("/v1/exec");
        let reply = self.send(self.json(call, &request)?, Some(self.timeouts().answer)).await?;
        self.parsed(call, reply, Some(self.timeouts().answer)).await
    }

    /// Runs a command and gives its output as it comes. Ends with its connection; [`Client::exec_follow`] does not.
    pub async fn exec_stream(&self, request: &ExecRequest) -> Result<ExecStream, ClientError> {
        let call = Call::post("/v1/exec/stream");
        let reply = self.stream_reply(call, self.json(call, request)?).await?;
        let end = self.exec_patience(request).and_then(|patience| Instant::now().checked_add(patience));
        Ok(ExecStream::new(self, call, reply, Some(0), end))
    }

    /// Output of an exec that was started before, and its end. Any number of readers may do this.
    pub async fn exec_attach(&self, id: &str, from: ReadFrom) -> Result<ExecStream, ClientError> {
        self.exec_attach_in(id, from, None).await
    }

    /// The same from a cursor of this generation. Where the VM was restored as another one meanwhile, that is refused, with the offset up
    /// to which the output is the same.
    pub async fn exec_attach_in(
        &self,
        id: &str,
        from: ReadFrom,
        generation: Option<&str>,
    ) -> Result<ExecStream, ClientError> {
        let call = Call::post("/v1/exec/stream/attach");
        let cursor = from.cursor();
        let (from_latest, generation_id) = (from == ReadFrom::Latest, generation.map(str::to_owned));
        let request = AttachRequest { exec_id: id.to_owned(), cursor, from_latest, generation_id };
        let reply = self.stream_reply(call, self.json(call, &request)?).await?;
        Ok(ExecStream::new(self, call, reply, cursor, None))
    }

    /// Execs that run, and those whose records are kept, oldest first.
    pub async fn execs(&self) -> Result<Vec<ExecStatus>, ClientError> {
        self.get(Call::get("/v1/exec")).await
    }

    /// State of an exec.
    pub async fn exec_status(&self, id: &str) -> Result<ExecStatus, ClientError> {
        let call = Call::get("/v1/exec/{id}");
        self.about(call, exec_path(id, ""), self.timeouts().answer).await
    }

    /// Waits for the end of an exec, however long it takes, and gives its last state. Outlasts lost connections for as long
    /// as [`Client::exec_follow`] does.
    pub async fn exec_wait(&self, id: &str) -> Result<ExecStatus, ClientError> {
        let call = Call::get("/v1/exec/{id}");
        let poll = limits::CLIENT_WAIT_TIME;
        let target = exec_path(id, &format!("?wait_secs={}", poll.as_secs()));
        let mut retry = Retry::default();
        loop {
            match self.about::<ExecStatus>(call, target.clone(), poll + self.timeouts().answer).await {
                Ok(status) if status.state == ExecState::Exited => return Ok(status),
                Ok(_) => retry.reset(),
                Err(error) => retry.pause_after(error).await?,
            }
        }
    }

    /// Ends an exec and all that it started, and gives its last state; of one that has ended, drops the record.
    pub async fn exec_delete(&self, id: &str) -> Result<(), ClientError> {
        let call = Call::delete("/v1/exec/{id}");
        let patience = limits::EXEC_KILL_GRACE + limits::EXEC_KILL_TIME + self.timeouts().answer;
        self.done(call, Question::new(call).to(exec_path(id, "")), patience).await
    }

    /// Sends a signal.
    pub async fn exec_signal(&self, id: &str, signal: &SignalRequest) -> Result<(), ClientError> {
        let call = Call::post("/v1/exec/{id}/signal");
        let question = self.json(call, signal)?.to(exec_path(id, "/signal"));
        self.done(call, question, self.timeouts().answer).await
    }

    /// Changes the size of an exec's terminal.
    pub async fn exec_resize(&self, id: &str, size: TtySize) -> Result<(), ClientError> {
        let call = Call::post("/v1/exec/{id}/resize");
        let question = self.json(call, &size)?.to(exec_path(id, "/resize"));
        self.done(call, question, self.timeouts().answer).await
    }

    /// What execs printed, a page of it.
    pub async fn logs(&self, query: &LogQuery) -> Result<Logs, ClientError> {
        self.about(Call::get("/v1/logs"), query.target(), self.timeouts().answer).await
    }

    async fn stream_reply(&self, call: Call, question: Question) -> Result<Reply, ClientError> {
        let question = question.header(ACCEPT, HeaderValue::from_static(BINARY));
        let reply = self.send(question, Some(self.timeouts().answer)).await?;
        self.succeed(call, reply).await
    }

    /// A call that answers JSON and has no body.
    async fn about<T: serde::de::DeserializeOwned>(
        &self,
        call: Call,
        target: String,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let reply = self.send(Question::new(call).to(target), Some(patience)).await?;
        self.parsed(call, reply, Some(patience)).await
    }

    /// A call whose success is all that there is to know.
    async fn done(&self, call: Call, question: Question, patience: Duration) -> Result<(), ClientError> {
        let reply = self.send(question, Some(patience)).await?;
        self.succeed(call, reply).await.map(drop)
    }

    /// From the start of an exec with a time-out until its result must be here; none where it may take any time.
    pub(super) fn exec_patience(&self, request: &ExecRequest) -> Option<Duration> {
        let command = Duration::from_secs(request.timeout_secs.filter(|secs| *secs > 0)?);
        let ending = limits::EXEC_KILL_GRACE + limits::EXEC_DRAIN_TIME;
        command.checked_add(ending)?.checked_add(self.timeouts().answer)
    }
}

/// Path of an exec, with what follows it.
pub(super) fn exec_path(id: &str, rest: &str) -> String {
    format!("/v1/exec/{}{rest}", escaped(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_is_waited_for_as_long_as_it_may_take_to_end_it() {
        let client = Client::new("vsock:3".parse().unwrap());
        let patience = |timeout_secs| client.exec_patience(&ExecRequest { timeout_secs, ..ExecRequest::default() });
        let ending = limits::EXEC_KILL_GRACE + limits::EXEC_DRAIN_TIME + limits::CLIENT_ANSWER_TIME;
        assert_eq!(patience(Some(9)), Some(Duration::from_secs(9) + ending));
        assert_eq!(patience(None), None);
        assert_eq!(patience(Some(0)), None, "no time-out, as guestd has it");
        assert_eq!(patience(Some(u64::MAX)), None);
    }

    #[test]
    fn a_log_query_says_what_is_wanted_and_nothing_else() {
        assert_eq!(LogQuery::default().target(), "/v1/logs?offset=0");
        let query = LogQuery {
            exec_id: Some("e/1".into()),
            service: None,
            stream: Some(OutputStream::Stderr),
            offset: 7,
            max_entries: Some(9),
        };
        assert_eq!(query.target(), "/v1/logs?offset=7&exec_id=e%2F1&stream=stderr&max_entries=9");
        let query = LogQuery { service: Some("a b".into()), ..LogQuery::default() };
        assert_eq!(query.target(), "/v1/logs?offset=0&service=a%20b");
    }
}
