//! Pseudo-terminals: a master end for the agent and a slave end for one command.
//!
//! The slave comes from the master itself (TIOCGPTPEER), not by a path, so that whatever is mounted on `/dev/pts` here cannot
//! be taken for it. Both ends are close-on-exec and neither becomes the agent's controlling terminal. A master that is closed
//! hangs its terminal up; that is how a command's terminal ends at the latest.

#![expect(unsafe_code, reason = "terminal ioctls and termios have no safe wrapper that takes our descriptors")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Pid, Uid, fchown, getsid};
use tokio::io::unix::AsyncFd;

/// Size in characters; the kernel has one in pixels too, which nothing here knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// What the terminal makes of the end of input just now, as its line discipline is set by whoever runs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputMode {
    /// It gathers lines (ICANON); if not, each byte goes to the reader as it is.
    pub lines: bool,
    /// The character that stands for the end of input; none where that is switched off.
    pub end: Option<u8>,
}

/// The slave end, to become somebody's standard streams and controlling terminal.
#[derive(Debug)]
pub struct Slave(OwnedFd);

/// The master end, non-blocking, watched by the runtime. The terminal is hung up when it is dropped.
#[derive(Debug)]
pub struct Master {
    fd: AsyncFd<File>,
    /// Once there was nobody who had the terminal open. tokio takes that for final and says at once, for ever, that the master is
    /// ready; "there is nothing now" would then be asked again without end.
    hung_up: AtomicBool,
}

/// Makes a terminal of this size. Needs to be called within a runtime.
///
/// # Errors
/// `ENOENT` and `ENODEV` without devpts, `ENOSPC` at its limit of terminals (kernel.pty.max), `EMFILE` and `ENFILE` out of
/// descriptors, `EINVAL` and `ENOTTY` before Linux 4.13.
pub fn open(size: Size) -> io::Result<(Master, Slave)> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let master = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/ptmx")?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open(2)'s flags by value.
    let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel just made this descriptor for us, and nothing else owns it.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    // SAFETY: a File owns its descriptor and never exchanges it; AsyncFd owns the File, and only shared references to it are
    // given out.
    let fd = unsafe { AsyncFd::register(master) }?;
    let master = Master { fd, hung_up: AtomicBool::new(false) };
    master.resize(size)?;
    Ok((master, Slave(slave)))
}

impl Slave {
    /// Gives it to a user as login(1) does: others of group tty may write to it, for write(1) and wall(1). Without such a group
    /// nobody else may.
    ///
    /// # Errors
    /// `EPERM` where this process may not give files away.
    pub fn give_to(&self, uid: u32, tty_group: Option<u32>) -> io::Result<()> {
        let mode = if tty_group.is_some() { 0o620 } else { 0o600 };
        fchown(&self.0, Some(Uid::from_raw(uid)), tty_group.map(Gid::from_raw))?;
        Ok(fchmod(&self.0, Mode::from_bits_truncate(mode))?)
    }

    /// Standard input, output and error of a command on this terminal.
    ///
    /// # Errors
    /// `EMFILE` out of descriptors.
    pub fn into_stdio(self) -> io::Result<[OwnedFd; 3]> {
        Ok([self.0.try_clone()?, self.0.try_clone()?, self.0])
    }
}

impl Master {
    /// Returns when there may be something to read, or the terminal's end.
    ///
    /// # Errors
    /// Where the runtime shuts down.
    pub async fn readable(&self) -> io::Result<()> {
        // The readiness is kept: try_read clears it where the kernel says that there is nothing.
        let mut ready = self.fd.readable().await?;
        self.hung_up.fetch_or(ready.ready().is_read_closed(), Ordering::Relaxed);
        ready.retain_ready();
        Ok(())
    }

    /// Takes what is there; 0 is the end: nobody has the terminal open any more.
    ///
    /// # Errors
    /// `WouldBlock` where there is nothing yet.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.fd.try_io(tokio::io::Interest::READABLE, |mut master| master.read(buffer)) {
            // How a master says that the last slave was closed.
            Err(error) if error.raw_os_error() == Some(libc::EIO) || self.is_over(&error) => Ok(0),
            other => other,
        }
    }

    /// Returns when there may be room for input.
    ///
    /// # Errors
    /// Where the runtime shuts down.
    pub async fn writable(&self) -> io::Result<()> {
        let mut ready = self.fd.writable().await?;
        self.hung_up.fetch_or(ready.ready().is_write_closed(), Ordering::Relaxed);
        ready.retain_ready();
        Ok(())
    }

    /// Types as much of this as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room, `BrokenPipe` where nobody has the terminal open any more.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.fd.try_io(tokio::io::Interest::WRITABLE, |mut master| master.write(bytes)) {
            // A full buffer that nobody empties any more is none that gets room.
            Err(error) if error.raw_os_error() == Some(libc::EIO) || self.is_over(&error) => {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            other => other,
        }
    }

    /// Is this "nothing now" of a terminal that was hung up?
    fn is_over(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::WouldBlock && self.hung_up.load(Ordering::Relaxed)
    }

    /// Sets the size; where it is another one, the foreground process group gets SIGWINCH from the kernel.
    ///
    /// # Errors
    /// None that is known.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        let size = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
    }

    /// How input ends at present.
    ///
    /// # Errors
    /// None that is known.
    pub fn input_mode(&self) -> io::Result<InputMode> {
        // SAFETY: termios is plain data, for which zeroes are a value.
        let mut termios: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: termios is ours, and written by the call only. On a master it is that of its slave.
        check(unsafe { libc::tcgetattr(self.fd.as_raw_fd(), &raw mut termios) })?;
        // 0 is _POSIX_VDISABLE.
        let end = Some(termios.c_cc[libc::VEOF]).filter(|character| *character != 0);
        Ok(InputMode { lines: termios.c_lflag & libc::ICANON != 0, end })
    }

    /// The process group in the foreground, if there is one and it belongs to this session: the kernel goes on naming a group
    /// that has ended, whose number may be another's by now.
    ///
    /// # Errors
    /// `ENOTTY` where it is nobody's controlling terminal.
    pub fn foreground_group(&self, session: i32) -> io::Result<Option<i32>> {
        let mut group: libc::pid_t = 0;
        // SAFETY: TIOCGPGRP writes one pid_t; on a master it is about its slave.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCGPGRP, &raw mut group) })?;
        let belongs = |group: &i32| match getsid(Some(Pid::from_raw(*group))) {
            Ok(found) => found.as_raw() == session,
            // Its leader has ended. The number is not given to another process while the group has members.
            Err(_) => true,
        };
        Ok(Some(group).filter(|group| *group > 0).filter(belongs))
    }
}

impl AsFd for Master {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcgetsid, tcsetattr};

    use super::*;

    const SIZE: Size = Size { rows: 24, cols: 80 };

    async fn read(master: &Master) -> Vec<u8> {
        loop {
            master.readable().await.unwrap();
            let mut bytes = [0; 64];
            match master.try_read(&mut bytes) {
                Ok(count) => return bytes[..count].to_vec(),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    #[tokio::test]
    async fn both_ends_are_closed_on_exec_and_nobody_gets_a_controlling_terminal() {
        let before = tcgetsid(io::stdin()).ok();
        let (master, slave) = open(SIZE).unwrap();
        for fd in [master.as_fd(), slave.0.as_fd()] {
            let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
        assert!(tcgetsid(&slave.0).is_err());
        assert_eq!(tcgetsid(io::stdin()).ok(), before);
    }

    #[tokio::test]
    async fn what_was_written_is_read_before_the_end_and_the_end_is_no_error() {
        let (master, slave) = open(SIZE).unwrap();
        File::from(slave.0).write_all(b"last\n").unwrap();
        assert_eq!(read(&master).await, b"last\r\n");
        assert_eq!(read(&master).await, b"");
    }

    #[tokio::test]
    async fn input_that_nobody_read_and_nobody_can_read_any_more_is_no_reason_to_wait() {
        let (master, slave) = open(SIZE).unwrap();
        let mut termios = tcgetattr(&slave.0).unwrap();
        nix::sys::termios::cfmakeraw(&mut termios);
        tcsetattr(&slave.0, SetArg::TCSANOW, &termios).unwrap();
        let type_more = async |full: io::ErrorKind| {
            // Far more than the kernel keeps, and far more tries than it takes to find that out.
            for _ in 0..10_000 {
                master.writable().await.unwrap();
                match master.try_write(&[b'x'; 4096]) {
                    Err(error) if error.kind() == full => return,
                    other => drop(other),
                }
            }
            panic!("it is never {full:?}");
        };
        type_more(io::ErrorKind::WouldBlock).await;
        drop(slave);
        type_more(io::ErrorKind::BrokenPipe).await;
    }

    #[tokio::test]
    async fn a_terminal_without_output_would_block() {
        let (master, _slave) = open(SIZE).unwrap();
        let error = master.try_read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn the_end_of_input_is_what_the_slave_has_set() {
        let (master, slave) = open(SIZE).unwrap();
        assert_eq!(master.input_mode().unwrap(), InputMode { lines: true, end: Some(4) });
        let mut termios = tcgetattr(&slave.0).unwrap();
        termios.local_flags.remove(LocalFlags::ICANON);
        termios.control_chars[libc::VEOF] = 0;
        tcsetattr(&slave.0, SetArg::TCSANOW, &termios).unwrap();
        assert_eq!(master.input_mode().unwrap(), InputMode { lines: false, end: None });
    }

    #[tokio::test]
    async fn a_slave_is_its_users_and_group_tty_may_write_where_there_is_one() {
        let (_master, slave) = open(SIZE).unwrap();
        let facts = |slave: &Slave| {
            let metadata = File::from(slave.0.try_clone().unwrap()).metadata().unwrap();
            (metadata.uid(), metadata.mode() & 0o777)
        };
        slave.give_to(1234, Some(5)).unwrap();
        assert_eq!(facts(&slave), (1234, 0o620));
        slave.give_to(0, None).unwrap();
        assert_eq!(facts(&slave), (0, 0o600));
    }
}
