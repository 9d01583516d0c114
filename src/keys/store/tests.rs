use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
};

use super::*;
use crate::{api::ErrorCode, keys::GoldenPair};

/// A time at which keys are set.
const NOW: u64 = 1_000_000_000;

/// An installed root file system with users.
struct Root {
    directory: tempfile::TempDir,
    store: Store,
}

impl Root {
    fn installed() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root");
        fs::create_dir_all(path.join("etc/guestd/ssh/authorized_keys")).unwrap();
        fs::write(path.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n").unwrap();
        Self { store: Store::open(&path).unwrap(), directory }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path.trim_start_matches('/'))
    }

    fn file(&self, user: &str) -> PathBuf {
        self.path(AUTHORIZED_KEYS).join(user)
    }

    fn add(&self, user: &str, line: &str) -> Result<Vec<AuthorizedKey>, KeysError> {
        self.store.add(&request(user, line), NOW).map(|changed| changed.keys)
    }

    fn fails(&self, user: &str, line: &str) -> (ErrorCode, String) {
        let error = self.add(user, line).unwrap_err();
        (error.code(), error.to_string())
    }

    /// User and source of each key.
    fn listed(&self) -> Vec<(String, String)> {
        let (keys, problems) = self.store.list();
        assert_eq!(problems, Vec::<String>::new());
        keys.into_iter().map(|key| (key.user, key.source)).collect()
    }
}

fn request(user: &str, line: &str) -> AddKeys {
    AddKeys { keys: vec![line.to_owned()], user: user.to_owned(), source: "manual".to_owned(), expires: None }
}

fn line() -> String {
    GoldenPair::generate().unwrap().public_text().trim_end().to_owned()
}

fn new(user: &str, line: &str) -> NewKey {
    NewKey { user: user.to_owned(), line: line.to_owned(), expires: None }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(user, source)| ((*user).to_owned(), (*source).to_owned())).collect()
}

#[test]
fn a_key_is_added_listed_and_removed_and_the_empty_file_goes() {
    let root = Root::installed();
    let (a, b) = (line(), line());
    let added = root.add("ada", &a).unwrap();
    let [key] = added.as_slice() else { panic!("{added:?}") };
    assert_eq!((key.user.as_str(), key.source.as_str(), key.added), ("ada", "manual", Some(NOW)));
    assert!(a.starts_with(&key.key.key) && key.key.fingerprint.starts_with("SHA256:"), "{key:?}");
    assert_eq!(root.add("ada", &a).unwrap(), added);
    root.add("root", &b).unwrap();
    assert_eq!(root.listed(), pairs(&[("ada", "manual"), ("root", "manual")]));
    let metadata = fs::metadata(root.file("ada")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o644);

    assert_eq!(root.store.remove(&key.id).unwrap(), added);
    assert!(!root.file("ada").exists());
    let error = root.store.remove(&key.id).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
    assert_eq!(root.listed(), pairs(&[("root", "manual")]));
}

#[test]
fn one_wrong_key_among_several_changes_nothing_and_is_named_by_its_number() {
    let root = Root::installed();
    let secret = "c2VjcmV0IHRoYXQgbm9ib2R5IG1heSBzZWU";
    let keys = AddKeys { keys: vec![line(), secret.to_owned()], ..request("root", "") };
    let error = root.store.add(&keys, NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidField);
    let said = error.to_string();
    assert!(said.starts_with("key 2 of those given is no public key") && !said.contains(secret), "{said}");
    assert_eq!(root.listed(), []);
}

#[test]
fn users_sources_and_times_that_cannot_be_are_refused_by_name() {
    let root = Root::installed();
    for user in ["eve", "", "..", ".ada", "ada/x", "ad", "ada:x", "x\nada", "ada.guestd-new"] {
        assert_eq!(root.fails(user, &line()).0, ErrorCode::UserNotFound, "{user}");
    }
    for source in ["", "file", "Host", "a b", "a]", &"x".repeat(33)] {
        let keys = AddKeys { source: source.to_owned(), ..request("root", &line()) };
        let said = root.store.add(&keys, NOW).unwrap_err().to_string();
        assert!(said.starts_with("field `source` of the request is wrong"), "{said}");
    }
    for expires in [0, NOW, calendar::LAST + 1, u64::MAX] {
        let keys = AddKeys { expires: Some(expires), ..request("root", &line()) };
        let said = root.store.add(&keys, NOW).unwrap_err().to_string();
        assert!(said.starts_with("field `expires` of the request is wrong"), "{said}");
    }
    let none = AddKeys { keys: Vec::new(), ..request("root", "") };
    assert!(root.store.add(&none, NOW).unwrap_err().to_string().contains("field `keys`"));
    fs::remove_file(root.path("etc/passwd")).unwrap();
    assert_eq!(root.fails("ada", &line()).0, ErrorCode::UserNotFound);
    root.add("root", &line()).unwrap();
}

#[test]
fn a_system_without_guestd_has_no_keys_and_takes_none() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.list(), (vec![], vec![]));
    assert_eq!(store.expire(NOW).unwrap(), None);
    assert_eq!(store.sweep().unwrap(), 0);
    let error = store.add(&request("root", &line()), NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
    assert!(error.to_string().contains("`guestd install --root /`"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn the_keys_of_a_source_are_replaced_over_all_users_and_others_stay() {
    let root = Root::installed();
    let (a, b, c) = (line(), line(), line());
    fs::write(root.file("ada"), format!("# mine\n{a} own\n")).unwrap();
    root.add("ada", &b).unwrap();
    root.store.replace_source("host", &[new("ada", &b), new("root", &c)], NOW).unwrap();
    assert_eq!(root.listed(), pairs(&[("ada", "file"), ("ada", "manual"), ("ada", "host"), ("root", "host")]));
    root.store.replace_source("host", &[new("ada", &c)], NOW).unwrap();
    assert_eq!(root.listed(), pairs(&[("ada", "file"), ("ada", "manual"), ("ada", "host")]));
    root.store.replace_source("host", &[], NOW).unwrap();
    assert_eq!(root.listed(), pairs(&[("ada", "file"), ("ada", "manual")]));

    let wrong = root.store.replace_source("host", &[new("ada", &c), new("eve", &c)], NOW).unwrap_err();
    assert_eq!(wrong.code(), ErrorCode::UserNotFound);
    assert_eq!(root.listed(), pairs(&[("ada", "file"), ("ada", "manual")]));
}

#[test]
fn what_has_expired_goes_and_the_next_time_is_told() {
    let root = Root::installed();
    for (user, expires) in [("ada", NOW + 20), ("ada", NOW + 10), ("root", NOW + 10)] {
        let keys = AddKeys { expires: Some(expires), ..request(user, &line()) };
        root.store.add(&keys, NOW).unwrap();
    }
    let theirs = format!("expiry-time=\"20000101Z\" {}\n", line());
    fs::write(root.file("ada"), fs::read_to_string(root.file("ada")).unwrap() + &theirs).unwrap();
    assert_eq!(root.store.expire(NOW + 9).unwrap(), Some(NOW + 10));
    assert_eq!(root.listed().len(), 4);
    assert_eq!(root.store.expire(NOW + 10).unwrap(), Some(NOW + 20));
    assert_eq!(root.listed(), pairs(&[("ada", "manual"), ("ada", "file")]));
    assert_eq!(root.store.expire(NOW + 20).unwrap(), None);
    assert_eq!(fs::read_to_string(root.file("ada")).unwrap(), theirs);
}

#[test]
fn a_link_or_what_is_no_file_is_neither_read_nor_replaced() {
    let root = Root::installed();
    let outside = root.directory.path().join("outside");
    fs::write(&outside, format!("{} outside\n", line())).unwrap();
    let before = fs::read(&outside).unwrap();
    symlink(&outside, root.file("root")).unwrap();
    let (code, said) = root.fails("root", &line());
    assert!(code == ErrorCode::Permission && said.contains("it is a symbolic link"), "{said}");
    assert!(root.store.replace_source("host", &[], NOW).is_err());
    assert!(root.store.expire(NOW).is_err());
    let (keys, problems) = root.store.list();
    assert!(keys.is_empty() && problems.len() == 1, "{keys:?} {problems:?}");
    // Others are not kept from theirs.
    let added = root.add("ada", &line()).unwrap();
    assert_eq!(root.store.remove(&added[0].id).unwrap(), added);

    fs::remove_file(root.file("root")).unwrap();
    fs::create_dir(root.file("root")).unwrap();
    assert!(root.fails("root", &line()).1.contains("it is no regular file"));
    assert_eq!(fs::read(&outside).unwrap(), before);
}

#[test]
fn a_directory_that_is_a_link_leads_nowhere() {
    for linked in ["etc/guestd", "etc/guestd/ssh", "etc/guestd/ssh/authorized_keys"] {
        let root = Root::installed();
        // Within the root, where a link could be followed without leaving it.
        let elsewhere = root.path("srv/elsewhere");
        fs::create_dir_all(elsewhere.parent().unwrap()).unwrap();
        fs::rename(root.path(linked), &elsewhere).unwrap();
        symlink("/srv/elsewhere", root.path(linked)).unwrap();
        let (code, said) = root.fails("root", &line());
        assert!(code == ErrorCode::Permission && said.contains("symbolic link"), "{said}");
        assert_eq!(root.store.list().1.len(), 1);
        let mut left = fs::read_dir(&elsewhere).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(left.all(|name| name == "ssh" || name == "authorized_keys"), "{linked}");
    }
}

#[test]
fn what_others_can_write_or_own_is_not_given_to_root() {
    let root = Root::installed();
    let theirs = format!("{} theirs\n", line());
    fs::write(root.file("root"), &theirs).unwrap();
    let set = |path: &PathBuf, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set(&root.file("root"), 0o664);
    assert!(root.fails("root", &line()).1.contains("it has mode 0664; `chmod go-w "));
    set(&root.file("root"), 0o644);
    std::os::unix::fs::chown(root.file("root"), Some(1000), None).unwrap();
    assert!(root.fails("root", &line()).1.contains("it belongs to uid 1000; `chown root:root "));
    assert_eq!(fs::metadata(root.file("root")).unwrap().uid(), 1000);
    assert_eq!(fs::read_to_string(root.file("root")).unwrap(), theirs);
    set(&root.path(AUTHORIZED_KEYS), 0o777);
    assert!(root.fails("ada", &line()).1.contains("it has mode 0777"));
    assert!(!root.file("ada").exists());
}

#[test]
fn a_hard_link_elsewhere_keeps_what_it_had() {
    let root = Root::installed();
    root.add("root", &line()).unwrap();
    let other = root.directory.path().join("other");
    fs::hard_link(root.file("root"), &other).unwrap();
    let before = fs::read(&other).unwrap();
    root.add("root", &line()).unwrap();
    assert_eq!(fs::read(&other).unwrap(), before);
}

#[test]
fn limits_are_named_and_nothing_is_lost_at_them() {
    let root = Root::installed();
    let full = usize::try_from(limits::AUTHORIZED_KEYS_BYTES).unwrap() - 10;
    fs::write(root.file("root"), "#".repeat(full)).unwrap();
    let (code, said) = root.fails("root", &line());
    assert!(code == ErrorCode::LimitReached && said.contains("more than 262144 bytes"), "{said}");
    assert_eq!(fs::metadata(root.file("root")).unwrap().len(), full as u64);
    fs::write(root.file("root"), "#".repeat(full + 11)).unwrap();
    assert!(root.fails("root", &line()).1.contains("larger than"));
    fs::remove_file(root.file("root")).unwrap();

    for number in 0..limits::AUTHORIZED_KEYS_USERS {
        fs::write(root.file(&format!("u{number}")), "").unwrap();
    }
    assert_eq!(root.fails("root", &line()).0, ErrorCode::LimitReached);
    fs::remove_file(root.file("u0")).unwrap();
    root.add("root", &line()).unwrap();
}

#[test]
fn what_a_killed_agent_left_is_swept_and_is_nobodys_keys() {
    let root = Root::installed();
    let key = line();
    root.add("root", &key).unwrap();
    fs::write(root.file(".root.guestd-tmp-1-0"), &key).unwrap();
    fs::write(root.file("root.guestd-new"), &key).unwrap();
    assert_eq!(root.listed(), pairs(&[("root", "manual")]));
    assert_eq!(root.store.sweep().unwrap(), 1);
    assert!(!root.file(".root.guestd-tmp-1-0").exists() && root.file("root.guestd-new").exists());
}
