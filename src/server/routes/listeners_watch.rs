//! Changes of the listeners as they come, as NDJSON.
//!
//! Each reader has the state that it was told last, and is told the difference to the latest: one that is slow holds nothing up, is
//! sent no change that was undone meanwhile, and ends with the truth. One that waits costs nothing. One that goes away ends the
//! connection, of which hyper learns because it goes on reading; with it the place is free.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::yield_now,
};

use crate::{
    api::{Listener, ListenerEvent},
    bridge::BridgeState,
    limits,
    listeners::{Difference, Observation, Snapshot, Step},
    server::{Agent, error::ApiError},
};

/// Listeners that are the same and are passed over before others get a turn: a fraction of a millisecond.
const PASSED_OVER: usize = 1024;

/// `GET /v1/listeners/watch`.
pub(super) async fn watch(State(agent): State<Arc<Agent>>) -> Result<Response, ApiError> {
    let watch = Watch::begin(agent).await?;
    let parts = stream::unfold(watch, |mut watch| async {
        let part = watch.next().await?;
        Some((Ok::<_, Infallible>(part), watch))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(parts)).into_response())
}

/// One reader.
struct Watch {
    agent: Arc<Agent>,
    observations: watch::Receiver<Arc<Observation>>,
    bridge: watch::Receiver<Arc<BridgeState>>,
    /// What it is being told.
    difference: Difference,
    /// What it was told last of whether that is the whole truth: nothing yet; yes; no, and why.
    said: Option<Option<String>>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    async fn begin(agent: Arc<Agent>) -> Result<Self, ApiError> {
        let place = agent.views.watcher()?;
        // Taken before the first snapshot is made: what changes from here on is noticed.
        let (mut observations, mut bridge) = (agent.observations.clone(), agent.bridge.states());
        observations.mark_unchanged();
        bridge.mark_unchanged();
        let first = agent.listeners_as_events().await?;
        let difference = Difference::between(Arc::new(Snapshot::default()), first);
        Ok(Self { agent, observations, bridge, difference, said: None, ended: false, _place: place })
    }

    /// The next lines, as soon as there are any; none after the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            if self.agent.sockets.drain.is_cancelled() {
                self.ended = true;
                return Some(line(&ListenerEvent::End).into());
            }
            let (lines, through) = self.lines();
            if !through {
                yield_now().await;
            }
            if !lines.is_empty() {
                return Some(lines.into());
            }
            if through {
                self.change().await?;
            }
        }
    }

    /// Lines of the difference, and whether it is through with them.
    fn lines(&mut self) -> (Vec<u8>, bool) {
        let mut lines = Vec::new();
        while lines.len() < limits::LISTENERS_CHUNK_BYTES {
            match self.difference.next(PASSED_OVER) {
                Step::Added(listener) => change(&mut lines, "added", listener),
                Step::Changed(listener) => change(&mut lines, "changed", listener),
                Step::Removed(listener) => change(&mut lines, "removed", listener),
                Step::Pause => return (lines, false),
                Step::Through => {
                    let failure = self.difference.target().failure();
                    if self.said.as_ref().is_none_or(|said| said.as_deref() != failure) {
                        let failure = failure.map(str::to_owned);
                        let event = failure.clone().map(|message| ListenerEvent::Unknown { message });
                        lines.extend(line(&event.unwrap_or(ListenerEvent::Synced)));
                        self.said = Some(failure);
                    }
                    return (lines, true);
                }
            }
        }
        (lines, false)
    }

    /// Waits for a change and begins with the difference to what is the latest then. None where nothing can change any more.
    async fn change(&mut self) -> Option<()> {
        let drain = self.agent.sockets.drain.clone();
        let change = async {
            tokio::select! {
                changed = self.observations.changed() => changed.ok()?,
                changed = self.bridge.changed() => changed.ok()?,
            }
            self.observations.mark_unchanged();
            self.bridge.mark_unchanged();
            let latest = self.agent.listeners_as_events().await;
            latest.inspect_err(|error| tracing::warn!(?error, "a watcher of the listeners is cut off")).ok()
        };
        // Cancelled: the caller sees that.
        if let Some(latest) = drain.run_until_cancelled(change).await {
            self.difference = Difference::between(Arc::clone(self.difference.target()), latest?);
        }
        Some(())
    }
}

/// An event by itself.
fn line(event: &ListenerEvent) -> Vec<u8> {
    // Events are strings and numbers, which always serialize.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The event of a listener, of which there may be many, without a copy of the listener.
fn change(lines: &mut Vec<u8>, kind: &str, listener: &Listener) {
    lines.extend_from_slice(format!(r#"{{"type":"{kind}","listener":"#).as_bytes());
    // Writing to memory does not fail, and listeners are strings and numbers.
    let _ = serde_json::to_writer(&mut *lines, listener);
    lines.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_change_is_what_its_event_serializes_to() {
        let listener: Listener = serde_json::from_value(serde_json::json!({
            "port": 80, "address": "::", "family": "ipv6", "v6only": false, "scope": "wildcard", "exposure": "direct",
            "cause": null, "hint": "a\n\u{1b}\"", "url": null, "process": null, "netns": 1, "inode": 7,
        }))
        .unwrap();
        let boxed = || Box::new(listener.clone());
        for (kind, event) in [
            ("added", ListenerEvent::Added { listener: boxed() }),
            ("changed", ListenerEvent::Changed { listener: boxed() }),
            ("removed", ListenerEvent::Removed { listener: boxed() }),
        ] {
            let mut lines = Vec::new();
            change(&mut lines, kind, &listener);
            assert_eq!(String::from_utf8(lines).unwrap(), String::from_utf8(line(&event)).unwrap());
        }
    }
}
