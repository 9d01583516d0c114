//! Whatever users plant in their homes, and accidents leave in guestd's own directories: nothing outside of these is read as keys,
//! written, removed, or given another owner or mode.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use guestd::{
    api::HostKeyPolicy,
    keys::{OwnKeys, Store},
};

use crate::{
    pool::{Pool, home, now, open_to_questions, request, set, store},
    sshd_rig::{Image, Sshd},
};

/// All that there is below a directory: path, then mode, owner and content.
fn everything(dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = match metadata.file_type() {
            kind if kind.is_symlink() => format!("-> {}", fs::read_link(&path).unwrap().display()),
            kind if kind.is_file() => String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned(),
            _ => String::new(),
        };
        let (mode, owner, mtime) = (metadata.mode(), metadata.uid(), metadata.mtime_nsec());
        // A directory's time changes with what is made in it for a moment, which is nobody's harm and a sign all the same.
        found.insert(path.clone(), format!("{mode:o} {owner} {mtime} {content}"));
        if metadata.is_dir() {
            everything(&path, found);
        }
    }
}

/// An image, and a directory beside it that nobody may touch.
struct Scene {
    image: Image,
    pool: Pool,
    store: Store,
}

impl Scene {
    fn new() -> Self {
        let image = Image::installed();
        open_to_questions(&image, &["ada", "bob"]);
        fs::create_dir_all(image.path("root/usr/sbin")).unwrap();
        fs::write(image.path("root/usr/sbin/sshd"), "OpenSSH_9.2p1").unwrap();
        let outside = image.path("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "untouched\n").unwrap();
        let store = store(&image);
        Self { image, pool: Pool::new(), store }
    }

    fn victim(&self) -> PathBuf {
        self.image.path("outside/victim")
    }

    fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        for dir in ["outside", "root/home"] {
            everything(&self.image.path(dir), &mut found);
        }
        found
    }

    /// All that the agent ever does with keys; what is refused is refused.
    fn do_everything(&self) -> Vec<String> {
        let mut refused = Vec::new();
        let mut note =
            |result: Result<(), guestd::keys::KeysError>| refused.extend(result.err().map(|error| error.to_string()));
        note(self.store.sweep().map(drop));
        for (number, user) in ["root", "ada", "bob"].into_iter().enumerate() {
            note(self.store.add(&request(user, "manual", self.pool.line(number), None), now()).map(drop));
            let expired = request(user, "manual", self.pool.line(3), Some(now() - 10));
            note(self.store.add(&expired, now() - 20).map(drop));
        }
        let keys = ["root", "ada", "bob"].map(|user| self.pool.new_key(user, 4, None));
        note(self.store.replace_source("host", &keys, now()));
        note(self.store.expire(now()).map(drop));
        note(self.store.replace_source("host", &[], now()));
        let own = OwnKeys::new(Box::new(Vec::new));
        for id in ["parent", "child"] {
            note(own.apply(&self.store, HostKeyPolicy::Renew, Some(id), now()).map(drop));
        }
        let (keys, _) = self.store.list();
        for key in keys.iter().filter(|key| key.source == "manual") {
            note(self.store.remove(&key.id).map(drop));
        }
        refused
    }
}

#[test]
fn links_and_open_directories_in_homes_are_nobodys_business_and_nothing_there_changes() {
    let scene = Scene::new();
    let (ada, bob) = (home(&scene.image, "ada"), home(&scene.image, "bob"));
    // One whose whole directory is a link, one whose file is, with a directory that all may write.
    fs::remove_dir(ada.join(".ssh")).unwrap();
    symlink(scene.image.path("outside"), ada.join(".ssh")).unwrap();
    symlink(scene.victim(), bob.join(".ssh/authorized_keys")).unwrap();
    symlink("/etc/guestd/ssh/golden_ed25519", bob.join(".ssh/id_ed25519")).unwrap();
    fs::write(bob.join(".ssh/.authorized_keys.guestd-tmp-1-0"), "bait").unwrap();
    fs::set_permissions(bob.join(".ssh"), fs::Permissions::from_mode(0o777)).unwrap();
    let before = scene.snapshot();
    assert_eq!(scene.do_everything(), Vec::<String>::new());
    assert_eq!(scene.snapshot(), before);
}

#[test]
fn links_in_guestds_own_directories_lead_nowhere_and_what_others_could_have_written_opens_nothing() {
    let scene = Scene::new();
    let managed = |name: &str| scene.image.etc("guestd/ssh/authorized_keys").join(name);
    fs::write(managed("bob"), format!("{} planted\n", scene.pool.line(5))).unwrap();
    chown(managed("bob"), Some(1001), None).unwrap();
    symlink(scene.victim(), managed("ada")).unwrap();
    symlink(scene.victim(), managed(".root.guestd-tmp-1-0")).unwrap();
    for name in ["vm_ed25519", "vm_ed25519.pub", "made_for.json", ".vm_ed25519.guestd-tmp-1-0"] {
        symlink(scene.victim(), scene.image.etc("guestd/ssh").join(name)).unwrap();
    }
    for name in ["ssh_host_rsa_key", "ssh_host_ed25519_key-cert.pub"] {
        symlink(scene.victim(), scene.image.etc("ssh").join(name)).unwrap();
    }
    fs::remove_file(scene.image.etc("ssh/ssh_host_ed25519_key")).unwrap();
    symlink(scene.victim(), scene.image.etc("ssh/ssh_host_ed25519_key")).unwrap();
    let before = scene.snapshot();
    let refused = scene.do_everything();
    assert!(!refused.is_empty());
    for why in &refused {
        assert!(why.contains("it is a symbolic link") || why.contains("it belongs to uid 1001"), "{why}");
    }
    assert_eq!(scene.snapshot(), before);
    assert_eq!(fs::read_link(managed("ada")).unwrap(), scene.victim());
    assert_eq!(fs::metadata(managed("bob")).unwrap().uid(), 1001);
    // What is guestd's own is in the place of the links.
    for private in ["guestd/ssh/vm_ed25519", "ssh/ssh_host_ed25519_key"] {
        let metadata = fs::symlink_metadata(scene.image.etc(private)).unwrap();
        assert!(metadata.is_file() && metadata.mode() & 0o7777 == 0o600, "{private}");
    }
    assert!(fs::symlink_metadata(scene.image.etc("ssh/ssh_host_rsa_key")).is_err());

    // bob could write that file, so that sshd takes it for his own account; root's keys are root's alone.
    fs::remove_file(managed("bob")).unwrap();
    fs::write(managed("root"), format!("{} planted\n", scene.pool.line(5))).unwrap();
    chown(managed("root"), Some(1001), None).unwrap();
    let said = scene.store.add(&request("root", "manual", scene.pool.line(0), None), now()).unwrap_err().to_string();
    assert!(said.contains("it belongs to uid 1001; `chown root:root "), "{said}");
    let sshd = Sshd::start(&scene.image, "127.0.0.1");
    assert_eq!(scene.pool.accepted(&sshd, "root"), set(&[]));
}
