//! A small file of the guest that every command asks for and that hardly ever changes: read once, and again when it has changed.
//!
//! Whether it has is told by what stat(2) says. A change in the same tick of the kernel's clock as the last one could hide from
//! that, so what was read is kept only of a file that was left alone for a while before (the trouble that git calls racy).

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::limits;

/// A file at a path, and what was last in it.
#[derive(Debug)]
pub(super) struct KeptFile {
    path: PathBuf,
    limit: u64,
    kept: Mutex<Option<(Stamp, Arc<[u8]>)>>,
}

/// What changes with a file: device, inode, size, mtime and ctime in seconds and nanoseconds.
type Stamp = (u64, u64, u64, [i64; 4]);

fn stamp(found: &Metadata) -> Stamp {
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    (found.dev(), found.ino(), found.size(), times)
}

/// Whether nobody has changed it lately, by its ctime, which nobody can set.
fn is_settled(found: &Metadata) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(now).is_ok_and(|now| now - found.ctime() >= limits::KEPT_FILE_SETTLED_SECS)
}

impl KeptFile {
    /// Of no more than so many bytes.
    pub(super) fn new(path: &Path, limit: u64) -> Self {
        Self { path: path.to_owned(), limit, kept: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All that is in it now.
    ///
    /// # Errors
    /// Those of reading it, and `FileTooLarge` over the limit.
    pub(super) fn read(&self) -> io::Result<Arc<[u8]>> {
        let now = stamp(&fs::metadata(&self.path)?);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, bytes)) = kept.filter(|(before, _)| *before == now) {
            return Ok(bytes);
        }
        let file = File::open(&self.path)?;
        let found = file.metadata()?;
        let bytes: Arc<[u8]> = self.read_bounded(file, found.len())?.into();
        let keep = bytes.len() <= limits::KEPT_FILE_BYTES && is_settled(&found);
        let kept = keep.then(|| (stamp(&found), Arc::clone(&bytes)));
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(bytes)
    }

    fn read_bounded(&self, file: File, size: u64) -> io::Result<Vec<u8>> {
        // In one piece; of what is no regular file the size says nothing.
        let size = usize::try_from(size.min(self.limit)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(size + 1);
        let read = file.take(self.limit + 1).read_to_end(&mut bytes)?;
        if read as u64 > self.limit {
            let text = format!("it is larger than {} bytes", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn write(path: &Path, text: &str, age: Duration) {
        fs::write(path, text).unwrap();
        File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn a_change_is_seen_at_once_be_it_of_the_same_size_in_the_same_instant() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        let file = KeptFile::new(&path, 100);
        assert_eq!(file.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        for round in 0..50 {
            let text = format!("{round:03}");
            // An mtime set back hides nothing: ctime cannot be.
            write(&path, &text, Duration::from_secs(3600));
            assert_eq!(&*file.read().unwrap(), text.as_bytes());
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(file.read().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_was_left_alone_is_read_once() {
        // No file of ours can be old by its ctime; this one of the machine's is.
        let file = KeptFile::new(Path::new("/etc/passwd"), 1 << 20);
        let (first, second) = (file.read().unwrap(), file.read().unwrap());
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("group");
        fs::write(&path, "12345").unwrap();
        assert_eq!(KeptFile::new(&path, 5).read().unwrap().len(), 5);
        assert_eq!(KeptFile::new(&path, 4).read().unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
