//! Prometheus text format, version 0.0.4.

use std::{
    fmt::{Display, Write},
    sync::Arc,
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use crate::{
    api::{Exposure, Health, Status},
    listeners::Snapshot,
    server::{Agent, error::ApiError},
};

/// `GET /metrics`.
pub(super) async fn text(State(agent): State<Arc<Agent>>) -> Result<Response, ApiError> {
    agent.bridge.fresh().await;
    let health = agent.health(true).await;
    let page = render(&agent, &health, &*agent.listeners().await?);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response())
}

fn render(agent: &Agent, health: &Health, listeners: &Snapshot) -> String {
    let mut page = Page::default();
    page.family("guestd_ready", "gauge", "1 when every health check is ok.");
    page.sample("", u8::from(health.status == Status::Ready));
    page.family("guestd_uptime_seconds", "gauge", "Seconds since the kernel's start.");
    page.sample("", health.uptime_secs);

    page.family("guestd_listeners", "gauge", "Listening TCP sockets by exposure.");
    for (name, exposure) in
        [("direct", Exposure::Direct), ("bridged", Exposure::Bridged), ("unreachable", Exposure::Unreachable)]
    {
        let count = listeners.listeners().iter().filter(|listener| listener.exposure == exposure).count();
        page.sample(&format!("exposure=\"{name}\""), count);
    }

    page.family("guestd_listener_looks_total", "counter", "Looks at what listens.");
    page.sample("", agent.looker.looks());

    page.family("guestd_listener_watchers", "gauge", "Readers that watch the listeners.");
    page.sample("", agent.views.watching());

    let ports = agent.bridge.state().ports();
    page.family("guestd_bridge_connections", "gauge", "Bridged connections that are open, by port.");
    ports.iter().for_each(|port| page.sample(&label(port.listen), port.connections));
    page.family("guestd_bridge_connections_total", "counter", "Bridged connections that were accepted, by port.");
    ports.iter().for_each(|port| page.sample(&label(port.listen), port.connections_total));
    page.family("guestd_bridge_errors_total", "counter", "Bridged connections that ended by an error, by port.");
    ports.iter().for_each(|port| page.sample(&label(port.listen), port.errors_total));
    page.family("guestd_bridge_bytes_total", "counter", "Bytes through the bridge, by port and direction.");
    for port in &ports {
        page.sample(&format!("{},direction=\"in\"", label(port.listen)), port.bytes_in);
        page.sample(&format!("{},direction=\"out\"", label(port.listen)), port.bytes_out);
    }

    let execs = agent.execs.counters();
    page.family("guestd_execs_running", "gauge", "Execs that run now.");
    let gauges = agent.execs.gauges();
    page.sample("", gauges.running);
    page.family("guestd_exec_records", "gauge", "Ended execs whose records are kept.");
    page.sample("", gauges.records);
    page.family("guestd_exec_output_bytes", "gauge", "Output of execs that can be read again, by where it is.");
    page.sample("in=\"memory\"", gauges.output_bytes);
    page.sample("in=\"disk\"", gauges.spilled_bytes);
    page.family("guestd_exec_readers", "gauge", "Readers attached to execs.");
    page.sample("", gauges.readers);
    page.family("guestd_exec_gaps_total", "counter", "Times that a reader was told of output it cannot have any more.");
    page.sample("", gauges.gaps);
    page.family("guestd_execs_total", "counter", "Execs by what became of them.");
    page.sample("outcome=\"started\"", execs.started);
    page.sample("outcome=\"failed\"", execs.failed);
    page.sample("outcome=\"timed_out\"", execs.timed_out);
    page.0
}

fn label(port: u16) -> String {
    format!("port=\"{port}\"")
}

/// The page, and the family that samples belong to.
#[derive(Default)]
struct Page(String, &'static str);

impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.1 = name;
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &str, value: impl Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "{}{labels} {value}", self.1);
    }
}
