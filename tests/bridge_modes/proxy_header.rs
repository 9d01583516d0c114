//! The PROXY header, as HAProxy and nginx read it.

use guestd::bridge::proxy_header::{v1, v2};

use crate::rig::{CLIENT, Server, ask};

const HAPROXY: &str = "defaults
  mode http
  timeout client 10s
frontend f
  bind 127.0.0.1:PORT accept-proxy
  http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"
";

const NGINX: &str = "daemon off; master_process off; pid DIR/pid; error_log DIR/error.log;
events {}
http {
  access_log off;
  client_body_temp_path DIR; proxy_temp_path DIR; fastcgi_temp_path DIR; uwsgi_temp_path DIR; scgi_temp_path DIR;
  server {
    listen 127.0.0.1:PORT proxy_protocol;
    location / { return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port\"; }
  }
}
";

#[test]
fn haproxy_and_nginx_read_the_true_addresses_from_both_versions() {
    let haproxy = Server::start(&["haproxy", "-f", "DIR/haproxy.cfg"], &[("haproxy.cfg", HAPROXY)]);
    let nginx =
        Server::start(&["nginx", "-p", "DIR", "-c", "DIR/nginx.conf", "-e", "DIR/error.log"], &[("nginx.conf", NGINX)]);
    for server in [&haproxy, &nginx] {
        for make in [v1, v2] {
            let mut bytes = make(CLIENT.parse().unwrap(), "[fd00::2]:443".parse().unwrap());
            bytes.extend(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let answer = ask(server.address, &bytes);
            assert!(answer.ends_with("\r\n\r\n2001:db8::1 56324 fd00::2 443"), "{answer}");
        }
    }
}
