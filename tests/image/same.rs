//! The same inputs give the same image.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::workshop::{Workshop, ask, sha256, text};

const FILES: [(&str, &str); 4] =
    [("etc/passwd", "root:x:0:0::/root:/bin/sh\n"), ("etc/group", "root:x:0:\n"), ("srv/a", "a"), ("srv/b", "b")];

fn second() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An overlay with one file of this date.
fn overlay(workshop: &Workshop, name: &str, words: &str, date: &str) -> String {
    let dir = workshop.path(name);
    fs::create_dir_all(dir.join("srv")).unwrap();
    fs::write(dir.join("srv/words"), words).unwrap();
    assert!(Command::new("touch").args(["-d", date]).arg(dir.join("srv/words")).status().unwrap().success());
    dir.display().to_string()
}

fn uuid(image: &Path) -> String {
    ask(image, "stats -h").lines().find_map(|line| line.strip_prefix("Filesystem UUID:")).unwrap().trim().to_owned()
}

#[test]
fn the_same_inputs_give_the_same_image_wherever_and_whenever_they_are_put_together() {
    let here = Workshop::new();
    let words = overlay(&here, "words", "words", "2026-05-01");
    let (first, said) = here.build(&here.root(&FILES), &["--overlay", &words]);
    let made = second();

    // Somewhere else, with files that came in another order, an overlay of another name and date, and a clock that has gone on.
    let there = here.beside();
    let mut files = FILES;
    files.reverse();
    let root = there.root(&files);
    let words = overlay(&there, "the-same-words", "words", "2026-06-01");
    while second() == made {
        std::thread::sleep(Duration::from_millis(10));
    }
    let (again, _) = there.build(&root, &["--overlay", &words]);
    assert_eq!(sha256(&first), sha256(&again), "two images of the same inputs differ");

    // What differs makes another image, which is another file system.
    let (image, uuid_before) = (sha256(&again), uuid(&again));
    let other = overlay(&there, "other-words", "other words", "2026-06-01");
    let (other, _) = there.build(&root, &["--overlay", &other]);
    assert_eq!(text(&other, "/srv/words"), "other words");
    assert_ne!(sha256(&other), image);
    assert_ne!(uuid(&other), uuid_before);

    // And it was said how large it is.
    let used = said.lines().find_map(|line| line.split_once("of which ")?.1.split_once(" MiB are used"));
    let used: u64 = used.unwrap_or_else(|| panic!("no size in:\n{said}")).0.parse().unwrap();
    assert!((6..48).contains(&used), "{used} MiB in:\n{said}");
    assert!(said.contains(" MiB  /usr/local"), "guestd is no large part in:\n{said}");
}

#[test]
fn an_image_of_the_same_inputs_is_not_made_again() {
    let workshop = Workshop::new();
    let root = workshop.root(&FILES);
    let (image, _) = workshop.build(&root, &[]);
    let made = fs::metadata(&image).unwrap().modified().unwrap();
    let (_, said) = workshop.build(&root, &[]);
    assert!(said.contains("is up to date"), "{said}");
    assert_eq!(fs::metadata(&image).unwrap().modified().unwrap(), made);
    fs::write(root.join("srv/a"), "another a").unwrap();
    let (_, said) = workshop.build(&root, &[]);
    assert!(said.contains("are used"), "{said}");
    assert_eq!(text(&image, "/srv/a"), "another a");
}
