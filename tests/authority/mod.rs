//! An authority of a test's own, whose certificates are made by openssl.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use tempfile::TempDir;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// The smallest configuration that `openssl ca` takes; it makes certificates whose time can be chosen.
const CA_SECTIONS: &str = "[ca]\ndefault_ca = default\n[default]\ndatabase = index\nrand_serial = yes\ndefault_md = sha256\n\
                           policy = any\nunique_subject = no\nx509_extensions = ext\n[any]\ncommonName = supplied\n";

/// An authority of this name.
pub(crate) struct Authority {
    name: &'static str,
    /// Kind of its key and of its servers', as openssl's `-newkey` has it.
    keys: &'static str,
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new(name: &'static str) -> Self {
        Self::with_keys(name, "ec")
    }

    pub(crate) fn with_keys(name: &'static str, keys: &'static str) -> Self {
        let authority = Self { name, keys, dir: tempfile::tempdir().unwrap() };
        authority.configure("ca", "basicConstraints = critical, CA:TRUE");
        authority.request("ca", &["-x509", "-days", "2", "-out", "ca.pem"]);
        authority
    }

    /// Its certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A server with a certificate for these names, as openssl has them: `DNS:localhost, IP:127.0.0.1`.
    pub(crate) fn server(&self, names: &str) -> ServerConfig {
        self.certify("server", names);
        self.load("server")
    }

    /// The same in files, its certificate and its key.
    pub(crate) fn server_files(&self, names: &str) -> [PathBuf; 2] {
        self.certify("server", names);
        ["pem", "key"].map(|extension| self.dir.path().join(format!("server.{extension}")))
    }

    /// A server whose certificate had ended before this test was written.
    pub(crate) fn expired_server(&self, names: &str) -> ServerConfig {
        self.configure("expired", &extensions(names));
        self.request("expired", &["-out", "expired.csr"]);
        std::fs::write(self.dir.path().join("index"), "").unwrap();
        let by = ["-cert", "ca.pem", "-keyfile", "ca.key", "-in", "expired.csr", "-out", "expired.pem"];
        let time = ["-startdate", "20240101000000Z", "-enddate", "20240102000000Z"];
        self.openssl(
            &["ca", "-batch", "-notext", "-outdir", ".", "-config", "expired.cnf"],
            &[&by[..], &time].concat(),
        );
        self.load("expired")
    }

    /// A server whose certificate nobody but itself has signed.
    pub(crate) fn self_signed_server(&self, names: &str) -> ServerConfig {
        self.configure("alone", &extensions(names));
        self.request("alone", &["-x509", "-days", "2", "-out", "alone.pem"]);
        self.load("alone")
    }

    fn certify(&self, file: &str, names: &str) {
        self.configure(file, &extensions(names));
        let out = format!("{file}.pem");
        self.request(file, &["-x509", "-days", "2", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", &out]);
    }

    fn configure(&self, file: &str, extensions: &str) {
        let sections = "[req]\ndistinguished_name = dn\nx509_extensions = ext\nprompt = no\n[dn]\nCN = ";
        let text = format!("{CA_SECTIONS}{sections}{}\n[ext]\n{extensions}\n", self.name);
        std::fs::write(self.dir.path().join(format!("{file}.cnf")), text).unwrap();
    }

    /// Makes a key, and what is asked for with it.
    fn request(&self, file: &str, more: &[&str]) {
        let (config, key) = (format!("{file}.cnf"), format!("{file}.key"));
        let mut argv = vec!["req", "-newkey", self.keys, "-nodes", "-config", &config, "-keyout", &key];
        if self.keys == "ec" {
            argv.extend(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        }
        self.openssl(&argv, more);
    }

    fn openssl(&self, argv: &[&str], more: &[&str]) {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(&self.dir).args(argv).args(more).stderr(Stdio::piped());
        let done = openssl.output().expect("openssl is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn load(&self, file: &str) -> ServerConfig {
        let path = |extension: &str| self.dir.path().join(format!("{file}.{extension}"));
        let chain = vec![CertificateDer::from_pem_file(path("pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(path("key")).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        builder.with_single_cert(chain, key).unwrap()
    }
}

fn extensions(names: &str) -> String {
    format!("basicConstraints = critical, CA:FALSE\nsubjectAltName = {names}")
}

/// A path as an argument.
pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
