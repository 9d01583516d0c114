//! Mount tables as the kernel writes them: mountinfo of proc(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A path in such a table: blanks, tabs, line feeds and backslashes stand there as `\` and three octal digits.
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_escaped_is_itself_again_and_the_rest_stays() {
        for (field, path) in
            [(r"/a\040b\134\012c", "/a b\\\nc"), (r"/a\b\09", r"/a\b\09"), (r"/end\04", r"/end\04"), ("", "")]
        {
            assert_eq!(unescape(field.as_bytes()), PathBuf::from(path), "{field}");
        }
    }
}
