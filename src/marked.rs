//! Lines of guestd's own in a text file that belongs to somebody else: `/etc/inittab`, `/etc/hosts`, OpenSSH's configuration.
//!
//! Owns: where such lines begin and end. All else of the file stays as it is, byte for byte. New lines go to the top: nothing
//! there has to be touched for it, not even a last line without an end, and in OpenSSH's configuration what comes first holds.
//! Refused: a file in which the marks are not one pair. Pure; reading and writing are left to others.

use std::ops::Range;

/// Comes before guestd's lines. A comment in every file that this is for.
const BEGIN: &str = "# guestd: these lines are guestd's, down to the mark of their end";

/// Comes after them.
const END: &str = "# guestd: end";

/// What a file has of guestd's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked<'text> {
    /// No marks.
    Absent,
    /// What is between the marks.
    Lines(&'text [u8]),
    /// Marks that are no pair: what belongs to whom is not known.
    Broken,
}

/// Finds guestd's lines.
pub fn find(text: &[u8]) -> Marked<'_> {
    match locate(text) {
        Ok(None) => Marked::Absent,
        Ok(Some(place)) => Marked::Lines(&text[place.lines]),
        Err(Broken) => Marked::Broken,
    }
}

/// The text with `lines` as guestd's, in the place of those that it has, else at its top. `None` where the marks are no pair.
pub fn put(text: &[u8], lines: &str) -> Option<Vec<u8>> {
    let whole = locate(text).ok()?.map_or(0..0, |place| place.whole);
    let marked = format!("{BEGIN}\n{lines}{END}\n");
    Some([&text[..whole.start], marked.as_bytes(), &text[whole.end..]].concat())
}

/// The text without guestd's lines, as it was before. `None` where the marks are no pair.
pub fn take(text: &[u8]) -> Option<Vec<u8>> {
    let whole = locate(text).ok()?.map_or(0..0, |place| place.whole);
    Some([&text[..whole.start], &text[whole.end..]].concat())
}

struct Place {
    /// With the marks.
    whole: Range<usize>,
    /// Between them.
    lines: Range<usize>,
}

struct Broken;

fn locate(text: &[u8]) -> Result<Option<Place>, Broken> {
    let (mut begin, mut end) = (None, None);
    let mut position = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let here = position..position + line.len();
        position = here.end;
        // An editor may have left blanks or a carriage return.
        let mark = line.trim_ascii();
        if mark == BEGIN.as_bytes() {
            if begin.replace(here).is_some() {
                return Err(Broken);
            }
        } else if mark == END.as_bytes() && end.replace(here).is_some() {
            return Err(Broken);
        }
    }
    match (begin, end) {
        (None, None) => Ok(None),
        (Some(begin), Some(end)) if begin.end <= end.start => {
            Ok(Some(Place { whole: begin.start..end.end, lines: begin.end..end.start }))
        }
        _ => Err(Broken),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_go_to_the_top_and_later_ones_take_the_place_of_the_former_wherever_that_is() {
        let first = put(b"mine", "a\n").unwrap();
        assert_eq!(first, format!("{BEGIN}\na\n{END}\nmine").into_bytes());
        let moved = [b"one\n", &first[..first.len() - 4], b"two"].concat();
        assert_eq!(put(&moved, "b\nc\n").unwrap(), format!("one\n{BEGIN}\nb\nc\n{END}\ntwo").into_bytes());
    }

    #[test]
    fn marks_that_are_no_pair_are_left_alone() {
        let pair = format!("{BEGIN}\na\n{END}\n");
        for text in [BEGIN.to_owned(), END.to_owned(), format!("{END}\n{BEGIN}\n"), pair.repeat(2)] {
            let text = text.as_bytes();
            assert_eq!((find(text), put(text, "b\n"), take(text)), (Marked::Broken, None, None));
        }
    }

    #[test]
    fn marks_that_an_editor_gave_other_line_ends_are_still_marks() {
        let text = format!("mine\r\n{BEGIN}\r\na\r\n{END}");
        assert_eq!(find(text.as_bytes()), Marked::Lines(b"a\r\n"));
        assert_eq!(take(text.as_bytes()).unwrap(), b"mine\r\n");
    }

    proptest! {
        #[test]
        fn whatever_else_a_file_has_stays_as_it_was(text in prop::collection::vec(any::<u8>(), 0..200), lines in "([a-z ]*\n){0,3}") {
            let with = put(&text, &lines).unwrap();
            prop_assert_eq!(find(&with), Marked::Lines(lines.as_bytes()));
            prop_assert_eq!(put(&with, &lines).unwrap(), with.clone());
            prop_assert_eq!(take(&with).unwrap(), text);
        }
    }
}
