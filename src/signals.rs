//! Signals by name or number. Pure.

/// Names without SIG, as kill(1) has them, with their numbers on every architecture that guestd runs on.
const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// glibc's, which programs of the guest mean by RTMIN; musl's own is one higher.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Number of a signal given as `TERM`, `sigterm`, `RTMIN+3`, `RTMAX-1` or `15`.
pub fn number(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
    let found = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest).filter(|offset| *offset >= 0).map(|offset| RTMIN.saturating_add(offset))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest).filter(|offset| *offset <= 0).map(|offset| RTMAX.saturating_add(offset))
    } else {
        let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        known.or_else(|| upper.parse().ok())
    };
    let low = if name.starts_with("RT") { RTMIN } else { 1 };
    found.filter(|number| (low..=RTMAX).contains(number))
}

/// A signal for people: `SIGTERM`, or its number where it has no name.
pub fn name(number: i32) -> String {
    let known = NAMES.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| format!("signal {number}"), |(name, _)| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_signals_in_every_usual_form() {
        for (text, expected) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigterm", 15),
            ("9", 9),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in ["", "0", "65", "-9", "NOPE", "SIG", "RTMIN-1", "RTMIN+31", "RTMAX+1", "SIG9x"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn a_signal_without_a_name_is_shown_by_its_number() {
        assert_eq!([name(15), name(34)], ["SIGTERM", "signal 34"]);
    }
}
