//! Is this VM usable, and if not wholly, what is missing? A pure function of what the parts know of themselves.

use std::time::Duration;

use crate::{
    api::{
        BridgePortState, Check, CheckState, GenerationPhase, GenerationReport, GenerationState, Status, StepOutcome,
        StepReport,
    },
    bridge::{BridgeState, PseudoIpv4State, Tier},
    config::Problem,
    facts::{MemoryFact, UnseenFact},
    keys::KeysStatus,
    limits,
    listeners::{Events, ListenerTable, Observation, Source},
};

/// Failures of one kind that a check's message names one by one.
const SHOWN_FAILURES: usize = 4;

/// How long it is told that the bridge's data plane ended and another one was started.
const LOSS_SHOWN: Duration = Duration::from_secs(600);

/// What the parts know of themselves.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The host's way in: the port, `Off` by configuration, or why it failed.
    pub vsock: &'a Part,
    /// A cgroup for each exec: where, or why not.
    pub cgroup: &'a Part,
    /// Golden keys.
    pub keys: &'a KeysStatus,
    /// The address of the configuration (`ip6`), if it was to be set.
    pub guest_address: &'a Part,
    /// Host name and name servers.
    pub names: &'a Part,
    /// What could not be used of the configuration.
    pub config: &'a [Problem],
    /// Last look at the listeners.
    pub observation: &'a Observation,
    /// How it is known when to look at them.
    pub listener_events: &'a Events,
    /// The bridge.
    pub bridge: &'a BridgeState,
    /// The platform's registry.
    pub registry: &'a Part,
    /// Process 1 and its services, where it is `guestd init`.
    pub init: &'a Part,
    /// Commits and restores.
    pub generation: &'a GenerationState,
    /// Nobody carries them out any more.
    pub generation_is_over: bool,
    /// Memory that is scarce, or that the host has taken.
    pub memory: &'a MemoryFact,
    /// Does the kernel have IPv6 at all?
    pub ipv6_in_kernel: bool,
}

/// One part's word on itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Works; what was found.
    Ok(String),
    /// Switched off; by what.
    Off(String),
    /// Does not work; why, and what to do.
    Failed(String),
}

/// Every check, and their sum: `Ready` or `Degraded`.
pub fn assess(inputs: &Inputs<'_>) -> (Status, Vec<Check>) {
    let checks = vec![
        check("vsock", inputs.vsock.clone()),
        check("ipv6", ipv6(inputs)),
        check("cgroup2", inputs.cgroup.clone()),
        check("listeners", listeners(inputs.observation, inputs.listener_events)),
        check("bridge", bridge(inputs.bridge, inputs.ipv6_in_kernel)),
        check("pseudo_ipv4", pseudo_ipv4(inputs.bridge)),
        check("keys", keys(inputs.keys)),
        check("registry", inputs.registry.clone()),
        check("names", inputs.names.clone()),
        check("init", inputs.init.clone()),
        check("generation", generation(inputs.generation, inputs.generation_is_over)),
        check("memory", memory(inputs.memory)),
        check("config", config(inputs.config)),
    ];
    let degraded = checks.iter().any(|check| check.state == CheckState::Degraded);
    (if degraded { Status::Degraded } else { Status::Ready }, checks)
}

fn check(name: &str, part: Part) -> Check {
    let (state, message) = match part {
        Part::Ok(message) => (CheckState::Ok, message),
        Part::Off(message) => (CheckState::Off, message),
        Part::Failed(message) => (CheckState::Degraded, message),
    };
    Check { name: name.to_owned(), state, message }
}

fn ipv6(inputs: &Inputs<'_>) -> Part {
    if !inputs.ipv6_in_kernel {
        return Part::Failed(
            "the kernel has no IPv6 (`ipv6.disable=1`, or not built in): the proxy reaches nothing here".to_owned(),
        );
    }
    if let Part::Failed(why) = inputs.guest_address {
        return Part::Failed(why.clone());
    }
    let addresses: Vec<_> = inputs.observation.table.reachable_ipv6().map(|address| address.to_string()).collect();
    if addresses.is_empty() {
        return Part::Failed(
            "no interface has an IPv6 address that the outside can reach; give one by `guestd.ip6=ADDRESS/PREFIX,GATEWAY` on \
             the kernel command line, or by router advertisements"
                .to_owned(),
        );
    }
    Part::Ok(addresses.join(", "))
}

fn listeners(observation: &Observation, events: &Events) -> Part {
    match observation {
        Observation { failure: Some(why), .. } => {
            Part::Failed(format!("looking for listeners failed: {why}; what is reported may be old"))
        }
        Observation { truncated: true, .. } => {
            Part::Failed(format!("more than {} sockets listen; the report is cut", limits::LISTENERS))
        }
        Observation { source: Source::Procfs, .. } => Part::Failed(
            "the kernel has no INET_DIAG; /proc/net/tcp6 is read instead, in which IPv6-only sockets look like dual-stack ones"
                .to_owned(),
        ),
        Observation { table, .. } => known_listeners(table, events),
    }
}

fn known_listeners(table: &ListenerTable, events: &Events) -> Part {
    let mut known = format!("{} by sock_diag; {events}", table.sockets.len());
    if !table.others.is_empty() {
        let elsewhere = table.all_sockets().count() - table.sockets.len();
        known.push_str(&format!("; {elsewhere} in {} other network namespaces", table.others.len()));
    }
    if let Some(unreadable) = &table.unreadable {
        known.push_str(&format!("; {unreadable}"));
    }
    if table.unseen.is_empty() {
        return Part::Ok(known);
    }
    let named = |unseen: &UnseenFact| match unseen.netns {
        Some(netns) => format!("network namespace {netns}: {}", unseen.why),
        None => unseen.why.clone(),
    };
    let all: Vec<_> = table.unseen.iter().take(SHOWN_FAILURES).map(named).collect();
    let more = match table.unseen.len().saturating_sub(SHOWN_FAILURES) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Part::Failed(format!("{known}; what else listens is not known: {}{more}", all.join("; ")))
}

fn bridge(bridge: &BridgeState, ipv6_in_kernel: bool) -> Part {
    if !bridge.auto && bridge.rules.is_empty() {
        return Part::Off("automatic bridging is off and there are no rules (`guestctl bridge auto on`)".to_owned());
    }
    if !ipv6_in_kernel {
        // One fault is told once, by the check `ipv6`.
        return Part::Ok("no clients come over IPv6, so that nothing is to be bridged".to_owned());
    }
    let plane = &bridge.plane;
    let lost = plane.lost.as_ref();
    // What all ports suffer from is said once.
    match (plane.runs, &plane.awaited, lost, &plane.trouble) {
        (false, Some(why), ..) | (true, .., Some(why)) => return Part::Failed(why.clone()),
        (false, None, Some((why, _)), _) => return Part::Failed(format!("{why}; it is started again")),
        _ => {}
    }
    let failed: Vec<_> = bridge
        .ports
        .iter()
        // One that accepts on some addresses only has a message, too.
        .filter(|port| port.state == BridgePortState::Failed || port.message.is_some())
        .map(|port| format!("port {}: {}", port.listen, port.message.as_deref().unwrap_or("unknown failure")))
        .collect();
    if !failed.is_empty() {
        return Part::Failed(failed.join("; "));
    }
    if !plane.runs {
        return Part::Ok("its data plane is being started".to_owned());
    }
    let mut message = format!("{} ports, tier {}", bridge.ports.len(), plane.tier.name());
    if plane.tier == Tier::Bind {
        let why = plane.tier_reason.as_deref().unwrap_or("the kernel cannot steer");
        message.push_str(&format!(": a service's own IPv6 bind can race with it ({why})"));
    }
    if (1..limits::BRIDGE_FEW_CONNECTIONS).contains(&plane.connections) {
        let most = plane.connections;
        return Part::Failed(format!(
            "{message}: the limit of open files leaves it {most} connections at once; raise LimitNOFILE of the unit"
        ));
    }
    if let Some(variant) = &plane.variant {
        message.push_str(&format!(": {variant}"));
    }
    if plane.retired > 0 {
        message.push_str(&format!("; {} data planes of before still have connections", plane.retired));
    }
    message.push_str(&match &plane.dies_with_agent {
        Some(why) => format!("; a restart of the agent cuts bridged connections: {why}"),
        None => "; bridged connections outlive a restart of the agent".to_owned(),
    });
    if let Some((why, at)) = lost.filter(|(_, at)| at.elapsed() < LOSS_SHOWN) {
        message.push_str(&format!("; {} s ago connections were reset: {why}", at.elapsed().as_secs()));
    }
    Part::Ok(message)
}

fn pseudo_ipv4(bridge: &BridgeState) -> Part {
    match &bridge.pseudo_ipv4 {
        PseudoIpv4State::Failed(why) => {
            Part::Failed(format!("{why}; services see the VM's own IPv4 address instead of one for each client"))
        }
        PseudoIpv4State::Set => Part::Ok("clients appear to services as 240.0.0.0/4".to_owned()),
        PseudoIpv4State::NotNeeded => Part::Ok("not needed yet: nothing is bridged".to_owned()),
    }
}

fn keys(keys: &KeysStatus) -> Part {
    let summary = keys.summary();
    if !keys.problems.is_empty() {
        Part::Failed(summary)
    } else if keys.none_installed() {
        Part::Off(summary)
    } else {
        Part::Ok(summary)
    }
}

fn generation(state: &GenerationState, is_over: bool) -> Part {
    if is_over {
        return Part::Failed(
            "what carries out commits and restores has ended by a fault of guestd's, which its log has; restart the agent".to_owned(),
        );
    }
    if let Some(id) = &state.interrupted {
        return Part::Failed(format!(
            "the announcement of generation {id:?} was interrupted, as the agent was ended in it: make it again"
        ));
    }
    if let Some(sign) = state.unacked.first() {
        return Part::Failed(format!(
            "generation_unacked: the VM was restored from memory ({}) and the host has not announced it (POST /v1/generation): its name, \
             keys and addresses may be those of another VM",
            sign.message
        ));
    }
    let named = |report: &GenerationReport| format!("{:?}, announced as {:?}", report.generation_id, report.kind);
    let failed = |steps: &[StepReport]| {
        let failed = steps.iter().filter(|step| step.outcome == StepOutcome::Failed).take(SHOWN_FAILURES);
        failed.map(|step| format!("{}: {}", step.step, step.message)).collect::<Vec<_>>().join("; ")
    };
    match &state.report {
        Some(report) if !report.complete => Part::Failed(format!(
            "{} of {}; announce it again to repeat what failed",
            failed(&report.steps),
            named(report)
        )),
        _ if state.phase == GenerationPhase::Prepared => Part::Ok("prepared for a commit: new execs wait".to_owned()),
        Some(report) => Part::Ok(named(report)),
        None => Part::Ok("none was announced in this boot".to_owned()),
    }
}

/// Above this share of the last 10 s in which all that could run waited for memory, a VM does little else.
const MEMORY_STALLED_PERCENT: f64 = 50.0;

fn memory(memory: &MemoryFact) -> Part {
    let mut said = Vec::new();
    let share = |name: &str, some: Option<f64>| some.map(|some| format!("{name} {some}%"));
    let shares = [share("cpu", memory.cpu_some), share("memory", memory.memory_some), share("io", memory.io_some)];
    let shares: Vec<_> = shares.into_iter().flatten().collect();
    if shares.is_empty() {
        said.push("the kernel does not measure pressure (PSI)".to_owned());
    } else {
        said.push(format!("waited for in the last 10 s: {}", shares.join(", ")));
    }
    if let Some(bytes) = memory.balloon_bytes.filter(|bytes| *bytes > 0) {
        said.push(format!("the host holds {} MiB by its balloon", bytes >> 20));
    }
    let said = said.join("; ");
    match memory.memory_full {
        Some(full) if full >= MEMORY_STALLED_PERCENT => Part::Failed(format!(
            "everything waits for memory {full}% of the time: end something, or give the VM more; {said}"
        )),
        _ => Part::Ok(said),
    }
}

fn config(problems: &[Problem]) -> Part {
    if problems.is_empty() {
        return Part::Ok("no problems".to_owned());
    }
    let problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
    Part::Failed(problems.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::RestoreSign, bridge::PlaneState, listeners::tests::table};

    /// A VM in which everything works.
    struct Vm {
        vsock: Part,
        cgroup: Part,
        keys: KeysStatus,
        guest_address: Part,
        names: Part,
        config: Vec<Problem>,
        observation: Observation,
        bridge: BridgeState,
        registry: Part,
        init: Part,
        generation: GenerationState,
        generation_is_over: bool,
        memory: MemoryFact,
        ipv6_in_kernel: bool,
    }

    fn verdict(change: impl FnOnce(&mut Vm)) -> (Status, Vec<(String, CheckState)>) {
        let ok = Part::Ok("fine".to_owned());
        let mut vm = Vm {
            vsock: ok.clone(),
            cgroup: ok.clone(),
            keys: KeysStatus { golden: Some("SHA256:x".to_owned()), ..KeysStatus::default() },
            guest_address: ok.clone(),
            registry: ok.clone(),
            names: ok.clone(),
            init: ok,
            generation: GenerationState::default(),
            generation_is_over: false,
            memory: MemoryFact::default(),
            config: Vec::new(),
            observation: Observation {
                table: table(Vec::new()),
                source: Source::SockDiag,
                failure: None,
                truncated: false,
            },
            bridge: BridgeState { auto: true, ..BridgeState::default() },
            ipv6_in_kernel: true,
        };
        change(&mut vm);
        let (status, checks) = assess(&Inputs {
            vsock: &vm.vsock,
            cgroup: &vm.cgroup,
            keys: &vm.keys,
            guest_address: &vm.guest_address,
            names: &vm.names,
            config: &vm.config,
            observation: &vm.observation,
            listener_events: &Events::Bpf,
            bridge: &vm.bridge,
            registry: &vm.registry,
            init: &vm.init,
            generation: &vm.generation,
            generation_is_over: vm.generation_is_over,
            memory: &vm.memory,
            ipv6_in_kernel: vm.ipv6_in_kernel,
        });
        let not_ok = checks.into_iter().filter(|check| check.state != CheckState::Ok);
        (status, not_ok.map(|check| (check.name, check.state)).collect())
    }

    fn degraded(name: &str) -> (Status, Vec<(String, CheckState)>) {
        (Status::Degraded, vec![(name.to_owned(), CheckState::Degraded)])
    }

    #[test]
    fn a_vm_with_everything_is_ready() {
        assert_eq!(verdict(|_| {}), (Status::Ready, vec![]));
    }

    #[test]
    fn what_is_switched_off_is_no_fault() {
        let off = |name: &str| (Status::Ready, vec![(name.to_owned(), CheckState::Off)]);
        assert_eq!(verdict(|vm| vm.vsock = Part::Off("by --no-vsock".to_owned())), off("vsock"));
        assert_eq!(verdict(|vm| vm.keys = KeysStatus::default()), off("keys"));
        assert_eq!(verdict(|vm| vm.bridge.auto = false), off("bridge"));
        assert_eq!(verdict(|vm| vm.registry = Part::Off("by default".to_owned())), off("registry"));
        assert_eq!(verdict(|vm| vm.init = Part::Off("systemd".to_owned())), off("init"));
    }

    #[test]
    fn each_failure_degrades_under_its_own_name() {
        let failed = || Part::Failed("gone".to_owned());
        assert_eq!(verdict(|vm| vm.vsock = failed()), degraded("vsock"));
        assert_eq!(verdict(|vm| vm.cgroup = failed()), degraded("cgroup2"));
        assert_eq!(verdict(|vm| vm.guest_address = failed()), degraded("ipv6"));
        assert_eq!(verdict(|vm| vm.registry = failed()), degraded("registry"));
        assert_eq!(verdict(|vm| vm.names = failed()), degraded("names"));
        assert_eq!(verdict(|vm| vm.init = failed()), degraded("init"));
        assert_eq!(verdict(|vm| vm.ipv6_in_kernel = false), degraded("ipv6"));
        let plane_fails = |vm: &mut Vm| vm.bridge.plane.awaited = Some("it has no IPv6 to listen on".to_owned());
        let without = verdict(|vm| {
            vm.ipv6_in_kernel = false;
            plane_fails(vm);
        });
        assert_eq!(without, degraded("ipv6"), "and nothing else is to be mended");
        assert_eq!(verdict(|vm| vm.observation.table = ListenerTable::default()), degraded("ipv6"));
        assert_eq!(verdict(|vm| vm.observation.failure = Some("EPERM".to_owned())), degraded("listeners"));
        assert_eq!(verdict(|vm| vm.observation.truncated = true), degraded("listeners"));
        assert_eq!(verdict(|vm| vm.observation.source = Source::Procfs), degraded("listeners"));
        let unseen = UnseenFact { netns: Some(7), why: "EPERM".to_owned() };
        assert_eq!(verdict(|vm| vm.observation.table.unseen.push(unseen)), degraded("listeners"));
        assert_eq!(verdict(|vm| vm.keys.problems.push("the key's mode is 0644".to_owned())), degraded("keys"));
        let sign = RestoreSign { sign: "vmclock".to_owned(), message: "x".to_owned(), at: 0.0 };
        assert_eq!(verdict(|vm| vm.generation.unacked.push(sign)), degraded("generation"));
        assert_eq!(verdict(|vm| vm.generation_is_over = true), degraded("generation"));
        assert_eq!(verdict(|vm| vm.generation.interrupted = Some("one".to_owned())), degraded("generation"));
        let incomplete = GenerationReport::default();
        assert_eq!(verdict(|vm| vm.generation.report = Some(incomplete)), degraded("generation"));
        assert_eq!(verdict(|vm| vm.memory.memory_full = Some(50.0)), degraded("memory"));
        let problem = Problem { origin: "f".to_owned(), message: "unknown key".to_owned() };
        assert_eq!(verdict(|vm| vm.config.push(problem)), degraded("config"));
        let plane = |change: fn(&mut PlaneState)| verdict(|vm| change(&mut vm.bridge.plane));
        assert_eq!(plane(|plane| plane.runs = true), (Status::Ready, vec![]));
        assert_eq!(plane(|plane| plane.awaited = Some("it does not answer".to_owned())), degraded("bridge"));
        assert_eq!(plane(|plane| (plane.runs, plane.connections) = (true, 256)), degraded("bridge"));
        assert_eq!(plane(|plane| (plane.runs, plane.trouble) = (true, Some("full".to_owned()))), degraded("bridge"));
        assert_eq!(
            verdict(|vm| vm.bridge.pseudo_ipv4 = PseudoIpv4State::Failed("EPERM".to_owned())),
            degraded("pseudo_ipv4")
        );
    }
}
