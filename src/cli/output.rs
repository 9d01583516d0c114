//! Where guestctl's output goes: bytes of a command as they are, text for people, JSON for programs.

use std::io::{self, Write as _};

use serde::Serialize;

use super::failure::Failure;
use super::table::Palette;
use super::text::escape_json;

/// Standard output, and how it is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// Print JSON.
    pub(super) json: bool,
    /// Colours for text.
    pub(super) palette: Palette,
}

impl Output {
    /// As standard output and the environment want it.
    pub(super) fn new(json: bool) -> Self {
        Self { json, palette: Palette::of_stdout() }
    }

    /// The document in JSON, or the text made of it for people.
    pub(super) fn show<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce(&T, Palette) -> String,
    ) -> Result<(), Failure> {
        if self.json { self.json_line(document) } else { stdout(text(document, self.palette).as_bytes()) }
    }

    /// One line of JSON.
    pub(super) fn json_line(self, document: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string(document).map_err(|error| Failure::Stdout(error.into()))?;
        stdout(format!("{}\n", escape_json(&json)).as_bytes())
    }
}

/// Writes all bytes to standard output, now.
pub(super) fn stdout(bytes: &[u8]) -> Result<(), Failure> {
    // Not through std's line buffer alone: what a command prints is seen when it is printed.
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::StdoutClosed,
        _ => Failure::Stdout(error),
    })
}

/// Writes bytes to standard error. Nobody can be told when that fails, and a command need not end for it.
pub(super) fn stderr(bytes: &[u8]) {
    let _ = io::stderr().lock().write_all(bytes);
}
