//! What to do about one path: pure, from what is there, what was installed last and what is to be installed.

use super::contents::{Edits, Former};
use crate::marked::Marked;

/// What is at a file's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDisk {
    Absent,
    File {
        /// Its content is what is to be installed.
        is_new: bool,
        /// Its content is what was installed last.
        is_recorded: bool,
        /// Mode and owner are as they should be.
        access: bool,
    },
    Link,
}

/// What to do about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Write it where nothing was.
    Create,
    /// Nothing.
    Leave,
    /// Set mode and owner.
    Mend,
    /// Write it in the place of the old one.
    Replace,
    /// Write it beside the one that somebody edited.
    Beside,
}

pub(super) fn decide(on_disk: OnDisk, edits: Edits) -> Action {
    match on_disk {
        OnDisk::Absent => Action::Create,
        OnDisk::File { is_new: true, access: true, .. } => Action::Leave,
        OnDisk::File { is_new: true, .. } => Action::Mend,
        OnDisk::File { is_recorded: true, .. } => Action::Replace,
        OnDisk::File { .. } | OnDisk::Link => match edits {
            Edits::Kept => Action::Beside,
            Edits::Replaced => Action::Replace,
        },
    }
}

/// What is at a link's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InPlace<'image> {
    Absent,
    Link(&'image str),
    /// A file, directory or device.
    Other,
}

/// What has the name under which the former file or link would be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SavedName {
    Free,
    /// The file or link itself: a run was interrupted after it gave that name, and before it made the link.
    TheSame,
    Taken,
}

/// What to do about a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkAction {
    /// Make it where nothing was.
    Create,
    /// Nothing.
    Leave,
    /// Make it in the place of the one that was installed last.
    Replace,
    /// Give what is there its other name, unless it has that already, and make the link in its place.
    Save,
    /// Leave what somebody put there.
    Keep,
}

/// `recorded` is the target of the link that was installed last.
pub(super) fn decide_link(
    there: InPlace<'_>,
    target: &str,
    recorded: Option<&str>,
    former: Former,
    saved: SavedName,
) -> LinkAction {
    match there {
        InPlace::Absent => LinkAction::Create,
        InPlace::Link(found) if found == target => LinkAction::Leave,
        InPlace::Link(found) if recorded == Some(found) => LinkAction::Replace,
        InPlace::Link(_) | InPlace::Other if former == Former::Saved && saved != SavedName::Taken => LinkAction::Save,
        InPlace::Link(_) | InPlace::Other => LinkAction::Keep,
    }
}

/// What to do about guestd's lines in a file of somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinesAction {
    /// Put them in, or in the place of those that were installed last.
    Put,
    /// Nothing.
    Leave,
    /// Leave what somebody made of them.
    Keep,
}

/// `is_recorded` says that the lines that are there are what was installed last.
pub(super) fn decide_lines(there: Marked<'_>, new: &str, is_recorded: bool) -> LinesAction {
    match there {
        Marked::Absent => LinesAction::Put,
        Marked::Lines(found) if found == new.as_bytes() => LinesAction::Leave,
        Marked::Lines(_) if is_recorded => LinesAction::Put,
        Marked::Lines(_) | Marked::Broken => LinesAction::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(is_new: bool, is_recorded: bool, access: bool) -> OnDisk {
        OnDisk::File { is_new, is_recorded, access }
    }

    #[test]
    fn a_missing_file_is_written_also_when_it_was_installed_before() {
        assert_eq!(decide(OnDisk::Absent, Edits::Kept), Action::Create);
    }

    #[test]
    fn the_same_content_is_left_and_its_access_mended_whoever_put_it_there() {
        for is_recorded in [false, true] {
            assert_eq!(decide(file(true, is_recorded, true), Edits::Kept), Action::Leave);
            assert_eq!(decide(file(true, is_recorded, false), Edits::Kept), Action::Mend);
        }
    }

    #[test]
    fn an_old_version_is_replaced_only_if_it_is_as_it_was_installed() {
        assert_eq!(decide(file(false, true, true), Edits::Kept), Action::Replace);
        assert_eq!(decide(file(false, false, true), Edits::Kept), Action::Beside);
        assert_eq!(decide(OnDisk::Link, Edits::Kept), Action::Beside);
    }

    #[test]
    fn a_program_is_replaced_whatever_it_was() {
        assert_eq!(decide(file(false, false, true), Edits::Replaced), Action::Replace);
        assert_eq!(decide(OnDisk::Link, Edits::Replaced), Action::Replace);
    }

    #[test]
    fn a_link_takes_only_the_place_of_one_that_was_installed() {
        let decided = |there, recorded| decide_link(there, "new", recorded, Former::Kept, SavedName::Free);
        assert_eq!(decided(InPlace::Absent, None), LinkAction::Create);
        assert_eq!(decided(InPlace::Link("new"), None), LinkAction::Leave);
        assert_eq!(decided(InPlace::Link("old"), Some("old")), LinkAction::Replace);
        assert_eq!(decided(InPlace::Link("other"), Some("old")), LinkAction::Keep);
        assert_eq!(decided(InPlace::Other, Some("old")), LinkAction::Keep);
    }

    #[test]
    fn what_is_saved_is_never_written_over() {
        let decided = |there, saved| decide_link(there, "guestd", Some("guestd"), Former::Saved, saved);
        for there in [InPlace::Other, InPlace::Link("systemd")] {
            assert_eq!(decided(there, SavedName::Free), LinkAction::Save);
            assert_eq!(decided(there, SavedName::TheSame), LinkAction::Save);
            assert_eq!(decided(there, SavedName::Taken), LinkAction::Keep);
        }
    }

    #[test]
    fn lines_that_somebody_edited_stay_and_those_that_somebody_took_out_come_back() {
        assert_eq!(decide_lines(Marked::Absent, "new\n", false), LinesAction::Put);
        assert_eq!(decide_lines(Marked::Lines(b"new\n"), "new\n", false), LinesAction::Leave);
        assert_eq!(decide_lines(Marked::Lines(b"old\n"), "new\n", true), LinesAction::Put);
        assert_eq!(decide_lines(Marked::Lines(b"mine\n"), "new\n", false), LinesAction::Keep);
        assert_eq!(decide_lines(Marked::Broken, "new\n", true), LinesAction::Keep);
    }
}
