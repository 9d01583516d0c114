//! System calls and nothing else: no policy, no state of its own. All `unsafe` code of guestd is below this module.

pub mod root_dir;
