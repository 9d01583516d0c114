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

    // VMADDR_CID_LOCAL: by loopback a process would be the host, if the agent did not look at the peer's CID. The same by the VM's
    // own CID, which the kernel loops back too. A kernel that has no loopback gives what is sent so to the host, as nothing for it.
    let loops = vm.artifacts().kernel.has("VSOCKETS_LOOPBACK")?;
    for cid in [1, vm.cid()] {
        let ran = vm.ctl(["exec", "--", "guestctl", "--vm", &format!("vsock:{cid}"), "exec", "--", "id"])?;
        let ran = ran.exits(if loops { FAILED } else { UNREACHABLE })?;
        ensure!(!loops || ran.err().contains("403"), "refused, and not for its CID:\n{ran}");
        ensure!(ran.out().is_empty(), "a command ran for a process in the guest:\n{ran}");
    }

    let nobody = vm.ctl(["exec", "-u", "nobody", "--", "guestctl", "info"])?.exits(UNREACHABLE)?;
    ensure!(nobody.err().contains("ermission denied"), "refused, and not for its user:\n{nobody}");
    // Even where the file's mode lets everybody in, the agent looks at the peer itself.
    vm.sh("chmod 0666 /run/guestd.sock")?;
    let nobody = vm.ctl(["exec", "-u", "nobody", "--", "guestctl", "info"])?.exits(FAILED)?;
    ensure!(nobody.err().contains("403"), "refused, and not for its user:\n{nobody}");
    vm.passed()
}
