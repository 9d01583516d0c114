//! Whether the host name is to follow the VM's id.

use std::borrow::Cow;

use super::{Change, Found, Wanted};
use crate::config::HostNamePolicy;

/// Names that an image has because nobody gave it one: installers', distributions' and golden images'. guestd's own golden image is `guest`.
const DEFAULTS: [&str; 16] = [
    "",
    "(none)",
    "alpine",
    "archlinux",
    "buildroot",
    "debian",
    "fedora",
    "golden",
    "guest",
    "guestd",
    "localhost",
    "localhost.localdomain",
    "template",
    "ubuntu",
    "vm",
    "void",
];

/// The longest host name, in bytes: a label of DNS (RFC 1035, section 2.3.4), one less than Linux allows.
const LONGEST: usize = 63;

/// What a hostname(5) file says.
pub(super) fn of_file(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).next().unwrap_or_default()
}

/// The host name for an id, which may have a `_` where a host name may not.
pub(super) fn of_id(id: &str) -> Cow<'_, str> {
    if id.contains('_') { Cow::from(id.replace('_', "-")) } else { Cow::from(id) }
}

/// `own` is the name that guestd has set before, as `/etc/hosts` tells it.
pub(super) fn decide(wanted: &Wanted<'_>, found: &Found, own: Option<&str>) -> Change<String> {
    let leave = |why: String| Change::Leave(why);
    let is_given = wanted.given.is_some();
    if wanted.hostname == HostNamePolicy::Keep && !is_given {
        return leave("`network.hostname` is keep".to_owned());
    }
    let Some(name) = wanted.name() else { return leave("the VM has no id (`vm_id`)".to_owned()) };
    if !is_given && !is_host_name(&name) {
        return leave(format!("the id {name:?} is no host name: letters, digits and inner hyphens, {LONGEST} at most"));
    }
    if found.kernel == name {
        return Change::Right;
    }
    if wanted.hostname == HostNamePolicy::Auto && !is_given {
        let image = found.image.as_deref().unwrap_or_default();
        if !is_default(image) {
            return leave(format!("/etc/hostname gives this VM a name of its own, {image:?}"));
        }
        let is_known = [Some(image), own].contains(&Some(&found.kernel))
            || wanted.former.iter().any(|former| of_id(former) == found.kernel);
        if !is_known && !is_default(&found.kernel) {
            return leave(format!("somebody has named this VM {:?}", found.kernel));
        }
    }
    Change::To(name.into_owned())
}

fn is_default(name: &str) -> bool {
    DEFAULTS.iter().any(|default| name.eq_ignore_ascii_case(default))
}

fn is_host_name(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::ResolvConf;

    fn decided(policy: HostNamePolicy, id: Option<&str>, image: Option<&str>, kernel: &str) -> Change<String> {
        let wanted = Wanted { vm_id: id, given: None, former: &["former"], hostname: policy, dns: &[] };
        let found = Found {
            kernel: kernel.to_owned(),
            image: image.map(str::to_owned),
            hosts: Ok(Vec::new()),
            resolv_conf: ResolvConf::Missing,
        };
        decide(&wanted, &found, Some("own"))
    }

    fn auto(image: Option<&str>, kernel: &str) -> Change<String> {
        decided(HostNamePolicy::Auto, Some("vm-1"), image, kernel)
    }

    #[test]
    fn an_image_that_nobody_named_is_called_by_the_vms_id() {
        let set = Change::To("vm-1".to_owned());
        assert_eq!(auto(None, "(none)"), set);
        assert_eq!(auto(Some("guest"), "guest"), set);
        assert_eq!(auto(Some("Debian"), "localhost"), set);
        assert_eq!(auto(Some("guest"), "vm-1"), Change::Right);
    }

    #[test]
    fn a_name_that_came_from_a_former_id_goes() {
        let set = Change::To("vm-1".to_owned());
        assert_eq!(auto(Some("guest"), "own"), set);
        assert_eq!(auto(Some("guest"), "former"), set);
    }

    #[test]
    fn a_name_that_somebody_gave_stays() {
        let left = |change| matches!(change, Change::Leave(why) if why.contains("web"));
        assert!(left(auto(Some("web"), "web")));
        assert!(left(auto(Some("web"), "guest")));
        assert!(left(auto(Some("guest"), "web")));
        assert_eq!(
            decided(HostNamePolicy::VmId, Some("vm-1"), Some("web"), "web"),
            Change::To("vm-1".to_owned()),
            "unless the configuration has it otherwise"
        );
    }

    #[test]
    fn without_an_id_that_can_be_a_name_nothing_is_done() {
        for id in [None, Some("a b"), Some("_a"), Some("-a"), Some("a-"), Some(&*"a".repeat(64))] {
            assert!(matches!(decided(HostNamePolicy::VmId, id, None, "guest"), Change::Leave(_)), "{id:?}");
        }
        assert!(matches!(decided(HostNamePolicy::Keep, Some("vm-1"), None, "guest"), Change::Leave(_)));
    }

    #[test]
    fn an_id_with_an_underscore_is_a_name_with_a_hyphen() {
        assert_eq!(decided(HostNamePolicy::Auto, Some("vm_7"), None, "guest"), Change::To("vm-7".to_owned()));
        assert_eq!(decided(HostNamePolicy::Auto, Some("vm_7"), None, "vm-7"), Change::Right);
    }

    #[test]
    fn a_name_that_the_host_has_given_is_taken_whatever_the_vm_is_called() {
        for policy in [HostNamePolicy::Auto, HostNamePolicy::VmId, HostNamePolicy::Keep] {
            let wanted =
                Wanted { vm_id: Some("vm-1"), given: Some("db.test"), former: &[], hostname: policy, dns: &[] };
            let found = |kernel: &str| Found {
                kernel: kernel.to_owned(),
                image: Some("web".to_owned()),
                hosts: Ok(Vec::new()),
                resolv_conf: ResolvConf::Missing,
            };
            assert_eq!(decide(&wanted, &found("web"), None), Change::To("db.test".to_owned()));
            assert_eq!(decide(&wanted, &found("db.test"), None), Change::Right);
        }
    }

    #[test]
    fn comments_and_blanks_are_no_part_of_a_name() {
        assert_eq!(of_file(b"# a name\n\n  guest \nother\n"), "guest");
        assert_eq!(of_file(b"\xff"), "\u{fffd}");
        assert_eq!(of_file(b""), "");
    }
}
