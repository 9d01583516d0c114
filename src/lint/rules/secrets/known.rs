//! Files that are known by their names to hold secrets. Pure.

/// What must be in a file for it to count.
enum Holds {
    Anything,
    /// One of these; of settings, so that blanks around their sign do not matter.
    One(&'static [&'static str]),
}

use Holds::{Anything, One};

/// Last part of the path, what is in it, whose it is.
const CREDENTIALS: &[(&str, Holds, &str)] = &[
    ("/.aws/credentials", Anything, "AWS"),
    ("/.azure/accessTokens.json", Anything, "Azure"),
    ("/.azure/msal_token_cache.json", Anything, "Azure"),
    ("/.azure/service_principal_entries.json", Anything, "Azure"),
    ("/.boto", One(&["secret_access_key", "refresh_token"]), "boto"),
    ("/.cargo/credentials", Anything, "cargo"),
    ("/.cargo/credentials.toml", Anything, "cargo"),
    ("/.claude/.credentials.json", Anything, "Claude"),
    ("/.codex/auth.json", Anything, "Codex"),
    ("/.composer/auth.json", Anything, "Composer"),
    ("/.config/composer/auth.json", Anything, "Composer"),
    ("/.config/doctl/config.yaml", One(&["access-token:"]), "doctl"),
    ("/.config/gcloud/access_tokens.db", Anything, "gcloud"),
    ("/.config/gcloud/application_default_credentials.json", Anything, "gcloud"),
    ("/.config/gcloud/credentials.db", Anything, "gcloud"),
    ("/.config/gh/hosts.yml", One(&["oauth_token:"]), "GitHub's gh"),
    ("/.config/git/credentials", Anything, "git"),
    ("/.config/glab-cli/config.yml", One(&["token:"]), "GitLab's glab"),
    ("/.config/hub", One(&["oauth_token:"]), "hub"),
    ("/.config/rclone/rclone.conf", One(&["token=", "pass=", "secret_access_key="]), "rclone"),
    ("/.docker/config.json", One(&["\"auth\":", "\"identitytoken\":", "\"registrytoken\":"]), "docker"),
    ("/.fly/config.yml", One(&["access_token:"]), "flyctl"),
    ("/.gem/credentials", Anything, "gem"),
    ("/.git-credentials", Anything, "git"),
    ("/.cache/huggingface/token", Anything, "Hugging Face"),
    ("/.huggingface/token", Anything, "Hugging Face"),
    ("/.kube/config", One(&["token:", "client-key-data:", "password:"]), "kubectl"),
    ("/.m2/settings.xml", One(&["<password>"]), "Maven"),
    ("/.my.cnf", One(&["password="]), "MySQL"),
    ("/.netrc", One(&["password"]), "netrc"),
    ("/.npmrc", One(&["_authToken=", "_auth=", "_password="]), "npm"),
    ("/.pgpass", Anything, "PostgreSQL"),
    ("/.pypirc", One(&["password=", "password:"]), "PyPI"),
    ("/.s3cfg", One(&["secret_key="]), "s3cmd"),
    ("/.terraform.d/credentials.tfrc.json", Anything, "Terraform"),
    ("/.vault-token", Anything, "Vault"),
    ("/.yarnrc.yml", One(&["npmAuthToken:"]), "yarn"),
    ("/containers/auth.json", One(&["\"auth\":"]), "podman"),
    ("/etc/apt/auth.conf", One(&["password"]), "apt"),
    ("/etc/pip.conf", One(&["@"]), "pip"),
    ("/pip/pip.conf", One(&["@"]), "pip"),
    ("/.config/wireguard/wg0.conf", One(&["PrivateKey="]), "WireGuard"),
];

/// Directories in which each file is one, and whose they are.
const DIRECTORIES: &[(&str, Holds, &str)] = &[
    ("/etc/apt/auth.conf.d/", One(&["password"]), "apt"),
    ("/etc/wireguard/", One(&["PrivateKey="]), "WireGuard"),
    ("/etc/NetworkManager/system-connections/", One(&["psk=", "password="]), "NetworkManager"),
    ("/.config/gcloud/legacy_credentials/", Anything, "gcloud"),
    ("/.aws/sso/cache/", One(&["accessToken"]), "AWS"),
];

/// Whose credentials these are, if they are any.
pub(super) fn credentials(path: &str, content: &[u8]) -> Option<&'static str> {
    let by_name = CREDENTIALS.iter().find(|(end, ..)| path.ends_with(end));
    let known = by_name.or_else(|| DIRECTORIES.iter().find(|(part, ..)| path.contains(part)));
    let (_, holds, whose) = known?;
    let there = match holds {
        Anything => content.iter().any(|byte| !byte.is_ascii_whitespace()),
        One(marks) => {
            let squeezed: Vec<u8> = content.iter().copied().filter(|byte| !matches!(byte, b' ' | b'\t')).collect();
            marks.iter().any(|mark| squeezed.windows(mark.len()).any(|window| window == mark.as_bytes()))
        }
    };
    there.then_some(whose)
}

/// Files of keys that are not text.
pub(super) fn key_store(path: &str) -> Option<&'static str> {
    if path.contains("/.gnupg/private-keys-v1.d/") || path.ends_with("/.gnupg/secring.gpg") {
        return Some("a private key of GnuPG");
    }
    let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    match name.rsplit_once('.') {
        Some((_, "p12" | "pfx")) => Some("a PKCS #12 store, which is for private keys"),
        Some((_, "jks" | "keystore")) => Some("a Java key store"),
        Some((_, "kdbx")) => Some("a store of passwords"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_secret_in_it_is_none() {
        assert_eq!(credentials("/root/.npmrc", b"registry=https://registry.example/\n"), None);
        assert_eq!(credentials("/root/.npmrc", b"//registry.example/:_authToken = abc\n"), Some("npm"));
        assert_eq!(credentials("/root/.docker/config.json", b"{\"auths\": {\"r\": {}}}"), None);
        assert_eq!(
            credentials("/root/.docker/config.json", b"{\"auths\": {\"r\": {\"auth\" : \"eA==\"}}}"),
            Some("docker")
        );
        assert_eq!(credentials("/root/.vault-token", b" \n"), None);
        assert_eq!(credentials("/etc/wireguard/wg0.conf", b"[Interface]\nPrivateKey = x\n"), Some("WireGuard"));
        assert_eq!(credentials("/root/notes", b"password"), None);
    }

    #[test]
    fn stores_of_keys_are_known_by_their_names() {
        assert!(key_store("/etc/app/Server.P12").is_some());
        assert!(key_store("/root/.gnupg/private-keys-v1.d/0A.key").is_some());
        assert_eq!(key_store("/etc/app/p12"), None);
    }
}
