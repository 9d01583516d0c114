//! Text for terminals. Pure.
//!
//! A guest is not trusted: names of its processes and its messages could hold sequences that drive the terminal of
//! whoever looks at them, or turn the direction of a line. Everything from a guest passes [`escape`] before it is shown,
//! except the output of a command, which belongs to who ran it.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Control characters and what reorders or hides text, written as escapes.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    escape_except(text, &[])
}

/// The same for text of many lines.
pub(crate) fn escape_lines(text: &str) -> Cow<'_, str> {
    escape_except(text, &['\n', '\t'])
}

/// JSON text in which no string can drive a terminal. It means the same: outside its strings JSON is printable ASCII.
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 32);
    for character in json.chars() {
        if is_unsafe(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

fn escape_except<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let must_escape = |character| is_unsafe(character) && !kept.contains(&character);
    if !text.contains(must_escape) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 32);
    for character in text.chars() {
        if must_escape(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Controls (C0, DEL, C1), and Unicode's invisible, line-breaking and direction-changing characters.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A number of bytes, for people.
pub(crate) fn bytes(number: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
    let mut scaled = number as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would print as 1024.0.
    while scaled >= 1023.95 && unit + 1 < units.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_guest_cannot_drive_the_terminal() {
        assert_eq!(escape("node\u{1b}[2J\u{7}\r\n"), r"node\u{1b}[2J\u{7}\r\n");
        assert_eq!(escape("\u{9b}31m\u{202e}txt\u{7f}"), r"\u{9b}31m\u{202e}txt\u{7f}");
        assert_eq!(escape_lines("a\tb\n\u{1b}c"), "a\tb\n\\u{1b}c");
    }

    #[test]
    fn ordinary_text_is_left_as_it_is() {
        for text in ["python3 -m http.server", "größe 数 🙂", ""] {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn sizes_are_short() {
        let shown: Vec<String> = [0, 1023, 1024, 1_572_864, 1_073_741_823, u64::MAX].map(bytes).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "1.0 GiB", "16777216.0 TiB"]);
    }

    proptest! {
        #[test]
        fn escaped_json_means_the_same_and_is_harmless(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let escaped = escape_json(&json);
            prop_assert!(!escaped.contains(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }

        #[test]
        fn escaped_text_is_harmless(text in any::<String>()) {
            prop_assert!(!escape(&text).contains(is_unsafe));
        }
    }
}
