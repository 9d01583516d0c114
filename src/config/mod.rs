//! Configuration of the agent: what may be set, where it comes from, what is wrong with it.
//!
//! Three layers, later ones win: `/etc/guestd/config.toml`, `guestd.KEY=VALUE` on the kernel command line, `GUESTD_KEY`
//! in the environment. Each is read into a [`Layer`] of strings (`sources`); [`Config::from_layers`] is pure. A bad or
//! unknown key becomes a [`Problem`] with the default in its place: a typing error must not stop a VM from booting.

mod keys;
mod sources;
mod url;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

pub use sources::{DEFAULT_FILE, Layer, environment, file, kernel_command_line, text};
pub use url::ServiceUrl;

use crate::{
    api::{BridgeRule, HostKeyPolicy},
    limits,
};

/// Names of all keys.
pub fn known_keys() -> impl Iterator<Item = &'static str> {
    keys::names()
}

/// The agent's settings, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `vm_id`: the platform's id of this VM.
    pub vm_id: Option<String>,
    /// `auth_token`: with it, every endpoint but `/health` needs it as bearer token.
    pub auth_token: Option<Secret>,
    /// `socket`: path of the Unix socket.
    pub socket: PathBuf,
    /// `vsock.enabled`.
    pub vsock_enabled: bool,
    /// `vsock.port`.
    pub vsock_port: u32,
    /// `network.domain`: the public name is `{vm_id}.{domain}`.
    pub domain: String,
    /// `network.routable_ports`.
    pub routable_ports: RoutablePorts,
    /// `network.hostname`: whether the host name follows the VM's id.
    pub hostname: HostNamePolicy,
    /// `ip6`: the VM's own address, set at start.
    pub ip6: Option<GuestAddress>,
    /// `bridge.auto`: bridge IPv4-only listeners unasked.
    pub bridge_auto: bool,
    /// `bridge.rules`: explicit rules.
    pub bridge_rules: Vec<BridgeRule>,
    /// `bridge.tier`: how it comes by its connections.
    pub bridge_tier: BridgeTier,
    /// `bridge.grace_ms`: how long its data plane goes on without an agent.
    pub bridge_grace: Duration,
    /// `listeners.poll_ms`: time between two looks at the listeners.
    pub poll_interval: Duration,
    /// `listeners.events`.
    pub listener_events: ListenerEvents,
    /// `exec.max_running`: execs at once.
    pub exec_max_running: usize,
    /// `exec.replay_bytes`: output of one exec that can be read again.
    pub exec_replay_bytes: usize,
    /// `exec.replay_total_bytes`: the same for all execs together.
    pub exec_replay_total_bytes: usize,
    /// `exec.spill_dir`: where output on disk goes.
    pub exec_spill_dir: PathBuf,
    /// `exec.spill_bytes`: output on disk of all execs together.
    pub exec_spill_bytes: u64,
    /// `registry.url`: where the platform's registry is; nothing is registered without it.
    pub registry_url: Option<ServiceUrl>,
    /// `registry.name`: what this VM is called there, if not by its id.
    pub registry_name: Option<String>,
    /// `registry.role`: what it is there for.
    pub registry_role: Option<RegistryRole>,
    /// `registry.heartbeat_secs`: time between two heartbeats.
    pub registry_heartbeat: Duration,
    /// `dns`: name servers for `/etc/resolv.conf`; none: it stays as it is.
    pub dns: Vec<IpAddr>,
    /// `generation.local`: root in the VM may prepare, thaw and announce, too.
    pub generation_local: bool,
    /// `generation.effects`: how far the agent sets the VM right.
    pub generation_effects: GenerationEffects,
    /// `generation.root`: where `/etc` and `/run` of it are.
    pub generation_root: PathBuf,
    /// `ssh.host_keys`: what becomes of them with another VM id.
    pub host_keys: HostKeyPolicy,
    /// `power`: how `guestd init` ends the VM.
    pub power: PowerRule,
    /// `handoff`: the init that `guestd init` becomes after the early steps.
    pub handoff: Option<PathBuf>,
    /// `log.level`.
    pub log_level: LogLevel,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vm_id: None,
            auth_token: None,
            socket: PathBuf::from("/run/guestd.sock"),
            vsock_enabled: true,
            vsock_port: 1024,
            domain: "vm.vers.sh".to_owned(),
            routable_ports: RoutablePorts::All,
            hostname: HostNamePolicy::Auto,
            ip6: None,
            bridge_auto: true,
            bridge_rules: Vec::new(),
            bridge_tier: BridgeTier::Auto,
            bridge_grace: limits::BRIDGE_GRACE,
            poll_interval: Duration::from_millis(250),
            listener_events: ListenerEvents::Auto,
            exec_max_running: limits::EXECS_RUNNING,
            exec_replay_bytes: limits::EXEC_REPLAY_BYTES,
            exec_replay_total_bytes: limits::EXEC_REPLAY_TOTAL_BYTES,
            exec_spill_dir: PathBuf::from(limits::EXEC_SPILL_DIR),
            exec_spill_bytes: limits::EXEC_SPILL_BYTES,
            registry_url: None,
            registry_name: None,
            registry_role: None,
            registry_heartbeat: limits::REGISTRY_HEARTBEAT,
            dns: Vec::new(),
            generation_local: false,
            generation_effects: GenerationEffects::Auto,
            generation_root: PathBuf::from("/"),
            host_keys: HostKeyPolicy::Renew,
            power: PowerRule::Auto,
            handoff: None,
            log_level: LogLevel::Info,
        }
    }
}

impl Config {
    /// Merges the layers, the last one strongest, and says what could not be used.
    pub fn from_layers(layers: &[Layer]) -> (Self, Vec<Problem>) {
        let mut config = Self::default();
        let mut problems = Vec::new();
        for layer in layers {
            problems.extend(layer.problems.iter().cloned());
            for (key, value) in &layer.values {
                if let Err(message) = keys::apply(&mut config, key, value) {
                    problems.push(Problem { origin: layer.origin.clone(), message });
                }
            }
        }
        (config, problems)
    }

    /// The VM's public name, if its id is known.
    pub fn public_name(&self) -> Option<String> {
        self.vm_id.as_ref().map(|id| format!("{id}.{}", self.domain))
    }
}

/// Something in the configuration that was not used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// File, `kernel command line` or `environment`.
    pub origin: String,
    /// One sentence that names the key.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// A string that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Compares in a time that depends on the lengths alone.
    pub fn matches(&self, candidate: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), candidate.as_bytes());
        ours.len() == theirs.len() && ours.iter().zip(theirs).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
    }

    /// The secret itself, for whoever sends it to where it belongs. It must not get into a log or a message.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Ports that the platform's proxy routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutablePorts {
    /// Every port.
    All,
    /// These alone.
    Only(Vec<u16>),
}

impl RoutablePorts {
    /// Does the proxy route this port?
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Only(ports) => ports.contains(&port),
        }
    }
}

/// An IPv6 address for the VM's first interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestAddress {
    /// The address.
    pub address: Ipv6Addr,
    /// Length of its prefix, in bits.
    pub prefix_len: u8,
    /// Default route, if any.
    pub gateway: Option<Ipv6Addr>,
    /// MTU of the interface, in bytes; the kernel's own if absent.
    pub mtu: Option<u32>,
}

/// Whether the host name follows the VM's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostNamePolicy {
    /// Where the image's own name is one that nobody gave it, such as `localhost`.
    Auto,
    /// Always.
    VmId,
    /// Never.
    Keep,
}

/// How the agent learns that something listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerEvents {
    /// By BPF, and where that does not work by looking.
    Auto,
    /// By looking.
    Poll,
}

/// How far the agent sets a restored VM right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationEffects {
    /// All of it for the agent of the default socket, which is the VM's; nothing for another one.
    Auto,
    /// All of it.
    All,
    /// Files alone: clock, random numbers, host name, network and disk are somebody else's.
    Files,
    /// Nothing.
    None,
}

/// How the bridge comes by its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeTier {
    /// The kernel steers them (BPF), and where that does not work it binds the ports.
    Auto,
    /// It binds the ports.
    Bind,
}

/// How `guestd init` ends the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRule {
    /// As the kernel command line shows: `reboot=k` is Firecracker's.
    Auto,
    /// By a reset, which Firecracker takes for the end.
    Reboot,
    /// By switching the power off.
    PowerOff,
}

/// What a VM is there for, in the registry's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the registry's own")]
pub enum RegistryRole {
    Infra,
    Lieutenant,
    Worker,
    Golden,
    Custom,
}

impl RegistryRole {
    const ALL: [Self; 5] = [Self::Infra, Self::Lieutenant, Self::Worker, Self::Golden, Self::Custom];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Infra => "infra",
            Self::Lieutenant => "lieutenant",
            Self::Worker => "worker",
            Self::Golden => "golden",
            Self::Custom => "custom",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the field's own")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(origin: &str, values: &[(&str, &str)]) -> Layer {
        Layer {
            origin: origin.to_owned(),
            values: values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn later_layers_win() {
        let (config, problems) = Config::from_layers(&[
            layer("file", &[("vm_id", "a"), ("vsock.port", "7")]),
            layer("env", &[("vm_id", "b")]),
        ]);
        assert_eq!((config.vm_id.as_deref(), config.vsock_port), (Some("b"), 7));
        assert_eq!(problems, []);
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one_and_changes_nothing() {
        let (config, problems) = Config::from_layers(&[layer("/etc/guestd/config.toml", &[("bridge.atuo", "false")])]);
        assert_eq!(config, Config::default());
        assert_eq!(
            problems[0].to_string(),
            "/etc/guestd/config.toml: unknown key `bridge.atuo`; did you mean `bridge.auto`?"
        );
    }

    #[test]
    fn a_bad_value_keeps_the_value_of_the_layer_below() {
        let (config, problems) =
            Config::from_layers(&[layer("file", &[("vsock.port", "7")]), layer("env", &[("vsock.port", "x")])]);
        assert_eq!(config.vsock_port, 7);
        assert_eq!(problems[0].to_string(), "env: `vsock.port` is \"x\"; it takes a port number from 1 to 4294967294");
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let (config, problems) = Config::from_layers(&[layer(
            "file",
            &[
                ("ip6", "fd00::2/64,fd00::1,1400"),
                ("network.routable_ports", "3000, 8080"),
                ("bridge.rules", "8080=127.0.0.1:3000"),
                ("bridge.auto", "off"),
                ("bridge.tier", "bind"),
                ("bridge.grace_ms", "100"),
                ("log.level", "debug"),
                ("listeners.poll_ms", "1000"),
                ("listeners.events", "poll"),
                ("auth_token", "s3cret"),
                ("exec.replay_bytes", "65536"),
                ("exec.replay_total_bytes", "1048576"),
                ("exec.spill_dir", "/var/spill"),
                ("exec.spill_bytes", "0"),
                ("registry.url", "https://infra.example:8443/x/"),
                ("registry.name", "web-1"),
                ("registry.role", "lieutenant"),
                ("registry.heartbeat_secs", "30"),
                ("network.hostname", "vm_id"),
                ("dns", "fd00::53, 192.0.2.53"),
                ("ssh.host_keys", "keep"),
            ],
        )]);
        assert_eq!(problems, []);
        assert_eq!(
            config.ip6,
            Some(GuestAddress {
                address: "fd00::2".parse().unwrap(),
                prefix_len: 64,
                gateway: Some("fd00::1".parse().unwrap()),
                mtu: Some(1400)
            })
        );
        assert_eq!(config.routable_ports, RoutablePorts::Only(vec![3000, 8080]));
        assert_eq!(config.bridge_rules, ["8080=127.0.0.1:3000".parse().unwrap()]);
        assert!(!config.bridge_auto);
        assert_eq!((config.bridge_tier, config.bridge_grace), (BridgeTier::Bind, Duration::from_millis(100)));
        assert_eq!(config.log_level, LogLevel::Debug);
        assert_eq!((config.poll_interval, config.listener_events), (Duration::from_secs(1), ListenerEvents::Poll));
        assert_eq!((config.exec_replay_bytes, config.exec_replay_total_bytes), (65536, 1_048_576));
        assert_eq!((config.exec_spill_dir, config.exec_spill_bytes), (PathBuf::from("/var/spill"), 0));
        assert_eq!(config.registry_url.unwrap().to_string(), "https://infra.example:8443/x");
        assert_eq!(
            (config.registry_name.as_deref(), config.registry_role),
            (Some("web-1"), Some(RegistryRole::Lieutenant))
        );
        assert_eq!((config.registry_heartbeat, config.host_keys), (Duration::from_secs(30), HostKeyPolicy::Keep));
        assert_eq!(config.hostname, HostNamePolicy::VmId);
        assert_eq!(config.dns, ["fd00::53", "192.0.2.53"].map(|address| address.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn more_name_servers_than_anybody_asks_and_words_that_are_no_address_are_named() {
        for value in ["::1,::2,::3,::4", "ns.example.org"] {
            let (config, problems) = Config::from_layers(&[layer("env", &[("dns", value)])]);
            assert_eq!(config.dns, Vec::<IpAddr>::new());
            assert!(problems[0].to_string().contains("three at most"), "{}", problems[0]);
        }
    }

    #[test]
    fn every_form_of_a_bridge_rule_is_read_and_a_wrong_one_is_named_with_its_reason() {
        let rules = |value: &str| {
            let (config, problems) = Config::from_layers(&[layer("env", &[("bridge.rules", value)])]);
            (config.bridge_rules, problems.first().map(ToString::to_string).unwrap_or_default())
        };
        let text = "8080=127.0.0.1:3000, *=127.0.0.1,8000-8999=127.0.0.1,80=[::1]:3000;mode=http";
        let (read, problem) = rules(text);
        let written: Vec<_> = read.iter().map(ToString::to_string).collect();
        assert_eq!((written.join(","), problem), (text.replace(' ', ""), String::new()));
        let problem = |value: &str| {
            let (read, problem) = rules(value);
            assert_eq!(read, []);
            problem
        };
        insta::assert_snapshot!(problem("8080:127.0.0.1:3000"), @r#"env: `bridge.rules`: the rule "8080:127.0.0.1:3000" is no rule: a rule is LISTEN=TO, such as 8080=127.0.0.1:3000"#);
        insta::assert_snapshot!(problem("1=127.0.0.1:1,1=127.0.0.1:2"), @"env: `bridge.rules`: the rule 1=127.0.0.1:2: another rule has the same port");
        insta::assert_snapshot!(problem("1=127.0.0.1:1;mode=https"), @r#"env: `bridge.rules`: the rule "1=127.0.0.1:1;mode=https" is no rule: give tcp, http, proxy-v1 or proxy-v2"#);
    }

    #[test]
    fn a_secret_is_compared_and_never_printed() {
        let secret = Secret::new("s3cret");
        assert!(secret.matches("s3cret"));
        assert!(!secret.matches("s3cres") && !secret.matches("s3cre") && !secret.matches(""));
        assert!(!format!("{secret:?}").contains("s3cret"));
    }

    #[test]
    fn a_bad_secret_is_not_repeated_in_the_problem() {
        let (_, problems) = Config::from_layers(&[layer("env", &[("auth_token", "with space")])]);
        assert!(!problems[0].to_string().contains("with space"), "{}", problems[0]);
        let (_, problems) = Config::from_layers(&[layer("env", &[("registry.url", "https://user:s3cret@infra")])]);
        assert!(!problems[0].to_string().contains("s3cret"), "{}", problems[0]);
    }

    #[test]
    fn the_registry_of_the_platform_can_be_switched_off() {
        let (config, problems) =
            Config::from_layers(&[layer("env", &[("registry.url", "http://infra"), ("registry.url", "off")])]);
        assert_eq!((config.registry_url, problems), (None, vec![]));
    }
}
