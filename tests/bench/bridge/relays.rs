//! The relays, each from `[::1]` to the service's IPv4 address, with what its users set for production.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    guestd::Guestd,
    kit::{
        agent::{Home, built},
        watch::{Process, eventually},
    },
};

/// Rows, in the table's order.
pub(crate) const NAMES: &[&str] =
    &["direct", "guestd", "socat", "haproxy", "nginx", "6tunnel", "rinetd", "proxyd", "realm_io"];

/// A relay that runs.
#[derive(Debug)]
pub(crate) struct Relay {
    name: &'static str,
    address: SocketAddr,
    running: Running,
    descriptors_at_start: usize,
}

#[derive(Debug)]
enum Running {
    /// Nothing: the way is direct.
    Nothing,
    Guestd(Guestd),
    Other(Child, Home),
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Other(child, _) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Relay {
    /// Starts it, and waits until it accepts.
    pub(crate) fn start(name: &'static str, service: SocketAddr) -> Result<Self> {
        if name == "direct" {
            return Ok(Self { name, address: service, running: Running::Nothing, descriptors_at_start: 0 });
        }
        // Free now; nobody else is in this namespace.
        let address = TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?.local_addr()?;
        let running = match name {
            "guestd" => Running::Guestd(Guestd::start(address, service)?),
            _ => {
                let home = Home::new(name)?;
                let mut command = command(name, &home, address, service)?;
                command.stdin(Stdio::null()).stdout(Stdio::null());
                if std::env::var_os("RELAY_ERRORS").is_none() {
                    command.stderr(Stdio::null());
                }
                Running::Other(command.spawn().with_context(|| format!("starting {name}"))?, home)
            }
        };
        let mut relay = Self { name, address, running, descriptors_at_start: 0 };
        eventually("a relay accepts", Duration::from_secs(20), || {
            TcpStream::connect(address).with_context(|| format!("connecting to {name} at {address}"))
        })?;
        relay.descriptors_at_start = relay.held()?.1;
        Ok(relay)
    }

    /// Its row.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Descriptors that it had before any load.
    pub(crate) fn descriptors_at_start(&self) -> usize {
        self.descriptors_at_start
    }

    /// CPU time of all its processes, those that have ended among them, the kernel's work for them included.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        match &self.running {
            Running::Nothing => Ok(0.0),
            Running::Guestd(guestd) => guestd.cpu_seconds(),
            Running::Other(_, home) => home.cpu_seconds(),
        }
    }

    /// Memory in bytes, and descriptors, of all its processes.
    pub(crate) fn held(&self) -> Result<(usize, usize)> {
        let processes: Vec<_> = match &self.running {
            Running::Nothing => Vec::new(),
            Running::Guestd(guestd) => guestd.processes().collect(),
            Running::Other(_, home) => home.members()?.into_iter().map(|pid| Process(pid.unsigned_abs())).collect(),
        };
        let (mut bytes, mut descriptors) = (0, 0);
        for process in processes {
            // One that ends meanwhile has nothing.
            let (Ok(kib), Ok(open)) = (process.share_kib(), process.descriptors()) else { continue };
            bytes += usize::try_from(kib)? * 1024;
            descriptors += open.values().sum::<usize>();
        }
        Ok((bytes, descriptors))
    }
}

fn command(name: &str, home: &Home, listen: SocketAddr, to: SocketAddr) -> Result<Command> {
    let (port, to_port) = (listen.port(), to.port());
    let file = home.path("config");
    let mut command = match name {
        "realm_io" => {
            let how = "cargo build --release --example bench-bridge-realm";
            let mut command = home.command(built("release/examples/bench-bridge-realm", how)?);
            command.args([listen.to_string(), to.to_string()]);
            command
        }
        "socat" => {
            let mut command = home.command("socat");
            command.args(["-b", "131072"]);
            command.arg(format!("TCP6-LISTEN:{port},bind=[::1],fork,reuseaddr,nodelay,backlog=4096"));
            command.arg(format!("TCP4:{to},nodelay"));
            command
        }
        "haproxy" => {
            fs::write(
                &file,
                format!(
                    "global\n maxconn 7000\n nbthread 2\n tune.pipesize 262144\n\
                     defaults\n mode tcp\n option splice-auto\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
                     frontend f\n bind {listen} backlog 4096\n default_backend b\n\
                     backend b\n server s {to}\n"
                ),
            )?;
            let mut command = home.command("/usr/sbin/haproxy");
            command.arg("-db").arg("-f").arg(&file);
            command
        }
        "nginx" => {
            fs::write(
                &file,
                format!(
                    "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\ndaemon off;\nworker_processes 2;\n\
                     \nerror_log stderr crit;\npid {};\n\
                     events {{ worker_connections 9000; }}\n\
                     stream {{ proxy_buffer_size 64k; proxy_timeout 1h;\n\
                     server {{ listen {listen} backlog=4096; proxy_pass {to}; }} }}\n",
                    home.path("pid").display()
                ),
            )?;
            let mut command = home.command("/usr/sbin/nginx");
            command.arg("-c").arg(&file);
            command
        }
        "6tunnel" => {
            let mut command = home.command("6tunnel");
            command.args(["-4", "-6", "-d", "-l", "::1", &port.to_string(), "127.0.0.1", &to_port.to_string()]);
            command
        }
        "rinetd" => {
            fs::write(&file, format!("::1 {port} 127.0.0.1 {to_port}\n"))?;
            let mut command = home.command("/usr/sbin/rinetd");
            command.arg("-f").arg("-c").arg(&file);
            command
        }
        "proxyd" => {
            // Services of systemd have SIGPIPE ignored (IgnoreSIGPIPE= of systemd.exec(5)), and this one does not live without.
            let mut command = home.command("env");
            command.args(["--ignore-signal=PIPE", "systemd-socket-activate"]);
            command.args(["-l", &listen.to_string(), "/lib/systemd/systemd-socket-proxyd"]);
            command.args(["--connections-max=20000", &to.to_string()]);
            command
        }
        _ => bail!("no relay {name}"),
    };
    command.env_remove("RUST_LOG");
    Ok(command)
}
