//! What to do about one file: pure, from what is on disk, what was installed last and what is to be installed.

use super::{contents::Edits, manifest::Sha256Hex};

/// What is at the file's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OnDisk {
    Absent,
    File {
        content: Sha256Hex,
        /// Whether mode and owner are as they should be.
        access: bool,
    },
    Link,
}

/// What to do.
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

/// `new` is the content to be installed, `recorded` that of the last installation.
pub(super) fn decide(on_disk: &OnDisk, new: &Sha256Hex, recorded: Option<&Sha256Hex>, edits: Edits) -> Action {
    match on_disk {
        OnDisk::Absent => Action::Create,
        OnDisk::File { content, access } if content == new => {
            if *access {
                Action::Leave
            } else {
                Action::Mend
            }
        }
        OnDisk::File { content, .. } if recorded == Some(content) => Action::Replace,
        OnDisk::File { .. } | OnDisk::Link => match edits {
            Edits::Kept => Action::Beside,
            Edits::Replaced => Action::Replace,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str, access: bool) -> OnDisk {
        OnDisk::File { content: Sha256Hex::of(content.as_bytes()), access }
    }

    fn decided(on_disk: &OnDisk, recorded: Option<&str>, edits: Edits) -> Action {
        let recorded = recorded.map(|text| Sha256Hex::of(text.as_bytes()));
        decide(on_disk, &Sha256Hex::of(b"new"), recorded.as_ref(), edits)
    }

    #[test]
    fn a_missing_file_is_written_also_when_it_was_installed_before() {
        assert_eq!(decided(&OnDisk::Absent, None, Edits::Kept), Action::Create);
        assert_eq!(decided(&OnDisk::Absent, Some("old"), Edits::Kept), Action::Create);
    }

    #[test]
    fn the_same_content_is_left_and_its_access_mended_whoever_put_it_there() {
        for recorded in [None, Some("old"), Some("new")] {
            assert_eq!(decided(&file("new", true), recorded, Edits::Kept), Action::Leave);
            assert_eq!(decided(&file("new", false), recorded, Edits::Kept), Action::Mend);
        }
    }

    #[test]
    fn an_old_version_is_replaced_only_if_it_is_as_it_was_installed() {
        assert_eq!(decided(&file("old", true), Some("old"), Edits::Kept), Action::Replace);
        assert_eq!(decided(&file("edited", true), Some("old"), Edits::Kept), Action::Beside);
        assert_eq!(decided(&file("somebody's", true), None, Edits::Kept), Action::Beside);
        assert_eq!(decided(&OnDisk::Link, Some("old"), Edits::Kept), Action::Beside);
    }

    #[test]
    fn a_program_is_replaced_whatever_it_was() {
        assert_eq!(decided(&file("somebody's", true), None, Edits::Replaced), Action::Replace);
        assert_eq!(decided(&OnDisk::Link, None, Edits::Replaced), Action::Replace);
    }
}
