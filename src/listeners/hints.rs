//! What to do about a listener that is not reached directly, in words for a person or an agent. Pure.

use std::net::SocketAddr;

use super::{Bind, ListenerTable, runtimes::Runtime};
use crate::{
    api::{BridgePort, Scope},
    facts::AcceptQueue,
};

/// What gives the VM an address.
pub(super) const NO_IPV6_ADDRESS: &str = "the VM has no IPv6 address that the outside can reach, and the proxy comes over IPv6 \
     only; give it one by `guestd.ip6=ADDRESS/PREFIX,GATEWAY` on the kernel command line, or by router advertisements";

/// About a bind to an address that the kernel does not take for its own.
pub(super) fn absent_hint(table: &ListenerTable, runtime: Option<&Runtime>, bind: Bind, port: u16) -> String {
    let address = bind.address;
    match table.addresses.iter().find(|fact| fact.address == address && !fact.up) {
        Some(fact) => format!(
            "{address} is an address of {0}, which is down: set it up by `ip link set {0} up`, or {1}",
            fact.interface,
            how_to_bind_ipv6(runtime, port)
        ),
        None => format!("no interface has {address} (any more): add it to one, or {}", how_to_bind_ipv6(runtime, port)),
    }
}

/// About a bind to an address that only the loopback interface has. Linux takes what is sent to it on any interface.
pub(super) fn loopback_interface_hint(table: &ListenerTable, bind: Bind) -> Option<String> {
    let mut those = table.addresses.iter().filter(|fact| fact.address == bind.address).peekable();
    let only_loopback = those.peek().is_some() && those.all(|fact| fact.loopback);
    only_loopback.then(|| {
        format!(
            "{} is on the loopback interface: it is reached where the host routes that address to this VM",
            bind.address
        )
    })
}

/// Adds to the hint that new connections are dropped because the service does not take those that it has.
pub(super) fn with_queue(hint: Option<String>, queue: Option<AcceptQueue>) -> Option<String> {
    let Some(queue) = queue.filter(|queue| queue.is_full()) else { return hint };
    let full = format!(
        "its accept queue is full ({} of {}): the service does not accept fast enough; look why it is held up, or let it \
         listen with a larger backlog",
        queue.waiting,
        queue.capacity(),
    );
    Some(hint.map_or(full.clone(), |hint| format!("{full}. Besides, {hint}")))
}

pub(super) fn bridged_hint(runtime: Option<&Runtime>, entry: &BridgePort, bind: Bind, port: u16) -> String {
    match runtime {
        // Bound to loopback and public by a rule: the way to do without the bridge is to be private again.
        Some(runtime) if bind.scope == Scope::Loopback && runtime.fix_of_loopback(port).is_none() => format!(
            "a rule makes {} public to the whole internet; to end that, run `guestctl bridge remove {}`",
            runtime.name,
            entry
                .rule
                .filter(|rule| !rule.is_port())
                .map_or_else(|| entry.listen.to_string(), |rule| format!("'{rule}'"))
        ),
        _ => format!("guestd bridges IPv6 to it; to do without, {}", how_to_bind(runtime, bind.scope, port)),
    }
}

pub(super) fn loopback_hint(runtime: Option<&Runtime>, bind: Bind, port: u16) -> String {
    let why = format!(
        "{} is reached from inside this VM only and is never bridged unasked: what is reachable here is reachable by the \
         whole internet",
        bind.address,
    );
    let at = SocketAddr::new(bind.address, port);
    let rule = format!("run `guestctl bridge add {port} {at}`");
    if let Some(runtime) = runtime.filter(|runtime| runtime.fix_of_loopback(port).is_none()) {
        return format!(
            "{why}. Keep {} private, and reach it from the host by `guestctl tunnel {port}:{at}`; only if all may reach it, \
             {rule}",
            runtime.name
        );
    }
    format!("{why}. If it is meant to be public, {}, or {rule}", how_to_bind(runtime, Scope::Loopback, port))
}

pub(super) fn how_to_bind_ipv6(runtime: Option<&Runtime>, port: u16) -> String {
    how_to_bind(runtime, Scope::Wildcard, port)
}

fn how_to_bind(runtime: Option<&Runtime>, scope: Scope, port: u16) -> String {
    let exact = runtime.and_then(|runtime| {
        let (what, fix) = match scope {
            Scope::Loopback => ("every address", runtime.fix_of_loopback(port)?),
            _ => ("IPv6 too", runtime.fix(port)),
        };
        Some(format!("let {} listen on {what}: {fix}", runtime.name))
    });
    exact.unwrap_or_else(|| format!("let the service listen on `::` (IPv6 and IPv4) instead, for example [::]:{port}"))
}
