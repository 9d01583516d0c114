use std::{
    collections::BTreeMap,
    io::Read as _,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use proptest::prelude::*;

use super::*;
use crate::sys::files::{Dir, Segment, Time, Xattr};

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time { secs: 1_700_000_000, nanos: 0 },
        size: 0,
        segments: None,
        xattrs: Vec::new(),
    }
}

fn file(path: &str, content: &[u8]) -> (Entry, Vec<u8>) {
    (Entry { size: content.len() as u64, ..entry(path, EntryKind::File) }, content.to_vec())
}

fn plain(path: &str, kind: EntryKind) -> (Entry, Vec<u8>) {
    (entry(path, kind), Vec::new())
}

fn archive(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    for (entry, content) in entries {
        writer.entry(entry).unwrap();
        writer.content(content).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

fn extract(bytes: &[u8]) -> (tempfile::TempDir, Result<Totals, ArchiveError>) {
    let target = tempfile::tempdir().unwrap();
    let result = unpack(&Dir::open(target.path()).unwrap(), bytes);
    (target, result)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ArchiveError> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        let mut buffer = [0; 700];
        loop {
            match reader.content(&mut buffer)? {
                0 => break,
                read => content.extend_from_slice(&buffer[..read]),
            }
        }
        entries.push((entry, content));
    }
    Ok(entries)
}

#[test]
fn entries_that_would_leave_the_target_are_refused_and_write_nothing() {
    let outside = tempfile::tempdir().unwrap();
    let escape = outside.path().join("x").to_str().unwrap().to_owned();
    let link = |to: &str| plain("link", EntryKind::Symlink(to.into()));
    let hostile = [
        vec![file(&escape, b"!")],
        vec![file("../x", b"!")],
        vec![file("a/../../x", b"!")],
        vec![link(outside.path().to_str().unwrap()), file("link/x", b"!")],
        vec![link(".."), file("link/x", b"!")],
        vec![link(outside.path().to_str().unwrap()), plain("link", EntryKind::Directory)],
        vec![plain("h", EntryKind::HardLink("/etc/passwd".into()))],
        vec![plain("h", EntryKind::HardLink("../../etc/passwd".into()))],
        vec![link("/etc"), plain("h", EntryKind::HardLink("link/passwd".into()))],
        vec![file("", b"!")],
        vec![file(".", b"!")],
    ];
    for entries in hostile {
        let (target, result) = extract(&archive(&entries));
        let last = &entries.last().unwrap().0.path;
        assert!(matches!(&result, Err(ArchiveError::Unsafe { entry, .. }) if entry == last), "{last:?}: {result:?}");
        assert!(names(outside.path()).is_empty(), "{last:?} was written outside");
        assert!(
            names(target.path()).iter().all(|name| ["link", "a"].contains(&name.as_str())),
            "{last:?} left something"
        );
    }
}

#[test]
fn a_file_takes_the_place_of_a_link_and_not_of_what_it_leads_to() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x"), "kept").unwrap();
    let target = tempfile::tempdir().unwrap();
    symlink(outside.path().join("x"), target.path().join("f")).unwrap();
    let bytes = archive(&[file("f", b"new"), plain("s", EntryKind::Symlink("f".into())), file("s", b"own")]);
    unpack(&Dir::open(target.path()).unwrap(), &bytes[..]).unwrap();
    assert_eq!(std::fs::read(outside.path().join("x")).unwrap(), b"kept");
    assert_eq!(std::fs::read(target.path().join("f")).unwrap(), b"new");
    assert!(!target.path().join("s").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn a_stream_that_is_cut_off_anywhere_is_an_error_and_leaves_whole_files_alone() {
    let bytes = archive(&[file("one", &[1; 1000]), plain("d", EntryKind::Directory), file("d/two", &[2; 3000])]);
    // The second block of the end mark may be missing.
    for length in (0..bytes.len() - 1024).step_by(97).chain([bytes.len() - 1024]) {
        let (target, result) = extract(&bytes[..length]);
        assert!(matches!(result, Err(ArchiveError::CutOff { .. })), "{length}: {result:?}");
        for (name, content) in [("one", vec![1; 1000]), ("d/two", vec![2; 3000])] {
            let found = std::fs::read(target.path().join(name)).ok();
            assert!(found.is_none_or(|found| found == content), "{length}: {name} is there and not whole");
        }
        assert!(names(target.path()).iter().all(|name| ["one", "d"].contains(&name.as_str())), "{length}");
    }
}

#[test]
fn an_entry_that_is_no_file_has_no_content_whatever_size_it_states() {
    for kind in [
        EntryKind::Directory,
        EntryKind::HardLink("a".into()),
        EntryKind::Symlink("a".into()),
        EntryKind::Fifo,
        EntryKind::CharDevice { major: 1, minor: 3 },
    ] {
        let mut bytes = archive(&[file("a", b""), plain("x", kind.clone()), file("b", b"1"), file("c", b"2")]);
        // The second header, with a size of two blocks.
        let mut header = header::Block::try_from(&bytes[512..1024]).unwrap();
        header[124..136].copy_from_slice(b"00000002000\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes[512..1024].copy_from_slice(&header);
        let paths: Vec<_> = read_all(&bytes).unwrap().into_iter().map(|(entry, _)| entry.path).collect();
        let name = if kind == EntryKind::Directory { "x/" } else { "x" };
        assert_eq!(paths, ["a", name, "b", "c"].map(Path::new), "{kind:?}");
    }
}

#[test]
fn extended_headers_without_end_are_refused() {
    let mut long = entry("a", EntryKind::File);
    long.xattrs = vec![Xattr { name: b"user.a".to_vec(), value: vec![b'x'; 600_000] }];
    let whole = archive(&[(long, Vec::new())]);
    assert!(read_all(&whole).is_ok());
    // The extended header once more, without the entry that it is for.
    let extended = &whole[..whole.len() - 3 * 512];
    let refused = read_all(&[extended, &whole[..]].concat()).unwrap_err().to_string();
    assert!(refused.contains("extended headers are longer than"), "{refused}");
}

#[test]
fn what_the_sender_says_when_it_fails_arrives() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    let (entry, content) = file("one", b"1");
    writer.entry(&entry).unwrap();
    writer.content(&content).unwrap();
    writer.abort("cannot read `two`: I/O error").unwrap();
    let (target, result) = extract(&bytes);
    assert!(matches!(result, Err(ArchiveError::Sender { reason }) if reason.contains("`two`")));
    assert_eq!(names(target.path()), ["one"]);
}

#[test]
fn a_damaged_header_is_named_with_the_entry_before_it() {
    let mut bytes = archive(&[file("one", b"1"), file("two", b"2")]);
    bytes[1024] ^= 1;
    let (_target, result) = extract(&bytes);
    let message = result.unwrap_err().to_string();
    assert!(message.contains("`one`") && message.contains("checksum"), "{message}");
    let (_target, result) = extract(&[7; 4096]);
    assert!(matches!(result, Err(ArchiveError::Format { after: None, .. })));
}

#[test]
fn a_map_that_does_not_fit_its_content_is_refused() {
    for segments in [
        vec![Segment { offset: 90, length: 20 }],
        vec![Segment { offset: 10, length: 10 }, Segment { offset: 5, length: 10 }],
        vec![Segment { offset: u64::MAX, length: 20 }],
    ] {
        let length = segments.iter().map(|segment| segment.length).sum::<u64>();
        let sparse = Entry { size: 100, segments: Some(segments), ..entry("s", EntryKind::File) };
        let (target, result) = extract(&archive(&[(sparse, vec![1; length as usize])]));
        assert!(matches!(result, Err(ArchiveError::Format { .. })), "{result:?}");
        assert!(names(target.path()).is_empty());
    }
}

/// A tree as GNU tar packs and we extract it, and the other way round: `-S` keeps holes.
#[test]
fn gnu_tar_reads_what_we_write_and_we_read_what_it_writes_in_each_of_its_formats() {
    let source = tempfile::tempdir().unwrap();
    let dir = source.path();
    std::fs::write(dir.join("a"), "content").unwrap();
    std::fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
    symlink("n".repeat(150), dir.join("l")).unwrap();
    std::fs::create_dir(dir.join("d".repeat(120))).unwrap();
    std::fs::write(dir.join("d".repeat(120)).join("x".repeat(120)), "deep").unwrap();
    let sparse = std::fs::File::create(dir.join("sparse")).unwrap();
    for part in 0..30_u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 4096], part * 1_000_000 / 4096 * 4096).unwrap();
    }
    sparse.set_len(40_000_000).unwrap();
    let expected = manifest(dir);

    for format in ["gnu", "pax", "oldgnu"] {
        for version in [None, Some("0.1"), Some("1.0")] {
            let mut tar = Command::new("tar");
            tar.args(["-cS", "--format", format])
                .args(version.filter(|_| format == "pax").map(|v| format!("--sparse-version={v}")));
            let bytes = tar.arg("-C").arg(dir).arg(".").output().unwrap().stdout;
            let (target, result) = extract(&bytes);
            result.unwrap();
            assert_eq!(manifest(target.path()), expected, "{format} {version:?}");
            assert!(std::fs::metadata(target.path().join("sparse")).unwrap().blocks() * 512 < 1_000_000, "{format}");
        }
    }

    let mut bytes = Vec::new();
    pack(&Dir::open(dir).unwrap(), &mut bytes).unwrap();
    let target = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar").arg("-xSC").arg(target.path()).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut tar.stdin.take().unwrap(), &bytes).unwrap();
    assert!(tar.wait().unwrap().success());
    assert_eq!(manifest(target.path()), expected);
}

/// Of each path: type and mode, links, and content.
fn manifest(dir: &Path) -> BTreeMap<String, (u32, u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let mut content = Vec::new();
        if metadata.is_dir() {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_symlink() {
            content = std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
        } else {
            std::fs::File::open(&path).unwrap().read_to_end(&mut content).unwrap();
        }
        let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
        let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
        found.insert(name, (metadata.mode(), links, content));
    }
    found
}

fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let path = "[^/\0]{1,150}(/[^/\0]{1,60}){0,3}";
    let kind = prop_oneof![
        Just(EntryKind::Directory),
        Just(EntryKind::Fifo),
        "[^\0]{1,200}".prop_map(|target| EntryKind::Symlink(target.into())),
        (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| EntryKind::CharDevice { major, minor }),
        Just(EntryKind::File),
    ];
    let xattrs = proptest::collection::vec(("user\\.[^\0]{1,20}", proptest::collection::vec(any::<u8>(), 0..50)), 0..3);
    let content = proptest::collection::vec(any::<u8>(), 0..2000);
    let time = (-10_000_000_000_i64..100_000_000_000, 0..1_000_000_000_u32);
    (path, kind, 0..=0o7777_u32, any::<(u32, u32)>(), time, xattrs, content).prop_map(
        |(path, kind, mode, (uid, gid), (secs, nanos), xattrs, content)| {
            let content = if kind == EntryKind::File { content } else { Vec::new() };
            let xattrs = xattrs.into_iter().map(|(name, value)| Xattr { name: name.into_bytes(), value }).collect();
            let path = path.trim_end_matches('/').to_owned();
            let (mtime, size) = (Time { secs, nanos }, content.len() as u64);
            (Entry { mode, uid, gid, mtime, size, xattrs, ..entry(&path, kind) }, content)
        },
    )
}

proptest! {
    #[test]
    fn entries_of_any_names_owners_times_and_attributes_are_read_as_they_were_written(
        entries in proptest::collection::vec(any_entry(), 0..5)
    ) {
        prop_assert_eq!(read_all(&archive(&entries)).unwrap(), entries);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..3000), keep in any::<bool>()) {
        if keep {
            // Behind a header that is whole, where there is more to go wrong.
            let mut whole = archive(&[file("a", b"1")]);
            whole.truncate(1024);
            whole.append(&mut bytes);
            bytes = whole;
        }
        let _ = read_all(&bytes);
    }
}
