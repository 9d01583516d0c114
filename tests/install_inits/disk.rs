//! Disks that are full or read-only, and runs that are killed: a clear error, and the next run completes the image.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use guestd::install::{InstallArgs, Outcome, install, uninstall};

use crate::{
    build::Build,
    images::{self, content, uninstall_args},
};

const GUESTD: &str = env!("CARGO_BIN_EXE_guestd");

/// An image to be, and what an installation makes of it on a disk with room.
struct Case {
    build: Build,
    reference: Build,
}

impl Case {
    fn new() -> Self {
        let (build, reference) = (images::buildroot(), images::buildroot());
        fs::write(reference.program(), "x".repeat(20_000)).unwrap();
        fs::write(build.program(), "x".repeat(20_000)).unwrap();
        build.args();
        install(&InstallArgs { keys: Some(build.keys()), ..reference.args() }).unwrap();
        Self { build, reference }
    }

    /// Runs this script of sh in a mount namespace of its own, with a file system of `options` at `$root` that has the image in it. What
    /// is in it at the end comes out as `$out`.
    fn on_a_disk(&self, options: &str, script: &str) -> (Output, PathBuf) {
        let out = self.build.directory.path().join("out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir(&out).unwrap();
        let script = format!(
            "set -e\nmkdir -p \"$root\"\nmount -t tmpfs -o mode=0755,$options none \"$root\"\ncp -a \"$image/.\" \"$root\"\n\
             install() {{ \"$guestd\" install --root \"$root\" --keys \"$keys\" --binary \"$program\"; }}\n\
             {script}\ncp -a \"$root/.\" \"$out\"\n"
        );
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .env("root", self.build.directory.path().join("disk"))
            .env("image", self.build.root())
            .env("keys", self.build.keys())
            .env("program", self.build.program())
            .env("guestd", GUESTD)
            .env("options", options)
            .env("out", &out)
            .output()
            .expect("unshare of util-linux");
        assert!(output.status.success(), "{options}: {output:?}");
        (output, out)
    }
}

/// What came out of a disk, as an image.
fn image_of(out: &Path) -> Build {
    let image = Build::empty();
    fs::remove_dir(image.root()).unwrap();
    fs::rename(out, image.root()).unwrap();
    image
}

#[test]
fn a_disk_that_is_full_at_any_point_gives_a_clear_error_and_a_run_with_room_completes_the_image() {
    let case = Case::new();
    let mut failures = 0;
    let pages = (10..40).map(|pages| format!("size={}k", 4 * pages));
    let inodes = (20..70).step_by(2).map(|inodes| format!("nr_inodes={inodes}"));
    for options in pages.chain(inodes) {
        let (output, out) = case.on_a_disk(
            &options,
            "install || echo failed\nmount -o remount,size=64m,nr_inodes=1000 \"$root\"\ninstall >/dev/null",
        );
        let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if said.ends_with("failed\n") {
            failures += 1;
            assert!(error.contains("No space left on device; free some space"), "{options}: {error}");
            assert!(error.contains("the same command completes it"), "{options}: {error}");
        }
        assert_eq!(content(&image_of(&out)), content(&case.reference), "{options}");
    }
    assert!(failures > 15, "only {failures} of the disks were too small to begin with");
}

#[test]
fn a_disk_that_is_full_at_any_point_can_be_uninstalled_from() {
    let case = Case::new();
    for inodes in (20..70).step_by(4) {
        let (_, out) = case.on_a_disk(
            &format!("nr_inodes={inodes}"),
            "install >/dev/null 2>&1 || true\n\"$guestd\" uninstall --root \"$root\" >/dev/null",
        );
        assert_eq!(content(&image_of(&out)), content(&case.build), "{inodes}");
    }
}

#[test]
fn a_disk_that_is_read_only_stays_as_it_is_and_the_error_says_what_to_do() {
    let case = Case::new();
    let (output, out) = case.on_a_disk("size=64m", "mount -o remount,ro \"$root\"\n! install");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("Read-only file system; mount the file system writable"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!(content(&image_of(&out)), content(&case.build));
}

#[test]
fn runs_that_are_killed_leave_nothing_that_the_next_one_does_not_mend() {
    let build = images::buildroot();
    let reference = images::buildroot();
    // Large enough for many of the kills to come in the midst of it.
    let program = vec![b'x'; 4 * 1024 * 1024];
    fs::write(build.program(), &program).unwrap();
    fs::write(reference.program(), &program).unwrap();
    let args = build.args();
    install(&InstallArgs { keys: args.keys.clone(), ..reference.args() }).unwrap();
    for round in 0..60 {
        let mut child = Command::new(GUESTD)
            .args(["install", "--root"])
            .arg(build.root())
            .arg("--keys")
            .arg(build.keys())
            .arg("--binary")
            .arg(build.program())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Not a wait for anything: a moment at random, later each time.
        std::thread::sleep(Duration::from_micros(400 * round));
        let _ = child.kill();
        child.wait().unwrap();
        if round % 5 == 4 {
            install(&args).unwrap();
            assert_eq!(content(&build), content(&reference), "round {round}");
            uninstall(&uninstall_args(&build)).unwrap();
            assert_eq!(content(&build), content(&images::buildroot()), "round {round}");
        }
    }
}

#[test]
fn two_installations_into_one_image_at_once_are_refused() {
    let build = images::buildroot();
    let args = build.args();
    let held = fs::File::open(build.root()).unwrap();
    held.lock().unwrap();
    let error = install(&args).unwrap_err().to_string();
    assert!(error.contains("another `guestd install` is at work in"), "{error}");
    drop(held);
    assert!(install(&args).unwrap().count(Outcome::Created) > 10);
}
