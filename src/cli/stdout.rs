//! Standard output as one end of a connection: what comes is passed on to its end, which whoever reads can see, and a reader that has
//! gone is noticed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::oneshot;

use crate::api::OutputStream;
use crate::limits;

use super::failure::Failure;
use super::sink::Sink;

/// Passes on all that comes, and then its end. The inner error is that of `from`: all that came before it is written, and no end is
/// made, which would say that this was all.
pub(super) async fn pass_on<R: AsyncRead + Unpin>(from: &mut R) -> Result<io::Result<()>, Failure> {
    let mut sink = Sink::default();
    let received = loop {
        let mut buffer = BytesMut::with_capacity(limits::CLIENT_READ_BYTES);
        let read = tokio::select! {
            biased;
            failure = sink.failed() => return Err(failure),
            read = from.read_buf(&mut buffer) => read,
        };
        match read {
            Ok(0) => break Ok(()),
            Ok(_) => sink.write(OutputStream::Stdout, buffer.freeze()).await?,
            Err(error) => break Err(error),
        }
    };
    sink.finish().await?;
    if received.is_ok() {
        end().map_err(Failure::Stdout)?;
    }
    Ok(received)
}

/// Lets whoever reads our output see its end, while our input goes on.
fn end() -> io::Result<()> {
    let stdout = io::stdout();
    // A socket may be held by others, too. A pipe or a file cannot be shut down, and ends when nobody holds it.
    let _ = rustix::net::shutdown(stdout.as_fd(), rustix::net::Shutdown::Write);
    rustix::stdio::dup2_stdout(File::create("/dev/null")?)?;
    Ok(())
}

/// Can nobody read it any more?
pub(super) fn is_unread() -> bool {
    poll_errors(Some(&Timespec::default())).is_ok_and(|unread| unread)
}

/// Returns when nobody can read it any more. It is asked by a thread that ends with the process.
pub(super) async fn unread() {
    let (tell, told) = oneshot::channel();
    let watch = move || {
        if poll_errors(None).is_ok_and(|unread| unread) {
            // Nobody may wait for it any more.
            let _ = tell.send(());
        }
    };
    // Without the thread it is noticed by a write, if there is anything to write.
    let thread = std::thread::Builder::new().name("reader".into()).spawn(watch);
    if thread.is_err() || told.await.is_err() {
        std::future::pending().await
    }
}

/// A pipe whose readers have gone and a socket whose other end has closed are shown by poll(2) whether that was asked for or not. Files
/// and devices never are.
fn poll_errors(patience: Option<&Timespec>) -> io::Result<bool> {
    let stdout = io::stdout();
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    loop {
        match poll(&mut watched, patience) {
            Err(Errno::INTR) => {}
            polled => return Ok(polled? > 0),
        }
    }
}
