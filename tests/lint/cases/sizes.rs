//! What could go.

use super::{Case, case, nothing};

/// Worth it.
static MUCH: [u8; 100_000] = [b'x'; 100_000];

pub(super) const CASES: &[Case] = &[
    case(
        "package-lists",
        "/var/lib/apt/lists",
        |it| it.write("var/lib/apt/lists/deb_Packages", MUCH),
        |it| {
            it.write("var/lib/apt/lists/lock", "");
        },
    ),
    case(
        "package-cache",
        "/var/cache/apt",
        |it| it.write("var/cache/apt/archives/a.deb", MUCH),
        |it| {
            it.write("var/cache/apt/archives/lock", "");
        },
    ),
    case(
        "documentation",
        "/usr/share/doc",
        |it| it.write("usr/share/doc/app/changelog", MUCH),
        |it| {
            it.write("usr/share/doc/app/copyright", MUCH);
        },
    ),
    case("documentation", "/usr/share/man", |it| it.write("usr/share/man/man1/a.1.gz", MUCH), nothing),
    case(
        "cache",
        "/root/.cache",
        |it| it.write("root/.cache/pip/http/a", MUCH),
        |it| {
            // Debian keeps answers of packages there.
            it.write("var/cache/debconf/config.dat", MUCH);
        },
    ),
    case("cache", "/var/cache/app", |it| it.write("var/cache/app/a", MUCH), nothing),
    case(
        "python-cache",
        "/",
        |it| it.write("usr/lib/python3/__pycache__/a.pyc", MUCH),
        |it| {
            it.write("usr/lib/python3/a.py", MUCH);
        },
    ),
    case("logs", "/var/log", |it| it.write("var/log/dpkg.log", "line\n"), |it| it.write("var/log/dpkg.log", "")),
    case("temporary-files", "/var/tmp", |it| it.write("var/tmp/a", "a"), |it| it.write("srv/tmp/a", "a")),
    case("boot-files", "/boot", |it| it.write("boot/vmlinuz-6.1", MUCH), |it| it.directory("boot/grub")),
];

#[test]
fn what_could_go_is_found_with_its_size() {
    super::hold(CASES);
}

#[test]
fn sizes_are_told_in_bytes() {
    let fixture = crate::fixture::Fixture::new();
    fixture.write("var/log/a", [0; 1000]);
    fixture.write("var/log/b/c", [0; 24]);
    let report = fixture.lint();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!((report.findings[0].bytes, report.findings[0].message.as_str()), (Some(1024), "2 files, 1.0 KiB"));
}
