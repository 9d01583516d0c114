//! Which listener of the VM's own publishes which listener of a container, and what is to be said of both. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use super::{
    Bind, ListenerTable, container,
    publish::{Publisher, accepts},
};
use crate::{
    api::{Exposure, Listener, Scope},
    facts::{NamespaceFact, ProcessFact, SocketFact},
};

/// Sockets that one published address leads to: workers that share a port (SO_REUSEPORT).
const WORKERS: usize = 64;

/// Publishers and what they lead to.
#[derive(Debug, Default)]
pub(super) struct Publications {
    /// By the index of the publisher's listener: where it leads to.
    publishers: Vec<(usize, String)>,
    /// By the inode of a container's listener: the index of the listener that publishes it, the best one if there are several.
    published: BTreeMap<u64, usize>,
}

impl Publications {
    /// `own` are the listeners of the table's own sockets, in their order.
    pub(super) fn of(table: &ListenerTable, own: &[Listener]) -> Self {
        let mut of_target: BTreeMap<SocketAddr, Vec<usize>> = BTreeMap::new();
        let mut of_container: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut publications = Self::default();
        let mut known: HashMap<i32, Option<Publisher>> = HashMap::new();
        for (index, socket) in table.sockets.iter().enumerate() {
            let Some(owner) = table.processes.get(&socket.inode) else { continue };
            match known.entry(owner.process.pid).or_insert_with(|| Publisher::of(&owner.process)) {
                None => {}
                Some(Publisher::Proxy { target }) => of_target.entry(*target).or_default().push(index),
                Some(Publisher::Conmon { id }) => of_container.entry(id.clone()).or_default().push(index),
                Some(Publisher::Opaque { name }) => publications.publishers.push((index, opaque(name))),
            }
        }
        // The best first, which is the one that containers' listeners tell of.
        for publishers in of_target.values_mut().chain(of_container.values_mut()) {
            publishers.sort_by_key(|index| (Reverse(rank(own[*index].exposure)), *index));
        }
        let homes = homes(table);
        for (target, publishers) in of_target {
            let there = homes.get(&target.ip()).copied();
            let reached: Vec<&SocketFact> = there.iter().flat_map(|there| reached(there, target)).collect();
            publications.published.extend(reached.iter().map(|socket| (socket.inode, publishers[0])));
            let words = proxy(table, target, there, reached.first().copied());
            publications.publishers.extend(publishers.into_iter().map(|index| (index, words.clone())));
        }
        if !of_container.is_empty() {
            for socket in table.others.iter().flat_map(|there| &there.sockets) {
                let publishers = container_of(table, socket).and_then(|id| of_container.get(&id));
                if let Some(publishers) = publishers {
                    publications.published.insert(socket.inode, publishers[0]);
                }
            }
        }
        for (id, publishers) in of_container {
            let words =
                format!("podman's monitor holds this port for container {}, firewall rules pass it on", short(&id));
            publications.publishers.extend(publishers.into_iter().map(|index| (index, words.clone())));
        }
        publications
    }

    /// For each listener that publishes, by its index: where it leads to.
    pub(super) fn of_publishers(self) -> impl Iterator<Item = (usize, String)> {
        self.publishers.into_iter()
    }

    /// What is to be said of a container's listener, where something publishes it.
    pub(super) fn of_container(&self, own: &[Listener], socket: &SocketFact) -> Option<String> {
        let publisher = &own[*self.published.get(&socket.inode)?];
        let at = SocketAddr::new(publisher.address, publisher.port);
        let by = publisher.process.as_ref().map_or("another process", |process| process.name.as_str());
        let there = match (publisher.exposure, &publisher.url) {
            (Exposure::Unreachable, _) => "which the proxy does not reach; what to do is said there".to_owned(),
            (Exposure::Direct | Exposure::Bridged, Some(url)) => format!("which the proxy reaches: {url}"),
            (Exposure::Direct | Exposure::Bridged, None) => "which the proxy reaches".to_owned(),
        };
        Some(format!("{by} publishes it as {at} of this VM, {there}"))
    }
}

fn rank(exposure: Exposure) -> u8 {
    match exposure {
        Exposure::Unreachable => 0,
        Exposure::Bridged => 1,
        Exposure::Direct => 2,
    }
}

/// The namespace of each address. Two containers may have one address on networks that do not meet; the first is taken.
fn homes(table: &ListenerTable) -> BTreeMap<IpAddr, &NamespaceFact> {
    let mut homes = BTreeMap::new();
    for there in &table.others {
        for fact in there.addresses.iter().filter(|fact| !fact.loopback) {
            homes.entry(fact.address).or_insert(there);
        }
    }
    homes
}

/// The sockets of a port. They are in order, so that many publishers and many listeners do not multiply.
fn of_port(there: &NamespaceFact, port: u16) -> &[SocketFact] {
    let first = there.sockets.partition_point(|socket| socket.port < port);
    let end = there.sockets.partition_point(|socket| socket.port <= port);
    &there.sockets[first..end]
}

fn reached(there: &NamespaceFact, target: SocketAddr) -> impl Iterator<Item = &SocketFact> {
    of_port(there, target.port()).iter().filter(move |socket| accepts(socket, target)).take(WORKERS)
}

fn container_of(table: &ListenerTable, socket: &SocketFact) -> Option<String> {
    let process = &table.processes.get(&socket.inode)?.process;
    container::of_cgroup(&process.cgroup).map(|container| container.id)
}

fn opaque(name: &str) -> String {
    format!(
        "{name} listens here for a container and does not tell for which; `guestctl ports --all` shows those that listen"
    )
}

/// Where Docker's proxy leads to; `there` is the namespace that has the address.
fn proxy(
    table: &ListenerTable,
    target: SocketAddr,
    there: Option<&NamespaceFact>,
    reached: Option<&SocketFact>,
) -> String {
    let who = |socket: &SocketFact| {
        let owner = table.processes.get(&socket.inode).map(|owner| &owner.process);
        owner.map_or("a process".to_owned(), |process| in_words(process))
    };
    let to = format!("it leads to {target}");
    if let Some(socket) = reached {
        return format!("{to}, where {} listens", who(socket));
    }
    let Some(there) = there else {
        let unseen = if table.unseen.is_empty() { "" } else { "; not all could be looked at" };
        return format!("{to}, an address that no container has in whose network namespace guestd has looked{unseen}");
    };
    let mut others = of_port(there, target.port()).iter();
    match others.find(|socket| Bind::of(socket).scope == Scope::Loopback) {
        Some(socket) => format!(
            "{to}, where {} listens on {} of the container alone: let it listen on 0.0.0.0 there",
            who(socket),
            Bind::of(socket).address
        ),
        None => format!(
            "{to}, where nothing listens on that port: look whether the service in the container runs, and on which port"
        ),
    }
}

fn in_words(process: &ProcessFact) -> String {
    let container = container::of_cgroup(&process.cgroup);
    let container = container.map(|container| format!(", container {}", short(&container.id))).unwrap_or_default();
    format!("{} (pid {}{container})", process.name, process.pid)
}

/// An id as runtimes show it; names are whole.
fn short(id: &str) -> &str {
    if container::is_id(id) { &id[..12] } else { id }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::Cause,
        config::RoutablePorts,
        listeners::{
            Policy, assess,
            tests::{address, owner, socket, table},
        },
    };

    const PROXY: &str =
        "/usr/bin/docker-proxy -proto tcp -host-ip :: -host-port 8080 -container-ip 172.17.0.2 -container-port 80";

    fn docker(id: &str) -> String {
        format!("/system.slice/docker-{}.scope", id.repeat(32))
    }

    /// A VM with Docker's proxy on `[::]:8080`, and a container of these listeners, nginx's.
    fn vm(container: Vec<SocketFact>) -> ListenerTable {
        let mut table = table(vec![socket("::", 8080)]);
        table.processes.insert(80800, owner(400, "docker-proxy", PROXY, "/system.slice/docker.service"));
        for socket in &container {
            table.processes.insert(socket.inode, owner(712, "nginx", "nginx: master process", &docker("3f")));
        }
        let addresses = vec![address("lo", "127.0.0.1"), address("eth0", "172.17.0.2")];
        table.others = vec![NamespaceFact { netns: 7, sockets: container, addresses }];
        table
    }

    fn judged(table: &ListenerTable) -> Vec<Listener> {
        let policy =
            Policy { public_name: Some("abc.vm".to_owned()), routable_ports: RoutablePorts::All, bridge_auto: true };
        assess(table, &policy, &[])
    }

    fn hint(table: &ListenerTable, port: u16) -> String {
        let listener = judged(table).into_iter().find(|listener| listener.port == port).unwrap();
        listener.hint.unwrap_or_default()
    }

    #[test]
    fn a_published_listener_names_its_port_in_the_vm_and_its_publisher_what_it_leads_to() {
        let table = vm(vec![socket("0.0.0.0", 80)]);
        let listeners = judged(&table);
        let of = |port| listeners.iter().find(|listener| listener.port == port).unwrap();
        assert_eq!((of(80).exposure, of(80).cause), (Exposure::Unreachable, Some(Cause::OtherNetns)));
        assert_eq!((of(80).netns, of(80).url.as_deref()), (7, None));
        assert_eq!((of(8080).exposure, of(8080).url.as_deref()), (Exposure::Direct, Some("https://abc.vm:8080")));
        insta::assert_snapshot!([hint(&table, 80), hint(&table, 8080)].join("\n"), @r"
        docker-proxy publishes it as [::]:8080 of this VM, which the proxy reaches: https://abc.vm:8080
        it leads to 172.17.0.2:80, where nginx (pid 712, container 3f3f3f3f3f3f) listens
        ");
    }

    #[test]
    fn a_publisher_that_leads_to_nothing_says_what_is_there_instead() {
        let mut nowhere = vm(Vec::new());
        nowhere.others.clear();
        let mut unseen = nowhere.clone();
        unseen.unseen.push(crate::facts::UnseenFact { netns: Some(7), why: "EPERM".to_owned() });
        insta::assert_snapshot!([
            hint(&vm(vec![socket("127.0.0.1", 80)]), 8080),
            hint(&vm(vec![socket("0.0.0.0", 81)]), 8080),
            hint(&nowhere, 8080),
            hint(&unseen, 8080),
        ]
        .join("\n"), @r"
        it leads to 172.17.0.2:80, where nginx (pid 712, container 3f3f3f3f3f3f) listens on 127.0.0.1 of the container alone: let it listen on 0.0.0.0 there
        it leads to 172.17.0.2:80, where nothing listens on that port: look whether the service in the container runs, and on which port
        it leads to 172.17.0.2:80, an address that no container has in whose network namespace guestd has looked
        it leads to 172.17.0.2:80, an address that no container has in whose network namespace guestd has looked; not all could be looked at
        ");
    }

    #[test]
    fn what_is_not_published_is_told_how_to_be() {
        let loopback = vm(vec![socket("127.0.0.1", 81)]);
        let mut nobodys = vm(vec![socket("0.0.0.0", 81)]);
        nobodys.processes.remove(&810);
        insta::assert_snapshot!([
            hint(&vm(vec![socket("0.0.0.0", 81)]), 81),
            hint(&loopback, 81),
            hint(&nobodys, 81),
        ]
        .join("\n"), @r"
        nothing that guestd sees publishes it in this VM; if it is meant to be public, publish it: `docker run -p 81:81 …`; the ports of a container are set when it is made
        127.0.0.1 is reached from inside its own network namespace only; let it listen on `::` or 0.0.0.0 there, and publish it: `docker run -p 81:81 …`; the ports of a container are set when it is made
        nothing that guestd sees publishes it in this VM; if it is meant to be public, let the service listen in the VM's own network namespace, or run something there that listens on [::]:81 and passes connections on to it
        ");
    }

    #[test]
    fn the_publisher_that_is_reached_best_is_the_one_that_is_named() {
        let mut table = vm(vec![socket("0.0.0.0", 80)]);
        table.sockets.insert(0, socket("127.0.0.1", 8079));
        table.processes.insert(80790, owner(399, "docker-proxy", PROXY, ""));
        assert!(hint(&table, 80).contains("[::]:8080"), "{}", hint(&table, 80));
        table.sockets.remove(1);
        assert!(hint(&table, 80).contains("127.0.0.1:8079 of this VM, which the proxy does not reach"));
        // What was to be said of the publisher's own bind is still said.
        assert!(
            hint(&table, 8079).contains("where nginx (pid 712, container 3f3f3f3f3f3f) listens. 127.0.0.1 is reached")
        );
    }

    #[test]
    fn of_podmans_publishers_is_said_what_can_be_known() {
        let mut table = vm(vec![socket("0.0.0.0", 80)]);
        let id = "3f".repeat(32);
        let cgroup = format!("/machine.slice/libpod-{id}.scope");
        table.processes.insert(800, owner(712, "nginx", "nginx", &cgroup));
        let conmon = format!("/usr/bin/conmon --api-version 1 -c {id} -u {id} -n web");
        table.processes.insert(80800, owner(400, "conmon", &conmon, ""));
        table.sockets.push(socket("::", 9090));
        table.processes.insert(90900, owner(401, "rootlessport", "rootlessport", ""));
        insta::assert_snapshot!([hint(&table, 80), hint(&table, 8080), hint(&table, 9090)].join("\n"), @r"
        conmon publishes it as [::]:8080 of this VM, which the proxy reaches: https://abc.vm:8080
        podman's monitor holds this port for container 3f3f3f3f3f3f, firewall rules pass it on
        rootlessport listens here for a container and does not tell for which; `guestctl ports --all` shows those that listen
        ");
    }

    #[test]
    fn four_thousand_publishers_and_as_many_listeners_are_judged_in_time() {
        let mut table = vm((0..2000).map(|inode| SocketFact { inode, ..socket("0.0.0.0", 80) }).collect());
        table.sockets = (0..2000u16).map(|port| socket("::", 10_000 + port)).collect();
        for index in 0..2000u16 {
            let target = format!("172.18.{}.{}", index / 250, index % 250 + 1);
            let command = format!("docker-proxy -container-ip {target} -container-port 80");
            table
                .processes
                .insert(u64::from(10_000 + index) * 10, owner(1000 + i32::from(index), "docker-proxy", &command, ""));
            table.others[0].addresses.push(address("eth0", &target));
        }
        let began = std::time::Instant::now();
        assert_eq!(judged(&table).len(), 4000);
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
