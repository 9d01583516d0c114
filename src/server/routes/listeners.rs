//! Listeners, probed if wanted, and UDP sockets.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use tokio::task::yield_now;

use crate::{
    api::{ErrorCode, UdpSocket},
    bridge::Tier,
    limits,
    listeners::{Snapshot, unconnected_udp},
    probe::{Plan, connect, dial_own},
    server::{Agent, error::ApiError, query, views::aside},
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    probe: bool,
}

/// `GET /v1/listeners?probe=true`: as they are now.
pub(super) async fn list(State(agent): State<Arc<Agent>>, uri: Uri) -> Result<Response, ApiError> {
    let Wanted { probe } = query::of(&uri)?;
    agent.looker.fresh().await;
    Ok(answer(if probe { probed(&agent).await? } else { agent.listeners().await? }))
}

/// One document, in pieces where it is large: others get a turn between them.
fn answer(snapshot: Arc<Snapshot>) -> Response {
    if snapshot.listeners().len() <= limits::LISTENERS_AT_ONCE {
        return Json(snapshot.listeners()).into_response();
    }
    let pieces = stream::unfold((snapshot, 0), |(snapshot, from)| async move {
        if from > 0 {
            yield_now().await;
        }
        let (piece, to) = piece(&snapshot, from)?;
        Some((Ok::<_, Infallible>(piece), (snapshot, to)))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response()
}

/// The piece of the list that begins with this listener, and the one that the next begins with.
fn piece(snapshot: &Snapshot, from: usize) -> Option<(Bytes, usize)> {
    let listeners = snapshot.listeners();
    let mut piece = Vec::with_capacity(limits::LISTENERS_CHUNK_BYTES * 2);
    let mut next = from;
    while piece.len() < limits::LISTENERS_CHUNK_BYTES {
        let Some(listener) = listeners.get(next) else { break };
        piece.push(if next == 0 { b'[' } else { b',' });
        // They are strings and numbers, which always serialize.
        serde_json::to_writer(&mut piece, listener).ok()?;
        next += 1;
    }
    if next == listeners.len() && next > from {
        piece.push(b']');
    }
    (!piece.is_empty()).then(|| (piece.into(), next))
}

async fn probed(agent: &Agent) -> Result<Arc<Snapshot>, ApiError> {
    let Ok(_place) = agent.views.probes.try_acquire() else {
        let why = format!("{} probes run, which is the limit; try again when one is over", limits::PROBES);
        return Err(ApiError::new(ErrorCode::LimitReached, why));
    };
    let snapshot = agent.listeners().await?;
    let count = snapshot.listeners().len();
    let (observation, bridge) = (Arc::clone(&agent.observations.borrow()), agent.bridge.state());
    let planned = aside(count, move || {
        let table = &observation.table;
        let addresses: Vec<_> = table.reachable_ipv6().collect();
        let steers = bridge.plane.tier == Tier::Steer;
        let plan = Plan::new(snapshot.listeners().to_vec(), table.netns, &addresses, &bridge.ports(), steers);
        let targets = plan.targets();
        (plan, targets, snapshot.failure().map(str::to_owned))
    });
    let (plan, targets, failure) = planned.await?;
    let ending = || ApiError::new(ErrorCode::Unavailable, "the probe was given up: guestd is ending; try again");
    let seen = agent.sockets.drain.run_until_cancelled(connect(targets, dial_own)).await.ok_or_else(ending)?;
    aside(count, move || Arc::new(Snapshot::new(plan.judge(&seen), failure))).await
}

/// `GET /v1/listeners/udp`.
pub(super) async fn udp(State(agent): State<Arc<Agent>>) -> Result<Json<Vec<UdpSocket>>, ApiError> {
    let internal = |why: String| ApiError::new(ErrorCode::Internal, format!("the UDP sockets cannot be listed: {why}"));
    // A look walks over all processes; one at a time is enough work.
    let _turn = agent.views.udp.acquire().await.map_err(|error| internal(error.to_string()))?;
    let observation = Arc::clone(&agent.observations.borrow());
    let look = tokio::task::spawn_blocking(move || unconnected_udp(&observation.table)).await;
    let sockets = look.map_err(|error| internal(error.to_string()))?;
    sockets.map(Json).map_err(|error| internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Listener;

    #[test]
    fn the_pieces_of_a_large_list_are_the_list() {
        for count in [1, 2, 500] {
            let listener = |port: usize| -> Listener {
                serde_json::from_value(serde_json::json!({
                    "port": port, "address": "::", "family": "ipv6", "v6only": false, "scope": "wildcard", "exposure": "direct",
                    "cause": null, "hint": "x".repeat(100), "url": null, "process": null, "netns": 1, "inode": port,
                }))
                .unwrap()
            };
            let snapshot = Snapshot::new((0..count).map(listener).collect(), None);
            let (mut whole, mut pieces, mut from) = (Vec::new(), 0, 0);
            while let Some((bytes, next)) = piece(&snapshot, from) {
                assert!(bytes.len() < limits::LISTENERS_CHUNK_BYTES + 1024);
                whole.extend_from_slice(&bytes);
                (from, pieces) = (next, pieces + 1);
            }
            let list: Vec<Listener> = serde_json::from_slice(&whole).unwrap();
            assert_eq!((list.as_slice(), pieces > 1), (snapshot.listeners(), count == 500));
        }
    }
}
