//! `guestd lint` on root file systems that are made for the test, each as a directory and as a real ext4 image, and on Debian's.
//! Needs root, and Debian's e2fsprogs.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do: at once and by name")]

mod cases;
mod command;
mod debian;
mod fixture;
mod fuzz;
mod hostile;
mod images;
mod tools;
mod waivers;
