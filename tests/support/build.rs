//! A root file system of the test's own, and guestd put into it by the library.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use guestd::{
    install::{InstallArgs, Report, install},
    keys,
};

/// A directory with an image's root file system in `root`, and what lies outside of it.
pub(crate) struct Build {
    pub(crate) directory: tempfile::TempDir,
}

impl Build {
    /// A root file system with systemd, and /bin, /lib and /sbin as links, as all distributions have them today.
    pub(crate) fn with_systemd() -> Self {
        let build = Self::empty();
        for directory in ["etc", "usr/bin", "usr/sbin", "usr/lib/systemd", "usr/local/bin"] {
            fs::create_dir_all(build.root().join(directory)).unwrap();
        }
        for directory in ["bin", "sbin", "lib"] {
            // Absolute: outside of a chroot it would lead to the machine's own.
            symlink(format!("/usr/{directory}"), build.root().join(directory)).unwrap();
        }
        fs::write(build.root().join("usr/lib/systemd/systemd"), "").unwrap();
        build
    }

    pub(crate) fn empty() -> Self {
        let build = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(build.root()).unwrap();
        fs::write(build.program(), "the program, version 1").unwrap();
        build
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.directory.path().join("program")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.directory.path().join("keys")
    }

    /// A path of the image, for the test's own hands: not one that a link of the image would lead out of it by.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        let path = self.root().join(path.trim_start_matches('/'));
        let existing = path.ancestors().skip(1).find_map(|parent| parent.canonicalize().ok()).unwrap();
        assert!(existing.starts_with(self.directory.path()), "{} leads to {}", path.display(), existing.display());
        path
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub(crate) fn args(&self) -> InstallArgs {
        keys::keygen(&self.keys()).unwrap();
        InstallArgs {
            root: self.root(),
            init: None,
            keys: Some(self.keys()),
            binary: Some(self.program()),
            dry_run: false,
        }
    }

    pub(crate) fn install(&self) -> Report {
        install(&self.args()).unwrap()
    }

    /// Every path below `directory`, with type, mode, times and content: equal only if nothing was written.
    pub(crate) fn fingerprint(&self, directory: &Path) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut left = vec![directory.to_owned()];
        while let Some(path) = left.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let times = (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
            let mut shown = format!("{:o} {} {times:?}", metadata.mode(), metadata.ino());
            if metadata.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if metadata.is_file() {
                shown += &String::from_utf8_lossy(&fs::read(&path).unwrap());
            }
            found.insert(path, shown);
        }
        found
    }
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}
