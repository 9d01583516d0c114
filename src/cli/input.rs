//! Standard input, read by a thread.
//!
//! A read from a terminal or a pipe cannot be given up, so that nobody may wait for this thread: it ends with the process.

use std::io::{self, Read as _};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::sync::{mpsc, oneshot};

use crate::limits;

use super::failure::Failure;

/// What is read from standard input. Its end is the end of file.
pub(super) type Input = mpsc::Receiver<io::Result<Bytes>>;

/// Starts to read standard input.
pub(super) fn start() -> Result<Input, Failure> {
    let (queue, input) = mpsc::channel(limits::CLIENT_QUEUED_CHUNKS);
    let read = move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut buffer = BytesMut::zeroed(limits::CLIENT_READ_BYTES);
            let read = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    buffer.truncate(length);
                    Ok(buffer.freeze())
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if queue.blocking_send(read).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new().name("input".into()).spawn(read).map_err(Failure::Runtime)?;
    Ok(input)
}

/// The same as a stream of bytes that has no end after an error: what could not be read must not look like the end of it.
pub(super) fn stream(input: Input, failed: oneshot::Sender<io::Error>) -> impl Stream<Item = Bytes> {
    stream::unfold((input, Some(failed)), |(mut input, mut failed)| async {
        match input.recv().await? {
            Ok(bytes) => Some((bytes, (input, failed))),
            Err(error) => {
                if let Some(failed) = failed.take() {
                    // Nobody may listen any more.
                    let _ = failed.send(error);
                }
                std::future::pending().await
            }
        }
    })
}
