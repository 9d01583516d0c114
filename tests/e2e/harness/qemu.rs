//! What a test wants of a VM, and the QEMU command line that gives it. Pure: nothing is started here.

use std::path::PathBuf;

use super::kernel::Kernel;
use super::net::Link;

/// A VM's disk.
#[derive(Debug, Clone, Default)]
pub(crate) enum Disk {
    /// The image as it is; what the guest writes is lost with it.
    #[default]
    Shared,
    /// A copy of the image that stays as the guest leaves it, with these files put into it before: path and text.
    Own(Vec<(&'static str, &'static str)>),
    /// The image, which cannot be written.
    ReadOnly,
}

/// `guestd init`, in the image with several inits.
pub(crate) const GUESTD_INIT: &str = "/usr/local/lib/guestd/init";

/// busybox init, in the same.
pub(crate) const BUSYBOX_INIT: &str = "/usr/local/lib/busybox/init";

/// systemd, in the same.
pub(crate) const SYSTEMD: &str = "/sbin/init";

/// `guestd init`, the only one of the minimal image.
pub(crate) const MINIMAL_INIT: &str = "/usr/sbin/init";

/// What a VM should be like.
#[derive(Debug, Clone)]
pub(crate) struct VmSpec {
    /// Has a vsock device.
    pub(crate) vsock: bool,
    /// Has a network device.
    pub(crate) network: bool,
    /// Memory in MiB.
    pub(crate) memory_mib: u32,
    /// Process 1, another than `/sbin/init`: the image that has it is booted then.
    pub(crate) init: Option<&'static str>,
    /// Its disk.
    pub(crate) disk: Disk,
    /// Further words for the kernel command line.
    pub(crate) kernel_args: Vec<String>,
    /// Can be committed and branched: another machine type, with a disk of its own and a vsock device that can be unplugged.
    pub(crate) branchable: bool,
}

impl Default for VmSpec {
    fn default() -> Self {
        let (init, disk) = (None, Disk::Shared);
        let kernel_args = Vec::new();
        Self { vsock: true, network: true, memory_mib: 512, init, disk, kernel_args, branchable: false }
    }
}

impl VmSpec {
    /// A VM that can be committed and branched. It has one processor, so that what it does after a restore is the same in two copies for as long
    /// as nothing tells them apart; and no device that would give it random numbers.
    pub(crate) fn branchable() -> Self {
        Self { branchable: true, memory_mib: 384, ..Self::default() }
    }

    /// A VM whose host gave it no vsock device.
    pub(crate) fn without_vsock() -> Self {
        Self { vsock: false, ..Self::default() }
    }

    /// A VM that has `guestd init` as its process 1.
    pub(crate) fn with_guestd_init() -> Self {
        Self { init: Some(GUESTD_INIT), ..Self::default() }
    }

    /// A VM of next to nothing but guestd.
    pub(crate) fn minimal() -> Self {
        Self { init: Some(MINIMAL_INIT), ..Self::default() }
    }

    /// A VM that has a vsock device and no network device.
    pub(crate) fn without_network() -> Self {
        Self { network: false, ..Self::default() }
    }

    /// A VM whose kernel has IPv6 switched off.
    pub(crate) fn without_ipv6() -> Self {
        Self { kernel_args: vec!["ipv6.disable=1".into()], ..Self::default() }
    }

    /// A VM that is told whom to ask for names.
    pub(crate) fn with_name_servers() -> Self {
        Self { kernel_args: vec!["guestd.dns=2001:db8::53,192.0.2.53".into()], ..Self::default() }
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
    pub(crate) kernel: &'a Kernel,
    pub(crate) disk: PathBuf,
    pub(crate) console: PathBuf,
    /// Where vhost-device-vsock waits for QEMU.
    pub(crate) vhost: Option<PathBuf>,
    /// Hardware virtualisation is there to be used.
    pub(crate) kvm: bool,
    /// Rate of the machine's time stamp counter, for a guest that is emulated.
    pub(crate) tsc_khz: u32,
    /// Of a VM that can be branched: where it takes orders.
    pub(crate) qmp: Option<PathBuf>,
    /// Of a branch: the memory that it goes on from.
    pub(crate) memory: Option<PathBuf>,
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
        if self.spec.branchable {
            return self.branchable_argv();
        }
        // With acpi=off Debian's virtio modules do not find the virtio-mmio devices.
        let mut argv = self.beginning("microvm,acpi=on", "2", &format!("{}M", self.spec.memory_mib));
        let mut option = |name: &str, value: String| argv.extend([format!("-{name}"), value]);
        let mode = match self.spec.disk {
            // The image is opened read-only; what the guest writes goes to an unlinked file in $TMPDIR.
            Disk::Shared => "snapshot=on",
            // What the guest has written is there for whoever looks, and need not be on this machine's disk, which may be busy.
            Disk::Own(_) => "snapshot=off,cache=unsafe",
            Disk::ReadOnly => "readonly=on",
        };
        option("drive", format!("if=none,id=root,format=raw,{mode},file={}", self.disk.display()));
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
        argv
    }

    /// What every machine has: processors, memory, kernel, console, and nothing that QEMU would add by itself.
    fn beginning(&self, machine: &str, processors: &str, memory: &str) -> Vec<String> {
        let (accel, cpu) = if self.kvm { ("kvm", "host") } else { ("tcg", "max") };
        let mut argv: Vec<String> = vec!["qemu-system-x86_64".into()];
        let mut option = |name: &str, value: String| argv.extend([format!("-{name}"), value]);
        option("name", self.id.into());
        option("machine", format!("{machine},accel={accel},memory-backend=mem0"));
        option("cpu", cpu.into());
        option("smp", processors.into());
        option("m", memory.into());
        // vhost-user needs the guest's memory shared with the device's process.
        option("object", format!("memory-backend-memfd,id=mem0,size={}M,share=on", self.spec.memory_mib));
        option("kernel", self.kernel.file.display().to_string());
        if let Some(initramfs) = &self.kernel.initramfs {
            option("initrd", initramfs.display().to_string());
        }
        option("append", self.kernel_command_line());
        option("serial", format!("file:{}", self.console.display()));
        argv.extend(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(str::to_owned));
        argv
    }

    /// The same for a VM that can be branched: a vhost-user device cannot be migrated, so it is on a port where it can be unplugged, and a
    /// branch begins without it.
    fn branchable_argv(&self) -> Vec<String> {
        let mib = self.spec.memory_mib;
        // Room for what is plugged in while it runs.
        let mut argv = self.beginning("q35", "1,maxcpus=2", &format!("{mib}M,slots=1,maxmem={}M", 2 * mib));
        let mut option = |name: &str, value: String| argv.extend([format!("-{name}"), value]);
        // Firecracker's default, too (cache_type Unsafe): a flush of the guest's is not one of this machine's, which may be busy.
        option("drive", format!("if=none,id=root,format=qcow2,cache=unsafe,file={}", self.disk.display()));
        option("device", "virtio-blk-pci,drive=root".into());
        option("device", "pcie-root-port,id=vsock-port,chassis=1".into());
        option("netdev", format!("tap,id=net0,ifname={},script=no,downscript=no", self.link.tap));
        // The hardware is the parent's, its address among it: each VM has a link of its own.
        option("device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01".into());
        if let Some(qmp) = &self.qmp {
            option("qmp", format!("unix:{},server=on,wait=off", qmp.display()));
        }
        if let Some(vhost) = &self.vhost {
            option("chardev", format!("socket,id=vsock0,path={}", vhost.display()));
            option("device", "vhost-user-vsock-pci,id=vsock,chardev=vsock0,bus=vsock-port".into());
        }
        if let Some(memory) = &self.memory {
            // Version 7.2 has no `file:`.
            option("incoming", format!("exec:cat {}", memory.display()));
        }
        argv
    }

    /// What the guest's kernel, init and agent are told.
    fn kernel_command_line(&self) -> String {
        let Link { gateway, guest, .. } = self.link;
        let mode = if matches!(self.spec.disk, Disk::ReadOnly) { "ro" } else { "rw" };
        let mut words: Vec<String> =
            ["console=ttyS0", "root=/dev/vda", mode, "reboot=k", "panic=1"].map(str::to_owned).to_vec();
        if !self.kvm {
            // Without it an emulated guest can hang after "Marking TSC unstable". QEMU hands the machine's own counter on.
            words.push(format!("tsc_early_khz={}", self.tsc_khz));
            // Its processors share that counter, which the kernel does not know: it would count timer interrupts instead, of which a
            // busy guest loses half, and what takes 10 s by its clock would take 20.
            words.push("tsc=reliable".into());
        }
        words.extend(self.spec.init.map(|init| format!("init={init}")));
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
        argv_with(&Kernel::fake(None), spec, kvm)
    }

    fn argv_with(kernel: &Kernel, spec: &VmSpec, kvm: bool) -> String {
        let gateway = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1);
        let guest = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2);
        let link = Link { number: 1, tap: "tap1".into(), gateway, guest };
        let machine = Machine {
            spec,
            id: "vm1",
            link: &link,
            kernel,
            disk: "/disk".into(),
            console: "/console".into(),
            vhost: spec.vsock.then(|| "/vhost".into()),
            kvm,
            tsc_khz: 2_596_150,
            qmp: None,
            memory: None,
        };
        machine.argv().join(" ")
    }

    #[test]
    fn the_guest_is_told_who_and_where_it_is() {
        let argv = argv(&VmSpec::default(), true);
        assert!(argv.contains(" guestd.vm_id=vm1 guestd.ip6=fd00:0:0:1::2/64,fd00:0:0:1::1 "), "{argv}");
    }

    #[test]
    fn an_initramfs_is_given_to_a_kernel_that_has_one() {
        let with = argv_with(&Kernel::fake(Some("/initramfs")), &VmSpec::default(), true);
        assert!(with.contains(" -kernel /kernel -initrd /initramfs -append "), "{with}");
        assert!(!argv(&VmSpec::default(), true).contains("initrd"));
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
    fn firecracker_json_asks_for_the_vm_that_these_tests_boot() {
        let path = super::super::artifacts::root().join("image/firecracker.json");
        let text = std::fs::read_to_string(path).expect("image/firecracker.json");
        let config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        // As on a host with KVM: an emulated guest is told more.
        let argv = argv(&VmSpec::default(), true);
        let option = |name: &str| argv.split_once(name).expect("an option").1.split(" -").next().unwrap_or_default();
        let (smp, memory) = (&config["machine-config"]["vcpu_count"], &config["machine-config"]["mem_size_mib"]);
        assert_eq!((option(" -smp "), option(" -m ")), (smp.to_string().as_str(), format!("{memory}M").as_str()));

        // The root device is Firecracker's own word. What guestd is told differs from VM to VM.
        let keys = |words: &str| -> Vec<String> {
            let words = words.split_whitespace().filter(|word| !matches!(*word, "root=/dev/vda" | "rw"));
            words
                .map(|word| {
                    if word.starts_with("guestd.") { word.split('=').next().unwrap_or(word) } else { word }.into()
                })
                .collect()
        };
        assert_eq!(keys(config["boot-source"]["boot_args"].as_str().unwrap_or_default()), keys(option(" -append ")));

        for (device, section) in [
            ("virtio-blk-device", &config["drives"][0]["is_root_device"]),
            ("virtio-net-device", &config["network-interfaces"][0]["iface_id"]),
            ("vhost-user-vsock-device", &config["vsock"]["guest_cid"]),
            ("virtio-rng-device", &config["entropy"]),
        ] {
            assert!(argv.contains(device) && !section.is_null(), "{device} is in one of the two only");
        }
        let devices = argv.matches(" -device ").count();
        assert_eq!(devices, 4, "firecracker.json lacks one of {argv}");
        let network = &config["network-interfaces"][0];
        for (field, ours) in [("host_dev_name", "ifname="), ("guest_mac", "mac=")] {
            let theirs = format!("{ours}{}", network[field].as_str().unwrap_or_default());
            assert!(argv.contains(&theirs), "{theirs} is not in {argv}");
        }
    }

    #[test]
    fn only_a_cpu_with_virtualisation_is_trusted_with_kvm() {
        assert!(has_kvm("processor\t: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_kvm("flags\t\t: fpu svm\n"));
        assert!(!has_kvm("flags\t\t: fpu hypervisor\nvmx flags\t: vnmi\n"));
    }
}
