use std::{fs, os::unix::fs::symlink};

use super::*;

fn tree(make: impl FnOnce(&Path), bounds: Bounds) -> (tempfile::TempDir, Tree) {
    let directory = tempfile::tempdir().unwrap();
    make(directory.path());
    let (source, root) = Directory::open(directory.path()).unwrap();
    (directory, Tree::read(Source::Directory(source), root, bounds))
}

#[test]
fn what_is_beyond_a_bound_is_left_out_and_told_once() {
    let make = |root: &Path| {
        for name in ["a/1", "b/2", "b/3/4"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
    };
    for (bounds, why) in [
        (Bounds { entries: 4, depth: 9 }, "there are more than 4 files and directories"),
        (Bounds { entries: 100, depth: 2 }, "there are more than 2 directories inside each other"),
    ] {
        let (_directory, tree) = tree(make, bounds);
        let told: Vec<&str> = tree.bounds().iter().map(|bound| bound.why.as_str()).collect();
        assert_eq!(told, [why]);
        assert!(tree.nodes.len() <= bounds.entries && tree.look("/b/3/4").is_none());
    }
    assert!(tree(make, BOUNDS).1.bounds().is_empty());
}

#[test]
fn links_are_followed_as_in_a_chroot() {
    let (_directory, tree) = tree(
        |root| {
            fs::create_dir_all(root.join("usr/bin")).unwrap();
            fs::write(root.join("usr/bin/sh"), "shell").unwrap();
            for (link, target) in [
                ("bin", "usr/bin"),
                ("up", "../../usr"),
                ("absolute", "/usr/bin/sh"),
                ("loop", "loop/x"),
                ("gone", "/no"),
            ] {
                symlink(target, root.join(link)).unwrap();
            }
        },
        BOUNDS,
    );
    for path in ["/bin/sh", "/up/bin/sh", "/absolute", "/usr/../../bin/./sh", "//bin//sh"] {
        assert_eq!(tree.follow(path).map(Place::path).as_deref(), Some("/usr/bin/sh"), "{path}");
    }
    for path in ["/loop", "/gone", "/bin/sh/x", "/usr/bin/sh/..", "/nothing"] {
        assert!(tree.follow(path).is_none(), "{path}");
    }
    assert_eq!(tree.look("/bin").and_then(Place::target).as_deref(), Some(&b"usr/bin"[..]));
    assert_eq!(tree.text("/absolute").as_deref(), Some("shell"));
    assert_eq!(tree.root().extent(), (1, 5));
}

#[test]
fn a_file_that_changes_its_kind_while_it_is_looked_at_is_told() {
    let (directory, tree) = tree(|root| fs::write(root.join("file"), "text").unwrap(), BOUNDS);
    fs::remove_file(directory.path().join("file")).unwrap();
    fs::create_dir(directory.path().join("file")).unwrap();
    assert_eq!(tree.text("/file"), None);
    let (troubles, more) = tree.troubles();
    assert!(troubles[0].why.contains("no longer a regular file") && more == 0, "{troubles:?}");
}
