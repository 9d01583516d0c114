//! Programs that others wrote, on both ends.

use std::process::Command;

use crate::rig::{Bridge, Server};

pub(crate) const NGINX: &str = "daemon off; master_process off; pid DIR/pid; error_log DIR/error.log;
events {}
http {
  access_log off;
  client_body_temp_path DIR; proxy_temp_path DIR; fastcgi_temp_path DIR; uwsgi_temp_path DIR; scgi_temp_path DIR;
  server {
    listen 127.0.0.1:PORT;
    root DIR;
    location /who { return 200 \"$http_x_forwarded_for|$http_forwarded|$http_host|$server_protocol\"; }
  }
}
";

pub(crate) const HAPROXY: &str = "defaults
  mode http
  timeout client 10s
  timeout server 10s
  timeout connect 10s
frontend f
  bind 127.0.0.1:PORT
  http-request return status 200 content-type text/plain lf-string \"%[req.fhdr(x-forwarded-for)]|%[req.fhdr(forwarded)]|%[req.hdr(host)]|HTTP/%[req.ver]\"
";

fn curl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("curl").args(["-sS", "-g", "--max-time", "30", "--http1.1"]).args(arguments).output();
    let output = output.expect("curl runs");
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn nginx_and_haproxy_are_told_who_the_client_is() {
    let nginx =
        Server::start(&["nginx", "-p", "DIR", "-c", "DIR/nginx.conf", "-e", "DIR/error.log"], &[("nginx.conf", NGINX)]);
    let haproxy = Server::start(&["haproxy", "-f", "DIR/haproxy.cfg"], &[("haproxy.cfg", HAPROXY)]);
    for server in [&nginx, &haproxy] {
        let bridge = Bridge::to(server.address);
        let url = format!("http://{}/who", bridge.address);
        // Twice over one connection.
        let told = curl(&["-H", "Host: example.org", "-H", "X-Forwarded-For: 192.0.2.1", &url, &url]);
        let one = "192.0.2.1, 2001:db8::1|for=\"[2001:db8::1]\"|example.org|HTTP/1.1";
        assert_eq!(String::from_utf8(told).unwrap(), format!("{one}{one}"));
    }
}

#[test]
fn files_of_python_and_nginx_come_whole_in_every_way_curl_asks() {
    let content: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    let python = Server::start(
        &["python3", "-m", "http.server", "PORT", "--bind", "127.0.0.1", "--directory", "DIR"],
        &[("file", &content)],
    );
    let nginx = Server::start(
        &["nginx", "-p", "DIR", "-c", "DIR/nginx.conf", "-e", "DIR/error.log"],
        &[("nginx.conf", NGINX), ("file", &content)],
    );
    for server in [&python, &nginx] {
        let bridge = Bridge::to(server.address);
        let url = format!("http://{}/file", bridge.address);
        assert_eq!(curl(&[&url]), content.as_bytes());
        assert_eq!(curl(&["--http1.0", &url]), content.as_bytes());
        assert_eq!(curl(&[&url, &url]), content.repeat(2).as_bytes());
        let head = String::from_utf8(curl(&["--head", &url])).unwrap().to_lowercase();
        assert!(head.contains(&format!("content-length: {}\r\n", content.len())), "{head}");
        assert_eq!(bridge.errors(), 0);
    }
}

#[test]
fn an_upload_of_curl_that_waits_for_100_continue_comes_whole() {
    let script = "import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_PUT(self):
        length = int(self.headers['Content-Length'])
        total = sum(self.rfile.read(length))
        body = str(total).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(('127.0.0.1', PORT), Handler).serve_forever()
";
    let server = Server::start(&["python3", "DIR/server.py"], &[("server.py", script)]);
    let bridge = Bridge::to(server.address);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("upload");
    std::fs::write(&file, vec![1; 5_000_000]).unwrap();
    let url = format!("http://{}/x", bridge.address);
    let sum = curl(&["-H", "Expect: 100-continue", "-T", file.to_str().unwrap(), &url]);
    assert_eq!(String::from_utf8(sum).unwrap(), "5000000");
}

#[test]
fn a_websocket_of_our_own_client_passes() {
    use tokio_websockets::{ClientBuilder, Message, ServerBuilder};
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (_request, mut socket) = ServerBuilder::new().accept(stream).await.unwrap();
            while let Some(Ok(message)) = futures_util::StreamExt::next(&mut socket).await {
                if message.is_text() {
                    futures_util::SinkExt::send(&mut socket, message).await.unwrap();
                }
            }
        });
        address
    });
    let bridge = Bridge::to(address);
    runtime.block_on(async {
        let uri = format!("ws://{}/", bridge.address).parse().unwrap();
        let stream = tokio::net::TcpStream::connect(bridge.address).await.unwrap();
        let (mut socket, _) = ClientBuilder::from_uri(uri).connect_on(stream).await.unwrap();
        for text in ["hello", &"x".repeat(100_000)] {
            futures_util::SinkExt::send(&mut socket, Message::text(text.to_owned())).await.unwrap();
            let back = futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap();
            assert_eq!(back.as_text(), Some(text));
        }
    });
}
