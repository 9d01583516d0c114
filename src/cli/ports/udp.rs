//! UDP sockets: a table of their own, and one line below the listeners'.

use std::collections::BTreeMap;

use crate::api::{Scope, UdpSocket};
use crate::cli::table::{Cell, Palette, Table};
use crate::cli::text::escape;

use super::report::address;

/// Sockets that the one line names.
const NAMED: usize = 8;

const NOT_CARRIED: &str = "UDP is not carried by the proxy";
const QUIC: &str = "probably QUIC: clients fall back to TCP";

/// All of them.
pub(super) fn render(sockets: &[UdpSocket], palette: Palette) -> String {
    if sockets.is_empty() {
        return "no UDP service waits for datagrams in this VM\n".to_owned();
    }
    let mut table = Table::new(&["PORT", "ADDRESS", "PROCESS", "REMARK"]);
    for socket in sockets {
        let owner = socket.process.as_ref().map(|process| format!("{} ({})", process.name, process.pid));
        table.row([
            Cell::new(socket.port.to_string()),
            Cell::new(address(socket.address)),
            Cell::or_dash(owner),
            Cell::or_dash(socket.probably_quic.then_some(QUIC)),
        ]);
    }
    format!(
        "{}\n{NOT_CARRIED}: none of these is reached from outside, whatever it is bound to\n",
        table.render(palette)
    )
}

/// Those that somebody outside could have been meant to reach, if there are any.
pub(super) fn line(sockets: &[UdpSocket]) -> Option<String> {
    let public = sockets.iter().filter(|socket| matches!(socket.scope, Scope::Wildcard | Scope::Address));
    let mut services = BTreeMap::new();
    for socket in public {
        let name = socket.process.as_ref().map(|process| process.name.as_str());
        *services.entry((socket.port, name)).or_insert(false) |= socket.probably_quic;
    }
    let mut named: Vec<String> =
        services.iter().take(NAMED).map(|(&(port, name), quic)| entry(port, name, *quic)).collect();
    if services.len() > NAMED {
        named.push(format!("and {} more (guestctl ports --udp)", services.len() - NAMED));
    }
    (!named.is_empty()).then(|| format!("{NOT_CARRIED}: {}", named.join(", ")))
}

fn entry(port: u16, name: Option<&str>, quic: bool) -> String {
    match (name.map(escape), quic) {
        (Some(name), true) => format!("{port} ({name}, {QUIC})"),
        (Some(name), false) => format!("{port} ({name})"),
        (None, _) => port.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(port: u16, address: &str, scope: &str, name: Option<&str>, probably_quic: bool) -> UdpSocket {
        let process =
            name.map(|name| serde_json::json!({"pid": 7, "name": name, "command": name, "uid": 0, "unit": null}));
        serde_json::from_value(serde_json::json!({
            "port": port, "address": address, "family": if address.contains(':') { "ipv6" } else { "ipv4" }, "v6only": false,
            "scope": scope, "probably_quic": probably_quic, "process": process, "netns": 1, "inode": 1, "uid": 0,
        }))
        .unwrap()
    }

    #[test]
    fn one_line_names_what_the_proxy_does_not_carry_and_calls_a_guess_a_guess() {
        let sockets = [
            socket(53, "0.0.0.0", "wildcard", Some("dnsmasq"), false),
            socket(53, "::", "wildcard", Some("dnsmasq"), false),
            socket(123, "10.0.0.2", "address", None, false),
            socket(323, "127.0.0.1", "loopback", Some("chronyd"), false),
            socket(443, "::", "wildcard", Some("caddy\u{1b}[2J"), true),
        ];
        insta::assert_snapshot!(line(&sockets).unwrap(), @r"UDP is not carried by the proxy: 53 (dnsmasq), 123, 443 (caddy\u{1b}[2J, probably QUIC: clients fall back to TCP)");
        assert_eq!(line(&sockets[3..4]), None);
        insta::assert_snapshot!(render(&sockets, Palette::Plain), @r"
        PORT  ADDRESS    PROCESS             REMARK
        53    0.0.0.0    dnsmasq (7)         -
        53    [::]       dnsmasq (7)         -
        123   10.0.0.2   -                   -
        323   127.0.0.1  chronyd (7)         -
        443   [::]       caddy\u{1b}[2J (7)  probably QUIC: clients fall back to TCP

        UDP is not carried by the proxy: none of these is reached from outside, whatever it is bound to
        ");
    }

    #[test]
    fn many_are_counted() {
        let sockets: Vec<_> = (1..=20).map(|port| socket(port, "::", "wildcard", None, false)).collect();
        let expected = "UDP is not carried by the proxy: 1, 2, 3, 4, 5, 6, 7, 8, and 12 more (guestctl ports --udp)";
        assert_eq!(line(&sockets).unwrap(), expected);
        insta::assert_snapshot!(render(&[], Palette::Plain), @"no UDP service waits for datagrams in this VM");
    }
}
