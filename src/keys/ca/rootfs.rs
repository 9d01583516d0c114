//! Files by which an image trusts the authority, in a directory that is laid on its root file system.

use crate::{
    keys::GUESTD_SSH,
    sys::root_dir::{Existing, RootDir, RootDirError},
};

/// Below the authority's directory.
const ROOTFS: &str = "rootfs";

/// Writes them, and gives their paths below the authority's directory.
pub(super) fn write(dir: &RootDir, domain: &str, host_ca: &str, user_ca: &str) -> Result<Vec<String>, RootDirError> {
    let mut written = Vec::new();
    for (path, text) in files(domain, host_ca, user_ca) {
        let path = format!("{ROOTFS}{path}");
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        dir.make_directories(parent, 0o755, None)?;
        dir.write(&path, &mut text.as_bytes(), 0o644, None, Existing::Replace)?;
        written.push(path);
    }
    Ok(written)
}

/// Path in the image, and content.
fn files(domain: &str, host_ca: &str, user_ca: &str) -> [(String, String); 4] {
    [
        (format!("{GUESTD_SSH}/user_ca.pub"), user_ca.to_owned()),
        (format!("{GUESTD_SSH}/known_hosts"), format!("@cert-authority *.{domain} {host_ca}")),
        (
            "/etc/ssh/sshd_config.d/20-guestd-ca.conf".to_owned(),
            format!(
                "# Users whose certificate is of this authority may log in as the accounts that it names.\n\
                 TrustedUserCAKeys {GUESTD_SSH}/user_ca.pub\n\
                 # Made by `guestd ca sign-host`. While it is not there sshd says so in its log and shows its plain key.\n\
                 HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n"
            ),
        ),
        (
            // Before 10-guestd.conf: the first value that ssh reads for a keyword holds.
            "/etc/ssh/ssh_config.d/05-guestd-ca.conf".to_owned(),
            format!(
                "# A VM must show a certificate of the host authority; a plain host key is not taken at its first sight.\n\
                 Host *.{domain}\n    GlobalKnownHostsFile {GUESTD_SSH}/known_hosts\n    StrictHostKeyChecking yes\n"
            ),
        ),
    ]
}
