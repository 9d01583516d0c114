use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use super::*;

fn root() -> (tempfile::TempDir, RootDir) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    let root = RootDir::open(&root).unwrap();
    (directory, root)
}

fn write(root: &RootDir, path: &str, existing: Existing) -> Result<(), RootDirError> {
    root.write(path, &mut &b"content"[..], 0o640, None, existing)
}

#[test]
fn a_file_appears_with_its_mode_and_without_a_temporary_beside_it() {
    let (_directory, root) = root();
    root.make_directories("/a/b", 0o750, None).unwrap();
    write(&root, "/a/b/file", Existing::Refuse).unwrap();
    let Entry::File(file) = root.look("a/b/file").unwrap() else { panic!("no file") };
    assert_eq!((file.mode, file.read(7).unwrap()), (0o640, b"content".to_vec()));
    assert_eq!(root.names("/a/b", 10).unwrap(), ["file"]);
    assert_eq!(root.follow_directory("/a").unwrap().unwrap().mode, 0o750);
}

#[test]
fn files_that_belong_together_are_replaced_together_or_not_at_all() {
    let (directory, root) = root();
    let path = directory.path().join("root");
    let read = |name: &str| fs::read_to_string(path.join(name)).ok();
    root.write_all(&[("key", "1", 0o600), ("key.pub", "one", 0o644)], None).unwrap();
    root.write_all(&[("key", "2", 0o600), ("key.pub", "two", 0o644)], None).unwrap();
    assert_eq!((read("key"), read("key.pub")), (Some("2".to_owned()), Some("two".to_owned())));
    assert_eq!(fs::metadata(path.join("key")).unwrap().permissions().mode() & 0o777, 0o600);
    // The second cannot be written, so that the first stays as it was.
    let long = "x".repeat(300);
    root.write_all(&[("key", "3", 0o600), (&long, "three", 0o644)], None).unwrap_err();
    assert_eq!((read("key"), fs::read_dir(&path).unwrap().count()), (Some("2".to_owned()), 2));
}

#[test]
fn a_file_that_is_to_be_new_never_replaces_one_and_leaves_no_temporary() {
    let (_directory, root) = root();
    fs::write(root.path().join("file"), "old").unwrap();
    let error = write(&root, "file", Existing::Refuse).unwrap_err();
    assert!(matches!(error, RootDirError::Call { errno: Errno::EEXIST, .. }), "{error}");
    assert_eq!(fs::read_to_string(root.path().join("file")).unwrap(), "old");
    assert_eq!(root.names("", 10).unwrap(), ["file"]);
    write(&root, "file", Existing::Replace).unwrap();
    assert_eq!(fs::read_to_string(root.path().join("file")).unwrap(), "content");
}

#[test]
fn a_reader_that_fails_leaves_the_old_file_and_nothing_else() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is on fire"))
        }
    }
    let (_directory, root) = root();
    write(&root, "file", Existing::Refuse).unwrap();
    let error = root.write("file", &mut Fails, 0o644, None, Existing::Replace).unwrap_err();
    assert!(error.to_string().ends_with("root/file: the disk is on fire"), "{error}");
    assert_eq!(root.names("", 10).unwrap(), ["file"]);
    assert_eq!(fs::read_to_string(root.path().join("file")).unwrap(), "content");
}

#[test]
fn links_stay_inside_absolute_and_upward_ones_too() {
    let (directory, root) = root();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    root.make_directories("outside", 0o755, None).unwrap();
    symlink("/outside", root.path().join("absolute")).unwrap();
    symlink("../../outside", root.path().join("upward")).unwrap();
    write(&root, "absolute/one", Existing::Refuse).unwrap();
    write(&root, "/upward/../absolute/two", Existing::Refuse).unwrap();
    assert_eq!(root.names("upward", 10).unwrap(), ["one", "two"]);
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    assert!(root.follow("absolute/one").unwrap().is_some());
}

#[test]
fn the_last_component_is_looked_at_and_not_followed() {
    let (directory, root) = root();
    let victim = directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, root.path().join("link")).unwrap();
    assert!(matches!(root.look("link").unwrap(), Entry::Link(target) if target == victim));
    write(&root, "link", Existing::Replace).unwrap();
    assert!(matches!(root.look("link").unwrap(), Entry::File(_)));
    assert_eq!(fs::read_to_string(victim).unwrap(), "untouched");
}

#[test]
fn a_pipe_is_special_and_never_waited_for() {
    let (_directory, root) = root();
    nix::unistd::mkfifo(&root.path().join("pipe"), Mode::S_IRWXU).unwrap();
    assert!(matches!(root.look("pipe").unwrap(), Entry::Special));
    assert!(root.follow("pipe").unwrap().is_none());
}

#[test]
fn a_directory_that_is_there_keeps_its_mode_and_one_that_is_a_link_to_nothing_is_named() {
    let (_directory, root) = root();
    root.make_directories("mine", 0o755, None).unwrap();
    fs::set_permissions(root.path().join("mine"), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(root.make_directories("mine/new", 0o755, None).unwrap());
    assert!(!root.make_directories("mine/new", 0o700, None).unwrap());
    assert_eq!(root.follow_directory("mine").unwrap().unwrap().mode, 0o700);
    assert_eq!(root.follow_directory("mine/new").unwrap().unwrap().mode, 0o755);

    symlink("/nowhere", root.path().join("dangling")).unwrap();
    let error = root.make_directories("dangling/below", 0o755, None).unwrap_err();
    assert!(matches!(&error, RootDirError::DanglingLink { path, .. } if path.ends_with("root/dangling")), "{error}");
}

#[test]
fn a_file_above_the_limit_is_not_read() {
    let (_directory, root) = root();
    write(&root, "file", Existing::Refuse).unwrap();
    let Entry::File(file) = root.look("file").unwrap() else { panic!("no file") };
    assert!(matches!(file.read(6), Err(RootDirError::TooLarge { limit: 6, .. })));
}

#[test]
fn a_directory_is_descended_into_only_where_no_link_leads_to_it() {
    let (_directory, root) = root();
    root.make_directories("/a/b", 0o755, None).unwrap();
    let inner = root.descend("/a/b").unwrap().unwrap();
    write(&inner, "file", Existing::Refuse).unwrap();
    assert_eq!(
        (inner.path(), root.names("a/b", 10).unwrap()),
        (root.path().join("a/b").as_path(), vec!["file".into()])
    );
    assert!(root.descend("a/c").unwrap().is_none());
    symlink("b", root.path().join("a/last")).unwrap();
    symlink("a", root.path().join("first")).unwrap();
    for linked in ["a/last", "first/b"] {
        let error = root.descend(linked).unwrap_err();
        assert!(matches!(&error, RootDirError::Linked { path } if path.ends_with(linked)), "{error}");
    }
    assert!(root.descend("a/b/file").is_err());
}

#[test]
fn what_is_removed_is_the_file_or_link_itself_and_leftovers_are_known_by_their_names() {
    let (directory, root) = root();
    let victim = directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, root.path().join("link")).unwrap();
    assert!(root.remove("link").unwrap());
    assert!(!root.remove("link").unwrap());
    assert!(victim.exists());
    for name in [".file.guestd-tmp-7-0", ".hidden", "file.guestd-tmp-7-0", "file"] {
        fs::write(root.path().join(name), "").unwrap();
    }
    assert_eq!(root.remove_leftovers(10).unwrap(), 1);
    assert_eq!(root.names("", 10).unwrap(), [".hidden", "file", "file.guestd-tmp-7-0"]);
}

#[test]
fn a_link_takes_the_place_of_what_was_there_in_one_step_and_a_second_name_is_the_same_file() {
    let (_directory, root) = root();
    write(&root, "file", Existing::Refuse).unwrap();
    root.add_name("file", "second").unwrap();
    assert!(root.is_one("file", "second").unwrap());
    root.replace_link("file", "elsewhere").unwrap();
    assert!(matches!(root.look("file").unwrap(), Entry::Link(target) if target == Path::new("elsewhere")));
    assert!(!root.is_one("file", "second").unwrap() && !root.is_one("nothing", "nothing").unwrap());
    // A link's second name is the link's, not that of what it leads to.
    root.add_name("file", "third").unwrap();
    assert!(matches!(root.look("third").unwrap(), Entry::Link(_)));
    root.rename("second", "file").unwrap();
    assert_eq!(root.names("", 10).unwrap(), ["file", "third"]);
    assert!(matches!(root.look("file").unwrap(), Entry::File(_)));
}

#[test]
fn what_is_removed_is_the_link_and_never_what_is_behind_it_or_in_a_directory() {
    let (directory, root) = root();
    let victim = directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, root.path().join("link")).unwrap();
    root.remove("link").unwrap();
    root.remove("link").unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");

    root.make_directories("a/b", 0o755, None).unwrap();
    assert!(!root.remove_directory("a").unwrap());
    assert!(root.remove_directory("a/b").unwrap() && root.remove_directory("a").unwrap());
    assert_eq!(root.names("", 10).unwrap(), [""; 0]);
}

#[test]
fn the_directories_that_would_be_made_are_those_that_are_made() {
    let (_directory, root) = root();
    root.make_directories("there", 0o755, None).unwrap();
    symlink("/there", root.path().join("link")).unwrap();
    let missing = root.missing_directories("/link/a/b").unwrap();
    assert_eq!(missing, ["/link/a", "/link/a/b"]);
    root.make_directories("/link/a/b", 0o755, None).unwrap();
    assert_eq!(root.missing_directories("/link/a/b").unwrap(), [""; 0]);

    symlink("/nowhere", root.path().join("dangling")).unwrap();
    let error = root.missing_directories("dangling/below").unwrap_err();
    assert!(matches!(error, RootDirError::DanglingLink { .. }), "{error}");
    assert!(!root.leads_somewhere("dangling").unwrap() && root.leads_somewhere("link/a").unwrap());
}

#[test]
fn a_root_is_locked_by_one_at_a_time() {
    let (_directory, root) = root();
    let other = RootDir::open(root.path()).unwrap();
    assert!(root.lock().unwrap());
    assert!(!other.lock().unwrap());
    drop(root);
    assert!(other.lock().unwrap());
}

#[test]
fn whoever_waits_for_a_lock_has_it_when_the_other_has_not() {
    let (_directory, root) = root();
    let other = RootDir::open(root.path()).unwrap();
    assert!(root.wait_and_lock().unwrap());
    let waiting = std::thread::spawn(move || other.wait_and_lock().map(|is_ours| (other, is_ours)));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!waiting.is_finished());
    drop(root);
    let (other, is_ours) = waiting.join().unwrap().unwrap();
    assert!(is_ours);
    // One that is never given back holds nobody up for good.
    assert!(!RootDir::open(other.path()).unwrap().wait_and_lock().unwrap());
}
