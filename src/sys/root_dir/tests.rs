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
