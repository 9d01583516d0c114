//! The bridge.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};

use crate::{
    api::{Bridge, BridgeCut},
    bridge::{BridgeState, Settings, left_out},
    server::{Agent, body, error::ApiError},
};

/// `GET /v1/bridge`.
pub(super) async fn show(State(agent): State<Arc<Agent>>) -> Json<Bridge> {
    let report = agent.bridge.report().await;
    Json(with_left_out(&agent, report))
}

/// `PUT /v1/bridge`: answers when the bridge has acted on it.
pub(super) async fn update(State(agent): State<Arc<Agent>>, request: Request) -> Result<Json<Bridge>, ApiError> {
    let update = body::json(request).await?;
    let state = agent.bridge.update(update).await?;
    let not_kept = agent.bridge_settings.keep(|| agent.bridge.state()).await.err();
    Ok(Json(Bridge { not_kept, ..report(&agent, &state) }))
}

/// `POST /v1/bridge/cut`: answers when the connections are reset.
pub(super) async fn cut(State(agent): State<Arc<Agent>>, request: Request) -> Result<Json<Bridge>, ApiError> {
    let BridgeCut { listen } = body::json(request).await?;
    let state = agent.bridge.cut(listen).await?;
    Ok(Json(report(&agent, &state)))
}

fn report(agent: &Agent, state: &BridgeState) -> Bridge {
    with_left_out(agent, state.report())
}

fn with_left_out(agent: &Agent, mut report: Bridge) -> Bridge {
    // Only rules for several ports leave something out.
    if report.rules.iter().any(|rule| !rule.listen.is_port()) {
        let routable_ports = agent.config.routable_ports.clone();
        let settings = Settings { auto: report.auto, rules: report.rules.clone(), routable_ports };
        report.left_out = left_out(&agent.observations.borrow().table, &settings);
    }
    report
}
