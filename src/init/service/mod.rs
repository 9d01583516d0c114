//! Services: what they are (`definition`), in which order they start and stop (`order`), and how far each is (`life`). Pure.

mod definition;
mod fields;
mod life;
mod order;

pub(super) use definition::{AGENT, Bounds, Definition, Ready, Restart, agent, is_name};
pub(super) use life::{Act, Ended, Life, Policy};
pub(super) use order::{may_start, may_stop, sorted};
