//! The route that makes the stand-in addresses usable: `local 240.0.0.0/4 dev lo`, added when the first port is bridged.

use std::time::{Duration, Instant};

use super::{PSEUDO_IPV4, PSEUDO_IPV4_BITS, PseudoIpv4State};
use crate::sys::rtnl;

/// Between two looks at it. Adding what is there already costs a few microseconds, and brings back a route that went with
/// its interface.
const INTERVAL: Duration = Duration::from_secs(5);

/// The route, as far as this agent knows.
#[derive(Debug, Default)]
pub(super) struct PseudoRoute {
    state: PseudoIpv4State,
    looked: Option<Instant>,
}

impl PseudoRoute {
    /// Makes sure that the route is there.
    pub(super) fn set(&mut self) -> Result<(), String> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= INTERVAL) {
            self.looked = Some(Instant::now());
            self.state = match rtnl::add_local_ipv4_route(PSEUDO_IPV4, PSEUDO_IPV4_BITS) {
                Ok(()) => PseudoIpv4State::Set,
                Err(error) => PseudoIpv4State::Failed(format!(
                    "adding `local {PSEUDO_IPV4}/{PSEUDO_IPV4_BITS} dev lo` failed: {error}"
                )),
            };
        }
        match &self.state {
            PseudoIpv4State::Failed(why) => Err(why.clone()),
            PseudoIpv4State::NotNeeded | PseudoIpv4State::Set => Ok(()),
        }
    }

    pub(super) fn state(&self) -> &PseudoIpv4State {
        &self.state
    }

    /// Takes it away again.
    pub(super) fn remove(&self) {
        if self.state == PseudoIpv4State::Set
            && let Err(error) = rtnl::remove_local_ipv4_route(PSEUDO_IPV4, PSEUDO_IPV4_BITS)
        {
            tracing::warn!(%error, "bridge: the route of the stand-in addresses stays");
        }
    }
}
