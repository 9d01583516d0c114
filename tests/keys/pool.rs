//! Key pairs of the tests' own, and the question to a real sshd which of them it accepts.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use guestd::{
    api::AddKeys,
    keys::{NewKey, Store},
};

use crate::sshd_rig::{Image, Sshd, run};

/// Types of the pairs, by their numbers.
const TYPES: [&[&str]; 6] =
    [&["ed25519"], &["ed25519"], &["ed25519"], &["ecdsa", "-b", "256"], &["rsa", "-b", "2048"], &["ed25519"]];

/// What [`open_to_questions`] adds to sshd's configuration: all keys are offered on one connection, one after the other.
const QUESTIONS: &str = "MaxAuthTries 2000\nLoginGraceTime 0\nMaxStartups 100\n";

/// Key pairs, by number.
pub(crate) struct Pool {
    directory: tempfile::TempDir,
    lines: Vec<String>,
}

impl Pool {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Public halves alone, which ssh offers without being able to log in with them: so it goes on to the next.
        fs::create_dir(directory.path().join("public")).unwrap();
        let mut lines = Vec::new();
        for (number, arguments) in TYPES.iter().enumerate() {
            let private = directory.path().join(number.to_string());
            run(Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-C", "", "-t"])
                .args(*arguments)
                .arg("-f")
                .arg(&private));
            let line = fs::read_to_string(private.with_extension("pub")).unwrap();
            let public = directory.path().join(format!("public/{number}"));
            fs::write(&public, &line).unwrap();
            fs::set_permissions(&public, fs::Permissions::from_mode(0o600)).unwrap();
            lines.push(line.trim_end().to_owned());
        }
        Self { directory, lines }
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The public half, as in a .pub file.
    pub(crate) fn line(&self, number: usize) -> &str {
        &self.lines[number]
    }

    /// The file with the private half.
    pub(crate) fn private(&self, number: usize) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    pub(crate) fn new_key(&self, user: &str, number: usize, expires: Option<u64>) -> NewKey {
        NewKey { user: user.to_owned(), line: self.line(number).to_owned(), expires }
    }

    /// Which of the keys sshd accepts for a user, by its own word (SSH_MSG_USERAUTH_PK_OK, RFC 4252, 7): each is offered on one
    /// connection.
    pub(crate) fn accepted(&self, sshd: &Sshd, user: &str) -> BTreeSet<usize> {
        let mut ssh = Command::new("ssh");
        ssh.args(["-v", "-F", "none", "-p", &sshd.port.to_string()]);
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
            "PreferredAuthentications=publickey",
            // The cheapest there is: what is asked for is another thing.
            "KexAlgorithms=curve25519-sha256",
        ] {
            ssh.args(["-o", option]);
        }
        for number in 0..self.len() {
            ssh.arg("-i").arg(self.directory.path().join(format!("public/{number}")));
        }
        ssh.arg(format!("{user}@{}", sshd.address)).arg("true").stdin(Stdio::null());
        let output = ssh.output().expect("ssh is missing: install Debian's package openssh-client");
        let said = String::from_utf8_lossy(&output.stderr);
        let offered = said.lines().filter(|line| line.starts_with("debug1: Offering public key: ")).count();
        assert_eq!(offered, self.len(), "not every key was asked for: {said}");
        assert!(said.contains("Permission denied (publickey"), "the questions did not end as they should: {said}");
        let accepted = said.lines().filter_map(|line| line.strip_prefix("debug1: Server accepts key: "));
        let number = |line: &str| line.split(' ').next()?.rsplit('/').next()?.parse().ok();
        accepted.map(|line| number(line).unwrap_or_else(|| panic!("which key is this: {line}"))).collect()
    }
}

/// Lets an image's sshd be asked, and gives it these users, with homes in the image.
pub(crate) fn open_to_questions(image: &Image, users: &[&str]) {
    let config = fs::read_to_string(image.etc("ssh/sshd_config")).unwrap();
    image.write("ssh/sshd_config", &(config + QUESTIONS));
    let add = |file: &str, line: String| {
        let before = fs::read_to_string(image.etc(file)).unwrap();
        image.write(file, &(before + &line));
    };
    for (number, user) in users.iter().enumerate() {
        let (uid, home) = (1000 + number, home(image, user));
        add("passwd", format!("{user}:x:{uid}:{uid}::{}:/bin/sh\n", home.display()));
        add("shadow", format!("{user}:*:19000::::::\n"));
        fs::create_dir_all(home.join(".ssh")).unwrap();
        let id = Some(u32::try_from(uid).unwrap());
        std::os::unix::fs::chown(&home, id, id).unwrap();
        std::os::unix::fs::chown(home.join(".ssh"), id, id).unwrap();
    }
}

/// A user's home.
pub(crate) fn home(image: &Image, user: &str) -> PathBuf {
    image.path("root/home").join(user)
}

/// What is asked of the API.
pub(crate) fn request(user: &str, source: &str, line: &str, expires: Option<u64>) -> AddKeys {
    AddKeys { keys: vec![line.to_owned()], user: user.to_owned(), source: source.to_owned(), expires }
}

/// The store of an image.
pub(crate) fn store(image: &Image) -> Store {
    Store::open(&image.root()).unwrap()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The numbers.
pub(crate) fn set(numbers: &[usize]) -> BTreeSet<usize> {
    numbers.iter().copied().collect()
}
