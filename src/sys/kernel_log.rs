//! The kernel's log, record by record (/dev/kmsg).

#![expect(unsafe_code, reason = "registering a descriptor with epoll")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The longest record that the kernel gives (CONSOLE_EXT_LOG_MAX), in bytes.
const RECORD_BYTES: usize = 8192;

/// What the kernel says from now on.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// Begins at the end.
    ///
    /// # Errors
    /// Those of open(2), such as `EPERM` in a container.
    pub fn open() -> io::Result<Self> {
        let mut file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// To be waited for by a task.
    ///
    /// # Errors
    /// Where epoll has no room.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: it owns its descriptor and never exchanges it, and the AsyncFd owns it.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// The text of the next record of the kernel's own that is there; none where there is none. What programs have written to the
    /// log is left out.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn next_text(&mut self) -> io::Result<Option<String>> {
        let mut record = [0; RECORD_BYTES];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    if let Some(text) = of_kernel(&record[..length]) {
                        return Ok(Some(text));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // Some were overwritten before we read them; the next read goes on after them.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for KernelLog {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// `PRIORITY,SEQUENCE,TIME,FLAGS;TEXT`. The kernel writes with facility 0; it does not let programs do so.
fn of_kernel(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (head, text) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    (priority < 8).then(|| text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_wrote_is_not_the_kernels_word() {
        let text = "crng reseeded due to virtual machine fork";
        assert_eq!(of_kernel(format!("5,339,5140900,-;{text}\n SUBSYSTEM=x\n").as_bytes()).as_deref(), Some(text));
        // LOG_USER.
        assert_eq!(of_kernel(format!("12,340,5140901,-;{text}\n").as_bytes()), None);
        assert_eq!(of_kernel(b"no record"), None);
    }
}
