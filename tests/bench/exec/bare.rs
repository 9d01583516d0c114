//! What the kernel takes: a spawn, a round trip, a pipe into a socket, and nothing else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::rival::{Rival, TRUE, writer};

/// About what a request and its answer have, in bytes.
const MESSAGE: usize = 250;

/// What goes through the pipe at once.
const BLOCK: usize = 64 * 1024;

/// posix_spawn(3) and waitpid(2) in this process, and one round trip to a thread that waits at a Unix socket.
#[derive(Debug)]
pub(crate) struct Kernel(UnixStream);

impl Kernel {
    /// Starts the thread; it ends when this is dropped.
    pub(crate) fn new() -> Result<Self> {
        let (ours, mut theirs) = UnixStream::pair()?;
        thread::spawn(move || {
            let mut message = [0; MESSAGE];
            while theirs.read_exact(&mut message).is_ok() && theirs.write_all(&message).is_ok() {}
        });
        Ok(Self(ours))
    }
}

/// The standard library uses posix_spawn for a command as plain as this.
fn bare() -> Command {
    let mut command = Command::new(TRUE);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Rival for Kernel {
    fn name(&self) -> &'static str {
        "kernel: spawn+wait, round trip"
    }

    fn run_true(&mut self) -> Result<()> {
        let mut message = [0; MESSAGE];
        self.0.write_all(&message)?;
        self.0.read_exact(&mut message)?;
        ensure!(bare().status()?.success());
        Ok(())
    }

    fn run_at_once(&mut self, count: usize) -> Result<()> {
        let started = (0..count).map(|_| bare().spawn()).collect::<Result<Vec<_>, _>>()?;
        for mut child in started {
            ensure!(child.wait()?.success());
        }
        Ok(())
    }

    fn take_output(&mut self, bytes: u64) -> Result<u64> {
        let [program, arguments @ ..] = writer(bytes);
        let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn()?;
        let mut pipe = child.stdout.take().context("its output is no pipe")?;
        let (mut reader, mut socket) = UnixStream::pair()?;
        let relay = thread::spawn(move || -> std::io::Result<()> {
            let mut block = vec![0; BLOCK];
            loop {
                match pipe.read(&mut block)? {
                    0 => return Ok(()),
                    count => socket.write_all(&block[..count])?,
                }
            }
        });
        let came = drain(&mut reader)?;
        relay.join().map_err(|_| anyhow::anyhow!("the relay panicked"))??;
        ensure!(child.wait()?.success());
        Ok(came)
    }
}

/// Reads to the end, and counts.
pub(crate) fn drain(reader: &mut impl Read) -> Result<u64> {
    let mut block = vec![0; 256 * 1024];
    let mut came = 0;
    loop {
        match reader.read(&mut block)? {
            0 => return Ok(came),
            count => came += count as u64,
        }
    }
}
