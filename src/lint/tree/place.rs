//! One file, directory or other of a tree: what is known of it, what is in it, where it leads.

use std::io::Read as _;

use super::{Facts, Kind, Node, Source, Tree, index};
use crate::limits;

/// A file, directory or other in a tree.
#[derive(Debug, Clone, Copy)]
pub(in crate::lint) struct Place<'tree> {
    pub(super) tree: &'tree Tree,
    pub(super) id: u32,
}

impl PartialEq for Place<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<'tree> Place<'tree> {
    fn node(self) -> &'tree Node {
        &self.tree.nodes[index(self.id)]
    }

    /// Its path for people; bytes that are no UTF-8 are shown as such.
    pub(in crate::lint) fn path(self) -> String {
        String::from_utf8_lossy(&self.tree.path(self.id)).into_owned()
    }

    pub(in crate::lint) fn name(self) -> &'tree [u8] {
        &self.node().name
    }

    pub(in crate::lint) fn facts(self) -> &'tree Facts {
        &self.node().facts
    }

    pub(in crate::lint) fn is_file(self) -> bool {
        self.facts().kind == Kind::File
    }

    pub(in crate::lint) fn is_directory(self) -> bool {
        self.facts().kind == Kind::Directory
    }

    /// The directory that it is in; that of the root is the root.
    pub(in crate::lint) fn parent(self) -> Self {
        Self { id: self.node().parent, ..self }
    }

    /// What is in it, sorted by name.
    pub(in crate::lint) fn children(self) -> impl DoubleEndedIterator<Item = Self> {
        self.node().children.clone().map(move |id| Self { id, ..self })
    }

    pub(in crate::lint) fn child(self, name: &[u8]) -> Option<Self> {
        let children = self.node().children.clone();
        let nodes = self.tree.nodes.get(index(children.start)..index(children.end))?;
        let at = nodes.binary_search_by(|node| (*node.name).cmp(name)).ok()?;
        Some(Self { id: children.start + u32::try_from(at).ok()?, ..self })
    }

    /// Calls `visit` with all that is below, parents first, in the order of names; into a directory only if it says so.
    pub(in crate::lint) fn walk(self, visit: &mut dyn FnMut(Self) -> bool) {
        let mut left: Vec<Self> = self.children().rev().collect();
        while let Some(place) = left.pop() {
            if visit(place) {
                left.extend(place.children().rev());
            }
        }
    }

    /// Where it leads, if it is a link: its target's bytes.
    pub(in crate::lint) fn target(self) -> Option<Vec<u8>> {
        if self.facts().kind != Kind::Symlink {
            return None;
        }
        let path = self.tree.path(self.id);
        let target = match &self.tree.source {
            Source::Directory(directory) => directory.target(&path),
            Source::Ext4(image) => image.target(&path, self.facts()),
        };
        target.map_err(|why| self.trouble(why)).ok()
    }

    /// What it leads to, if it is a link, else itself.
    pub(in crate::lint) fn followed(self) -> Option<Self> {
        match self.target() {
            Some(target) => self.tree.resolve(self.node().parent, &target, true),
            None => (self.facts().kind != Kind::Symlink).then_some(self),
        }
    }

    /// The first `limit` bytes of a regular file. None for anything else, and for what cannot be read, which is told as trouble.
    pub(in crate::lint) fn read(self, limit: u64) -> Option<Vec<u8>> {
        if !self.is_file() {
            return None;
        }
        let path = self.tree.path(self.id);
        let content = match &self.tree.source {
            Source::Directory(directory) => directory.open_file(&path).and_then(|file| {
                let mut content = Vec::new();
                file.take(limit).read_to_end(&mut content).map(|_| content).map_err(|error| error.to_string())
            }),
            Source::Ext4(image) => image.read(&path, limit),
        };
        content.map_err(|why| self.trouble(why)).ok()
    }

    /// The text of a regular file; what is no UTF-8 in it is replaced, and what is beyond the bound left out, and told.
    pub(in crate::lint) fn text(self) -> Option<String> {
        let content = self.read(limits::LINT_TEXT_BYTES)?;
        if self.facts().size > limits::LINT_TEXT_BYTES {
            self.trouble(format!("it is larger than {} bytes: only its start was looked at", limits::LINT_TEXT_BYTES));
        }
        Some(String::from_utf8_lossy(&content).into_owned())
    }

    /// Number of regular files and their lengths together, its own or of all below it.
    pub(in crate::lint) fn extent(self) -> (u64, u64) {
        let (mut files, mut bytes) = (0, 0_u64);
        let mut add = |place: Self| {
            if place.is_file() {
                files += 1;
                bytes = bytes.saturating_add(place.facts().size);
            }
            true
        };
        add(self);
        self.walk(&mut add);
        (files, bytes)
    }

    fn trouble(self, why: String) {
        self.tree.troubles.borrow_mut().add(self.path(), why);
    }
}
