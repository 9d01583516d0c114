//! Files and trees over the API of a real agent, as root.
#![cfg(test)]

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, lchown, symlink},
    },
    path::Path,
};

use guestd::{
    api::FileQuery,
    archive::{Entry, EntryKind, Reader, Writer},
    limits,
    sys::files::Time,
};
use serde_json::{Value, json};
use support::{TestAgent, answer, eventually};

const OCTET: &str = "application/octet-stream";

fn files(query: &FileQuery) -> String {
    format!("/v1/files?{}", query.encode())
}

fn at(path: &Path) -> FileQuery {
    FileQuery::path(path.as_os_str().as_bytes())
}

/// The head of a request, to be followed by its body.
fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: guestd\r\nConnection: close\r\n{headers}\r\n")
}

/// A raw answer.
struct Raw {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Raw {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name)).map(|(_, value)| value)
    }
}

fn call(agent: &TestAgent, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Raw {
    let mut stream = agent.connect();
    let length = body.len().to_string();
    let headers = [headers, &[("Content-Length", length.as_str())]].concat();
    stream.write_all(head(method, target, &headers).as_bytes()).unwrap();
    // What is refused is answered before all of it is read.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an HTTP answer");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Raw { status, head, body: bytes[end + 4..].to_vec() }
}

fn put(agent: &TestAgent, query: &FileQuery, content: &[u8]) -> Raw {
    call(agent, "PUT", &files(query), &[("Content-Type", OCTET)], content)
}

fn get_raw(agent: &TestAgent, path: &Path, headers: &[(&str, &str)]) -> Raw {
    call(agent, "GET", &files(&at(path)), &[headers, &[("Accept", OCTET)]].concat(), b"")
}

fn expect(raw: &Raw, status: u16, code: &str, says: &str) {
    let body = raw.json();
    assert_eq!((raw.status, body["code"].as_str()), (status, Some(code)), "{body}");
    assert_eq!(body["success"], false);
    assert!(body["error"].as_str().unwrap().contains(says), "{body} does not say `{says}`");
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

// Content

#[test]
fn the_platforms_json_writes_and_reads_a_file() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = dir.path().join("new/dirs/file");
    let body = json!({"path": path, "content_b64": "AP8K", "mode": "0750", "create_dirs": true});
    let (status, stat) = agent.call("PUT", "/v1/files", &body.to_string());
    assert_eq!((status, &stat["type"], &stat["size"]), (200, &"file".into(), &3.into()), "{stat}");
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (vec![0, 0xff, b'\n'], 0o750));
    assert_eq!(mode(&dir.path().join("new")), 0o755);
    assert_eq!(agent.get(&files(&at(&path))), json!({"content_b64": "AP8K"}));
    let bits = json!({"path": path, "content_b64": "", "mode": 0o600});
    assert_eq!(agent.call("PUT", "/v1/files", &bits.to_string()).1["mode"], 0o600);
}

#[test]
fn raw_content_comes_with_its_length_mode_owner_and_time() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = dir.path().join("file");
    let content: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
    let query = FileQuery { mode: Some(0o4711), owner: Some("7:8".into()), ..at(&path) };
    assert_eq!(put(&agent, &query, &content).status, 200);
    let raw = get_raw(&agent, &path, &[]);
    assert_eq!((raw.status, raw.body == content), (200, true));
    let metadata = path.metadata().unwrap();
    let mtime = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
    for (name, value) in [
        ("content-length", content.len().to_string().as_str()),
        ("content-type", OCTET),
        ("x-guestd-mode", "4711"),
        ("x-guestd-uid", "7"),
        ("x-guestd-gid", "8"),
        ("x-guestd-mtime", &mtime),
    ] {
        assert_eq!(raw.header(name), Some(value), "{name}");
    }
}

#[test]
fn a_range_is_answered_206_and_one_beyond_the_end_416() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = dir.path().join("file");
    fs::write(&path, "0123456789").unwrap();
    for (range, content, shown) in
        [("bytes=2-4", "234", "bytes 2-4/10"), ("bytes=7-", "789", "bytes 7-9/10"), ("bytes=-2", "89", "bytes 8-9/10")]
    {
        let raw = get_raw(&agent, &path, &[("Range", range)]);
        assert_eq!((raw.status, raw.body.as_slice()), (206, content.as_bytes()), "{range}");
        assert_eq!(raw.header("content-range"), Some(shown));
    }
    let beyond = get_raw(&agent, &path, &[("Range", "bytes=10-")]);
    expect(&beyond, 416, "bad_range", "10");
    assert_eq!(beyond.header("content-range"), Some("bytes */10"));
    assert_eq!(get_raw(&agent, &path, &[("Range", "bytes=0-1,4-5")]).status, 200);
}

#[test]
fn a_file_that_the_kernel_makes_up_is_read_to_its_end() {
    let agent = TestAgent::start();
    let raw = get_raw(&agent, Path::new("/proc/version"), &[]);
    assert_eq!((raw.status, raw.header("content-length")), (200, None));
    assert!(String::from_utf8_lossy(&raw.body).contains("Linux version"));
    assert!(agent.get("/v1/files?path=/proc/version")["content_b64"].as_str().unwrap().len() > 20);
    // sysfs tells a length that is not there.
    let path = Path::new("/sys/class/net/lo/address");
    let raw = get_raw(&agent, path, &[]);
    assert_eq!((raw.status, raw.header("content-length")), (200, None));
    assert!(String::from_utf8_lossy(&raw.body).contains(&fs::read_to_string(path).unwrap()));
}

#[test]
fn a_file_too_large_for_json_is_answered_413_with_the_way_to_get_it() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = dir.path().join("file");
    fs::File::create(&path).unwrap().set_len(limits::FILE_JSON_BYTES as u64 + 1).unwrap();
    expect(&call(&agent, "GET", &files(&at(&path)), &[], b""), 413, "payload_too_large", OCTET);
    fs::File::create(&path).unwrap().set_len(limits::FILE_JSON_BYTES as u64).unwrap();
    assert_eq!(call(&agent, "GET", &files(&at(&path)), &[], b"").status, 200);
}

// What is there

#[test]
fn each_type_of_file_is_told_and_links_are_not_followed() {
    let (agent, dir) = (TestAgent::start(), dir());
    let stat = |path: &Path| agent.get(&files(&FileQuery { stat: true, ..at(path) }));
    symlink("/etc", dir.path().join("link")).unwrap();
    symlink("nowhere", dir.path().join("broken")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap().success());
    let link = stat(&dir.path().join("link"));
    assert_eq!((&link["type"], &link["link_target"]), (&"symlink".into(), &"/etc".into()), "{link}");
    assert_eq!(link["leads_to_directory"], true);
    assert_eq!(stat(&dir.path().join("broken"))["leads_to_directory"], Value::Null);
    assert_eq!(stat(&dir.path().join("fifo"))["type"], "fifo");
    assert_eq!(stat(Path::new("/dev/null"))["type"], "char_device");
    assert_eq!(stat(agent.socket())["type"], "socket");
    assert_eq!(stat(Path::new("/"))["type"], "directory");
}

#[test]
fn a_listing_has_pages_by_name_and_says_if_there_is_more() {
    let (agent, dir) = (TestAgent::start(), dir());
    let count = limits::FILE_LIST_ENTRIES + 5;
    for number in 0..count {
        fs::write(dir.path().join(format!("{number:05}")), "").unwrap();
    }
    let list = |after: Option<&str>| {
        agent.get(&files(&FileQuery { list: true, after: after.map(Into::into), ..at(dir.path()) }))
    };
    let first = list(None);
    let entries = first["entries"].as_array().unwrap();
    assert_eq!((entries.len(), &first["more"]), (limits::FILE_LIST_ENTRIES, &true.into()));
    let last = entries.last().unwrap()["path"].as_str().unwrap();
    let rest = list(Some(last));
    assert_eq!((rest["entries"].as_array().unwrap().len(), &rest["more"]), (5, &false.into()));
    assert_eq!(rest["entries"][4]["path"], format!("{:05}", count - 1));
}

#[test]
fn names_that_are_no_utf_8_pass_in_both_directions() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = dir.path().join(OsStr::from_bytes(b"caf\xe9 %+&=?#"));
    assert_eq!(put(&agent, &at(&path), b"x").status, 200);
    assert_eq!(fs::read(&path).unwrap(), b"x");
    let listed = agent.get(&files(&FileQuery { list: true, ..at(dir.path()) }));
    assert_eq!(listed["entries"][0]["path_b64"], "Y2Fm6SAlKyY9PyM=");
    assert_eq!(get_raw(&agent, &path, &[]).body, b"x");
}

// Writing

#[test]
fn a_file_that_is_replaced_hands_on_mode_and_owner_and_a_link_to_it_stays() {
    let (agent, dir) = (TestAgent::start(), dir());
    let (path, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    lchown(&path, Some(1234), Some(5678)).unwrap();
    symlink("file", &link).unwrap();
    let before = path.metadata().unwrap().ino();
    assert_eq!(put(&agent, &at(&link), b"new").status, 200);
    let found = path.symlink_metadata().unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o640));
    assert_eq!((found.uid(), found.gid()), (1234, 5678));
    assert_ne!(found.ino(), before, "it was written in place");
    assert!(link.symlink_metadata().unwrap().is_symlink());
    let given = FileQuery { mode: Some(0o600), owner: Some("root".into()), ..at(&path) };
    assert_eq!(put(&agent, &given, b"mine").status, 200);
    assert_eq!((mode(&path), path.metadata().unwrap().uid(), path.metadata().unwrap().gid()), (0o600, 0, 5678));
}

#[test]
fn a_link_that_a_user_set_as_a_trap_is_refused() {
    let (agent, dir) = (TestAgent::start(), dir());
    let (home, secret) = (dir.path().join("home"), dir.path().join("secret"));
    fs::create_dir(&home).unwrap();
    fs::write(&secret, "kept").unwrap();
    for (name, target) in [("notes", secret.as_path()), ("dir", dir.path())] {
        symlink(target, home.join(name)).unwrap();
        lchown(home.join(name), Some(1000), Some(1000)).unwrap();
    }
    for path in [home.join("notes"), home.join("dir/secret")] {
        expect(&put(&agent, &at(&path), b"!"), 403, "permission", "uid 1000");
    }
    assert_eq!(fs::read(&secret).unwrap(), b"kept");
}

#[test]
fn a_body_that_is_cut_off_leaves_the_old_file_and_no_other() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = dir.path().join("file");
    fs::write(&path, "old").unwrap();
    for framing in [("Content-Length", "9000000"), ("Transfer-Encoding", "chunked")] {
        let mut stream = agent.connect();
        let headers = [("Content-Type", OCTET), framing];
        stream.write_all(head("PUT", &files(&at(&path)), &headers).as_bytes()).unwrap();
        stream.write_all(b"100000\r\n").unwrap();
        stream.write_all(&vec![b'x'; 700_000]).unwrap();
        eventually("the upload has begun", || (names(dir.path()).len() == 2).then_some(()));
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let (status, body) = answer(&mut stream);
        assert_eq!((status, body["code"].as_str()), (400, Some("cut_off")), "{body}");
        eventually("nothing is left of it", || (names(dir.path()) == ["file"]).then_some(()));
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}

#[test]
fn a_full_disk_is_answered_507_and_leaves_the_old_file_and_no_other() {
    let dir = dir();
    let script = format!("mount -t tmpfs -o size=1m guestd-test {} && exec \"$@\"", dir.path().display());
    // A mount namespace of the agent's own: the disk is gone with it.
    let agent = TestAgent::start_with("bridge.auto = false\n", &["unshare", "-m", "sh", "-c", &script, "sh"]);
    let path = dir.path().join("file");
    assert_eq!(put(&agent, &at(&path), b"old").status, 200);
    expect(&put(&agent, &at(&path), &vec![1; 3 << 20]), 507, "no_space", "file");
    let large = Entry { size: 3 << 20, ..entry("large", EntryKind::File) };
    let tree = archive(&[(entry("small", EntryKind::File), vec![]), (large, vec![1; 3 << 20])]);
    expect(&put_tree(&agent, dir.path(), &tree), 507, "no_space", "`large`");
    let listed = agent.get(&files(&FileQuery { list: true, ..at(dir.path()) }));
    let left: Vec<_> = listed["entries"].as_array().unwrap().iter().map(|entry| &entry["path"]).collect();
    assert_eq!(left, ["file", "small"]);
    assert_eq!(get_raw(&agent, &path, &[]).body, b"old");
}

#[test]
fn directories_are_made_and_removed_as_mkdir_and_rm_do() {
    let (agent, dir) = (TestAgent::start(), dir());
    let path = dir.path().join("a/b");
    let make = |create_dirs| FileQuery { directory: true, create_dirs, mode: Some(0o1750), ..at(&path) };
    let mkdir = |create_dirs| call(&agent, "PUT", &files(&make(create_dirs)), &[], b"");
    let remove =
        |path: &Path, recursive| call(&agent, "DELETE", &files(&FileQuery { recursive, ..at(path) }), &[], b"");
    expect(&mkdir(false), 404, "not_found", "a/b");
    assert_eq!(mkdir(true).json()["type"], "directory");
    assert_eq!(mode(&path), 0o1750);
    expect(&mkdir(false), 409, "exists", "a/b");
    assert_eq!(mkdir(true).status, 200);

    let kept = dir.path().join("kept");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("x"), "").unwrap();
    symlink(&kept, path.join("link")).unwrap();
    fs::create_dir_all(path.join("c/d/e")).unwrap();
    expect(&remove(&dir.path().join("a"), false), 409, "not_empty", "recursive");
    assert_eq!(remove(&dir.path().join("a"), true).status, 204);
    symlink(&kept, dir.path().join("link")).unwrap();
    assert_eq!(remove(&dir.path().join("link"), true).status, 204);
    expect(&remove(&dir.path().join("link"), true), 404, "not_found", "link");
    assert_eq!((names(dir.path()), names(&kept)), (vec!["kept".to_owned()], vec!["x".to_owned()]));
    expect(&remove(Path::new("/"), true), 422, "invalid_field", "/");
}

#[test]
fn what_cannot_be_done_is_answered_with_a_code_of_its_own() {
    let (agent, dir) = (TestAgent::start(), dir());
    let get = |path: &str| call(&agent, "GET", &files(&FileQuery::path(path)), &[], b"");
    let put = |path: &str| put(&agent, &FileQuery::path(path), b"x");
    expect(&get("/no/such/file"), 404, "not_found", "/no/such/file");
    expect(&get("/etc"), 422, "is_directory", "/v1/tree");
    expect(&get("/etc/passwd/x"), 422, "not_directory", "/etc/passwd/x");
    expect(&get("/dev/null"), 422, "not_regular", "/dev/null");
    expect(&get("etc/passwd"), 422, "invalid_field", "absolute");
    expect(&get("/a\0b"), 422, "nul_byte", "NUL");
    expect(&get(&format!("/{}", "x".repeat(5000))), 422, "invalid_field", "4095");
    expect(&get(&format!("/{}", "x".repeat(300))), 422, "invalid_field", "xxx");
    expect(&put("/etc"), 422, "is_directory", "/etc");
    expect(&put("/"), 422, "is_directory", "/");
    expect(&put(&format!("{}/", dir.path().display())), 422, "is_directory", "directory");
    expect(&put("/dev/null"), 422, "not_regular", "/dev/null");
    expect(&put("/etc/passwd/x"), 422, "not_directory", "/etc/passwd/x");
    expect(&put("/no/such/dir/file"), 404, "not_found", "/no/such/dir/file");
    let target = |query: &str| call(&agent, "PUT", &format!("/v1/files?{query}"), &[("Content-Type", OCTET)], b"x");
    expect(&target(""), 400, "bad_request", "path");
    expect(&target("path=/x&mode=9"), 400, "bad_request", "mode");
    expect(&target("path=/x&colour=red"), 400, "bad_request", "colour");
    expect(&target("path=/x&owner=no-such-user"), 422, "user_not_found", "no-such-user");
    let json = |body: Value| call(&agent, "PUT", "/v1/files", &[], body.to_string().as_bytes());
    expect(&json(json!({"path": "/x", "content_b64": "*"})), 422, "invalid_field", "content_b64");
    expect(&json(json!({"path": "/x", "mode": "rwx"})), 422, "invalid_field", "mode");
    expect(&json(json!({"content_b64": ""})), 422, "invalid_field", "path");
}

// Trees

fn tree(path: &Path) -> String {
    format!("/v1/tree?{}", at(path).encode())
}

fn put_tree(agent: &TestAgent, target: &Path, bytes: &[u8]) -> Raw {
    call(agent, "PUT", &tree(target), &[("Content-Type", "application/x-tar")], bytes)
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    let (mtime, xattrs) = (Time::default(), Vec::new());
    Entry { path: path.into(), kind, mode: 0o644, uid: 0, gid: 0, mtime, size: 0, segments: None, xattrs }
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

/// The content of a chunked answer.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        content.extend_from_slice(&body[end + 2..end + 2 + length]);
        body = &body[end + 4 + length..];
    }
    content
}

#[test]
fn a_hostile_archive_is_refused_by_the_name_of_its_entry_and_writes_nothing_outside() {
    let (agent, dir) = (TestAgent::start(), dir());
    let target = dir.path().join("target");
    let file = |path: &str| (entry(path, EntryKind::File), vec![]);
    let link = (entry("out", EntryKind::Symlink("..".into())), vec![]);
    for (entries, named) in
        [(vec![file("../x")], "`../x`"), (vec![file("/x")], "`/x`"), (vec![link, file("out/x")], "`out/x`")]
    {
        expect(&put_tree(&agent, &target, &archive(&entries)), 422, "bad_archive", named);
    }
    assert_eq!(names(dir.path()), ["target"]);
    expect(&put_tree(&agent, &target, &[1; 2048]), 422, "bad_archive", "uncompressed");
    assert_eq!(names(&target), ["out"]);
}

#[test]
fn an_archive_that_is_cut_off_is_an_error_and_what_was_extracted_stays() {
    let (agent, dir) = (TestAgent::start(), dir());
    let large = Entry { size: 100_000, ..entry("two", EntryKind::File) };
    let bytes = archive(&[(entry("one", EntryKind::File), vec![]), (large, vec![7; 100_000])]);
    expect(&put_tree(&agent, dir.path(), &bytes[..50_000]), 400, "cut_off", "`two`");
    assert_eq!(names(dir.path()), ["one"]);
    // The client goes in the middle.
    let mut stream = agent.connect();
    stream.write_all(head("PUT", &tree(dir.path()), &[("Content-Length", "9000000")]).as_bytes()).unwrap();
    stream.write_all(&bytes[..50_000]).unwrap();
    eventually("the second file has begun", || (names(dir.path()).len() == 2).then_some(()));
    drop(stream);
    eventually("nothing is left of it", || (names(dir.path()) == ["one"]).then_some(()));
}

#[test]
fn a_tree_is_a_directory_as_dot_or_one_entry_by_its_name() {
    let (agent, dir) = (TestAgent::start(), dir());
    fs::write(dir.path().join("file"), "content").unwrap();
    for (path, expected) in [(dir.path().to_owned(), vec!["./", "file"]), (dir.path().join("file"), vec!["file"])] {
        let raw = call(&agent, "GET", &tree(&path), &[], b"");
        assert_eq!((raw.status, raw.header("content-type")), (200, Some("application/x-tar")));
        let bytes = unchunked(&raw.body);
        let mut reader = Reader::new(&bytes[..]);
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            found.push(entry.path.into_os_string().into_string().unwrap());
        }
        assert_eq!(found, expected);
    }
    expect(&call(&agent, "GET", &tree(Path::new("/no/such")), &[], b""), 404, "not_found", "/no/such");
    expect(&call(&agent, "GET", &tree(agent.socket()), &[], b""), 422, "not_regular", "sock");
    expect(&put_tree(&agent, &dir.path().join("file"), b""), 422, "not_directory", "file");
}

#[test]
fn a_tree_that_cannot_be_packed_whole_says_so_in_its_stream() {
    let (agent, dir) = (TestAgent::start(), dir());
    let mut deep = dir.path().to_owned();
    for _ in 0..=limits::TREE_DEPTH {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    let raw = call(&agent, "GET", &tree(dir.path()), &[], b"");
    let bytes = unchunked(&raw.body);
    let mut reader = Reader::new(&bytes[..]);
    let error = loop {
        match reader.next_entry() {
            Ok(entry) => assert!(entry.is_some(), "it ended as if it were whole"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("sender") && error.contains("depth"), "{error}");
}

#[test]
fn trees_over_the_limit_are_answered_429_and_a_client_that_goes_frees_its_place() {
    let (agent, dir) = (TestAgent::start(), dir());
    let busy: Vec<_> = (0..limits::TREE_TRANSFERS)
        .map(|number| {
            let mut stream = agent.connect();
            let target = dir.path().join(number.to_string());
            stream.write_all(head("PUT", &tree(&target), &[("Content-Length", "1024")]).as_bytes()).unwrap();
            eventually("it is being extracted", || target.exists().then_some(()));
            stream
        })
        .collect();
    let refused = call(&agent, "GET", &tree(dir.path()), &[], b"");
    expect(&refused, 429, "limit_reached", &limits::TREE_TRANSFERS.to_string());
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Files have no such limit.
    assert_eq!(agent.get("/v1/files?path=/etc&stat=true")["type"], "directory");
    drop(busy);
    eventually("a place is free", || {
        (call(&agent, "GET", &tree(&dir.path().join("0")), &[], b"").status == 200).then_some(())
    });
}
