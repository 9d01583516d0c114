//! The known keys and how each value is read.

use std::{fmt::Display, net::Ipv6Addr, path::PathBuf, str::FromStr, time::Duration};

use super::{
    BridgeTier, Config, GenerationEffects, GuestAddress, HostNamePolicy, ListenerEvents, LogLevel, PowerRule,
    RegistryRole, RoutablePorts, Secret, ServiceUrl,
};
use crate::{
    api::{BridgeRule, HostKeyPolicy},
    limits,
};

type Setter = fn(&mut Config, &str) -> Result<(), &'static str>;

/// Key, and what sets it. A setter's error says what the key takes.
const KEYS: &[(&str, Setter)] = &[
    ("vm_id", |config, value| {
        let valid = (1..=128).contains(&value.len())
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        config.vm_id = Some(checked(valid, value, "1 to 128 letters, digits, `-` or `_`")?);
        Ok(())
    }),
    ("auth_token", |config, value| {
        let valid = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
        config.auth_token = Some(Secret::new(checked(valid, value, "printable ASCII characters without spaces")?));
        Ok(())
    }),
    ("socket", |config, value| {
        config.socket = PathBuf::from(checked(value.starts_with('/'), value, "an absolute path")?);
        Ok(())
    }),
    ("vsock.enabled", |config, value| {
        config.vsock_enabled = switch(value)?;
        Ok(())
    }),
    ("vsock.port", |config, value| {
        config.vsock_port = number(value, 1, u32::MAX - 1, "a port number from 1 to 4294967294")?;
        Ok(())
    }),
    ("network.domain", |config, value| {
        let valid = !value.is_empty()
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
            && !value.starts_with('.');
        config.domain = checked(valid, value, "a domain name such as vm.vers.sh")?;
        Ok(())
    }),
    ("network.routable_ports", |config, value| {
        config.routable_ports = if value == "all" {
            RoutablePorts::All
        } else {
            RoutablePorts::Only(list(value).map(|port| number(port, 1, u16::MAX, PORTS)).collect::<Result<_, _>>()?)
        };
        Ok(())
    }),
    ("network.hostname", |config, value| {
        config.hostname = match value {
            "auto" => HostNamePolicy::Auto,
            "vm_id" => HostNamePolicy::VmId,
            "keep" => HostNamePolicy::Keep,
            _ => return Err("auto, vm_id or keep"),
        };
        Ok(())
    }),
    ("ip6", |config, value| {
        config.ip6 = Some(guest_address(value).ok_or("ADDRESS/PREFIX[,GATEWAY[,MTU]] such as fd00::2/64,fd00::1")?);
        Ok(())
    }),
    ("bridge.auto", |config, value| {
        config.bridge_auto = switch(value)?;
        Ok(())
    }),
    ("bridge.rules", |config, value| {
        config.bridge_rules = bridge_rules(value).map_err(|_| BRIDGE_RULES)?;
        Ok(())
    }),
    ("listeners.events", |config, value| {
        config.listener_events = match value {
            "auto" => ListenerEvents::Auto,
            "poll" => ListenerEvents::Poll,
            _ => return Err("auto or poll"),
        };
        Ok(())
    }),
    ("bridge.tier", |config, value| {
        config.bridge_tier = match value {
            "auto" => BridgeTier::Auto,
            "bind" => BridgeTier::Bind,
            _ => return Err("auto or bind"),
        };
        Ok(())
    }),
    ("bridge.grace_ms", |config, value| {
        config.bridge_grace = Duration::from_millis(number(value, 0, 600_000, "milliseconds from 0 to 600000")?);
        Ok(())
    }),
    ("listeners.poll_ms", |config, value| {
        config.poll_interval = Duration::from_millis(number(value, 50, 60_000, "milliseconds from 50 to 60000")?);
        Ok(())
    }),
    ("exec.max_running", |config, value| {
        config.exec_max_running = number(value, 1, 1024, "a number from 1 to 1024")?;
        Ok(())
    }),
    ("exec.replay_bytes", |config, value| {
        config.exec_replay_bytes = number(value, MIN_RING, MAX_RINGS, "bytes from 65536 to 4294967296")?;
        Ok(())
    }),
    ("exec.replay_total_bytes", |config, value| {
        config.exec_replay_total_bytes = number(value, MIN_RING, MAX_RINGS, "bytes from 65536 to 4294967296")?;
        Ok(())
    }),
    ("exec.spill_dir", |config, value| {
        config.exec_spill_dir = PathBuf::from(checked(value.starts_with('/'), value, "an absolute path")?);
        Ok(())
    }),
    ("exec.spill_bytes", |config, value| {
        config.exec_spill_bytes = number(value, 0, u64::MAX, "a number of bytes")?;
        Ok(())
    }),
    ("registry.url", |config, value| {
        config.registry_url = match value {
            "off" => None,
            url => Some(
                ServiceUrl::parse(url)
                    .ok_or("\"off\" or an http:// or https:// URL without user, query and fragment")?,
            ),
        };
        Ok(())
    }),
    ("registry.name", |config, value| {
        let valid = (1..=limits::REGISTRY_NAME_BYTES).contains(&value.len())
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        config.registry_name = Some(checked(valid, value, "1 to 64 letters, digits, `-`, `_` or `.`")?);
        Ok(())
    }),
    ("registry.role", |config, value| {
        config.registry_role = Some(RegistryRole::of(value).ok_or("infra, lieutenant, worker, golden or custom")?);
        Ok(())
    }),
    ("registry.heartbeat_secs", |config, value| {
        config.registry_heartbeat = Duration::from_secs(number(value, 1, 240, "seconds from 1 to 240")?);
        Ok(())
    }),
    ("dns", |config, value| {
        const TAKES: &str = "addresses of name servers separated by commas, three at most";
        let servers: Vec<_> = list(value).map(str::parse).collect::<Result<_, _>>().map_err(|_| TAKES)?;
        if servers.len() > limits::NAME_SERVERS {
            return Err(TAKES);
        }
        config.dns = servers;
        Ok(())
    }),
    ("generation.local", |config, value| {
        config.generation_local = switch(value)?;
        Ok(())
    }),
    ("generation.effects", |config, value| {
        config.generation_effects = match value {
            "auto" => GenerationEffects::Auto,
            "all" => GenerationEffects::All,
            "files" => GenerationEffects::Files,
            "none" => GenerationEffects::None,
            _ => return Err("auto, all, files or none"),
        };
        Ok(())
    }),
    ("generation.root", |config, value| {
        config.generation_root = PathBuf::from(checked(value.starts_with('/'), value, "an absolute path")?);
        Ok(())
    }),
    ("ssh.host_keys", |config, value| {
        config.host_keys = match value {
            "renew" => HostKeyPolicy::Renew,
            "keep" => HostKeyPolicy::Keep,
            _ => return Err("renew or keep"),
        };
        Ok(())
    }),
    ("power", |config, value| {
        config.power = match value {
            "auto" => PowerRule::Auto,
            "reboot" => PowerRule::Reboot,
            "poweroff" => PowerRule::PowerOff,
            _ => return Err("auto, reboot or poweroff"),
        };
        Ok(())
    }),
    ("handoff", |config, value| {
        config.handoff =
            Some(PathBuf::from(checked(value.starts_with('/'), value, "an absolute path, of another init")?));
        Ok(())
    }),
    ("log.level", |config, value| {
        config.log_level = match value {
            "error" => LogLevel::Error,
            "warn" => LogLevel::Warn,
            "info" => LogLevel::Info,
            "debug" => LogLevel::Debug,
            "trace" => LogLevel::Trace,
            _ => return Err("error, warn, info, debug or trace"),
        };
        Ok(())
    }),
];

/// One piece of output fits.
const MIN_RING: usize = 64 * 1024;
const MAX_RINGS: usize = 4 * 1024 * 1024 * 1024;

const BRIDGE_RULES: &str = "LISTEN=TO[;mode=MODE], separated by commas";

const PORTS: &str = "\"all\" or port numbers separated by commas";

/// Names of all keys.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(name, _)| *name)
}

/// Sets one key. The error is a sentence that names it; the value of a secret is not in it.
pub(super) fn apply(config: &mut Config, key: &str, value: &str) -> Result<(), String> {
    let Some((name, set)) = KEYS.iter().find(|(name, _)| *name == key) else {
        return Err(match nearest(key) {
            Some(known) => format!("unknown key `{key}`; did you mean `{known}`?"),
            None => format!("unknown key `{key}`; `guestd check-config` lists the known ones"),
        });
    };
    set(config, value).map_err(|takes| match *name {
        // A URL that was refused may have a password in it.
        "auth_token" | "registry.url" => format!("`{name}` cannot be used; it takes {takes}"),
        // Of many rules, the one that is wrong is worth a sentence of its own.
        "bridge.rules" => match bridge_rules(value) {
            Err(why) => format!("`{name}`: {why}"),
            Ok(_) => format!("`{name}` is {value:?}; it takes {takes}"),
        },
        _ => format!("`{name}` is {value:?}; it takes {takes}"),
    })
}

fn nearest(key: &str) -> Option<&'static str> {
    names().map(|name| (edits(key, name), name)).min().filter(|(edits, _)| *edits <= 3).map(|(_, name)| name)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn checked(valid: bool, value: &str, takes: &'static str) -> Result<String, &'static str> {
    if valid { Ok(value.to_owned()) } else { Err(takes) }
}

fn switch(value: &str) -> Result<bool, &'static str> {
    match value {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err("true or false"),
    }
}

fn number<T: FromStr + PartialOrd + Display>(
    value: &str,
    least: T,
    most: T,
    takes: &'static str,
) -> Result<T, &'static str> {
    value.parse().ok().filter(|number| (&least..=&most).contains(&number)).ok_or(takes)
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn guest_address(value: &str) -> Option<GuestAddress> {
    let mut parts = value.split(',').map(str::trim);
    let (address, prefix_len) = parts.next()?.split_once('/')?;
    let gateway = parts.next().filter(|gateway| !gateway.is_empty());
    let mtu = parts.next();
    if parts.next().is_some() {
        return None;
    }
    Some(GuestAddress {
        address: address.parse().ok()?,
        prefix_len: prefix_len.parse().ok().filter(|length| (1..=128).contains(length))?,
        gateway: gateway.map(str::parse::<Ipv6Addr>).transpose().ok()?,
        // 1280 is the least that IPv6 allows (RFC 8200, section 5).
        mtu: mtu.map(|mtu| number(mtu, 1280, 65_535, "")).transpose().ok()?,
    })
}

/// Rules and, where they cannot be used, a sentence that says which and why.
fn bridge_rules(value: &str) -> Result<Vec<BridgeRule>, String> {
    let rules: Vec<BridgeRule> = list(value)
        .map(|item| item.parse().map_err(|why| format!("the rule {item:?} is no rule: {why}")))
        .collect::<Result<_, _>>()?;
    if rules.len() > limits::BRIDGE_PORTS {
        return Err(format!("{} rules are more than the limit of {}", rules.len(), limits::BRIDGE_PORTS));
    }
    BridgeRule::check_all(&rules).map_err(|bad| format!("the rule {bad}"))?;
    Ok(rules)
}
