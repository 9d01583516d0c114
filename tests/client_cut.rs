//! The client against a real agent over connections that are cut in the middle: nothing is lost, nothing comes twice.
#![cfg(test)]
#![expect(dead_code, reason = "the agent's helpers serve other tests, too")]

mod support;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream;
use guestd::api::{ExecExit, ExecRequest};
use guestd::client::{Client, ClientError, ExecEvent, ExecFollow, Fed, ReadFrom};
use support::{DEADLINE, TestAgent};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What one connection may carry before it is cut.
#[derive(Debug, Clone, Copy)]
struct Allowed {
    /// Bytes to the agent.
    up: u64,
    /// Bytes from it.
    down: u64,
    /// Cut before these come from it.
    before: Option<&'static [u8]>,
}

const ALL: Allowed = Allowed { up: u64::MAX, down: u64::MAX, before: None };

/// A socket before the agent's that cuts connections. What is on its way when one is cut is lost, in both directions.
struct Relay {
    path: PathBuf,
    cut: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Relay {
    /// `allowed` says what the connection of a number, from 0, may carry.
    fn new(agent: &TestAgent, allowed: impl Fn(usize) -> Allowed + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("relay.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (agent, cut) = (agent.socket().to_owned(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&cut);
        let accepting = tokio::spawn(async move {
            for number in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                let (agent, allowed, count) = (agent.clone(), allowed(number), Arc::clone(&count));
                tokio::spawn(async move { carry(client, &agent, allowed, &count).await });
            }
        });
        Self { path, cut, accepting, _directory: directory }
    }

    fn client(&self) -> Client {
        Client::new(format!("unix:{}", self.path.display()).parse().unwrap())
    }

    fn cut(&self) -> usize {
        self.cut.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Carries a connection until it ends, or is cut and counted.
async fn carry(client: UnixStream, agent: &Path, allowed: Allowed, cut: &AtomicUsize) {
    let agent = UnixStream::connect(agent).await.unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_agent, to_agent) = agent.into_split();
    // Outside of the select, which would drop them, and with them the ends: whoever sees the cut is to find it counted.
    let mut up = pin!(pass(from_client, to_agent, allowed.up, None, true));
    let mut down = pin!(pass(from_agent, to_client, allowed.down, allowed.before, false));
    let is_cut = tokio::select! {
        is_cut = &mut up => is_cut,
        is_cut = &mut down => is_cut,
    };
    cut.fetch_add(usize::from(is_cut), Ordering::SeqCst);
}

/// One direction. Returns true where it is to be cut, and false at its end; with `stay`, only the cut is returned from.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut left: u64,
    before: Option<&[u8]>,
    stay: bool,
) -> bool {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            let _ = to.shutdown().await;
            if stay {
                std::future::pending::<()>().await;
            }
            return false;
        }
        let stop = before.and_then(|mark| buffer[..count].windows(mark.len()).position(|window| window == mark));
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let carried = stop.unwrap_or(count).min(most);
        left -= carried as u64;
        if to.write_all(&buffer[..carried]).await.is_err() {
            return false;
        }
        if stop.is_some() || left == 0 {
            return true;
        }
    }
}

/// Bytes that look random and are the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

fn request(argv: &[&str]) -> ExecRequest {
    let command = argv.iter().map(|word| (*word).to_owned()).collect();
    ExecRequest { command, exec_id: Some("a".into()), lossless: true, ..ExecRequest::default() }
}

/// Output and exit; the cursors must be those of the bytes.
async fn follow(mut follow: ExecFollow) -> Result<(Vec<u8>, ExecExit), ClientError> {
    let mut output = Vec::new();
    loop {
        match follow.next().await?.expect("an exit comes before the end") {
            ExecEvent::Chunk { bytes, cursor, .. } => {
                output.extend_from_slice(&bytes);
                assert_eq!(cursor, output.len() as u64);
            }
            ExecEvent::Exit { exit, .. } => return Ok((output, exit)),
            other => panic!("{other:?} after {} bytes", output.len()),
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it happens in time")
}

#[tokio::test]
async fn output_goes_on_at_the_byte_where_its_connection_was_cut() {
    let agent = TestAgent::start();
    // Odd numbers, so that cuts are within frames and within headers of frames.
    let relay = Relay::new(&agent, |number| Allowed { down: 123_457 + number as u64, ..ALL });
    let file = tempfile::NamedTempFile::new().unwrap();
    let expected = noise(3_000_000);
    std::fs::write(file.path(), &expected).unwrap();
    let stream = within(relay.client().exec_follow(&request(&["cat", file.path().to_str().unwrap()]))).await.unwrap();
    let (output, exit) = within(follow(stream)).await.unwrap();
    assert!(output == expected);
    assert_eq!(exit.exit_code, 0);
    assert!(relay.cut() >= expected.len() / 123_600, "{}", relay.cut());
}

#[tokio::test]
async fn input_that_is_sent_again_arrives_once_and_whole() {
    let agent = TestAgent::start();
    let whole = Client::new(format!("unix:{}", agent.socket().display()).parse().unwrap());
    // Requests that ask what was accepted pass; those that carry input are cut, and some answers are lost.
    let relay = Relay::new(&agent, |number| match number % 3 {
        0 => Allowed { up: 200_003, ..ALL },
        1 => Allowed { down: 10, ..ALL },
        _ => ALL,
    });
    let expected = noise(2_000_000);
    let command = ExecRequest { stdin_open: true, ..request(&["cat"]) };
    let stream = within(whole.exec_follow(&command)).await.unwrap();
    let chunks: Vec<Bytes> = expected.chunks(30_011).map(Bytes::copy_from_slice).collect();
    let client = relay.client();
    let feed = client.exec_feed("a", stream::iter(chunks));
    let (fed, followed) = within(async { tokio::join!(feed, follow(stream)) }).await;
    let (output, exit) = followed.unwrap();
    assert!(output == expected, "{} bytes of {}", output.len(), expected.len());
    assert_eq!(exit.exit_code, 0);
    // The end of the input may have been taken where its answer was lost.
    assert!(matches!(fed.unwrap(), Fed::Whole | Fed::ClosedByExec));
    assert!(relay.cut() >= 4, "{}", relay.cut());
}

#[tokio::test]
async fn cut_just_before_the_exit_does_not_lose_it() {
    let agent = TestAgent::start();
    let mark = Some(&br#""type":"exit""#[..]);
    let relay = Relay::new(&agent, move |number| Allowed { before: mark.filter(|_| number < 3), ..ALL });
    let stream = within(relay.client().exec_follow(&request(&["sh", "-c", "echo out; exit 7"]))).await.unwrap();
    let (output, exit) = within(follow(stream)).await.unwrap();
    assert_eq!((output.as_slice(), exit.exit_code, relay.cut()), (&b"out\n"[..], 7, 3));
}

#[tokio::test]
async fn session_goes_on_in_another_one_at_its_readers_cursor() {
    let agent = TestAgent::start();
    let relay = Relay::new(&agent, |number| match number {
        0 => ALL,
        _ => Allowed { down: 234_567, ..ALL },
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    let expected = noise(1_500_000);
    std::fs::write(file.path(), &expected).unwrap();
    let client = relay.client();
    within(client.exec_start(&request(&["cat", file.path().to_str().unwrap()]))).await.unwrap();
    let (mut output, mut sessions) = (Vec::new(), 0);
    let exit = 'exec: loop {
        let at = ReadFrom::Cursor(output.len() as u64);
        let mut session = within(client.exec_session("a", at)).await.unwrap();
        sessions += 1;
        loop {
            match within(session.reader.next()).await {
                Ok(Some(ExecEvent::Chunk { bytes, .. })) => output.extend_from_slice(&bytes),
                Ok(Some(ExecEvent::Exit { exit, .. })) => break 'exec exit,
                Err(ClientError::StreamCutOff { cursor, .. }) => {
                    assert_eq!((cursor, session.reader.cursor()), (output.len() as u64, Some(cursor)));
                    break;
                }
                other => panic!("{other:?} after {} bytes", output.len()),
            }
        }
    };
    assert!(output == expected);
    assert_eq!((exit.exit_code, relay.cut()), (0, sessions - 1));
    assert!(sessions > expected.len() / 234_567, "{sessions}");
}
