//! Root file systems that a container engine has exported.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workshop::{Workshop, ask, names, run, said, script, text};

/// What an engine puts beside the files of the image into an export: places for the files, devices and file systems that it lays on a
/// container that runs.
fn export(workshop: &Workshop) -> PathBuf {
    let root = workshop.root(&[
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/hosts", ""),
        ("etc/hostname", ""),
        ("etc/resolv.conf", ""),
        ("usr/lib/systemd/systemd", ""),
        (".dockerenv", ""),
        ("dev/console", ""),
        ("srv/app", "the app"),
    ]);
    for dir in ["dev/pts", "dev/shm", "proc", "sys", "run", "tmp", "root", "etc/systemd"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    symlink("/proc/mounts", root.join("etc/mtab")).unwrap();
    let tar = workshop.path("export.tar");
    // Names without a leading "./", as engines write them.
    let names: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("--").args(names));
    tar
}

fn assert_fit_for_a_vm(image: &Path) {
    let top = names(image, "/");
    assert!(!top.iter().any(|name| name == ".dockerenv"), "systemd would take the VM for a container: {top:?}");
    assert_eq!(names(image, "/dev"), [""; 0]);
    assert!(text(image, "/etc/hosts").contains("::1 "), "localhost has no address");
    assert_eq!(text(image, "/etc/hostname"), "guest\n");
    assert_eq!(text(image, "/etc/resolv.conf"), "", "name servers are the platform's");
    assert_eq!(text(image, "/etc/machine-id"), "");
    assert_eq!(text(image, "/srv/app"), "the app");
    for dir in ["/proc", "/sys", "/run", "/tmp"] {
        assert!(ask(image, &format!("stat {dir}")).contains("Type: directory"), "{dir} is missing");
    }
    assert!(ask(image, "stat /usr/local/bin/guestd").contains("Mode:  0755"), "guestd is not in it");
}

#[test]
fn what_an_engine_exports_becomes_an_image_that_no_longer_looks_like_a_container() {
    let workshop = Workshop::new();
    let tar = export(&workshop);
    let (image, _) = workshop.build(&tar, &[]);
    assert_fit_for_a_vm(&image);
}

#[test]
fn the_example_builds_exports_and_removes_its_container() {
    let workshop = Workshop::new();
    let tar = export(&workshop);
    // An engine that keeps a record of what it is asked for.
    let engine = workshop.path("engine");
    let record = workshop.path("record");
    let play = format!(
        "#!/bin/sh\nset -eu\necho \"$*\" >>'{}'\ncase $1 in\n  build) echo sha256:built ;;\n  create) echo created ;;\n  \
         export) cp '{}' \"$3\" ;;\n  rm) ;;\n  *) exit 1 ;;\nesac\n",
        record.display(),
        tar.display()
    );
    fs::write(&engine, play).unwrap();
    fs::set_permissions(&engine, PermissionsExt::from_mode(0o755)).unwrap();

    let image = workshop.path("made/image.ext4");
    let mut example = script("image/examples/from-container.sh");
    example.env("ENGINE", &engine).arg("image/examples").arg(&image).args(["--size", "48M", "--keys"]);
    said(example.arg(workshop.path("keys")).current_dir(crate::workshop::top()));
    assert_fit_for_a_vm(&image);
    let asked = fs::read_to_string(&record).unwrap();
    let asked: Vec<_> = asked.lines().collect();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert_eq!(asked[0], "build --quiet image/examples");
    assert_eq!(asked[1], "create sha256:built /bin/true");
    assert!(asked[2].starts_with("export --output ") && asked[2].ends_with(" created"), "{asked:?}");
    assert_eq!(asked[3], "rm created");
    let left = fs::read_dir(workshop.path("made")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["image.ext4", "image.inputs"], "something is left behind");
}

#[test]
fn the_example_tells_of_a_unit_for_what_it_starts() {
    let example = crate::workshop::top().join("image/examples");
    let dockerfile = fs::read_to_string(example.join("Dockerfile")).unwrap();
    let copied = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")?.split_whitespace().next());
    for file in copied {
        assert!(example.join(file).exists(), "the Dockerfile copies {file}, which is not there");
    }
    assert!(!dockerfile.contains("id_ed25519"), "keys do not belong into a container image");
    let unit = example.join("app.service");
    run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit));
}
