//! `*` and `?` in names, as in a shell, and `**` in paths. Pure.

/// Whether a name fits a pattern: `*` is any text, `?` any one byte.
pub(super) fn fits(pattern: &[u8], name: &[u8]) -> bool {
    sequence_fits(pattern, name, |step| *step == b'*', |step, byte| *step == b'?' || step == byte)
}

/// Whether a path fits a pattern, name by name; `**` in a name's place is any number of names, none among them.
pub(super) fn path_fits(pattern: &str, path: &str) -> bool {
    let fits_name = |step: &&str, name: &&str| fits(step.as_bytes(), name.as_bytes());
    sequence_fits(&names(pattern), &names(path), |step| *step == "**", fits_name)
}

fn names(path: &str) -> Vec<&str> {
    path.split('/').filter(|name| !name.is_empty()).collect()
}

/// A pattern of steps, of which some are any number of items. Neither recursion nor more work than one times the other.
fn sequence_fits<S, I>(pattern: &[S], items: &[I], any: impl Fn(&S) -> bool, one: impl Fn(&S, &I) -> bool) -> bool {
    let (mut at, mut from) = (0, 0);
    // Where to go on after the last step that is any number of items, should the rest not fit, and how many it has taken.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(item) = items.get(from) {
        match pattern.get(at) {
            Some(step) if any(step) => {
                at += 1;
                retry = Some((at, from));
            }
            Some(step) if one(step, item) => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((after, taken)) = &mut retry else { return false };
                *taken += 1;
                (at, from) = (*after, *taken);
            }
        }
    }
    pattern[at..].iter().all(any)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_fit_as_in_a_shell() {
        for (pattern, name) in [
            ("*.conf", "10-guestd.conf"),
            ("ssh_host_*_key*", "ssh_host_rsa_key.pub"),
            ("?", "a"),
            ("*", ""),
            ("a*b*c", "aXbYbc"),
        ] {
            assert!(fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("*.conf", "10-guestd.conf.old"), ("?", ""), ("a", "b"), ("a*b", "a")] {
            assert!(!fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn a_star_stays_within_a_name_and_two_do_not() {
        for (pattern, path) in [
            ("/etc/ssh/*", "/etc/ssh/key"),
            ("/srv/**/*.pem", "/srv/a/b/c.pem"),
            ("/srv/**/*.pem", "/srv/c.pem"),
            ("/srv/**", "/srv"),
            ("/**", "/"),
            ("/", "/"),
        ] {
            assert!(path_fits(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [("/etc/*", "/etc/ssh/key"), ("/srv/**/*.pem", "/srv/a/b.key"), ("/etc", "/etc/ssh")] {
            assert!(!path_fits(pattern, path), "{pattern} {path}");
        }
    }

    proptest! {
        #[test]
        fn every_name_fits_itself_with_any_part_of_it_as_a_star(name in "[a-c]{0,12}", from in 0_usize..12, length in 0_usize..12) {
            let from = from.min(name.len());
            let end = (from + length).min(name.len());
            let pattern = format!("{}*{}", &name[..from], &name[end..]);
            prop_assert!(fits(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn many_stars_take_no_longer_than_one_times_the_other(name in "[ab]{0,2000}") {
            let _ = fits("*a".repeat(500).as_bytes(), name.as_bytes());
        }
    }
}
