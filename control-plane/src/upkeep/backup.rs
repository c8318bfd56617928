//! `slipway-control-plane backup FILE`: database, keys and, if asked for, images of a control plane that may be running.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use chrono::Utc;

use super::{
    archive::{self, Entry, FORMAT, KEYS, Manifest, Source},
    postgres,
};
use crate::{config::Config, store::upkeep};

/// Whether images' bytes are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Images {
    /// All of them.
    With,
    /// None: they are backed up otherwise, or can be uploaded again.
    Without,
}

/// Makes a backup. Blocking.
///
/// # Errors
/// When something of it cannot be read or written; then there is no file.
pub fn run(config: &Config, to: &Path, images: Images) -> anyhow::Result<Manifest> {
    ensure!(
        !to.exists(),
        "{} is there already; backups are not written over",
        to.display()
    );
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Beside the backup: there is room where it is to lie, and whoever may read it there may read this.
    let temporary = tempfile::Builder::new()
        .prefix(".slipway-backup-")
        .tempdir_in(folder)
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    let url = &config.database_url;
    let schema = upkeep::schema(url)?
        .version
        .context("the database is empty: there is nothing to back up")?;
    let dump = temporary.path().join("database");
    let is_postgres = url.starts_with("postgres");
    if is_postgres {
        postgres::dump(url, &dump)?;
    } else {
        upkeep::copy_sqlite(url, &dump)?;
    }
    let mut sources = vec![Source {
        name: "database".to_owned(),
        path: dump,
    }];
    sources.extend(keys(&config.data_dir)?);
    if images == Images::With {
        sources.extend(chunks(&config.data_dir.join("chunks"))?);
    }
    let manifest = Manifest {
        format: FORMAT,
        made_at: Utc::now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        database: if is_postgres { "postgres" } else { "sqlite" }.to_owned(),
        schema,
        images: images == Images::With,
        files: sources
            .iter()
            .map(archive::entry)
            .collect::<Result<Vec<Entry>, _>>()?,
    };
    archive::write(to, &manifest, &sources)?;
    Ok(manifest)
}

fn keys(dir: &Path) -> anyhow::Result<Vec<Source>> {
    let source = |key: &&str| Source {
        name: format!("keys/{key}"),
        path: dir.join(key),
    };
    let found: Vec<Source> = KEYS
        .iter()
        .map(source)
        .filter(|source| source.path.is_file())
        .collect();
    ensure!(
        found.len() == KEYS.len(),
        "{} lacks some of the keys {}: is it the data folder?",
        dir.display(),
        KEYS.join(", ")
    );
    Ok(found)
}

/// Every chunk that is whole.
fn chunks(dir: &Path) -> anyhow::Result<Vec<Source>> {
    let list = |path: &Path| -> anyhow::Result<Vec<PathBuf>> {
        let read = match std::fs::read_dir(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let mut found = read
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        found.sort();
        Ok(found)
    };
    let mut sources = Vec::new();
    for folder in list(dir)?.into_iter().filter(|path| path.is_dir()) {
        for path in list(&folder)? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            // Others are being written just now.
            if name.parse::<slipway_protocol::ids::Digest>().is_ok() {
                let name = format!("chunks/{}/{name}", &name[..2]);
                sources.push(Source { name, path });
            }
        }
    }
    Ok(sources)
}
