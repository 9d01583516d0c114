//! What a child would inherit from this process and must not, as far as it takes a look to know.

#![expect(unsafe_code, reason = "the raw calls: libc hides some signals")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Credentials;

/// What this process was started with, looked at once, so that each start of a command is spared a hundred system calls.
#[derive(Debug)]
pub struct Inherited {
    /// Bit n - 1 stands for signal n. Nothing in this program ignores a signal, so these are what it was started with, and SIGPIPE.
    pub(super) ignored: u64,
    /// Whoever started us sets this, and an administrator may set it any time.
    pub(super) oom_score: Option<File>,
    pub(super) credentials: Option<Credentials>,
}

impl Inherited {
    /// Looks. Signals that are ignored later are not known of.
    pub fn look() -> Self {
        let ignored = (1..=64).filter(|signal| is_ignored(*signal)).fold(0, |set, signal| set | 1 << (signal - 1));
        Self { ignored, oom_score: File::open("/proc/self/oom_score_adj").ok(), credentials: credentials().ok() }
    }

    /// Whether the OOM killer is told to treat this process in another way than others, or that is not known.
    pub(super) fn has_oom_score(&self) -> bool {
        let mut score = [0; 8];
        let read = self.oom_score.as_ref().and_then(|file| file.read_at(&mut score, 0).ok());
        read.is_none_or(|count| score[..count].trim_ascii_end() != b"0")
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    // struct sigaction of the 64-bit kernels, the handler first.
    let mut action = [0_u64; 4];
    let nothing = std::ptr::null::<u64>();
    // SAFETY: the action is as large as the kernel's struct; null leaves all as it is.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, nothing, action.as_mut_ptr(), 8_usize) };
    done == 0 && action[0] == libc::SIG_IGN as u64
}

fn credentials() -> io::Result<Credentials> {
    let (uid, gid) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
    if [uid.real, uid.saved] != [uid.effective; 2] || [gid.real, gid.saved] != [gid.effective; 2] {
        return Err(io::Error::other("user or group is not the same in all places"));
    }
    let groups = nix::unistd::getgroups()?.into_iter().map(nix::unistd::Gid::as_raw).collect();
    Ok(Credentials { uid: uid.effective.as_raw(), gid: gid.effective.as_raw(), groups })
}
