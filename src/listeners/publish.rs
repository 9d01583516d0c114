//! What publishes a container's port in the VM's own network namespace, and what of it can be known. Pure.
//!
//! A command line is its process's own word: it is read for hints to people, and nothing is done by it.

use std::net::{IpAddr, SocketAddr};

use super::{Bind, container};
use crate::{
    api::{Container, ContainerRuntime, Family, Scope},
    facts::{ProcessFact, SocketFact},
};

/// A process that listens for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Publisher {
    /// Docker's, one for each published port: its command line says all.
    Proxy {
        /// The container's address and port.
        target: SocketAddr,
    },
    /// podman's monitor of a container, which holds the published ports so that nobody else takes them. Firewall rules pass
    /// connections on.
    Conmon {
        /// The container.
        id: String,
    },
    /// Listens for containers and is told where to pass connections on in a way that nobody else sees.
    Opaque {
        /// The program.
        name: &'static str,
    },
}

/// Programs of rootless containers.
const OPAQUE: [&str; 4] = ["rootlessport", "rootlesskit", "slirp4netns", "pasta"];

impl Publisher {
    /// What this process publishes by its listeners, if it is of the kind.
    pub(super) fn of(process: &ProcessFact) -> Option<Self> {
        let words: Vec<&str> = process.command.split_whitespace().collect();
        let (program, arguments) = words.split_first()?;
        let program = program.rsplit('/').next().unwrap_or_default();
        // Go's flags have one hyphen or two, and `=` or the next word.
        let value = |flag: &str| {
            arguments.iter().enumerate().find_map(|(index, word)| {
                match word.trim_start_matches('-').strip_prefix(flag).filter(|_| word.starts_with('-'))? {
                    "" => arguments.get(index + 1).copied(),
                    rest => rest.strip_prefix('='),
                }
            })
        };
        match program {
            "docker-proxy" => {
                let address: IpAddr = value("container-ip")?.parse().ok()?;
                let port = value("container-port")?.parse().ok()?;
                let is_tcp = value("proto").is_none_or(|proto| proto == "tcp");
                is_tcp.then_some(Self::Proxy { target: SocketAddr::new(address, port) })
            }
            "conmon" => {
                let id = value("c").or_else(|| value("cid")).filter(|id| container::is_id(id))?;
                Some(Self::Conmon { id: id.to_owned() })
            }
            // `pasta.avx2` is a build of it.
            other => {
                let is_of = |name: &&&str| {
                    other == **name || other.strip_prefix(**name).is_some_and(|rest| rest.starts_with(['.', '-']))
                };
                OPAQUE.iter().find(is_of).map(|name| Self::Opaque { name })
            }
        }
    }
}

/// Does a connection to the target reach the socket, in a namespace that has the address?
pub(super) fn accepts(socket: &SocketFact, target: SocketAddr) -> bool {
    let bind = Bind::of(socket);
    let same_family = (bind.family == Family::Ipv4) == target.is_ipv4();
    socket.port == target.port()
        && match bind.scope {
            Scope::Wildcard => same_family || (bind.family == Family::Ipv6 && !socket.v6only),
            _ => bind.address == target.ip(),
        }
}

/// How the runtime publishes a port of a container.
pub(super) fn how_to_publish(container: Option<&Container>, port: u16) -> String {
    let again = "; the ports of a container are set when it is made";
    match container.map(|container| container.runtime) {
        Some(ContainerRuntime::Docker) => format!("publish it: `docker run -p {port}:{port} …`{again}"),
        Some(ContainerRuntime::Podman) => format!("publish it: `podman run -p '[::]:{port}:{port}' …`{again}"),
        Some(ContainerRuntime::Containerd) => {
            format!("publish it: `nerdctl run -p {port}:{port} …`, or in Kubernetes by `hostPort: {port}`{again}")
        }
        Some(ContainerRuntime::Crio | ContainerRuntime::Kubernetes) => {
            format!("publish it: `hostPort: {port}` of the container's port in the pod's specification")
        }
        Some(ContainerRuntime::Lxc) => {
            let name = container.map(|container| container.id.as_str()).unwrap_or_default();
            format!(
                "publish it: `lxc config device add {name} port{port} proxy listen=tcp:[::]:{port} \
                 connect=tcp:127.0.0.1:{port}`"
            )
        }
        Some(ContainerRuntime::Nspawn) => {
            "run the container in the VM's own network: `systemd-nspawn` without --private-network and \
             --network-veth, or `VirtualEthernet=no` in its .nspawn file"
                .to_owned()
        }
        None => format!(
            "let the service listen in the VM's own network namespace, or run something there that listens on [::]:{port} \
             and passes connections on to it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::tests::{owner, socket};

    fn publisher(command: &str) -> Option<Publisher> {
        Publisher::of(&owner(1, "x", command, "").process)
    }

    #[test]
    fn publishers_are_told_by_their_command_lines() {
        let proxy = |target: &str| Some(Publisher::Proxy { target: target.parse().unwrap() });
        let docker = "-host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80 -use-listen-fd";
        assert_eq!(publisher(&format!("/usr/bin/docker-proxy -proto tcp {docker}")), proxy("172.17.0.2:80"));
        assert_eq!(publisher("docker-proxy --container-ip=fd00::3 --container-port=81"), proxy("[fd00::3]:81"));
        assert_eq!(publisher(&format!("/usr/bin/docker-proxy -proto udp {docker}")), None);
        let id = "ab".repeat(32);
        let conmon = format!("/usr/bin/conmon --api-version 1 -c {id} -u {id} -r /usr/bin/crun -n web");
        assert_eq!(publisher(&conmon), Some(Publisher::Conmon { id }));
        assert_eq!(publisher("rootlessport"), Some(Publisher::Opaque { name: "rootlessport" }));
        assert_eq!(publisher("rootlessport-child"), Some(Publisher::Opaque { name: "rootlessport" }));
        assert_eq!(publisher("/usr/bin/pasta.avx2 --config-net -t 80"), Some(Publisher::Opaque { name: "pasta" }));
    }

    #[test]
    fn what_does_not_say_where_it_leads_to_is_no_publisher() {
        for command in [
            "",
            "docker-proxy",
            "docker-proxy -container-ip 172.17.0.2",
            "docker-proxy -container-ip 172.17.0.2 -container-port",
            "docker-proxy -container-ip x -container-port 80",
            "docker-proxy container-ip 172.17.0.2 container-port 80",
            "docker-proxy -container-ip 172.17.0.2 -container-port 99999",
            "conmon -c web",
            "nginx -container-ip 172.17.0.2 -container-port 80",
            "pastafarian",
        ] {
            assert_eq!(publisher(command), None, "{command}");
        }
    }

    #[test]
    fn a_connection_reaches_what_is_bound_to_the_address_or_to_all_of_its_family() {
        let target = "172.17.0.2:80".parse().unwrap();
        let reached = |at: &str, port, v6only| accepts(&SocketFact { v6only, ..socket(at, port) }, target);
        for at in ["0.0.0.0", "172.17.0.2", "::", "::ffff:172.17.0.2", "::ffff:0.0.0.0"] {
            assert!(reached(at, 80, false) && !reached(at, 81, false), "{at}");
        }
        for at in ["127.0.0.1", "172.17.0.3", "::1", "fd00::2"] {
            assert!(!reached(at, 80, false), "{at}");
        }
        assert!(!reached("::", 80, true));
        let ipv6 = "[fd00::2]:80".parse().unwrap();
        assert!(accepts(&socket("::", 80), ipv6) && !accepts(&socket("0.0.0.0", 80), ipv6));
    }

    #[test]
    fn each_runtime_has_its_way_of_publishing() {
        use ContainerRuntime::*;
        let hint = |runtime| how_to_publish(Some(&Container { runtime, id: "web".to_owned() }), 80);
        for (runtime, words) in [
            (Docker, "docker run -p 80:80"),
            (Podman, "podman run -p '[::]:80:80'"),
            (Containerd, "nerdctl run -p 80:80"),
            (Crio, "hostPort: 80"),
            (Kubernetes, "hostPort: 80"),
            (Lxc, "lxc config device add web port80 proxy listen=tcp:[::]:80"),
            (Nspawn, "VirtualEthernet=no"),
        ] {
            assert!(hint(runtime).contains(words), "{}", hint(runtime));
        }
        assert!(how_to_publish(None, 80).contains("[::]:80"));
    }
}
