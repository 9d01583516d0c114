//! Services that come, go and move: the bridge follows, and never stands in their way.

use anyhow::{Result, ensure};
use guestd::api::{Exposure, Family, Listener};

use crate::golden_path::{clients_logged, legacy_page};
use crate::harness::{Net, PATIENCE, Vm, VmSpec, page, until};

/// What curl exits with when nothing listens.
const CONNECTION_REFUSED: i32 = 7;

#[test]
fn the_bridge_follows_a_service_that_restarts_and_lets_go_of_one_that_moves_to_ipv6() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    vm.wait_ready()?;
    let first = vm.wait_listener("0.0.0.0:3000 is bridged", bridged)?;
    page_comes(&vm)?;

    vm.sh("systemctl restart legacy-web.service")?;
    let second = vm.wait_listener("the restarted server is bridged", |l| bridged(l) && l.inode != first.inode)?;
    ensure!(second.process != first.process, "the process is still the old one: {second:#?}");
    page_comes(&vm)?;

    // Stopped, it is neither listed nor held by the bridge. That is waited for: a bridge that binds the port sees the end of a
    // service at its next look, and a service that takes [::] at once can still find it there.
    vm.sh("systemctl stop legacy-web.service")?;
    vm.wait_ports("nothing listens on 3000", |ports| ports.iter().all(|l| l.port != 3000).then_some(()))?;
    until("the bridge lets go of port 3000", PATIENCE, || {
        let curl = vm.net.run(["curl", "-sS", "--max-time", "10", &page(vm.address(), 3000)])?;
        Ok((curl.code == CONNECTION_REFUSED).then_some(()))
    })?;

    // Now it takes [::]:3000 for itself, which fails where anybody holds the port on one IPv6 address.
    vm.sh("truncate -s 0 /var/log/legacy-web.log; echo 'LISTEN=[::]:3000' >/run/legacy-web.env")?;
    vm.sh("systemctl start legacy-web.service")?;
    let moved = vm.wait_listener("the server on [::]:3000 is direct", |l| {
        l.port == 3000 && l.family == Family::Ipv6 && l.exposure == Exposure::Direct
    })?;
    ensure!(moved.cause.is_none(), "direct, with a cause: {moved:#?}");
    page_comes(&vm)?;
    let log = vm.sh("cat /var/log/legacy-web.log")?;
    ensure!(!log.contains("in use"), "the bridge was in its way:\n{log}");
    ensure!(clients_logged(&log).is_empty(), "it saw an IPv4 client, so the bridge is still between:\n{log}");

    // And back.
    vm.sh("rm /run/legacy-web.env; systemctl restart legacy-web.service")?;
    vm.wait_listener("the server that moved back is bridged", bridged)?;
    page_comes(&vm)?;
    vm.passed()
}

fn bridged(listener: &Listener) -> bool {
    listener.port == 3000 && listener.exposure == Exposure::Bridged
}

fn page_comes(vm: &Vm<'_>) -> Result<()> {
    let curl = vm.net.run(["curl", "-sS", "--max-time", "20", &page(vm.address(), 3000)])?.ok()?;
    ensure!(curl.stdout == legacy_page()?, "this is not the legacy server's page:\n{curl}");
    Ok(())
}
