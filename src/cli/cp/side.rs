//! The two sides of a copy, as the command line names them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// Where something is copied from or to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Side {
    /// `vm:PATH`.
    Vm(PathBuf),
    /// A path here.
    Here(PathBuf),
    /// `-`.
    Pipe,
}

/// Reads a side. A file here whose name begins by `vm:` is written `./vm:…`.
pub(crate) fn side(text: OsString) -> Result<Side, String> {
    if text == "-" {
        return Ok(Side::Pipe);
    }
    match text.as_bytes().strip_prefix(b"vm:") {
        Some(path @ [b'/', ..]) => Ok(Side::Vm(OsString::from_vec(path.to_vec()).into())),
        Some(_) => Err("a path of the VM is absolute: vm:/PATH".to_owned()),
        None if text.is_empty() => Err("a path is not empty".to_owned()),
        None => Ok(Side::Here(text.into())),
    }
}

/// Does the path say that it means a directory?
pub(super) fn means_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b"." || bytes.ends_with(b"/..") || bytes == b".."
}

/// Where the copy of `source` is, given that `target` is a directory: under the source's name; for `DIR/.` and `/`, whose
/// content is meant, the directory itself.
pub(super) fn inside(target: &Path, source: &Path) -> PathBuf {
    let contents = source.as_os_str().as_bytes();
    let named = !(contents.ends_with(b"/.") || contents == b".");
    match source.file_name().filter(|_| named) {
        Some(name) => target.join(name),
        None => target.to_owned(),
    }
}

/// The path without slashes at its end, so that its last component can be made or replaced.
pub(super) fn trimmed(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let length = bytes.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    PathBuf::from(OsStr::from_bytes(&bytes[..length.min(bytes.len())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_path_of_the_vm_or_here_or_a_pipe() {
        let vm = |path: &str| Ok(Side::Vm(path.into()));
        assert_eq!(side("vm:/etc/hosts".into()), vm("/etc/hosts"));
        assert_eq!(side("-".into()), Ok(Side::Pipe));
        assert_eq!(side("./vm:x".into()), Ok(Side::Here("./vm:x".into())));
        assert_eq!(side("vm".into()), Ok(Side::Here("vm".into())));
        assert!(side("vm:etc".into()).is_err());
        assert!(side("vm:".into()).is_err());
    }

    #[test]
    fn a_copy_goes_into_a_directory_by_its_name_and_contents_go_into_it_as_they_are() {
        let inside = |target: &str, source: &str| inside(Path::new(target), Path::new(source));
        assert_eq!(inside("/srv", "a/b"), Path::new("/srv/b"));
        assert_eq!(inside("/srv", "a/b/"), Path::new("/srv/b"));
        for contents in [".", "a/.", "/", ".."] {
            assert_eq!(inside("/srv", contents), Path::new("/srv"), "{contents}");
        }
    }

    #[test]
    fn slashes_at_the_end_are_cut_but_for_the_root() {
        for (path, expected) in [("/a//", "/a"), ("/", "/"), ("//", "/"), ("a", "a")] {
            assert_eq!(trimmed(Path::new(path)), Path::new(expected));
        }
    }
}
