//! Who may talk to the agent: the host by vsock, root by the socket, and nobody else.

use anyhow::{Result, ensure};

use crate::harness::{Net, Vm, VmSpec};

/// guestctl's exit status where it cannot reach a VM.
const UNREACHABLE: i32 = 69;

/// guestctl's exit status for its own failure, a refusal among them.
const FAILED: i32 = 125;

#[test]
fn processes_in_the_guest_are_refused_over_vsock_and_all_but_root_on_the_socket() -> Result<()> {
    let net = Net::new()?;
    let vm = Vm::boot(&net, VmSpec::default())?;
    vm.wait_ready()?;

    // Root by the socket is served; this is what makes the refusals below mean something.
    vm.exec(["guestctl", "info"])?;

    // VMADDR_CID_LOCAL: by loopback a process would be the host, if the agent did not look at the peer's CID.
    vm.sh("modprobe vsock_loopback")?;
    let loopback = vm.ctl(["exec", "--", "guestctl", "--vm", "vsock:1", "info"])?.exits(FAILED)?;
    ensure!(loopback.err().contains("403"), "refused, and not for its CID:\n{loopback}");
    // The same by the VM's own CID, which the kernel loops back too.
    let own = vm.ctl(["exec", "--", "guestctl", "--vm", &format!("vsock:{}", vm.cid()), "exec", "--", "id"])?;
    let own = own.exits(FAILED)?;
    ensure!(own.err().contains("403"), "refused, and not for its CID:\n{own}");
    ensure!(own.out().is_empty(), "a command ran for a process in the guest:\n{own}");

    let nobody = vm.ctl(["exec", "-u", "nobody", "--", "guestctl", "info"])?.exits(UNREACHABLE)?;
    ensure!(nobody.err().contains("ermission denied"), "refused, and not for its user:\n{nobody}");
    // Even where the file's mode lets everybody in, the agent looks at the peer itself.
    vm.sh("chmod 0666 /run/guestd.sock")?;
    let nobody = vm.ctl(["exec", "-u", "nobody", "--", "guestctl", "info"])?.exits(FAILED)?;
    ensure!(nobody.err().contains("403"), "refused, and not for its user:\n{nobody}");
    vm.passed()
}
