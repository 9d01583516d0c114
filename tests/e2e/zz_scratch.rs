use crate::harness::*;
use std::time::*;
#[test]
fn scratch() -> anyhow::Result<()> {
    let net = Net::new()?;
    let t = Instant::now();
    let mut vm = Vm::boot(&net, VmSpec::default())?;
    println!("started {:?}", t.elapsed());
    until("login", Duration::from_secs(60), || {
        vm.alive()?;
        let c = vm.console_text()?;
        Ok((c.contains("Reached target multi-user") || c.contains("login:")).then_some(()))
    })?;
    println!("multi-user {:?}", t.elapsed());
    println!("{}", vm.console_text()?);
    println!("{:?}", net.run(["ip", "-6", "a"])?.out());
    anyhow::bail!("x")
}
