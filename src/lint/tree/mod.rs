//! A root file system as it lies there: a directory, or an ext4 image that nobody has mounted. Read, never written, nothing of it run.
//!
//! Names, kinds, modes, owners and lengths are read once, into memory; contents and links' targets when they are asked for. Links
//! are followed in memory, from the tree's root and never out of it, as they would be in a chroot. Owns the bounds: entries, depth,
//! bytes of a content. What could not be read is kept as [`Trouble`] and told, so that no rule takes it for "not there" in silence.

mod directory;
mod ext4;
mod place;
mod superblock;

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::VecDeque,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{limits, sys::files};
use directory::Directory;
use ext4::Ext4Image;

pub(super) use place::Place;

pub(super) use files::Kind;

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) kind: Kind,
    /// Permission bits, set-id and sticky bits included.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Length in bytes, holes included.
    pub(super) size: u64,
    /// Another file system is mounted there, which is no part of this one.
    pub(super) mounted: bool,
}

/// Something that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) path: String,
    pub(super) why: String,
}

/// Those that are kept, and how many there were.
#[derive(Debug, Default)]
struct Troubles {
    kept: Vec<Trouble>,
    count: usize,
}

impl Troubles {
    fn add(&mut self, path: String, why: String) {
        let trouble = Trouble { path, why };
        // Several rules may look at one file.
        if self.kept.contains(&trouble) {
            return;
        }
        self.count += 1;
        if self.kept.len() <= limits::LINT_FINDINGS {
            self.kept.push(trouble);
        }
    }
}

/// Where a tree comes from.
#[derive(Debug)]
enum Source {
    Directory(Directory),
    Ext4(Ext4Image),
}

/// An entry of a directory, as a source gives it.
#[derive(Debug)]
struct Listed {
    name: Vec<u8>,
    facts: Facts,
}

/// What a source gives of a directory.
#[derive(Debug, Default)]
struct Listing {
    entries: Vec<Listed>,
    /// Names that cannot be looked at, and why; an empty name means the directory itself.
    troubles: Vec<(Vec<u8>, String)>,
    /// There were more than was room for.
    cut: bool,
}

#[derive(Debug)]
struct Node {
    name: Box<[u8]>,
    parent: u32,
    depth: u16,
    /// Ids of what is in it, one after the other, sorted by name.
    children: Range<u32>,
    facts: Facts,
}

/// The root of all.
const ROOT: u32 = 0;

/// Where reading ends.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    entries: usize,
    depth: usize,
}

const BOUNDS: Bounds = Bounds { entries: limits::LINT_ENTRIES, depth: limits::LINT_DEPTH };

/// A root file system.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    source: Source,
    troubles: RefCell<Troubles>,
    bounds: Vec<Trouble>,
}

/// What was opened: the state of the medium, and its tree if that can be read.
#[derive(Debug)]
pub(super) struct Medium {
    /// What is wrong with the file system as a whole, a sentence each.
    pub(super) faults: Vec<String>,
    /// Why there is no tree.
    pub(super) unreadable: Option<String>,
    pub(super) tree: Option<Tree>,
    pub(super) ext4: bool,
}

/// Why there is nothing to lint.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there, or must not be read.
    #[error("cannot open {path}: {source}; give the directory of a root file system or an ext4 image", path = path.display())]
    Io {
        /// What was to be opened.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{path} is {what}; give the directory of a root file system, or an image that is one ext4 file system and nothing around it", path = path.display())]
    NoFileSystem {
        /// What was opened.
        path: PathBuf,
        /// What it seems to be.
        what: String,
    },
}

/// Opens a directory or an image.
pub(super) fn open(path: &Path) -> Result<Medium, OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let file = files::open_to_read(path).map_err(failed)?;
    let stat = files::stat(&file).map_err(failed)?;
    let not = |what: &str| OpenError::NoFileSystem { path: path.to_owned(), what: what.to_owned() };
    match stat.kind {
        Kind::Directory => {
            let (directory, root) = Directory::open(path).map_err(failed)?;
            let tree = Tree::read(Source::Directory(directory), root, BOUNDS);
            Ok(Medium { faults: Vec::new(), unreadable: None, tree: Some(tree), ext4: false })
        }
        Kind::File | Kind::BlockDevice => {
            let (length, head) = ext4::head(&file).map_err(failed)?;
            let superblock = superblock::Superblock::parse(&head).map_err(|what| not(&what))?;
            let faults = superblock.faults(length);
            let loaded = superblock.check(length).and_then(|()| Ext4Image::load(file, length));
            let (tree, unreadable) = match loaded {
                Ok((image, root)) => (Some(Tree::read(Source::Ext4(image), root, BOUNDS)), None),
                Err(why) => (None, Some(why)),
            };
            Ok(Medium { faults, unreadable, tree, ext4: true })
        }
        _ => Err(not("a device, pipe or socket")),
    }
}

impl Tree {
    /// Reads all directories of a source, level by level.
    fn read(source: Source, root: Facts, bounds: Bounds) -> Self {
        let root = Node { name: Box::default(), parent: ROOT, depth: 0, children: 0..0, facts: root };
        let mut tree = Self { nodes: vec![root], source, troubles: RefCell::default(), bounds: Vec::new() };
        let mut id = ROOT;
        while let Some(node) = tree.nodes.get(index(id)) {
            if node.facts.kind == Kind::Directory && !node.facts.mounted {
                tree.read_directory(id, bounds);
            }
            id += 1;
        }
        tree
    }

    fn read_directory(&mut self, id: u32, bounds: Bounds) {
        let Node { depth, facts, .. } = self.nodes[index(id)];
        let path = self.path(id);
        let shown = || String::from_utf8_lossy(&path).into_owned();
        if usize::from(depth) >= bounds.depth {
            let why = format!("there are more than {} directories inside each other", bounds.depth);
            return self.bound(shown(), why);
        }
        let room = bounds.entries.saturating_sub(self.nodes.len());
        let listing = match &self.source {
            Source::Directory(directory) => directory.list(&path, room),
            Source::Ext4(image) => image.list(&path, &facts, room),
        };
        let mut listing = match listing {
            Ok(listing) => listing,
            Err(why) => return self.troubles.get_mut().add(shown(), why),
        };
        for (name, why) in listing.troubles {
            self.troubles.get_mut().add(String::from_utf8_lossy(&joined(&path, &name)).into_owned(), why);
        }
        if listing.cut {
            self.bound(shown(), format!("there are more than {} files and directories", bounds.entries));
        }
        listing.entries.sort_by(|one, other| one.name.cmp(&other.name));
        let first = self.end();
        self.nodes.extend(listing.entries.into_iter().map(|Listed { name, facts }| Node {
            name: name.into(),
            parent: id,
            depth: depth + 1,
            children: 0..0,
            facts,
        }));
        let end = self.end();
        self.nodes[index(id)].children = first..end;
    }

    /// The id that the next node gets; there are never as many as a `u32` counts.
    fn end(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    fn bound(&mut self, path: String, why: String) {
        // Each bound once: what is beyond it is not looked at, and so not counted.
        if !self.bounds.iter().any(|known| known.why == why) {
            self.bounds.push(Trouble { path, why });
        }
    }

    /// Where a bound was reached, so that a part was not looked at.
    pub(super) fn bounds(&self) -> &[Trouble] {
        &self.bounds
    }

    /// What could not be read up to now, and how many more there were.
    pub(super) fn troubles(&self) -> (Vec<Trouble>, usize) {
        let troubles = self.troubles.borrow();
        (troubles.kept.clone(), troubles.count - troubles.kept.len())
    }

    /// Whether something is root's: in a directory also of who owns all of it, as trees of builders without privileges are.
    pub(super) fn is_roots(&self, place: Place<'_>) -> bool {
        let owner = place.facts().uid;
        owner == 0 || (!self.is_image() && owner == self.root().facts().uid)
    }

    /// Whether this is an image, whose owners are those that the VM will have.
    pub(super) fn is_image(&self) -> bool {
        matches!(self.source, Source::Ext4(_))
    }

    /// The root directory.
    pub(super) fn root(&self) -> Place<'_> {
        Place { tree: self, id: ROOT }
    }

    /// What is at an absolute path; its last component is not followed.
    pub(super) fn look(&self, path: &str) -> Option<Place<'_>> {
        self.resolve(ROOT, path.as_bytes(), false)
    }

    /// What an absolute path leads to.
    pub(super) fn follow(&self, path: &str) -> Option<Place<'_>> {
        self.resolve(ROOT, path.as_bytes(), true)
    }

    /// The text of the regular file that a path leads to, if there is one.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        self.follow(path).and_then(Place::text)
    }

    fn resolve(&self, from: u32, path: &[u8], follow_last: bool) -> Option<Place<'_>> {
        let mut at = if path.first() == Some(&b'/') { ROOT } else { from };
        let mut steps: VecDeque<Cow<'_, [u8]>> = components(path).map(Cow::Borrowed).collect();
        let mut links = 0;
        while let Some(step) = steps.pop_front() {
            match &*step {
                b"." => continue,
                b".." => {
                    if self.nodes[index(at)].facts.kind != Kind::Directory {
                        return None;
                    }
                    at = self.nodes[index(at)].parent;
                    continue;
                }
                _ => {}
            }
            let child = Place { tree: self, id: at }.child(&step)?;
            if child.facts().kind == Kind::Symlink && (follow_last || !steps.is_empty()) {
                links += 1;
                if links > limits::PATH_LINKS {
                    return None;
                }
                let target = child.target()?;
                if target.first() == Some(&b'/') {
                    at = ROOT;
                }
                for step in components(&target).rev() {
                    steps.push_front(Cow::Owned(step.to_vec()));
                }
            } else {
                at = child.id;
            }
        }
        Some(Place { tree: self, id: at })
    }

    fn path(&self, id: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            let node = &self.nodes[index(at)];
            names.push(&node.name);
            at = node.parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() { b"/".to_vec() } else { path }
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut whole = path.to_vec();
    if !name.is_empty() {
        if !whole.ends_with(b"/") {
            whole.push(b'/');
        }
        whole.extend_from_slice(name);
    }
    whole
}

/// The directory and the last name of an absolute path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    (path.get(..slash.max(1)).unwrap_or(path), path.get(slash + 1..).unwrap_or_default())
}

fn index(id: u32) -> usize {
    // As wide as a pointer or narrower on all that guestd is built for.
    id as usize
}

#[cfg(test)]
mod tests;
