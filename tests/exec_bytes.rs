//! Much output and input, compared byte by byte on the way, so that nothing of it has to be held.

#![expect(clippy::unwrap_used, reason = "clippy allows it in test functions, and these have helpers")]

use guestd::api::ExecRequest;
use guestd::exec::{AttachFrom, Attachment, Event, ExecConfig, Execs};

const MIB: u64 = 1024 * 1024;
const TOTAL: u64 = 256 * MIB;

fn execs() -> Execs {
    Execs::new(ExecConfig { environment_file: "/nonexistent/environment".into(), ..ExecConfig::default() })
}

fn argv(words: &[&str]) -> ExecRequest {
    let command = words.iter().map(|word| (*word).to_owned()).collect();
    ExecRequest { command, lossless: true, ..ExecRequest::default() }
}

/// A block of noise that does not divide any size in use, over and over: a byte that is lost, doubled or moved shows.
struct Noise(Vec<u8>);

impl Noise {
    fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        Self(std::iter::repeat_with(next).flatten().take(999_983).collect())
    }

    fn write(&self, path: &std::path::Path) {
        let mut file = std::fs::File::create(path).unwrap();
        let mut left = usize::try_from(TOTAL).unwrap();
        while left > 0 {
            let some = left.min(self.0.len());
            std::io::Write::write_all(&mut file, &self.0[..some]).unwrap();
            left -= some;
        }
    }

    fn check(&self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let rest = &self.0[usize::try_from(at % self.0.len() as u64).unwrap()..];
            let (some, more) = bytes.split_at(rest.len().min(bytes.len()));
            assert!(rest.starts_with(some), "differs after byte {at}");
            (at, bytes) = (at + some.len() as u64, more);
        }
    }
}

/// Reads up to this offset at least, or to the end. Returns where it is.
async fn compare(noise: &Noise, attachment: &mut Attachment, from: u64, to: u64) -> u64 {
    let mut at = from;
    while at < to {
        match attachment.next().await {
            Some(Event::Chunk { bytes, cursor, .. }) => {
                noise.check(at, &bytes);
                at += bytes.len() as u64;
                assert_eq!(cursor, at);
            }
            other => panic!("after byte {at}: {other:?}"),
        }
    }
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_mebibytes_arrive_in_three_pieces_byte_for_byte() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let noise = Noise::new();
    noise.write(file.path());
    let mut attachment = execs().stream(argv(&["cat", file.path().to_str().unwrap()])).await.unwrap();
    let mut at = 0;
    for piece in 1..=3 {
        at = compare(&noise, &mut attachment, at, piece * TOTAL / 3).await;
        if piece < 3 {
            let exec = attachment.exec().clone();
            drop(attachment);
            attachment = exec.attach(AttachFrom::Cursor(at)).unwrap();
        }
    }
    at = compare(&noise, &mut attachment, at, TOTAL).await;
    assert_eq!(at, TOTAL);
    assert!(matches!(attachment.next().await, Some(Event::Exit { exit, cursor: TOTAL }) if exit.exit_code == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_mebibytes_go_in_and_come_out_byte_for_byte() {
    let noise = Noise::new();
    let mut attachment = execs().stream(ExecRequest { stdin_open: true, ..argv(&["cat"]) }).await.unwrap();
    let exec = attachment.exec().clone();
    let block = bytes::Bytes::from(noise.0.clone());
    let feed = tokio::spawn(async move {
        let mut sent = 0;
        while sent < TOTAL {
            let some = block.slice(..block.len().min(usize::try_from(TOTAL - sent).unwrap()));
            sent = exec.write_stdin_at(sent, some).await.unwrap();
        }
        exec.close_stdin();
    });
    assert_eq!(compare(&noise, &mut attachment, 0, TOTAL).await, TOTAL);
    feed.await.unwrap();
    assert!(matches!(attachment.next().await, Some(Event::Exit { exit, cursor: TOTAL }) if exit.exit_code == 0));
}
