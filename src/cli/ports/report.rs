//! The listeners as a table for people, and a paragraph for each that nobody reaches.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::api::{Cause, Exposure, Listener, Probe, ProbeOutcome, UdpSocket};
use crate::cli::table::{Cell, Palette, Table, Tone};
use crate::cli::text::escape;

use super::udp;

/// Characters of a banner in the table.
const BANNER_SHOWN: usize = 32;

/// What is told.
#[derive(Debug, Default)]
pub(super) struct Report<'a> {
    pub(super) listeners: &'a [Listener],
    /// Listeners that are left out, since they are in other network namespaces.
    pub(super) hidden: usize,
    /// Every socket has a line of its own.
    pub(super) all: bool,
    /// They were probed.
    pub(super) probed: bool,
    /// UDP sockets, of which one line tells.
    pub(super) udp: &'a [UdpSocket],
}

impl Report<'_> {
    pub(super) fn render(&self, palette: Palette) -> String {
        let groups = group(self.listeners, self.all);
        let mut text = if groups.is_empty() {
            "no TCP service listens in this VM\n".to_owned()
        } else {
            self.table(&groups).render(palette)
        };
        let notes = notes(&groups);
        if !notes.is_empty() {
            text.push('\n');
            text.push_str(&notes);
        }
        if let Some(line) = udp::line(self.udp) {
            text.push_str(&format!("\n{line}\n"));
        }
        if self.hidden > 0 {
            let hidden = self.hidden;
            text.push_str(&format!("\n{hidden} more in other network namespaces (containers): guestctl ports --all\n"));
        }
        text
    }

    fn table(&self, groups: &[Group<'_>]) -> Table {
        let wanted = |title: &&str| match *title {
            "PROBE" => self.probed,
            "NETNS" => self.all,
            _ => true,
        };
        let titles = ["PORT", "ADDRESS", "EXPOSURE", "PROBE", "PROCESS", "URL", "NETNS"];
        let mut table = Table::new(&titles.into_iter().filter(wanted).collect::<Vec<_>>());
        for group in groups {
            let listener = group.first;
            let mut row = cells(listener, group.sockets);
            if self.probed {
                row.insert(3, probe(listener.probe.as_ref()));
            }
            if self.all {
                row.push(Cell::new(listener.netns.to_string()));
            }
            table.row(row);
        }
        table
    }
}

/// Sockets that are one service to a reader: workers that share a port by SO_REUSEPORT.
struct Group<'a> {
    first: &'a Listener,
    sockets: usize,
}

fn group(listeners: &[Listener], all: bool) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut places = HashMap::new();
    for listener in listeners {
        let name = listener.process.as_ref().map(|process| process.name.as_str());
        let key = (listener.port, listener.address, listener.netns, listener.exposure, listener.cause, name);
        let place = if all { groups.len() } else { *places.entry(key).or_insert(groups.len()) };
        match groups.get_mut(place) {
            Some(group) => group.sockets += 1,
            None => groups.push(Group { first: listener, sockets: 1 }),
        }
    }
    groups
}

/// Port, address, exposure, process and URL.
pub(super) fn cells(listener: &Listener, sockets: usize) -> Vec<Cell> {
    let (tone, exposure) = exposure(listener.exposure);
    vec![
        Cell::new(listener.port.to_string()),
        Cell::new(address(listener.address)),
        Cell::toned(tone, exposure),
        Cell::or_dash(owner(listener, sockets)),
        Cell::or_dash(listener.url.as_deref()),
    ]
}

pub(super) fn exposure(exposure: Exposure) -> (Tone, &'static str) {
    match exposure {
        Exposure::Direct => (Tone::Good, "direct"),
        Exposure::Bridged => (Tone::Notice, "bridged"),
        Exposure::Unreachable => (Tone::Bad, "unreachable"),
    }
}

/// An address as it stands before a port.
pub(super) fn address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

pub(super) fn owner(listener: &Listener, sockets: usize) -> Option<String> {
    let process = listener.process.as_ref()?;
    let sockets = match sockets {
        1 => String::new(),
        sockets => format!(", {sockets} sockets"),
    };
    Some(format!("{} ({}{sockets})", process.name, process.pid))
}

/// A paragraph for each listener that is not reached directly, or drops connections.
fn notes(groups: &[Group<'_>]) -> String {
    groups.iter().filter_map(|group| note(group.first)).collect()
}

/// Why a listener is not reached directly, and what to do; two lines at most.
pub(super) fn note(listener: &Listener) -> Option<String> {
    let contradicted = listener.probe.as_ref().is_some_and(|probe| probe.contradicts);
    let why = match listener.cause {
        Some(cause) => explain(cause),
        None if contradicted => "so it is bound, and a probe says otherwise",
        None if has_full_queue(listener) => "it is reached, but new connections are dropped",
        None => return None,
    };
    let at = SocketAddr::new(listener.address, listener.port);
    let how = exposure(listener.exposure).1;
    let hint = listener.hint.as_ref().map(|hint| format!("    {}\n", escape(hint))).unwrap_or_default();
    Some(format!("{at} is {how}: {why}\n{hint}"))
}

/// What a probe has seen; a mark stands where that is not what the exposure says.
fn probe(probe: Option<&Probe>) -> Cell {
    let Some(probe) = probe else { return Cell::new("-") };
    let outcome = match probe.outcome {
        ProbeOutcome::Accepted => "accepted",
        ProbeOutcome::Banner => "banner",
        ProbeOutcome::Closed => "closed",
        ProbeOutcome::Reset => "reset",
        ProbeOutcome::Refused => "refused",
        ProbeOutcome::TimedOut => "timed out",
        ProbeOutcome::Unreachable => "unreachable",
        ProbeOutcome::NotTried => "not tried",
        _ => "unknown",
    };
    let time = probe.connect_ms.map(|time| format!(" {:.1} ms", Duration::from(time).as_secs_f64() * 1000.0));
    let banner = probe.banner.as_ref().map(|banner| format!(" {}", shortened(banner)));
    let (tone, mark) = match (probe.contradicts, probe.outcome.is_accepted()) {
        (true, _) => (Tone::Bad, "! "),
        (false, true) => (Tone::Good, ""),
        (false, false) => (Tone::Neutral, ""),
    };
    Cell::toned(tone, format!("{mark}{outcome}{}{}", time.unwrap_or_default(), banner.unwrap_or_default()))
}

/// The beginning of what a service said; all of it is in the JSON.
fn shortened(banner: &str) -> String {
    let line = banner.split(r"\r").next().unwrap_or_default().split(r"\n").next().unwrap_or_default();
    match line.char_indices().nth(BANNER_SHOWN) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

/// Does the kernel drop new connections? It takes one more than the backlog.
fn has_full_queue(listener: &Listener) -> bool {
    listener.accept_queue.zip(listener.backlog).is_some_and(|(waiting, backlog)| waiting > backlog)
}

fn explain(cause: Cause) -> &'static str {
    match cause {
        Cause::Ipv4OnlyWildcard => "an IPv4-only bind (every IPv4 address and no IPv6 one)",
        Cause::Ipv4OnlyAddress => "an IPv4-only bind (one IPv4 address)",
        Cause::LoopbackOnly => "loopback only, so its owner meant it to be private",
        Cause::LinkLocalOnly => "bound to a link-local address, which is not routed",
        Cause::PortNotRoutable => "the platform does not route this port",
        Cause::OtherNetns => "it listens in another network namespace (a container)",
        Cause::NoIpv6Address => "the VM has no IPv6 address that the outside can reach",
        Cause::AddressNotAvailable => "bound to an address that the VM does not have",
        Cause::BridgeOff => "an IPv4-only bind, and automatic bridging is off",
        Cause::BridgeFailed => "an IPv4-only bind, and the bridge could not be set up",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Family, Process, Scope};

    fn listener(at: &str, exposure: Exposure, cause: Option<Cause>, name: &str) -> Listener {
        let at: SocketAddr = at.parse().unwrap();
        Listener {
            port: at.port(),
            address: at.ip(),
            family: if at.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 },
            v6only: false,
            scope: Scope::Wildcard,
            exposure,
            cause,
            hint: None,
            url: None,
            probe: None,
            process: Some(Process {
                pid: 412,
                name: name.into(),
                command: name.into(),
                uid: 0,
                unit: None,
                container: None,
                started_at: None,
                holders: None,
            }),
            netns: 4_026_531_840,
            inode: 1,
            uid: Some(0),
            cgroup_id: None,
            backlog: Some(128),
            accept_queue: Some(0),
        }
    }

    fn show(listeners: Vec<Listener>, all: bool) -> String {
        let (listeners, hidden) = super::super::select(listeners, all);
        Report { listeners: &listeners, hidden, all, ..Report::default() }.render(Palette::Plain)
    }

    #[test]
    fn a_reader_sees_what_is_reached_and_what_to_do_for_the_rest() {
        let mut web = listener("0.0.0.0:3000", Exposure::Bridged, Some(Cause::Ipv4OnlyWildcard), "node");
        web.url = Some("https://vm-7.vm.vers.sh:3000".into());
        web.hint = Some("Node: listen(3000, \"::\")".into());
        let mut ssh = listener("[::]:22", Exposure::Direct, None, "sshd");
        ssh.process = None;
        let loopback = Some(Cause::LoopbackOnly);
        let db = listener("127.0.0.1:5432", Exposure::Unreachable, loopback, "postgres");
        let dns = listener("[::1]:53", Exposure::Unreachable, loopback, "unbound");
        insta::assert_snapshot!(show(vec![ssh, dns, web, db], false), @r#"
        PORT  ADDRESS    EXPOSURE     PROCESS         URL
        22    [::]       direct       -               -
        53    [::1]      unreachable  unbound (412)   -
        3000  0.0.0.0    bridged      node (412)      https://vm-7.vm.vers.sh:3000
        5432  127.0.0.1  unreachable  postgres (412)  -

        [::1]:53 is unreachable: loopback only, so its owner meant it to be private
        0.0.0.0:3000 is bridged: an IPv4-only bind (every IPv4 address and no IPv6 one)
            Node: listen(3000, "::")
        127.0.0.1:5432 is unreachable: loopback only, so its owner meant it to be private
        "#);
    }

    #[test]
    fn containers_are_counted_and_shown_only_when_asked_for() {
        let inside = || listener("[::]:80", Exposure::Unreachable, Some(Cause::OtherNetns), "nginx");
        insta::assert_snapshot!(show(vec![inside(), inside()], false), @r"
        no TCP service listens in this VM

        2 more in other network namespaces (containers): guestctl ports --all
        ");
        insta::assert_snapshot!(show(vec![inside()], true), @r"
        PORT  ADDRESS  EXPOSURE     PROCESS      URL  NETNS
        80    [::]     unreachable  nginx (412)  -    4026531840

        [::]:80 is unreachable: it listens in another network namespace (a container)
        ");
    }

    #[test]
    fn workers_that_share_a_port_are_one_line() {
        let worker = || listener("[::]:80", Exposure::Direct, None, "nginx");
        let other = listener("[::]:80", Exposure::Direct, None, "caddy");
        insta::assert_snapshot!(show(vec![worker(), other, worker()], false), @r"
        PORT  ADDRESS  EXPOSURE  PROCESS                 URL
        80    [::]     direct    nginx (412, 2 sockets)  -
        80    [::]     direct    caddy (412)             -
        ");
        assert_eq!(show(vec![worker(), worker()], true).lines().count(), 3);
    }

    #[test]
    fn a_process_cannot_choose_what_the_terminal_does() {
        let mut evil = listener("0.0.0.0:1", Exposure::Bridged, Some(Cause::Ipv4OnlyWildcard), "\u{1b}[2Jx\n");
        evil.hint = Some("\u{9b}2J".into());
        let text = show(vec![evil], false);
        let controls = text.chars().filter(|c| c.is_control() && *c != '\n');
        assert_eq!(controls.count(), 0, "{text:?}");
    }

    #[test]
    fn direct_listener_is_remarked_on_only_where_it_drops_connections() {
        let with = |waiting| {
            let mut web = listener("[::]:80", Exposure::Direct, None, "node");
            (web.backlog, web.accept_queue, web.hint) =
                (Some(1), Some(waiting), Some("its accept queue is full".into()));
            show(vec![web], false)
        };
        assert_eq!(with(1).lines().count(), 2);
        insta::assert_snapshot!(with(2), @r"
        PORT  ADDRESS  EXPOSURE  PROCESS     URL
        80    [::]     direct    node (412)  -

        [::]:80 is direct: it is reached, but new connections are dropped
            its accept queue is full
        ");
    }

    #[test]
    fn every_cause_is_explained() {
        use Cause::*;
        for cause in [
            BridgeOff,
            BridgeFailed,
            PortNotRoutable,
            LinkLocalOnly,
            Ipv4OnlyAddress,
            NoIpv6Address,
            AddressNotAvailable,
        ] {
            let text = show(vec![listener("10.0.0.7:80", Exposure::Unreachable, Some(cause), "x")], false);
            assert!(text.contains("10.0.0.7:80 is unreachable: "), "{text}");
        }
    }
}
