//! Which control plane, and by which token: a file of the user's, overridden by the environment. Readable by its owner
//! alone.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// What is kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Base URL of the control plane.
    pub(crate) url: Option<String>,
    /// API token.
    pub(crate) token: Option<String>,
    /// The token's id, if it is a key that was made at log-in and ends at log-out.
    pub(crate) key: Option<String>,
}

/// Where it is kept.
pub(crate) fn path() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let base = base
        .or_else(home)
        .context("neither HOME nor XDG_CONFIG_HOME is set")?;
    Ok(base.join("slipway/config.toml"))
}

/// What is kept at `path`, or nothing.
pub(crate) fn load(path: &Path) -> anyhow::Result<Config> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("{} is damaged", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Keeps it.
pub(crate) fn save(path: &Path, config: &Config) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let text = toml::to_string(config)?;
    // An older file may be readable by others: it is replaced, not rewritten.
    let partial = path.with_extension("part");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_token_is_kept_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slipway/config.toml");
        assert!(load(&path).unwrap().token.is_none());
        save(
            &path,
            &Config {
                url: Some("http://x".into()),
                token: Some("t".into()),
                key: None,
            },
        )
        .unwrap();
        assert_eq!(load(&path).unwrap().token.as_deref(), Some("t"));
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
