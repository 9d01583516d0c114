//! What the VM tests need to have been built before, found or asked for in a sentence.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::command::{DEADLINE, Invocation};

/// Files made by `just image`.
#[derive(Debug, Clone)]
pub(crate) struct Artifacts {
    /// Golden root file system with the services of `tests/e2e/overlay` laid on it.
    pub(crate) image: PathBuf,
    /// Guest kernel.
    pub(crate) kernel: PathBuf,
    /// Finds the root disk for that kernel.
    pub(crate) initramfs: PathBuf,
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
        Ok(Self {
            image: built(image.join("e2e.ext4"), "just image")?,
            kernel: built(image.join("vmlinuz"), "just image")?,
            initramfs: built(image.join("initramfs.cpio.gz"), "just image")?,
            golden_key: built(image.join("keys/id_ed25519"), "just image")?,
            guestd: built(target.join("static/guestd"), "just build")?,
            guestctl: guestctl()?,
        })
    }

    /// SHA-256 of the binary that the image should hold, in hexadecimal.
    pub(crate) fn guestd_sha256(&self) -> Result<String> {
        let argv = [OsStr::new("sha256sum"), OsStr::new("--"), self.guestd.as_os_str()];
        let ran = Invocation::new(argv).run(DEADLINE)?.ok()?;
        Ok(ran.out().chars().take_while(char::is_ascii_hexdigit).collect())
    }
}

/// The package's directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn built(path: PathBuf, by: &str) -> Result<PathBuf> {
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
    let exe = std::env::current_exe().context("asking for the path of this program")?;
    let beside = exe.parent().and_then(Path::parent).with_context(|| {
        format!("{} is not in a target directory: start it by `cargo run --example`", exe.display())
    })?;
    built(beside.join("guestctl"), "cargo build --bin guestctl")
}
