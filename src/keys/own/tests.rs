use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
};

use super::*;
use crate::keys::{AUTHORIZED_KEYS, GoldenPair};

const NOW: u64 = 1_000_000_000;

/// An installed root file system with an sshd.
struct Vm {
    directory: tempfile::TempDir,
    store: Store,
    keys: OwnKeys,
}

impl Vm {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for dir in ["etc/guestd/ssh/authorized_keys", "etc/ssh", "usr/sbin"] {
            fs::create_dir_all(directory.path().join(dir)).unwrap();
        }
        fs::write(directory.path().join("usr/sbin/sshd"), "OpenSSH_9.2p1").unwrap();
        let store = Store::open(directory.path()).unwrap();
        Self { directory, store, keys: OwnKeys::new(Box::new(Vec::new)) }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    fn apply(&self, policy: HostKeyPolicy, vm_id: Option<&str>) -> Applied {
        self.keys.apply(&self.store, policy, vm_id, NOW).unwrap()
    }

    /// What was made: host keys, the VM's own.
    fn made(&self, vm_id: Option<&str>) -> (bool, bool) {
        let applied = self.apply(HostKeyPolicy::Renew, vm_id);
        (applied.host_keys_made, applied.vm_key_made)
    }

    fn host_key(&self) -> String {
        host_key(self.store.root()).unwrap().unwrap().fingerprint()
    }

    fn vm_key(&self) -> String {
        identity::own(self.store.root()).unwrap().unwrap().fingerprint()
    }

    /// Fingerprints of what opens the VM on behalf of itself.
    fn authorized(&self) -> Vec<String> {
        let (keys, problems) = self.store.list();
        assert_eq!(problems, Vec::<String>::new());
        keys.into_iter().filter(|key| key.source == VM_SOURCE).map(|key| key.key.fingerprint).collect()
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.path(path)).unwrap().permissions().mode() & 0o7777
    }
}

#[test]
fn keys_are_made_once_for_a_vm_and_stay_its_own() {
    let vm = Vm::new();
    assert_eq!(vm.made(Some("a")), (true, true));
    let keys = (vm.host_key(), vm.vm_key());
    for (private, public) in [("etc/ssh/ssh_host_ed25519_key", 0o644), (VM_IDENTITY, 0o644)] {
        assert_eq!((vm.mode(private), vm.mode(&format!("{private}.pub"))), (0o600, public));
    }
    assert_eq!(vm.authorized(), [vm.vm_key()]);
    assert_eq!(vm.made(Some("a")), (false, false));
    assert_eq!(vm.made(None), (false, false));
    assert_eq!((vm.host_key(), vm.vm_key()), keys);
    assert_ne!(keys.0, keys.1);
}

#[test]
fn a_vm_with_another_id_gets_keys_of_its_own_and_its_parents_open_nothing() {
    let vm = Vm::new();
    vm.apply(HostKeyPolicy::Renew, Some("parent"));
    let parent = (vm.host_key(), vm.vm_key());
    fs::write(vm.path("etc/ssh/ssh_host_ed25519_key-cert.pub"), "of the parent's key").unwrap();
    fs::write(vm.path("etc/ssh/ssh_host_rsa_key"), "the parent's").unwrap();
    fs::write(vm.path("etc/ssh/ssh_host_rsa_key.pub"), "the parent's").unwrap();
    fs::write(vm.path("etc/ssh/sshd_config"), "Port 22").unwrap();
    assert_eq!(vm.made(Some("child")), (true, true));
    assert!(vm.host_key() != parent.0 && vm.vm_key() != parent.1);
    assert_eq!(vm.authorized(), [vm.vm_key()]);
    let mut left: Vec<_> = fs::read_dir(vm.path("etc/ssh")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "sshd_config"]);
}

#[test]
fn a_host_key_that_was_made_before_the_agent_is_that_of_its_id_and_one_that_is_there_is_left_to_the_agent() {
    let vm = Vm::new();
    assert!(make_host_key(vm.store.root(), Some("a")).unwrap());
    let first = vm.host_key();
    assert_eq!(vm.mode("etc/ssh/ssh_host_ed25519_key"), 0o600);
    assert!(!make_host_key(vm.store.root(), Some("b")).unwrap());
    assert_eq!(vm.made(Some("a")), (false, true));
    assert_eq!(vm.host_key(), first);
    assert_eq!(vm.made(Some("b")), (true, true));
    assert!(vm.host_key() != first);
    let own = vm.vm_key();

    fs::write(vm.path("etc/ssh/ssh_host_ed25519_key"), "").unwrap();
    assert!(make_host_key(vm.store.root(), Some("b")).unwrap());
    assert_eq!((vm.made(Some("b")), vm.vm_key()), ((false, false), own));

    fs::remove_file(vm.path("usr/sbin/sshd")).unwrap();
    fs::remove_file(vm.path("etc/ssh/ssh_host_ed25519_key")).unwrap();
    assert!(!make_host_key(vm.store.root(), Some("b")).unwrap());
}

#[test]
fn a_host_key_is_made_once_whoever_else_is_about_to_make_it_or_sweeps_what_is_half_made() {
    for _ in 0..20 {
        let vm = Vm::new();
        let root = vm.store.root();
        let made = std::thread::scope(|scope| {
            let early = [0; 3].map(|_| scope.spawn(|| make_host_key(root, Some("a")).unwrap()));
            let sweeping = scope.spawn(|| sweep(root).unwrap());
            let agents = vm.made(Some("a")).0;
            assert_eq!(sweeping.join().unwrap(), 0);
            usize::from(agents) + early.into_iter().map(|made| usize::from(made.join().unwrap())).sum::<usize>()
        });
        assert_eq!(made, 1);
        let private = fs::read_to_string(vm.path("etc/ssh/ssh_host_ed25519_key")).unwrap();
        let public = fs::read_to_string(vm.path("etc/ssh/ssh_host_ed25519_key.pub")).unwrap();
        assert_eq!(KeyPair::parse(private).unwrap().public_text(), public);
    }
}

#[test]
fn host_keys_that_are_shared_by_design_stay_and_the_vms_own_key_does_not() {
    let vm = Vm::new();
    vm.apply(HostKeyPolicy::Keep, Some("parent"));
    let (host, own) = (vm.host_key(), vm.vm_key());
    let applied = vm.apply(HostKeyPolicy::Keep, Some("child"));
    assert_eq!((applied.host_keys_made, applied.vm_key_made), (false, true));
    assert_eq!(vm.host_key(), host);
    assert_ne!(vm.vm_key(), own);
    // They are the parent's still, should the policy change.
    assert_eq!(vm.made(Some("child")), (true, false));
    assert_ne!(vm.host_key(), host);
}

#[test]
fn host_keys_of_unknown_origin_are_made_anew_as_an_image_may_have_brought_them() {
    let vm = Vm::new();
    let pair = GoldenPair::generate().unwrap();
    fs::write(vm.path("etc/ssh/ssh_host_ed25519_key"), pair.private_text()).unwrap();
    fs::set_permissions(vm.path("etc/ssh/ssh_host_ed25519_key"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(vm.made(None), (false, true));
    assert_eq!(vm.host_key(), pair.fingerprint());
    assert_eq!(vm.made(Some("a")), (true, true));
    assert_ne!(vm.host_key(), pair.fingerprint());
}

#[test]
fn a_key_that_somebody_put_there_for_this_vm_stays() {
    let vm = Vm::new();
    vm.apply(HostKeyPolicy::Renew, Some("a"));
    let pair = GoldenPair::generate().unwrap();
    for path in ["etc/ssh/ssh_host_ed25519_key", VM_IDENTITY] {
        fs::write(vm.path(path), pair.private_text()).unwrap();
    }
    assert_eq!(vm.made(Some("a")), (false, false));
    assert_eq!((vm.host_key(), vm.vm_key()), (pair.fingerprint(), pair.fingerprint()));
}

#[test]
fn an_empty_host_key_is_none_and_a_record_that_is_none_says_nothing() {
    let vm = Vm::new();
    vm.apply(HostKeyPolicy::Renew, Some("a"));
    fs::write(vm.path("etc/ssh/ssh_host_ed25519_key"), "").unwrap();
    assert_eq!(vm.made(Some("a")), (true, false));
    fs::write(vm.path("etc/guestd/ssh/made_for.json"), "{").unwrap();
    assert_eq!(vm.made(Some("a")), (true, true));
    assert_eq!(vm.made(Some("a")), (false, false));
}

#[test]
fn where_guestd_or_sshd_is_not_nothing_is_made() {
    let vm = Vm::new();
    fs::remove_file(vm.path("usr/sbin/sshd")).unwrap();
    assert_eq!(vm.made(Some("a")), (false, true));
    assert_eq!(fs::read_dir(vm.path("etc/ssh")).unwrap().count(), 0);

    let vm = Vm::new();
    fs::remove_dir_all(vm.path("etc/guestd")).unwrap();
    assert_eq!(vm.made(Some("a")), (false, false));
    assert_eq!(fs::read_dir(vm.path("etc/ssh")).unwrap().count(), 0);
}

#[test]
fn links_in_the_place_of_keys_are_replaced_and_directories_that_are_links_refused() {
    let vm = Vm::new();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    for path in ["etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "etc/ssh/ssh_host_rsa_key"] {
        symlink(&victim, vm.path(path)).unwrap();
    }
    symlink(&victim, vm.path(VM_IDENTITY)).unwrap();
    symlink(&victim, vm.path("etc/guestd/ssh/made_for.json")).unwrap();
    assert_eq!(vm.made(Some("a")), (true, true));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(!vm.host_key().is_empty() && !vm.vm_key().is_empty());

    fs::remove_dir_all(vm.path("etc/ssh")).unwrap();
    symlink(outside.path(), vm.path("etc/ssh")).unwrap();
    let error = vm.keys.apply(&vm.store, HostKeyPolicy::Renew, Some("b"), NOW).unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_somebody_planted_does_not_keep_a_vm_from_a_key_of_its_own() {
    let vm = Vm::new();
    vm.apply(HostKeyPolicy::Renew, Some("parent"));
    let parent = vm.vm_key();
    symlink("/nowhere", vm.path(AUTHORIZED_KEYS).join("ada")).unwrap();
    assert_eq!(vm.made(Some("child")), (true, true));
    assert_ne!(vm.vm_key(), parent);
    let (keys, problems) = vm.store.list();
    assert!(problems.len() == 1 && keys.iter().all(|key| key.key.fingerprint == vm.vm_key()), "{keys:?}");
    assert_eq!(vm.made(Some("child")), (false, false));
}

#[test]
fn a_failure_with_one_key_does_not_keep_the_other_from_being_made_and_the_next_call_completes_it() {
    let vm = Vm::new();
    vm.apply(HostKeyPolicy::Renew, Some("a"));
    let before = (vm.host_key(), vm.vm_key());
    fs::set_permissions(vm.path("etc/ssh"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(vm.keys.apply(&vm.store, HostKeyPolicy::Renew, Some("b"), NOW).is_err());
    assert_eq!(vm.host_key(), before.0);
    assert_ne!(vm.vm_key(), before.1);
    fs::set_permissions(vm.path("etc/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(vm.made(Some("b")), (true, false));
}

#[test]
fn a_crash_after_any_step_is_completed_by_the_next_call() {
    // After the files of the parent, those of a child that got so far before it was killed.
    type Step = fn(&Vm);
    let steps: [Step; 4] = [
        |vm| fs::remove_file(vm.path("etc/ssh/ssh_host_ed25519_key.pub")).unwrap(),
        |vm| {
            drop(write_pair(&vm.store.root().descend(SSH).unwrap().unwrap(), HOST_KEY, &KeyPair::generate("").unwrap()))
        },
        |vm| {
            let lost = KeyPair::generate("").unwrap();
            let key = NewKey { user: "root".into(), line: lost.public_text().into(), expires: None };
            vm.store.replace_source(VM_SOURCE, &[key], NOW).unwrap();
        },
        |vm| {
            drop(write_pair(
                &vm.store.root().descend(GUESTD_SSH).unwrap().unwrap(),
                "vm_ed25519",
                &KeyPair::generate("").unwrap(),
            ))
        },
    ];
    for done in 0..=steps.len() {
        let vm = Vm::new();
        vm.apply(HostKeyPolicy::Renew, Some("parent"));
        let parent = (vm.host_key(), vm.vm_key());
        steps[..done].iter().for_each(|step| step(&vm));
        assert_eq!(vm.made(Some("child")), (true, true), "{done}");
        assert!(vm.host_key() != parent.0 && vm.vm_key() != parent.1);
        assert_eq!(vm.authorized(), [vm.vm_key()]);
        assert_eq!(vm.made(Some("child")), (false, false));
    }
    assert_eq!(fs::read_dir(Vm::new().path(AUTHORIZED_KEYS)).unwrap().count(), 0);
}
