//! Which container a process is in, by the name of its cgroup. Pure.

use crate::api::{Container, ContainerRuntime};

/// Runtimes that name a systemd scope after the id: `docker-ID.scope`.
const SCOPES: &[(&str, ContainerRuntime)] = &[
    ("docker-", ContainerRuntime::Docker),
    ("libpod-", ContainerRuntime::Podman),
    ("crio-", ContainerRuntime::Crio),
    ("cri-containerd-", ContainerRuntime::Containerd),
    ("nerdctl-", ContainerRuntime::Containerd),
];

/// Those that do without systemd have a directory of their own: `/docker/ID`.
const PARENTS: &[(&str, ContainerRuntime)] = &[
    ("docker", ContainerRuntime::Docker),
    ("libpod_parent", ContainerRuntime::Podman),
    ("lxc", ContainerRuntime::Lxc),
];

/// The innermost container of a cgroup's path; None for what runs in none, monitors of containers among it.
pub(super) fn of_cgroup(path: &str) -> Option<Container> {
    let parts: Vec<&str> = path.split('/').collect();
    (0..parts.len()).rev().find_map(|index| of_part(&parts[..index], parts[index]))
}

fn of_part(above: &[&str], part: &str) -> Option<Container> {
    let container = |runtime, id: &str| Some(Container { runtime, id: id.to_owned() });
    let parent = above.last().copied().unwrap_or_default();
    let scope = part.strip_suffix(".scope");
    for (prefix, runtime) in SCOPES {
        // Without systemd podman has the same names without the end. `libpod-conmon-ID` is the monitor, and no id.
        if let Some(id) = scope.unwrap_or(part).strip_prefix(prefix).filter(|id| is_id(id)) {
            return container(*runtime, id);
        }
    }
    if let Some(name) = part.strip_prefix("lxc.payload.").filter(|name| is_name(name)) {
        return container(ContainerRuntime::Lxc, name);
    }
    let nspawn = part.strip_prefix("systemd-nspawn@").and_then(|name| name.strip_suffix(".service"));
    // systemd-machined's scopes, of which libvirt's are whole VMs.
    let machine = scope.and_then(|name| name.strip_prefix("machine-")).filter(|name| !name.starts_with(r"qemu\x2d"));
    if let Some(name) = nspawn.or(machine).map(unescape).filter(|name| is_name(name)) {
        return container(ContainerRuntime::Nspawn, &name);
    }
    for (name, runtime) in PARENTS {
        let is_named = *runtime == ContainerRuntime::Lxc && is_name(part) || is_id(part);
        if parent == *name && is_named {
            return container(*runtime, part);
        }
    }
    let in_pod = above.iter().any(|part| part.starts_with("kubepods"));
    if in_pod && is_id(part) { container(ContainerRuntime::Kubernetes, part) } else { None }
}

/// Container ids are the 64 hexadecimal digits of a hash.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Names that runtimes accept. A cgroup can be called anything by who is in the container, and names are shown in commands to run.
fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(is_plain)
}

/// Undoes systemd's escapes of a unit's name (systemd.unit(5)): `\x2d` is a hyphen.
fn unescape(name: &str) -> String {
    let mut parts = name.split(r"\x");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[2..]);
            }
            None => {
                plain.push_str(r"\x");
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_by_their_cgroups() {
        let id = "3f".repeat(32);
        let id = id.as_str();
        use ContainerRuntime::*;
        for (path, runtime) in [
            (format!("/system.slice/docker-{id}.scope"), Docker),
            (format!("/docker/{id}"), Docker),
            (format!("/docker/{id}/system.slice/nginx.service"), Docker),
            (format!("/machine.slice/libpod-{id}.scope/container"), Podman),
            (format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"), Podman),
            (format!("/libpod_parent/libpod-{id}"), Podman),
            (format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/crio-{id}.scope"), Crio),
            (format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"), Containerd),
            (format!("/system.slice/nerdctl-{id}.scope"), Containerd),
            (format!("/kubepods/burstable/pod1/{id}"), Kubernetes),
        ] {
            assert_eq!(of_cgroup(&path), Some(Container { runtime, id: id.to_owned() }), "{path}");
        }
        for (path, runtime, id) in [
            ("/lxc.payload.web", Lxc, "web"),
            ("/lxc/web/system.slice/ssh.service", Lxc, "web"),
            ("/machine.slice/systemd-nspawn@web.service/payload/system.slice/ssh.service", Nspawn, "web"),
            (r"/machine.slice/machine-my\x2dweb.scope", Nspawn, "my-web"),
        ] {
            assert_eq!(of_cgroup(path), Some(Container { runtime, id: id.to_owned() }), "{path}");
        }
    }

    #[test]
    fn what_is_in_no_container_is_not_taken_for_one() {
        let id = "3f".repeat(32);
        for path in [
            "",
            "/",
            "/system.slice/docker.service",
            "/system.slice/ssh.service",
            &format!("/machine.slice/libpod-conmon-{id}.scope"),
            &format!("/kubepods.slice/kubepods-pod1.slice/crio-conmon-{id}.scope"),
            "/lxc.monitor.web",
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope",
            "/docker/buildkit",
            "/lxc/$(reboot)",
            "/lxc.payload.a b",
            r"/machine.slice/machine-a\x3breboot.scope",
            r"/machine.slice/machine-a\xzz.scope",
            &format!("/system.slice/{id}"),
            "/user.slice/user-0.slice/session-1.scope",
        ] {
            assert_eq!(of_cgroup(path), None, "{path}");
        }
    }
}
