//! Keys, tokens and passwords.

use super::{Case, case, nothing};
use crate::fixture::{Fixture, pem};

const TOKEN: &str = "ghp_a8F3kq09Zx7Lw2Rt5Yb1Nc6Vd4Hs0Jg8Pm3Q";

/// A key in a home's .ssh, with the modes that ssh wants.
fn key_of_root(it: &Fixture) {
    it.write("root/.ssh/id_ed25519", pem("OPENSSH PRIVATE KEY"));
    it.mode("root/.ssh", 0o700);
    it.mode("root/.ssh/id_ed25519", 0o600);
}

pub(super) const CASES: &[Case] = &[
    case("private-key", "/root/.ssh/id_ed25519", key_of_root, |it| {
        it.write("root/.ssh/id_ed25519.pub", "ssh-ed25519 AAAA somebody\n");
        it.mode("root/.ssh", 0o700);
    }),
    case(
        "private-key",
        "/etc/ssl/private/server.key",
        |it| it.write("etc/ssl/private/server.key", pem("PRIVATE KEY")),
        |it| it.write("etc/ssl/private/server.pem", pem("CERTIFICATE")),
    ),
    case(
        "private-key",
        "/etc/letsencrypt/live/a.example/privkey.pem",
        |it| it.write("etc/letsencrypt/live/a.example/privkey.pem", pem("EC PRIVATE KEY")),
        nothing,
    ),
    case(
        "private-key",
        "/srv/app/deep/in/it/bundle",
        |it| it.write("srv/app/deep/in/it/bundle", format!("{}{}", pem("CERTIFICATE"), pem("RSA PRIVATE KEY"))),
        // Keys that come with a package are no secrets.
        |it| it.write("srv/app/node_modules/tls-test/fixtures/key.pem", pem("RSA PRIVATE KEY")),
    ),
    case(
        "private-key",
        "/usr/local/etc/key",
        |it| it.write("usr/local/etc/key", pem("PRIVATE KEY")),
        |it| it.write("usr/share/doc/example/key", pem("PRIVATE KEY")),
    ),
    case("private-key", "/etc/app/store.p12", |it| it.write("etc/app/store.p12", [0x30, 0x82]), nothing),
    case(
        "private-key",
        "/root/.gnupg/private-keys-v1.d/0A.key",
        |it| it.write("root/.gnupg/private-keys-v1.d/0A.key", "(private-key)"),
        nothing,
    ),
    // A copy of the golden key is one too many.
    case(
        "private-key",
        "/etc/guestd/ssh/golden_ed25519.guestd-new",
        |it| it.write("etc/guestd/ssh/golden_ed25519.guestd-new", pem("OPENSSH PRIVATE KEY")),
        nothing,
    ),
    case(
        "golden-key",
        "/etc/guestd/ssh/golden_ed25519",
        |it| it.mode("etc/guestd/ssh/golden_ed25519", 0o644),
        |it| it.remove("etc/guestd/ssh/golden_ed25519"),
    ),
    case("golden-key", "/etc/guestd/ssh/golden_ed25519", |it| it.owner("etc/guestd/ssh/golden_ed25519", 1000), nothing)
        .also(&["system-owner"]),
    case(
        "credentials",
        "/root/.aws/credentials",
        |it| it.write("root/.aws/credentials", "[default]\naws_secret_access_key = x\n"),
        |it| it.write("root/.aws/config", "[default]\nregion = eu-north-1\n"),
    ),
    case(
        "credentials",
        "/home/user/.docker/config.json",
        |it| it.write("home/user/.docker/config.json", r#"{"auths": {"r.example": {"auth": "eDp5"}}}"#),
        |it| it.write("home/user/.docker/config.json", r#"{"auths": {"r.example": {}}, "credsStore": "pass"}"#),
    ),
    case(
        "credentials",
        "/root/.npmrc",
        |it| it.write("root/.npmrc", "//r.example/:_authToken=abc\n"),
        |it| it.write("root/.npmrc", "registry=https://r.example/\n"),
    ),
    case(
        "credentials",
        "/root/.pypirc",
        |it| it.write("root/.pypirc", "[pypi]\nusername = a\npassword = b\n"),
        |it| it.write("root/.pypirc", "[distutils]\nindex-servers = pypi\n"),
    ),
    case(
        "credentials",
        "/root/.netrc",
        |it| it.write("root/.netrc", "machine a.example login b password c\n"),
        |it| it.write("root/.netrc", "machine a.example login b\n"),
    ),
    case(
        "credentials",
        "/root/.git-credentials",
        |it| it.write("root/.git-credentials", "https://a:b@c.example\n"),
        |it| {
            it.write("root/.git-credentials", "\n");
        },
    ),
    case(
        "token",
        "/opt/app/settings.ini",
        |it| it.write("opt/app/settings.ini", format!("github = {TOKEN}\n")),
        |it| it.write("opt/app/settings.ini", "github = ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"),
    ),
    case(
        "secret-variable",
        "/etc/environment",
        |it| it.append("etc/environment", "DB_PASSWORD=word\n"),
        |it| it.append("etc/environment", "DB_PASSWORD=\nTOKEN_FILE=/run/token\nMY_TOKEN=/run/token\nAPI_KEY=$OTHER\n"),
    ),
    case(
        "secret-variable",
        "/srv/app/.env",
        |it| it.write("srv/app/.env", "export STRIPE_SECRET='word'\n"),
        |it| {
            it.write("srv/app/.env", "# STRIPE_SECRET=word\nPORT=3000\n");
        },
    ),
    case(
        "secret-variable",
        "/etc/systemd/system/app.service",
        |it| {
            it.write(
                "etc/systemd/system/app.service",
                "[Service]\nEnvironment=\"PORT=1\" \"API_KEY=word\"\nExecStart=/bin/sh\n",
            )
        },
        |it| it.write("etc/systemd/system/app.service", "[Service]\nEnvironment=PORT=1\nExecStart=/bin/sh\n"),
    ),
];

#[test]
fn keys_tokens_and_passwords_are_found() {
    super::hold(CASES);
}

#[test]
fn a_secret_is_never_shown() {
    let fixture = Fixture::new();
    let secrets = ["5ecret-1", "5ecret-2", "5ecret-3", TOKEN];
    fixture.append("etc/environment", "VERS_AUTH_TOKEN=5ecret-1\nDB_PASSWORD=5ecret-2\n");
    fixture.prepend("etc/guestd/config.toml", "auth_token = \"5ecret-3 with blanks\"\nauth_tokn = \"5ecret-3\"\n");
    fixture.write("root/notes", TOKEN);
    key_of_root(&fixture);
    let root = fixture.root();
    for arguments in [vec![root.as_os_str()], vec![root.as_os_str(), "--json".as_ref()]] {
        let output = crate::fixture::command(arguments);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for rule in ["guestd-token", "secret-variable", "guestd-config", "token", "private-key"] {
            assert!(said.contains(rule), "{rule}: {said}");
        }
        let body = pem("X").lines().nth(1).unwrap().to_owned();
        for secret in secrets.iter().copied().chain([body.as_str()]) {
            assert!(!said.contains(secret), "{secret} is shown: {said}");
        }
    }
}
