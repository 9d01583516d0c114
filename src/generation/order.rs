//! An announcement, checked: what has the right shape is carried out without another look at it. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::machine::Announcement;
use crate::account_env;
use crate::api::{GenerationNet, GenerationRequest, HostKeyPolicy, IdentityPolicy};
use crate::limits;

/// Wall clocks of hosts that are believed: the years 2020 to 2100.
const WALL_CLOCKS: std::ops::Range<f64> = 1.577_836_8e9..4.102_444_8e9;

/// A field that cannot be used. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` of the announcement is wrong: {why}")]
pub struct BadField {
    /// Which one.
    pub field: &'static str,
    /// What it takes.
    pub why: String,
}

/// An announcement that can be carried out.
#[derive(Clone)]
pub struct Order {
    /// What the machine decides by.
    pub announced: Announcement,
    /// Since 1970, when the request was sent.
    pub wall_clock: Option<Duration>,
    /// Random bytes.
    pub entropy: Vec<u8>,
    /// Host name, where one was given.
    pub hostname: Option<String>,
    /// All managed variables.
    pub env: Option<BTreeMap<String, String>>,
    /// Addresses.
    pub net: Option<Net>,
    /// Public keys that may log in as root.
    pub authorized: Option<Vec<String>>,
    /// What becomes of the host keys, where that was said.
    pub host_keys: Option<HostKeyPolicy>,
    /// What becomes of `/etc/machine-id`.
    pub machine_id: IdentityPolicy,
}

/// The network of an order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Net {
    /// Address and length of its prefix.
    pub ip6: Option<(Ipv6Addr, u8)>,
    /// Gateway of the default route.
    pub gateway: Option<Ipv6Addr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
}

impl TryFrom<GenerationRequest> for Order {
    type Error = BadField;

    fn try_from(request: GenerationRequest) -> Result<Self, BadField> {
        let fingerprint = fingerprint(&request);
        let GenerationRequest { generation_id, kind, vm_id, parent_vm_id, commit_id, .. } = request;
        let ids = [("generation_id", Some(&generation_id)), ("commit_id", commit_id.as_ref())];
        ids.into_iter().try_for_each(|(field, id)| checked_id(field, id, "._-"))?;
        let vms = [("vm_id", vm_id.as_ref()), ("parent_vm_id", parent_vm_id.as_ref())];
        vms.into_iter().try_for_each(|(field, id)| checked_id(field, id, "_-"))?;
        let hostname = match request.hostname {
            Some(name) if !is_hostname(&name) => {
                return bad("hostname", "1 to 64 letters, digits and `-` in parts separated by dots");
            }
            given => given,
        };
        let env = request.env.unwrap_or_default();
        if let Some(error) = env.iter().find_map(|(key, value)| account_env::check(key, value).err()) {
            return bad("env", error.to_string());
        }
        let ssh = request.ssh.unwrap_or_default();
        Ok(Self {
            wall_clock: request.wall_clock.map(wall_clock).transpose()?,
            entropy: request.entropy.map(entropy).transpose()?.unwrap_or_default(),
            hostname,
            env: fingerprint.1.then_some(env),
            net: request.net.map(net).transpose()?,
            authorized: ssh.authorized.map(authorized).transpose()?,
            host_keys: ssh.host_key_policy,
            machine_id: request.machine_id,
            announced: Announcement {
                id: generation_id,
                kind,
                vm_id,
                parent_vm_id,
                commit_id,
                fingerprint: fingerprint.0,
            },
        })
    }
}

/// Stands for all but what is fresh in each attempt; and whether there were variables.
fn fingerprint(request: &GenerationRequest) -> (u64, bool) {
    let lasting = GenerationRequest { wall_clock: None, entropy: None, ..request.clone() };
    // Of a request that was read from JSON, and compared with what an older agent has left: the same for each version of the program.
    let text = serde_json::to_vec(&lasting).unwrap_or_default();
    let digest = sha1_smol::Sha1::from(text).digest().bytes();
    let print = digest[..8].iter().fold(0, |print, byte| print << 8 | u64::from(*byte));
    (print, request.env.is_some())
}

fn bad<T>(field: &'static str, why: impl Into<String>) -> Result<T, BadField> {
    Err(BadField { field, why: why.into() })
}

fn checked_id(field: &'static str, id: Option<&String>, signs: &str) -> Result<(), BadField> {
    let limit = limits::GENERATION_ID_BYTES;
    let fits = |id: &String| {
        (1..=limit).contains(&id.len()) && id.chars().all(|sign| sign.is_ascii_alphanumeric() || signs.contains(sign))
    };
    match id {
        Some(id) if !fits(id) => bad(field, format!("it takes 1 to {limit} characters of A-Za-z0-9{signs}")),
        _ => Ok(()),
    }
}

fn is_hostname(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    // HOST_NAME_MAX of Linux.
    name.len() <= 64 && name.split('.').all(is_label)
}

/// A host's time, since 1970.
pub(super) fn wall_clock(secs: f64) -> Result<Duration, BadField> {
    if WALL_CLOCKS.contains(&secs) {
        return Ok(Duration::from_secs_f64(secs));
    }
    bad("wall_clock", "it takes seconds since 1970, of a host's clock that is right")
}

fn entropy(text: String) -> Result<Vec<u8>, BadField> {
    let (least, most) = limits::GENERATION_ENTROPY_BYTES;
    match STANDARD.decode(text) {
        Ok(bytes) if (least..=most).contains(&bytes.len()) => Ok(bytes),
        Ok(bytes) => bad("entropy", format!("it has {} bytes, and {least} to {most} are needed", bytes.len())),
        Err(_) => bad("entropy", "it takes standard base64 with padding"),
    }
}

fn net(net: GenerationNet) -> Result<Net, BadField> {
    let GenerationNet { ip6, gateway, dns, mtu } = net;
    let parsed = |text: &String| {
        let (address, length) = text.split_once('/')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let usable = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
        Some((address, length.parse().ok().filter(|length| (1..=128).contains(length))?)).filter(|_| usable)
    };
    let address = ip6.as_ref().map(|text| parsed(text).ok_or(()));
    let Ok(ip6) = address.transpose() else { return bad("net.ip6", "it takes ADDRESS/PREFIX such as 2001:db8::2/64") };
    if mtu.is_some_and(|mtu| !(1280..=65_535).contains(&mtu)) {
        return bad("net.mtu", "it takes bytes from 1280, the least that IPv6 allows, to 65535");
    }
    if dns.len() > limits::NAME_SERVERS {
        return bad(
            "net.dns",
            format!("it takes at most {} addresses, of which resolvers use no more", limits::NAME_SERVERS),
        );
    }
    Ok(Net { ip6, gateway, dns, mtu })
}

fn authorized(keys: Vec<String>) -> Result<Vec<String>, BadField> {
    let (count, bytes) = limits::GENERATION_KEYS;
    let is_line = |key: &String| !key.trim().is_empty() && key.len() <= bytes && !key.contains(['\n', '\r', '\0']);
    if keys.len() > count || !keys.iter().all(is_line) {
        return bad("ssh.authorized", format!("it takes at most {count} keys, each one line of at most {bytes} bytes"));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> GenerationRequest {
        GenerationRequest { generation_id: "g-1".to_owned(), ..GenerationRequest::default() }
    }

    fn error(change: impl FnOnce(&mut GenerationRequest)) -> String {
        let mut request = request();
        change(&mut request);
        let Err(error) = Order::try_from(request) else { panic!("it was taken") };
        error.field.to_owned()
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_with_its_field() {
        let net = |net| move |request: &mut GenerationRequest| request.net = Some(net);
        for (field, found) in [
            ("generation_id", error(|request| request.generation_id.clear())),
            ("generation_id", error(|request| request.generation_id = "a b".to_owned())),
            ("vm_id", error(|request| request.vm_id = Some("x".repeat(129)))),
            ("hostname", error(|request| request.hostname = Some("-x".to_owned()))),
            ("env", error(|request| request.env = Some([("1".to_owned(), String::new())].into()))),
            ("wall_clock", error(|request| request.wall_clock = Some(f64::NAN))),
            ("wall_clock", error(|request| request.wall_clock = Some(0.0))),
            ("entropy", error(|request| request.entropy = Some("!".to_owned()))),
            ("entropy", error(|request| request.entropy = Some("AAAA".to_owned()))),
            ("net.ip6", error(net(GenerationNet { ip6: Some("::1/128".to_owned()), ..GenerationNet::default() }))),
            ("net.ip6", error(net(GenerationNet { ip6: Some("fd00::2".to_owned()), ..GenerationNet::default() }))),
            ("net.mtu", error(net(GenerationNet { mtu: Some(1279), ..GenerationNet::default() }))),
        ] {
            assert_eq!(found, field);
        }
    }

    #[test]
    fn two_attempts_of_one_announcement_are_the_same_and_another_content_is_not() {
        let print = |request: GenerationRequest| Order::try_from(request).unwrap().announced.fingerprint;
        let fresh = GenerationRequest { wall_clock: Some(1.8e9), entropy: Some(STANDARD.encode([7; 32])), ..request() };
        assert_eq!(print(request()), print(fresh));
        assert_ne!(print(request()), print(GenerationRequest { hostname: Some("x".to_owned()), ..request() }));
    }

    #[test]
    fn no_variables_and_none_at_all_are_told_apart() {
        let env = |env| Order::try_from(GenerationRequest { env, ..request() }).unwrap().env;
        assert_eq!(env(None), None);
        assert_eq!(env(Some(BTreeMap::new())), Some(BTreeMap::new()));
    }
}
