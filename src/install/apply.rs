//! Puts what is wanted into a root file system, path by path, and records it.

use nix::unistd::{Gid, Uid, geteuid};

use super::{
    InstallError, Outcome, Report,
    contents::{Content, Edits, Piece, Wanted},
    decision::{Action, OnDisk, decide},
    manifest::{MANIFEST, Manifest, Sha256Hex},
};
use crate::{
    keys::BESIDE_SUFFIX,
    limits,
    sys::root_dir::{Entry, Existing, OpenFile, Owner, RootDir, RootDirError},
};

/// Mode of directories, guestd's own and those that are missing above a file.
const DIRECTORY_MODE: u32 = 0o755;

/// Write permission for others than the owner, with which sshd refuses what is below.
const OTHERS_WRITE: u32 = 0o022;

/// Installs everything in `wanted` and brings the record up to date. Says what was done for each path.
pub(super) fn apply(root: &RootDir, wanted: &[Wanted<'_>]) -> Result<Report, InstallError> {
    // Without privileges files are the builder's; whoever packs the image has to give them to root.
    let owner = geteuid().is_root().then_some((Uid::from_raw(0), Gid::from_raw(0)));
    let mut report = Report::default();
    let manifest = read_manifest(root, &mut report)?;
    let mut image = Image { root, owner, manifest, report };
    for Wanted { path, piece } in wanted {
        match piece {
            Piece::Directory => image.directory(path)?,
            Piece::File { content, mode, edits } => image.file(path, content, *mode, *edits)?,
            Piece::Link { target } => image.link(path, target)?,
        }
    }
    // Last: after an interrupted run a file then counts as edited at worst, and is kept.
    let record = Content::Text(image.manifest.to_string().into());
    image.file(MANIFEST, &record, 0o644, Edits::Replaced)?;
    Ok(image.report)
}

fn read_manifest(root: &RootDir, report: &mut Report) -> Result<Manifest, RootDirError> {
    let Entry::File(file) = root.look(MANIFEST)? else { return Ok(Manifest::default()) };
    let content = file.read(limits::INSTALL_MANIFEST_BYTES)?;
    let (manifest, malformed) = Manifest::parse(&String::from_utf8_lossy(&content));
    if malformed > 0 {
        report.notes.push(format!("{malformed} lines of {MANIFEST} are not readable; their files count as edited"));
    }
    Ok(manifest)
}

struct Image<'run> {
    root: &'run RootDir,
    owner: Owner,
    manifest: Manifest,
    report: Report,
}

impl Image<'_> {
    fn directory(&mut self, path: &str) -> Result<(), InstallError> {
        let outcome = match self.root.follow_directory(path)? {
            None => {
                self.root.make_directories(path, DIRECTORY_MODE, self.owner)?;
                Outcome::Created
            }
            // A stricter mode is its owner's choice.
            Some(found) if found.mode & OTHERS_WRITE == 0 && self.owned(&found) => Outcome::Unchanged,
            Some(found) => {
                found.set_access(DIRECTORY_MODE, self.owner)?;
                Outcome::Updated
            }
        };
        self.report.push(path, outcome, None);
        Ok(())
    }

    fn file(&mut self, path: &str, content: &Content<'_>, mode: u32, edits: Edits) -> Result<(), InstallError> {
        let new = content.hash()?;
        let entry = self.root.look(path)?;
        let on_disk = match &entry {
            Entry::Absent => OnDisk::Absent,
            Entry::File(file) => {
                OnDisk::File { content: hash_of_file(file)?, access: file.mode == mode && self.owned(file) }
            }
            Entry::Link(_) => OnDisk::Link,
            Entry::Directory => return Err(self.in_the_way(path, "a directory")),
            Entry::Special => return Err(self.in_the_way(path, "a device, pipe or socket")),
        };
        let action = decide(&on_disk, &new, self.manifest.recorded(path), edits);
        let (outcome, remark) = match (action, &entry) {
            (Action::Create, _) => {
                self.make_parent(path)?;
                self.write(path, content, mode)?;
                (Outcome::Created, None)
            }
            (Action::Replace, _) => {
                self.write(path, content, mode)?;
                (Outcome::Updated, None)
            }
            (Action::Mend, Entry::File(file)) => {
                let (was, uid, gid) = (file.mode, file.uid, file.gid);
                file.set_access(mode, self.owner)?;
                (Outcome::Updated, Some(format!("mode and owner, which were {was:04o} {uid}:{gid}")))
            }
            (Action::Leave | Action::Mend, _) => (Outcome::Unchanged, None),
            (Action::Beside, _) => {
                let beside = format!("{path}{BESIDE_SUFFIX}");
                self.write_beside(&beside, content, &new, mode)?;
                (Outcome::Kept, Some(format!("edited; the version that comes with guestd is {beside}")))
            }
        };
        if outcome != Outcome::Kept && path != MANIFEST {
            self.manifest.record(path, new);
        }
        self.report.push(path, outcome, remark);
        Ok(())
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), InstallError> {
        let (outcome, remark) = match self.root.look(path)? {
            Entry::Absent => {
                self.make_parent(path)?;
                self.root.make_link(path, target)?;
                (Outcome::Created, None)
            }
            Entry::Link(found) if found.as_os_str() == target => (Outcome::Unchanged, None),
            Entry::Link(found) => (Outcome::Kept, Some(format!("points to {}, not to {target}", found.display()))),
            _ => (Outcome::Kept, Some(format!("is no link to {target}"))),
        };
        self.report.push(path, outcome, remark);
        Ok(())
    }

    fn write_beside(&self, path: &str, content: &Content<'_>, new: &Sha256Hex, mode: u32) -> Result<(), InstallError> {
        match self.root.look(path)? {
            Entry::File(file) if file.mode == mode && hash_of_file(&file)? == *new => Ok(()),
            Entry::Directory => Err(self.in_the_way(path, "a directory")),
            _ => self.write(path, content, mode),
        }
    }

    fn write(&self, path: &str, content: &Content<'_>, mode: u32) -> Result<(), InstallError> {
        self.root.write(path, &mut content.reader()?, mode, self.owner, Existing::Replace)?;
        Ok(())
    }

    fn make_parent(&self, path: &str) -> Result<(), RootDirError> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.root.make_directories(parent, DIRECTORY_MODE, self.owner).map(drop)
    }

    fn owned(&self, file: &OpenFile) -> bool {
        self.owner.is_none_or(|(uid, gid)| file.uid == uid.as_raw() && file.gid == gid.as_raw())
    }

    fn in_the_way(&self, path: &str, what: &'static str) -> InstallError {
        InstallError::InTheWay { path: self.root.path().join(path.trim_start_matches('/')), what }
    }
}

fn hash_of_file(file: &OpenFile) -> Result<Sha256Hex, RootDirError> {
    Sha256Hex::of_stream(&mut file.reader()).map_err(|source| RootDirError::Content {
        action: "read",
        path: file.path().to_owned(),
        source,
    })
}
