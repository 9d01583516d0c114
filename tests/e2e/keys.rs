//! SSH keys in a VM: its own are made before sshd starts, and what the host authorizes opens it, and nothing else.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use guestd::api::{CheckState, Keys, KeysChanged};

use crate::harness::{Net, Ssh, Vm, VmSpec};

/// A key pair of the host's own, with its public half beside it.
fn key_pair(net: &Net, name: &str) -> Result<PathBuf> {
    let path = net.dir().join(name);
    net.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of the host", "-f", &path.display().to_string()])?
        .ok()?;
    Ok(path)
}

#[test]
fn the_host_key_is_the_vms_own_from_the_first_boot_on_and_keys_open_it_while_they_are_authorized() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    vm.wait_ready()?;
    vm.wait_listener("sshd listens", |listener| listener.port == 22)?;

    let health = vm.health()?;
    let check = health.checks.iter().find(|check| check.name == "keys").context("health has no check `keys`")?;
    ensure!(check.state == CheckState::Ok, "{check:#?}");
    let keys: Keys = vm.ctl(["--json", "keys", "list"])?.ok()?.json()?;
    ensure!(keys.problems.is_empty() && keys.host_keys.len() == 1 && keys.identities.len() == 2, "{keys:#?}");
    let scan = net.run(["ssh-keyscan", "-T", "30", "-t", "ed25519", &vm.address().to_string()])?.ok()?;
    ensure!(
        scan.out().contains(&keys.host_keys[0].key),
        "sshd shows another host key than guestd tells: {keys:#?}\n{scan}"
    );
    ensure!(vm.sh("cat /etc/guestd/ssh/made_for.json")?.contains(&vm.id), "the keys were not made for {}", vm.id);

    // Not authorized, authorized for a while, not any more.
    let key = key_pair(&net, "host-key")?;
    let ssh = Ssh::direct(&net, &key, vm.address());
    ssh.run("true")?.exits(255)?;
    let public = key.with_extension("pub").display().to_string();
    let added: KeysChanged = vm.ctl(["--json", "keys", "add", "--expires", "1h", &public])?.ok()?.json()?;
    ensure!(added.note.is_none() && added.keys.len() == 1, "{added:#?}");
    ensure!(ssh.run("id -un")?.ok()?.out() == "root", "this is not root");
    vm.ctl(["keys", "remove", &added.keys[0].id])?.ok()?;
    ssh.run("true")?.exits(255)?;
    ensure!(vm.ssh().run("id -un")?.ok()?.out() == "root", "the golden key is gone, too");

    // The same VM after a restart of its agent, by SSH: what the agent runs ends with it.
    vm.ssh().run("systemctl restart guestd.service")?.ok()?;
    let after: Keys = vm.ctl(["--json", "keys", "list"])?.ok()?.json()?;
    ensure!(after == keys, "the VM's keys are not what they were: {after:#?}\n{keys:#?}");
    vm.passed()
}
