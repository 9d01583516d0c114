//! A disk without room loses no key: what opened the account before opens it still.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
};

use guestd::api::ErrorCode;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::{
    pool::{Pool, now, open_to_questions, request, set, store},
    sshd_rig::{Image, Sshd},
};

/// In mounts that only the thread and what it starts can see.
fn in_mounts_of_its_own(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn on_a_full_disk_no_change_is_made_and_no_key_is_lost() {
    in_mounts_of_its_own(|| {
        let (image, pool) = (Image::installed(), Pool::new());
        open_to_questions(&image, &["ada"]);
        let managed = image.etc("guestd/ssh/authorized_keys");
        mount(Some("keys"), &managed, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=755")).unwrap();
        let store = store(&image);
        fs::write(managed.join("ada"), format!("{} by hand", pool.line(0))).unwrap();
        let added = store.add(&request("ada", "manual", pool.line(1), None), now()).unwrap();
        let mut sshd = Sshd::start(&image, "127.0.0.1");
        let before = fs::read(managed.join("ada")).unwrap();

        let mut filler = OpenOptions::new().create(true).append(true).open(managed.join(".filler")).unwrap();
        let full = loop {
            if let Err(error) = filler.write_all(&[0; 512]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        for error in [
            store.add(&request("ada", "manual", pool.line(2), None), now()).unwrap_err(),
            store.add(&request("root", "manual", pool.line(2), None), now()).unwrap_err(),
            store.remove(&added.keys[0].id).unwrap_err(),
            store.replace_source("host", &[pool.new_key("ada", 3, None)], now()).unwrap_err(),
        ] {
            assert_eq!(error.code(), ErrorCode::NoSpace, "{error}");
            assert!(error.to_string().ends_with("; all keys are as they were, make room or grow the disk"), "{error}");
        }
        assert_eq!(fs::read(managed.join("ada")).unwrap(), before);
        let mut names: Vec<_> = fs::read_dir(&managed).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".filler", "ada"]);
        assert_eq!(pool.accepted(&sshd, "ada"), set(&[0, 1]), "{}", sshd.end());

        fs::remove_file(managed.join(".filler")).unwrap();
        drop(filler);
        store.replace_source("host", &[pool.new_key("ada", 3, None)], now()).unwrap();
        store.remove(&added.keys[0].id).unwrap();
        assert_eq!(pool.accepted(&sshd, "ada"), set(&[0, 3]));
    });
}
