//! ext4 images of many kinds, made and spoilt by the programs of e2fsprogs.

use std::{fs, os::unix::fs::FileExt, path::Path, process::Command};

use guestd::lint::{LintArgs, lint};

use crate::fixture::{Fixture, lint_of, ran, seen};

/// Lines for debugfs(8), which writes to the image.
fn debugfs(image: &Path, request: &str) {
    ran(Command::new("debugfs").args(["-w", "-R", request]).arg(image));
}

fn rules_of(image: &Path) -> Vec<String> {
    let mut rules: Vec<String> = seen(&lint_of(image)).into_iter().map(|(rule, ..)| rule).collect();
    rules.dedup();
    rules
}

#[test]
fn an_image_of_every_usual_kind_is_read() {
    let fixture = Fixture::new();
    let long = "a/".repeat(50) + "target";
    fixture.link("srv/long", &long);
    fixture.write("srv/large", vec![b'x'; 300_000]);
    for options in [
        &[][..],
        &["-b", "1024"],
        &["-b", "2048", "-O", "^metadata_csum,^64bit"],
        &["-t", "ext2"],
        &["-t", "ext3"],
        &["-O", "^has_journal"],
        &["-I", "128", "-O", "^metadata_csum"],
        &["-O", "bigalloc"],
    ] {
        let image = fixture.image(options);
        let report = lint_of(&image);
        assert!(report.ext4);
        assert_eq!(seen(&report), [], "{options:?}");
    }
}

#[test]
fn directories_with_an_index_are_read_too() {
    let fixture = Fixture::new();
    for number in 0..600 {
        fixture.write(&format!("srv/{number:03}-a-name-that-is-rather-long"), "");
    }
    fixture.write("srv/key", crate::fixture::pem("PRIVATE KEY"));
    let image = fixture.image(&["-b", "1024"]);
    // mkfs makes none; e2fsck does, and may say by its exit status that it has.
    let status = Command::new("e2fsck").args(["-fyD"]).arg(&image).output().unwrap().status;
    assert!(matches!(status.code(), Some(0 | 1)));
    assert!(ran(Command::new("debugfs").args(["-R", "htree /srv"]).arg(&image)).contains("Root node dump"));
    let report = lint_of(&image);
    let seen = seen(&report);
    assert!(matches!(seen.as_slice(), [(rule, path, ..)] if rule == "private-key" && path == "/srv/key"), "{seen:?}");
}

#[test]
fn a_file_system_that_was_not_left_clean_is_named_whatever_it_holds() {
    let fixture = Fixture::new();
    for (request, said) in [
        ("set_super_value state 0", "it is mounted, or was not unmounted"),
        ("set_super_value state 3", "the kernel has found errors in it"),
        ("set_super_value error_count 2", "errors were found in it 2 times"),
        ("set_super_value last_orphan 12", "deleted while they were open"),
    ] {
        let image = fixture.image(&[]);
        debugfs(&image, request);
        let seen = seen(&lint_of(&image));
        assert!(
            matches!(seen.as_slice(), [(rule, _, message, _)] if rule == "ext4-clean" && message.contains(said)),
            "{request}: {seen:?}"
        );
    }
}

#[test]
fn a_journal_that_is_yet_to_be_replayed_is_named() {
    let fixture = Fixture::new();
    let image = fixture.image(&[]);
    debugfs(&image, "feature needs_recovery");
    let seen = seen(&lint_of(&image));
    let named = seen
        .iter()
        .any(|(rule, _, message, _)| rule == "ext4-clean" && message.contains("journal has yet to be replayed"));
    assert!(named, "{seen:?}");
}

#[test]
fn what_the_journal_holds_counts_as_if_it_were_replayed() {
    let fixture = Fixture::new();
    fixture.write("root/.bash_history", "");
    let image = fixture.image(&["-b", "4096"]);
    // A journal with one block in it: the inode of the history, given a length.
    let inode = ran(Command::new("debugfs").args(["-R", "imap /root/.bash_history"]).arg(&image));
    let block: u64 = inode.split("at block ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    let offset: usize = usize::from_str_radix(inode.split("offset 0x").nth(1).unwrap().trim(), 16).unwrap();
    let changed = fixture.beside("changed.ext4");
    fs::copy(&image, &changed).unwrap();
    debugfs(&changed, "set_inode_field /root/.bash_history size 3");
    let mut content = vec![0; 4096];
    fs::File::open(&changed).unwrap().read_exact_at(&mut content, block * 4096).unwrap();
    assert_ne!(content[offset + 4], 0);
    let data = fixture.beside("block");
    fs::write(&data, &content).unwrap();
    let requests = fixture.beside("requests");
    fs::write(&requests, format!("journal_open -c -v 3\njournal_write -b {block} {}\njournal_close\n", data.display()))
        .unwrap();
    ran(Command::new("debugfs").arg("-w").arg("-f").arg(&requests).arg(&image));

    let rules = rules_of(&image);
    assert_eq!(rules, ["ext4-clean", "shell-history"], "the history is empty on the disk, and not in the journal");
}

#[test]
fn an_image_that_was_cut_off_is_named_and_never_a_reason_to_fall_over() {
    let fixture = Fixture::new();
    let whole = fs::read(fixture.image(&[])).unwrap();
    let image = fixture.beside("cut.ext4");
    for length in [2048, 4096, 5000, 100_000, whole.len() / 2, whole.len() - 1] {
        fs::write(&image, &whole[..length]).unwrap();
        let rules = rules_of(&image);
        assert!(rules.contains(&"ext4-clean".to_owned()), "{length}: {rules:?}");
    }
    fs::write(&image, &whole[..1500]).unwrap();
    assert!(lint(&LintArgs { source: Some(image), ..LintArgs::default() }).is_err(), "less than a superblock");
}

#[test]
fn sizes_that_a_crafted_superblock_claims_are_not_believed() {
    let fixture = Fixture::new();
    // Number of blocks, of blocks in a group, size of a block. Without checksums, as whoever crafts one would set them right.
    for (offset, value, rule) in [(0x04, u32::MAX, "ext4-clean"), (0x20, 1, "unreadable"), (0x18, 9, "unreadable")] {
        let image = fixture.image(&["-O", "^metadata_csum,^has_journal"]);
        fs::File::options()
            .write(true)
            .open(&image)
            .unwrap()
            .write_all_at(&value.to_le_bytes(), 1024 + offset)
            .unwrap();
        let rules = rules_of(&image);
        assert!(rules.contains(&rule.to_owned()), "{offset:#x}: {rules:?}");
    }
}

#[test]
fn a_directory_that_claims_to_be_without_an_end_is_not_read() {
    let fixture = Fixture::new();
    fixture.write("srv/a/b", "");
    let image = fixture.image(&["-O", "^metadata_csum"]);
    debugfs(&image, "set_inode_field /srv/a size 0x1000000000");
    let seen = seen(&lint_of(&image));
    assert!(
        matches!(seen.as_slice(), [(rule, path, message, _)] if rule == "unreadable" && path == "/srv/a" && message.contains("claims")),
        "{seen:?}"
    );
}

#[test]
fn links_with_targets_that_cannot_be_are_named() {
    let fixture = Fixture::new();
    fixture.remove("etc/machine-id");
    fixture.link("etc/machine-id", &"x/".repeat(100));
    let image = fixture.image(&["-O", "^metadata_csum"]);
    debugfs(&image, "set_inode_field /etc/machine-id size 0x100000");
    let rules = rules_of(&image);
    assert_eq!(rules, ["machine-id", "unreadable"]);
}

#[test]
fn a_directory_that_holds_itself_comes_to_an_end() {
    let fixture = Fixture::new();
    fixture.write("srv/a/b", "");
    let image = fixture.image(&["-O", "^metadata_csum"]);
    debugfs(&image, "link / /srv/a/root");
    let rules = rules_of(&image);
    assert!(rules.contains(&"too-large".to_owned()), "{rules:?}");
}
