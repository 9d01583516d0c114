//! `guestctl health`.

use std::time::{Duration, Instant};

use crate::api::{CheckState, Health, Status};
use crate::client::Client;

use super::failure::{Failure, exit};
use super::output::Output;
use super::table::{Cell, Palette, Table, Tone};
use super::text::escape;

pub(super) async fn run(client: &Client, wait: Option<u64>, output: Output) -> Result<u8, Failure> {
    let health = match wait {
        Some(secs) => client.wait_ready(Instant::now() + Duration::from_secs(secs)).await?,
        None => client.health().await?,
    };
    output.show(&health, render)?;
    Ok(match health.status {
        Status::Ready => exit::OK,
        Status::Degraded | Status::Starting | Status::Draining => exit::NOT_READY,
    })
}

fn render(health: &Health, palette: Palette) -> String {
    let (tone, status) = match health.status {
        Status::Ready => (Tone::Good, "ready"),
        Status::Degraded => (Tone::Notice, "degraded"),
        Status::Starting => (Tone::Notice, "starting"),
        Status::Draining => (Tone::Bad, "draining"),
    };
    let status = palette.paint(tone, status);
    let since = health
        .ready_after_boot_secs
        .map_or_else(String::new, |secs| format!(", first answered {secs:.2} s after the kernel's start"));
    let mut text = format!("{status}: guestd {}, up {:.2} s{since}\n", escape(&health.version), health.uptime_secs);
    if !health.checks.is_empty() {
        let mut table = Table::new(&["CHECK", "STATE", "MESSAGE"]);
        for check in &health.checks {
            let (tone, state) = match check.state {
                CheckState::Ok => (Tone::Good, "ok"),
                CheckState::Degraded => (Tone::Bad, "degraded"),
                CheckState::Off => (Tone::Neutral, "off"),
            };
            let (name, message) = (Cell::new(&check.name), Cell::new(&check.message));
            table.row([name, Cell::toned(tone, state), message]);
        }
        text.push('\n');
        text.push_str(&table.render(palette));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Check;

    fn check(name: &str, state: CheckState, message: &str) -> Check {
        Check { name: name.into(), state, message: message.into() }
    }

    #[test]
    fn a_degraded_vm_says_what_is_missing() {
        let health = Health {
            status: Status::Degraded,
            version: "0.1.0".into(),
            uptime_secs: 12.345,
            ready_after_boot_secs: Some(3.1),
            checks: vec![
                check("vsock", CheckState::Ok, "listens on port 1024"),
                check("ipv6", CheckState::Degraded, "the kernel has no IPv6\u{1b}[8m"),
                check("bridge", CheckState::Off, "switched off by bridge.auto"),
            ],
        };
        insta::assert_snapshot!(render(&health, Palette::Plain), @r"
        degraded: guestd 0.1.0, up 12.35 s, first answered 3.10 s after the kernel's start

        CHECK   STATE     MESSAGE
        vsock   ok        listens on port 1024
        ipv6    degraded  the kernel has no IPv6\u{1b}[8m
        bridge  off       switched off by bridge.auto
        ");
    }

    #[test]
    fn a_report_without_checks_is_one_line() {
        let health = Health {
            status: Status::Starting,
            version: "0.1.0".into(),
            uptime_secs: 1.0,
            ready_after_boot_secs: None,
            checks: Vec::new(),
        };
        insta::assert_snapshot!(render(&health, Palette::Plain), @"starting: guestd 0.1.0, up 1.00 s");
    }
}
