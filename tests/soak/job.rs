//! What each exec is: decided by its number alone, so that a failure can be had again. Pure.

use std::cell::Cell;

use crate::bytes::Source;

/// Largest output or input of one exec, as a power of two.
const LARGEST: u64 = 17;

/// One exec, with all that is needed to know how it must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    /// Output in one answer.
    Run { out: u64, err: u64 },
    /// Output as a stream of lines.
    Lines { out: u64, err: u64 },
    /// Output as binary frames.
    Frames { out: u64, err: u64 },
    /// Input that comes back.
    Stdin { bytes: u64 },
    /// An exit status.
    Exit { code: i32 },
    /// A signal that it sends to itself.
    Dies { signal: i32 },
    /// No such program.
    Missing,
    /// A process that outlives the command and holds its output.
    Orphan,
    /// A tree in two sessions that has to be ended at its time-out.
    TimesOut,
    /// A client that goes in the middle of the output.
    Vanish { out: u64 },
    /// Started and left; then its output from some byte on, and its record removed.
    Detached { out: u64, from: u64 },
    /// Ended by a call.
    Signalled { tree: bool },
    /// On a terminal of this size.
    Terminal { rows: u16, cols: u16 },
}

impl Job {
    /// The job of this number.
    pub(crate) fn of(number: usize) -> Self {
        let source = Cell::new(Some(Source::new(number as u64, 4096)));
        let dice = |sides: u64| {
            let mut rolled = [0; 8];
            let mut dice = source.take()?;
            std::io::Read::read_exact(&mut dice, &mut rolled).ok()?;
            source.set(Some(dice));
            Some(u64::from_le_bytes(rolled) % sides)
        };
        // 4096 bytes of dice do not run out.
        let roll = |sides| dice(sides).unwrap_or_default();
        // Every order of magnitude is as likely as another.
        let size = || roll((1 << roll(LARGEST + 1)) + 1);
        match roll(100) {
            0..20 => Self::Run { out: size(), err: size() },
            20..32 => Self::Lines { out: size(), err: size() },
            32..44 => Self::Frames { out: size(), err: size() },
            44..56 => Self::Stdin { bytes: size() },
            56..60 => Self::Exit { code: roll(256) as i32 },
            60..66 => Self::Dies { signal: [1, 2, 3, 6, 9, 13, 15, 34, 64][roll(9) as usize] },
            66..70 => Self::Missing,
            70..74 => Self::Orphan,
            74..75 => Self::TimesOut,
            75..80 => Self::Vanish { out: 300_000 },
            80..88 => {
                let out = size();
                Self::Detached { out, from: roll(out + 1) }
            }
            88..93 => Self::Signalled { tree: roll(2) == 1 },
            _ => Self::Terminal { rows: 1 + roll(200) as u16, cols: 1 + roll(300) as u16 },
        }
    }

    /// Its name in the table.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Run { .. } => "one answer",
            Self::Lines { .. } => "stream of lines",
            Self::Frames { .. } => "stream of binary frames",
            Self::Stdin { .. } => "standard input and back",
            Self::Exit { .. } => "exit status",
            Self::Dies { .. } => "dies of a signal",
            Self::Missing => "no such program",
            Self::Orphan => "leaves a process",
            Self::TimesOut => "times out, two sessions",
            Self::Vanish { .. } => "client vanishes",
            Self::Detached { .. } => "detached, then attached",
            Self::Signalled { .. } => "ended by a call",
            Self::Terminal { .. } => "on a terminal",
        }
    }
}
