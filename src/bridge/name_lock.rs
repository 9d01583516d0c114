//! Whose a data plane's name is: a lock on a file beside its socket. Planes that are started at once cannot both take a name, for the kernel
//! gives the lock to one and takes it back when that one ends, however that is. Who looks learns which process has it, even where that one answers
//! nobody.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{FcntlArg, fcntl};

/// Of a holder that ends the file may go between our opening and our locking it: then there is another one to be opened.
const TRIES: usize = 16;

/// The lock. Its file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct NameLock {
    _file: File,
    path: PathBuf,
}

impl NameLock {
    /// Takes the name of this socket.
    ///
    /// # Errors
    /// Another process has it, or the file cannot be made.
    pub(super) fn take(socket: &Path) -> io::Result<Self> {
        let path = beside(socket);
        for _ in 0..TRIES {
            let file = open(&path, true)?;
            match fcntl(&file, FcntlArg::F_SETLK(&whole())) {
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {
                    let holder = holder_of(&file).map_or_else(String::new, |pid| format!(", pid {pid}"));
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("another data plane{holder} has it")));
                }
                Err(error) => return Err(error.into()),
            }
            if std::fs::symlink_metadata(&path).is_ok_and(|there| is_same(&there, &file)) {
                return Ok(Self { _file: file, path });
            }
        }
        Err(io::Error::other(format!("{} is made and removed without an end", path.display())))
    }

    /// The process that has the name of this socket, if there is one.
    pub(super) fn holder(socket: &Path) -> Option<i32> {
        holder_of(&open(&beside(socket), false).ok()?)
    }
}

impl Drop for NameLock {
    fn drop(&mut self) {
        // While it is ours. The lock goes with the descriptor.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Others than its owner cannot open it, and so not lock it.
    options.read(true).write(true).create(create).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path)
}

fn is_same(there: &std::fs::Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

fn whole() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn holder_of(file: &File) -> Option<i32> {
    let mut lock = whole();
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn name_is_one_process_s_until_it_ends_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("plane");
        assert_eq!(NameLock::holder(&socket), None);
        let lock = NameLock::take(&socket).unwrap();
        // Of its own locks the kernel tells a process nothing, so another one asks: it opens the file and cannot lock it.
        let script = "import fcntl, sys\ntry: fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError: print('refused')";
        let other = Command::new("python3").args(["-c", script]).arg(beside(&socket)).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&other.stdout), "refused\n");
        drop(lock);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_has_the_name_is_told_while_it_lives_however_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("plane");
        let script = "import fcntl, sys\nf = open(sys.argv[1], 'w+')\nfcntl.lockf(f, fcntl.LOCK_EX)\nprint('has it', flush=True)\nsys.stdin.read()";
        let mut other = Command::new("python3")
            .args(["-c", script])
            .arg(beside(&socket))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::BufRead::read_line(&mut io::BufReader::new(other.stdout.as_mut().unwrap()), &mut String::new())
            .unwrap();
        let pid = other.id().cast_signed();
        assert_eq!(NameLock::holder(&socket), Some(pid));
        let refused = NameLock::take(&socket).unwrap_err();
        assert!(refused.to_string().ends_with(&format!("pid {pid} has it")), "{refused}");
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(NameLock::holder(&socket), None);
        NameLock::take(&socket).unwrap();
    }

    #[test]
    fn link_in_the_place_of_the_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("plane");
        std::os::unix::fs::symlink(dir.path().join("victim"), beside(&socket)).unwrap();
        NameLock::take(&socket).unwrap_err();
        assert!(!dir.path().join("victim").exists());
    }
}
