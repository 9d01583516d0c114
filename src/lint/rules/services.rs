//! What is started in a VM: guestd above all, and that what is to be started is there.

use super::{Findings, Rule, Tree, systemd};
use crate::{
    install::{PROGRAM, inits},
    lint::{finding::Severity, units::Units},
};

static GUESTD_ENABLED: Rule = Rule {
    id: "guestd-enabled",
    severity: Severity::Error,
    wants: "guestd to be started at boot",
    reason: "without its agent a VM cannot be reached by its host",
    fix: "`guestd install --root DIR`, or `systemctl --root=DIR enable guestd`; other inits: have them run `guestd agent`",
};

static UNIT_DANGLING: Rule = Rule {
    id: "unit-dangling",
    severity: Severity::Error,
    wants: "no link to a unit that is not there",
    reason: "what was to be started is not, and nothing says so",
    fix: "install what has the unit, or remove the link",
};

static UNIT_PROGRAM: Rule = Rule {
    id: "unit-program",
    severity: Severity::Error,
    wants: "the programs of units that are started to be there and executable",
    reason: "the unit fails at every boot",
    fix: "install the program, `chmod +x` it, or disable the unit",
};

pub(super) static RULES: &[&Rule] = &[&GUESTD_ENABLED, &UNIT_DANGLING, &UNIT_PROGRAM];

const GUESTD_UNIT: &str = "guestd.service";

/// Files of other inits that name what they start.
const START_FILES: &[&str] =
    &["/etc/inittab", "/etc/rc.local", "/etc/init.d/rcS", "/etc/init.d/rc", "/etc/rc.d/rc.local"];

/// Directories of other inits with an entry for each thing that they start, and what such an entry's name begins with: OpenRC's, runit's,
/// System V's and busybox's.
const START_DIRECTORIES: &[(&str, &str)] = &[
    ("/etc/runlevels/sysinit", ""),
    ("/etc/runlevels/boot", ""),
    ("/etc/runlevels/default", ""),
    ("/etc/local.d", ""),
    ("/etc/service", ""),
    ("/etc/runit/runsvdir/default", ""),
    ("/service", ""),
    ("/var/service", ""),
    ("/etc/rcS.d", "S"),
    ("/etc/rc2.d", "S"),
    ("/etc/rc3.d", "S"),
    ("/etc/init.d", "S"),
];

pub(super) fn check(tree: &Tree, found: &mut Findings) {
    let has_systemd = boots_systemd(tree);
    // An image without guestd has a finding about that already.
    if tree.follow(PROGRAM).is_some() {
        if has_systemd {
            guestd_unit(tree, found);
        } else if !starts_guestd(tree) {
            found.add(&GUESTD_ENABLED, PROGRAM, format_args!("no init of this image starts it"));
        }
    }
    if has_systemd {
        wanted(tree, found);
    }
}

/// Is systemd the init, and not only there? By the rules of `guestd install`.
fn boots_systemd(tree: &Tree) -> bool {
    let first = |paths: &[&str]| paths.iter().find_map(|path| tree.follow(path));
    let Some(systemd) = systemd(tree) else { return false };
    let Some(init) = first(&inits::KERNELS) else { return true };
    let others = [&[PROGRAM], &inits::RUNIT[..], &inits::BUSYBOX[..]].concat();
    let is_another = || others.iter().any(|path| tree.follow(path) == Some(init)) || first(&inits::OPENRC).is_some();
    init == systemd || !is_another()
}

fn guestd_unit(tree: &Tree, found: &mut Findings) {
    let units = Units::of(tree);
    let path = || format!("/etc/systemd/system/{GUESTD_UNIT}");
    match units.find(GUESTD_UNIT) {
        None => found.add(&GUESTD_ENABLED, &path(), format_args!("there is no such unit")),
        Some(unit) if units.is_masked(unit) => found.at(&GUESTD_ENABLED, unit, format_args!("it is masked")),
        Some(unit) if !units.wanted().iter().any(|wanted| wanted.name == GUESTD_UNIT) => {
            found.at(&GUESTD_ENABLED, unit, format_args!("nothing wants it, so that it is not started"));
        }
        Some(_) => {}
    }
}

/// Whether an init other than systemd starts guestd, or is guestd.
fn starts_guestd(tree: &Tree) -> bool {
    let program = tree.follow(PROGRAM);
    let is_init = ["/sbin/init", "/usr/sbin/init", "/init"].iter().any(|path| {
        let init = tree.follow(path);
        init.is_some()
            && (init == program || init.and_then(|init| init.text()).is_some_and(|text| text.contains("guestd")))
    });
    let named =
        |path: &&str| tree.text(path).is_some_and(|text| super::lines(&text).any(|line| line.contains("guestd")));
    let entry = |(path, begins): &(&str, &str)| {
        let directory = tree.follow(path);
        directory.is_some_and(|directory| {
            directory.children().any(|place| {
                let name = String::from_utf8_lossy(place.name());
                name.starts_with(begins) && name.contains("guestd") && place.followed().is_some()
            })
        })
    };
    is_init || START_FILES.iter().any(named) || START_DIRECTORIES.iter().any(entry)
}

fn wanted(tree: &Tree, found: &mut Findings) {
    let units = Units::of(tree);
    for alias in units.dangling() {
        found.at(&UNIT_DANGLING, alias, format_args!("it is a link to a unit that is not there"));
    }
    let mut seen: Vec<String> = Vec::new();
    for wanted in units.wanted() {
        let unit = units.find(&wanted.name);
        if unit.is_some_and(|unit| units.is_masked(unit)) || units.is_masked(wanted.place) {
            continue;
        }
        // systemd goes by the name of the link; where it leads counts only if there is no unit of that name elsewhere.
        if unit.is_none() && wanted.place.followed().is_none() {
            found.at(&UNIT_DANGLING, wanted.place, format_args!("there is no unit `{}`", wanted.name));
            continue;
        }
        let name = units.triggered(&wanted.name);
        if !seen.contains(&name) {
            programs(&units, &name, found);
            seen.push(name);
        }
    }
}

fn programs(units: &Units<'_>, name: &str, found: &mut Findings) {
    let Some(place) = units.find(name).filter(|unit| !units.is_masked(*unit)) else { return };
    let Some(unit) = units.read(name).filter(|unit| !unit.has_own_root()) else { return };
    for (program, counts) in unit.programs() {
        // What a specifier or a variable stands for is known in the VM alone.
        if !counts || program.contains(['%', '$']) || unit.is_conditional_on(&program) {
            continue;
        }
        match units.program(&program) {
            None => found.at(&UNIT_PROGRAM, place, format_args!("its program {program} is not there")),
            Some(file) if !file.is_file() => {
                found.at(&UNIT_PROGRAM, place, format_args!("its program {program} is no regular file"));
            }
            Some(file) if file.facts().mode & 0o111 == 0 => {
                found.at(&UNIT_PROGRAM, place, format_args!("its program {program} is not executable"));
            }
            Some(_) => {}
        }
    }
}
