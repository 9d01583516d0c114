//! Services: what they are (`definition`), in which order they start and stop (`order`), how far each is (`life`), and what is to be done next
//! (`fleet`). Pure.

mod allowance;
mod definition;
mod fields;
mod fleet;
mod life;
mod order;

pub(super) use definition::{AGENT, Bounds, Definition, Ready, Restart, agent, is_name};
pub(super) use fleet::{Member, due, stop_time};
pub(super) use life::{Act, Ended, Life, Policy};
use order::{may_start, may_stop};

pub(super) use order::sorted;
