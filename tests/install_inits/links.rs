//! Links planted in an image lead nowhere, whichever init system it has.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use guestd::install::{install, uninstall};

use crate::{
    build::Build,
    images::{IMAGES, Image, uninstall_args},
};

/// What lies outside of the image and must stay as it is.
fn outside(build: &Build) -> PathBuf {
    let outside = build.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    outside
}

/// A link from `path` to `target`, by way of as many `..` as there can be.
fn upward(target: &Path) -> String {
    format!("{}{}", "../".repeat(24), target.strip_prefix("/").unwrap().display())
}

/// An image for each init system.
fn one_of_each() -> impl Iterator<Item = Image> {
    let mut seen = Vec::new();
    IMAGES.into_iter().filter(move |image| {
        let is_first = !seen.contains(&image.init);
        seen.push(image.init);
        is_first
    })
}

#[test]
fn no_directory_that_is_a_link_leads_out_of_the_image() {
    for image in one_of_each() {
        let fresh = (image.make)().install();
        let directories: BTreeSet<_> =
            fresh.lines.iter().flat_map(|line| Path::new(&line.path).ancestors().skip(1)).map(Path::to_owned).collect();
        for directory in directories.iter().filter(|directory| *directory != Path::new("/")) {
            for is_absolute in [true, false] {
                let build = (image.make)();
                let outside = outside(&build);
                let before = build.fingerprint(&outside);
                let path = build.path(directory.to_str().unwrap());
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                if fs::symlink_metadata(&path).is_ok() {
                    fs::rename(&path, path.with_extension("away")).unwrap();
                }
                symlink(if is_absolute { outside.display().to_string() } else { upward(&outside) }, &path).unwrap();
                // Refused or put elsewhere inside: both will do.
                let result = install(&build.args());
                let shown = directory.display();
                assert_eq!(build.fingerprint(&outside), before, "{}: {shown}: {result:?}", image.name);
                let result = uninstall(&uninstall_args(&build));
                assert_eq!(build.fingerprint(&outside), before, "{}: {shown}: {result:?}", image.name);
            }
        }
    }
}

#[test]
fn no_link_in_the_place_of_a_file_is_written_through() {
    for image in one_of_each() {
        let fresh = (image.make)().install();
        for line in &fresh.lines {
            let build = (image.make)();
            let outside = outside(&build);
            let before = build.fingerprint(&outside);
            let path = build.path(&line.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
            if fs::symlink_metadata(&path).is_ok() {
                continue;
            }
            symlink(outside.join("victim"), &path).unwrap();
            let result = install(&build.args());
            assert_eq!(build.fingerprint(&outside), before, "{}: {}: {result:?}", image.name, line.path);
            let result = uninstall(&uninstall_args(&build));
            assert_eq!(build.fingerprint(&outside), before, "{}: {}: {result:?}", image.name, line.path);
        }
    }
}

#[test]
fn a_record_that_somebody_has_written_leads_no_further_than_the_image() {
    let build = Build::with_systemd();
    build.install();
    let outside = outside(&build);
    let before = build.fingerprint(&outside);
    let victim = outside.join("victim").display().to_string();
    // SHA-256 of "untouched".
    let hash = "d59c2a5f721ce135ce54628b1ad8ad8b8eb26c8bbe2e2abe1cdca97e2d6ab446";
    let lines = [
        format!("{hash}  {}", upward(Path::new(&victim))),
        format!("{hash}  {victim}"),
        format!("#directory  /{}", upward(&outside)),
        format!("#link  x  {victim}"),
        format!("#saved  {victim}"),
    ];
    let manifest = "/usr/local/share/guestd/manifest";
    fs::write(build.path(manifest), build.read(manifest) + &lines.join("\n")).unwrap();
    let report = uninstall(&uninstall_args(&build)).unwrap();
    assert_eq!(build.fingerprint(&outside), before, "{report}");
}
