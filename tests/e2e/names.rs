//! What the VM is called, and whom it asks for names.

use anyhow::{Result, ensure};

use crate::harness::{Net, Vm, VmSpec};

#[test]
fn a_vm_is_called_by_its_id_and_asks_the_name_servers_it_was_told_of_unless_somebody_has_set_others() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::with_name_servers())?;
    vm.wait_ready()?;
    let name = vm.name();
    let id = name.split('.').next().unwrap_or_default();
    settled(&vm, id)?;
    ensure!(vm.sh("cat /etc/hostname")? == "guest", "the image's own name was written over");
    // By the C library, and at an address of the VM itself.
    let found = vm.sh(&format!("getent hosts {id}"))?;
    ensure!(found.starts_with("127.0.1.1"), "{id} is {found}");
    let servers = vm.sh("grep ^nameserver /etc/resolv.conf")?;
    ensure!(servers == "nameserver 2001:db8::53\nnameserver 192.0.2.53", "{servers}");

    // Somebody else's from now on, and the agent comes anew.
    let hosts = vm.sh("echo 192.0.2.7 db >>/etc/hosts; cat /etc/hosts")?;
    vm.sh("echo nameserver 192.0.2.1 >/etc/resolv.conf; hostname mine")?;
    vm.wait_listener("sshd listens", |listener| listener.port == 22)?;
    vm.ssh().run("systemctl restart guestd.service")?.ok()?;
    vm.wait_ready()?;
    settled(&vm, "mine")?;
    ensure!(vm.sh("cat /etc/resolv.conf")? == "nameserver 192.0.2.1", "name servers were written over");
    ensure!(vm.sh("cat /etc/hosts")? == hosts, "/etc/hosts was changed");
    vm.passed()
}

/// Waits until the agent has looked at the names, which it does beside all else, and sees that the host name is `name` then.
fn settled(vm: &Vm<'_>, name: &str) -> Result<()> {
    let looked = r#"timeout 30 sh -c 'while guestctl --json health | grep -q "not looked at yet"; do sleep 0.1; done'"#;
    vm.sh(looked)?;
    let host_name = vm.sh("hostname")?;
    ensure!(host_name == name, "the VM is called {host_name:?}, not {name:?}: {:#?}", vm.health()?);
    Ok(())
}
