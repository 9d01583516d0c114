//! Options of an authorized key: sshd refuses a key with one that it does not know, so those that are given are read as it reads
//! them (`sshauthopt_parse` of `auth-options.c`).

use super::ssh_time;

/// What an option takes.
#[derive(Debug, Clone, Copy)]
enum Takes {
    /// Nothing.
    Nothing,
    /// Nothing, and `no-` before it switches it off.
    Switch,
    /// A value that this accepts, in words.
    Value { once: bool, accepts: fn(&str) -> bool, form: &'static str },
}

/// All that OpenSSH has, from 8.4 on.
const OPTIONS: [(&str, Takes); 17] = [
    ("restrict", Takes::Nothing),
    ("cert-authority", Takes::Nothing),
    ("agent-forwarding", Takes::Switch),
    ("port-forwarding", Takes::Switch),
    ("pty", Takes::Switch),
    ("touch-required", Takes::Switch),
    ("user-rc", Takes::Switch),
    ("verify-required", Takes::Switch),
    ("X11-forwarding", Takes::Switch),
    ("command", once(|_| true, "a command")),
    ("from", once(|value| !value.is_empty(), "a list of addresses and host names")),
    ("principals", once(|value| !value.is_empty(), "a list of names")),
    (
        "tunnel",
        once(|value| value.eq_ignore_ascii_case("any") || is_number(value), "the number of a tun device, or any"),
    ),
    ("environment", many(is_variable, "NAME=VALUE")),
    ("permitopen", many(is_target, "HOST:PORT, where PORT may be *")),
    ("permitlisten", many(|value| is_port(value) || is_target(value), "[HOST:]PORT, where PORT may be *")),
    ("expiry-time", many(|value| ssh_time::parse(value).is_some(), "YYYYMMDD[HHMM[SS]][Z]")),
];

const fn once(accepts: fn(&str) -> bool, form: &'static str) -> Takes {
    Takes::Value { once: true, accepts, form }
}

const fn many(accepts: fn(&str) -> bool, form: &'static str) -> Takes {
    Takes::Value { once: false, accepts, form }
}

fn is_number(value: &str) -> bool {
    !value.is_empty() && value.parse::<i32>().is_ok_and(|number| number >= 0)
}

fn is_variable(value: &str) -> bool {
    let name = value.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

fn is_port(value: &str) -> bool {
    value == "*" || value.parse::<u16>().is_ok_and(|port| port > 0)
}

/// `host:port`, or `[address]:port` where the address has colons.
fn is_target(value: &str) -> bool {
    let Some((host, port)) = value.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bracketed.map_or(!host.is_empty() && !host.contains(':'), |host| !host.is_empty()) && is_port(port)
}

/// An option of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyOption<'text> {
    name: &'text str,
    /// Without its quotes.
    value: Option<String>,
}

/// Reads options, and says what is wrong with them as what follows "the options are refused: ".
fn read(text: &str) -> Result<Vec<KeyOption<'_>>, String> {
    let mut options = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.find([',', '=', '"']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let (value, after) = match after.strip_prefix('=') {
            None => (None, after),
            Some(after) => {
                let (value, after) =
                    unquoted(after).ok_or_else(|| format!("the value of {} is not in quotes", shown(name)))?;
                (Some(value), after)
            }
        };
        // sshd skips an option that is not there, as between two commas.
        if !name.is_empty() || value.is_some() {
            options.push(KeyOption { name, value });
        }
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(options),
            None => return Err(format!("after {} there must be a comma or a blank", shown(name))),
        }
    }
}

/// The value between quotes, in which a backslash escapes a quote, and what follows them.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut value = String::new();
    loop {
        let at = rest.find(['"', '\\'])?;
        value.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix('"') {
            return Some((value, after));
        }
        let escaped = rest.starts_with("\\\"");
        value.push(if escaped { '"' } else { '\\' });
        rest = &rest[if escaped { 2 } else { 1 }..];
    }
}

/// A name for a message, if it can be one: what stands there may be anything, a part of a private key too.
fn shown(name: &str) -> &str {
    const LONGEST: usize = 24;
    let is_name = (1..=LONGEST).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-' || byte == b'X' || byte.is_ascii_digit());
    if is_name { name } else { "an option" }
}

/// Would sshd take a key with these options? If not, why.
pub(super) fn check(text: &str) -> Result<(), String> {
    let options = read(text)?;
    for (index, KeyOption { name, value }) in options.iter().enumerate() {
        let known = |plain: &str| OPTIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(plain));
        let negated = name.get(..3).filter(|prefix| prefix.eq_ignore_ascii_case("no-")).and_then(|_| known(&name[3..]));
        let (takes, negated) = match (known(name), negated) {
            (Some((_, takes)), _) => (*takes, false),
            (None, Some((_, takes))) => (*takes, true),
            (None, None) => return Err(format!("sshd knows no option that is called like {}", shown(name))),
        };
        match (takes, value) {
            (Takes::Switch, None) => {}
            (Takes::Nothing, None) if !negated => {}
            (Takes::Value { once, accepts, form }, Some(value)) if !negated => {
                if !accepts(value) {
                    return Err(format!("{} takes {form}", shown(name)));
                }
                if once && options[..index].iter().any(|earlier| earlier.name.eq_ignore_ascii_case(name)) {
                    return Err(format!("{} is there twice", shown(name)));
                }
            }
            (Takes::Value { form, .. }, None) => return Err(format!("{} needs a value, {form}", shown(name))),
            _ => return Err(format!("{} takes no value and no `no-`", shown(name))),
        }
    }
    let has = |wanted: &str| options.iter().any(|option| option.name.eq_ignore_ascii_case(wanted));
    if has("principals") && !has("cert-authority") {
        return Err("principals is for a cert-authority".to_owned());
    }
    Ok(())
}

/// Until when sshd accepts a key with these options, in seconds since 1970: the earliest time counts. None for ever, and where they
/// cannot be read.
pub(super) fn expiry(text: &str) -> Option<u64> {
    let options = read(text).ok()?;
    let times = options.iter().filter(|option| option.name.eq_ignore_ascii_case(ssh_time::OPTION));
    times.filter_map(|option| ssh_time::parse(option.value.as_deref()?)).min()
}

/// Is there a time in these options?
pub(super) fn expires(text: &str) -> bool {
    read(text).is_ok_and(|options| options.iter().any(|option| option.name.eq_ignore_ascii_case(ssh_time::OPTION)))
}

/// The options without a time.
pub(super) fn without_expiry(text: &str) -> String {
    let Ok(options) = read(text) else { return text.to_owned() };
    let kept = options.iter().filter(|option| !option.name.eq_ignore_ascii_case(ssh_time::OPTION));
    let written = kept.map(|KeyOption { name, value }| match value {
        Some(value) => format!("{name}=\"{}\"", value.replace('"', "\\\"")),
        None => (*name).to_owned(),
    });
    written.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_option_is_accepted_in_every_form_that_sshd_takes() {
        for options in [
            "restrict",
            ",restrict,,pty,",
            ",",
            "RESTRICT,no-PTY,pty,x11-Forwarding,no-x11-forwarding",
            "agent-forwarding,no-agent-forwarding,port-forwarding,no-port-forwarding,user-rc,no-user-rc",
            "touch-required,no-touch-required,verify-required,no-verify-required",
            r#"command="echo \"a, b\" c:\\ ""#,
            r#"command="""#,
            r#"from="10.0.0.0/8,fd00::/8,!*.example.com",cert-authority,principals="root,ada""#,
            r#"tunnel="0",environment="A=b c",environment="A_1=""#,
            r#"permitopen="localhost:80",permitopen="[::1]:*",permitlisten="8080",permitlisten="*:1""#,
            r#"expiry-time="20991231",expiry-time="20991231235959Z""#,
        ] {
            assert_eq!(check(options), Ok(()), "{options}");
        }
    }

    #[test]
    fn what_sshd_would_refuse_is_refused_with_the_reason() {
        for (options, reason) in [
            ("=\"a\"", "sshd knows no option that is called like an option"),
            ("restricted", "sshd knows no option that is called like restricted"),
            ("no-restrict", "no-restrict takes no value and no `no-`"),
            ("pty=\"1\"", "pty takes no value and no `no-`"),
            ("command", "command needs a value, a command"),
            ("command=ls", "the value of command is not in quotes"),
            ("command=\"ls", "the value of command is not in quotes"),
            ("command=\"ls\"pty", "after command there must be a comma or a blank"),
            ("command=\"a\",Command=\"b\"", "an option is there twice"),
            ("tunnel=\"-1\"", "tunnel takes the number of a tun device, or any"),
            ("environment=\"A-B=c\"", "environment takes NAME=VALUE"),
            ("permitopen=\"80\"", "permitopen takes HOST:PORT, where PORT may be *"),
            ("permitopen=\"::1:80\"", "permitopen takes HOST:PORT, where PORT may be *"),
            ("permitlisten=\"0\"", "permitlisten takes [HOST:]PORT, where PORT may be *"),
            ("expiry-time=\"20991301\"", "expiry-time takes YYYYMMDD[HHMM[SS]][Z]"),
            ("principals=\"root\"", "principals is for a cert-authority"),
        ] {
            assert_eq!(check(options), Err(reason.to_owned()), "{options}");
        }
    }

    #[test]
    fn a_message_repeats_nothing_that_could_be_a_secret() {
        let secret = "MIIEpAIBAAKCAQEA7bq4";
        assert!(!check(secret).unwrap_err().contains(secret));
        assert!(!check(&format!("{secret}=\"")).unwrap_err().contains(secret));
    }

    #[test]
    fn the_earliest_time_counts_and_can_be_taken_out() {
        let options = r#"expiry-time="20991231000000Z",command="a \"b\"",Expiry-Time="20000101000000Z",pty"#;
        assert_eq!(expiry(options), Some(946_684_800));
        assert!(expires(options));
        assert_eq!(without_expiry(options), r#"command="a \"b\"",pty"#);
        assert_eq!((expiry("pty"), expires("pty")), (None, false));
        assert_eq!(without_expiry("not \"options"), "not \"options");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*") {
            let _ = (check(&text), expiry(&text), without_expiry(&text));
        }

        #[test]
        fn what_is_written_anew_means_the_same(value in "[ -~]{0,20}") {
            let escaped = value.replace('"', "\\\"");
            // A backslash at the end would escape the closing quote: there is no way to write such a value.
            prop_assume!(!escaped.contains("\\\\\"") && !value.ends_with('\\'));
            let options = format!("command=\"{escaped}\"");
            prop_assert_eq!(without_expiry(&options), options);
        }
    }
}
