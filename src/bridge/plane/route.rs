//! The route that makes the stand-in addresses usable: `local 240.0.0.0/4 dev lo`, added when the first port is bridged.

use crate::{
    bridge::{PSEUDO_IPV4, PSEUDO_IPV4_BITS},
    sys::rtnl,
};

/// The route, as far as this plane knows. None: it was not needed yet; an error says why it cannot be had.
#[derive(Debug, Default)]
pub(super) struct PseudoRoute(Option<Result<(), String>>);

impl PseudoRoute {
    /// Makes sure that the route is there. Adding what is there already costs a few microseconds, and brings back a route that went
    /// with its interface.
    pub(super) fn set(&mut self) {
        let added = rtnl::add_local_ipv4_route(PSEUDO_IPV4, PSEUDO_IPV4_BITS);
        self.0 = Some(
            added.map_err(|error| format!("adding `local {PSEUDO_IPV4}/{PSEUDO_IPV4_BITS} dev lo` failed: {error}")),
        );
    }

    pub(super) fn state(&self) -> &Option<Result<(), String>> {
        &self.0
    }

    /// Takes it away again.
    pub(super) fn remove(&mut self) {
        if self.0.take() == Some(Ok(()))
            && let Err(error) = rtnl::remove_local_ipv4_route(PSEUDO_IPV4, PSEUDO_IPV4_BITS)
        {
            tracing::warn!(%error, "bridge: the route of the stand-in addresses stays");
        }
    }
}
