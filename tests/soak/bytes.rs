//! Bytes that can be made anywhere from a seed, and checked anywhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use anyhow::Result;
use sha2::{Digest, Sha256};

/// Made at once.
const BLOCK: usize = 64 * 1024;
/// What is written to one stream before the other has its turn.
const TURN: u64 = 4 * 1024;

/// A stream of bytes that look random (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Source {
    state: u64,
    left: u64,
}

impl Source {
    /// So many bytes of this seed.
    pub(crate) fn new(seed: u64, bytes: u64) -> Self {
        Self { state: seed, left: bytes }
    }

    /// All of them.
    pub(crate) fn all(mut self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.left).unwrap_or_default()];
        for part in bytes.chunks_mut(BLOCK) {
            // Reading from a Source does not fail.
            let _ = self.read_exact(part);
        }
        bytes
    }

    /// SHA-256 of all of them, in hexadecimal.
    pub(crate) fn digest(self) -> Result<String> {
        digest(self)
    }

    fn word(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    }
}

/// Always gives whole words, as long as there is room for them, so that the bytes do not depend on how they are read.
impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = if buffer.len() >= 8 { buffer.len() / 8 * 8 } else { buffer.len() };
        let count = room.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for part in buffer[..count].chunks_mut(8) {
            let word = self.word();
            part.copy_from_slice(&word[..part.len()]);
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// SHA-256 of what is read, in hexadecimal.
pub(crate) fn digest(mut reader: impl Read) -> Result<String> {
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        match reader.read(&mut block)? {
            0 => return Ok(hex(hash)),
            count => hash.update(&block[..count]),
        }
    }
}

/// A finished SHA-256 in hexadecimal.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The command `emit SEED OUT ERR`: so many bytes of the seed to standard output, and of the next seed to standard error, by turns.
pub(crate) fn emit(seed: &str, out: &str, err: &str) -> Result<()> {
    let (seed, out, err): (u64, u64, u64) = (seed.parse()?, out.parse()?, err.parse()?);
    let (mut out, mut err) = (Source::new(seed, out), Source::new(seed + 1, err));
    // Where there is only one stream, large blocks.
    let turn = if err.left == 0 { BLOCK as u64 } else { TURN };
    let mut block = vec![0; BLOCK];
    // Without the buffers of the standard library.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    while out.left + err.left > 0 {
        for (source, file) in [(&mut out, &mut stdout), (&mut err, &mut stderr)] {
            let count = source.read(&mut block[..turn as usize])?;
            file.write_all(&block[..count])?;
        }
    }
    Ok(())
}

/// The command `digest`: SHA-256 of standard input.
pub(crate) fn digest_stdin() -> Result<()> {
    writeln!(io::stdout(), "{}", digest(io::stdin().lock())?)?;
    Ok(())
}
