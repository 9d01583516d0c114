//! Calls about commits, restores, account variables and disks: one method each.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{
    DiskGrow, DiskGrown, Env, EnvUpdate, GenerationReport, GenerationRequest, GenerationState, SnapshotPrepare,
    SnapshotReport, SnapshotThaw,
};
use crate::limits;

use super::http::{Question, escaped};
use super::{Call, Client, ClientError};

impl Client {
    /// Has the VM be ready for a commit: new execs wait until the thaw, or until the watchdog's time is over. For the host alone.
    pub async fn snapshot_prepare(&self, order: &SnapshotPrepare) -> Result<SnapshotReport, ClientError> {
        self.tell(Call::post("/v1/snapshot/prepare"), order, self.hook_patience()).await
    }

    /// The commit was made, and this is the VM that goes on. A `wall_clock` that is given is this machine's time, as of when it is sent.
    pub async fn snapshot_thaw(&self, order: &SnapshotThaw) -> Result<SnapshotReport, ClientError> {
        let order = *order;
        let late = move |now| SnapshotThaw { wall_clock: order.wall_clock.map(|_| now) };
        self.tell_late(Call::post("/v1/snapshot/thaw"), late).await
    }

    /// Which generation this is, and how it came about.
    pub async fn generation(&self) -> Result<GenerationState, ClientError> {
        self.get(Call::get("/v1/generation")).await
    }

    /// Announces a generation, and gives the report of what was set right. To be repeated with the same id, and fresh `entropy`, where the answer
    /// was lost or a step failed. A `wall_clock` that is given is this machine's time, as of when it is sent. For the host alone.
    pub async fn announce_generation(&self, request: &GenerationRequest) -> Result<GenerationReport, ClientError> {
        let request = request.clone();
        let late = move |now| {
            let wall_clock = request.wall_clock.map(|_| now);
            GenerationRequest { wall_clock, ..request }
        };
        self.tell_late(Call::post("/v1/generation"), late).await
    }

    /// Account variables.
    pub async fn env(&self) -> Result<Env, ClientError> {
        self.get(Call::get("/v1/env")).await
    }

    /// Sets account variables, and gives all that are managed then.
    pub async fn set_env(&self, update: &EnvUpdate) -> Result<Env, ClientError> {
        self.tell(Call::put("/v1/env"), update, self.timeouts().answer).await
    }

    /// Takes account variables out of those that are managed, and gives the others.
    pub async fn unset_env<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Env, ClientError> {
        let call = Call::delete("/v1/env");
        let keys: Vec<_> = keys.into_iter().map(|key| escaped(key.as_ref())).collect();
        let patience = Some(self.timeouts().answer);
        let reply = self.send(Question::new(call).to(format!("/v1/env?keys={}", keys.join(","))), patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// Grows a file system to the size of its device.
    pub async fn grow_disk(&self, order: &DiskGrow) -> Result<DiskGrown, ClientError> {
        self.tell(Call::post("/v1/disk/grow"), order, limits::DISK_GROW_TIME + self.timeouts().answer).await
    }

    async fn tell<T: DeserializeOwned>(
        &self,
        call: Call,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let patience = Some(patience);
        let reply = self.send(self.json(call, body)?, patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// With a body that is made when the guest is ready to read it: a time in it is not late by what came before, which on a machine that has
    /// just been restored takes a while.
    async fn tell_late<T: DeserializeOwned, B: Serialize>(
        &self,
        call: Call,
        body: impl FnOnce(f64) -> B + Send + 'static,
    ) -> Result<T, ClientError> {
        let late = async move {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            serde_json::to_vec(&body(now)).map(Bytes::from).map_err(io::Error::other)
        };
        let patience = Some(self.hook_patience());
        let question = Question::on_demand(call, late);
        let question = question.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let reply = self.send(question, patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// Hooks are waited for, one after the other.
    fn hook_patience(&self) -> Duration {
        let hook = limits::HOOK_TIME + limits::EXEC_KILL_GRACE + limits::EXEC_KILL_GRACE;
        self.timeouts().answer + hook * u32::try_from(limits::HOOKS).unwrap_or(u32::MAX)
    }
}
