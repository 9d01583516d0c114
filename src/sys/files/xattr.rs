//! Extended attributes (xattr(7)) by descriptor. nix has no calls for them.

#![expect(unsafe_code, reason = "xattr(7) has no safe wrapper among our crates")]

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use super::c_string;
use crate::limits;

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Name, with its namespace: `user.x`.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// All attributes of an open file or directory, by name; none where the file system has none.
pub fn xattrs(fd: impl AsFd) -> io::Result<Vec<Xattr>> {
    let fd = fd.as_fd();
    let names = sized(|buffer| {
        // SAFETY: the descriptor is open while borrowed; the kernel writes at most `len` bytes at `ptr`, which are the slice's.
        unsafe { libc::flistxattr(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) }
    });
    let names = match names {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let c_name = c_string(name)?;
        let value = sized(|buffer| {
            // SAFETY: as above, and the name ends by NUL.
            unsafe { libc::fgetxattr(fd.as_raw_fd(), c_name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
        });
        match value {
            Ok(value) => found.push(Xattr { name: name.to_vec(), value }),
            // Removed meanwhile, or a name that the kernel lists and keeps to itself.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Sets an attribute of an open file or directory.
pub fn set_xattr(fd: impl AsFd, xattr: &Xattr) -> io::Result<()> {
    let name = c_string(&xattr.name)?;
    let (value, length) = (xattr.value.as_ptr().cast(), xattr.value.len());
    // SAFETY: the descriptor is open while borrowed, the name ends by NUL, and the kernel reads `length` bytes of the value.
    let result = unsafe { libc::fsetxattr(fd.as_fd().as_raw_fd(), name.as_ptr(), value, length, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where proc(5) shows a descriptor of this process.
pub(super) fn descriptor_path(fd: BorrowedFd<'_>) -> CString {
    // Digits and slashes hold no NUL.
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// Calls with a buffer that is large enough for most, then for all: Linux bounds lists and values at 64 KiB.
fn sized(mut call: impl FnMut(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    loop {
        let length = call(&mut buffer);
        match usize::try_from(length) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::ERANGE) || buffer.len() >= limits::XATTR_BYTES {
                    return Err(error);
                }
                buffer = vec![0; limits::XATTR_BYTES];
            }
        }
    }
}
