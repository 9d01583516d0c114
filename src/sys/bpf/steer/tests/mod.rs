//! What the programs do to services and clients, in network namespaces of the tests' own. Needs root.

mod counting;
mod rebinding;
mod rig;
mod steering;
