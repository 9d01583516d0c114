//! Which kernel the VMs boot, and what a test may expect of it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::artifacts::{built, root};
use super::command::{Ran, on_this_machine};

/// Names the kernel; `just e2e --kernel NAME` sets it.
const VARIABLE: &str = "GUESTD_E2E_KERNEL";

/// A kernel that `image/kernel.sh` has made.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// What QEMU loads.
    pub(crate) file: PathBuf,
    /// Finds the root disk, for a kernel whose drivers are modules.
    pub(crate) initramfs: Option<PathBuf>,
    /// What `uname -r` says in the VM.
    pub(crate) release: String,
    name: &'static str,
    config: PathBuf,
}

/// What is known by the name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    name: &'static str,
    file: &'static str,
    initramfs: Option<&'static str>,
}

const KINDS: [Kind; 3] = [
    Kind { name: "debian", file: "vmlinuz", initramfs: Some("initramfs.cpio.gz") },
    Kind { name: "generic", file: "vmlinuz", initramfs: Some("initramfs.cpio.gz") },
    Kind { name: "firecracker", file: "vmlinux", initramfs: None },
];

impl Kernel {
    /// Finds the kernel that the environment names, by default Debian's for cloud machines, below `target/image`.
    pub(crate) fn find(target_image: &Path) -> Result<Self> {
        let kind = chosen(env::var(VARIABLE).ok().as_deref())?;
        let dir = target_image.join(format!("kernel-{}", kind.name));
        let by = made_by(kind.name);
        Ok(Self {
            file: built(dir.join(kind.file), &by)?,
            initramfs: kind.initramfs.map(|name| built(dir.join(name), &by)).transpose()?,
            name: kind.name,
            release: read(&built(dir.join("version"), &by)?)?.trim().to_owned(),
            config: built(dir.join("config"), &by)?,
        })
    }

    /// The image of this name that has its modules, `NAME-KERNEL.ext4` below `target/image`.
    pub(crate) fn image(&self, target_image: &Path, name: &str) -> Result<PathBuf> {
        built(target_image.join(format!("{name}-{}.ext4", self.name)), &made_by(self.name))
    }

    /// Is this option of its configuration on, be it built in or as a module?
    pub(crate) fn has(&self, option: &str) -> Result<bool> {
        Ok(is_on(&read(&self.config)?, option))
    }

    /// Compares it with what `image/kernel/README.md` says of it.
    pub(crate) fn check_table(&self) -> Result<Ran> {
        let script = root().join("image/kernel/check-table.sh");
        on_this_machine([script.as_os_str(), OsStr::new(self.name), self.config.as_os_str()])
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn made_by(name: &str) -> String {
    format!("just image {name}")
}

fn chosen(name: Option<&str>) -> Result<Kind> {
    let name = name.unwrap_or("debian");
    let Some(kind) = KINDS.into_iter().find(|kind| kind.name == name) else {
        bail!("{VARIABLE}={name:?} names no kernel: there are {}", KINDS.map(|kind| kind.name).join(", "));
    };
    Ok(kind)
}

fn is_on(config: &str, option: &str) -> bool {
    let value = config.lines().find_map(|line| line.strip_prefix("CONFIG_")?.strip_prefix(option)?.strip_prefix('='));
    matches!(value, Some("y" | "m"))
}

#[cfg(test)]
impl Kernel {
    /// One that is nowhere, for pure tests.
    pub(super) fn fake(initramfs: Option<&str>) -> Self {
        Self {
            file: "/kernel".into(),
            initramfs: initramfs.map(PathBuf::from),
            release: "6.1.0".to_owned(),
            name: "debian",
            config: "/config".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_debians_unless_another_one_is_named() {
        assert_eq!(chosen(None).map(|kind| kind.name).ok(), Some("debian"));
        assert_eq!(chosen(Some("firecracker")).map(|kind| kind.initramfs).ok(), Some(None));
        let refused = chosen(Some("")).map_or_else(|error| error.to_string(), |kind| kind.name.to_owned());
        assert_eq!(refused, r#"GUESTD_E2E_KERNEL="" names no kernel: there are debian, generic, firecracker"#);
    }

    #[test]
    fn an_option_is_on_when_it_is_built_in_or_a_module() {
        let config =
            "CONFIG_TUN=m\nCONFIG_VSOCKETS=y\n# CONFIG_VSOCKETS_LOOPBACK is not set\nCONFIG_LOCALVERSION=\"y\"\n";
        let on = ["TUN", "VSOCKETS", "VSOCKETS_LOOPBACK", "LOCALVERSION", "VSOCK"].map(|option| is_on(config, option));
        assert_eq!(on, [true, true, false, false, false]);
    }
}
