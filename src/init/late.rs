//! The steps after the agent was started: nothing that it waits for.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
};

use super::{
    files,
    service::{AGENT, Definition, is_name, sorted},
    sysctl,
    timeline::Timeline,
};
use crate::{
    api::DiskGrow,
    growth::{self, GrowError},
    limits,
    sys::root_dir::{Existing, RootDir},
};

/// Where the image describes its services.
const SERVICES: &str = "/etc/guestd/services";

/// Kept over a boot, so that the kernel's pool does not begin with what all VMs of an image have in common.
const SEED: &str = "/var/lib/guestd/random-seed";

/// Does them all. Definitions that cannot be used are told by name.
pub(super) fn steps(timeline: &mut Timeline) -> (Vec<Definition>, Vec<(String, String)>) {
    timeline.step("sysctls", |problems| {
        let mut all = files::configuration("sysctl.d");
        all.extend(files::read(Path::new("/etc/sysctl.conf")).ok().map(|text| ("/etc/sysctl.conf".into(), text)));
        for (path, text) in all {
            let (settings, bad) = sysctl::parse(&text);
            problems.extend(bad.into_iter().map(|line| format!("{}: {line:?} is no setting", path.display())));
            for setting in settings {
                let written = fs::write(Path::new("/proc/sys").join(&setting.path), &setting.value);
                if let (Err(error), false) = (written, setting.lenient) {
                    problems.push(format!("{}: {} could not be set: {error}", path.display(), setting.path));
                }
            }
        }
    });
    timeline.step("random seed", |_| {
        // Not credited as entropy: a seed in an image is the same for all its VMs. Renewed at once, so that none is used twice.
        if let Ok(seed) = fs::read(SEED) {
            let _ = fs::write("/dev/urandom", &seed[..seed.len().min(limits::RANDOM_SEED_BYTES)]);
            keep_seed();
        }
    });
    timeline.step("disk", |problems| {
        match growth::grow(&DiskGrow::default()) {
            // Of another kind, such as an initramfs: there is no disk behind it.
            Ok(_) | Err(GrowError::Kind { .. } | GrowError::NotMounted { .. }) => {}
            Err(error) => problems.push(format!("the root file system could not be grown to its device: {error}")),
        }
    });
    timeline.step("services", |_| definitions(Path::new(SERVICES)))
}

/// Has the next boot begin with another seed. Best effort: the disk may be read-only.
pub(super) fn keep_seed() {
    let mut seed = [0; limits::RANDOM_SEED_BYTES];
    // Not getrandom(2), which waits for a kernel that has no entropy yet.
    if File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut seed)).is_err() {
        return;
    }
    let Ok(root) = RootDir::open(Path::new("/")) else { return };
    let made = root.make_directories("/var/lib/guestd", 0o755, None);
    let _ = made.and_then(|_| root.write(SEED, &mut &seed[..], 0o600, None, Existing::Replace));
}

/// Reads the services of a directory.
fn definitions(directory: &Path) -> (Vec<Definition>, Vec<(String, String)>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for path in files::with_extension(directory, "toml") {
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let read = || {
            if !is_name(&name) || name == AGENT {
                return Err("a service cannot be called so".to_owned());
            }
            if found.len() >= limits::SERVICES {
                return Err(format!("there are more than {} services, which is the limit", limits::SERVICES));
            }
            let text = files::read_bounded(&path, limits::SERVICE_FILE_BYTES).map_err(|error| error.to_string())?;
            Definition::parse(&name, &text)
        };
        match read() {
            Ok(definition) => found.push(definition),
            Err(why) => problems.push((name.clone(), format!("{}: {why}", path.display()))),
        }
    }
    let (found, more) = sorted(found);
    problems.extend(more);
    (found, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_named_and_costs_no_other_service() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("web.toml", "command = [\"web\"]"),
            ("bad.toml", "command = web"),
            ("guestd.toml", "command = [\"x\"]"),
            ("notes.txt", "no service"),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let (found, problems) = definitions(directory.path());
        assert!(found.iter().map(|service| service.name.as_str()).eq(["web"]));
        let named: Vec<_> = problems.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(named, ["bad", "guestd"]);
        assert!(problems[0].1.contains("bad.toml: line 1: "), "{problems:?}");
    }

    #[test]
    fn an_image_without_services_has_none() {
        assert_eq!(definitions(Path::new("/nonexistent")), (vec![], vec![]));
    }

    #[test]
    fn services_beyond_the_limit_are_named() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..=limits::SERVICES {
            fs::write(directory.path().join(format!("s{number:03}.toml")), "command = [\"x\"]").unwrap();
        }
        let (found, problems) = definitions(directory.path());
        assert_eq!((found.len(), problems.len()), (limits::SERVICES, 1));
    }
}
