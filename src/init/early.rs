//! The steps before the agent runs: what it, and everything else, has to find in its place.
//!
//! Each is a line of the boot's timeline. None ends the boot: what fails is named, with what the VM lacks for it.

use std::{fs, io, net::Ipv6Addr, os::unix::fs::DirBuilderExt, path::Path};

use super::{
    files,
    modules::{self, Dependencies},
    mounts::{DEV_LINKS, MOUNTS, Mount},
    timeline::Timeline,
};
use crate::{
    config::{self, Config, GuestAddress},
    limits,
    sys::{boot, clock, host_clock, rtnl},
};

/// Does them all.
pub(super) fn steps(timeline: &mut Timeline) -> Config {
    // First: what is mounted may need a directory that the image does not have.
    timeline.step("root", |problems| {
        if let Err(error) = boot::remount_read_write(Path::new("/")) {
            problems.push(format!("the root file system is read-only: {error}; what services write to it is refused"));
        }
        if let Err(error) = boot::share(Path::new("/")) {
            problems.push(format!("mounts are not shared with namespaces made from this one: {error}"));
        }
    });
    timeline.step("mounts", |problems| {
        for wanted in &MOUNTS {
            if let Err(error) = mount(wanted) {
                let Mount { target, kind, loss, .. } = wanted;
                problems.push(format!("{kind} could not be mounted on {target}: {error}; {loss}"));
            }
        }
        for (link, target) in DEV_LINKS {
            match std::os::unix::fs::symlink(target, link) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    problems.push(format!("the link {link} could not be made: {error}"));
                }
                _ => {}
            }
        }
        if let Err(error) = boot::ctrl_alt_del_is_a_signal() {
            problems.push(format!("Ctrl-Alt-Del ends the VM at once, with nothing written back: {error}"));
        }
    });
    let config = timeline.step("config", |_| {
        // What is wrong with it is the agent's to tell: it reads the same.
        let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let layers = [config::file(Path::new(config::DEFAULT_FILE)), config::kernel_command_line(&command_line)];
        Config::from_layers(&layers).0
    });
    timeline.step("modules", load_modules);
    timeline.step("host name", |problems| {
        let name = fs::read_to_string("/etc/hostname").unwrap_or_default();
        let name = name.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        if let Err(error) = boot::set_host_name(name.unwrap_or("localhost")) {
            problems.push(format!("the name in /etc/hostname cannot be the host's: {error}"));
        }
    });
    timeline.step("network", |problems| network(config.ip6.as_ref(), problems));
    timeline.step("limits", |problems| {
        if let Err(error) = boot::set_open_files(1024, limits::OPEN_FILES_HARD) {
            problems.push(format!("services cannot have more than the kernel's number of open files: {error}"));
        }
    });
    timeline.step("clock", set_stale_clock);
    config
}

fn mount(wanted: &Mount) -> io::Result<()> {
    let target = Path::new(wanted.target);
    match boot::is_mount_point(target) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::DirBuilder::new().mode(0o755).create(target)?,
        Err(error) => return Err(error),
    }
    let mut result = Ok(());
    for options in wanted.options {
        result = boot::mount(wanted.kind, target, wanted.flags, options);
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
            _ => return result,
        }
    }
    result
}

/// Those that `modules-load.d` names, where the kernel has modules.
fn load_modules(problems: &mut Vec<String>) {
    let Ok(release) = fs::read_to_string("/proc/sys/kernel/osrelease") else { return };
    let directory = Path::new("/lib/modules").join(release.trim());
    // Without it the kernel has none, or all are built in.
    let Ok(text) = files::read(&directory.join("modules.dep")) else { return };
    let dependencies = Dependencies::parse(&text);
    let names = files::configuration("modules-load.d");
    let names = names.iter().flat_map(|(_, text)| modules::names(text));
    // One after the other: several at once took longer, as each stops all processors to patch the kernel's code.
    for path in dependencies.order(names) {
        if let Err(error) = boot::load_module(&directory.join(path)) {
            problems.push(format!("the kernel module {} could not be loaded: {error}", modules::name_of(path)));
        }
    }
}

/// Loopback, and the VM's own address if there is an interface for it already. The agent does the same again, and waits for an
/// interface that comes late; what is there is no error for either.
fn network(address: Option<&GuestAddress>, problems: &mut Vec<String>) {
    let mut tried = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            problems.push(format!("{what}: {error}"));
        }
    };
    tried("loopback is down", rtnl::interface_index("lo").and_then(|lo| rtnl::set_link_up(lo, None)));
    let Ok(Some(interface)) = rtnl::first_interface() else { return };
    // Nobody else has this address: its duplicates need not be waited for a second.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
    for name in nix::net::if_::if_indextoname(interface).iter().filter_map(|name| name.to_str().ok()) {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0");
    }
    // Up in any case: router advertisements may bring what is not configured.
    let mtu = address.and_then(|address| address.mtu);
    tried("the network interface is down", rtnl::set_link_up(interface, mtu));
    let Some(GuestAddress { address, prefix_len, gateway, .. }) = address else { return };
    if !Path::new("/proc/sys/net/ipv6").exists() {
        // The check `ipv6` of health says so.
        return;
    }
    tried("the address of `ip6` could not be set", rtnl::add_ipv6_address(interface, *address, *prefix_len));
    if let Some(gateway) = gateway {
        let add = |gateway: Ipv6Addr| rtnl::add_ipv6_default_route(interface, gateway);
        tried("the gateway of `ip6` could not be set", add(*gateway));
    }
}

/// The kernel sets its clock by the RTC where that is built in, and late or not at all where it is a module or a snapshot is old.
fn set_stale_clock(problems: &mut Vec<String>) {
    // A machine without either clock has no better one to offer.
    let Ok((time, source)) = host_clock::machine_time() else { return };
    let apart = time.abs_diff(clock::now());
    if apart > limits::CLOCK_STALE
        && let Err(error) = clock::set(time)
    {
        problems.push(format!("the clock is {} s away from {source} and could not be set: {error}", apart.as_secs()));
    }
}

/// Whether there is the init that this one is to become.
///
/// # Errors
/// A sentence.
pub(super) fn check_handoff(path: &Path) -> Result<(), String> {
    let found = fs::canonicalize(path).map_err(|error| format!("`handoff`: {} is no init: {error}", path.display()))?;
    let ours = fs::canonicalize("/proc/self/exe").ok();
    if ours.as_ref() == Some(&found) {
        return Err(format!("`handoff`: {} is guestd itself", path.display()));
    }
    Ok(())
}
