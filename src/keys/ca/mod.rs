//! `guestd ca`: an SSH certificate authority, for those who want more than keys that are taken down at the first sight.
//!
//! ```text
//!  where VMs are made                                   in the image, by DIR/rootfs
//!  ca init   ──> DIR/host_ca_ed25519 (keep it there) ──> ssh:  @cert-authority *.DOMAIN, strict
//!            ──> DIR/user_ca_ed25519 (keep it there) ──> sshd: TrustedUserCAKeys, HostCertificate
//!  sign-host ──> a certificate that a VM's host key is that of a name
//!  sign-user ──> a certificate that a user's key may log in as a principal, for a while
//! ```
//!
//! The private halves never get into an image or a VM.

mod authority;
mod rootfs;

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;

use crate::{calendar, limits, sys::root_dir::RootDir};

pub use authority::{CaError, Certified, Purpose, certify};

use super::keygen::make_private_directory;

/// SSH certificate authority: an option beside the golden keys.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum CaCommand {
    /// Make the authority's keys, and the files by which an image trusts it
    Init {
        /// Directory for them; made if it does not exist. Keys that are there are kept
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Domain of the VMs' public names
        #[arg(long, value_name = "DOMAIN", default_value = "vm.vers.sh", value_parser = parse_name)]
        domain: String,
    },
    /// Certify a VM's host key; prints the certificate
    SignHost {
        /// Directory of the authority
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// Public name of the VM; may repeat
        #[arg(long = "name", value_name = "NAME", required = true, value_parser = parse_name)]
        names: Vec<String>,
        /// For how long
        #[arg(long, value_name = "SPAN", default_value = "365d", value_parser = parse_span)]
        valid: Duration,
        /// The host's public key; - for standard input
        #[arg(value_name = "KEY|-")]
        key: PathBuf,
    },
    /// Certify a user's key; prints the certificate
    SignUser {
        /// Directory of the authority
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// Account that the certificate opens; may repeat
        #[arg(long = "principal", value_name = "USER", required = true, value_parser = parse_name)]
        principals: Vec<String>,
        /// Who it is for, as sshd logs it
        #[arg(long, value_name = "TEXT", default_value = "")]
        id: String,
        /// For how long
        #[arg(long, value_name = "SPAN", default_value = "12h", value_parser = parse_span)]
        valid: Duration,
        /// The user's public key; - for standard input
        #[arg(value_name = "KEY|-")]
        key: PathBuf,
    },
}

/// A name of a host or account: one that a list of names can hold.
fn parse_name(text: &str) -> Result<String, String> {
    let valid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b",*?!\"'\\#".contains(&byte));
    if valid { Ok(text.to_owned()) } else { Err("give a name without blanks, commas, quotes and wildcards".to_owned()) }
}

fn parse_span(text: &str) -> Result<Duration, String> {
    let span = calendar::parse_span(text).filter(|span| !span.is_zero());
    span.ok_or_else(|| "give a span of time with its unit, such as 90m, 12h or 365d".to_owned())
}

/// Runs `guestd ca` and prints what was made.
pub fn run(command: &CaCommand) -> anyhow::Result<()> {
    let text = match command {
        CaCommand::Init { out, domain } => init(out, domain)?,
        CaCommand::SignHost { ca, names, valid, key } => {
            let key_id = names.first().map_or("", String::as_str);
            certificate(ca, key, Certified { purpose: Purpose::Host, names, key_id, valid: *valid })?
        }
        CaCommand::SignUser { ca, principals, id, valid, key } => {
            certificate(ca, key, Certified { purpose: Purpose::User, names: principals, key_id: id, valid: *valid })?
        }
    };
    // Not print!, which panics when the reader is gone.
    io::stdout().write_all(text.as_bytes()).context("cannot print the result")
}

fn init(out: &Path, domain: &str) -> anyhow::Result<String> {
    make_private_directory(out).with_context(|| format!("cannot make the authority's directory {}", out.display()))?;
    let dir = RootDir::open(out)?;
    let mut text = String::new();
    let mut pair = |purpose: Purpose| -> anyhow::Result<String> {
        let (made, pair) = authority::make(&dir, purpose)?;
        let verb = if made { "created" } else { "kept" };
        let path = out.join(purpose.private_name());
        text.push_str(&format!("{verb:<7}  {}  (private)  {}\n", path.display(), pair.fingerprint()));
        Ok(pair.public_text().to_owned())
    };
    let (host, user) = (pair(Purpose::Host)?, pair(Purpose::User)?);
    for path in rootfs::write(&dir, domain, &host, &user)? {
        text.push_str(&format!("written  {}\n", out.join(path).display()));
    }
    Ok(text)
}

fn certificate(ca: &Path, key: &Path, certified: Certified<'_>) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match key.as_os_str() == "-" {
        true => io::stdin().lock().take(limits::KEY_FILE_BYTES).read_to_string(&mut text),
        false => std::fs::File::open(key).and_then(|file| file.take(limits::KEY_FILE_BYTES).read_to_string(&mut text)),
    };
    read.with_context(|| format!("cannot read the public key {}", key.display()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970; set it")?;
    Ok(certify(&RootDir::open(ca)?, &text, certified, now.as_secs())?)
}
