//! Changes of the bridge's settings by API, kept over a restart of the agent: a file beside its socket.
//!
//! ```text
//! a change ──> written, with the configuration's own part of that time
//! a start  ──> no file, or one that cannot be trusted: the configuration counts
//!              the configuration's part is the same:    the file counts
//!              it was changed since:                     the configuration counts, and the file goes
//! ```
//!
//! The socket's directory is empty after a boot (/run is a tmpfs), so a boot has what the configuration says.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{BridgeState, Settings};
use crate::{
    api::BridgeRule,
    limits,
    sys::root_dir::{Entry, Existing, RootDir, RootDirError},
};

/// What of the settings can be changed while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Changeable {
    auto: bool,
    rules: Vec<BridgeRule>,
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// What the configuration said when the change was made.
    config: Changeable,
    live: Changeable,
}

/// The file, and whose turn it is to write it.
#[derive(Debug)]
pub struct SettingsFile {
    path: PathBuf,
    config: Changeable,
    turn: Semaphore,
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// Nothing was changed while an agent ran.
    AsConfigured,
    /// As it was changed.
    Live(Changeable),
    /// It was changed, and then the configuration was.
    Outdated,
}

fn decide(config: &Changeable, kept: Option<Kept>) -> Decision {
    match kept {
        None => Decision::AsConfigured,
        Some(kept) if kept.config == *config => Decision::Live(kept.live),
        Some(_) => Decision::Outdated,
    }
}

impl SettingsFile {
    /// The file of the agent with this socket, and the settings to begin with. Whatever is wrong with the file, the configuration
    /// counts and the log says why.
    pub fn open(socket: &Path, mut settings: Settings) -> (Self, Settings) {
        let mut path = socket.as_os_str().to_owned();
        path.push(".bridge.json");
        let config = Changeable { auto: settings.auto, rules: settings.rules.clone() };
        let file = Self { path: path.into(), config, turn: Semaphore::new(1) };
        let kept = file.read().unwrap_or_else(|why| {
            tracing::warn!(path = %file.path.display(), why, "bridge: changes made before the restart are lost");
            None
        });
        match decide(&file.config, kept) {
            Decision::AsConfigured => {}
            Decision::Live(live) => {
                tracing::info!(
                    auto = live.auto,
                    rules = live.rules.len(),
                    "bridge: settings as changed before the restart"
                );
                (settings.auto, settings.rules) = (live.auto, live.rules);
            }
            Decision::Outdated => {
                tracing::warn!("bridge: the configuration was changed; changes made by API before that are dropped");
                // Or they would be back when the configuration is as it was before.
                if let Err(error) = std::fs::remove_file(&file.path) {
                    tracing::warn!(path = %file.path.display(), %error, "bridge: outdated settings stay on disk");
                }
            }
        }
        (file, settings)
    }

    /// Writes down how the bridge is set, which it asks when its turn has come.
    ///
    /// # Errors
    /// A sentence: they hold until the agent ends.
    pub async fn keep(&self, state: impl FnOnce() -> Arc<BridgeState>) -> Result<(), String> {
        // One after the other, and each what holds in its turn: so the last one writes what holds at the end.
        let _turn = self.turn.acquire().await.map_err(|error| error.to_string())?;
        let state = state();
        let live = Changeable { auto: state.auto, rules: state.rules.clone() };
        let (path, kept) = (self.path.clone(), Kept { config: self.config.clone(), live });
        let written = tokio::task::spawn_blocking(move || write(&path, &kept)).await;
        written.map_err(|error| error.to_string()).flatten()
    }

    fn read(&self) -> Result<Option<Kept>, String> {
        let (dir, name) = split(&self.path).map_err(|error| error.to_string())?;
        let file = match dir.look(name).map_err(|error| error.to_string())? {
            Entry::Absent => return Ok(None),
            Entry::File(file) => file,
            _ => return Err("it is no regular file".to_owned()),
        };
        if file.uid != nix::unistd::geteuid().as_raw() || file.mode & 0o077 != 0 {
            return Err(format!("others may write it (owner {}, mode {:o})", file.uid, file.mode));
        }
        let text = file.read(limits::BRIDGE_SETTINGS_BYTES).map_err(|error| error.to_string())?;
        let kept: Kept = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let rules = &kept.live.rules;
        if rules.len() > limits::BRIDGE_PORTS {
            return Err(format!("{} rules are more than the limit of {}", rules.len(), limits::BRIDGE_PORTS));
        }
        BridgeRule::check_all(rules).map_err(|bad| bad.to_string())?;
        Ok(Some(kept))
    }
}

fn write(path: &Path, kept: &Kept) -> Result<(), String> {
    let text = serde_json::to_vec(kept).map_err(|error| error.to_string())?;
    let (dir, name) = split(path).map_err(|error| error.to_string())?;
    dir.write(name, &mut text.as_slice(), 0o600, None, Existing::Replace).map_err(|error| error.to_string())
}

fn split(path: &Path) -> Result<(RootDir, &str), RootDirError> {
    let invalid = || RootDirError::Content {
        action: "use",
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "the name is not UTF-8"),
    };
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(invalid)?;
    Ok((RootDir::open(path.parent().unwrap_or(Path::new("/")))?, name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::config::RoutablePorts;

    fn changeable(auto: bool, rules: &[&str]) -> Changeable {
        Changeable { auto, rules: rules.iter().map(|text| text.parse().unwrap()).collect() }
    }

    fn settings(auto: bool, rules: &[&str]) -> Settings {
        let Changeable { auto, rules } = changeable(auto, rules);
        Settings { auto, rules, routable_ports: RoutablePorts::All }
    }

    #[test]
    fn a_live_change_counts_until_the_configuration_is_changed() {
        let (config, live) = (changeable(true, &[]), changeable(false, &["80=127.0.0.1:1"]));
        let kept = || Some(Kept { config: config.clone(), live: live.clone() });
        assert_eq!(decide(&config, None), Decision::AsConfigured);
        assert_eq!(decide(&config, kept()), Decision::Live(live.clone()));
        assert_eq!(decide(&changeable(false, &[]), kept()), Decision::Outdated);
        assert_eq!(decide(&changeable(true, &["80=127.0.0.1:1"]), kept()), Decision::Outdated);
    }

    /// Starts with this configuration and changes the rules, as the API does.
    async fn change(socket: &Path, config: Settings, rules: &[&str]) -> Result<(), String> {
        let (file, settings) = SettingsFile::open(socket, config);
        let Changeable { auto, rules } = changeable(settings.auto, rules);
        file.keep(|| Arc::new(BridgeState { auto, rules, ..BridgeState::default() })).await
    }

    #[tokio::test]
    async fn changes_are_kept_in_a_private_file_and_dropped_when_the_configuration_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, path) = (dir.path().join("a.sock"), dir.path().join("a.sock.bridge.json"));
        let config = || settings(false, &["1=127.0.0.1:1"]);
        assert_eq!(SettingsFile::open(&socket, config()).1, config());
        change(&socket, config(), &["*=::1;mode=http"]).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(SettingsFile::open(&socket, config()).1, settings(false, &["*=::1;mode=http"]));
        change(&socket, config(), &[]).await.unwrap();
        assert_eq!(SettingsFile::open(&socket, config()).1, settings(false, &[]));
        let other = || settings(false, &["2=127.0.0.1:1"]);
        assert_eq!(SettingsFile::open(&socket, other()).1, other());
        assert!(!path.exists());
        assert_eq!(SettingsFile::open(&socket, config()).1, config());
    }

    #[tokio::test]
    async fn a_file_that_others_could_have_made_is_not_believed_and_a_link_is_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, path) = (dir.path().join("a.sock"), dir.path().join("a.sock.bridge.json"));
        let config = || settings(false, &[]);
        let kept = Kept { config: changeable(false, &[]), live: changeable(false, &["9=127.0.0.1:9"]) };
        let text = serde_json::to_vec(&kept).unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, &text).unwrap();
        std::fs::set_permissions(&victim, PermissionsExt::from_mode(0o600)).unwrap();
        symlink(&victim, &path).unwrap();
        assert_eq!(SettingsFile::open(&socket, config()).1, config());
        change(&socket, config(), &[]).await.unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), text);
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
        let mut many = kept.clone();
        many.live.rules =
            (1..=limits::BRIDGE_PORTS as u16 + 1).map(|port| format!("{port}=127.0.0.1:9").parse().unwrap()).collect();
        let many = serde_json::to_vec(&many).unwrap();
        for (content, mode, believed) in [
            (&text[..], 0o600, true),
            (&many[..], 0o600, false),
            (&text[..], 0o620, false),
            (b"{", 0o600, false),
            (
                br#"{"config":{"auto":false,"rules":[]},"live":{"auto":false,"rules":[{"listen":0,"to":"::1"}]}}"#,
                0o600,
                false,
            ),
        ] {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(SettingsFile::open(&socket, config()).1 != config(), believed, "{mode:o}");
        }
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_written_is_told_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("gone/a.sock");
        let why = change(&socket, settings(false, &[]), &[]).await.unwrap_err();
        assert!(why.starts_with("cannot open the directory ") && why.contains("No such file"), "{why}");
    }
}
