//! The boot, step by step: when each began, how long it took, and what went wrong.

use std::{io::Write as _, time::Duration};

use nix::time::{ClockId, clock_gettime};

use crate::{api::BootStep, limits};

/// Since the kernel's start (CLOCK_BOOTTIME).
pub(super) fn now() -> Duration {
    // The clock exists on every kernel that guestd runs on.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Seconds, to the millisecond.
pub(super) fn secs(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    steps: Vec<BootStep>,
    problems: usize,
}

impl Timeline {
    /// Does a step, which says what went wrong by adding to the list that it is given.
    pub(super) fn step<T>(&mut self, name: &str, work: impl FnOnce(&mut Vec<String>) -> T) -> T {
        let (begun, mut problems) = (now(), Vec::new());
        let made = work(&mut problems);
        let took = now().saturating_sub(begun);
        problems.truncate(limits::BOOT_PROBLEMS.saturating_sub(self.problems));
        self.problems += problems.len();
        for problem in &mut problems {
            shorten(problem);
            tell(&format!("{name}: {problem}"));
        }
        let took_ms = (took.as_secs_f64() * 1e5).round() / 100.0;
        self.steps.push(BootStep { name: name.to_owned(), at_secs: secs(begun), took_ms, problems });
        made
    }

    pub(super) fn steps(&self) -> &[BootStep] {
        &self.steps
    }
}

/// Cuts a text to what process 1 keeps of one.
pub(super) fn shorten(text: &mut String) {
    let mut end = limits::BOOT_PROBLEM_BYTES.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// A line for the kernel's log, and by it for the console.
pub(super) fn tell(line: &str) {
    // The fourth of eight levels is a warning (printk).
    let told = std::fs::write("/dev/kmsg", format!("<4>guestd init: {line}\n"));
    if told.is_err() {
        // Not eprintln!, which panics where the console is gone.
        let _ = writeln!(std::io::stderr(), "guestd init: {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_bounded_in_number_and_length() {
        let mut timeline = Timeline::default();
        for _ in 0..3 {
            timeline.step("x", |problems| {
                problems.extend(std::iter::repeat_n("ä".repeat(1000), limits::BOOT_PROBLEMS / 2))
            });
        }
        let kept: Vec<_> = timeline.steps().iter().flat_map(|step| &step.problems).collect();
        assert_eq!(kept.len(), limits::BOOT_PROBLEMS);
        assert!(kept.iter().all(|problem| problem.len() <= limits::BOOT_PROBLEM_BYTES && !problem.is_empty()));
    }
}
