//! `guestd keygen`: makes the golden pair in a directory, once.

use std::{
    fs::DirBuilder,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{GoldenError, GoldenPair, PRIVATE_NAME, PUBLIC_NAME};
use crate::sys::root_dir::{Existing, RootDir, RootDirError};

/// Makes the golden SSH key pair that the VMs of an image share.
#[derive(Debug, Clone, clap::Args)]
pub struct KeygenArgs {
    /// Directory for id_ed25519 and id_ed25519.pub; made if it does not exist. A pair that is there is kept
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What [`keygen`] did.
#[derive(Debug)]
pub struct Keygen {
    /// Whether the pair is new; otherwise it was there and is kept.
    pub made: bool,
    /// The pair.
    pub pair: GoldenPair,
}

/// Why there is no pair in the directory.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    /// The directory could not be made.
    #[error("cannot make the key directory {dir}: {source}", dir = dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is in the directory is no usable pair, or none could be generated.
    #[error(transparent)]
    Pair(#[from] GoldenError),
    /// The directory could not be opened or a file not written.
    #[error(transparent)]
    Files(#[from] RootDirError),
}

/// Runs `guestd keygen` and prints where the pair is.
pub fn run(args: &KeygenArgs) -> anyhow::Result<()> {
    let Keygen { made, pair } = keygen(&args.out)?;
    let verb = if made { "created" } else { "kept" };
    let [private, public] = [PRIVATE_NAME, PUBLIC_NAME].map(|name| args.out.join(name));
    let fingerprint = pair.fingerprint();
    // Not println!, which panics when the reader is gone.
    writeln!(io::stdout(), "{verb}  {}  (private)\n{verb}  {}\n{fingerprint}", private.display(), public.display())
        .context("cannot print the report; the keys are in place")
}

/// Makes the pair in `dir`, or keeps the one that is there. Never overwrites.
pub fn keygen(dir: &Path) -> Result<Keygen, KeygenError> {
    make_private_directory(dir).map_err(|source| KeygenError::Directory { dir: dir.to_owned(), source })?;
    let dir = RootDir::open(dir)?;
    if let Some(pair) = GoldenPair::load(&dir)? {
        return Ok(Keygen { made: false, pair });
    }
    let pair = GoldenPair::generate()?;
    dir.write(PRIVATE_NAME, &mut pair.private_text().as_bytes(), 0o600, None, Existing::Refuse)?;
    dir.write(PUBLIC_NAME, &mut pair.public_text().as_bytes(), 0o644, None, Existing::Refuse)?;
    Ok(Keygen { made: true, pair })
}

/// A directory that exists is left as it is: it may serve others too.
pub(super) fn make_private_directory(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_pair_is_private_and_leaves_nothing_else_behind() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("deep/keys");
        assert!(keygen(&dir).unwrap().made);
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join(PRIVATE_NAME)), 0o600);
        assert_eq!(mode(&dir.join(PUBLIC_NAME)), 0o644);
        assert_eq!(names(&dir), [PRIVATE_NAME, PUBLIC_NAME]);
    }

    #[test]
    fn a_second_run_keeps_the_pair() {
        let temporary = tempfile::tempdir().unwrap();
        let first = keygen(temporary.path()).unwrap();
        let private = fs::read(temporary.path().join(PRIVATE_NAME)).unwrap();
        let second = keygen(temporary.path()).unwrap();
        assert!(!second.made);
        assert_eq!(second.pair.fingerprint(), first.pair.fingerprint());
        assert_eq!(fs::read(temporary.path().join(PRIVATE_NAME)).unwrap(), private);
    }

    #[test]
    fn one_half_alone_is_an_error_and_stays_as_it_was() {
        let temporary = tempfile::tempdir().unwrap();
        keygen(temporary.path()).unwrap();
        fs::remove_file(temporary.path().join(PUBLIC_NAME)).unwrap();
        let private = fs::read(temporary.path().join(PRIVATE_NAME)).unwrap();
        assert!(matches!(keygen(temporary.path()), Err(KeygenError::Pair(GoldenError::Half { .. }))));
        assert_eq!(fs::read(temporary.path().join(PRIVATE_NAME)).unwrap(), private);
        assert_eq!(names(temporary.path()), [PRIVATE_NAME]);
    }

    #[test]
    fn a_link_where_a_key_would_go_is_refused_and_its_target_untouched() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("keys");
        fs::create_dir(&dir).unwrap();
        let target = temporary.path().join("target");
        std::os::unix::fs::symlink(&target, dir.join(PRIVATE_NAME)).unwrap();
        let message = keygen(&dir).unwrap_err().to_string();
        assert!(message.contains("it is a symbolic link"), "{message}");
        assert!(!target.exists());
    }

    #[test]
    fn a_directory_that_is_a_file_is_an_error_that_names_it() {
        let temporary = tempfile::NamedTempFile::new().unwrap();
        let message = keygen(temporary.path()).unwrap_err().to_string();
        assert!(message.contains(temporary.path().to_str().unwrap()), "{message}");
    }

    #[test]
    fn the_key_directory_of_others_keeps_its_mode() {
        let temporary = tempfile::tempdir().unwrap();
        fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755)).unwrap();
        keygen(temporary.path()).unwrap();
        assert_eq!(mode(temporary.path()), 0o755);
    }
}
