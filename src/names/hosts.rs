//! guestd's lines in `/etc/hosts`: that the VM's own name and `localhost` can be looked up, by whatever program.
//!
//! The VM's name is at 127.0.1.1, as Debian has it, so that nothing has to be rewritten when its addresses change. Its public name is not
//! here: that one leads through the proxy, from within the VM too.

use super::Change;
use crate::marked::{self, Marked};

/// Where the VM's name is.
const OWN_ADDRESS: &str = "127.0.1.1";

/// What every program expects to be there.
const LOCALHOST: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

/// The text in which `name` can be looked up.
pub(super) fn decide(text: &[u8], name: &str) -> Change<Vec<u8>> {
    let Some(others) = marked::take(text) else {
        return Change::Leave("the marks of guestd's own lines in it are no pair; remove them".to_owned());
    };
    let mut lines = String::new();
    if !names(&others, "localhost") {
        lines.push_str(LOCALHOST);
    }
    if !names(&others, name) {
        lines.push_str(&format!("{OWN_ADDRESS} {name}\n"));
    }
    let new = if lines.is_empty() { Some(others) } else { marked::put(text, &lines) };
    match new {
        Some(new) if new != text => Change::To(new),
        _ => Change::Right,
    }
}

/// The name that guestd has given the VM last.
pub(super) fn own_name(text: &[u8]) -> Option<String> {
    let Marked::Lines(own) = marked::find(text) else { return None };
    let own = String::from_utf8_lossy(own);
    own.lines().find_map(|line| line.strip_prefix(OWN_ADDRESS)).map(|name| name.trim().to_owned())
}

/// Whether a line of hosts(5) has this name.
fn names(text: &[u8], name: &str) -> bool {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .any(|line| line.split_ascii_whitespace().skip(1).any(|word| word.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &[u8] = b"127.0.0.1 localhost\n127.0.1.1 guest\n::1 localhost # six";

    fn changed(text: &[u8], name: &str) -> Vec<u8> {
        let Change::To(new) = decide(text, name) else { panic!("not changed: {}", String::from_utf8_lossy(text)) };
        assert_eq!(decide(&new, name), Change::Right, "the second time");
        new
    }

    #[test]
    fn the_vms_name_is_added_and_follows_its_id_while_every_other_line_stays() {
        let first = changed(DEBIAN, "vm-1");
        assert!(first.ends_with(DEBIAN));
        assert_eq!(own_name(&first).as_deref(), Some("vm-1"));
        let second = changed(&first, "vm-2");
        assert_eq!(second, String::from_utf8(first).unwrap().replace("vm-1", "vm-2").into_bytes());
        assert_eq!(marked::take(&second).unwrap(), DEBIAN);
    }

    #[test]
    fn a_name_that_somebody_wrote_there_is_not_added_again() {
        let text = [DEBIAN, b"\nfd00::2 VM-1\n"].concat();
        assert_eq!(decide(&text, "vm-1"), Change::Right);
        let with_former = marked::put(&text, "127.0.1.1 vm-0\n").unwrap();
        assert_eq!(changed(&with_former, "vm-1"), text, "the former one goes");
        assert_eq!(own_name(&text), None);
    }

    #[test]
    fn an_empty_file_gets_localhost_too() {
        let text = String::from_utf8(changed(b"", "vm-1")).unwrap();
        assert!(
            text.contains("\n127.0.0.1 localhost\n::1 localhost ") && text.contains("\n127.0.1.1 vm-1\n"),
            "{text}"
        );
    }

    #[test]
    fn marks_that_are_no_pair_are_somebodys_and_stay() {
        let broken = marked::put(DEBIAN, "").unwrap().repeat(2);
        assert!(matches!(decide(&broken, "vm-1"), Change::Leave(_)));
    }
}
