//! From VM to VM by the bare name, through the platform's edge and its TLS: what people type, with no option to it.
//!
//! There is no openssl in these VMs while `guestctl proxy` of the image's ssh configuration has to do without it, and the edge's
//! authority is trusted only from the moment on when it is in the system's file of authorities.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guestd::api::{Exposure, Listener};

use crate::golden_path::{clients_logged, legacy_page};
use crate::harness::{Edge, Net, Ran, Route, Ssh, Vm, VmSpec};

/// For one command between two guests that are emulated on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// For 100 MiB, encrypted twice by each of them.
const COPY_PATIENCE: Duration = Duration::from_secs(200);

const WEBSOCKET_PORT: u16 = 8080;
const GRPC_PORT: u16 = 50051;

/// What ssh exits with when it has no connection.
const SSH_FAILED: i32 = 255;

/// Prints of everything in a directory what it is: mode, size, path, target, SHA-256.
const MANIFEST: &str = r#"cd "$0"
find . -type d -printf '%M %p\n' -o -printf '%M %s %p %l\n' | LC_ALL=C sort
find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"#;

/// Directories in each other, odd names and modes, links, and some hundred files.
const MAKE_TREE: &str = r#"mkdir -p "/srv/tree/a directory/with 'quotes'/deep" /srv/tree/many /srv/tree/empty
cd /srv/tree
seq 200000 >"a directory/with 'quotes'/deep/numbers"
for n in $(seq 300); do echo "file $n" >many/$n; done
: >nothing; chmod 0751 many/7; ln many/1 many/one; ln -s '../no such file' empty/dangling"#;

/// Two VMs of one image, each of which knows both names.
struct Pair<'net> {
    here: Vm<'net>,
    there: Vm<'net>,
    edge: Edge,
}

#[test]
fn vms_reach_each_other_by_bare_names_through_the_edge() -> Result<()> {
    let net = Net::new()?;
    let pair = Pair::boot(&net)?;
    for vm in pair.both() {
        // Not there until it is asked for below.
        vm.sh("mv /usr/bin/openssl /usr/bin/openssl.away")?;
    }
    pair.an_edge_that_is_not_trusted_is_refused().context("an edge that is not trusted")?;
    pair.trust_the_edge()?;
    pair.a_name_that_the_certificate_is_not_for_is_refused().context("a name that no certificate is for")?;
    pair.ssh_works_both_ways().context("ssh")?;
    pair.scp_copies_100_mebibytes().context("scp")?;
    pair.rsync_copies_a_tree().context("rsync")?;
    pair.git_clones_and_pushes().context("git")?;
    pair.curl_reads_a_bridged_page().context("curl")?;
    pair.websockets_talk().context("WebSocket")?;
    pair.grpc_talks().context("gRPC")?;
    pair.the_platforms_own_line_works().context("the platform's own line")?;
    pair.here.passed()?;
    pair.there.passed()
}

impl<'net> Pair<'net> {
    fn boot(net: &'net Net) -> Result<Self> {
        let here = Vm::boot(net, VmSpec::default())?;
        let there = Vm::boot(net, VmSpec::default())?;
        let routes = [&here, &there].map(|vm| {
            let (name, address) = (vm.name(), vm.address());
            [
                Route::new(&name, 443, address, 22),
                Route::new(&name, 3000, address, 3000),
                Route::new(&name, WEBSOCKET_PORT, address, WEBSOCKET_PORT),
                Route::new(&name, GRPC_PORT, address, GRPC_PORT).with_http_2(),
            ]
        });
        let edge = Edge::start(net, &routes.concat())?;
        let pair = Self { here, there, edge };
        for vm in pair.both() {
            vm.wait_ready()?;
            vm.wait_listener("sshd listens", |listener| listener.port == 22)?;
            // The last name is one that a wildcard for *.vm.vers.sh is not for.
            let names = [pair.here.name(), pair.there.name(), pair.stranger()].join(" ");
            vm.sh(&format!("echo '{} {names}' >>/etc/hosts", pair.edge.address()))?;
        }
        Ok(pair)
    }

    fn both(&self) -> [&Vm<'net>; 2] {
        [&self.here, &self.there]
    }

    fn stranger(&self) -> String {
        format!("of.{}", self.there.name())
    }

    /// Runs a line of shell in a VM, whose output and exit status are to be looked at.
    fn try_in(vm: &Vm<'_>, script: &str, patience: Duration) -> Result<Ran> {
        vm.ctl_for(["exec", "--", "sh", "-euc", script], patience)
    }

    /// The same in the one from which all is asked; it must succeed.
    fn here(&self, script: &str) -> Result<Ran> {
        Self::try_in(&self.here, script, PATIENCE)?.ok()
    }

    fn an_edge_that_is_not_trusted_is_refused(&self) -> Result<()> {
        let ssh = Self::try_in(&self.here, &format!("ssh root@{} true", self.there.name()), PATIENCE)?;
        let refused = ssh.exits(SSH_FAILED)?;
        let cause = format!(
            "guestctl: cannot reach {} port 443: TLS failed: invalid peer certificate: UnknownIssuer",
            self.there.name()
        );
        ensure!(refused.err().contains(&cause), "it does not say why:\n{refused}");
        ensure!(refused.err().contains("\nadvice: if its authority is your own, "), "it has no advice:\n{refused}");
        Ok(())
    }

    /// As an image's builder would: into the file that guestctl, curl and others read.
    fn trust_the_edge(&self) -> Result<()> {
        let authority = self.edge.authority();
        let pem = fs::read_to_string(authority).with_context(|| format!("reading {}", authority.display()))?;
        for vm in self.both() {
            vm.sh(&format!("cat >>/etc/ssl/certs/ca-certificates.crt <<'EOF'\n{pem}EOF"))?;
        }
        Ok(())
    }

    fn a_name_that_the_certificate_is_not_for_is_refused(&self) -> Result<()> {
        let ssh = Self::try_in(&self.here, &format!("ssh root@{} true", self.stranger()), PATIENCE)?;
        let refused = ssh.exits(SSH_FAILED)?;
        let cause = format!("certificate not valid for name \"{}\"", self.stranger());
        ensure!(refused.err().contains(&cause), "it does not say why:\n{refused}");
        Ok(())
    }

    fn ssh_works_both_ways(&self) -> Result<()> {
        for (from, to) in [(&self.here, &self.there), (&self.there, &self.here)] {
            let line = format!("ssh root@{} 'id -un; cat /proc/cmdline; exit 7'", to.name());
            let ran = Self::try_in(from, &line, PATIENCE)?.exits(7)?;
            ensure!(ran.out().starts_with("root\n") && ran.out().contains(&to.id), "this is not root there:\n{ran}");
            println!("ssh from {} took {:.1} s", from.id, ran.took.as_secs_f64());
        }
        Ok(())
    }

    fn scp_copies_100_mebibytes(&self) -> Result<()> {
        self.here("head -c 100M /dev/urandom >/srv/random")?;
        let line = format!("scp /srv/random root@{}:/srv/random", self.there.name());
        let ran = Self::try_in(&self.here, &line, COPY_PATIENCE)?.ok()?;
        println!("scp of 100 MiB took {:.1} s", ran.took.as_secs_f64());
        let sums = self.both().map(|vm| vm.sh("stat -c %s /srv/random; sha256sum /srv/random"));
        let [here, there] = [sums[0].as_ref(), sums[1].as_ref()].map(|sum| sum.map(String::as_str).unwrap_or_default());
        ensure!(here.starts_with("104857600\n") && here == there, "sent {here}, came {there}");
        for vm in self.both() {
            vm.sh("rm /srv/random")?;
        }
        Ok(())
    }

    fn rsync_copies_a_tree(&self) -> Result<()> {
        self.here.sh(MAKE_TREE)?;
        let line = format!("rsync -avz -e ssh /srv/tree/ root@{}:/srv/tree/", self.there.name());
        self.here(&line)?;
        let manifest = |vm: &Vm<'_>| Ok::<_, anyhow::Error>(vm.exec(["sh", "-euc", MANIFEST, "/srv/tree"])?.out());
        let (sent, came) = (manifest(&self.here)?, manifest(&self.there)?);
        ensure!(came == sent, "the tree that came is another one:\n{came}\n--- and not\n{sent}");
        // And back again, with nothing left to copy.
        let options = "-az --dry-run --out-format=changed:%n -e ssh";
        let again = self.here(&format!("rsync {options} root@{}:/srv/tree/ /srv/tree/", self.there.name()))?;
        ensure!(!again.out().contains("changed:"), "there is something left to copy:\n{again}");
        Ok(())
    }

    fn git_clones_and_pushes(&self) -> Result<()> {
        let repository = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b";
        self.there.sh(&format!(
            "{repository}; git init -q --template= -b main /srv/work; cd /srv/work; seq 100000 >numbers; git add numbers
            git commit -q -m first; git clone -q --template= --bare . /srv/work.git"
        ))?;
        let line = format!("git clone --template= root@{}:/srv/work.git /srv/clone", self.there.name());
        self.here(&line)?;
        let pushed = self.here(&format!(
            "{repository}; cd /srv/clone; [ \"$(wc -l <numbers)\" = 100000 ]; echo more >more; git add more
            git commit -q -m second; git push -q; git rev-parse HEAD"
        ))?;
        let head = self.there.sh("git -C /srv/work.git rev-parse main; git -C /srv/work.git cat-file -p main:more")?;
        ensure!(head == format!("{}\nmore", pushed.out()), "what was pushed is not there: {head}\n{pushed}");
        Ok(())
    }

    fn curl_reads_a_bridged_page(&self) -> Result<()> {
        let bridged = |listener: &Listener| listener.port == 3000 && listener.exposure == Exposure::Bridged;
        let listener = self.there.wait_listener("0.0.0.0:3000 is bridged", bridged)?;
        let url = listener.url.context("it has no URL")?;
        ensure!(url.trim_end_matches('/') == format!("https://{}:3000", self.there.name()), "its URL is {url}");
        let page = self.here(&format!("curl -sS --max-time 50 {url}/"))?;
        ensure!(page.stdout == legacy_page()?, "this is not the page:\n{page}");
        let clients = clients_logged(&self.there.sh("cat /var/log/legacy-web.log")?);
        ensure!(!clients.is_empty() && clients.iter().all(|client| client.octets()[0] >= 240), "it saw {clients:?}");
        Ok(())
    }

    fn websockets_talk(&self) -> Result<()> {
        self.serve("websocket", WEBSOCKET_PORT, Exposure::Bridged)?;
        let said = self.peer(&format!("websocket_peer.py call wss://{}:{WEBSOCKET_PORT}/", self.there.name()))?;
        ensure!(said.out() == "6 1000", "this is not what should be seen:\n{said}");
        Ok(())
    }

    fn grpc_talks(&self) -> Result<()> {
        self.serve("grpc", GRPC_PORT, Exposure::Direct)?;
        let said = self.peer(&format!("grpc_peer.py call {}:{GRPC_PORT}", self.there.name()))?;
        ensure!(said.out() == "hello 5 OK", "this is not what should be seen:\n{said}");
        Ok(())
    }

    /// Starts a program of the tests' overlay, and waits until it listens.
    fn serve(&self, name: &str, port: u16, exposure: Exposure) -> Result<()> {
        let (script, argument) = (format!("/srv/peers/{name}_peer.py"), port.to_string());
        self.there.ctl(["exec", "-d", "--id", name, "--", "python3", &script, "serve", &argument])?.ok()?;
        let listens = |listener: &Listener| listener.port == port && listener.exposure == exposure;
        let listening = self.there.wait_listener(&format!("{name} listens"), listens);
        listening.with_context(|| {
            self.there.ctl(["logs", "--exec", name]).map_or_else(|e| e.to_string(), |ran| ran.to_string())
        })?;
        Ok(())
    }

    fn peer(&self, line: &str) -> Result<Ran> {
        let ran = self.here(&format!("python3 /srv/peers/{line}"))?;
        println!("{} took {:.1} s", line.split(' ').next().unwrap_or_default(), ran.took.as_secs_f64());
        Ok(ran)
    }

    fn the_platforms_own_line_works(&self) -> Result<()> {
        self.here("mv /usr/bin/openssl.away /usr/bin/openssl")?;
        let proxy = Ssh::PLATFORM_PROXY_COMMAND;
        let line = format!("ssh -o 'ProxyCommand={proxy}' root@{} cat /proc/cmdline", self.there.name());
        let ran = self.here(&line)?;
        ensure!(ran.out().contains(&self.there.id), "this is not there:\n{ran}");
        Ok(())
    }
}
