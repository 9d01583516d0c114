//! `guestctl bridge`: what is bridged, and the rules for it.
//!
//! A change reads the rules and writes them back whole. Of two changes at the same moment one may be lost; the answer
//! that is printed shows what holds.

use crate::api::{
    Bridge, BridgeCut, BridgeListen, BridgeMode, BridgePort, BridgePortState, BridgeRule, BridgeTarget, BridgeUpdate,
};
use crate::client::Client;

use super::args::{BridgeAction, Switch};
use super::failure::{Failure, exit};
use super::output::Output;
use super::table::{Cell, Palette, Table, Tone};
use super::text::{bytes, escape};

pub(super) async fn run(client: &Client, action: Option<BridgeAction>, output: Output) -> Result<u8, Failure> {
    let (bridge, added) = match action {
        None | Some(BridgeAction::List) => (client.bridge().await?, None),
        Some(BridgeAction::Auto { switch }) => {
            let auto = Some(switch == Switch::On);
            let update = BridgeUpdate { auto, rules: None };
            (client.set_bridge(&update).await?, None)
        }
        Some(BridgeAction::Add { listen, to, mode }) => {
            let rule = BridgeRule { listen, to, mode };
            // What is wrong by itself is bad usage, whatever the VM has.
            BridgeRule::check_all(std::slice::from_ref(&rule)).map_err(Failure::BadRule)?;
            let rules = with_rule(client.bridge().await?.rules, rule)?;
            (set_rules(client, rules).await?, Some(listen))
        }
        Some(BridgeAction::Remove { listen }) => {
            let rules = without_rule(client.bridge().await?, listen)?;
            (set_rules(client, rules).await?, None)
        }
        Some(BridgeAction::Cut { listen }) => (client.cut_bridge(&BridgeCut { listen }).await?, None),
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

/// The rules with one more; to add one that is there is no error, to have two for the same ports is.
fn with_rule(mut rules: Vec<BridgeRule>, rule: BridgeRule) -> Result<Vec<BridgeRule>, Failure> {
    match rules.iter().find(|known| known.listen == rule.listen) {
        Some(known) if *known == rule => {}
        Some(known) => return Err(Failure::RuleExists { listen: rule.listen, known: known.clone() }),
        None => rules.push(rule),
    }
    BridgeRule::check_all(&rules).map_err(Failure::BadRule)?;
    Ok(rules)
}

fn without_rule(bridge: Bridge, listen: BridgeListen) -> Result<Vec<BridgeRule>, Failure> {
    let (rules, before) = (bridge.rules, bridge.ports);
    let left: Vec<BridgeRule> = rules.iter().filter(|rule| rule.listen != listen).cloned().collect();
    if left.len() == rules.len() {
        let at = before.iter().find(|port| BridgeListen::Port(port.listen) == listen);
        let automatic = at.is_some_and(|port| port.auto);
        return Err(Failure::NoRule { listen, automatic, wider: at.and_then(|port| port.rule) });
    }
    Ok(left)
}

/// Of a rule for one port, what came of it. One for several is there for what comes.
fn failed(bridge: &Bridge, listen: BridgeListen) -> Option<Failure> {
    let port = bridge.ports.iter().find(|port| BridgeListen::Port(port.listen) == listen)?;
    (port.state == BridgePortState::Failed).then(|| Failure::BridgeFailed {
        listen: port.listen,
        why: port.message.clone().unwrap_or_else(|| "guestd gives no reason".into()),
    })
}

fn render(bridge: &Bridge, palette: Palette) -> String {
    let auto = match bridge.auto {
        true => palette.paint(Tone::Good, "on"),
        false => palette.paint(Tone::Notice, "off"),
    };
    let mut text = format!("automatic bridging is {auto}; tier {}", escape(&bridge.tier));
    if let Some(why) = &bridge.tier_reason {
        text.push_str(&format!(" ({})", escape(why)));
    }
    text.push('\n');
    if let Some(why) = &bridge.not_kept {
        let note = format!("this holds until the agent ends: {}", escape(why));
        text.push_str(&palette.paint(Tone::Notice, &note));
        text.push('\n');
    }
    let sections = [ports(bridge, palette), left_out(bridge, palette), clients(bridge, palette)];
    for section in sections.into_iter().flatten() {
        text.push('\n');
        text.push_str(&section);
    }
    if bridge.ports.is_empty() && bridge.rules.is_empty() {
        text.push_str("no port is bridged\n");
    }
    text
}

fn ports(bridge: &Bridge, palette: Palette) -> Option<String> {
    let titles = ["PORT", "TO", "KIND", "MODE", "STATE", "OPEN", "TOTAL", "IN", "OUT", "ERRORS", "MESSAGE"];
    let mut table = Table::new(&titles);
    for port in &bridge.ports {
        table.row(row(port));
    }
    let serves = |port: &BridgePort, rule: &BridgeRule| {
        port.rule == Some(rule.listen) || BridgeListen::Port(port.listen) == rule.listen
    };
    for rule in bridge.rules.iter().filter(|rule| !bridge.ports.iter().any(|port| serves(port, rule))) {
        table.row(idle_row(rule.listen, rule.to, rule.mode));
    }
    (!bridge.ports.is_empty() || !bridge.rules.is_empty()).then(|| table.render(palette))
}

fn left_out(bridge: &Bridge, palette: Palette) -> Option<String> {
    let mut table = Table::new(&["LEFT OUT", "BY", "WHY"]);
    for left_out in &bridge.left_out {
        let (port, rule) = (left_out.port.to_string(), left_out.rule.to_string());
        table.row(vec![Cell::new(port), Cell::new(rule), Cell::new(&left_out.reason)]);
    }
    (!bridge.left_out.is_empty()).then(|| table.render(palette))
}

/// Who hides behind the addresses that services see and log.
fn clients(bridge: &Bridge, palette: Palette) -> Option<String> {
    let mut table = Table::new(&["SEEN AS", "CLIENT", "PORT", "OPEN"]);
    for client in &bridge.clients {
        table.row(vec![
            Cell::or_dash(client.pseudo.map(|pseudo| pseudo.to_string())),
            Cell::new(client.client.to_string()),
            Cell::new(client.port.to_string()),
            Cell::new(client.connections.to_string()),
        ]);
    }
    let more = match bridge.clients_omitted {
        0 => String::new(),
        more => format!("and {more} more\n"),
    };
    (!bridge.clients.is_empty()).then(|| table.render(palette) + &more)
}

fn row(port: &BridgePort) -> Vec<Cell> {
    let (tone, state) = match port.state {
        BridgePortState::Active => (Tone::Good, "active"),
        BridgePortState::Settling => (Tone::Notice, "settling"),
        BridgePortState::Failed => (Tone::Bad, "failed"),
    };
    let kind = match port.rule {
        _ if port.auto => "automatic".to_owned(),
        Some(rule) if !rule.is_port() => format!("rule {rule}"),
        _ => "rule".to_owned(),
    };
    vec![
        Cell::new(port.listen.to_string()),
        Cell::new(port.to.to_string()),
        Cell::new(kind),
        Cell::new(port.mode.name()),
        Cell::toned(tone, state),
        Cell::new(port.connections.to_string()),
        Cell::new(port.connections_total.to_string()),
        Cell::new(bytes(port.bytes_in)),
        Cell::new(bytes(port.bytes_out)),
        Cell::new(port.errors_total.to_string()),
        Cell::or_dash(port.message.as_deref()),
    ]
}

/// A rule that guestd has not acted on yet, or that waits for something to listen.
fn idle_row(listen: BridgeListen, to: BridgeTarget, mode: BridgeMode) -> Vec<Cell> {
    let known = [listen.to_string(), to.to_string(), "rule".into(), mode.to_string(), "waiting".into()];
    let unknown = std::iter::repeat_n("-", 6).map(Cell::new);
    known.iter().map(Cell::new).chain(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BridgeClient, BridgeLeftOut};

    fn rule(listen: u16, to: &str) -> BridgeRule {
        format!("{listen}={to}").parse().unwrap()
    }

    fn port(listen: u16, to: &str, auto: bool, state: BridgePortState) -> BridgePort {
        BridgePort {
            listen,
            to: to.parse().unwrap(),
            auto,
            rule: (!auto).then_some(BridgeListen::Port(listen)),
            mode: BridgeMode::Tcp,
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

    fn empty() -> Bridge {
        Bridge {
            auto: false,
            tier: "bind".into(),
            tier_reason: None,
            rules: Vec::new(),
            ports: Vec::new(),
            left_out: Vec::new(),
            clients: Vec::new(),
            clients_omitted: 0,
            not_kept: None,
        }
    }

    fn bridge() -> Bridge {
        let mut failed = port(8080, "127.0.0.1:3001", false, BridgePortState::Failed);
        failed.message = Some("port 8080 is in use on fd00::2".into());
        Bridge {
            auto: true,
            tier: "steer".into(),
            rules: vec![rule(8080, "127.0.0.1:3001"), rule(9000, "127.0.0.1:9001")],
            ports: vec![port(3000, "0.0.0.0:3000", true, BridgePortState::Active), failed],
            ..empty()
        }
    }

    #[test]
    fn the_bridge_is_shown_port_by_port_with_rules_that_wait() {
        insta::assert_snapshot!(render(&bridge(), Palette::Plain), @r"
        automatic bridging is on; tier steer

        PORT  TO              KIND       MODE  STATE    OPEN  TOTAL  IN     OUT      ERRORS  MESSAGE
        3000  0.0.0.0:3000    automatic  tcp   active   1     20     300 B  4.0 MiB  0       -
        8080  127.0.0.1:3001  rule       tcp   failed   1     20     300 B  4.0 MiB  0       port 8080 is in use on fd00::2
        9000  127.0.0.1:9001  rule       tcp   waiting  -     -      -      -        -       -
        ");
    }

    #[test]
    fn rules_for_many_ports_are_shown_with_what_they_bridge_what_they_leave_out_and_for_whom() {
        let by_all = BridgePort {
            rule: Some(BridgeListen::All),
            mode: BridgeMode::Http,
            ..port(3000, "127.0.0.1:3000", false, BridgePortState::Active)
        };
        let reason = "Redis gives out all data".into();
        let client = BridgeClient {
            pseudo: Some([248, 251, 184, 116].into()),
            client: "2001:db8::1".parse().unwrap(),
            port: 3000,
            connections: 3,
        };
        let bridge = Bridge {
            tier_reason: Some("the kernel has no BPF".into()),
            rules: ["*=127.0.0.1;mode=http", "8000-8999=::1"].map(|text| text.parse().unwrap()).to_vec(),
            ports: vec![by_all],
            left_out: vec![BridgeLeftOut { port: 6379, rule: BridgeListen::All, reason }],
            clients: vec![client.clone(), BridgeClient { pseudo: None, port: 80, ..client }],
            clients_omitted: 7,
            not_kept: Some("the disk is full".into()),
            ..empty()
        };
        insta::assert_snapshot!(render(&bridge, Palette::Plain), @r"
        automatic bridging is off; tier bind (the kernel has no BPF)
        this holds until the agent ends: the disk is full

        PORT       TO              KIND    MODE  STATE    OPEN  TOTAL  IN     OUT      ERRORS  MESSAGE
        3000       127.0.0.1:3000  rule *  http  active   1     20     300 B  4.0 MiB  0       -
        8000-8999  ::1             rule    tcp   waiting  -     -      -      -        -       -

        LEFT OUT  BY  WHY
        6379      *   Redis gives out all data

        SEEN AS          CLIENT       PORT  OPEN
        248.251.184.116  2001:db8::1  3000  3
        -                2001:db8::1  80    3
        and 7 more
        ");
    }

    #[test]
    fn an_empty_bridge_says_so() {
        insta::assert_snapshot!(render(&empty(), Palette::Plain), @r"
        automatic bridging is off; tier bind
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
        insta::assert_snapshot!(refused, @"a rule bridges port 8080 to 127.0.0.1:1 in mode tcp already; remove it first: guestctl bridge remove 8080");
        let refused = with_rule(vec![rule(1, "[::1]:2")], rule(2, "[::1]:1")).unwrap_err();
        insta::assert_snapshot!(refused, @"the rule 1=[::1]:2: it leads back to itself (1 -> 2 -> 1): connections would go round for ever; let one of these rules lead to an IPv4 address, or to a port without a rule; nothing was changed; see what there is: guestctl bridge list");
        let all: BridgeRule = "*=127.0.0.1".parse().unwrap();
        let refused = with_rule(vec![all.clone()], BridgeRule { mode: BridgeMode::Http, ..all }).unwrap_err();
        insta::assert_snapshot!(refused, @"a rule bridges all ports to 127.0.0.1 in mode tcp already; remove it first: guestctl bridge remove '*'");
    }

    #[test]
    fn only_a_rule_can_be_removed() {
        assert_eq!(without_rule(bridge(), 8080.into()).unwrap(), [rule(9000, "127.0.0.1:9001")]);
        let refused = |listen: u16| without_rule(bridge(), listen.into()).unwrap_err().to_string();
        insta::assert_snapshot!(refused(3000), @"no rule bridges port 3000: guestd bridges it by itself; to end all automatic bridging: guestctl bridge auto off");
        insta::assert_snapshot!(refused(1), @"no rule bridges port 1; see what there is: guestctl bridge list");
        let mut by_all = bridge();
        (by_all.ports[0].auto, by_all.ports[0].rule) = (false, Some(BridgeListen::All));
        insta::assert_snapshot!(without_rule(by_all, 3000.into()).unwrap_err(), @"no rule of its own bridges port 3000: the one for all ports does; to end all that it bridges: guestctl bridge remove '*'");
    }

    #[test]
    fn a_rule_that_failed_is_told_with_its_reason() {
        let failure = failed(&bridge(), 8080.into()).unwrap();
        insta::assert_snapshot!(failure, @"the rule for port 8080 is in place and the bridge could not be set up: port 8080 is in use on fd00::2; guestd tries again by itself; to give up: guestctl bridge remove 8080");
        assert!(failed(&bridge(), 3000.into()).is_none());
    }
}
