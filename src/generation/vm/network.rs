//! Addresses and routes of a generation, and the bridged connections of the VM that it was a copy of.
//!
//! The former addresses go before the connections that had them are reset: with no route left that could carry it, a reset does not reach the
//! client, who may be talking to the VM that was branched, from the same port.

use super::super::effects::Effect;
use super::super::order::{Net, Order};
use super::{Vm, beyond};
use crate::api::GenerationKind;
use crate::sys::rtnl;

pub(super) async fn apply(vm: &Vm, order: &Order, again: bool) -> Effect {
    if !vm.is_all() {
        return beyond();
    }
    let is_copy = !again && matches!(order.announced.kind, GenerationKind::Branch | GenerationKind::Rollback);
    let net = order.net.clone().unwrap_or_default();
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    let mut note = |what: &str, result: Result<(), String>| match result {
        Ok(()) => done.push(what.to_owned()),
        Err(why) => failed.push(format!("{what}: {why}")),
    };
    let is_moved = net.ip6.is_some() || net.gateway.is_some() || net.mtu.is_some();
    let interface = match rtnl::first_interface() {
        Ok(Some(interface)) => Ok(interface),
        Ok(None) => Err("the VM has no network interface beside loopback".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    if let (true, Ok(interface)) = (is_moved, &interface) {
        note("former addresses", leave(*interface, &net).map_err(|error| error.to_string()));
    }
    if is_copy {
        let cut = vm.parts.bridge.cut(None).await;
        note("bridged connections of the former VM", cut.map(drop).map_err(|error| error.to_string()));
    }
    if is_moved {
        let settled = interface.and_then(|interface| settle(interface, &net));
        vm.parts.looker.look_now();
        note("address and route", settled);
    }
    match (failed.is_empty(), done.is_empty()) {
        (false, _) => Effect::failed(failed.join("; ")),
        (true, true) => Effect::skipped("nothing of it was given"),
        (true, false) => Effect::done(done.join(", ")),
    }
}

/// Takes away what is not to be: addresses of the interface but the link's own, and default routes, which lead by their subnets.
fn leave(interface: u32, net: &Net) -> std::io::Result<()> {
    let Some(wanted) = net.ip6 else { return Ok(()) };
    let former = rtnl::ipv6_addresses(interface)?;
    if former.iter().all(|address| *address == wanted) {
        return Ok(());
    }
    rtnl::remove_ipv6_default_routes(interface)?;
    former
        .into_iter()
        .filter(|address| *address != wanted)
        .try_for_each(|(address, length)| rtnl::remove_ipv6_address(interface, address, length))
}

fn settle(interface: u32, net: &Net) -> Result<(), String> {
    let at = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    rtnl::set_link_up(interface, net.mtu).map_err(at("setting the interface up"))?;
    if let Some((address, length)) = net.ip6 {
        rtnl::add_ipv6_address(interface, address, length).map_err(at("adding the address"))?;
    }
    if let Some(gateway) = net.gateway {
        rtnl::remove_ipv6_default_routes(interface).map_err(at("removing the former default route"))?;
        rtnl::add_ipv6_default_route(interface, gateway).map_err(at("adding the default route"))?;
    }
    Ok(())
}
