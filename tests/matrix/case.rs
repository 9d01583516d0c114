//! What is tried: every way in which a service comes back, and what became of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use guestd::sys::bpf::steer::{AUTO, RULE};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

/// A kind of bind. Each stands for a row and a column of the table of conflicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Bind {
    /// 0.0.0.0, 127.0.0.1 and ::ffff:0.0.0.0, in turn: to the kernel's check they are one.
    Ipv4,
    Dual,
    Only6,
    Loopback6,
    Global6,
}

impl Bind {
    pub(crate) const ALL: [Self; 5] = [Self::Ipv4, Self::Dual, Self::Only6, Self::Loopback6, Self::Global6];

    fn address(self, round: u32) -> (&'static str, bool) {
        match self {
            Self::Ipv4 => [("0.0.0.0", false), ("127.0.0.1", false), ("::ffff:0.0.0.0", false)][round as usize % 3],
            Self::Dual => ("::", false),
            Self::Only6 => ("::", true),
            Self::Loopback6 => ("::1", true),
            Self::Global6 => ("fd00:9::2", true),
        }
    }

    /// Do clients from outside reach it over IPv6?
    pub(crate) fn is_reached(self) -> bool {
        matches!(self, Self::Dual | Self::Only6 | Self::Global6)
    }

    /// A listening socket.
    pub(crate) fn listen(self, round: u32, port: u16, option: Opt) -> std::io::Result<Socket> {
        let (address, only_v6) = self.address(round);
        let address = SocketAddr::new(address.parse::<IpAddr>().map_err(std::io::Error::other)?, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        match option {
            Opt::None => {}
            Opt::ReuseAddr => socket.set_reuse_address(true)?,
            Opt::ReusePort => socket.set_reuse_port(true)?,
        }
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ipv4 => "IPv4",
            Self::Dual => "[::] dual",
            Self::Only6 => "[::] v6only",
            Self::Loopback6 => "[::1]",
            Self::Global6 => "[global]",
        })
    }
}

/// What the service asks for before its bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Opt {
    None,
    ReuseAddr,
    ReusePort,
}

/// When the new socket comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum How {
    /// When the old one is closed.
    After,
    /// While the old one listens.
    Beside,
}

/// One kind of restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    pub(crate) old: Bind,
    pub(crate) new: Bind,
    pub(crate) how: How,
    pub(crate) option: Opt,
    pub(crate) uid: u32,
    pub(crate) gap_micros: u32,
    pub(crate) busy: bool,
}

impl Case {
    pub(crate) fn gap(&self) -> Duration {
        Duration::from_micros(self.gap_micros.into())
    }

    /// By a rule everything is steered that may be; unasked what an IPv4 listener is there for.
    pub(crate) fn flags(&self) -> u32 {
        if self.old == Bind::Ipv4 { AUTO } else { RULE }
    }

    /// Every pair, way, option, user and load, for one gap.
    pub(crate) fn all(gap_micros: u32, busy: bool) -> Vec<Self> {
        let mut cases = Vec::new();
        for old in Bind::ALL {
            for new in Bind::ALL {
                for how in [How::After, How::Beside] {
                    for option in [Opt::None, Opt::ReuseAddr, Opt::ReusePort] {
                        for uid in [0, 1000] {
                            cases.push(Self { old, new, how, option, uid, gap_micros, busy });
                        }
                    }
                }
            }
        }
        cases
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { old, new, how, option, uid, .. } = self;
        let load = if self.busy { "busy" } else { "idle" };
        write!(f, "{new} {how:?} {old}, {option:?}, uid {uid}, gap {:?}, {load}", self.gap())
    }
}

/// What became of the rounds of a case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) rounds: u32,
    /// Of bind and listen, old and new: which, and the error -> how often.
    pub(crate) refused: BTreeMap<String, u32>,
    /// Fresh connections that did not come to the service that listened over IPv6.
    pub(crate) astray: u32,
    /// Connections that came to the bridge.
    pub(crate) bridged: u64,
    /// The connection that was there all the time was not at the end.
    pub(crate) cut: bool,
}

/// What is so unlikely by chance that it is taken for none: in three thousand cases it would come up once in a thousand runs or less.
const CHANCE: f64 = 1e-7;

/// The same for one comparison of all cases together.
const CHANCE_OF_ALL: f64 = 1e-4;

/// How often something happened, of so many times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Often(u32, u32);

impl Often {
    fn sometimes(self) -> bool {
        self.0 > 0 && self.0 < self.1
    }
}

impl fmt::Display for Often {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.0, self.1)
    }
}

/// Were it as likely in `one` as in `other`: how likely it would be that of as many events so few or fewer are in `one` (Fisher's exact test,
/// one-sided).
fn chance_of_so_few(one: Often, other: Often) -> f64 {
    let all = usize::try_from(one.1 + other.1).unwrap_or(usize::MAX);
    let logs: Vec<f64> = std::iter::once(0.0)
        .chain((1..=all).scan(0.0, |sum, number| {
            *sum += (number as f64).ln();
            Some(*sum)
        }))
        .collect();
    let ways = |of: u32, chosen: u32| {
        let (of, chosen) = (of as usize, chosen as usize);
        logs[of] - logs[chosen] - logs[of - chosen]
    };
    let events = one.0 + other.0;
    let least = events.saturating_sub(other.1);
    let chance = |in_one: u32| {
        let others = events - in_one;
        (ways(one.1, in_one) + ways(other.1, others) - ways(one.1 + other.1, events)).exp()
    };
    (least..=one.0).map(chance).sum()
}

/// Are they so different that it is no chance? What happens always or never without steering does so with it, too.
fn compare(what: &str, control: Often, steered: Often, by_chance: f64) -> Option<String> {
    let is_more = (control.0 == 0 && steered.0 > 0) || chance_of_so_few(control, steered) < by_chance;
    let is_less = (control.0 == control.1 && steered.0 < steered.1) || chance_of_so_few(steered, control) < by_chance;
    (is_more || is_less).then(|| format!("{what}, {steered}; without steering {control}"))
}

/// What is different with steering from without, in words.
pub(crate) fn complaints(control: &Outcome, steered: &Outcome) -> Vec<String> {
    let mut complaints = Vec::new();
    let all: BTreeSet<_> = control.refused.keys().chain(steered.refused.keys()).collect();
    for what in all {
        complaints.extend(compare(what, control.refusals(what), steered.refusals(what), CHANCE));
    }
    let astray = |outcome: &Outcome| Often(outcome.astray, outcome.rounds);
    if steered.astray > control.astray
        && let Some(more) = compare("connections went astray", astray(control), astray(steered), CHANCE)
    {
        complaints.push(more);
    }
    if steered.cut {
        complaints.push("the connection that was there all the time was cut".to_owned());
    }
    if steered.bridged == 0 {
        complaints.push("nothing was steered: the case says nothing".to_owned());
    }
    complaints
}

/// The same over all cases in which something is refused sometimes without steering: what is too little to tell in one of them may not be in
/// all together.
pub(crate) fn complaints_of_all<'a>(outcomes: impl Iterator<Item = (&'a Outcome, &'a Outcome)>) -> Vec<String> {
    let mut sums: BTreeMap<&str, (Often, Often)> = BTreeMap::new();
    for (control, steered) in outcomes {
        for what in control.refused.keys().filter(|what| control.refusals(what).sometimes()) {
            let sum = sums.entry(what).or_default();
            for (sum, outcome) in [(&mut sum.0, control), (&mut sum.1, steered)] {
                let Often(times, rounds) = outcome.refusals(what);
                (sum.0, sum.1) = (sum.0 + times, sum.1 + rounds);
            }
        }
    }
    // Fewer are to be expected: the cases were chosen by what was refused without steering.
    let more = sums.into_iter().filter(|(_, (control, steered))| chance_of_so_few(*control, *steered) < CHANCE_OF_ALL);
    more.map(|(what, (control, steered))| format!("{what}, {steered} over all; without steering {control}")).collect()
}

impl Outcome {
    fn refusals(&self, what: &str) -> Often {
        Often(self.refused.get(what).copied().unwrap_or_default(), self.rounds)
    }
}
