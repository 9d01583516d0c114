//! Hooks: programs of the image's owner that are told of commits and restores.
//!
//! What is run as root must be root's: the file and the directories that lead to it belong to root, nobody else may write to them, and none is a
//! link. What an editor or dpkg leaves beside a file is not run; the order is that of the names' bytes.

use std::path::PathBuf;
use std::time::Duration;

use crate::limits;
use crate::sys::root_dir::{Entry, RootDir, RootDirError};

/// Where they are, below a root.
const HOOKS: &str = "/etc/guestd/hooks.d";

/// And what leads there from `/etc`, which is everybody's.
const ABOVE: [&str; 2] = ["/etc/guestd", HOOKS];

/// Ends of names of what is left beside a file: by editors, dpkg, rpm, and `guestd install`.
const LEFT_BESIDE: [&str; 11] = [
    ".bak",
    ".orig",
    ".rej",
    ".swp",
    ".dpkg-old",
    ".dpkg-new",
    ".dpkg-dist",
    ".dpkg-tmp",
    ".rpmsave",
    ".rpmnew",
    ".guestd-new",
];

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookStage {
    /// Before a commit, with no new commands started.
    PreSnapshot,
    /// After a restore, with everything set right and no new commands started yet.
    PreThaw,
    /// After a restore, with all at work again.
    PostRestore,
}

impl HookStage {
    /// Its name, of the directory and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreSnapshot => "pre-snapshot",
            Self::PreThaw => "pre-thaw",
            Self::PostRestore => "post-restore",
        }
    }

    /// How long one of its hooks may run.
    pub fn time(self) -> Duration {
        match self {
            Self::PreSnapshot | Self::PreThaw => limits::HOOK_TIME,
            Self::PostRestore => limits::POST_RESTORE_HOOK_TIME,
        }
    }
}

/// A hook that may be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub stage: HookStage,
    /// Its file's name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
}

/// The hooks of a stage, in order; for what is there and is not run, the reason. `owner` is root but in a test.
pub(super) fn find(root: &RootDir, stage: HookStage, owner: u32) -> Vec<Result<Hook, String>> {
    let directory = format!("{HOOKS}/{}.d", stage.name());
    let found = || -> Result<Vec<Result<Hook, String>>, RootDirError> {
        for above in ABOVE.into_iter().chain([directory.as_str()]) {
            let Some(opened) = root.descend(above)? else { return Ok(Vec::new()) };
            if let Some(opened) = opened.follow_directory("")?
                && let Some(why) = distrust(owner, opened.uid, opened.mode)
            {
                return Ok(vec![Err(format!("{above} {why}, so no hook is run"))]);
            }
        }
        let Some(opened) = root.descend(&directory)? else { return Ok(Vec::new()) };
        let names = opened.names("", limits::HOOK_NAMES)?;
        let mut names: Vec<&str> =
            names.iter().filter_map(|name| name.to_str()).filter(|name| is_runnable(name)).collect();
        let others = names.len().saturating_sub(limits::HOOKS);
        names.truncate(limits::HOOKS);
        let hooks = names.into_iter().filter_map(|name| look(&opened, stage, name, owner).transpose());
        let too_many = (others > 0).then(|| {
            Err(format!(
                "{directory} has more than {} hooks; the last {others} by their names are not run",
                limits::HOOKS
            ))
        });
        Ok(hooks.chain(too_many).collect())
    };
    found().unwrap_or_else(|error| vec![Err(error.to_string())])
}

fn look(directory: &RootDir, stage: HookStage, name: &str, owner: u32) -> Result<Option<Hook>, String> {
    let refused = |why: &str| Err(format!("{HOOKS}/{}.d/{name} {why}, so it is not run", stage.name()));
    match directory.look(name).map_err(|error| error.to_string())? {
        Entry::File(file) => match distrust(owner, file.uid, file.mode) {
            Some(why) => refused(why),
            None if file.mode & 0o111 == 0 => refused("is not executable"),
            None => Ok(Some(Hook { stage, name: name.to_owned(), path: file.path().to_owned() })),
        },
        // A link may lead to where others write.
        Entry::Link(_) => refused("is a symbolic link"),
        Entry::Absent | Entry::Directory | Entry::Special => Ok(None),
    }
}

/// Why a file or directory is not trusted.
fn distrust(owner: u32, uid: u32, mode: u32) -> Option<&'static str> {
    if uid != owner {
        Some("does not belong to root")
    } else if mode & 0o022 != 0 {
        Some("may be written to by others than root")
    } else {
        None
    }
}

fn is_runnable(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !name.starts_with('.') && name.bytes().all(known) && !LEFT_BESIDE.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn root() -> (tempfile::TempDir, RootDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let hooks = directory.path().join("etc/guestd/hooks.d/pre-thaw.d");
        fs::create_dir_all(&hooks).unwrap();
        let root = RootDir::open(directory.path()).unwrap();
        (directory, root, hooks)
    }

    fn put(path: PathBuf, mode: u32) {
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn found(root: &RootDir) -> Vec<String> {
        let uid = nix::unistd::geteuid().as_raw();
        let hooks = find(root, HookStage::PreThaw, uid).into_iter();
        hooks.map(|hook| hook.map_or_else(|why| format!("! {why}"), |hook| hook.name)).collect()
    }

    #[test]
    fn hooks_are_found_in_the_order_of_their_names() {
        let (_directory, root, hooks) = root();
        for name in ["20-b", "10-a.sh", "10-A", "old~", ".swp", "with blank", "10-a.bak", "20-b.dpkg-old", "10-A.orig"]
        {
            put(hooks.join(name), 0o755);
        }
        fs::create_dir(hooks.join("30-directory")).unwrap();
        assert_eq!(found(&root), ["10-A", "10-a.sh", "20-b"]);
    }

    #[test]
    fn what_others_could_have_written_is_not_run_and_the_reason_is_told() {
        let (directory, root, hooks) = root();
        put(hooks.join("10-group"), 0o775);
        put(hooks.join("20-text"), 0o644);
        symlink("10-group", hooks.join("30-link")).unwrap();
        let found_now = found(&root);
        for (found, why) in found_now.iter().zip(["by others than root", "not executable", "a symbolic link"]) {
            assert!(found.starts_with("! ") && found.contains(why), "{found}");
        }
        assert_eq!(found_now.len(), 3);
        let others = find(&root, HookStage::PreThaw, nix::unistd::geteuid().as_raw() + 1);
        assert!(others[0].as_ref().unwrap_err().contains("does not belong to root"), "{others:?}");
        fs::set_permissions(&hooks, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(found(&root)[0].contains("no hook is run"));
        drop(directory);
    }

    #[test]
    fn nothing_that_leads_to_a_hook_is_a_link_or_may_be_changed_by_others() {
        let (directory, root, hooks) = root();
        put(hooks.join("10-a"), 0o755);
        for above in [hooks.parent().unwrap(), &directory.path().join("etc/guestd")] {
            fs::set_permissions(above, PermissionsExt::from_mode(0o777)).unwrap();
            assert!(found(&root)[0].contains("may be written to by others than root"), "{above:?}");
            fs::set_permissions(above, PermissionsExt::from_mode(0o755)).unwrap();
        }
        assert_eq!(found(&root), ["10-a"]);
        let elsewhere = directory.path().join("bin");
        fs::rename(&hooks, &elsewhere).unwrap();
        symlink("/bin", &hooks).unwrap();
        let found = found(&root);
        assert!(found.len() == 1 && found[0].starts_with("! "), "{found:?}");
    }

    #[test]
    fn of_too_many_the_first_are_run_and_it_is_told() {
        let (_directory, root, hooks) = root();
        for number in (0..limits::HOOKS + 3).rev() {
            put(hooks.join(format!("{number:03}")), 0o755);
        }
        let found = found(&root);
        assert_eq!((found[0].as_str(), found.len()), ("000", limits::HOOKS + 1));
        assert!(found.last().unwrap().contains("the last 3 by their names"), "{found:?}");
    }

    #[test]
    fn where_there_are_none_nothing_is_run() {
        let (directory, root, hooks) = root();
        assert!(found(&root).is_empty());
        fs::remove_dir_all(hooks.parent().unwrap()).unwrap();
        assert!(found(&root).is_empty());
        drop(directory);
    }
}
