//! What `image/` makes: file systems that are the same for the same inputs, a root file system of next to nothing, and documents that
//! are true of the kernels and of Firecracker's interface.
//!
//! The scripts are run as they are, on root file systems that are small enough to be made in a second.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod containers;
mod firecracker;
mod kernels;
mod minimal;
mod same;
mod workshop;
