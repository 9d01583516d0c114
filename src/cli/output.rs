//! Where guestctl's output goes: bytes of a command as they are, text for people, JSON for programs.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};

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
    /// Colours on a terminal, unless NO_COLOR (no-color.org) or a terminal without them says no.
    pub(super) fn new(json: bool) -> Self {
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colours = io::stdout().is_terminal() && !is_set("NO_COLOR") && !dumb;
        let palette = if colours { Palette::Colour } else { Palette::Plain };
        Self { json, palette }
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
