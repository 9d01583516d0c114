//! The same question to a real sshd again and again: which of these keys does it accept, now?
//!
//! ssh offers every key that its agent has, and asks the agent for a signature when sshd has accepted one (SSH_MSG_USERAUTH_PK_OK, RFC
//! 4252, 7). The agent here signs nothing, so that ssh goes on to the next key; it has the same keys many times over, and each round begins
//! with one that is always accepted: while that waits for its signature, nothing is asked. sshd reads the files anew for each key.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{pool::Pool, sshd_rig::Sshd, support::DEADLINE};

/// The key that begins each round.
pub(crate) const MARKER: usize = 5;

/// Rounds on one connection: sshd takes 1024 requests.
const ROUNDS: usize = 160;

// Message numbers of the agent's protocol (draft-miller-ssh-agent, 5.1).
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES: u8 = 12;
const SIGN_REQUEST: u8 = 13;

/// A connection to an sshd as a user, and the questions on it.
pub(crate) struct Asker {
    user: &'static str,
    blobs: Vec<Vec<u8>>,
    connection: Option<Connection>,
}

struct Connection {
    ssh: Child,
    /// Keys that a signature is wanted by.
    accepted: Receiver<usize>,
    /// The marker's signature is refused, and the round goes on.
    go_on: Sender<()>,
    rounds: usize,
    directory: tempfile::TempDir,
}

impl Asker {
    pub(crate) fn new(pool: &Pool, user: &'static str) -> Self {
        let blob = |number| STANDARD.decode(pool.line(number).split(' ').nth(1).unwrap()).unwrap();
        Self { user, blobs: (0..pool.len()).map(blob).collect(), connection: None }
    }

    /// The keys that sshd accepts.
    pub(crate) fn ask(&mut self, sshd: &Sshd) -> BTreeSet<usize> {
        if self.connection.as_ref().is_none_or(|connection| connection.rounds == ROUNDS) {
            self.end();
            self.connection = Some(self.connect(sshd));
        }
        let connection = self.connection.as_mut().unwrap();
        connection.rounds += 1;
        connection.go_on.send(()).unwrap();
        let mut accepted = BTreeSet::from([MARKER]);
        loop {
            match connection.next() {
                MARKER => return accepted,
                number => drop(accepted.insert(number)),
            }
        }
    }

    fn connect(&self, sshd: &Sshd) -> Connection {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let listener = UnixListener::bind(&socket).unwrap();
        let (tell, accepted) = channel();
        let (go_on, may_go_on) = channel();
        let blobs = self.blobs.clone();
        std::thread::spawn(move || serve(&listener, &blobs, &tell, &may_go_on));

        let mut ssh = Command::new("ssh");
        ssh.args(["-v", "-F", "none", "-p", &sshd.port.to_string()]).env("SSH_AUTH_SOCK", &socket);
        for option in [
            "BatchMode=yes",
            "IdentityFile=none",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
            "PreferredAuthentications=publickey",
        ] {
            ssh.args(["-o", option]);
        }
        ssh.arg(format!("{}@{}", self.user, sshd.address)).arg("true").stdin(Stdio::null()).stdout(Stdio::null());
        let log = File::create(directory.path().join("log")).unwrap();
        let ssh = ssh.stderr(log).spawn().expect("ssh is missing: install Debian's package openssh-client");
        let connection = Connection { ssh, accepted, go_on, rounds: 0, directory };
        assert_eq!(connection.next(), MARKER, "{}", connection.log());
        connection
    }

    /// Ends the connection, and looks whether every key was asked for in every round.
    pub(crate) fn end(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let offered = connection.log().lines().filter(|line| line.starts_with("debug1: Offering public key: ")).count();
        let asked = connection.rounds * self.blobs.len();
        // The marker of the next round has been offered, too.
        assert_eq!(offered, asked + 1, "not every key was asked for: {}", connection.log());
    }
}

impl Connection {
    fn next(&self) -> usize {
        let next = self.accepted.recv_timeout(DEADLINE * 4);
        next.unwrap_or_else(|error| panic!("ssh asks no more ({error}): {}", self.log()))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

/// The agent: ends with the connection that it has.
fn serve(listener: &UnixListener, blobs: &[Vec<u8>], tell: &Sender<usize>, may_go_on: &Receiver<()>) {
    let Ok((mut stream, _)) = listener.accept() else { return };
    while let Ok((kind, body)) = message(&mut stream) {
        let answer = match kind {
            REQUEST_IDENTITIES => identities(blobs),
            SIGN_REQUEST => {
                let (length, rest) = body.split_first_chunk().unwrap();
                let key = &rest[..u32::from_be_bytes(*length) as usize];
                let number = blobs.iter().position(|blob| blob == key).unwrap();
                // Either end of these is gone with the test.
                if tell.send(number).is_err() || (number == MARKER && may_go_on.recv().is_err()) {
                    return;
                }
                vec![FAILURE]
            }
            _ => vec![FAILURE],
        };
        let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
        if stream.write_all(&[&length[..], &answer].concat()).is_err() {
            return;
        }
    }
}

fn message(stream: &mut UnixStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body)?;
    Ok((body.remove(0), body))
}

/// All keys, the marker first, once for each round and one more.
fn identities(blobs: &[Vec<u8>]) -> Vec<u8> {
    let round: Vec<_> = std::iter::once(MARKER).chain((0..blobs.len()).filter(|number| *number != MARKER)).collect();
    let mut answer = vec![IDENTITIES];
    answer.extend(u32::try_from(round.len() * (ROUNDS + 1)).unwrap().to_be_bytes());
    for number in round.repeat(ROUNDS + 1) {
        for string in [&blobs[number][..], b""] {
            answer.extend(u32::try_from(string.len()).unwrap().to_be_bytes());
            answer.extend(string);
        }
    }
    answer
}
