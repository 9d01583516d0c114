//! All of it on real file trees; the kernel's name is that of a UTS namespace of the test's own.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::config::Config;

/// A host name that is only remembered.
struct Remembered(String);

impl HostName for Remembered {
    fn get(&self) -> io::Result<String> {
        Ok(self.0.clone())
    }

    fn set(&mut self, name: &str) -> io::Result<()> {
        name.clone_into(&mut self.0);
        Ok(())
    }
}

struct Vm {
    directory: tempfile::TempDir,
    kernel: Remembered,
}

impl Vm {
    fn golden() -> Self {
        let vm = Self { directory: tempfile::tempdir().unwrap(), kernel: Remembered("guest".to_owned()) };
        fs::create_dir_all(vm.path("etc")).unwrap();
        fs::write(vm.path("etc/hostname"), "guest\n").unwrap();
        fs::write(vm.path("etc/hosts"), HOSTS_OF_IMAGE).unwrap();
        vm
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn settle(&mut self, vm_id: &str) -> Settled {
        let dns = ["2001:db8::53".parse().unwrap()];
        let hostname = HostNamePolicy::Auto;
        let wanted = Wanted { vm_id: Some(vm_id), given: None, former: &[], hostname, dns: &dns };
        let root = RootDir::open(&self.path("")).unwrap();
        settle(&root, &wanted, &mut self.kernel, Durability::Synced)
    }
}

const HOSTS_OF_IMAGE: &str = "127.0.0.1 localhost\n::1 localhost\n192.0.2.7 db # mine";

const CHANGED: Outcome = Outcome::Right { changed: true };
const RIGHT: Outcome = Outcome::Right { changed: false };

#[test]
fn a_vm_gets_its_name_and_name_servers_once_and_another_name_with_another_id() {
    let mut vm = Vm::golden();
    assert_eq!(vm.settle("vm-1"), Settled { hostname: CHANGED, hosts: CHANGED, resolv_conf: CHANGED });
    assert_eq!(vm.kernel.0, "vm-1");
    assert!(vm.read("etc/resolv.conf").contains("nameserver 2001:db8::53\n"));
    assert!(vm.read("etc/hosts").ends_with(HOSTS_OF_IMAGE) && vm.read("etc/hosts").contains("127.0.1.1 vm-1\n"));
    assert_eq!(vm.read("etc/hostname"), "guest\n", "the image's own name stays, for the next VM of it");

    let inode = |vm: &Vm| fs::metadata(vm.path("etc/hosts")).unwrap().ino();
    let before = inode(&vm);
    assert_eq!(vm.settle("vm-1"), Settled { hostname: RIGHT, hosts: RIGHT, resolv_conf: RIGHT });
    assert_eq!(inode(&vm), before, "nothing was written");

    assert_eq!(vm.settle("vm-2"), Settled { hostname: CHANGED, hosts: CHANGED, resolv_conf: RIGHT });
    assert_eq!(vm.kernel.0, "vm-2");
    assert!(!vm.read("etc/hosts").contains("vm-1"));
}

#[test]
fn files_keep_their_mode_and_what_cannot_be_written_is_told_and_keeps_nothing_else_back() {
    let mut vm = Vm::golden();
    fs::set_permissions(vm.path("etc/hosts"), fs::Permissions::from_mode(0o664)).unwrap();
    fs::create_dir(vm.path("etc/resolv.conf")).unwrap();
    let settled = vm.settle("vm-1");
    assert_eq!(settled.resolv_conf, Outcome::Left("it is no file".to_owned()));
    assert_eq!((settled.hostname, settled.hosts), (CHANGED, CHANGED));
    assert_eq!(fs::metadata(vm.path("etc/hosts")).unwrap().mode() & 0o7777, 0o664);
}

#[test]
fn a_link_that_leads_to_nothing_gives_way_unless_somebody_will_keep_what_is_behind_it() {
    for target in ["/run/systemd/resolve/stub-resolv.conf", "../run/systemd/resolve/resolv.conf"] {
        let mut vm = Vm::golden();
        symlink(target, vm.path("etc/resolv.conf")).unwrap();
        fs::create_dir_all(vm.path("usr/lib/systemd")).unwrap();
        fs::write(vm.path("usr/lib/systemd/systemd-resolved"), "").unwrap();
        let left = Outcome::Left("it is /usr/lib/systemd/systemd-resolved's".to_owned());
        assert_eq!(vm.settle("vm-1").resolv_conf, left, "{target}");
        assert!(fs::symlink_metadata(vm.path("etc/resolv.conf")).unwrap().is_symlink());

        fs::remove_file(vm.path("usr/lib/systemd/systemd-resolved")).unwrap();
        assert_eq!(vm.settle("vm-1").resolv_conf, CHANGED, "{target}");
        assert!(fs::symlink_metadata(vm.path("etc/resolv.conf")).unwrap().is_file());
    }
}

#[test]
fn no_link_is_followed_out_of_the_root_or_written_through() {
    let mut vm = Vm::golden();
    let outside = vm.directory.path().join("outside");
    fs::write(&outside, "").unwrap();
    for name in ["hosts", "resolv.conf"] {
        let _ = fs::remove_file(vm.path("etc").join(name));
        symlink(&outside, vm.path("etc").join(name)).unwrap();
    }
    let settled = vm.settle("vm-1");
    assert_eq!(settled.hosts, Outcome::Left("it is a link".to_owned()));
    assert_eq!(settled.resolv_conf, CHANGED, "inside the root it leads to nothing");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "");

    fs::remove_file(vm.path("etc/resolv.conf")).unwrap();
    fs::write(vm.path("inside"), "").unwrap();
    symlink("/inside", vm.path("etc/resolv.conf")).unwrap();
    assert!(matches!(vm.settle("vm-1").resolv_conf, Outcome::Left(_)));
    assert_eq!(vm.read("inside"), "");
}

#[test]
fn files_without_an_end_are_left_alone() {
    let mut vm = Vm::golden();
    for name in ["etc/hosts", "etc/resolv.conf"] {
        fs::File::create(vm.path(name)).unwrap().set_len(limits::NAMES_FILE_BYTES + 1).unwrap();
    }
    let left = || Outcome::Left("it is larger than 1048576 bytes".to_owned());
    assert_eq!(vm.settle("vm-1"), Settled { hostname: CHANGED, hosts: left(), resolv_conf: left() });
}

#[test]
fn the_kernels_own_name_is_read_and_set() {
    // In a thread, as a namespace of its own is a thread's.
    let in_namespace = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWUTS).expect("a UTS namespace of its own, which root may have");
        let mut kernel = KernelHostName;
        kernel.set("guest").unwrap();
        let mut vm = Vm::golden();
        let root = RootDir::open(&vm.path("")).unwrap();
        let hostname = HostNamePolicy::Auto;
        let wanted = Wanted { vm_id: Some("vm-1"), given: None, former: &[], hostname, dns: &[] };
        let settled = settle(&root, &wanted, &mut kernel, Durability::Synced);
        vm.kernel.0 = kernel.get().unwrap();
        (settled.hostname, vm.kernel.0)
    });
    let before = KernelHostName.get().unwrap();
    assert_eq!(in_namespace.join().unwrap(), (CHANGED, "vm-1".to_owned()));
    assert_eq!(KernelHostName.get().unwrap(), before, "the machine's own name");
}

#[test]
fn guestd_is_known_to_be_installed_by_its_directory() {
    let vm = Vm::golden();
    let root = RootDir::open(&vm.path("")).unwrap();
    assert!(!is_installed(&root));
    fs::create_dir(vm.path("etc/guestd")).unwrap();
    assert!(is_installed(&root));
}

#[test]
fn what_is_announced_holds_and_a_start_that_comes_late_does_not_undo_it() {
    let mut vm = Vm::golden();
    let root = RootDir::open(&vm.path("")).unwrap();
    let dns = ["2001:db8::1".parse().unwrap()];
    let names = Names::new(&Config { dns: vec!["2001:db8::53".parse().unwrap()], ..Config::default() });
    vm.kernel.0 = "parent".to_owned();
    let told = Told { vm_id: Some("child"), given: None, former: &["parent"], dns: &dns };
    let settled = names.announced(&root, &told, &mut vm.kernel);
    assert_eq!(settled, Settled { hostname: CHANGED, hosts: CHANGED, resolv_conf: CHANGED });
    assert_eq!(vm.kernel.0, "child");
    assert!(vm.read("etc/resolv.conf").contains("nameserver 2001:db8::1\n"));
    assert_eq!(names.start(&root, &Told { vm_id: Some("parent"), ..Told::default() }), None);

    let settled = names.announced(&root, &Told { dns: &[], ..told }, &mut vm.kernel);
    assert_eq!(settled, Settled { hostname: RIGHT, hosts: RIGHT, resolv_conf: CHANGED });
    assert!(vm.read("etc/resolv.conf").contains("nameserver 2001:db8::53\n"), "those of the configuration");
}
