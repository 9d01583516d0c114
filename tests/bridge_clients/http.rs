//! curl against nginx (HTTP/1.1), nghttpd (HTTP/2 without TLS) and a stream of server-sent events.

use std::{fs, io::Read, path::Path, process::Command, time::Duration};

use crate::{
    program::{Program, client, line, output, output_with, program, python, stdout, text},
    world::{BOTH, Way, World, assert_same, pattern},
};

const PORT: u16 = 3000;
const MIB: usize = 1024 * 1024;

/// curl without a proxy, silent but for errors.
fn curl() -> Command {
    let mut command = client("curl");
    command.args(["-q", "--silent", "--show-error", "--fail", "--noproxy", "*"]);
    command
}

fn url(way: Way, path: &str) -> String {
    format!("http://{}/{path}", way.socket(PORT))
}

/// A web server that also takes uploads.
fn nginx(world: &World) -> Program {
    let root = world.path("www");
    fs::create_dir(&root).unwrap();
    let dir = world.path("nginx");
    fs::create_dir(&dir).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", dir.display()))
        .collect();
    let configuration = world.file(
        "nginx.conf",
        format!(
            "daemon off; user root; worker_processes 1; pid {dir}/pid; error_log stderr;
            events {{}}
            http {{
                {temporary} access_log off; client_max_body_size 0; gzip_types *; gzip_min_length 1; sendfile on;
                server {{ listen 0.0.0.0:{PORT}; root {root}; dav_methods PUT; location /zip {{ gzip on; }} }}
            }}",
            dir = dir.display(),
            root = root.display(),
        ),
    );
    let mut command = program("nginx");
    command.arg("-c").arg(configuration).arg("-e").arg("stderr").arg("-p").arg(dir);
    world.serve(command, PORT)
}

fn uploaded(world: &World, name: &str) -> Vec<u8> {
    fs::read(world.path("www").join(name)).unwrap()
}

#[test]
fn curl_asks_again_on_one_connection_that_is_kept_alive() {
    let world = World::new();
    let _server = nginx(&world);
    fs::write(world.path("www/page"), pattern(1000)).unwrap();
    for way in BOTH {
        let page = url(way, "page");
        let said = world.outside(|| {
            text(
                curl()
                    .args(["-w", "%{http_code} %{num_connects}\\n"])
                    .args(["-o", "/dev/null"].repeat(50))
                    .args(vec![&page; 50]),
            )
        });
        assert_eq!(said, "200 1\n".to_owned() + &"200 0\n".repeat(49), "{way:?}");
    }
}

#[test]
fn curl_uploads_and_downloads_many_mebibytes() {
    let world = World::new();
    let _server = nginx(&world);
    let bytes = pattern(48 * MIB);
    let file = world.file("big", &bytes);
    for way in BOTH {
        world.outside(|| stdout(curl().arg("-T").arg(&file).arg(url(way, "up"))));
        assert_same(&uploaded(&world, "up"), &bytes);
        let got = world.outside(|| stdout(curl().arg(url(way, "up"))));
        assert_same(&got, &bytes);
        fs::remove_file(world.path("www/up")).unwrap();
    }
}

#[test]
fn curl_downloads_in_parallel_from_many_connections() {
    let world = World::new();
    let _server = nginx(&world);
    let bytes = pattern(MIB + 1);
    fs::write(world.path("www/page"), &bytes).unwrap();
    for way in BOTH {
        let (to, from) = (format!("{}/{way:?}-#1", world.path("").display()), url(way, "page?[1-40]"));
        let mut command = curl();
        command.args([
            "--parallel",
            "--parallel-immediate",
            "--parallel-max",
            "40",
            "-w",
            "%{num_connects}\n",
            "-o",
            &to,
            &from,
        ]);
        assert_eq!(world.outside(|| text(&mut command)), "1\n".repeat(40), "{way:?}");
        for number in 1..=40 {
            assert_same(&fs::read(world.path(&format!("{way:?}-{number}"))).unwrap(), &bytes);
        }
    }
}

/// curl would wait longer for the answer than its own end allows.
#[test]
fn curl_gets_the_100_continue_that_it_waits_for_before_it_sends() {
    let world = World::new();
    let _server = nginx(&world);
    let bytes = pattern(3 * MIB);
    let file = world.file("big", &bytes);
    for way in BOTH {
        let mut command = curl();
        command.args(["--expect100-timeout", "1000", "-H", "Expect: 100-continue", "-D", "-", "-T"]);
        command.arg(&file).arg(url(way, "up"));
        let said = world.outside(|| text(&mut command));
        let statuses: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).collect();
        let stored = if way == Way::Direct { "201 Created" } else { "204 No Content" };
        assert_eq!(statuses, ["100 Continue", stored], "{said}");
        assert_same(&uploaded(&world, "up"), &bytes);
    }
}

#[test]
fn curl_uploads_and_downloads_in_chunks_of_unknown_number() {
    let world = World::new();
    let _server = nginx(&world);
    let bytes = pattern(5 * MIB + 3);
    for way in BOTH {
        let mut command = curl();
        command.args(["-v", "-H", "Expect:", "-T", "-"]).arg(url(way, "zip"));
        let output = world.outside(|| output_with(&mut command, &bytes));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("> Transfer-Encoding: chunked"), "{way:?}: {said}");
        assert_same(&uploaded(&world, "zip"), &bytes);

        let headers = world.path("headers");
        let got = world.outside(|| stdout(curl().arg("--compressed").arg("-D").arg(&headers).arg(url(way, "zip"))));
        assert_same(&got, &bytes);
        let said = fs::read_to_string(headers).unwrap();
        assert!(said.contains("Transfer-Encoding: chunked"), "{way:?}: {said}");
    }
}

/// The server is done before the client has all. (curl's own --limit-rate does not limit what is there at once.)
#[test]
fn slow_curl_gets_the_tail_of_a_connection_that_the_server_has_closed() {
    let world = World::new();
    let _server = nginx(&world);
    let bytes = pattern(8 * MIB);
    fs::write(world.path("www/big"), &bytes).unwrap();
    let mut command = curl();
    command.args(["--http1.0", "--no-buffer"]).arg(url(Way::Bridged, "big"));
    let (curl, _stdin, mut output) = world.outside(|| Program::talk(command, &world.path("curl.log")));
    let mut got = Vec::new();
    // A pipe holds this much, so that curl is as slow as this.
    while output.by_ref().take(64 * 1024).read_to_end(&mut got).unwrap() > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_same(&got, &bytes);
    curl.wait();
}

/// nghttpd sends back what is posted.
fn nghttpd(world: &World, root: &Path) -> Program {
    let mut command = program("nghttpd");
    command.args(["--no-tls", "--echo-upload", "--address=0.0.0.0", "--htdocs"]).arg(root).arg(PORT.to_string());
    world.serve(command, PORT)
}

#[test]
fn curl_and_h2load_speak_http2_without_tls() {
    let world = World::new();
    let bytes = pattern(6 * MIB + 1);
    let file = world.file("big", &bytes);
    world.file("small", pattern(100_000));
    let _server = nghttpd(&world, &world.path(""));
    for way in BOTH {
        let mut post = curl();
        post.args(["--http2-prior-knowledge", "-H", "Expect:", "--data-binary"]).arg(format!("@{}", file.display()));
        let got = world.outside(|| stdout(post.arg(url(way, "echo"))));
        assert_same(&got, &bytes);

        let mut get = curl();
        get.args(["--http2-prior-knowledge", "-w", "%{stderr}%{http_version}"]).arg(url(way, "big"));
        let got = world.outside(|| output(&mut get));
        assert_eq!(String::from_utf8_lossy(&got.stderr), "2", "{way:?}");
        assert_same(&got.stdout, &bytes);

        // Many streams at a time on each of several connections. (curl 7.88 cannot use a connection of this kind twice.)
        let mut load = client("h2load");
        load.args(["--no-tls-proto=h2c", "-n", "400", "-c", "8", "-m", "10", "-w", "20"]).arg(url(way, "small"));
        let said = world.outside(|| text(&mut load));
        assert!(
            said.contains("400 total, 400 started, 400 done, 400 succeeded, 0 failed, 0 errored"),
            "{way:?}: {said}"
        );
        let traffic = said.lines().find(|line| line.starts_with("traffic:")).unwrap();
        assert!(traffic.ends_with(&format!("({}) data", 400 * 100_000)), "{traffic}");
    }
}

/// No event is sent before the last one has been seen, so that one that is held back anywhere ends the test.
#[test]
fn server_sent_events_arrive_one_by_one() {
    let world = World::new();
    let mut command = python(program, "events.py");
    command.arg(PORT.to_string());
    let _server = world.serve(command, PORT);
    for way in BOTH {
        let mut command = curl();
        command.args(["--no-buffer"]).arg(url(way, "events"));
        let (stream, _stdin, mut events) = world.outside(|| Program::talk(command, &world.path("curl.log")));
        assert_eq!((line(&mut events), line(&mut events)), ("data: open".into(), String::new()), "{}", stream.log());
        for number in 0..15 {
            let data = format!("event {number}");
            world.outside(|| stdout(curl().args(["--data", &data]).arg(url(way, "publish"))));
            assert_eq!((line(&mut events), line(&mut events)), (format!("data: {data}"), String::new()));
        }
        world.outside(|| stdout(curl().args(["--data", ""]).arg(url(way, "publish"))));
        assert_eq!(line(&mut events), "");
        stream.wait();
    }
}
