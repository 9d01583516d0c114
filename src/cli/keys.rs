//! `guestctl keys`: SSH keys that open the VM, and the public halves of its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::api::{AddKeys, AuthorizedKey, DEFAULT_KEY_SOURCE, DEFAULT_KEY_USER, Keys, KeysChanged, PublicSshKey};
use crate::calendar;
use crate::client::Client;
use crate::limits;

use super::args::{AddKeysArgs, KeysAction};
use super::failure::{Failure, exit};
use super::output::{Output, stderr};
use super::table::{Cell, Palette, Table, Tone};
use super::text::escape;

/// A file of keys that cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error("cannot read {}: {error}", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} holds a private key, which belongs to nobody but its owner", .path.display())]
    Private { path: PathBuf },
    #[error("there is no key in {}", .path.display())]
    Empty { path: PathBuf },
}

impl KeyFileError {
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "give a file that exists and may be read, or - for standard input",
            Self::Private { .. } => "nothing was sent; give its public half, the .pub file beside it",
            Self::Empty { .. } => "give lines as in a .pub or an authorized_keys file",
        }
    }
}

/// When a key is to expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    At(u64),
    In(Duration),
}

impl Expiry {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let at = calendar::parse_utc(text).map(Self::At);
        let expiry = at.or_else(|| calendar::parse_span(text).map(Self::In));
        expiry.ok_or_else(|| {
            "give a time in UTC (2026-12-31T23:59:59Z), a day (2026-12-31), or how long from now on (90m, 12h, 7d)"
                .to_owned()
        })
    }

    fn seconds(self, now: u64) -> u64 {
        match self {
            Self::At(seconds) => seconds,
            Self::In(span) => now.saturating_add(span.as_secs()),
        }
    }
}

pub(super) async fn run(client: &Client, action: Option<KeysAction>, output: Output) -> Result<u8, Failure> {
    match action {
        None | Some(KeysAction::List) => {
            let keys = client.keys().await?;
            output.show(&keys, render)?;
        }
        Some(KeysAction::Add(AddKeysArgs { user, source, expires, file })) => {
            let request = AddKeys {
                keys: keys_in(&file)?,
                user: user.unwrap_or_else(|| DEFAULT_KEY_USER.to_owned()),
                source: source.unwrap_or_else(|| DEFAULT_KEY_SOURCE.to_owned()),
                expires: expires.map(|expires| expires.seconds(now())),
            };
            changed(&client.add_keys(&request).await?, output)?;
        }
        Some(KeysAction::Remove { id }) => changed(&client.remove_key(&id).await?, output)?,
    }
    Ok(exit::OK)
}

fn changed(changed: &KeysChanged, output: Output) -> Result<(), Failure> {
    output.show(changed, |changed, palette| authorized(&changed.keys, palette))?;
    if let Some(note) = changed.note.as_deref().filter(|_| !output.json) {
        stderr(format!("guestctl: {}\n", escape(note)).as_bytes());
    }
    Ok(())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The keys of a file or, for `-`, of standard input, a line each.
fn keys_in(path: &Path) -> Result<Vec<String>, KeyFileError> {
    let unreadable = |error| KeyFileError::Unreadable { path: path.to_owned(), error };
    let mut text = String::new();
    let limit = limits::AUTHORIZED_KEYS_BYTES;
    let read = match path.as_os_str() == "-" {
        true => io::stdin().lock().take(limit + 1).read_to_string(&mut text),
        false => File::open(path).and_then(|file| file.take(limit + 1).read_to_string(&mut text)),
    };
    if read.map_err(unreadable)? as u64 > limit {
        return Err(unreadable(io::Error::other(format!("it is larger than {limit} bytes"))));
    }
    if text.contains("PRIVATE KEY") {
        return Err(KeyFileError::Private { path: path.to_owned() });
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<_> = lines.map(str::to_owned).collect();
    if keys.is_empty() { Err(KeyFileError::Empty { path: path.to_owned() }) } else { Ok(keys) }
}

fn render(keys: &Keys, palette: Palette) -> String {
    let mut text = match keys.authorized.as_slice() {
        [] => "no managed key opens this VM\n".to_owned(),
        authorized_keys => authorized(authorized_keys, palette),
    };
    let identities = keys.identities.iter().map(|identity| (identity.name.as_str(), &identity.key));
    for section in [
        public("IDENTITY", identities, palette),
        public("HOST KEY", keys.host_keys.iter().map(|key| ("", key)), palette),
    ] {
        text.extend(section.map(|section| format!("\n{section}")));
    }
    for problem in &keys.problems {
        text.push_str(&format!("{}\n", palette.paint(Tone::Bad, &escape(problem))));
    }
    text
}

fn authorized(keys: &[AuthorizedKey], palette: Palette) -> String {
    let mut table = Table::new(&["ID", "USER", "SOURCE", "TYPE", "FINGERPRINT", "EXPIRES", "COMMENT", "OPTIONS"]);
    let filled = |text: &str| Cell::or_dash((!text.is_empty()).then(|| text.to_owned()));
    for key in keys {
        table.row([
            Cell::new(&key.id),
            Cell::new(&key.user),
            Cell::new(&key.source),
            Cell::new(&key.key.algorithm),
            Cell::new(&key.key.fingerprint),
            Cell::new(key.expires.map_or_else(|| "never".to_owned(), calendar::utc)),
            filled(&key.comment),
            filled(&key.options),
        ]);
    }
    table.render(palette)
}

fn public<'a>(
    title: &str,
    keys: impl Iterator<Item = (&'a str, &'a PublicSshKey)>,
    palette: Palette,
) -> Option<String> {
    let mut table = Table::new(&[title, "TYPE", "FINGERPRINT"]);
    let mut any = false;
    for (name, key) in keys {
        any = true;
        table.row([Cell::new(name), Cell::new(&key.algorithm), Cell::new(&key.fingerprint)]);
    }
    any.then(|| table.render(palette))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::IdentityKey;

    fn key(letter: &str) -> PublicSshKey {
        let fingerprint = format!("SHA256:{}", letter.repeat(4));
        PublicSshKey { algorithm: "ssh-ed25519".into(), fingerprint, key: format!("ssh-ed25519 {letter}") }
    }

    fn keys() -> Keys {
        let golden = AuthorizedKey {
            id: "0123456789abcdef".into(),
            user: "root".into(),
            source: "golden".into(),
            key: key("A"),
            comment: "guestd golden key".into(),
            options: String::new(),
            added: None,
            expires: None,
        };
        let hosts = AuthorizedKey {
            id: "fedcba9876543210".into(),
            user: "ada".into(),
            source: "host".into(),
            key: key("B"),
            comment: "\u{1b}[2J".into(),
            options: "restrict".into(),
            added: Some(1),
            expires: Some(1_798_761_599),
        };
        Keys {
            authorized: vec![golden, hosts],
            identities: vec![IdentityKey { name: "vm".into(), key: key("C") }],
            host_keys: vec![key("D")],
            problems: Vec::new(),
        }
    }

    #[test]
    fn keys_are_tables_and_drive_no_terminal() {
        insta::assert_snapshot!(render(&keys(), Palette::Plain), @r"
        ID                USER  SOURCE  TYPE         FINGERPRINT  EXPIRES               COMMENT            OPTIONS
        0123456789abcdef  root  golden  ssh-ed25519  SHA256:AAAA  never                 guestd golden key  -
        fedcba9876543210  ada   host    ssh-ed25519  SHA256:BBBB  2026-12-31T23:59:59Z  \u{1b}[2J          restrict

        IDENTITY  TYPE         FINGERPRINT
        vm        ssh-ed25519  SHA256:CCCC

        HOST KEY  TYPE         FINGERPRINT
                  ssh-ed25519  SHA256:DDDD
        ");
    }

    #[test]
    fn what_could_not_be_read_is_told_and_no_key_is_said() {
        let keys = Keys { problems: vec!["/etc/guestd is a link".into()], ..Keys::default() };
        insta::assert_snapshot!(render(&keys, Palette::Plain), @r"
        no managed key opens this VM
        /etc/guestd is a link
        ");
    }

    #[test]
    fn a_key_expires_at_a_time_on_a_day_or_after_a_while() {
        let seconds = |text: &str| Expiry::parse(text).map(|expiry| expiry.seconds(100));
        assert_eq!(seconds("2000-02-29T00:00:00Z"), Ok(951_782_400));
        assert_eq!(seconds("2000-02-29"), Ok(951_782_400));
        assert_eq!(seconds("2h"), Ok(7300));
        assert_eq!(seconds("18446744073709551615s"), Ok(u64::MAX));
        assert!(seconds("tomorrow").is_err() && seconds("").is_err());
    }

    #[test]
    fn the_lines_of_a_file_are_its_keys_and_a_private_one_is_not_sent() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keys");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            keys_in(&file)
        };
        assert_eq!(read("# mine\r\n\n ssh-ed25519 A \r\nssh-rsa B c").unwrap(), ["ssh-ed25519 A", "ssh-rsa B c"]);
        assert!(matches!(read("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"), Err(KeyFileError::Private { .. })));
        assert!(matches!(read("# none\n"), Err(KeyFileError::Empty { .. })));
        let long = "x".repeat(usize::try_from(limits::AUTHORIZED_KEYS_BYTES).unwrap() + 1);
        assert!(matches!(read(&long), Err(KeyFileError::Unreadable { .. })));
        assert!(matches!(keys_in(&directory.path().join("none")), Err(KeyFileError::Unreadable { .. })));
    }
}
