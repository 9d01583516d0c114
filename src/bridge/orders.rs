//! What the agent and the data plane say to each other: JSON, one value a line, over a Unix socket.
//!
//! The plane says [`Answer::Hello`] first; then each [`Order`] has one answer, in turn; between them may be [`Answer::News`]. The agent sends
//! all that it wants, not what has changed, so that a new one needs to know nothing of what an older one has sent.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{Planned, Reach};
use crate::{
    api::{BridgeClient, BridgeMode},
    limits,
};

/// How the plane comes by its connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The kernel steers them to a socket that has another port (BPF).
    Steer,
    /// It binds the port.
    #[default]
    Bind,
}

impl Tier {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steer => "steer",
            Self::Bind => "bind",
        }
    }
}

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Order {
    /// To [`Answer::About`]: go on.
    Begin,
    /// Be so.
    Want(Want),
    /// Say how it is.
    Status {
        /// And who is connected.
        #[serde(default)]
        clients: bool,
    },
    /// Reset the connections of a port, or all.
    Cut {
        /// The port.
        listen: Option<u16>,
    },
    /// Take no more connections, make room for another plane, and end with the last connection. It still obeys, and is found by a name
    /// of its own.
    Retire,
    /// Reset everything and end.
    End,
}

/// All that the agent wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Want {
    /// Steer to IPv4-only listeners unasked.
    pub(super) auto: bool,
    /// On these ports alone.
    pub(super) routable: Option<Vec<u16>>,
    /// Where the outside reaches the VM: what automatic ports are bound on.
    pub(super) addresses: Vec<Ipv6Addr>,
    /// Ports that planes before it have held: what refuses one of them may be the remains of their connections.
    #[serde(default)]
    pub(super) remains: Vec<u16>,
    /// Ports to hold; any other is let go. Where the kernel steers, rules alone.
    pub(super) ports: Vec<WantPort>,
}

/// A port to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WantPort {
    pub(super) listen: u16,
    pub(super) to: SocketAddr,
    #[serde(default)]
    pub(super) mode: BridgeMode,
    /// Accepts on all addresses, `::1` too, and not only where the outside comes in.
    pub(super) everywhere: bool,
    /// Try now to bind what is not bound. Without it, what is held stays, and no more is tried.
    pub(super) take: bool,
}

impl WantPort {
    pub(super) fn of(listen: u16, planned: &Planned, take: bool) -> Self {
        Self { listen, to: planned.to, mode: planned.mode, everywhere: planned.reach == Reach::Everywhere, take }
    }
}

/// From the plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Answer {
    /// To the agent that has started it: it is about to listen with sockets of these inodes.
    About {
        /// The inodes.
        listeners: Vec<u64>,
    },
    /// To a new agent.
    Hello(Hello),
    /// To what was carried out.
    State(State),
    /// To nothing: ask how it is.
    News,
    /// To what was not.
    Error {
        /// A sentence.
        message: String,
    },
}

/// Who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// What it was started with: another executable or other settings are another identity.
    pub(super) identity: String,
    pub(super) pid: u32,
    pub(super) tier: Tier,
    /// Why it does not steer.
    pub(super) tier_reason: Option<String>,
    /// What there is to say of how the kernel steers.
    pub(super) variant: Option<String>,
    /// How many connections it may have at once; 0: it does not tell.
    #[serde(default)]
    pub(super) connections: u64,
    /// Why it ends with the agent's unit, if it does.
    pub(super) dies_with_agent: Option<String>,
    pub(super) state: State,
}

/// How it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Inodes of all its sockets that listen, or will when the next order comes: then the agent knows them.
    pub(super) listeners: Vec<u64>,
    /// Some of them wait for the next order.
    pub(super) pending: bool,
    /// Ports that are held or have ever had a connection, sorted.
    pub(super) ports: Vec<PortReport>,
    /// Nothing was bridged yet; or the stand-in addresses can be used; or why not.
    pub(super) pseudo_ipv4: Option<Result<(), String>>,
    /// Why nothing is bridged, where that is so.
    pub(super) trouble: Option<String>,
    /// If they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) clients: Option<Clients>,
}

/// Who is connected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Clients {
    /// Most connections first.
    pub(super) clients: Vec<BridgeClient>,
    /// How many more there are.
    pub(super) omitted: u64,
}

impl Clients {
    /// Adds those that another plane tells of.
    pub(super) fn merge(&mut self, other: Self) {
        self.omitted += other.omitted;
        for client in other.clients {
            let same = |known: &&mut BridgeClient| {
                (known.client, known.port, known.pseudo) == (client.client, client.port, client.pseudo)
            };
            match self.clients.iter_mut().find(same) {
                Some(known) => known.connections += client.connections,
                None => self.clients.push(client),
            }
        }
    }

    /// As many as are told of.
    pub(super) fn bound(&mut self) {
        self.clients.sort_by_key(|client| std::cmp::Reverse(client.connections));
        self.omitted += self.clients.len().saturating_sub(limits::BRIDGE_CLIENTS) as u64;
        self.clients.truncate(limits::BRIDGE_CLIENTS);
    }
}

/// One port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortReport {
    pub(super) listen: u16,
    /// Where it leads, and how, if it is held.
    pub(super) to: Option<(SocketAddr, BridgeMode)>,
    /// Where it accepts.
    pub(super) addresses: Vec<Ipv6Addr>,
    /// What the last try failed by.
    pub(super) failure: Option<String>,
    pub(super) open: u64,
    pub(super) accepted: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) errors: u64,
}

/// A line of this.
pub(super) fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_one_line_that_reads_back() {
        let port = WantPort {
            listen: 80,
            to: "0.0.0.0:80".parse().unwrap(),
            mode: BridgeMode::ProxyV2,
            everywhere: true,
            take: true,
        };
        let want =
            Want { auto: true, routable: Some(vec![80]), addresses: Vec::new(), remains: vec![80], ports: vec![port] };
        let cut = |listen| Order::Cut { listen };
        for order in [
            Order::Begin,
            Order::Want(want),
            Order::Status { clients: true },
            cut(None),
            cut(Some(80)),
            Order::Retire,
            Order::End,
        ] {
            let line = line(&order).unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(serde_json::from_slice::<Order>(&line).unwrap(), order);
        }
    }

    #[test]
    fn every_answer_reads_back() {
        let state = State { pseudo_ipv4: Some(Err("EPERM".to_owned())), ..State::default() };
        let hello = Hello { identity: "x".to_owned(), state: state.clone(), ..Hello::default() };
        let error = Answer::Error { message: "no".to_owned() };
        for answer in [Answer::Hello(hello), Answer::State(state), Answer::News, error] {
            assert_eq!(serde_json::from_slice::<Answer>(&line(&answer).unwrap()).unwrap(), answer);
        }
    }

    #[test]
    fn clients_of_several_planes_are_told_of_together_and_within_the_bound() {
        let client = |number: u16, connections| BridgeClient {
            pseudo: None,
            client: "fd00::1".parse().unwrap(),
            port: number,
            connections,
        };
        let mut all = Clients { clients: vec![client(1, 1), client(2, 1)], omitted: 3 };
        let many = (2..=limits::BRIDGE_CLIENTS as u16 + 1).map(|number| client(number, 2));
        all.merge(Clients { clients: many.collect(), omitted: 4 });
        all.bound();
        assert_eq!((all.clients.len(), all.omitted), (limits::BRIDGE_CLIENTS, 8));
        assert_eq!(all.clients[0], client(2, 3));
    }

    /// Tests of the agent end a plane by these very bytes.
    #[test]
    fn order_to_end_is_as_others_write_it() {
        assert_eq!(line(&Order::End).unwrap(), b"{\"order\":\"end\"}\n");
    }
}
