//! The real guestctl against a real agent: files and trees there and back, as root.
#![cfg(test)]

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use guestd::{
    limits,
    sys::files::{self, Dir, Kind, Segment, Time, Xattr},
};
use serde_json::Value;
use support::{TestAgent, eventually};

fn guestctl(agent: &TestAgent, args: &[&OsStr]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
    let mut vm = OsString::from("unix:");
    vm.push(agent.socket());
    command.arg("--vm").arg(vm).args(args).stdin(Stdio::null());
    command
}

fn vm(path: &Path) -> OsString {
    let mut side = OsString::from("vm:");
    side.push(path);
    side
}

fn run(agent: &TestAgent, args: &[&OsStr]) -> Output {
    guestctl(agent, args).output().unwrap()
}

fn cp(agent: &TestAgent, args: &[&OsStr]) {
    let output = run(agent, &[&[OsStr::new("cp")], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b""[..], &b""[..]));
}

fn refused(agent: &TestAgent, args: &[&OsStr]) -> (i32, String) {
    let output = run(agent, &[&[OsStr::new("cp")], args].concat());
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg("-b").stdin(File::open(path).unwrap()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Bytes that do not repeat.
fn noise(path: &Path, mebibytes: u64) {
    let mut source = File::open("/dev/urandom").unwrap().take(mebibytes << 20);
    std::io::copy(&mut source, &mut File::create(path).unwrap()).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_quarter_of_a_gibibyte_is_the_same_there_and_back_and_through_pipes() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = |name: &str| dir.path().join(name);
    noise(&path("a"), 256);
    let sum = sha256(&path("a"));
    cp(&agent, &[path("a").as_os_str(), &vm(&path("b"))]);
    assert_eq!(sha256(&path("b")), sum);
    cp(&agent, &[&vm(&path("b")), path("c").as_os_str()]);
    assert_eq!(sha256(&path("c")), sum);
    let mut piped = guestctl(&agent, &["cp".as_ref(), "-".as_ref(), &vm(&path("d"))]);
    assert!(piped.stdin(File::open(path("a")).unwrap()).status().unwrap().success());
    assert_eq!(sha256(&path("d")), sum);
    let mut piped = guestctl(&agent, &["cp".as_ref(), &vm(&path("d")), "-".as_ref()]);
    assert!(piped.stdout(File::create(path("e")).unwrap()).status().unwrap().success());
    assert_eq!(sha256(&path("e")), sum);
}

/// Everything of a path that a copy must keep.
#[derive(Debug, PartialEq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    rdev: u64,
    content: Vec<u8>,
    holes: Vec<Segment>,
    xattrs: Vec<Xattr>,
    /// The first path of the same inode.
    same_as: PathBuf,
}

fn manifest(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut paths = vec![root.to_owned()];
    let mut at = 0;
    while at < paths.len() {
        if paths[at].symlink_metadata().unwrap().is_dir() {
            let inner: Vec<_> = fs::read_dir(&paths[at]).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.extend(inner);
        }
        at += 1;
    }
    paths.sort();
    let mut inodes = BTreeMap::new();
    let seen = |path: &PathBuf| {
        let metadata = path.symlink_metadata().unwrap();
        let (mut content, mut holes, mut xattrs) = (Vec::new(), Vec::new(), Vec::new());
        if metadata.is_file() || metadata.is_dir() {
            xattrs = files::xattrs(File::open(path).unwrap()).unwrap();
        }
        if metadata.is_symlink() {
            content = fs::read_link(path).unwrap().into_os_string().into_encoded_bytes();
        } else if metadata.is_file() {
            let mut file = File::open(path).unwrap();
            holes = files::segments(&file, metadata.len(), usize::MAX).unwrap();
            file.read_to_end(&mut content).unwrap();
        }
        let name = path.strip_prefix(root).unwrap().to_owned();
        let same_as = inodes.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
        let owner = (metadata.uid(), metadata.gid());
        let mtime = (metadata.mtime(), metadata.mtime_nsec());
        let (mode, rdev) = (metadata.mode(), metadata.rdev());
        (name, Seen { mode, owner, mtime, rdev, content, holes, xattrs, same_as })
    };
    paths.iter().map(seen).collect()
}

/// One of each kind of thing.
fn make_tree(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::create_dir(root).unwrap();
    fs::write(path("empty"), "").unwrap();
    fs::create_dir(path("empty-directory")).unwrap();
    fs::write(path("file"), "content\n").unwrap();
    fs::hard_link(path("file"), path("other-name")).unwrap();
    fs::create_dir(path("dir")).unwrap();
    fs::hard_link(path("file"), path("dir/third-name")).unwrap();
    symlink("file", path("link")).unwrap();
    symlink("/no/such/place", path("broken")).unwrap();
    symlink("../..", path("dir/up")).unwrap();
    symlink("t".repeat(3000), path("long-link")).unwrap();
    fs::write(path(&"n".repeat(255)), "long").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"caf\xe9\n\x01")), "bytes").unwrap();
    let deep = (0..12).fold(root.to_owned(), |deep, _| deep.join("d".repeat(60)));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("deep"), "deep").unwrap();
    let here = Dir::open(root).unwrap();
    here.create_node(OsStr::new("fifo"), Kind::Fifo, 0).unwrap();
    here.create_node(OsStr::new("null"), Kind::CharDevice, Path::new("/dev/null").metadata().unwrap().rdev()).unwrap();
    here.create_node(OsStr::new("loop"), Kind::BlockDevice, nix::sys::stat::makedev(7, 200)).unwrap();
    for (name, first, size) in
        [("sparse", 1 << 20, 64 << 20), ("all-hole", u64::MAX, 5_000_000), ("end", 9 << 20, 9 << 20)]
    {
        let file = File::create(path(name)).unwrap();
        file.set_len(size).unwrap();
        for part in (0..40).map(|part| first.saturating_add(part * (1 << 20))).filter(|part| *part < size) {
            file.write_all_at(&[7; 4096], part).unwrap();
        }
    }
    fs::set_permissions(path("sparse"), fs::Permissions::from_mode(0o600)).unwrap();
    for name in ["file", "dir"] {
        for (name_of, value) in
            [("user.plain", b"value".to_vec()), ("user.odd=%25 name", vec![0, 0xff, b'\n']), ("trusted.t", vec![])]
        {
            let xattr = Xattr { name: name_of.as_bytes().to_vec(), value };
            files::set_xattr(File::open(path(name)).unwrap(), &xattr).unwrap();
        }
    }
    for (name, owner) in [("file", 1000), ("link", 3_000_000), ("empty-directory", 70_000), ("fifo", 5)] {
        lchown(path(name), Some(owner), Some(owner + 1)).unwrap();
    }
    fs::set_permissions(path("empty"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(path("dir"), fs::Permissions::from_mode(0o2500)).unwrap();
    fs::set_permissions(path("empty-directory"), fs::Permissions::from_mode(0o1777)).unwrap();
    for (name, secs, nanos) in [("empty", 1, 1), ("link", -1_000_000, 250_000_000), ("dir", 5_000_000_000, 999_999_999)]
    {
        here.set_mtime_of(OsStr::new(name), Time { secs, nanos }).unwrap();
    }
    here.set_mtime_of(OsStr::new("fifo"), Time { secs: 77, nanos: 123_456_789 }).unwrap();
}

#[test]
fn everything_of_a_tree_is_the_same_there_and_back() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = |name: &str| dir.path().join(name);
    make_tree(&path("a"));
    let expected = manifest(&path("a"));
    assert_eq!(expected[Path::new("dir/third-name")].same_as, Path::new("dir/third-name"));
    assert_eq!(expected[Path::new("other-name")].same_as, Path::new("dir/third-name"));
    assert!(expected[Path::new("sparse")].holes.len() > 30, "this file system makes no holes");
    cp(&agent, &["-r".as_ref(), path("a").as_os_str(), &vm(&path("b"))]);
    assert_same(&manifest(&path("b")), &expected);
    cp(&agent, &["-r".as_ref(), &vm(&path("b")), path("c").as_os_str()]);
    assert_same(&manifest(&path("c")), &expected);
    // Over what is there already, and through pipes.
    cp(&agent, &["-r".as_ref(), path("c/.").as_os_str(), &vm(&path("b"))]);
    assert_same(&manifest(&path("b")), &expected);
    let mut out = guestctl(&agent, &["cp".as_ref(), "-r".as_ref(), &vm(&path("b")), "-".as_ref()]);
    let mut out = out.stdout(Stdio::piped()).spawn().unwrap();
    let mut back = guestctl(&agent, &["cp".as_ref(), "-r".as_ref(), "-".as_ref(), &vm(&path("d"))]);
    assert!(back.stdin(out.stdout.take().unwrap()).status().unwrap().success());
    assert!(out.wait().unwrap().success());
    assert_same(&manifest(&path("d")), &expected);
}

/// Of two large maps, only what differs is worth showing.
fn assert_same(found: &BTreeMap<PathBuf, Seen>, expected: &BTreeMap<PathBuf, Seen>) {
    for (path, seen) in expected {
        let found = found.get(path).unwrap_or_else(|| panic!("{} is missing", path.display()));
        assert!(found.content == seen.content, "{} has another content", path.display());
        let short = |seen: &Seen| {
            format!(
                "{:o} {:?} {:?} {} {:?} {:?} {:?}",
                seen.mode, seen.owner, seen.mtime, seen.rdev, seen.holes, seen.xattrs, seen.same_as
            )
        };
        assert_eq!(short(found), short(seen), "{}", path.display());
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn a_copy_goes_into_a_directory_that_is_there_and_else_takes_the_name_that_is_given() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = |name: &str| dir.path().join(name);
    for name in ["src/sub", "there", "here", "there2"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    fs::write(path("src/sub/x"), "x").unwrap();
    fs::write(path("f"), "f").unwrap();
    let r = OsStr::new("-r");
    cp(&agent, &[path("f").as_os_str(), &vm(&path("there"))]);
    cp(&agent, &[path("f").as_os_str(), &vm(&path("there/g"))]);
    cp(&agent, &[r, path("src").as_os_str(), &vm(&path("there"))]);
    cp(&agent, &[r, path("src").as_os_str(), &vm(&path("there/new"))]);
    cp(&agent, &[r, path("src/.").as_os_str(), &vm(&path("there2"))]);
    assert_eq!(names(&path("there")), ["f", "g", "new", "src"]);
    assert_eq!((names(&path("there/new")), names(&path("there2"))), (vec!["sub".to_owned()], vec!["sub".to_owned()]));
    cp(&agent, &[&vm(&path("f")), path("here").as_os_str()]);
    cp(&agent, &[&vm(&path("f")), path("here/g").as_os_str()]);
    cp(&agent, &[r, &vm(&path("src/")), path("here").as_os_str()]);
    cp(&agent, &[r, &vm(&path("src")), path("here/new").as_os_str()]);
    cp(&agent, &[r, &vm(&path("src/.")), path("here/sub").as_os_str()]);
    assert_eq!(names(&path("here")), ["f", "g", "new", "src", "sub"]);
    assert_eq!(names(&path("here/sub")), ["sub"]);
}

#[test]
fn a_new_file_gets_the_sources_mode_and_a_replaced_one_keeps_its_own() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = |name: &str| dir.path().join(name);
    fs::write(path("tool"), "new").unwrap();
    fs::set_permissions(path("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, down) in [("up", false), ("down", true)] {
        let sides = [path("tool").into_os_string(), path(name).into_os_string()];
        let copy = || match down {
            true => cp(&agent, &[&vm(Path::new(&sides[0])), &sides[1]]),
            false => cp(&agent, &[&sides[0], &vm(Path::new(&sides[1]))]),
        };
        copy();
        assert_eq!(mode(&path(name)), 0o755);
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
        copy();
        assert_eq!((mode(&path(name)), fs::read(path(name)).unwrap()), (0o600, b"new".to_vec()));
    }
}

#[test]
fn a_client_that_is_killed_leaves_the_old_file_and_no_other() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = dir.path().join("file");
    fs::write(&path, "old").unwrap();
    let mut client =
        guestctl(&agent, &["cp".as_ref(), "-".as_ref(), &vm(&path)]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 3 << 20]).unwrap();
    let grown =
        |name: &String| name != "file" && dir.path().join(name).metadata().is_ok_and(|found| found.len() > 1 << 20);
    eventually("a part has arrived", || names(dir.path()).iter().any(grown).then_some(()));
    client.kill().unwrap();
    client.wait().unwrap();
    eventually("nothing is left of it", || (names(dir.path()) == ["file"]).then_some(()));
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn an_agent_that_is_killed_leaves_the_old_file_here_and_the_copy_fails() {
    let (agent, vm_side, here) = (TestAgent::start(), dir(), dir());
    let (source, target) = (vm_side.path().join("huge"), here.path().join("file"));
    File::create(&source).unwrap().set_len(1 << 40).unwrap();
    fs::write(&target, "old").unwrap();
    let mut client = guestctl(&agent, &["cp".as_ref(), &vm(&source), target.as_os_str()]);
    let client = client.stderr(Stdio::piped()).spawn().unwrap();
    eventually("a part has arrived", || (names(here.path()).len() == 2).then_some(()));
    nix::sys::signal::kill(agent.pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.contains("ended before the answer")), (Some(125), true), "{said}");
    assert_eq!((names(here.path()), fs::read(&target).unwrap()), (vec!["file".to_owned()], b"old".to_vec()));
}

#[test]
fn a_copy_that_is_told_to_go_leaves_no_part_of_a_file() {
    let (agent, vm_side, here) = (TestAgent::start(), dir(), dir());
    let source = vm_side.path().join("huge");
    File::create(&source).unwrap().set_len(1 << 40).unwrap();
    let mut client = guestctl(&agent, &["cp".as_ref(), &vm(&source), here.path().as_os_str()]);
    let client = client.stderr(Stdio::piped()).spawn().unwrap();
    eventually("a part has arrived", || (names(here.path()).len() == 1).then_some(()));
    let pid = nix::unistd::Pid::from_raw(client.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.contains("ended by signal 15")), (Some(143), true), "{said}");
    assert!(names(here.path()).is_empty());
}

#[test]
fn what_cannot_be_copied_is_said_with_advice_and_an_exit_code() {
    let (agent, dir) = (TestAgent::start(), dir());
    let at = vm(dir.path());
    let refused = |args: &[&OsStr]| refused(&agent, args);
    let says = |(code, text): (i32, String), expected: i32, words: &str| {
        assert_eq!(code, expected, "{text}");
        assert!(text.contains(words) && text.contains("\nadvice: "), "{text} does not say `{words}`");
    };
    says(refused(&["/etc".as_ref(), &at]), 125, "is a directory");
    says(refused(&["vm:/etc".as_ref(), dir.path().as_os_str()]), 125, "with -r");
    says(refused(&["vm:/no/such".as_ref(), dir.path().as_os_str()]), 125, "there is no /no/such");
    says(refused(&["/no/such".as_ref(), &at]), 125, "/no/such");
    says(refused(&["/etc/hostname".as_ref(), "vm:/no/such/file".as_ref()]), 125, "must exist");
    says(refused(&["vm:/dev/null".as_ref(), dir.path().as_os_str()]), 125, "guestctl exec");
    says(refused(&["/dev/null".as_ref(), &at]), 125, "guestctl exec");
    says(refused(&["/etc/hostname".as_ref(), "/tmp/x".as_ref()]), 2, "vm:/PATH");
    says(refused(&["vm:/a".as_ref(), "vm:/b".as_ref()]), 2, "vm:/PATH");
    assert_eq!(refused(&["vm:etc".as_ref(), "x".as_ref()]).0, 2);
    let gone = Command::new(env!("CARGO_BIN_EXE_guestctl"))
        .args(["--vm", "unix:/no/such/socket", "cp", "/etc/hostname", "vm:/x"])
        .output()
        .unwrap();
    assert_eq!(gone.status.code(), Some(69));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_tree_that_fails_on_either_side_names_its_entry() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = |name: &str| dir.path().join(name);
    fs::create_dir_all(path("src/d")).unwrap();
    fs::create_dir(path("into")).unwrap();
    fs::write(path("into/d"), "no directory").unwrap();
    for sides in
        [[path("src/.").into_os_string(), vm(&path("into"))], [vm(&path("src/.")), path("into").into_os_string()]]
    {
        let (code, said) = refused(&agent, &["-r".as_ref(), &sides[0], &sides[1]]);
        assert_eq!((code, said.contains("`d/`")), (125, true), "{said}");
    }
    let deep = (0..=limits::TREE_DEPTH).fold(path("deep"), |deep, _| deep.join("d"));
    fs::create_dir_all(&deep).unwrap();
    for sides in [[path("deep").into_os_string(), vm(&path("up"))], [vm(&path("deep")), path("down").into_os_string()]]
    {
        let (code, said) = refused(&agent, &["-r".as_ref(), &sides[0], &sides[1]]);
        assert_eq!((code, said.contains("depth")), (125, true), "{said}");
    }
    // Where only tar would look at it, which takes the end of such a stream for that of the archive.
    let (code, said) = refused(&agent, &["-r".as_ref(), &vm(&path("deep")), "-".as_ref()]);
    assert_eq!((code, said.contains("depth")), (125, true), "{said}");
}

#[test]
fn json_is_one_document_and_nothing_is_drawn_where_there_is_no_terminal() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = dir.path().join("x");
    fs::create_dir(dir.path().join("tree")).unwrap();
    fs::write(dir.path().join("tree/f"), "12345").unwrap();
    let json = |args: &[&OsStr]| -> Value {
        let output = run(&agent, &[&["--json".as_ref(), "cp".as_ref()], args].concat());
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let copied = json(&[dir.path().join("tree/f").as_os_str(), &vm(&path)]);
    assert_eq!((&copied["path"], &copied["bytes"]), (&path.to_str().unwrap().into(), &5.into()), "{copied}");
    let copied = json(&["-r".as_ref(), dir.path().join("tree").as_os_str(), &vm(&dir.path().join("copy"))]);
    assert_eq!((&copied["entries"], &copied["xattrs_skipped"]), (&2.into(), &0.into()), "{copied}");
    let odd = dir.path().join(OsStr::from_bytes(b"o\xffd"));
    let copied = json(&[path.as_os_str(), &vm(&odd)]);
    assert_eq!(copied["path"], *odd.to_string_lossy(), "{copied}");
}
