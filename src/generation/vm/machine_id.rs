//! The machine id.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// 128 bits of the kernel's, as machine-id(5) has them. Written in place: systemd mounts a file of its own over an empty one.
pub(super) fn renew(path: &Path) -> Result<(), String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    // Version 4 of RFC 9562, as systemd makes them.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o444).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let written = options.open(path).and_then(|mut file| file.write_all(format!("{id}\n").as_bytes()));
    written.map_err(|error| format!("writing {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_of_its_own_and_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("machine-id");
        renew(&path).unwrap();
        let one = std::fs::read_to_string(&path).unwrap();
        assert!(one.len() == 33 && one.as_bytes()[12] == b'4', "{one}");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        renew(&path).unwrap();
        assert_ne!(std::fs::read_to_string(&path).unwrap(), one);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(renew(&link).is_err());
    }
}
