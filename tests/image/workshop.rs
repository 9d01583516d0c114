//! A directory to make images in, and ways to look into them. Nothing is mounted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Size of the file systems: guestd, busybox, a journal, and some room.
const SIZE: &str = "48M";

/// The package's directory.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command that must succeed, and gives its output.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// What a command writes to standard output, which must succeed.
pub(crate) fn out(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap()
}

/// What a command that must succeed says to people.
pub(crate) fn said(command: &mut Command) -> String {
    String::from_utf8(run(command).stderr).unwrap()
}

/// A script of the repository, with the programs in the PATH that Debian keeps for root.
pub(crate) fn script(path: &str) -> Command {
    let mut command = Command::new(top().join(path));
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env_remove("SOURCE_DATE_EPOCH");
    command
}

/// A directory with golden keys in it, gone with its handle.
pub(crate) struct Workshop {
    dir: tempfile::TempDir,
}

impl Workshop {
    /// An empty one but for the keys, which are made.
    pub(crate) fn new() -> Self {
        let workshop = Self { dir: tempfile::tempdir().unwrap() };
        let guestd = top().join("target/static/guestd");
        assert!(guestd.is_file(), "{} is missing: make it by `just build`", guestd.display());
        run(Command::new(guestd).arg("keygen").arg("--out").arg(workshop.path("keys")));
        workshop
    }

    /// Another place with the same keys.
    pub(crate) fn beside(&self) -> Self {
        let other = Self { dir: tempfile::tempdir().unwrap() };
        run(Command::new("cp").arg("-r").arg(self.path("keys")).arg(other.path("keys")));
        other
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A root file system with busybox and these further files, made in this order.
    pub(crate) fn root(&self, files: &[(&str, &str)]) -> PathBuf {
        let root = self.path("root");
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let bin = root.join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        let busybox = out(Command::new("sh").args(["-c", "command -v busybox"]));
        fs::copy(busybox.trim(), bin.join("busybox")).unwrap();
        fs::set_permissions(bin.join("busybox"), PermissionsExt::from_mode(0o755)).unwrap();
        symlink("busybox", bin.join("sh")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        root
    }

    /// `image/build.sh` on this root file system, a directory or a tar, with further arguments. Gives the image and what was said.
    pub(crate) fn build(&self, rootfs: &Path, more: &[&str]) -> (PathBuf, String) {
        let image = self.path("image.ext4");
        let mut command = script("image/build.sh");
        command.arg("--rootfs").arg(rootfs).arg("--out").arg(&image).arg("--keys").arg(self.path("keys"));
        let said = said(command.args(["--size", SIZE]).args(more));
        (image, said)
    }
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256(file: &Path) -> String {
    out(Command::new("sha256sum").arg("--").arg(file)).split_whitespace().next().unwrap().to_owned()
}

/// What debugfs answers to a request about an image.
pub(crate) fn ask(image: &Path, request: &str) -> String {
    out(script_in_path("debugfs").args(["-R", request]).arg(image))
}

/// Names in a directory of an image, but for `.` and `..`.
pub(crate) fn names(image: &Path, dir: &str) -> Vec<String> {
    // /INODE/MODE/UID/GID/NAME/SIZE/
    let listed = ask(image, &format!("ls -p {dir}"));
    let names = listed.lines().filter_map(|line| line.split('/').nth(5)).map(str::to_owned);
    let mut names: Vec<_> = names.filter(|name| !matches!(name.as_str(), "." | "..")).collect();
    names.sort_unstable();
    names
}

/// The text of a file in an image.
pub(crate) fn text(image: &Path, file: &str) -> String {
    ask(image, &format!("cat {file}"))
}

fn script_in_path(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}
