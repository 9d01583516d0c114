//! The image's sshd: which it is, what it takes, whether it would start, and telling it to read its keys again.
//!
//! Which it is stands in its program, so that it need not run; the rest is asked of it, where the tree is the running system's.

use std::{
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use super::{KeysError, candidate::Accepted, ssh_time::Dialect};
use crate::{
    limits,
    sys::{pidfd::Pidfd, root_dir::RootDir},
};

/// Where distributions have it.
const PROGRAMS: [&str; 4] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd", "/usr/bin/sshd"];

/// The first version that knows times in UTC.
const UTC_SINCE: (u32, u32) = (9, 1);

/// What comes before the version in the program.
const RELEASE: &[u8] = b"OpenSSH_";

/// The image's sshd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sshd {
    program: &'static str,
}

/// What an sshd says of its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effective {
    pub(super) accepted: Accepted,
    /// Why keys that guestd manages open nothing.
    pub(super) objection: Option<String>,
}

impl Sshd {
    /// The one that there is.
    pub(super) fn find(root: &RootDir) -> Option<Self> {
        let is_there = |program: &&str| matches!(root.follow(program), Ok(Some(_)));
        PROGRAMS.into_iter().find(is_there).map(|program| Self { program })
    }

    /// The one of the system that guestd itself runs in, which can be asked.
    pub(super) fn running(root: &RootDir) -> Option<Self> {
        Self::find(root).filter(|_| root.path() == Path::new("/"))
    }

    /// How it wants to be told of a time. What is not known is new.
    pub(super) fn dialect(self, root: &RootDir) -> Dialect {
        let program = root.follow(self.program).ok().flatten();
        let program = program.and_then(|file| file.read(limits::OPENSSH_PROGRAM_BYTES).ok()).unwrap_or_default();
        match openssh_version(&program) {
            Some(version) if version < UTC_SINCE => Dialect::Local,
            _ => Dialect::Utc,
        }
    }

    /// What its configuration comes to (`sshd -T`). An error is a sentence.
    pub(super) fn effective(self, managed: &str) -> Result<Effective, KeysError> {
        let (success, said) = self.run("-T")?;
        if !success {
            return Err(KeysError::Program { program: self.program.into(), source: io::Error::other(said) });
        }
        Ok(read_effective(&said, managed))
    }

    /// Would it start with the files that there are (`sshd -t`)? If not, what it says.
    pub(super) fn check(self) -> Result<Result<(), String>, KeysError> {
        let (success, said) = self.run("-t")?;
        Ok(if success { Ok(()) } else { Err(said) })
    }

    /// Runs it to its end: whether that was a success, and what it said.
    fn run(self, option: &str) -> Result<(bool, String), KeysError> {
        let failed = |source| KeysError::Program { program: self.program.into(), source };
        let mut command = Command::new(self.program);
        command.arg(option).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        // Its pipes hold more than it says, so that it ends without being read. It is our child, and not reaped yet.
        let ended = i32::try_from(child.id()).map_err(io::Error::other).and_then(Pidfd::open);
        if !matches!(ended.and_then(|child| child.ended_within(limits::SSHD_RUN_TIME)), Ok(true)) {
            // Its end is what is reported.
            let _ = child.kill();
        }
        let status = child.wait().map_err(failed)?;
        let mut said = Vec::new();
        let pipes = [child.stdout.take().map(into_reader), child.stderr.take().map(into_reader)];
        for pipe in pipes.into_iter().flatten() {
            pipe.take(limits::SSHD_OUTPUT_BYTES).read_to_end(&mut said).map_err(failed)?;
        }
        match status.code() {
            Some(code) => Ok((code == 0, String::from_utf8_lossy(&said).trim().to_owned())),
            None => {
                Err(failed(io::Error::other(format!("it did not end within {} s", limits::SSHD_RUN_TIME.as_secs()))))
            }
        }
    }
}

fn into_reader(pipe: impl io::Read + 'static) -> Box<dyn io::Read> {
    Box::new(pipe)
}

/// `OpenSSH_9.2p1` in a program of OpenSSH: the version, of which there are many, with the `p` that only its own release has.
pub(crate) fn openssh_version(program: &[u8]) -> Option<(u32, u32)> {
    let releases = program.windows(RELEASE.len()).enumerate().filter(|(_, window)| *window == RELEASE);
    releases.filter_map(|(at, _)| release(&program[at + RELEASE.len()..])).next()
}

fn release(text: &[u8]) -> Option<(u32, u32)> {
    let (major, rest) = number(text)?;
    let (minor, rest) = number(rest.strip_prefix(b".")?)?;
    number(rest.strip_prefix(b"p")?)?;
    Some((major, minor))
}

fn number(text: &[u8]) -> Option<(u32, &[u8])> {
    let digits = text.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(digits);
    Some((str::from_utf8(number).ok()?.parse().ok()?, rest))
}

/// Lines of `KEYWORD VALUE`.
fn read_effective(text: &str, managed: &str) -> Effective {
    let value = |keyword: &str| text.lines().find_map(|line| line.strip_prefix(keyword)?.strip_prefix(' '));
    let files = value("authorizedkeysfile");
    let objection = if value("pubkeyauthentication") == Some("no") {
        Some("sshd takes no keys at all (PubkeyAuthentication no)".to_owned())
    } else if files.is_some_and(|files| !files.split(' ').any(|file| file == managed)) {
        let files = files.unwrap_or_default();
        Some(format!("sshd does not read {managed}: its AuthorizedKeysFile is {files}, so these keys open nothing"))
    } else {
        None
    };
    // The second is its name before 8.5.
    let algorithms = value("pubkeyacceptedalgorithms").or_else(|| value("pubkeyacceptedkeytypes"));
    Effective { accepted: algorithms.map_or(Accepted::USUAL, Accepted::by), objection }
}

/// Tells those of these processes that are an sshd which listens to start over with the files that there are now (SIGHUP). Sessions
/// have processes of their own and go on. Gives how many were told.
pub(super) fn tell(processes: &[i32]) -> usize {
    processes.iter().filter(|pid| tell_one(**pid).is_ok_and(|told| told)).count()
}

fn tell_one(pid: i32) -> io::Result<bool> {
    // Looked at after the handle is open: what has the pid now is what the handle is on, or has ended.
    let process = Pidfd::open(pid)?;
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    let owner = fs::metadata(format!("/proc/{pid}"))?.uid();
    let mut title = Vec::new();
    fs::File::open(format!("/proc/{pid}/cmdline"))?.take(limits::PROC_FILE_BYTES).read_to_end(&mut title)?;
    let listens = is_sshd(&program) && owner == 0 && is_listener(&String::from_utf8_lossy(&title));
    Ok(listens && process.signal(libc::SIGHUP)?)
}

/// Also one whose program was replaced by an upgrade.
fn is_sshd(program: &Path) -> bool {
    let name = program.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.trim_end_matches(" (deleted)") == "sshd")
}

/// A session can listen, too, for what it forwards, and a SIGHUP would end it. It says what it is in its title: `sshd: root@pts/0`;
/// the one that takes connections does since 8.2: `sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups`.
fn is_listener(title: &str) -> bool {
    !title.starts_with("sshd: ") || title.contains(" [listener] ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_release_and_not_one_that_is_only_mentioned() {
        let program = b"\0OpenSSH_2.*,OpenSSH_3.0*\0OpenSSH_6.6.1*\0OpenSSH_8.4p1 Debian-5\0OpenSSH_8.4\0";
        assert_eq!(openssh_version(program), Some((8, 4)));
        assert_eq!(openssh_version(b"OpenSSH_10.0p2"), Some((10, 0)));
        for none in [&b""[..], b"OpenSSH_", b"OpenSSH_9.2", b"OpenSSH_9p1", b"OpenSSH_99999.1p1", b"OpenSSH_9.2p"] {
            assert_eq!(openssh_version(none), None, "{}", String::from_utf8_lossy(none));
        }
    }

    #[test]
    fn times_are_written_for_the_sshd_that_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let root = RootDir::open(directory.path()).unwrap();
        assert_eq!(Sshd::find(&root), None);
        fs::create_dir_all(directory.path().join("usr/sbin")).unwrap();
        let dialect = |content: &str| {
            fs::write(directory.path().join("usr/sbin/sshd"), content).unwrap();
            Sshd::find(&root).unwrap().dialect(&root)
        };
        assert_eq!(dialect("OpenSSH_8.9p1"), Dialect::Local);
        assert_eq!(dialect("OpenSSH_9.0p1"), Dialect::Local);
        assert_eq!(dialect("OpenSSH_9.1p1"), Dialect::Utc);
        assert_eq!(dialect("another sshd"), Dialect::Utc);
    }

    #[test]
    fn what_sshd_says_of_itself_is_read_by_its_keywords() {
        let managed = "/etc/guestd/ssh/authorized_keys/%u";
        let effective = |text: &str| read_effective(text, managed);
        let good = effective(&format!(
            "port 22\npubkeyauthentication yes\nauthorizedkeysfile .ssh/authorized_keys {managed}\npubkeyacceptedalgorithms a,b\n"
        ));
        assert_eq!(good, Effective { accepted: Accepted::by("a,b"), objection: None });
        assert_eq!(effective("pubkeyacceptedkeytypes c").accepted, Accepted::by("c"));
        assert_eq!(effective("").accepted, Accepted::USUAL);
        let elsewhere = effective("authorizedkeysfile .ssh/authorized_keys").objection.unwrap();
        assert!(elsewhere.starts_with("sshd does not read /etc/guestd"), "{elsewhere}");
        assert!(effective("pubkeyauthentication no").objection.unwrap().contains("PubkeyAuthentication no"));
    }

    #[test]
    fn the_listener_is_told_apart_from_sessions_that_forward() {
        assert!(is_listener("/usr/sbin/sshd\0-D"));
        assert!(is_listener("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"));
        assert!(!is_listener("sshd: root@pts/0"));
        assert!(!is_listener("sshd: root [priv]"));
        assert!(is_sshd(Path::new("/usr/sbin/sshd (deleted)")) && !is_sshd(Path::new("/usr/bin/sshd-session")));
    }

    #[test]
    fn a_process_that_is_no_sshd_is_never_told() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert_eq!(tell(&[pid, -1, i32::MAX]), 0);
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
