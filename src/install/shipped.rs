//! The files that guestd brings, embedded: `rootfs-overlay/` for images with systemd, `image/init-overlays/` for the others.

use super::Init;

/// A file as it lands in an image.
#[derive(Debug)]
pub(super) struct Shipped {
    pub(super) path: &'static str,
    pub(super) text: &'static str,
    pub(super) mode: u32,
}

/// A file of the overlay `$overlay`, with the path under which it lands in the image.
macro_rules! shipped {
    ($overlay:literal, $path:literal, $mode:literal) => {
        Shipped {
            path: $path,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $overlay, $path)),
            mode: $mode,
        }
    };
}

/// For every image.
pub(super) const EVERYWHERE: [Shipped; 4] = [
    shipped!("rootfs-overlay", "/etc/guestd/config.toml", 0o644),
    shipped!("rootfs-overlay", "/etc/modules-load.d/guestd.conf", 0o644),
    shipped!("rootfs-overlay", "/etc/ssh/sshd_config.d/10-guestd.conf", 0o644),
    shipped!("rootfs-overlay", "/etc/ssh/ssh_config.d/10-guestd.conf", 0o644),
];

const SYSTEMD: [Shipped; 3] = [
    shipped!("rootfs-overlay", "/etc/systemd/system/guestd.service", 0o644),
    shipped!("rootfs-overlay", "/etc/systemd/system/guestd-restored.target", 0o644),
    shipped!("rootfs-overlay", "/etc/tmpfiles.d/guestd.conf", 0o644),
];

/// What `systemctl enable` makes: path and target, as in `rootfs-overlay/`.
pub(super) const SYSTEMD_LINKS: [(&str, &str); 1] =
    [("/etc/systemd/system/sysinit.target.wants/guestd.service", "../guestd.service")];

/// For an init system that only runs commands.
const START_AGENT: [Shipped; 1] =
    [shipped!("image/init-overlays/scripts", "/usr/local/share/guestd/start-agent", 0o755)];

const OPENRC: [Shipped; 1] = [shipped!("image/init-overlays/openrc", "/etc/init.d/guestd", 0o755)];
const BUSYBOX: [Shipped; 1] = [shipped!("image/init-overlays/busybox", "/etc/init.d/S05guestd", 0o755)];
const RUNIT: [Shipped; 1] = [shipped!("image/init-overlays/runit", "/etc/sv/guestd/run", 0o755)];
const PID1_SSHD: [Shipped; 1] = [shipped!("image/init-overlays/pid1", "/etc/guestd/services/sshd.toml", 0o644)];

/// OpenRC's script, to which a runlevel has a link.
pub(super) const OPENRC_SCRIPT: &str = "/etc/init.d/guestd";

/// runit's service, to which the directory of services that run has a link.
pub(super) const RUNIT_SERVICE: &str = "/etc/sv/guestd";

/// Lines of `/etc/inittab` for busybox's init.
pub(super) const INITTAB: &str = "::respawn:/usr/local/share/guestd/start-agent\n";

/// What an init system wants.
pub(super) fn of(init: Init, has_sshd: bool) -> impl Iterator<Item = &'static Shipped> {
    let none: &'static [Shipped] = &[];
    let (scripts, own) = match init {
        Init::Systemd => (none, &SYSTEMD[..]),
        Init::Openrc => (&START_AGENT[..], &OPENRC[..]),
        Init::Busybox => (&START_AGENT[..], &BUSYBOX[..]),
        Init::Runit => (&START_AGENT[..], &RUNIT[..]),
        Init::Pid1 => (none, if has_sshd { &PID1_SSHD[..] } else { none }),
        Init::None => (&START_AGENT[..], none),
    };
    scripts.iter().chain(own)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

    use clap::ValueEnum;

    use super::*;

    /// Paths below `dir`; links with their target, files with whether they are executable.
    fn walk(base: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let shown = format!("/{}", path.strip_prefix(base).unwrap().display());
            if metadata.is_dir() {
                walk(base, &path, found);
            } else if metadata.is_symlink() {
                found.insert(shown, fs::read_link(&path).unwrap().display().to_string());
            } else {
                found.insert(shown, is_executable(metadata.permissions().mode()));
            }
        }
    }

    fn is_executable(mode: u32) -> String {
        if mode & 0o100 == 0 { "file" } else { "program" }.to_owned()
    }

    fn overlay(name: &str) -> BTreeMap<String, String> {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let mut found = BTreeMap::new();
        walk(&base, &base, &mut found);
        found
    }

    fn embedded<'a>(files: impl Iterator<Item = &'a Shipped>) -> BTreeMap<String, String> {
        files.map(|file| (file.path.to_owned(), is_executable(file.mode))).collect()
    }

    #[test]
    fn everything_in_the_overlay_is_installed_and_nothing_else_is_embedded() {
        let links = SYSTEMD_LINKS.iter().map(|(path, target)| ((*path).to_owned(), (*target).to_owned()));
        let mut wanted = embedded(EVERYWHERE.iter().chain(of(Init::Systemd, true)));
        wanted.extend(links);
        assert_eq!(wanted, overlay("rootfs-overlay"));
    }

    #[test]
    fn everything_in_the_overlays_of_the_other_init_systems_is_installed() {
        let all = ["scripts", "openrc", "busybox", "runit", "pid1"]
            .map(|name| overlay(&format!("image/init-overlays/{name}")));
        let wanted =
            Init::value_variants().iter().filter(|init| **init != Init::Systemd).flat_map(|init| of(*init, true));
        assert_eq!(embedded(wanted), all.into_iter().flatten().collect());
    }
}
