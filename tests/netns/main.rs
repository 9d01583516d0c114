//! Listeners and the bridge in a network namespace of the test's own: real sockets, real routes, no effect on the machine.
//! Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

/// Makes tests of functions that take a `Tier`, one for each.
macro_rules! in_both_tiers {
    ($($test:ident)*) => {
        mod steer {
            $(#[test] fn $test() { super::$test(crate::namespace::Tier::Steer); })*
        }
        mod bind {
            $(#[test] fn $test() { super::$test(crate::namespace::Tier::Bind); })*
        }
    };
}

mod addresses;
mod agreement;
mod bridge;
mod containers;
mod events;
mod flood;
mod footprint;
mod hostile;
mod modes;
mod namespace;
mod owners;
mod plane;
mod planes;
mod probe;
mod queue;
mod relay;
mod restart;
mod rules;
#[path = "../support/mod.rs"]
mod support;
mod udp;
mod watch;
