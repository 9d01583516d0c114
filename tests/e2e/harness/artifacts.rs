//! What the VM tests need to have been built before, found or asked for in a sentence.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::command::{Ran, on_this_machine};
use super::kernel::Kernel;

/// Programs that are run; those of util-linux and coreutils are on every machine.
const TOOLS: [&str; 9] =
    ["qemu-system-x86_64", "qemu-img", "vhost-device-vsock", "haproxy", "openssl", "curl", "ssh", "rsync", "ip"];

/// Files made by `just image`.
#[derive(Debug, Clone)]
pub(crate) struct Artifacts {
    /// Golden root file system with the services of `tests/e2e/overlay` laid on it, and the kernel's modules if it has any.
    pub(crate) image: PathBuf,
    /// The golden root file system with three inits to boot with, and services of `guestd init`.
    pub(crate) inits: PathBuf,
    /// The minimal root file system, whose only init is guestd, and the kernel's modules if it has any.
    pub(crate) minimal: PathBuf,
    /// Guest kernel.
    pub(crate) kernel: Kernel,
    /// Private half of the golden SSH key.
    pub(crate) golden_key: PathBuf,
    /// The binary that the image holds.
    pub(crate) guestd: PathBuf,
    /// The client, built with these tests.
    pub(crate) guestctl: PathBuf,
}

impl Artifacts {
    /// Finds all of them.
    pub(crate) fn find() -> Result<Self> {
        let target = root().join("target");
        let image = target.join("image");
        let kernel = Kernel::find(&image)?;
        Ok(Self {
            image: kernel.image(&image, "e2e")?,
            inits: kernel.image(&image, "inits")?,
            minimal: kernel.image(&image, "minimal")?,
            kernel,
            golden_key: built(image.join("keys/id_ed25519"), "just image")?,
            guestd: built(target.join("static/guestd"), "just build")?,
            guestctl: guestctl()?,
        })
    }

    /// Runs the binary on this machine, with nothing in its environment.
    pub(crate) fn run_guestd<const N: usize>(&self, args: [&str; N]) -> Result<Ran> {
        let argv = ["env", "-i"].map(OsStr::new).into_iter().chain([self.guestd.as_os_str()]);
        on_this_machine(argv.chain(args.map(OsStr::new)))
    }

    /// SHA-256 of the binary that the image should hold, in hexadecimal.
    pub(crate) fn guestd_sha256(&self) -> Result<String> {
        let argv = [OsStr::new("sha256sum"), OsStr::new("--"), self.guestd.as_os_str()];
        let ran = on_this_machine(argv)?.ok()?;
        Ok(ran.out().chars().take_while(char::is_ascii_hexdigit).collect())
    }
}

/// Fails when a program is not there that the harness runs.
pub(crate) fn tools() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    for tool in TOOLS {
        if !env::split_paths(&path).any(|dir| dir.join(tool).is_file()) {
            bail!("{tool} is not installed: `./dev test` installs what the tests need");
        }
    }
    Ok(())
}

/// The package's directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The file, if it has been made.
pub(super) fn built(path: PathBuf, by: &str) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} is missing: make it by `{by}`", path.display());
    }
    Ok(path)
}

/// Cargo names the binary for tests; for examples it lies one directory above them.
fn guestctl() -> Result<PathBuf> {
    if let Some(path) = option_env!("CARGO_BIN_EXE_guestctl") {
        return built(path.into(), "cargo build --bin guestctl");
    }
    let exe = env::current_exe().context("asking for the path of this program")?;
    let beside = exe.parent().and_then(Path::parent).with_context(|| {
        format!("{} is not in a target directory: start it by `cargo run --example`", exe.display())
    })?;
    built(beside.join("guestctl"), "cargo build --bin guestctl")
}
