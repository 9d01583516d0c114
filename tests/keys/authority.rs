//! The certificate authority with the real programs: ssh logs in with a user's certificate, and believes a host by its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    pool::Pool,
    sshd_rig::{Image, Sshd, run, stdout},
    support::PROGRAM,
};

/// The name by which `Image::ssh` calls the VM.
const NAME: &str = "0b5c1f2e.vm.vers.sh";

fn guestd(arguments: &[&str], path: &Path) -> Output {
    Command::new(PROGRAM).args(arguments).arg(path).output().unwrap()
}

/// An image that trusts an authority.
struct Scene {
    image: Image,
    pool: Pool,
    ca: String,
}

impl Scene {
    fn new() -> Self {
        let (image, pool) = (Image::installed(), Pool::new());
        let ca = image.path("ca");
        run(Command::new(PROGRAM).args(["ca", "init", "--out"]).arg(&ca));
        run(Command::new("cp").arg("-r").arg(ca.join("rootfs/.")).arg(image.root()));
        // Nothing but certificates is to let anybody in, or to make a host known.
        fs::remove_file(image.etc("guestd/ssh/authorized_keys/root")).unwrap();
        fs::remove_file(image.etc("guestd/ssh/golden_ed25519")).unwrap();
        Self { ca: ca.display().to_string(), image, pool }
    }

    fn certify_host(&self, name: &str) {
        let key = self.image.etc("ssh/ssh_host_ed25519_key.pub");
        let certificate = guestd(&["ca", "sign-host", "--ca", &self.ca, "--name", name], &key);
        assert!(certificate.status.success(), "{}", String::from_utf8_lossy(&certificate.stderr));
        fs::write(self.image.etc("ssh/ssh_host_ed25519_key-cert.pub"), &certificate.stdout).unwrap();
    }

    /// Certifies a key of the pool, beside which ssh finds it.
    fn certify_user(&self, number: usize, arguments: &[&str]) -> PathBuf {
        let private = self.pool.private(number);
        let all = [&["ca", "sign-user", "--ca", &self.ca], arguments].concat();
        let certificate = guestd(&all, &private.with_extension("pub"));
        assert!(certificate.status.success(), "{}", String::from_utf8_lossy(&certificate.stderr));
        fs::write(private.with_file_name(format!("{number}-cert.pub")), &certificate.stdout).unwrap();
        private
    }

    fn log_in(&self, sshd: &Sshd, identity: &Path) -> Output {
        // The rig connects to an address; the name is what the host has to prove.
        let alias = format!("HostKeyAlias={NAME}");
        self.image.ssh(sshd).args(["-o", &alias, "-i"]).arg(identity).arg("id -un").output().unwrap()
    }
}

#[test]
fn ssh_logs_in_with_a_users_certificate_and_believes_the_host_by_its_own() {
    let scene = Scene::new();
    run(scene.image.enter().args(["/usr/sbin/sshd", "-t"]));
    // A key of every type that OpenSSH makes.
    for number in [0, 3, 4] {
        scene.certify_user(number, &["--principal", "root", "--id", "ada"]);
    }
    let identity = |number: usize| scene.pool.private(number);

    let sshd = Sshd::start(&scene.image, "127.0.0.1");
    let plain = scene.log_in(&sshd, &identity(0));
    let said = String::from_utf8_lossy(&plain.stderr);
    assert!(plain.status.code() == Some(255) && said.contains("Host key verification failed"), "{said}");
    drop(sshd);

    scene.certify_host(NAME);
    let mut sshd = Sshd::start(&scene.image, "127.0.0.1");
    for number in [0, 3, 4] {
        let output = scene.log_in(&sshd, &identity(number));
        assert!(output.status.success(), "{output:?}");
        assert_eq!(stdout(&output), "root\n");
    }
    let log = sshd.end();
    assert!(log.contains("ID ada (serial "), "{log}");
    assert!(
        fs::read_to_string(scene.image.path("known_hosts")).unwrap_or_default().is_empty(),
        "the certificate is enough"
    );
}

#[test]
fn a_certificate_for_another_account_another_host_or_another_time_opens_nothing() {
    let scene = Scene::new();
    scene.certify_host(NAME);
    let sshd = Sshd::start(&scene.image, "127.0.0.1");
    let refused = |sshd: &Sshd, identity: &Path, why: &str| {
        let output = scene.log_in(sshd, identity);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(255) && said.contains(why), "{said}");
    };
    refused(&sshd, &scene.certify_user(0, &["--principal", "ada"]), "Permission denied (publickey)");
    refused(&sshd, &scene.pool.private(1), "Permission denied (publickey)");
    // Of another authority.
    let other = scene.image.path("other");
    run(Command::new(PROGRAM).args(["ca", "init", "--out"]).arg(&other));
    let stranger = Scene { ca: other.display().to_string(), image: Image::installed(), pool: Pool::new() };
    refused(&sshd, &stranger.certify_user(0, &["--principal", "root"]), "Permission denied (publickey)");
    // One that was good for a moment; what tells is sshd's own clock.
    let short = scene.certify_user(2, &["--principal", "root", "--valid", "1s"]);
    crate::support::eventually("the certificate is over", || {
        let output = scene.log_in(&sshd, &short);
        String::from_utf8_lossy(&output.stderr).contains("Permission denied (publickey)").then_some(())
    });
    drop(sshd);

    scene.certify_host("another.vm.vers.sh");
    let sshd = Sshd::start(&scene.image, "127.0.0.1");
    refused(&sshd, &scene.certify_user(3, &["--principal", "root"]), "Host key verification failed");
}

#[test]
fn the_authority_is_made_once_and_bad_usage_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca");
    let init = || run(Command::new(PROGRAM).args(["ca", "init", "--domain", "example.org", "--out"]).arg(&ca));
    let first = stdout(&init());
    assert!(
        first.starts_with("created ") && first.contains("(private)  SHA256:") && !first.contains("BEGIN"),
        "{first}"
    );
    let private = fs::read(ca.join("host_ca_ed25519")).unwrap();
    assert!(stdout(&init()).starts_with("kept "));
    assert_eq!(fs::read(ca.join("host_ca_ed25519")).unwrap(), private);
    let known_hosts = fs::read_to_string(ca.join("rootfs/etc/guestd/ssh/known_hosts")).unwrap();
    assert!(known_hosts.starts_with("@cert-authority *.example.org ssh-ed25519 AAAA"), "{known_hosts}");
    let files = stdout(&run(Command::new("find").arg(ca.join("rootfs")).args(["-type", "f"])));
    assert_eq!(files.lines().count(), 4);
    for file in files.lines() {
        assert!(!fs::read_to_string(file).unwrap().contains("PRIVATE KEY"), "{file} is for images");
    }

    let ca = ca.display().to_string();
    let refused = |arguments: &[&str], path: &Path| {
        let output = guestd(arguments, path);
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&["ca", "sign-host", "--ca", &ca, "--name", "a"], &directory.path().join("ca/host_ca_ed25519"));
    assert!(said.contains("no public key") && !said.contains("BEGIN"), "{said}");
    let key = directory.path().join("ca/host_ca_ed25519.pub");
    assert!(refused(&["ca", "sign-host", "--ca", "/nonexistent", "--name", "a"], &key).contains("/nonexistent"));
    assert!(refused(&["ca", "sign-user", "--ca", &ca, "--principal", "a,b"], &key).contains("without blanks, commas"));
    assert!(
        refused(&["ca", "sign-user", "--ca", &ca, "--principal", "a", "--valid", "1y"], &key).contains("span of time")
    );
}
