//! Reading what the image configures: bounded, and a text or nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::limits;

/// Where configuration lies, the strongest first, as for systemd.
const PLACES: [&str; 4] = ["/etc", "/run", "/usr/local/lib", "/usr/lib"];

/// A text of at most [`limits::BOOT_FILE_BYTES`].
///
/// # Errors
/// Those of reading it, and `FileTooLarge`.
pub(super) fn read(path: &Path) -> io::Result<String> {
    read_bounded(path, limits::BOOT_FILE_BYTES)
}

/// A text of at most so many bytes.
///
/// # Errors
/// Those of reading it, and `FileTooLarge`.
pub(super) fn read_bounded(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// The `*.conf` files of a directory in each of the usual places, by name; of those with the same name, the strongest.
pub(super) fn configuration(directory: &str) -> Vec<(PathBuf, String)> {
    let mut found = BTreeMap::new();
    for place in PLACES {
        for path in with_extension(&Path::new(place).join(directory), "conf") {
            if let Some(name) = path.file_name() {
                found.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    // One that is a link to /dev/null is switched off, and empty.
    found.into_values().filter_map(|path| Some((path.clone(), read(&path).ok()?))).collect()
}

/// Files of a directory whose names end so, by name.
pub(super) fn with_extension(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    paths.sort();
    paths
}
