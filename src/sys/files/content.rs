//! Where a file has data and where it has holes (SEEK_DATA and SEEK_HOLE of lseek(2)).

use std::{fs::File, io};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};

/// A range of a file that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// The data of the first `size` bytes of a file, in order. Of more than `limit` segments the last takes in all that follows,
/// its holes as zeros.
pub fn segments(file: &File, size: u64, limit: usize) -> io::Result<Vec<Segment>> {
    let whole = vec![Segment { offset: 0, length: size }];
    let seek = |from: u64, whence| -> nix::Result<u64> {
        let offset = lseek(file, from.try_into().map_err(|_| Errno::EOVERFLOW)?, whence)?;
        u64::try_from(offset).map_err(|_| Errno::EOVERFLOW)
    };
    let mut found = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match seek(position, Whence::SeekData) {
            Ok(start) if start < size => start,
            // No data from here on.
            Ok(_) | Err(Errno::ENXIO) => break,
            // A file system that does not know about holes.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(whole),
            Err(errno) => return Err(errno.into()),
        };
        let end = if found.len() + 1 >= limit { size } else { seek(start, Whence::SeekHole)?.min(size) };
        if end <= start {
            // Cut short under our hands.
            break;
        }
        found.push(Segment { offset: start, length: end - start });
        position = end;
    }
    Ok(found)
}
