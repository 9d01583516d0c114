//! From an absolute path to a directory's descriptor and a name, for those who write there. See the module above for the rule
//! about links.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

use nix::libc;

use super::FileError;
use crate::{
    limits,
    sys::files::{Dir, set_mode},
};

/// Mode of directories that are made on the way.
const MADE_DIRECTORY_MODE: u32 = 0o755;

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: Dir,
    /// None: the path means the directory itself (`/`, `/a/..`).
    pub(super) name: Option<OsString>,
    /// As it was given.
    pub(super) path: PathBuf,
}

/// How a path is walked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Walk {
    /// Follow the last component where it is a link.
    pub(super) follow_last: bool,
    /// Make the directories that are missing before the last component.
    pub(super) create_dirs: bool,
}

enum Step {
    Name(OsString),
    Up,
    /// The end of a link of this user: what it led to must be his.
    LinkEnd {
        uid: u32,
        link: PathBuf,
    },
}

/// The absolute path that a request names.
pub(super) fn absolute(path: Vec<u8>) -> Result<PathBuf, FileError> {
    let path = PathBuf::from(OsString::from_vec(path));
    let bytes = path.as_os_str().as_bytes();
    let why = match bytes {
        [] => "it is empty",
        [b'/', ..] if bytes.contains(&0) => "it has a NUL byte",
        [b'/', ..] if bytes.len() >= limits::PATH_BYTES => "it is longer than 4095 bytes",
        [b'/', ..] => return Ok(path),
        _ => "it must be absolute",
    };
    Err(FileError::BadPath { path, why })
}

impl Place {
    /// Walks an absolute path.
    pub(super) fn find(path: PathBuf, walk: Walk) -> Result<Self, FileError> {
        let failed = |action| FileError::call(action, &path);
        let root = || Dir::open(Path::new("/"));
        let mut dir = root().map_err(failed("open / for"))?;
        let mut steps: VecDeque<Step> = steps_of(&path).collect();
        let mut links = 0;
        while let Some(step) = steps.pop_front() {
            let name = match step {
                Step::Name(name) => name,
                Step::Up => {
                    dir = dir.above().map_err(failed("walk to"))?;
                    continue;
                }
                Step::LinkEnd { uid, link } => {
                    belongs_to(&dir, uid, link, &path)?;
                    continue;
                }
            };
            let last = steps.iter().all(|step| matches!(step, Step::LinkEnd { .. }));
            if last && !walk.follow_last {
                return Ok(Self { dir, name: Some(name), path });
            }
            // Nothing is made before a link of a user has led to what is his.
            let create = walk.create_dirs && !steps.iter().any(|step| matches!(step, Step::LinkEnd { .. }));
            if !last && let Some(inner) = directory(&dir, &name, create).map_err(failed("walk to"))? {
                dir = inner;
                continue;
            }
            match dir.link(&name) {
                Ok((found, target)) => {
                    links += 1;
                    if links > limits::PATH_LINKS {
                        return Err(failed("walk to")(io::Error::from_raw_os_error(libc::ELOOP)));
                    }
                    if found.uid != 0 {
                        steps.push_front(Step::LinkEnd { uid: found.uid, link: PathBuf::from(&name) });
                    }
                    for step in steps_of(&target).collect::<Vec<_>>().into_iter().rev() {
                        steps.push_front(step);
                    }
                    if target.is_absolute() {
                        dir = root().map_err(failed("open / for"))?;
                    }
                }
                // It is no link (EINVAL), or not there.
                Err(error) if last && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
                    for step in steps {
                        if let Step::LinkEnd { uid, link } = step {
                            belongs_to(&dir, uid, link, &path)?;
                        }
                    }
                    return Ok(Self { dir, name: Some(name), path });
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    return Err(failed("walk to")(io::Error::from_raw_os_error(libc::ENOTDIR)));
                }
                Err(error) => return Err(failed("walk to")(error)),
            }
        }
        Ok(Self { dir, name: None, path })
    }

    /// The name, where the path must have one.
    pub(super) fn name(&self) -> Result<&OsStr, FileError> {
        self.name.as_deref().ok_or_else(|| FileError::IsDirectory { path: self.path.clone() })
    }
}

/// The directory of that name; none where a link has it.
fn directory(dir: &Dir, name: &OsStr, create: bool) -> io::Result<Option<Dir>> {
    match dir.below(Path::new(name)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => Ok(None),
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => match dir.create_directory(name) {
            Ok(made) => set_mode(&made, MADE_DIRECTORY_MODE).map(|()| Some(made)),
            // Somebody was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => dir.below(Path::new(name)).map(Some),
            Err(error) => Err(error),
        },
        found => found.map(Some),
    }
}

fn belongs_to(dir: &Dir, uid: u32, link: PathBuf, path: &Path) -> Result<(), FileError> {
    let owner = dir.stat().map_err(FileError::call("look at the directory of", path))?.uid;
    if owner == uid { Ok(()) } else { Err(FileError::LinkRefused { link, uid }) }
}

fn steps_of(path: &Path) -> impl Iterator<Item = Step> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(Step::Name(name.to_owned())),
        Component::ParentDir => Some(Step::Up),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    const FOLLOW: Walk = Walk { follow_last: true, create_dirs: false };

    /// A directory of uid 1000 inside one of root.
    fn home() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home");
        std::fs::create_dir(&home).unwrap();
        lchown(&home, Some(1000), Some(1000)).unwrap();
        (root, home)
    }

    fn link(target: &Path, at: &Path, uid: u32) {
        symlink(target, at).unwrap();
        lchown(at, Some(uid), Some(uid)).unwrap();
    }

    #[test]
    fn a_link_of_a_user_leads_to_his_own_directories_alone() {
        let (root, home) = home();
        std::fs::create_dir(home.join("real")).unwrap();
        lchown(home.join("real"), Some(1000), Some(1000)).unwrap();
        link(&home.join("real"), &home.join("own"), 1000);
        link(root.path(), &home.join("trap"), 1000);
        link(&root.path().join("passwd"), &home.join("notes"), 1000);
        let found = Place::find(home.join("own/file"), FOLLOW).unwrap();
        assert_eq!(found.dir.stat().unwrap().uid, 1000);
        for trap in ["trap/passwd", "notes", "own/../trap/x"] {
            let refused = Place::find(home.join(trap), FOLLOW);
            assert!(matches!(refused, Err(FileError::LinkRefused { uid: 1000, .. })), "{trap}: {refused:?}");
        }
    }

    #[test]
    fn a_link_of_a_user_makes_no_directory() {
        let (root, home) = home();
        let planted = root.path().join("planted");
        link(&planted, &home.join("trap"), 1000);
        let found = Place::find(home.join("trap/file"), Walk { follow_last: true, create_dirs: true });
        assert!(
            matches!(&found, Err(FileError::Call { source, .. }) if source.kind() == io::ErrorKind::NotFound),
            "{found:?}"
        );
        assert!(!planted.exists());
    }

    #[test]
    fn a_link_of_root_leads_anywhere_and_the_last_one_is_followed_on_demand() {
        let (root, home) = home();
        link(Path::new("home/new"), &root.path().join("link"), 0);
        let found = Place::find(root.path().join("link"), FOLLOW).unwrap();
        assert_eq!(found.name.as_deref(), Some(OsStr::new("new")));
        assert_eq!(found.dir.stat().unwrap().ino, Dir::open(&home).unwrap().stat().unwrap().ino);
        let kept = Place::find(root.path().join("link"), Walk::default()).unwrap();
        assert_eq!(kept.name.as_deref(), Some(OsStr::new("link")));
    }

    #[test]
    fn links_in_a_circle_and_files_in_the_way_are_errors() {
        let (root, _home) = home();
        link(Path::new("b"), &root.path().join("a"), 0);
        link(Path::new("a"), &root.path().join("b"), 0);
        std::fs::write(root.path().join("file"), "").unwrap();
        for path in ["a", "a/x", "file/x"] {
            assert!(Place::find(root.path().join(path), FOLLOW).is_err(), "{path}");
        }
    }

    #[test]
    fn a_path_that_ends_by_a_directory_has_no_name() {
        for path in ["/", "/usr/..", "/../.."] {
            assert!(Place::find(path.into(), FOLLOW).unwrap().name.is_none(), "{path}");
        }
    }
}
