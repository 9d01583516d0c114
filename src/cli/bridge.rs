//! `guestctl bridge`: what is bridged, and the rules for it.
//!
//! A change reads the rules and writes them back whole. Of two changes at the same moment one may be lost; the answer
//! that is printed shows what holds.

use std::net::SocketAddr;

use crate::api::{Bridge, BridgePort, BridgePortState, BridgeRule, BridgeUpdate};
use crate::client::Client;

use super::args::{BridgeAction, Switch};
use super::failure::{Failure, exit};
use super::output::Output;
use super::table::{Cell, Palette, Table, Tone};
use super::text::bytes;

pub(super) async fn run(client: &Client, action: Option<BridgeAction>, output: Output) -> Result<u8, Failure> {
    let (bridge, added) = match action {
        None | Some(BridgeAction::List) => (client.bridge().await?, None),
        Some(BridgeAction::Auto { switch }) => {
            let auto = Some(switch == Switch::On);
            let update = BridgeUpdate { auto, rules: None };
            (client.set_bridge(&update).await?, None)
        }
        Some(BridgeAction::Add { listen, to }) => {
            let rules = with_rule(client.bridge().await?.rules, BridgeRule { listen, to })?;
            (set_rules(client, rules).await?, Some(listen))
        }
        Some(BridgeAction::Remove { listen }) => {
            let rules = without_rule(client.bridge().await?, listen)?;
            (set_rules(client, rules).await?, None)
        }
    };
    output.show(&bridge, render)?;
    match added.and_then(|listen| failed(&bridge, listen)) {
        Some(failure) => Err(failure),
        None => Ok(exit::OK),
    }
}

async fn set_rules(client: &Client, rules: Vec<BridgeRule>) -> Result<Bridge, Failure> {
    let rules = Some(rules);
    let update = BridgeUpdate { auto: None, rules };
    Ok(client.set_bridge(&update).await?)
}

/// The rules with one more; to add one that is there is no error, to have two for a port is.
fn with_rule(mut rules: Vec<BridgeRule>, rule: BridgeRule) -> Result<Vec<BridgeRule>, Failure> {
    match rules.iter().find(|known| known.listen == rule.listen) {
        Some(known) if *known == rule => {}
        Some(&BridgeRule { listen, to }) => return Err(Failure::RuleExists { listen, to }),
        None => rules.push(rule),
    }
    Ok(rules)
}

fn without_rule(bridge: Bridge, listen: u16) -> Result<Vec<BridgeRule>, Failure> {
    let (rules, before) = (bridge.rules, bridge.ports);
    let left: Vec<BridgeRule> = rules.iter().filter(|rule| rule.listen != listen).cloned().collect();
    if left.len() == rules.len() {
        let automatic = before.iter().any(|port| port.listen == listen && port.auto);
        return Err(Failure::NoRule { listen, automatic });
    }
    Ok(left)
}

fn failed(bridge: &Bridge, listen: u16) -> Option<Failure> {
    let port = bridge.ports.iter().find(|port| port.listen == listen)?;
    (port.state == BridgePortState::Failed).then(|| Failure::BridgeFailed {
        listen,
        why: port.message.clone().unwrap_or_else(|| "guestd gives no reason".into()),
    })
}

fn render(bridge: &Bridge, palette: Palette) -> String {
    let auto = match bridge.auto {
        true => palette.paint(Tone::Good, "on"),
        false => palette.paint(Tone::Notice, "off"),
    };
    let mut text = format!("automatic bridging is {auto}\n");
    let idle = bridge.rules.iter().filter(|rule| bridge.ports.iter().all(|port| port.listen != rule.listen));
    let mut table = Table::new(&["PORT", "TO", "KIND", "STATE", "OPEN", "TOTAL", "IN", "OUT", "ERRORS", "MESSAGE"]);
    for port in &bridge.ports {
        table.row(row(port));
    }
    let mut rows = bridge.ports.len();
    for rule in idle {
        rows += 1;
        table.row(idle_row(rule.listen, rule.to));
    }
    if rows == 0 {
        text.push_str("no port is bridged\n");
    } else {
        text.push('\n');
        text.push_str(&table.render(palette));
    }
    text
}

fn row(port: &BridgePort) -> Vec<Cell> {
    let (tone, state) = match port.state {
        BridgePortState::Active => (Tone::Good, "active"),
        BridgePortState::Settling => (Tone::Notice, "settling"),
        BridgePortState::Failed => (Tone::Bad, "failed"),
    };
    vec![
        Cell::new(port.listen.to_string()),
        Cell::new(port.to.to_string()),
        Cell::new(if port.auto { "automatic" } else { "rule" }),
        Cell::toned(tone, state),
        Cell::new(port.connections.to_string()),
        Cell::new(port.connections_total.to_string()),
        Cell::new(bytes(port.bytes_in)),
        Cell::new(bytes(port.bytes_out)),
        Cell::new(port.errors_total.to_string()),
        Cell::or_dash(port.message.as_deref()),
    ]
}

/// A rule that guestd has not acted on yet.
fn idle_row(listen: u16, to: SocketAddr) -> Vec<Cell> {
    let known = [listen.to_string(), to.to_string(), "rule".into(), "waiting".into()];
    let unknown = std::iter::repeat_n("-", 6).map(Cell::new);
    known.iter().map(Cell::new).chain(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(listen: u16, to: &str) -> BridgeRule {
        let to = to.parse().unwrap();
        BridgeRule { listen, to }
    }

    fn port(listen: u16, to: &str, auto: bool, state: BridgePortState) -> BridgePort {
        BridgePort {
            listen,
            to: to.parse().unwrap(),
            auto,
            state,
            message: None,
            addresses: Vec::new(),
            connections: 1,
            connections_total: 20,
            bytes_in: 300,
            bytes_out: 4 << 20,
            errors_total: 0,
        }
    }

    fn bridge() -> Bridge {
        let mut failed = port(8080, "127.0.0.1:3001", false, BridgePortState::Failed);
        failed.message = Some("port 8080 is in use on fd00::2".into());
        Bridge {
            auto: true,
            tier: "bind".into(),
            rules: vec![rule(8080, "127.0.0.1:3001"), rule(9000, "127.0.0.1:9001")],
            ports: vec![port(3000, "0.0.0.0:3000", true, BridgePortState::Active), failed],
        }
    }

    #[test]
    fn the_bridge_is_shown_port_by_port_with_rules_that_wait() {
        insta::assert_snapshot!(render(&bridge(), Palette::Plain), @r"
        automatic bridging is on

        PORT  TO              KIND       STATE    OPEN  TOTAL  IN     OUT      ERRORS  MESSAGE
        3000  0.0.0.0:3000    automatic  active   1     20     300 B  4.0 MiB  0       -
        8080  127.0.0.1:3001  rule       failed   1     20     300 B  4.0 MiB  0       port 8080 is in use on fd00::2
        9000  127.0.0.1:9001  rule       waiting  -     -      -      -        -       -
        ");
    }

    #[test]
    fn an_empty_bridge_says_so() {
        let bridge = Bridge { auto: false, tier: "bind".into(), rules: Vec::new(), ports: Vec::new() };
        insta::assert_snapshot!(render(&bridge, Palette::Plain), @r"
        automatic bridging is off
        no port is bridged
        ");
    }

    #[test]
    fn a_rule_is_added_once_and_never_replaced_silently() {
        let rules = || vec![rule(8080, "127.0.0.1:1")];
        let added = with_rule(rules(), rule(9000, "127.0.0.1:2")).unwrap();
        assert_eq!(added.len(), 2);
        assert_eq!(with_rule(rules(), rule(8080, "127.0.0.1:1")).unwrap(), rules());
        let refused = with_rule(rules(), rule(8080, "127.0.0.1:2")).unwrap_err();
        insta::assert_snapshot!(refused, @"port 8080 is bridged to 127.0.0.1:1 by a rule already; remove it first: guestctl bridge remove 8080");
    }

    #[test]
    fn only_a_rule_can_be_removed() {
        assert_eq!(without_rule(bridge(), 8080).unwrap(), [rule(9000, "127.0.0.1:9001")]);
        let refused = |listen| without_rule(bridge(), listen).unwrap_err().to_string();
        insta::assert_snapshot!(refused(3000), @"no rule bridges port 3000: guestd bridges it by itself; to end all automatic bridging: guestctl bridge auto off");
        insta::assert_snapshot!(refused(1), @"no rule bridges port 1; see what there is: guestctl bridge list");
    }

    #[test]
    fn a_rule_that_failed_is_told_with_its_reason() {
        let failure = failed(&bridge(), 8080).unwrap();
        insta::assert_snapshot!(failure, @"the rule for port 8080 is in place and the bridge could not be set up: port 8080 is in use on fd00::2; guestd tries again by itself; to give up: guestctl bridge remove 8080");
        assert!(failed(&bridge(), 3000).is_none());
    }
}
