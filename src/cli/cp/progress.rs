//! How far a copy is: a line on standard error, where that is a terminal.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use super::super::output;
use super::super::text::bytes;

/// Between two drawings.
const PAUSE: Duration = Duration::from_millis(100);

/// Characters of the bar.
const WIDTH: usize = 24;

/// Bytes that passed, and maybe of how many.
pub(super) struct Progress {
    shown: bool,
    begun: Instant,
    drawn: Option<Instant>,
    done: u64,
    total: Option<u64>,
}

impl Progress {
    /// Draws where it is wanted and can be.
    pub(super) fn new(wanted: bool) -> Self {
        let shown = wanted && io::stderr().is_terminal();
        Self { shown, begun: Instant::now(), drawn: None, done: 0, total: None }
    }

    /// All that will pass, where that is known.
    pub(super) fn expect(&mut self, total: Option<u64>) {
        self.total = total;
    }

    /// So many bytes passed.
    pub(super) fn advance(&mut self, length: usize) {
        self.done += length as u64;
        self.draw();
    }

    /// So many bytes passed from the beginning.
    pub(super) fn reach(&mut self, done: u64) {
        self.done = done;
        self.draw();
    }

    /// Bytes that passed.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    fn draw(&mut self) {
        if self.shown && self.drawn.is_none_or(|drawn| drawn.elapsed() >= PAUSE) {
            self.drawn = Some(Instant::now());
            output::stderr(format!("\r{}\x1b[K", line(self.done, self.total, self.begun.elapsed())).as_bytes());
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        if self.drawn.is_some() {
            output::stderr(b"\r\x1b[K");
        }
    }
}

fn line(done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = bytes(done.saturating_mul(1000) / millis);
    match total.filter(|total| *total > 0) {
        None => format!("{} {rate}/s", bytes(done)),
        Some(total) => {
            let part =
                |of: u64| u64::try_from(u128::from(done.min(total)) * u128::from(of) / u128::from(total)).unwrap_or(of);
            let filled = usize::try_from(part(WIDTH as u64)).unwrap_or(WIDTH);
            let bar = format!("{}{}", "#".repeat(filled), "-".repeat(WIDTH - filled));
            format!("[{bar}] {:3}% {} of {} {rate}/s", part(100), bytes(done), bytes(total))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_it_is_and_how_fast() {
        let second = Duration::from_secs(1);
        assert_eq!(line(512, Some(1024), second), "[############------------]  50% 512 B of 1.0 KiB 512 B/s");
        assert_eq!(line(2048, None, second), "2.0 KiB 2.0 KiB/s");
        assert_eq!(line(9, Some(3), second), "[########################] 100% 9 B of 3 B 9 B/s");
        assert_eq!(line(0, Some(0), Duration::ZERO), "0 B 0 B/s");
    }
}
