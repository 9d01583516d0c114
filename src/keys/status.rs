//! What a root file system has of managed keys, for the health check `keys`.

use std::{collections::BTreeMap, path::Path};

use super::{
    AUTHORIZED_KEYS, AuthorizedLine, GUESTD_SSH, authorized_lines, identity, own, pair::KeyPair, sshd::Sshd,
    store::is_file_of_user, trust::Trusted,
};
use crate::{
    limits,
    sys::root_dir::{Entry, OpenFile, RootDir},
};

/// Managed keys as they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeysStatus {
    /// SHA-256 fingerprint of the golden identity, when it can be used.
    pub golden: Option<String>,
    /// The same of the VM's own identity.
    pub own: Option<String>,
    /// The same of the host key that guestd makes.
    pub host_key: Option<String>,
    /// Number of managed authorized keys by user.
    pub authorized: BTreeMap<String, usize>,
    /// What is wrong, a sentence each: what, where, and what to do. Nothing installed is not wrong.
    pub problems: Vec<String>,
}

impl KeysStatus {
    /// Whether there are no managed keys at all, and nothing that should have been some.
    pub fn none_installed(&self) -> bool {
        self.golden.is_none() && self.own.is_none() && self.authorized.is_empty() && self.problems.is_empty()
    }

    /// One sentence for people: the problems, else what was found.
    pub fn summary(&self) -> String {
        if !self.problems.is_empty() {
            return self.problems.join("; ");
        }
        if self.none_installed() {
            return "none installed; `guestd install --keys` puts golden keys into an image".to_owned();
        }
        let golden = match &self.golden {
            Some(fingerprint) => format!("golden identity {fingerprint}"),
            None => "no golden identity".to_owned(),
        };
        let others = [("own identity", &self.own), ("host key", &self.host_key)];
        let others = others.map(|(name, key)| key.as_ref().map(|fingerprint| format!("; {name} {fingerprint}")));
        let identities = golden + &others.into_iter().flatten().collect::<String>();
        let users: Vec<_> = self.authorized.iter().map(|(user, keys)| format!("{user} {keys}")).collect();
        match users.as_slice() {
            [] => format!("{identities}; no authorized keys"),
            users => format!("{identities}; authorized keys: {}", users.join(", ")),
        }
    }
}

/// Looks at the managed keys below `root`, which is `/` in a VM. Reads files; never fails, it reports.
pub fn status(root: &Path) -> KeysStatus {
    let mut status = KeysStatus::default();
    match RootDir::open(root) {
        Ok(root) => {
            let trusted = Trusted::of(&root);
            status.golden = status.noted(identity::golden(&root));
            status.own = status.noted(identity::own(&root));
            status.host_key = status.noted(own::host_key(&root));
            status.look_at_sshd(&root);
            status.look_at_authorized(&root, &trusted);
        }
        Err(error) => status.problems.push(error.to_string()),
    }
    status
}

/// What sshd would refuse about a file or directory, and how to mend it.
fn objection(trusted: &Trusted, file: &OpenFile) -> Option<String> {
    let objection = trusted.objection(file)?;
    let path = file.path();
    Some(format!("{} {objection}, so sshd passes it over; `{}`", path.display(), objection.cure(path)))
}

impl KeysStatus {
    /// The fingerprint of a pair, if there is one.
    fn noted(&mut self, pair: Result<Option<KeyPair>, String>) -> Option<String> {
        match pair {
            Ok(pair) => pair.map(|pair| pair.fingerprint()),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// Where guestd is installed, it makes the host key; elsewhere that is somebody else's business.
    fn look_at_sshd(&mut self, root: &RootDir) {
        let is_installed = matches!(root.follow_directory(GUESTD_SSH), Ok(Some(_)));
        if is_installed && self.host_key.is_none() && self.problems.is_empty() && Sshd::find(root).is_some() {
            self.problems.push("sshd has no ed25519 host key; guestd makes one when it starts: restart it".to_owned());
        }
    }

    fn look_at_authorized(&mut self, root: &RootDir, trusted: &Trusted) {
        match root.follow_directory(AUTHORIZED_KEYS) {
            Ok(Some(directory)) => self.problems.extend(objection(trusted, &directory)),
            Ok(None) => return,
            Err(error) => return self.problems.push(error.to_string()),
        }
        let names = match root.names(AUTHORIZED_KEYS, limits::AUTHORIZED_KEYS_USERS + 1) {
            Ok(names) => names,
            Err(error) => return self.problems.push(error.to_string()),
        };
        if names.len() > limits::AUTHORIZED_KEYS_USERS {
            let limit = limits::AUTHORIZED_KEYS_USERS;
            self.problems.push(format!("{AUTHORIZED_KEYS} has more than {limit} files; only so many are looked at"));
        }
        for name in names.iter().take(limits::AUTHORIZED_KEYS_USERS) {
            // A name that is not text is no user's; a dot starts a temporary file.
            if let Some(user) = name.to_str().filter(|name| is_file_of_user(name)) {
                self.look_at_user(root, trusted, user);
            }
        }
    }

    fn look_at_user(&mut self, root: &RootDir, trusted: &Trusted, user: &str) {
        let path = format!("{AUTHORIZED_KEYS}/{user}");
        let text = match read_authorized(root, &path, trusted) {
            Ok(text) => text,
            Err(problem) => return self.problems.push(problem),
        };
        let mut keys = 0;
        for line in authorized_lines(&text) {
            match line {
                AuthorizedLine::Key { .. } => keys += 1,
                AuthorizedLine::Malformed { number } => {
                    let shown = root.path().join(path.trim_start_matches('/'));
                    self.problems
                        .push(format!("line {number} of {} is no SSH key; mend or remove it", shown.display()));
                }
            }
        }
        self.authorized.insert(user.to_owned(), keys);
    }
}

fn read_authorized(root: &RootDir, path: &str, trusted: &Trusted) -> Result<String, String> {
    let Entry::File(file) = root.look(path).map_err(|error| error.to_string())? else {
        return Err(format!("{path} is not a regular file; guestd writes authorized keys to files of its own"));
    };
    if let Some(objection) = objection(trusted, &file) {
        return Err(objection);
    }
    let content = file.read(limits::AUTHORIZED_KEYS_BYTES).map_err(|error| error.to_string())?;
    String::from_utf8(content).map_err(|_| format!("{path} is not text"))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::keys::{GOLDEN_IDENTITY, GoldenPair};

    struct Fixture {
        root: tempfile::TempDir,
        pair: GoldenPair,
    }

    impl Fixture {
        fn installed() -> Self {
            let fixture = Self { root: tempfile::tempdir().unwrap(), pair: GoldenPair::generate().unwrap() };
            fs::create_dir_all(fixture.path(AUTHORIZED_KEYS)).unwrap();
            fixture.write(GOLDEN_IDENTITY, fixture.pair.private_text(), 0o600);
            fixture.write("/etc/guestd/ssh/authorized_keys/root", fixture.pair.public_text(), 0o644);
            fixture
        }

        fn path(&self, path: &str) -> std::path::PathBuf {
            self.root.path().join(path.trim_start_matches('/'))
        }

        fn write(&self, path: &str, text: &str, mode: u32) {
            fs::write(self.path(path), text).unwrap();
            self.chmod(path, mode);
        }

        fn chmod(&self, path: &str, mode: u32) {
            fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn status(&self) -> KeysStatus {
            status(self.root.path())
        }
    }

    #[test]
    fn no_keys_at_all_is_said_and_is_no_problem() {
        let root = tempfile::tempdir().unwrap();
        let status = status(root.path());
        assert!(status.none_installed());
        assert!(status.summary().starts_with("none installed"));
    }

    #[test]
    fn installed_keys_are_found_and_counted_by_user() {
        let fixture = Fixture::installed();
        let two = format!("# mine\n{0}restrict {0}", fixture.pair.public_text());
        fixture.write("/etc/guestd/ssh/authorized_keys/dev", &two, 0o644);
        let status = fixture.status();
        assert_eq!(status.problems, Vec::<String>::new());
        assert_eq!(status.golden.as_deref(), Some(fixture.pair.fingerprint().as_str()));
        assert_eq!(status.authorized, BTreeMap::from([("dev".into(), 2), ("root".into(), 1)]));
        let fingerprint = fixture.pair.fingerprint();
        assert_eq!(status.summary(), format!("golden identity {fingerprint}; authorized keys: dev 2, root 1"));
    }

    #[test]
    fn an_identity_that_others_can_read_is_a_problem_with_the_command_that_mends_it() {
        let fixture = Fixture::installed();
        fixture.chmod(GOLDEN_IDENTITY, 0o640);
        let status = fixture.status();
        assert_eq!(status.golden, None);
        assert!(!status.none_installed());
        let [problem] = status.problems.as_slice() else { panic!("{status:?}") };
        assert!(problem.contains("has mode 0640") && problem.contains("chmod 600"), "{problem}");
    }

    #[test]
    fn what_sshd_would_pass_over_is_a_problem() {
        let fixture = Fixture::installed();
        fixture.chmod("/etc/guestd/ssh/authorized_keys/root", 0o664);
        fixture.chmod(AUTHORIZED_KEYS, 0o777);
        let problems = fixture.status().problems;
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("authorized_keys has mode 0777"), "{problems:?}");
        assert!(problems[1].contains("authorized_keys/root has mode 0664"), "{problems:?}");
    }

    #[test]
    fn broken_keys_are_problems_without_their_text() {
        let fixture = Fixture::installed();
        fixture.write(GOLDEN_IDENTITY, "s3cret nonsense", 0o600);
        fixture.write("/etc/guestd/ssh/authorized_keys/root", "s3cret\n", 0o644);
        let status = fixture.status();
        assert_eq!(status.problems.len(), 2, "{status:?}");
        assert_eq!(status.authorized["root"], 0);
        assert!(!status.summary().contains("s3cret"));
    }

    #[test]
    fn new_versions_and_temporary_files_are_no_users() {
        let fixture = Fixture::installed();
        fixture.write("/etc/guestd/ssh/authorized_keys/root.guestd-new", "x", 0o644);
        fixture.write("/etc/guestd/ssh/authorized_keys/.root.guestd-tmp-1-1", "x", 0o644);
        assert_eq!(fixture.status().authorized.len(), 1);
    }

    #[test]
    fn a_link_is_not_read() {
        let fixture = Fixture::installed();
        std::os::unix::fs::symlink("root", fixture.path("/etc/guestd/ssh/authorized_keys/dev")).unwrap();
        let problems = fixture.status().problems;
        assert!(problems[0].contains("authorized_keys/dev is not a regular file"), "{problems:?}");
    }

    #[test]
    fn a_file_without_end_is_a_problem_and_not_read_to_it() {
        let fixture = Fixture::installed();
        let limit = usize::try_from(limits::AUTHORIZED_KEYS_BYTES).unwrap();
        fixture.write("/etc/guestd/ssh/authorized_keys/root", &"#".repeat(limit + 1), 0o644);
        assert!(fixture.status().summary().contains("larger than"));
    }
}
