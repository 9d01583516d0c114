//! What is to be taken out of an image, by the record: what is as it was installed goes, what somebody edited stays and is named.

use std::collections::BTreeSet;

use super::{
    InstallError, Outcome,
    manifest::{Manifest, Sha256Hex},
    plan::{Act, SAVED_SUFFIX, Step, hash_of_file, rewrite},
};
use crate::{
    limits,
    marked::{self, Marked},
    sys::root_dir::{Entry, RootDir},
};

/// Collects the steps. Each kind is asked for with a choice among its paths.
pub(super) struct Removal<'image> {
    root: &'image RootDir,
    record: &'image Manifest,
    steps: Vec<Step<'static>>,
    /// Paths that will not be there any more.
    gone: BTreeSet<String>,
}

impl<'image> Removal<'image> {
    pub(super) fn new(root: &'image RootDir, record: &'image Manifest) -> Self {
        Self { root, record, steps: Vec::new(), gone: BTreeSet::new() }
    }

    /// The steps, and the paths that will be gone after them.
    pub(super) fn end(self) -> (Vec<Step<'static>>, BTreeSet<String>) {
        (self.steps, self.gone)
    }

    pub(super) fn remove(&mut self, path: &str) {
        self.gone.insert(path.to_owned());
        self.step(path, Act::Remove, Outcome::Removed, None);
    }

    fn step(&mut self, path: &str, act: Act<'static>, outcome: Outcome, remark: Option<String>) {
        self.steps.push(Step::new(path, act, outcome, remark));
    }

    fn keep(&mut self, path: &str, why: &str) {
        self.step(path, Act::Nothing, Outcome::Kept, Some(why.to_owned()));
    }

    pub(super) fn files(&mut self, chosen: impl Fn(&str) -> bool) -> Result<(), InstallError> {
        for path in self.record.files.paths().filter(|path| chosen(path)) {
            match self.root.look(path)? {
                Entry::Absent => {}
                Entry::File(file) if self.record.files.has(path, &hash_of_file(&file)?) => self.remove(path),
                _ => self.keep(path, "edited since it was installed"),
            }
        }
        Ok(())
    }

    pub(super) fn links(&mut self, chosen: impl Fn(&str) -> bool) -> Result<(), InstallError> {
        for (path, target) in self.record.links.iter().filter(|(path, _)| chosen(path)) {
            let saved = format!("{path}{SAVED_SUFFIX}");
            let has_saved = self.record.saved.contains(path) && !matches!(self.root.look(&saved)?, Entry::Absent);
            match self.root.look(path)? {
                Entry::Link(found) if found.as_os_str() == target.as_str() => {
                    if has_saved {
                        self.gone.insert(saved.clone());
                        self.step(path, Act::Restore, Outcome::Updated, Some(format!("back from {saved}")));
                    } else {
                        self.remove(path);
                    }
                }
                // An interrupted run has given the second name, and not made the link.
                _ if has_saved && self.root.is_one(path, &saved)? => self.remove(&saved),
                Entry::Absent if has_saved => {
                    self.gone.insert(saved.clone());
                    self.step(path, Act::Restore, Outcome::Updated, Some(format!("back from {saved}")));
                }
                Entry::Absent => {}
                _ if has_saved => self.keep(path, &format!("changed since; what was there before guestd is {saved}")),
                _ => self.keep(path, "changed since it was installed"),
            }
        }
        Ok(())
    }

    pub(super) fn lines(&mut self, chosen: impl Fn(&str) -> bool) -> Result<(), InstallError> {
        for path in self.record.lines.paths().filter(|path| chosen(path)) {
            let Entry::File(file) = self.root.look(path)? else { continue };
            let text = file.read(limits::INSTALL_FOREIGN_FILE_BYTES)?;
            match (marked::find(&text), marked::take(&text)) {
                (Marked::Absent, _) => {}
                (Marked::Lines(found), Some(without)) if self.record.lines.has(path, &Sha256Hex::of(found)) => {
                    let remark = "guestd's own lines taken out".to_owned();
                    self.step(path, rewrite(&file, without), Outcome::Updated, Some(remark));
                }
                _ => self.keep(path, "guestd's own lines in it are edited and stay"),
            }
        }
        Ok(())
    }

    /// Directories that guestd has made and in which nothing is left, the lowest first; with `tell` others are named.
    pub(super) fn directories(&mut self, chosen: impl Fn(&str) -> bool, tell: bool) -> Result<(), InstallError> {
        for path in self.record.directories.iter().rev().filter(|path| chosen(path)) {
            if !matches!(self.root.look(path)?, Entry::Directory) {
                continue;
            }
            let names = self.root.names(path, limits::INSTALL_DIRECTORY_ENTRIES)?;
            let stays = |name: &std::ffi::OsString| {
                name.to_str().is_none_or(|name| !self.gone.contains(&format!("{path}/{name}")))
            };
            if !names.iter().any(stays) {
                self.gone.insert(path.clone());
                self.step(path, Act::RemoveDirectory, Outcome::Removed, None);
            } else if tell {
                self.keep(path, "not empty");
            }
        }
        Ok(())
    }
}
