//! What the agent orders, carried out.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use super::{Next, Plane, aside::is_foreign, targets::Origin};
use crate::{
    bridge::orders::{Answer, Order, State, Want},
    limits,
    sys::rtnl,
};

impl Plane {
    pub(super) fn obey(&mut self, order: Order) -> Next {
        match order {
            Order::Want(_) if self.is_retired => {
                let message = "it was told to make room for another".to_owned();
                self.answer(&Answer::Error { message });
                return Next::Go;
            }
            Order::Want(want) => self.want(&want),
            Order::Begin | Order::Status { clients: false } => {}
            Order::Status { clients: true } => {
                let state = State { clients: Some(self.clients()), ..self.state() };
                self.answer(&Answer::State(state));
                return Next::Go;
            }
            Order::Cut { listen: None } => {
                self.engine.cut_all();
                self.aside.cut(|_| true);
            }
            Order::Cut { listen: Some(listen) } => {
                // First, for it hands connections over.
                if let Some(counters) = self.targets.counters().get(&listen) {
                    self.engine.cut_counted(counters);
                }
                self.aside.cut(|one| one.local.port() == listen);
            }
            Order::Retire => {
                tracing::info!(connections = self.engine.totals().open, "bridge: data plane makes room for another");
                self.let_go();
                self.is_retired = true;
                if let Err(error) = self.door.make_room() {
                    tracing::warn!(%error, "bridge: no other agent will find this data plane");
                }
            }
            Order::End => return Next::End,
        }
        let state = self.state();
        self.answer(&Answer::State(state));
        Next::Go
    }

    fn want(&mut self, want: &Want) {
        if want.auto || !want.ports.is_empty() {
            self.pseudo_route.set();
            self.refresh_origin();
        }
        let Ok(steer) = &mut self.steer else { return self.held.want(want, &self.engine, &self.targets) };
        self.failures.clear();
        for port in &want.ports {
            if let Err(why) = self.targets.set(port.listen, port.to, port.mode) {
                self.failures.insert(port.listen, why);
            }
        }
        steer.want(want);
        self.targets.retain(|number| want.ports.iter().any(|port| port.listen == number));
    }

    /// Where connections to services come from.
    pub(super) fn refresh_origin(&mut self) {
        if self.pseudo_route.state().is_none() {
            return;
        }
        self.pseudo_route.set();
        let origin = match self.pseudo_route.state() {
            Some(Err(why)) => own_ipv4().map(Origin::Own).unwrap_or_else(|| {
                Origin::Nowhere(format!("{why}, and the VM has no IPv4 address of its own to connect from"))
            }),
            _ => Origin::Pseudo,
        };
        if let Some(failures) = self.targets.set_origin(origin)
            && self.steer.is_ok()
        {
            self.has_news |= self.failures != failures;
            self.failures = failures;
        }
    }

    /// Resets connections to addresses that the VM had before it was branched, or that were taken from it.
    pub(super) fn cut_foreign(&mut self) {
        match rtnl::addresses() {
            Ok(own) => {
                let own: HashSet<_> = own.into_iter().map(|own| own.address).collect();
                self.engine.cut_foreign(own.clone());
                self.aside.cut(|one| is_foreign(one, &own));
            }
            Err(error) => {
                tracing::warn!(%error, "bridge: the VM's addresses are not known");
                self.cut_foreign = Some(Instant::now() + limits::BRIDGE_ADDRESS_GRACE);
            }
        }
    }

    /// Takes no more connections.
    pub(super) fn let_go(&mut self) {
        if let Ok(steer) = &mut self.steer {
            steer.stop();
        }
        self.steered = None;
        if let Some(listener) = self.listener.take() {
            self.engine.close(listener);
        }
        self.held.close(&self.engine);
        self.targets.retain(|_| false);
    }
}

/// An IPv4 address of the VM's that is neither loopback nor link-local.
fn own_ipv4() -> Option<Ipv4Addr> {
    let addresses = rtnl::addresses().ok()?;
    addresses.into_iter().filter(|fact| fact.up && !fact.loopback).find_map(|fact| match fact.address {
        IpAddr::V4(address) if !address.is_link_local() && !address.is_loopback() => Some(address),
        _ => None,
    })
}
