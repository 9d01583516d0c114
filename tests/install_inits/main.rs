//! `guestd install` and `guestd uninstall` for every init system, on file trees like those of the distributions that have it, and under the
//! init systems themselves.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do: at once and by name")]

#[path = "../support/build.rs"]
mod build;

mod booted;
mod disk;
mod dry_run;
mod every_init;
mod images;
mod links;
mod scripts;
mod ssh;
mod under_busybox;
mod under_openrc;
mod under_runit;
mod uninstall;
mod upgrade;
