//! The table of what guestd wants of a kernel, against the kernels.

use std::fs;
use std::path::PathBuf;

use crate::workshop::{run, script, top};

fn check(name: &str, config: &PathBuf) {
    assert!(config.is_file(), "{} is missing: make it by `just image`", config.display());
    run(script("image/kernel/check-table.sh").arg(name).arg(config));
}

#[test]
fn the_table_of_options_is_true_of_debians_kernel_and_of_all_that_were_made() {
    let image = top().join("target/image");
    check("debian", &image.join("kernel-debian/config"));
    for name in ["generic", "firecracker"] {
        let config = image.join(format!("kernel-{name}/config"));
        // Made on demand (`just e2e --kernel NAME`); our own is also known by what it is configured with, below.
        if config.is_file() {
            check(name, &config);
        }
    }
}

#[test]
fn the_table_of_options_is_true_of_what_our_own_kernel_is_configured_with() {
    check("firecracker", &top().join("image/kernel/firecracker.config"));
}

#[test]
fn an_untrue_table_is_refused_by_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    let ours = fs::read_to_string(top().join("image/kernel/firecracker.config")).unwrap();
    fs::write(&config, ours.replace("CONFIG_INET_DIAG=y", "CONFIG_INET_DIAG=m")).unwrap();
    let output = script("image/kernel/check-table.sh").arg("firecracker").arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("`INET_DIAG`): the table says y, the kernel m"), "{said}");
    let output = script("image/kernel/check-table.sh").arg("no-such").arg(&config).output().unwrap();
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("no column is called no-such")
    );
}
