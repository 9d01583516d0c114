//! A file system that is made as large as its device, or as large as somebody says.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::api::{DiskGrow, DiskGrown, ErrorCode, GenerationPhase, GenerationState};
use crate::limits;
use crate::sys::filesystem::{FsKind, Mounted, device_bytes};
use crate::sys::mountinfo;

/// A device that is larger by less is no larger: the end of a file system is rounded down to its groups.
const LEAST_GROWTH: u64 = 1024 * 1024;

/// Why a disk does not grow.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// A path that is no mount point.
    #[error("nothing is mounted at {path:?}; name a mount point of ext4 or xfs, such as `/`")]
    NotMounted {
        /// The path.
        path: String,
    },
    /// Another file system.
    #[error("{path} is {kind}, and only ext4 and xfs grow while they are in use")]
    Kind {
        /// The mount point.
        path: String,
        /// What it is.
        kind: String,
    },
    /// Less than there is.
    #[error("{path} has {has} bytes and cannot be made smaller, {asked} were asked for")]
    Shrink {
        /// The mount point.
        path: String,
        /// Its size.
        has: u64,
        /// What was asked for.
        asked: u64,
    },
    /// More than the device.
    #[error("{device} has {has} bytes, {asked} were asked for; grow the device first")]
    Device {
        /// The device.
        device: String,
        /// Its size.
        has: u64,
        /// What was asked for.
        asked: u64,
    },
    /// It is frozen, or about to be.
    #[error("the VM is prepared for a commit: what is frozen cannot grow; thaw it first (`guestctl snapshot thaw`)")]
    Frozen,
    /// It takes too long.
    #[error(
        "{path} has not grown within {secs} s: it may be frozen by somebody (`fsfreeze -u {path}`), or its device stuck; it goes on trying"
    )]
    Late {
        /// The mount point.
        path: String,
        /// How long it was waited for.
        secs: u64,
    },
    /// Another one is under way.
    #[error("a file system is being grown; ask again when that is done")]
    Busy,
    /// A system call failed.
    #[error("{what}: {source}")]
    Call {
        /// What was tried, on what.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

impl GrowError {
    /// For programs.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotMounted { .. } | Self::Kind { .. } | Self::Shrink { .. } | Self::Device { .. } => {
                ErrorCode::InvalidField
            }
            Self::Frozen => ErrorCode::Conflict,
            Self::Late { .. } | Self::Busy => ErrorCode::Unavailable,
            Self::Call { .. } => ErrorCode::Internal,
        }
    }
}

/// The VM's disks, of which one grows at a time.
#[derive(Debug)]
pub struct Disks {
    generation: watch::Receiver<Arc<GenerationState>>,
    turn: Arc<Semaphore>,
}

impl Disks {
    /// That do not grow while the VM is prepared for a commit.
    pub fn new(generation: watch::Receiver<Arc<GenerationState>>) -> Self {
        Self { generation, turn: Arc::new(Semaphore::new(1)) }
    }

    /// What tells when they may grow.
    pub(super) fn generation(&self) -> watch::Receiver<Arc<GenerationState>> {
        self.generation.clone()
    }

    /// Grows one. Nothing to do is a success, so that a call can be repeated.
    ///
    /// # Errors
    /// Why it does not; its size is then as it was.
    pub async fn grow(&self, order: DiskGrow) -> Result<DiskGrown, GrowError> {
        if self.generation.borrow().phase == GenerationPhase::Prepared {
            return Err(GrowError::Frozen);
        }
        let turn = Arc::clone(&self.turn).try_acquire_owned().map_err(|_| GrowError::Busy)?;
        let path = order.path.clone().unwrap_or_else(|| "/".to_owned());
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            grow(&order)
        });
        let late = || GrowError::Late { path, secs: limits::DISK_GROW_TIME.as_secs() };
        let done = timeout(limits::DISK_GROW_TIME, work).await.map_err(|_| late())?;
        done.unwrap_or_else(|error| Err(call("growing a file system")(io::Error::other(error))))
    }
}

fn call(what: impl Into<String>) -> impl FnOnce(io::Error) -> GrowError {
    move |source| GrowError::Call { what: what.into(), source }
}

/// What is mounted at a path, by mountinfo of proc(5).
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// `major:minor`.
    device: String,
    kind: String,
}

/// Grows one, for a caller that nobody has told of commits. Nothing to do is a success.
///
/// # Errors
/// Why it does not; its size is then as it was.
pub fn grow(order: &DiskGrow) -> Result<DiskGrown, GrowError> {
    let path = order.path.clone().unwrap_or_else(|| "/".to_owned());
    let info = std::fs::read_to_string("/proc/self/mountinfo").map_err(call("reading /proc/self/mountinfo"))?;
    let mount = find(&info, &path).ok_or_else(|| GrowError::NotMounted { path: path.clone() })?;
    let kind = match mount.kind.as_str() {
        "ext4" | "ext3" | "ext2" => FsKind::Ext4,
        "xfs" => FsKind::Xfs,
        _ => return Err(GrowError::Kind { path, kind: mount.kind }),
    };
    let name = name_of(&mount.device).map_err(call(format!("looking for the device {}", mount.device)))?;
    let device = File::open(&name).map_err(call(format!("opening {}", name.display())))?;
    let on_device = |what: &str| format!("{what} {}", name.display());
    let mounted = Mounted::open(Path::new(&path)).map_err(call(format!("opening {path}")))?;
    let device_bytes = device_bytes(&device).map_err(call(on_device("asking for the size of")))?;
    let before = mounted.size(kind, &device).map_err(call(on_device("asking for the size of the file system on")))?;
    let shown = name.display().to_string();
    let wanted = wanted(order.size_bytes, before.bytes(), device_bytes, &path, &shown)?;
    let mut grown = DiskGrown {
        path,
        filesystem: mount.kind,
        device: shown,
        grown: false,
        before_bytes: before.bytes(),
        after_bytes: before.bytes(),
        device_bytes,
    };
    if let Some(bytes) = wanted {
        let blocks = bytes / before.block_bytes;
        mounted.grow(kind, before, blocks).map_err(call(format!("growing {} on {}", grown.path, grown.device)))?;
        let after =
            mounted.size(kind, &device).map_err(call(on_device("asking for the size of the file system on")))?;
        grown.after_bytes = after.bytes();
        grown.grown = after.bytes() > before.bytes();
    }
    Ok(grown)
}

/// To how many bytes; none where it is large enough.
fn wanted(asked: Option<u64>, has: u64, device: u64, path: &str, name: &str) -> Result<Option<u64>, GrowError> {
    match asked {
        Some(asked) if asked < has => Err(GrowError::Shrink { path: path.to_owned(), has, asked }),
        Some(asked) if asked > device => Err(GrowError::Device { device: name.to_owned(), has: device, asked }),
        Some(asked) => Ok((asked > has).then_some(asked)),
        None => Ok((device >= has.saturating_add(LEAST_GROWTH)).then_some(device)),
    }
}

/// The last mount at a path is the one that is seen.
fn find(mountinfo: &str, path: &str) -> Option<Mount> {
    let mut mounts = mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (device, _, point) = (fields.next()?, fields.next()?, fields.next()?);
        (mountinfo::unescape(point.as_bytes()) == Path::new(path)).then(|| Mount {
            device: device.to_owned(),
            kind: file_system.split(' ').next().unwrap_or_default().to_owned(),
        })
    });
    mounts.next_back()
}

/// Where the device of these numbers is.
fn name_of(numbers: &str) -> io::Result<PathBuf> {
    let event = std::fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent"))?;
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| Path::new("/dev").join(name)).ok_or_else(|| io::Error::other("its uevent file has no DEVNAME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
22 21 0:5 / /dev rw - devtmpfs dev rw
30 21 7:0 / /srv/data rw - tmpfs none rw
31 30 254:16 / /srv/data rw - xfs /dev/vdb rw
32 21 254:32 / /srv/my\\040data rw - ext4 /dev/vdc rw
";

    #[test]
    fn what_is_mounted_last_counts() {
        let mount = |device: &str, kind: &str| Some(Mount { device: device.to_owned(), kind: kind.to_owned() });
        assert_eq!(find(INFO, "/"), mount("254:0", "ext4"));
        assert_eq!(find(INFO, "/srv/data"), mount("254:16", "xfs"));
        assert_eq!(find(INFO, "/srv/my data"), mount("254:32", "ext4"));
        assert_eq!(find(INFO, "/srv"), None);
    }

    #[test]
    fn a_disk_never_shrinks_and_never_outgrows_its_device() {
        let wanted = |asked, has, device| wanted(asked, has, device, "/", "/dev/vda");
        assert!(matches!(wanted(Some(9), 10, 20), Err(GrowError::Shrink { has: 10, asked: 9, .. })));
        assert!(matches!(wanted(Some(21), 10, 20), Err(GrowError::Device { has: 20, asked: 21, .. })));
        assert_eq!(wanted(Some(10), 10, 20).unwrap(), None);
        assert_eq!(wanted(Some(15), 10, 20).unwrap(), Some(15));
        // A rest of less than a group is no growth, or the kernel would be asked at each start.
        assert_eq!(wanted(None, 10, 20).unwrap(), None);
        assert_eq!(wanted(None, 10, 10 + LEAST_GROWTH).unwrap(), Some(10 + LEAST_GROWTH));
    }

    #[tokio::test]
    async fn what_is_prepared_for_a_commit_does_not_grow() {
        let state = GenerationState { phase: GenerationPhase::Prepared, ..GenerationState::default() };
        let (_state, states) = watch::channel(Arc::new(state));
        let error = Disks::new(states).grow(DiskGrow::default()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Conflict);
    }

    #[tokio::test]
    async fn what_cannot_grow_is_told_with_the_reason() {
        let (_state, states) = watch::channel(Arc::default());
        let disks = Disks::new(states);
        for (path, code) in [("/proc", ErrorCode::InvalidField), ("/nowhere", ErrorCode::InvalidField)] {
            let error = disks.grow(DiskGrow { path: Some(path.to_owned()), size_bytes: None }).await.unwrap_err();
            assert_eq!(error.code(), code, "{error}");
        }
    }
}
