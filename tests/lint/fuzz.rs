//! Images with bytes that were flipped: a lint of one comes to an end, and says something or nothing, but never falls over.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use guestd::lint::{LintArgs, lint};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::fixture::Fixture;

/// An image, and where it has anything.
struct Target {
    path: PathBuf,
    file: File,
    /// Offsets of its bytes that are not zero, each stretch of them with some around it.
    used: Vec<u64>,
}

impl Target {
    fn new(fixture: &Fixture, options: &[&str]) -> Self {
        let path = fixture.image(options);
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut content).unwrap();
        let used = content.chunks(16).enumerate().filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0));
        let used = used.flat_map(|(at, _)| at as u64 * 16..at as u64 * 16 + 16).collect();
        Self { path, file, used }
    }

    /// Looks at it with these bytes in it, and puts back what was there.
    fn lint_with(&self, changes: &[(prop::sample::Index, u8)]) {
        let mut before = Vec::new();
        for (at, byte) in changes {
            let at = self.used[at.index(self.used.len())];
            let mut old = [0];
            self.file.read_exact_at(&mut old, at).unwrap();
            before.push((at, old));
            self.file.write_all_at(&[old[0] ^ byte], at).unwrap();
        }
        // A superblock that is none any more is an error, and all else a report.
        let _ = lint(&LintArgs { source: Some(self.path.clone()), ..LintArgs::default() });
        for (at, old) in before.into_iter().rev() {
            self.file.write_all_at(&old, at).unwrap();
        }
    }
}

fn fuzz(options: &[&str], cases: u32) {
    let fixture = Fixture::new();
    fixture.link("srv/long", &"a/".repeat(60));
    fixture.write("srv/deep/er/file", vec![b'x'; 50_000]);
    for number in 0..40 {
        fixture.write(&format!("srv/many/{number}"), "");
    }
    let target = Target::new(&fixture, options);
    let change = (any::<prop::sample::Index>(), 1_u8..=255);
    let changes = prop::collection::vec(change, 1..12);
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&changes, |changes| {
            target.lint_with(&changes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn an_image_with_flipped_bytes_never_makes_a_lint_fall_over() {
    fuzz(&[], 150);
}

/// Without checksums what is wrong is believed, and goes further.
#[test]
fn an_image_without_checksums_with_flipped_bytes_never_makes_a_lint_fall_over() {
    fuzz(&["-O", "^metadata_csum,^has_journal", "-b", "1024"], 400);
}

#[test]
fn an_image_with_block_maps_with_flipped_bytes_never_makes_a_lint_fall_over() {
    fuzz(&["-t", "ext2", "-O", "^metadata_csum", "-b", "1024"], 200);
}
