//! SSH and what builds on it, into a VM that has no network at all: `guestctl tunnel --stdio` over vsock is the connection.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::{Net, Vm, VmSpec};

/// For some MiB through SSH in a guest that is emulated on a busy machine.
const COPY_DEADLINE: Duration = Duration::from_secs(120);

/// Says of everything in the directory what it is: mode, links, date, path, target, SHA-256. The same here and in the VM.
const MANIFEST: &str = r#"cd "$0"
export TZ=UTC
find . -type d -printf '%M %TY-%Tm-%Td %TH:%TM %p\n' | LC_ALL=C sort
find . ! -type d -printf '%M %n %TY-%Tm-%Td %TH:%TM %p %l\n' | LC_ALL=C sort
find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"#;

#[test]
fn ssh_and_rsync_work_through_the_tunnel_of_a_vm_without_any_network() -> Result<()> {
    let net = Net::new()?;
    let mut vm = Vm::boot(&net, VmSpec::without_network())?;
    vm.wait_answer()?;
    vm.wait_listener("sshd listens", |listener| listener.port == 22)?;
    let devices = vm.sh("ls /sys/class/net")?;
    ensure!(devices == "lo", "it has network devices: {devices}");

    let ssh = vm.ssh_by_tunnel()?;
    let ran = ssh.run("uname -n; echo $SSH_CONNECTION; echo complaint >&2; exit 7")?.exits(7)?;
    ensure!(ran.out().ends_with(" 127.0.0.1 22") && ran.err() == "complaint", "it came by another way:\n{ran}");

    let (sent, back) = (net.dir().join("sent"), net.dir().join("back"));
    make_tree(&sent).context("making a tree")?;
    let expected = manifest_here(&net, &sent)?;
    ssh.rsync(&format!("{}/", sent.display()), "vm:/srv/tree/", COPY_DEADLINE)?.ok()?;
    let there = vm.exec(["sh", "-euc", MANIFEST, "/srv/tree"])?.out();
    ensure!(there == expected, "the tree in the VM is another one:\n{there}\n--- and not\n{expected}");

    // What comes back was made in the VM, and nothing of it is here already.
    vm.sh("cd /srv/tree && seq 300000 >more && ln more linked")?;
    let expected = vm.exec(["sh", "-euc", MANIFEST, "/srv/tree"])?.out();
    ssh.rsync("vm:/srv/tree/", &format!("{}/", back.display()), COPY_DEADLINE)?.ok()?;
    let came = manifest_here(&net, &back)?;
    ensure!(came == expected, "the tree that came back is another one:\n{came}\n--- and not\n{expected}");
    let same = net.run(["diff", "-r", "-q", &sent.display().to_string(), &back.display().to_string()])?;
    let only: Vec<String> = same.out().lines().map(|line| line.replace(&back.display().to_string(), "back")).collect();
    ensure!(only == ["Only in back: linked", "Only in back: more"], "byte by byte they differ:\n{same}");
    vm.passed()
}

fn manifest_here(net: &Net, dir: &Path) -> Result<String> {
    Ok(net.run(["sh", "-euc", MANIFEST, &dir.display().to_string()])?.ok()?.out())
}

/// Names, sizes and kinds that a copy may stumble over.
fn make_tree(root: &Path) -> Result<()> {
    let deep = root.join("a directory/with \u{00e4} and 'quotes'/deep");
    fs::create_dir_all(&deep)?;
    fs::create_dir(root.join("empty"))?;
    for (path, bytes) in [
        (root.join("nothing"), 0),
        (root.join("one"), 1),
        (deep.join("odd"), 65_537),
        (root.join("large"), 6 * 1024 * 1024 + 3),
    ] {
        // Nothing that compression or a cut could hide in.
        io::copy(&mut File::open("/dev/urandom")?.take(bytes), &mut File::create(path)?)?;
    }
    fs::set_permissions(root.join("one"), PermissionsExt::from_mode(0o751))?;
    fs::hard_link(root.join("one"), deep.join("one again"))?;
    symlink("no such file", root.join("dangling"))?;
    symlink("../one", root.join("empty/link"))?;
    Ok(())
}
