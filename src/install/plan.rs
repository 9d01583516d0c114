//! What an installation will do, step by step, from looking at the image: nothing is written here.

use std::{borrow::Cow, collections::BTreeSet};

use nix::unistd::{Gid, Uid, geteuid};

use super::{
    InstallError, Outcome,
    contents::{Content, Edits, Former, Piece, Selection, Wanted},
    decision::{Action, InPlace, LinesAction, LinkAction, OnDisk, SavedName, decide, decide_lines, decide_link},
    manifest::{MANIFEST, Manifest, Sha256Hex},
    removal::Removal,
    report::Line,
};
use crate::{
    keys::BESIDE_SUFFIX,
    limits,
    marked::{self, Marked},
    sys::root_dir::{Entry, Existing, OpenFile, Owner, RootDir, RootDirError},
};

/// Write permission for others than the owner, with which sshd refuses what is below.
const OTHERS_WRITE: u32 = 0o022;

/// What is added to the name of what a link of guestd's takes the place of.
pub(super) const SAVED_SUFFIX: &str = ".guestd-saved";

/// One path: what is to be done there, and what is to be said of it.
pub(super) struct Step<'run> {
    pub(super) act: Act<'run>,
    pub(super) line: Line,
}

/// What is to be done at a path.
pub(super) enum Act<'run> {
    Nothing,
    MakeDirectory,
    /// Set mode and owner of what is there.
    SetAccess(u32),
    Write {
        content: Content<'run>,
        mode: u32,
        existing: Existing,
    },
    /// Write what belongs to somebody else, who keeps it.
    Rewrite {
        text: Vec<u8>,
        mode: u32,
        owner: Owner,
    },
    MakeLink(&'static str),
    ReplaceLink(&'static str),
    /// Give what is there its other name first.
    SaveAndLink(&'static str),
    Remove,
    RemoveDirectory,
    /// Give what has the other name its own again.
    Restore,
}

impl<'run> Step<'run> {
    pub(super) fn new(path: &str, act: Act<'run>, outcome: Outcome, remark: Option<String>) -> Self {
        Self { act, line: Line { path: path.to_owned(), outcome, remark } }
    }
}

/// What will be done, and what the record says meanwhile and afterwards.
pub(super) struct Plan<'run> {
    pub(super) steps: Vec<Step<'run>>,
    /// The record from before the first step on, where it has to say more than it does.
    pub(super) meanwhile: Option<String>,
    pub(super) notes: Vec<String>,
}

/// Whom what is installed belongs to. Without privileges it is the builder's; whoever packs the image has to give it to root.
pub(super) fn owner() -> Owner {
    geteuid().is_root().then_some((Uid::from_raw(0), Gid::from_raw(0)))
}

/// Reads the record, if there is one, with what is to be said of it.
pub(super) fn read_manifest(root: &RootDir) -> Result<Option<(Manifest, Option<String>)>, RootDirError> {
    let Entry::File(file) = root.look(MANIFEST)? else { return Ok(None) };
    let content = file.read(limits::INSTALL_MANIFEST_BYTES)?;
    let (manifest, malformed) = Manifest::parse(&String::from_utf8_lossy(&content));
    let note = (malformed > 0)
        .then(|| format!("{malformed} lines of {MANIFEST} are not readable; what they were about counts as edited"));
    Ok(Some((manifest, note)))
}

/// Plans to put all of `wanted` into an image, and to take out what a former run has put there and this one does not want.
pub(super) fn plan<'run>(
    root: &RootDir,
    wanted: Vec<Wanted<'run>>,
    selection: &Selection<'_>,
) -> Result<Plan<'run>, InstallError> {
    let (before, note) = read_manifest(root)?.unwrap_or_default();
    let after = Manifest { directories: before.directories.clone(), ..Manifest::default() };
    let mut planner = Planner { root, owner: owner(), before, after, steps: Vec::new(), seen: BTreeSet::new() };
    for Wanted { path, piece } in wanted {
        planner.seen.insert(path.clone().into_owned());
        match piece {
            Piece::Directory { roots_alone } => planner.directory(&path, roots_alone)?,
            Piece::File { content, mode, edits } => planner.file(&path, content, mode, edits)?,
            Piece::Link { target, former } => planner.link(&path, target, former)?,
            Piece::Lines(lines) => planner.lines(&path, lines)?,
        }
    }
    planner.former(selection)?;
    let both = planner.before.with(&planner.after);
    let meanwhile = (both != planner.before).then(|| both.to_string());
    let record = Content::Text(planner.after.to_string().into());
    planner.file(MANIFEST, record, 0o644, Edits::Replaced)?;
    Ok(Plan { steps: planner.steps, meanwhile, notes: note.into_iter().collect() })
}

struct Planner<'run, 'image> {
    root: &'image RootDir,
    owner: Owner,
    /// What the record says.
    before: Manifest,
    /// What it will say.
    after: Manifest,
    steps: Vec<Step<'run>>,
    /// Paths for which there are steps.
    seen: BTreeSet<String>,
}

impl<'run> Planner<'run, '_> {
    fn step(&mut self, path: &str, act: Act<'run>, outcome: Outcome, remark: Option<String>) {
        self.steps.push(Step::new(path, act, outcome, remark));
    }

    fn directory(&mut self, path: &str, roots_alone: bool) -> Result<(), InstallError> {
        let (act, outcome) = match self.root.follow_directory(path)? {
            None => {
                self.missing(path)?;
                (Act::MakeDirectory, Outcome::Created)
            }
            // A stricter mode is its owner's choice.
            Some(found) if !roots_alone || found.mode & OTHERS_WRITE == 0 && self.owned(&found) => {
                (Act::Nothing, Outcome::Unchanged)
            }
            Some(_) => (Act::SetAccess(DIRECTORY_MODE), Outcome::Updated),
        };
        self.step(path, act, outcome, None);
        Ok(())
    }

    fn file(&mut self, path: &str, content: Content<'run>, mode: u32, edits: Edits) -> Result<(), InstallError> {
        self.left_behind(path)?;
        let new = content.hash()?;
        let entry = self.root.look(path)?;
        let on_disk = match &entry {
            Entry::Absent => OnDisk::Absent,
            Entry::File(file) => {
                let found = hash_of_file(file)?;
                OnDisk::File {
                    is_new: found == new,
                    is_recorded: self.before.files.has(path, &found),
                    access: file.mode == mode && self.owned(file),
                }
            }
            Entry::Link(_) => OnDisk::Link,
            Entry::Directory => return Err(self.in_the_way(path, "a directory")),
            Entry::Special => return Err(self.in_the_way(path, "a device, pipe or socket")),
        };
        // What appears there in the meantime is somebody's.
        let existing = if edits == Edits::Kept { Existing::Refuse } else { Existing::Replace };
        let action = decide(on_disk, edits);
        match action {
            Action::Beside => self.after.files.keep(path, &self.before.files),
            _ if path == MANIFEST => {}
            _ => self.after.files.record(path, new.clone()),
        }
        match (action, &entry) {
            (Action::Create, _) => {
                self.missing_above(path)?;
                self.step(path, Act::Write { content, mode, existing }, Outcome::Created, None);
            }
            (Action::Replace, _) => {
                let act = Act::Write { content, mode, existing: Existing::Replace };
                self.step(path, act, Outcome::Updated, None);
            }
            (Action::Mend, Entry::File(file)) => {
                let remark = format!("mode and owner, which were {:04o} {}:{}", file.mode, file.uid, file.gid);
                self.step(path, Act::SetAccess(mode), Outcome::Updated, Some(remark));
            }
            (Action::Leave | Action::Mend, _) => self.step(path, Act::Nothing, Outcome::Unchanged, None),
            (Action::Beside, _) => {
                let beside = format!("{path}{BESIDE_SUFFIX}");
                let remark = format!("edited; the version that comes with guestd is {beside}");
                self.step(path, Act::Nothing, Outcome::Kept, Some(remark));
                self.seen.insert(beside.clone());
                self.file(&beside, content, mode, Edits::Replaced)?;
            }
        }
        Ok(())
    }

    fn link(&mut self, path: &str, target: &'static str, former: Former) -> Result<(), InstallError> {
        self.left_behind(path)?;
        let saved = format!("{path}{SAVED_SUFFIX}");
        let entry = self.root.look(path)?;
        let found = match &entry {
            Entry::Link(found) => found.to_string_lossy(),
            _ => Cow::Borrowed(""),
        };
        let there = match &entry {
            Entry::Absent => InPlace::Absent,
            Entry::Link(_) => InPlace::Link(&found),
            // No second name can be given to it.
            Entry::Directory if former == Former::Saved => return Err(self.in_the_way(path, "a directory")),
            _ => InPlace::Other,
        };
        let saved_entry = self.root.look(&saved)?;
        let saved_name = match &saved_entry {
            Entry::Absent => SavedName::Free,
            _ if self.root.is_one(path, &saved)? => SavedName::TheSame,
            _ => SavedName::Taken,
        };
        let recorded = self.before.links.get(path).cloned();
        let action = decide_link(there, target, recorded.as_deref(), former, saved_name);
        let (act, outcome, remark) = match action {
            LinkAction::Create => {
                self.missing_above(path)?;
                (Act::MakeLink(target), Outcome::Created, None)
            }
            LinkAction::Leave => (Act::Nothing, Outcome::Unchanged, None),
            LinkAction::Replace => (Act::ReplaceLink(target), Outcome::Updated, Some(format!("pointed to {found}"))),
            LinkAction::Save => {
                (Act::SaveAndLink(target), Outcome::Updated, Some(format!("what was there is {saved} now")))
            }
            LinkAction::Keep => {
                let is = match there {
                    InPlace::Link(found) => format!("points to {found}, not to {target}"),
                    _ => format!("is no link to {target}"),
                };
                let taken = match former {
                    Former::Saved => format!(", and there is something under {saved} as well; remove one of them"),
                    Former::Kept => String::new(),
                };
                (Act::Nothing, Outcome::Kept, Some(is + &taken))
            }
        };
        if action == LinkAction::Keep {
            self.after.links.extend(recorded.map(|target| (path.to_owned(), target)));
        } else {
            self.after.links.insert(path.to_owned(), target.to_owned());
        }
        // It is there from an interrupted run too, of which there is no record.
        if former == Former::Saved && (action == LinkAction::Save || !matches!(saved_entry, Entry::Absent)) {
            self.after.saved.insert(path.to_owned());
        }
        self.step(path, act, outcome, remark);
        Ok(())
    }

    fn lines(&mut self, path: &str, lines: &'static str) -> Result<(), InstallError> {
        self.left_behind(path)?;
        let Entry::File(file) = self.root.look(path)? else { return Err(self.in_the_way(path, "no file")) };
        let text = file.read(limits::INSTALL_FOREIGN_FILE_BYTES)?;
        let there = marked::find(&text);
        let is_recorded = match there {
            Marked::Lines(found) => self.before.lines.has(path, &Sha256Hex::of(found)),
            Marked::Absent | Marked::Broken => false,
        };
        let (act, outcome, remark) = match decide_lines(there, lines, is_recorded) {
            LinesAction::Leave => (Act::Nothing, Outcome::Unchanged, None),
            LinesAction::Put => match marked::put(&text, lines) {
                Some(text) => (rewrite(&file, text), Outcome::Updated, Some("lines of guestd's own put in".to_owned())),
                None => (Act::Nothing, Outcome::Kept, None),
            },
            LinesAction::Keep => {
                let remark =
                    format!("guestd's own lines in it are edited; those that come with guestd: {}", lines.trim_end());
                (Act::Nothing, Outcome::Kept, Some(remark))
            }
        };
        if outcome == Outcome::Kept {
            self.after.lines.keep(path, &self.before.lines);
        } else {
            self.after.lines.record(path, Sha256Hex::of(lines.as_bytes()));
        }
        self.step(path, act, outcome, remark);
        Ok(())
    }

    /// What a former run has put into the image, for another init system for one, and this run has nothing for.
    fn former(&mut self, selection: &Selection<'_>) -> Result<(), InstallError> {
        let stays: Vec<_> = self.before.files.paths().filter(|path| selection.stays(path)).map(str::to_owned).collect();
        for path in stays {
            if self.seen.insert(path.clone()) {
                self.after.files.keep(&path, &self.before.files);
            }
        }
        let mut removal = Removal::new(self.root, &self.before);
        removal.links(|path| !self.seen.contains(path))?;
        removal.lines(|path| !self.seen.contains(path))?;
        removal.files(|path| !self.seen.contains(path))?;
        let needed = |directory: &str| {
            let inside = format!("{directory}/");
            self.seen.iter().any(|path| path == directory || path.starts_with(&inside)) || MANIFEST.starts_with(&inside)
        };
        removal.directories(|directory| !needed(directory), false)?;
        let (steps, removed) = removal.end();
        self.after.directories.retain(|directory| !removed.contains(directory));
        self.steps.extend(steps);
        Ok(())
    }

    /// Temporary files and links beside `path` that a killed run has left.
    fn left_behind(&mut self, path: &str) -> Result<(), InstallError> {
        let (directory, name) = path.rsplit_once('/').unwrap_or_default();
        let temporary = format!(".{name}.guestd-tmp-");
        for name in self.root.names(directory, limits::INSTALL_DIRECTORY_ENTRIES)? {
            if let Some(name) = name.to_str().filter(|name| name.starts_with(&temporary)) {
                let remark = "left by a run that was killed".to_owned();
                self.step(&format!("{directory}/{name}"), Act::Remove, Outcome::Removed, Some(remark));
            }
        }
        Ok(())
    }

    /// Records the directories that are missing down to `path`; a link to nothing in their place is an error.
    fn missing(&mut self, path: &str) -> Result<(), InstallError> {
        let missing = self.root.missing_directories(path)?;
        self.after.directories.extend(missing);
        Ok(())
    }

    fn missing_above(&mut self, path: &str) -> Result<(), InstallError> {
        self.missing(path.rsplit_once('/').map_or("", |(parent, _)| parent))
    }

    fn owned(&self, file: &OpenFile) -> bool {
        self.owner.is_none_or(|(uid, gid)| file.uid == uid.as_raw() && file.gid == gid.as_raw())
    }

    fn in_the_way(&self, path: &str, what: &'static str) -> InstallError {
        InstallError::InTheWay { path: self.root.path().join(path.trim_start_matches('/')), what }
    }
}

/// Mode of directories, guestd's own and those that are missing above a file.
pub(super) const DIRECTORY_MODE: u32 = 0o755;

/// The same file with another text.
pub(super) fn rewrite<'run>(file: &OpenFile, text: Vec<u8>) -> Act<'run> {
    let owner = geteuid().is_root().then(|| (Uid::from_raw(file.uid), Gid::from_raw(file.gid)));
    Act::Rewrite { text, mode: file.mode, owner }
}

pub(super) fn hash_of_file(file: &OpenFile) -> Result<Sha256Hex, RootDirError> {
    Sha256Hex::of_stream(&mut file.reader()).map_err(|source| RootDirError::Content {
        action: "read",
        path: file.path().to_owned(),
        source,
    })
}
