//! `guestctl ports`: what listens in the VM, who can reach it, and what to do where nobody can.

mod live;
mod mirror;
mod redraw;
mod report;
mod udp;
mod watch;

use crate::api::{Cause, Listener};
use crate::client::Client;

use super::args::PortsArgs;
use super::failure::{Failure, exit};
use super::output::Output;

use report::Report;

pub(super) async fn run(client: &Client, args: PortsArgs, output: Output) -> Result<u8, Failure> {
    let PortsArgs { all, watch, probe, udp } = args;
    if watch {
        return watch::run(client, all, output).await;
    }
    if udp {
        let sockets = client.udp_sockets().await?;
        output.show(&sockets, |sockets, palette| udp::render(sockets, palette))?;
        return Ok(exit::OK);
    }
    let listeners = if probe { client.probe_listeners().await? } else { client.listeners().await? };
    let (shown, hidden) = select(listeners, all);
    if output.json {
        output.json_line(&shown)?;
        return Ok(exit::OK);
    }
    // A line below the table that an older guestd does not know: no reason to fail.
    let udp = client.udp_sockets().await.unwrap_or_default();
    let report = Report { listeners: &shown, hidden, all, probed: probe, udp: &udp };
    super::output::stdout(report.render(output.palette).as_bytes())?;
    Ok(exit::OK)
}

/// Those to show and the number of others.
fn select(listeners: Vec<Listener>, all: bool) -> (Vec<Listener>, usize) {
    let before = listeners.len();
    let shown: Vec<Listener> = listeners.into_iter().filter(|listener| is_shown(listener, all)).collect();
    let hidden = before - shown.len();
    (shown, hidden)
}

/// Without `all`, only those of the VM's own network namespace are.
fn is_shown(listener: &Listener, all: bool) -> bool {
    all || listener.cause != Some(Cause::OtherNetns)
}
