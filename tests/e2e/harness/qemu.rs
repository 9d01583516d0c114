//! What a test wants of a VM, and the QEMU command line that gives it. Pure: nothing is started here.

use std::path::PathBuf;

use super::net::Link;

/// What a VM should be like.
#[derive(Debug, Clone)]
pub(crate) struct VmSpec {
    /// Has a vsock device.
    pub(crate) vsock: bool,
    /// Has a network device.
    pub(crate) network: bool,
    /// Memory in MiB.
    pub(crate) memory_mib: u32,
    /// Further words for the kernel command line.
    pub(crate) kernel_args: Vec<String>,
}

impl Default for VmSpec {
    fn default() -> Self {
        Self { vsock: true, network: true, memory_mib: 512, kernel_args: Vec::new() }
    }
}

impl VmSpec {
    /// A VM whose host gave it no vsock device.
    pub(crate) fn without_vsock() -> Self {
        Self { vsock: false, ..Self::default() }
    }

    /// A VM that has a vsock device and no network device.
    pub(crate) fn without_network() -> Self {
        Self { network: false, ..Self::default() }
    }

    /// A VM whose kernel has IPv6 switched off.
    pub(crate) fn without_ipv6() -> Self {
        Self { kernel_args: vec!["ipv6.disable=1".into()], ..Self::default() }
    }

    /// A VM whose init mounts the old cgroup hierarchies only.
    pub(crate) fn without_cgroup2() -> Self {
        let args = ["systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1"];
        Self { kernel_args: args.map(str::to_owned).to_vec(), ..Self::default() }
    }
}

/// A VM with everything found and named.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) spec: &'a VmSpec,
    pub(crate) id: &'a str,
    pub(crate) link: &'a Link,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) disk: PathBuf,
    pub(crate) console: PathBuf,
    /// Where vhost-device-vsock waits for QEMU.
    pub(crate) vhost: Option<PathBuf>,
    /// Hardware virtualisation is there to be used.
    pub(crate) kvm: bool,
    /// Rate of the machine's time stamp counter, for a guest that is emulated.
    pub(crate) tsc_khz: u32,
}

/// Does this CPU have hardware virtualisation? /dev/kvm alone proves nothing: it can exist and not be usable.
pub(crate) fn has_kvm(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// Rate of the time stamp counter in kHz. A machine without hardware virtualisation is itself a guest, whose processor is shown with
/// the rate of its counter.
pub(crate) fn tsc_khz(cpuinfo: &str) -> u32 {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("cpu MHz")).unwrap_or_default();
    let (mhz, khz) = line.trim_start_matches(['\t', ' ', ':']).split_once('.').unwrap_or_default();
    match (mhz.parse::<u32>(), khz.get(..3).map(str::parse::<u32>)) {
        (Ok(mhz), Some(Ok(khz))) => mhz.saturating_mul(1000).saturating_add(khz),
        // Where it is not shown, what is usual: the guest's clock then goes wrong by some percent, and nothing else.
        _ => 2_600_000,
    }
}

impl Machine<'_> {
    /// QEMU's argv.
    pub(crate) fn argv(&self) -> Vec<String> {
        let mib = self.spec.memory_mib;
        let (accel, cpu) = if self.kvm { ("kvm", "host") } else { ("tcg", "max") };
        let mut argv: Vec<String> = vec!["qemu-system-x86_64".into()];
        let mut option = |name: &str, value: String| argv.extend([format!("-{name}"), value]);
        option("name", self.id.into());
        // With acpi=off Debian's virtio modules do not find the virtio-mmio devices.
        option("machine", format!("microvm,acpi=on,accel={accel},memory-backend=mem0"));
        option("cpu", cpu.into());
        option("smp", "2".into());
        option("m", format!("{mib}M"));
        // vhost-user needs the guest's memory shared with the device's process.
        option("object", format!("memory-backend-memfd,id=mem0,size={mib}M,share=on"));
        option("kernel", self.kernel.display().to_string());
        option("initrd", self.initramfs.display().to_string());
        option("append", self.kernel_command_line());
        option("serial", format!("file:{}", self.console.display()));
        // The image is opened read-only; what the guest writes goes to an unlinked file in $TMPDIR.
        option("drive", format!("if=none,id=root,format=raw,snapshot=on,file={}", self.disk.display()));
        option("device", "virtio-blk-device,drive=root".into());
        if self.spec.network {
            option("netdev", format!("tap,id=net0,ifname={},script=no,downscript=no", self.link.tap));
            option("device", format!("virtio-net-device,netdev=net0,mac=52:54:00:00:00:{:02x}", self.link.number));
        }
        option("device", "virtio-rng-device".into());
        if let Some(vhost) = &self.vhost {
            option("chardev", format!("socket,id=vsock0,path={}", vhost.display()));
            option("device", "vhost-user-vsock-device,chardev=vsock0".into());
        }
        argv.extend(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(str::to_owned));
        argv
    }

    /// What the guest's kernel, init and agent are told.
    fn kernel_command_line(&self) -> String {
        let Link { gateway, guest, .. } = self.link;
        let mut words: Vec<String> =
            ["console=ttyS0", "root=/dev/vda", "rw", "reboot=k", "panic=1"].map(str::to_owned).to_vec();
        if !self.kvm {
            // Without it an emulated guest can hang after "Marking TSC unstable". QEMU hands the machine's own counter on.
            words.push(format!("tsc_early_khz={}", self.tsc_khz));
            // Its processors share that counter, which the kernel does not know: it would count timer interrupts instead, of which a
            // busy guest loses half, and what takes 10 s by its clock would take 20.
            words.push("tsc=reliable".into());
        }
        words.push(format!("guestd.vm_id={}", self.id));
        if self.spec.network {
            words.push(format!("guestd.ip6={guest}/64,{gateway}"));
        }
        words.extend(self.spec.kernel_args.iter().cloned());
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn argv(spec: &VmSpec, kvm: bool) -> String {
        let gateway = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1);
        let guest = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2);
        let link = Link { number: 1, tap: "tap1".into(), gateway, guest };
        let machine = Machine {
            spec,
            id: "vm1",
            link: &link,
            kernel: "/vmlinuz".into(),
            initramfs: "/initramfs".into(),
            disk: "/disk".into(),
            console: "/console".into(),
            vhost: spec.vsock.then(|| "/vhost".into()),
            kvm,
            tsc_khz: 2_596_150,
        };
        machine.argv().join(" ")
    }

    #[test]
    fn the_guest_is_told_who_and_where_it_is() {
        let argv = argv(&VmSpec::default(), true);
        assert!(argv.contains(" guestd.vm_id=vm1 guestd.ip6=fd00:0:0:1::2/64,fd00:0:0:1::1 "), "{argv}");
    }

    #[test]
    fn the_image_is_never_written() {
        assert!(argv(&VmSpec::default(), true).contains("snapshot=on,file=/disk"));
    }

    #[test]
    fn an_emulated_guest_is_told_the_speed_of_its_clock() {
        assert!(argv(&VmSpec::default(), false).contains("accel=tcg"));
        assert!(argv(&VmSpec::default(), false).contains("tsc_early_khz=2596150 tsc=reliable"));
        assert!(!argv(&VmSpec::default(), true).contains("tsc"));
        assert_eq!(tsc_khz("processor\t: 0\ncpu MHz\t\t: 2596.150\ncache size\t: 512 KB\n"), 2_596_150);
        assert_eq!(tsc_khz("processor\t: 0\n"), 2_600_000);
    }

    #[test]
    fn a_vm_without_vsock_has_no_such_device() {
        assert!(argv(&VmSpec::default(), true).contains("vhost-user-vsock-device"));
        assert!(!argv(&VmSpec::without_vsock(), true).contains("vsock"));
    }

    #[test]
    fn a_vm_without_network_has_no_such_device_and_is_told_no_address() {
        assert!(argv(&VmSpec::default(), true).contains("virtio-net-device"));
        let argv = argv(&VmSpec::without_network(), true);
        assert!(!argv.contains("net") && !argv.contains("ip6"), "{argv}");
    }

    #[test]
    fn only_a_cpu_with_virtualisation_is_trusted_with_kvm() {
        assert!(has_kvm("processor\t: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_kvm("flags\t\t: fpu svm\n"));
        assert!(!has_kvm("flags\t\t: fpu hypervisor\nvmx flags\t: vnmi\n"));
    }
}
