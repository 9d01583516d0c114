//! The terminal that guestctl runs on: its size, and raw mode that always ends.
//!
//! ```text
//!  cooked ── RawMode::enter ──> raw ── drop: return, error, signal, panic ──> as before
//! ```
//! A panic restores the terminal before its message is printed. Only SIGKILL leaves it raw; then `reset` helps.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::api::TtySize;

use super::failure::Failure;

/// Where there is no terminal to ask: what terminals were for decades.
const USUAL: TtySize = TtySize { rows: 24, cols: 80 };

/// Can what was printed be printed over? Only on a terminal that knows how.
pub(super) fn can_redraw() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Size of the terminal that the output, or else the input, goes to.
pub(super) fn size() -> TtySize {
    let of = |fd: rustix::fd::BorrowedFd<'_>| {
        let size = tcgetwinsize(fd).ok()?;
        (size.ws_row > 0 && size.ws_col > 0).then_some(TtySize { rows: size.ws_row, cols: size.ws_col })
    };
    of(io::stdout().as_fd()).or_else(|| of(io::stdin().as_fd())).unwrap_or(USUAL)
}

/// A terminal in raw mode, or one that only does not show what is typed, until this is dropped.
#[derive(Debug)]
pub(super) struct RawMode {
    saved: Arc<Saved>,
    mode: Mode,
}

/// How a terminal is to treat keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// All of them are for the program.
    Raw,
    /// Ctrl-C and its like are signals; the others are read at once, and not shown.
    Quiet,
}

/// What the terminal was; none once it is that again.
#[derive(Debug)]
struct Saved {
    terminal: OwnedFd,
    before: Mutex<Option<Termios>>,
}

impl Saved {
    fn restore(&self) {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = before.take() {
            // Now, and not when all output is out: that may be stopped by ctrl-S. There is nobody to tell of a failure.
            let _ = tcsetattr(&self.terminal, OptionalActions::Now, &before);
        }
    }
}

impl RawMode {
    /// Makes the terminal of standard input raw; none where that is no terminal.
    pub(super) fn enter() -> Result<Option<Self>, Failure> {
        Self::on_stdin(Mode::Raw)
    }

    /// Makes the terminal of standard input quiet: keys can be read one by one and do not show, and ctrl-C is a signal.
    pub(super) fn enter_quiet() -> Result<Option<Self>, Failure> {
        Self::on_stdin(Mode::Quiet)
    }

    fn on_stdin(mode: Mode) -> Result<Option<Self>, Failure> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let raw = Self::of(stdin.as_fd(), mode).map_err(Failure::Terminal)?;
        let saved = raw.saved.clone();
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            saved.restore();
            usual(panic);
        }));
        Ok(Some(raw))
    }

    fn of(terminal: impl AsFd, mode: Mode) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let saved = Arc::new(Saved { terminal, before: Mutex::new(Some(before)) });
        // Made before the change, so that whatever follows ends in a restore.
        let raw = Self { saved, mode };
        raw.apply()?;
        Ok(raw)
    }

    /// Makes it as it was before, as long as this lives; [`RawMode::apply`] is the way back.
    pub(super) fn suspend(&self) {
        let before = self.saved.before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = &*before {
            // As with the restore at the end.
            let _ = tcsetattr(&self.saved.terminal, OptionalActions::Now, before);
        }
    }

    /// Makes it raw again: a shell that stopped and continued guestctl may have set it otherwise.
    pub(super) fn apply(&self) -> io::Result<()> {
        let mut mode = tcgetattr(&self.saved.terminal)?;
        match self.mode {
            Mode::Raw => mode.make_raw(),
            Mode::Quiet => mode.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO),
        }
        Ok(tcsetattr(&self.saved.terminal, OptionalActions::Now, &mode)?)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.saved.restore();
    }
}

/// What a program may have left switched on, seen in its output. Pure.
///
/// A full-screen program that is left running, or lost, leaves the other screen and a hidden cursor behind.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// End of the output so far, where a sequence may have begun.
    tail: Vec<u8>,
    alternate: bool,
}

/// xterm's sequences for the other screen (ctlseqs, DEC private modes 47, 1047 and 1049), and whether they enter it.
const ALTERNATE: &[(&[u8], bool)] = &[
    (b"\x1b[?1049h", true),
    (b"\x1b[?1049l", false),
    (b"\x1b[?1047h", true),
    (b"\x1b[?1047l", false),
    (b"\x1b[?47h", true),
    (b"\x1b[?47l", false),
];

/// Longest of these, less one byte.
const TAIL_BYTES: usize = 7;

impl Screen {
    /// Looks at output.
    pub(super) fn see(&mut self, output: &[u8]) {
        self.tail.extend_from_slice(&output[..output.len().min(TAIL_BYTES)]);
        let (joint, body) = (last_switch(&self.tail), last_switch(output));
        self.alternate = body.or(joint).unwrap_or(self.alternate);
        if output.len() >= TAIL_BYTES {
            self.tail.clear();
            self.tail.extend_from_slice(&output[output.len() - TAIL_BYTES..]);
        } else {
            let cut = self.tail.len().saturating_sub(TAIL_BYTES);
            self.tail.drain(..cut);
        }
    }

    /// What makes the terminal fit for a shell prompt again.
    pub(super) fn leave(&self) -> &'static [u8] {
        match self.alternate {
            // The main screen; then cursor, mouse, pasting and colours as a shell expects them.
            true => b"\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1006l\x1b[?2004l\x1b[0m",
            false => b"\x1b[?25h\x1b[?2004l\x1b[0m",
        }
    }
}

fn last_switch(output: &[u8]) -> Option<bool> {
    let escapes = output.iter().enumerate().rev().filter(|(_, byte)| **byte == 0x1b);
    escapes
        .filter_map(|(at, _)| ALTERNATE.iter().find(|(sequence, _)| output[at..].starts_with(sequence)))
        .map(|(_, enters)| *enters)
        .next()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use nix::pty::{OpenptyResult, openpty};

    fn is_raw(terminal: impl AsFd) -> bool {
        !tcgetattr(terminal).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn terminal() -> OpenptyResult {
        openpty(None, None).unwrap()
    }

    #[test]
    fn raw_mode_ends_with_its_value() {
        let OpenptyResult { master: _master, slave } = terminal();
        let raw = RawMode::of(&slave, Mode::Raw).unwrap();
        assert!(is_raw(&slave));
        drop(raw);
        assert!(!is_raw(&slave));
    }

    #[test]
    fn raw_mode_ends_by_a_panic() {
        let OpenptyResult { master: _master, slave } = terminal();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _raw = RawMode::of(&slave, Mode::Raw).unwrap();
            assert!(is_raw(&slave));
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err());
        assert!(!is_raw(&slave));
    }

    #[test]
    fn a_quiet_terminal_shows_no_keys_and_still_has_its_signals() {
        let OpenptyResult { master: _master, slave } = terminal();
        let modes =
            || tcgetattr(&slave).unwrap().local_modes & (LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        let quiet = RawMode::of(&slave, Mode::Quiet).unwrap();
        assert_eq!(modes(), LocalModes::ISIG);
        quiet.suspend();
        assert_eq!(modes(), LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        quiet.apply().unwrap();
        assert_eq!(modes(), LocalModes::ISIG);
        drop(quiet);
        assert_eq!(modes(), LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
    }

    #[test]
    fn what_is_no_terminal_is_not_made_raw() {
        assert!(RawMode::of(std::fs::File::open("/dev/null").unwrap(), Mode::Raw).is_err());
    }

    #[test]
    fn the_other_screen_is_noticed_however_its_sequence_is_split() {
        let output = b"text\x1b[?1049h full screen \x1b[2J";
        for cut in 0..output.len() {
            let mut screen = Screen::default();
            screen.see(&output[..cut]);
            screen.see(&output[cut..]);
            assert!(screen.alternate, "{cut}");
            for byte in b"\x1b[?1049l" {
                screen.see(&[*byte]);
            }
            assert!(!screen.alternate, "{cut}");
        }
    }
}
