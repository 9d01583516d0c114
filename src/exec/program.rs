//! Which file a program's name stands for, and why it could not be run.
//!
//! The kernel decides: the child tries each candidate as the user in question. Only when all have failed is the file system
//! looked at here, to say in words what the errno means.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::{ExecError, shown};
use crate::sys::process::{LaunchError, Stage};

/// Paths to try for a program, in order: itself if it has a slash, else in each directory of PATH, where an empty one stands for
/// the working directory.
pub(super) fn candidates(program: &str, path: &[u8]) -> Vec<Vec<u8>> {
    if program.contains('/') {
        return vec![program.as_bytes().to_vec()];
    }
    let join = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        [directory, b"/", program.as_bytes()].concat()
    };
    path.split(|byte| *byte == b':').map(join).collect()
}

/// A program that could not be run, for explaining it.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    /// As the request named it.
    pub(super) program: &'a str,
    /// Whether it came with arguments.
    pub(super) alone: bool,
    /// What was tried.
    pub(super) candidates: &'a [Vec<u8>],
    /// PATH of the exec.
    pub(super) path: &'a [u8],
    /// Where relative candidates start.
    pub(super) directory: &'a Path,
    /// Who tried.
    pub(super) user: &'a str,
}

impl Attempt<'_> {
    /// Says what a failed launch means for the person who asked for this program.
    pub(super) fn explain(&self, error: LaunchError) -> ExecError {
        if error.stage != Stage::Execute {
            return ExecError::of_launch(error);
        }
        match (error.source.raw_os_error(), self.existing()) {
            (Some(libc::ENOENT | libc::ENOTDIR), Some(file)) => {
                not_executable(&file, missing_interpreter(&file))
            }
            (Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES), None) => self.not_found(),
            (Some(libc::ENAMETOOLONG | libc::ELOOP), _) => ExecError::ProgramNotFound {
                program: shown(self.program),
                why: format!("{}; give its real path", error.source),
            },
            (Some(libc::EACCES), Some(file)) => not_executable(&file, self.denied(&file)),
            (Some(libc::ENOEXEC), Some(file)) => not_executable(
                &file,
                "it is neither a binary for this machine nor a script that starts with `#!`; for a script without it, run its \
                 interpreter: [\"sh\", FILE]"
                    .into(),
            ),
            (Some(libc::ETXTBSY), Some(file)) => not_executable(
                &file,
                "it is open for writing; close it where it is written, then try again".into(),
            ),
            (Some(libc::ELIBBAD | libc::EISDIR | libc::EINVAL | libc::EPERM), Some(file)) => {
                not_executable(&file, format!("{}; look at it with `file`", error.source))
            }
            _ => ExecError::of_launch(error),
        }
    }

    /// The first candidate that is there.
    fn existing(&self) -> Option<PathBuf> {
        let path = |candidate: &Vec<u8>| self.directory.join(OsStr::from_bytes(candidate));
        self.candidates.iter().map(path).find(|path| fs::metadata(path).is_ok())
    }

    fn not_found(&self) -> ExecError {
        let why = if self.alone && self.program.contains(char::is_whitespace) {
            let words: Vec<&str> = self.program.split_whitespace().collect();
            format!(
                "`command` is a list of words and no shell line; send {}, or [\"sh\", \"-c\", {}] for a shell",
                shown_words(&words),
                shown(self.program)
            )
        } else if self.program.starts_with('/') {
            "there is no such file in the guest".to_owned()
        } else if self.program.contains('/') {
            format!("there is no such file below {:?}, where it would run", self.directory)
        } else {
            let path = String::from_utf8_lossy(self.path);
            format!("it is in no directory of PATH={}; install it, or name it by its path", shown(&path))
        };
        ExecError::ProgramNotFound { program: shown(self.program), why }
    }

    fn denied(&self, file: &Path) -> String {
        match fs::metadata(file) {
            Ok(found) if found.is_dir() => "it is a directory; name a program".to_owned(),
            Ok(found) if !found.is_file() => "it is not a regular file; name a program".to_owned(),
            Ok(found) if found.permissions().mode() & 0o111 == 0 => {
                let mode = found.permissions().mode() & 0o7777;
                format!("its mode is {mode:04o}, executable for nobody; chmod +x it")
            }
            _ => format!(
                "user {} may not execute it or search a directory above it, or its file system is mounted noexec",
                self.user
            ),
        }
    }
}

fn not_executable(file: &Path, why: String) -> ExecError {
    ExecError::NotExecutable { program: shown(&file.to_string_lossy()), why }
}

/// The file is there and yet "not found": what it wants to be run by is not.
fn missing_interpreter(file: &Path) -> String {
    match head(file).as_deref().and_then(interpreter) {
        Some(interpreter) => {
            format!("its first line asks for {}, which the guest does not have; install that", shown(&interpreter))
        }
        None => "the dynamic loader that it was built for is not in the guest (a glibc program in a musl image?); install it, or \
                 use a static build"
            .to_owned(),
    }
}

fn head(file: &Path) -> Option<Vec<u8>> {
    // A device or pipe could block or do things when opened.
    fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
    let mut head = Vec::new();
    // The kernel looks at 256 bytes (BINPRM_BUF_SIZE).
    File::open(file).ok()?.take(256).read_to_end(&mut head).ok()?;
    Some(head)
}

/// The interpreter that a script names.
fn interpreter(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    // Of DOS line ends the kernel takes the \r for a part of the name: let it be seen.
    let mut words = line.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
    words.next().map(|word| String::from_utf8_lossy(word).into_owned())
}

fn shown_words(words: &[&str]) -> String {
    const WORDS: usize = 8;
    let some: Vec<String> = words.iter().take(WORDS).map(|word| shown(word)).collect();
    let more = if words.len() > WORDS { ", …" } else { "" };
    format!("[{}{more}]", some.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_tried_in_each_directory_of_path() {
        let tried = candidates("ls", b"/usr/bin::/bin/");
        assert_eq!(tried, [&b"/usr/bin/ls"[..], b"./ls", b"/bin//ls"]);
    }

    #[test]
    fn a_name_with_a_slash_is_not_looked_up() {
        assert_eq!(candidates("./ls", b"/bin"), [b"./ls"]);
    }

    #[test]
    fn the_interpreter_of_a_script_is_its_first_word() {
        assert_eq!(interpreter(b"#! /usr/bin/env python3\n").as_deref(), Some("/usr/bin/env"));
        assert_eq!(interpreter(b"#!/bin/sh\r\nx").as_deref(), Some("/bin/sh\r"));
        assert_eq!(interpreter(b"\x7fELF"), None);
        assert_eq!(interpreter(b"#!\n"), None);
    }
}
