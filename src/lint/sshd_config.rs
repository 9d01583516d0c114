//! sshd_config(5) of an image, with all that it includes, as sshd would read it. Nothing of the image is run, and no file outside read.
//!
//! Only what counts for the checks: keywords, arguments, whether a line holds for all or for who matches. sshd itself has the last
//! word, where one of this machine may be asked (`--host-tools`).

use super::{
    pattern,
    tree::{Place, Tree},
};
use crate::limits;

/// Where OpenSSH's configuration is; names of included files are relative to it.
const DIRECTORY: &str = "/etc/ssh";

/// A line that sets something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) file: String,
    pub(super) line: usize,
    /// In lower case, as case does not count.
    pub(super) keyword: String,
    pub(super) arguments: Vec<String>,
    /// Within a `Match` block.
    pub(super) conditional: bool,
    /// The line as it stands there.
    pub(super) text: String,
}

/// What is no line of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) why: String,
}

/// A configuration with all that it includes, in the order in which it counts.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    pub(super) directives: Vec<Directive>,
    pub(super) malformed: Vec<Malformed>,
    files: usize,
}

impl Configuration {
    /// Reads a file and what it includes. None where there is no such file.
    pub(super) fn read(tree: &Tree, path: &str) -> Option<Self> {
        let file = tree.follow(path).filter(|file| file.is_file())?;
        let mut configuration = Self::default();
        configuration.add(tree, file, path, false, 0);
        Some(configuration)
    }

    fn add(&mut self, tree: &Tree, file: Place<'_>, shown: &str, within_match: bool, depth: usize) {
        let (files, deepest) = limits::LINT_INCLUDES;
        self.files += 1;
        if self.files > files || depth > deepest {
            let why =
                format!("more than {files} files are included, or they are more than {deepest} inside each other");
            return self.malformed.push(Malformed { file: shown.to_owned(), line: 1, why });
        }
        let mut conditional = within_match;
        for (at, text) in file.text().unwrap_or_default().lines().enumerate() {
            let line = at + 1;
            let (keyword, arguments) = match words(text) {
                Ok(None) => continue,
                Ok(Some(words)) => words,
                Err(why) => {
                    self.malformed.push(Malformed { file: shown.to_owned(), line, why: why.to_owned() });
                    continue;
                }
            };
            match keyword.as_str() {
                "include" => {
                    for (file, path) in arguments.iter().flat_map(|pattern| included(tree, pattern)) {
                        // A `Match` of an included file ends with it.
                        self.add(tree, file, &path, conditional, depth + 1);
                    }
                }
                // `Match all` ends a block in effect, but sshd_config(5) has it as any other.
                "match" => conditional = !(arguments.len() == 1 && arguments[0].eq_ignore_ascii_case("all")),
                _ => {}
            }
            self.directives.push(Directive {
                file: shown.to_owned(),
                line,
                keyword,
                arguments,
                conditional,
                text: text.to_owned(),
            });
        }
    }

    /// The value of a keyword that holds for everybody: the first one counts.
    pub(super) fn value(&self, keyword: &str) -> Option<&Directive> {
        self.directives.iter().find(|directive| !directive.conditional && directive.keyword == keyword)
    }

    /// Whether the files that were read have one with this path.
    pub(super) fn includes(&self, path: &str) -> bool {
        self.directives.iter().any(|directive| directive.file == path)
    }
}

/// A line's keyword in lower case and its arguments; none in an empty line or a comment.
fn words(line: &str) -> Result<Option<(String, Vec<String>)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let end = line.find([' ', '\t', '=', '"']).unwrap_or(line.len());
    let (keyword, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    let mut arguments = Vec::new();
    let mut left = rest.trim_start();
    while !left.is_empty() && !left.starts_with('#') {
        let (word, after) = argument(left)?;
        arguments.push(word);
        left = after.trim_start();
    }
    if arguments.is_empty() {
        return Err("there is no argument");
    }
    Ok(Some((keyword.to_ascii_lowercase(), arguments)))
}

/// The first argument of a text, without its quotes, and what follows it.
fn argument(text: &str) -> Result<(String, &str), &'static str> {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (None, ' ' | '\t') => return Ok((word, &text[at..])),
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            (_, '\\') => {
                let mut ahead = characters.clone();
                match ahead.next() {
                    Some((_, escaped @ ('"' | '\'' | '\\'))) => {
                        word.push(escaped);
                        characters = ahead;
                    }
                    _ => word.push('\\'),
                }
            }
            (_, other) => word.push(other),
        }
    }
    if quote.is_some() { Err("a quote is not closed") } else { Ok((word, "")) }
}

/// The files that an Include means, in order.
fn included<'tree>(tree: &'tree Tree, pattern: &str) -> Vec<(Place<'tree>, String)> {
    let path = if pattern.starts_with('/') { pattern.to_owned() } else { format!("{DIRECTORY}/{pattern}") };
    let mut found = vec![(tree.root(), String::new())];
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let mut next = Vec::new();
        for (directory, so_far) in found {
            for place in directory.children() {
                let hidden = place.name().starts_with(b".") && !name.starts_with('.');
                if !hidden && pattern::fits(name.as_bytes(), place.name()) {
                    let path = format!("{so_far}/{}", String::from_utf8_lossy(place.name()));
                    next.extend(place.followed().map(|place| (place, path)));
                }
            }
        }
        found = next;
    }
    found.retain(|(place, _)| place.is_file());
    found
}

/// Whether sshd, up to OpenSSH 10, knows a keyword; those of distributions and those that it only passes over among them.
pub(super) fn is_known(keyword: &str) -> bool {
    KEYWORDS.split(' ').any(|known| known == keyword)
        || keyword.starts_with("gssapi")
        || keyword.starts_with("kerberos")
}

/// In one text: as many texts of their own would take twice the room.
const KEYWORDS: &str = "\
    acceptenv addressfamily afstokenpassing allowagentforwarding allowgroups allowstreamlocalforwarding \
    allowtcpforwarding allowusers authenticationmethods authorizedkeyscommand authorizedkeyscommanduser \
    authorizedkeysfile authorizedkeysfile2 authorizedprincipalscommand authorizedprincipalscommanduser \
    authorizedprincipalsfile banner casignaturealgorithms challengeresponseauthentication channeltimeout checkmail \
    chrootdirectory ciphers clientalivecountmax clientaliveinterval compression debianbanner denygroups denyusers \
    disableforwarding dsaauthentication exposeauthinfo fingerprinthash forcecommand gatewayports \
    hostbasedacceptedalgorithms hostbasedacceptedkeytypes hostbasedauthentication hostbasedusesnamefrompacketonly \
    hostcertificate hostdsakey hostkey hostkeyagent hostkeyalgorithms ignorerhosts ignoreuserknownhosts include \
    ipqos kbdinteractiveauthentication keepalive kexalgorithms keyregenerationinterval listenaddress \
    logingracetime loglevel logverbose macs match maxauthtries maxsessions maxstartups modulifile \
    pamauthenticationviakbdint passwordauthentication permitblacklistedkeys permitemptypasswords permitlisten \
    permitopen permitrootlogin permittty permittunnel permituserenvironment permituserrc persourcemaxstartups \
    persourcenetblocksize persourcepenalties persourcepenaltyexemptlist pidfile port printlastlog printmotd \
    protocol pubkeyacceptedalgorithms pubkeyacceptedkeytypes pubkeyauthentication pubkeyauthoptions rdomain \
    refuseconnection rekeylimit requiredrsasize reversemappingcheck revokedkeys rhostsauthentication \
    rhostsrsaauthentication rsaauthentication securitykeyprovider serverkeybits setenv skeyauthentication \
    sshdauthpath sshdsessionpath streamlocalbindmask streamlocalbindunlink strictmodes subsystem syslogfacility \
    tcpkeepalive trustedusercakeys unusedconnectiontimeout usedns uselogin usepam useprivilegeseparation \
    verifyreversemapping versionaddendum x11displayoffset x11forwarding x11uselocalhost xauthlocation";

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Result<Option<(String, Vec<String>)>, &'static str> {
        words(line)
    }

    fn of(keyword: &str, arguments: &[&str]) -> Result<Option<(String, Vec<String>)>, &'static str> {
        Ok(Some((keyword.to_owned(), arguments.iter().map(|&argument| argument.to_owned()).collect())))
    }

    #[test]
    fn a_line_is_read_in_every_way_to_write_it() {
        assert_eq!(split("  Port\t22 "), of("port", &["22"]));
        assert_eq!(split("PermitRootLogin=no"), of("permitrootlogin", &["no"]));
        assert_eq!(split("Banner = \"/etc/a b\" # why"), of("banner", &["/etc/a b"]));
        assert_eq!(split("AuthorizedKeysFile .ssh/a /etc/%u"), of("authorizedkeysfile", &[".ssh/a", "/etc/%u"]));
        assert_eq!(split(r#"SetEnv A="b \"c\"""#), of("setenv", &[r#"A=b "c""#]));
        assert_eq!(split("# Port 22"), Ok(None));
        assert_eq!(split("Port"), Err("there is no argument"));
        assert_eq!(split("Banner \"/etc"), Err("a quote is not closed"));
    }

    #[test]
    fn the_keywords_of_sshd_are_known_and_others_are_not() {
        for keyword in ["acceptenv", "port", "gssapiauthentication", "x11forwarding", "xauthlocation"] {
            assert!(is_known(keyword), "{keyword}");
        }
        assert!(!is_known("prot") && !is_known("") && !is_known("port xauthlocation"));
    }
}
