//! guestd's lines in `/etc/resolv.conf`: the name servers of the configuration, where nobody else has set any.

use std::net::IpAddr;

use super::{Change, bounded};
use crate::{
    limits,
    marked::{self, Marked},
    sys::root_dir::{Entry, RootDir, RootDirError},
};

/// Programs that bring the file behind a link into being, once they run: where the link leads to, and the program.
const KEEPERS: [(&str, &[&str]); 4] = [
    ("/run/systemd/resolve/", &["/usr/lib/systemd/systemd-resolved", "/lib/systemd/systemd-resolved"]),
    ("/run/resolvconf/", &["/sbin/resolvconf", "/usr/sbin/resolvconf"]),
    ("/run/NetworkManager/", &["/usr/sbin/NetworkManager"]),
    ("/run/connman/", &["/usr/sbin/connmand"]),
];

/// What is at `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvConf {
    /// Nothing.
    Missing,
    /// A file.
    File(Vec<u8>),
    /// A link to nothing.
    Dangling {
        /// A program of the image that will make what the link leads to.
        keeper: Option<&'static str>,
    },
    /// What is left alone: a link to something, a directory, a device, a file that is too large.
    Other(String),
}

/// Looks at it.
pub(super) fn look(root: &RootDir, path: &str) -> Result<ResolvConf, RootDirError> {
    Ok(match root.look(path)? {
        Entry::Absent => ResolvConf::Missing,
        Entry::File(file) => match bounded(file.read(limits::NAMES_FILE_BYTES))? {
            Ok(text) => ResolvConf::File(text),
            Err(why) => ResolvConf::Other(why),
        },
        Entry::Link(_) if root.leads_somewhere(path)? => {
            ResolvConf::Other("a link, to what somebody else keeps".to_owned())
        }
        Entry::Link(target) => ResolvConf::Dangling { keeper: keeper(root, &target.to_string_lossy())? },
        Entry::Directory | Entry::Special => ResolvConf::Other("no file".to_owned()),
    })
}

fn keeper(root: &RootDir, target: &str) -> Result<Option<&'static str>, RootDirError> {
    // As `../run/…`, seen from /etc, it is mostly written.
    let target = target.strip_prefix("..").unwrap_or(target);
    for (_, programs) in KEEPERS.iter().filter(|(below, _)| target.starts_with(below)) {
        for program in *programs {
            if root.follow(program)?.is_some() {
                return Ok(Some(program));
            }
        }
    }
    Ok(None)
}

/// The text with these name servers.
pub(super) fn decide(servers: &[IpAddr], found: &ResolvConf) -> Change<Vec<u8>> {
    if servers.is_empty() {
        return Change::Leave("`dns` is not set".to_owned());
    }
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let text: &[u8] = match found {
        ResolvConf::Missing | ResolvConf::Dangling { keeper: None } => b"",
        ResolvConf::File(text) => text,
        ResolvConf::Dangling { keeper: Some(keeper) } => return Change::Leave(format!("it is {keeper}'s")),
        ResolvConf::Other(what) => return Change::Leave(format!("it is {what}")),
    };
    match (marked::find(text), marked::take(text)) {
        (Marked::Lines(own), _) if own == lines.as_bytes() => Change::Right,
        (_, Some(others)) if says_nothing(&others) => match marked::put(text, &lines) {
            Some(text) => Change::To(text),
            None => Change::Right,
        },
        _ => Change::Leave("somebody else has written it".to_owned()),
    }
}

/// Whether a resolv.conf(5) has nothing but blank lines and comments.
fn says_nothing(text: &[u8]) -> bool {
    let mut lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    lines.all(|line| line.is_empty() || line.starts_with(b"#") || line.starts_with(b";"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> Vec<IpAddr> {
        ["2001:db8::53", "192.0.2.53"].map(|address| address.parse().unwrap()).into()
    }

    fn decided(text: &str) -> Change<Vec<u8>> {
        decide(&servers(), &ResolvConf::File(text.as_bytes().to_vec()))
    }

    fn written(found: &ResolvConf) -> String {
        let Change::To(text) = decide(&servers(), found) else { panic!("not written: {found:?}") };
        assert_eq!(decide(&servers(), &ResolvConf::File(text.clone())), Change::Right, "the second time");
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn name_servers_are_written_where_there_are_none() {
        for found in [ResolvConf::Missing, ResolvConf::Dangling { keeper: None }, ResolvConf::File(b"\n".into())] {
            assert!(written(&found).contains("\nnameserver 2001:db8::53\nnameserver 192.0.2.53\n"));
        }
        let comment = "# Name servers are the platform's.\n;\n";
        assert!(written(&ResolvConf::File(comment.into())).ends_with(comment), "and comments stay");
    }

    #[test]
    fn other_name_servers_take_the_place_of_those_that_guestd_wrote() {
        let former = marked::put(b"", "nameserver 192.0.2.1\n").unwrap();
        assert!(!written(&ResolvConf::File(former)).contains("192.0.2.1"));
    }

    #[test]
    fn what_somebody_wrote_is_never_written_over() {
        let ours = String::from_utf8(marked::put(b"", "nameserver 192.0.2.1\n").unwrap()).unwrap();
        for text in
            ["nameserver 192.0.2.1\n", "search example.org", "options edns0", &format!("{ours}search example.org\n")]
        {
            assert!(matches!(decided(text), Change::Leave(_)), "{text}");
        }
        for found in [ResolvConf::Other("a link".into()), ResolvConf::Dangling { keeper: Some("systemd-resolved") }] {
            assert!(matches!(decide(&servers(), &found), Change::Leave(_)), "{found:?}");
        }
    }

    #[test]
    fn without_name_servers_in_the_configuration_nothing_is_done() {
        assert!(matches!(decide(&[], &ResolvConf::Missing), Change::Leave(_)));
    }
}
