use std::collections::BTreeMap;

use base64::engine::general_purpose::STANDARD;
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::keys::candidate::Accepted;

/// A line with the key of this number.
fn line(number: u8) -> String {
    let blob = [&[0, 0, 0, 11][..], b"ssh-ed25519", &[0, 0, 0, 32], &[number; 32]].concat();
    format!("ssh-ed25519 {}", STANDARD.encode(blob))
}

fn key(line: &str) -> Candidate {
    Candidate::parse(line, &Accepted::USUAL).unwrap()
}

fn parse(content: impl AsRef<[u8]>) -> KeySet {
    KeySet::parse("root", None, content.as_ref())
}

fn text(set: &KeySet) -> String {
    String::from_utf8(set.content()).unwrap()
}

fn put(set: &mut KeySet, key: &Candidate, source: &str, expires: Option<u64>) {
    set.put(Wanted { key, source, expires }, 946_684_800, Dialect::Utc);
}

#[test]
fn a_key_is_written_with_its_options_its_end_and_a_mark() {
    let mut set = parse("");
    put(&mut set, &key(&format!("restrict,command=\"ls\" {} ada@lovelace", line(1))), "host", Some(951_782_400));
    put(&mut set, &key(&line(2)), "manual", None);
    let (one, two) = (line(1), line(2));
    assert_eq!(
        text(&set),
        format!(
            "restrict,command=\"ls\",expiry-time=\"20000229000000Z\" {one} ada@lovelace [guestd source=host added=20000101000000Z]\n\
             {two} [guestd source=manual added=20000101000000Z]\n"
        )
    );
    let read = parse(text(&set));
    assert_eq!(read, set);
    let entries: Vec<_> = read.entries().collect();
    assert_eq!((entries[0].source.as_str(), entries[0].comment.as_str()), ("host", "ada@lovelace"));
    assert_eq!((entries[0].options.as_str(), entries[0].expires), ("restrict,command=\"ls\"", Some(951_782_400)));
    assert_eq!((entries[1].comment.as_str(), entries[1].added, entries[1].expires), ("", Some(946_684_800), None));
    assert_eq!(read.next_expiry(), Some(951_782_400));
}

#[test]
fn the_same_key_again_changes_nothing_and_with_another_end_its_line_alone() {
    let mut set = parse(format!("# first\n{}\r\n", line(9)));
    put(&mut set, &key(&line(1)), "host", None);
    put(&mut set, &key(&line(2)), "host", None);
    let before = text(&set);
    set.put(Wanted { key: &key(&line(1)), source: "host", expires: None }, 999_999_999, Dialect::Utc);
    assert_eq!(text(&set), before);
    put(&mut set, &key(&line(1)), "host", Some(951_782_400));
    let expected = before.replace(&line(1), &format!("expiry-time=\"20000229000000Z\" {}", line(1)));
    assert_eq!(text(&set), expected);
}

#[test]
fn a_key_of_two_sources_is_there_twice_and_goes_with_each() {
    let mut set = parse("");
    put(&mut set, &key(&line(1)), "host", Some(951_782_400));
    put(&mut set, &key(&line(1)), "vm", None);
    assert_eq!(set.entries().count(), 2);
    set.keep_of("host", &[]);
    assert_eq!(set.entries().map(|entry| entry.source.as_str()).collect::<Vec<_>>(), ["vm"]);
    assert_eq!(set.expire(u64::MAX), 0);
}

#[test]
fn a_line_that_somebody_copied_is_one_key_again_when_that_is_set() {
    let mut set = parse("");
    put(&mut set, &key(&line(1)), "host", None);
    let twice = text(&set).repeat(2);
    let mut set = parse(twice);
    put(&mut set, &key(&line(1)), "host", None);
    assert_eq!(set.entries().count(), 1);
}

#[test]
fn lines_without_a_mark_belong_to_the_image_or_to_somebody_and_go_by_their_id_alone() {
    let golden = hash(&STANDARD.decode(line(1).split(' ').nth(1).unwrap()).unwrap());
    let content = format!("{} guestd golden key\n{}\n", line(1), line(2));
    let mut set = KeySet::parse("root", Some(golden), content.as_bytes());
    let sources: Vec<_> = set.entries().map(|entry| entry.source.as_str()).collect();
    assert_eq!(sources, ["golden", "file"]);
    set.keep_of("golden", &[]);
    set.keep_of("file", &[]);
    set.expire(u64::MAX);
    assert_eq!(text(&set), content);
    let id = set.entries().next().unwrap().id.clone();
    assert_eq!(set.remove(&id).len(), 1);
    assert_eq!(text(&set), format!("{}\n", line(2)));
    assert!(set.remove(&id).is_empty());
}

#[test]
fn a_mark_in_a_comment_that_was_given_is_no_mark() {
    let mut set = parse("");
    let fake = "x [guestd source=golden added=20000101000000Z]";
    put(&mut set, &key(&format!("{} {fake}", line(1))), "host", None);
    let read = parse(text(&set));
    let entry = read.entries().next().unwrap();
    assert_eq!((entry.source.as_str(), entry.comment.as_str()), ("host", fake));
    for broken in ["[guestd source=A added=20000101Z]", "[guestd source=a]", "[guestd source=a added=x]", "[guestd ]"] {
        let read = parse(format!("{} {broken}\n", line(1)));
        assert_eq!(read.entries().next().unwrap().source, UNMARKED, "{broken}");
    }
}

#[test]
fn an_id_is_the_same_for_the_same_user_source_and_key_alone() {
    let [a, b] = [hash(b"a"), hash(b"b")];
    let ids = [id("root", "host", &a), id("root", "host", &b), id("root", "vm", &a), id("ada", "host", &a)];
    assert_eq!(ids[0], id("root", "host", &a));
    assert!(ids.iter().all(|one| one.len() == 16 && ids.iter().filter(|other| *other == one).count() == 1));
    assert_ne!(id("a", "bc", &a), id("ab", "c", &a));
}

/// A line of somebody's own, without its end: what people, programs and accidents write.
fn foreign_line() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<Vec<u8>> = [
        String::new(),
        "  \t".to_owned(),
        "# a comment".to_owned(),
        " # [guestd source=host added=20000101000000Z]".to_owned(),
        line(0),
        line(1),
        format!("{} somebody@somewhere", line(2)),
        format!("restrict,command=\"a \\\"b\\\" c\",expiry-time=\"20010101\" {} c", line(3)),
        format!("\t from=\"10.0.0.0/8,fd00::/8\"  {}\t with tabs", line(4)),
        format!("{} [guestd source=HOST added=20000101000000Z]", line(0)),
        format!("{} [guestd source=host]", line(1)),
        "cert-authority,principals=\"root\" ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQc= ca".to_owned(),
        "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29t cert".to_owned(),
        "ssh-mldsa44@openssh.com AAAAF3NzaC1tbGRzYTQ0QG9wZW5zc2guY29t of a type to come".to_owned(),
        "nonsense".to_owned(),
        "ssh-ed25519 AAAA truncated".to_owned(),
        "command=\"never closed ssh-ed25519 AAAA".to_owned(),
    ]
    .map(String::into_bytes)
    .into();
    let latin = [line(5).into_bytes(), b" J\xfcrgen \xff\0".to_vec()].concat();
    prop_oneof![
        8 => select(known),
        1 => Just(latin),
        2 => vec(any::<u8>().prop_filter("a line feed ends a line", |byte| *byte != b'\n'), 0..40),
    ]
}

/// Lines with their ends; the last may have none.
fn foreign_file() -> impl Strategy<Value = Vec<u8>> {
    let ended =
        (foreign_line(), select(vec![&b"\n"[..], b"\r\n"])).prop_map(|(line, end)| [line, end.to_vec()].concat());
    (vec(ended, 0..8), proptest::option::of(foreign_line()))
        .prop_map(|(lines, last)| [lines.concat(), last.unwrap_or_default()].concat())
}

#[derive(Debug, Clone)]
enum Change {
    Put { key: u8, source: &'static str, expires: Option<u64> },
    Remove { key: u8, source: &'static str },
    KeepOf { source: &'static str, keys: Vec<u8> },
    Expire { now: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    let source = || select(vec!["host", "vm", "manual"]);
    prop_oneof![
        4 => (0..5_u8, source(), proptest::option::of(1..100_u64))
            .prop_map(|(key, source, expires)| Change::Put { key, source, expires }),
        2 => (0..5_u8, source()).prop_map(|(key, source)| Change::Remove { key, source }),
        1 => (source(), vec(0..5_u8, 0..4)).prop_map(|(source, keys)| Change::KeepOf { source, keys }),
        1 => (0..120_u64).prop_map(|now| Change::Expire { now }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn lines_of_others_stay_byte_for_byte_and_those_of_guestd_are_what_was_asked_for(
        content in foreign_file(),
        changes in vec(change(), 0..12),
    ) {
        let hash_of = |number: u8| key(&line(number)).hash();
        let mut file = content.clone();
        let mut model = BTreeMap::new();
        for change in changes {
            // As each change is made: on what is on disk.
            let mut set = parse(&file);
            match change {
                Change::Put { key: number, source, expires } => {
                    put(&mut set, &key(&line(number)), source, expires);
                    model.insert((source, number), expires);
                }
                Change::Remove { key: number, source } => {
                    let removed = set.remove(&id("root", source, &hash_of(number)));
                    prop_assert_eq!(removed.len(), usize::from(model.remove(&(source, number)).is_some()));
                }
                Change::KeepOf { source, keys } => {
                    set.keep_of(source, &keys.iter().copied().map(hash_of).collect::<Vec<_>>());
                    model.retain(|(of, number), _| *of != source || keys.contains(number));
                }
                Change::Expire { now } => {
                    set.expire(now);
                    model.retain(|_, expires| expires.is_none_or(|expires| expires > now));
                }
            }
            file = set.content();

            let read = parse(&file);
            let foreign = read.lines.iter().filter(|line| line.entry.as_ref().is_none_or(|entry| entry.added.is_none()));
            let foreign: Vec<u8> = foreign.flat_map(|line| line.raw.clone()).collect();
            let ended = [&content[..], b"\n"].concat();
            prop_assert!(foreign == content || (!content.ends_with(b"\n") && foreign == ended), "{:?}", foreign);
            let managed = read.entries().filter(|entry| entry.added.is_some());
            let managed: BTreeMap<_, _> = managed.map(|entry| ((entry.source.clone(), entry.hash), entry.expires)).collect();
            let expected: BTreeMap<_, _> =
                model.iter().map(|((source, number), expires)| (((*source).to_owned(), hash_of(*number)), *expires)).collect();
            prop_assert_eq!(managed, expected);
        }
    }
}
