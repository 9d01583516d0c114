//! Files that are in memory alone and go with their descriptor.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Write as _},
};

use nix::sys::{
    memfd::{MFdFlags, memfd_create},
    stat::{Mode, fchmod},
};

/// A file with this content, mode 0600. Its name is seen in /proc alone.
pub fn in_memory(name: &CStr, content: &[u8]) -> io::Result<File> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC)?;
    // The kernel makes it with mode 0777, and ssh takes no key that others may read.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    Ok(file)
}
