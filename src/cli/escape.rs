//! Keys that are meant for guestctl and not for the exec. Pure.
//!
//! ```text
//!  ssh:     line start ── ~ ──> tilde ── . d ? ──> done        docker:  plain ── ctrl-p ──> ctrl-p ── ctrl-q ──> detach
//!                ^               │ ~: one ~; else: ~ and the key           ^                  │ else: ctrl-p and the key
//!                └── \r \n ──────┘                                         └──────────────────┘
//! ```
//! A key that begins a sequence waits for the next one; nothing that was typed is lost.

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// What a sequence asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Leave the exec running.
    Detach,
    /// Hang up: the exec is to end.
    HangUp,
    /// Say which sequences there are.
    Help,
}

/// What was typed, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Escapes {
    /// `~` after a new line.
    Ssh { line_start: bool, tilde: bool },
    /// ctrl-p ctrl-q.
    Docker { pending: bool },
}

impl Escapes {
    /// As ssh has them.
    pub(super) fn ssh() -> Self {
        Self::Ssh { line_start: true, tilde: false }
    }

    /// As docker and podman have them.
    pub(super) fn docker() -> Self {
        Self::Docker { pending: false }
    }

    /// Adds to `keys` what the exec is to get of these bytes, up to the first wish. Gives the wish, and how many bytes were taken.
    pub(super) fn take(&mut self, typed: &[u8], keys: &mut Vec<u8>) -> (Option<Wish>, usize) {
        for (at, key) in typed.iter().enumerate() {
            if let Some(wish) = self.key(*key, keys) {
                return (Some(wish), at + 1);
            }
        }
        (None, typed.len())
    }

    fn key(&mut self, key: u8, keys: &mut Vec<u8>) -> Option<Wish> {
        match self {
            Self::Ssh { line_start, tilde } => {
                if std::mem::take(tilde) {
                    let wish = match key {
                        b'.' => Some(Wish::HangUp),
                        b'd' => Some(Wish::Detach),
                        b'?' => Some(Wish::Help),
                        _ => None,
                    };
                    if wish.is_some() {
                        *line_start = true;
                        return wish;
                    }
                    keys.push(b'~');
                    *line_start = false;
                    if key == b'~' {
                        return None;
                    }
                } else if *line_start && key == b'~' {
                    *tilde = true;
                    return None;
                }
                *line_start = matches!(key, b'\r' | b'\n');
                keys.push(key);
            }
            Self::Docker { pending } => {
                if std::mem::take(pending) {
                    if key == CTRL_Q {
                        return Some(Wish::Detach);
                    }
                    keys.push(CTRL_P);
                }
                match key {
                    CTRL_P => *pending = true,
                    key => keys.push(key),
                }
            }
        }
        None
    }

    /// What a person is told of them.
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::Ssh { .. } => {
                "\r\nAfter a new line:\r\n  ~.  hang up\r\n  ~d  leave the shell running\r\n  ~~  type a tilde\r\n  ~?  this\r\n"
            }
            Self::Docker { .. } => "\r\nctrl-p ctrl-q leaves the command running\r\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn typed(mut escapes: Escapes, text: &[u8]) -> (Vec<u8>, Vec<Wish>) {
        let (mut keys, mut wishes, mut from) = (Vec::new(), Vec::new(), 0);
        while from < text.len() {
            let (wish, taken) = escapes.take(&text[from..], &mut keys);
            wishes.extend(wish);
            from += taken;
        }
        (keys, wishes)
    }

    #[test]
    fn a_tilde_counts_at_the_start_of_a_line_alone() {
        let ssh = |text: &[u8]| typed(Escapes::ssh(), text);
        assert_eq!(ssh(b"~."), (vec![], vec![Wish::HangUp]));
        assert_eq!(ssh(b"ls ~.\r"), (b"ls ~.\r".to_vec(), vec![]));
        assert_eq!(ssh(b"ls\r~?~d"), (b"ls\r".to_vec(), vec![Wish::Help, Wish::Detach]));
        assert_eq!(ssh(b"~~.\r"), (b"~.\r".to_vec(), vec![]), "one tilde is typed, and the line goes on");
        assert_eq!(ssh(b"~x~."), (b"~x~.".to_vec(), vec![]));
        assert_eq!(ssh(b"~\r~."), (b"~\r".to_vec(), vec![Wish::HangUp]));
    }

    #[test]
    fn ctrl_p_is_typed_unless_ctrl_q_follows() {
        let docker = |text: &[u8]| typed(Escapes::docker(), text);
        assert_eq!(docker(b"a\x10\x11"), (b"a".to_vec(), vec![Wish::Detach]));
        assert_eq!(docker(b"\x10\x10\x11"), (b"\x10".to_vec(), vec![Wish::Detach]));
        assert_eq!(docker(b"\x10b\x11~."), (b"\x10b\x11~.".to_vec(), vec![]));
    }

    proptest! {
        #[test]
        fn what_holds_no_sequence_passes_unchanged(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let plain: Vec<u8> = text.into_iter().filter(|byte| !matches!(byte, b'~' | 0x10)).collect();
            prop_assert_eq!(typed(Escapes::ssh(), &plain), (plain.clone(), vec![]));
            prop_assert_eq!(typed(Escapes::docker(), &plain), (plain.clone(), vec![]));
        }
    }
}
