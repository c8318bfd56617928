//! A backup's file: a tar archive compressed by zstd, whose first entry says what the others are. Only names that a backup has
//! are ever written to a disk. Blocking.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::ids::Digest;

/// Version of the archive's layout.
pub const FORMAT: u32 = 1;
/// Name of the entry that lists the others.
const MANIFEST: &str = "manifest.json";
/// Longest manifest that is read, in bytes.
const MAX_MANIFEST: u64 = 512 * 1024 * 1024;
/// The keys of a data folder.
pub const KEYS: [&str; 4] = ["ca.key", "ca.pem", "order-signing.key", "vault.key"];

/// A backup cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file failed.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a backup, or one that was cut or changed.
    #[error("{path} is not a whole backup: {reason}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `database`, `keys/NAME` or `chunks/XX/DIGEST`.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256.
    pub sha256: Digest,
}

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of the archive.
    pub format: u32,
    /// When it was made.
    pub made_at: DateTime<Utc>,
    /// Version of the build that made it.
    pub version: String,
    /// `sqlite` or `postgres`.
    pub database: String,
    /// Version of the database's schema.
    pub schema: String,
    /// Whether the images' bytes are in it.
    pub images: bool,
    /// All files.
    pub files: Vec<Entry>,
}

/// Where a file of a backup comes from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name in the backup.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |source| ArchiveError::File { what, path, source }
}

/// SHA-256 and length of a file.
fn measured(path: &Path) -> io::Result<(Digest, u64)> {
    let mut file = File::open(path)?;
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let (mut bytes, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
    let digest: [u8; 32] = hash.finish().as_ref().try_into().map_err(io::Error::other)?;
    Ok((Digest(digest), bytes))
}

/// The entry of a file.
///
/// # Errors
/// When it cannot be read.
pub fn entry(source: &Source) -> Result<Entry, ArchiveError> {
    let (sha256, bytes) = measured(&source.path).map_err(failed("read", &source.path))?;
    Ok(Entry {
        name: source.name.clone(),
        bytes,
        sha256,
    })
}

/// Writes a backup that only its owner can read, whole or not at all. A file that is there already stays.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(to: &Path, manifest: &Manifest, sources: &[Source]) -> Result<(), ArchiveError> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    // What an earlier run left is not written into: it may be somebody else's file, or readable by all.
    match std::fs::remove_file(&partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &partial)(e)),
        _ => {}
    }
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(&partial);
    let file = file.map_err(failed("write", &partial))?;
    let written = fill(&file, manifest, sources).and_then(|()| file.sync_all());
    // A link, not a rename: a backup that is there already is not written over.
    let linked = written.and_then(|()| std::fs::hard_link(&partial, to));
    let removed = std::fs::remove_file(&partial);
    linked.and(removed).map_err(failed("write", to))
}

fn fill(file: &File, manifest: &Manifest, sources: &[Source]) -> io::Result<()> {
    let mut tar = tar::Builder::new(zstd::Encoder::new(file, 3)?);
    let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::other)?;
    append(&mut tar, MANIFEST, (text.len() as u64, text.as_slice()))?;
    for (source, entry) in sources.iter().zip(&manifest.files) {
        let opened = File::open(&source.path)?;
        append(&mut tar, &entry.name, (entry.bytes, opened.take(entry.bytes)))?;
    }
    tar.into_inner()?.finish()?.flush()
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    (bytes, data): (u64, impl Read),
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, name, data)
}

/// Whether a backup has files of this name; nothing else leaves an archive.
fn is_known(name: &str) -> bool {
    let chunk = |rest: &str| {
        rest.split_once('/').is_some_and(|(folder, chunk)| {
            chunk.len() >= 2 && chunk.starts_with(folder) && chunk.parse::<Digest>().is_ok()
        })
    };
    name == "database"
        || name.strip_prefix("keys/").is_some_and(|key| KEYS.contains(&key))
        || name.strip_prefix("chunks/").is_some_and(chunk)
}

/// Unpacks a backup into an empty folder, and holds every file against its digest.
///
/// # Errors
/// When it is no backup, or not as it was made.
pub fn unpack(from: &Path, into: &Path) -> Result<Manifest, ArchiveError> {
    let damaged = |reason: String| ArchiveError::Damaged {
        path: from.to_owned(),
        reason,
    };
    let file = File::open(from).map_err(failed("read", from))?;
    let mut archive = tar::Archive::new(zstd::Decoder::new(file).map_err(failed("read", from))?);
    let mut entries = archive.entries().map_err(failed("read", from))?;
    let first = entries.next().ok_or_else(|| damaged("it is empty".to_owned()))?;
    let manifest = manifest(first.map_err(|e| damaged(e.to_string()))?).map_err(damaged)?;
    let mut expected = manifest.files.iter();
    for found in entries {
        let mut found = found.map_err(|e| damaged(e.to_string()))?;
        let name = found.path_bytes().into_owned();
        let Some(entry) = expected.next().filter(|entry| entry.name.as_bytes() == name) else {
            return Err(damaged("its files are not those it lists".to_owned()));
        };
        let to = into.join(&entry.name);
        // One byte more shows that it is too long, and no more of it gets onto the disk.
        extract(&mut (&mut found).take(entry.bytes.saturating_add(1)), &to).map_err(failed("write", &to))?;
        let (sha256, bytes) = measured(&to).map_err(failed("read", &to))?;
        if (sha256, bytes) != (entry.sha256, entry.bytes) {
            return Err(damaged(format!(
                "`{}` has another digest than it had",
                entry.name
            )));
        }
    }
    match expected.next() {
        Some(missing) => Err(damaged(format!("`{}` is missing", missing.name))),
        None => Ok(manifest),
    }
}

fn manifest(entry: impl Read) -> Result<Manifest, String> {
    let manifest: Manifest =
        serde_json::from_reader(entry.take(MAX_MANIFEST)).map_err(|e| format!("its list of files: {e}"))?;
    if manifest.format != FORMAT {
        return Err(format!(
            "its layout is {}, this build reads {FORMAT}",
            manifest.format
        ));
    }
    match manifest.files.iter().find(|entry| !is_known(&entry.name)) {
        Some(entry) => Err(format!("`{}` is no file of a backup", entry.name)),
        None => Ok(manifest),
    }
}

fn extract(from: &mut impl Read, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    io::copy(from, &mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_backup_leave_an_archive() {
        let digest = Digest::of(b"x").to_string();
        let chunk = format!("chunks/{}/{digest}", &digest[..2]);
        for good in ["database", "keys/ca.key", chunk.as_str()] {
            assert!(is_known(good), "{good}");
        }
        for bad in [
            "",
            "keys/../x",
            "../database",
            "/etc/passwd",
            "chunks/../../x",
            "chunks/ab/x",
            "keys/other",
        ] {
            assert!(!is_known(bad), "{bad}");
        }
    }

    fn listing(file: Entry) -> Manifest {
        Manifest {
            format: FORMAT,
            made_at: Utc::now(),
            version: "1".into(),
            database: "sqlite".into(),
            schema: "1".into(),
            images: false,
            files: vec![file],
        }
    }

    #[test]
    fn no_more_of_a_file_gets_onto_the_disk_than_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let (data, into) = (dir.path().join("db"), dir.path().join("into"));
        std::fs::write(&data, vec![7; 100_000]).unwrap();
        std::fs::create_dir(&into).unwrap();
        let source = Source {
            name: "database".into(),
            path: data,
        };
        let mut short = listing(entry(&source).unwrap());
        short.files[0].bytes = 10;
        let packed = dir.path().join("b");
        pack_as(&packed, &short, &source.path);
        assert!(unpack(&packed, &into).is_err());
        assert_eq!(std::fs::metadata(into.join("database")).unwrap().len(), 11);
    }

    /// An archive whose only entry is the whole file, whatever the manifest says of it.
    fn pack_as(to: &Path, manifest: &Manifest, file: &Path) {
        let mut tar = tar::Builder::new(zstd::Encoder::new(File::create(to).unwrap(), 3).unwrap());
        let text = serde_json::to_vec(manifest).unwrap();
        append(&mut tar, MANIFEST, (text.len() as u64, text.as_slice())).unwrap();
        let bytes = std::fs::read(file).unwrap();
        append(&mut tar, "database", (bytes.len() as u64, bytes.as_slice())).unwrap();
        tar.into_inner().unwrap().finish().unwrap();
    }

    #[test]
    fn what_an_earlier_run_left_is_not_written_into() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (data, theirs) = (dir.path().join("db"), dir.path().join("theirs"));
        std::fs::write(&data, "x").unwrap();
        std::fs::write(&theirs, "theirs").unwrap();
        std::os::unix::fs::symlink(&theirs, dir.path().join("b.part")).unwrap();
        let source = Source {
            name: "database".into(),
            path: data,
        };
        let manifest = listing(entry(&source).unwrap());
        let backup = dir.path().join("b");
        write(&backup, &manifest, &[source]).unwrap();
        assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "theirs");
        let mode = std::fs::symlink_metadata(&backup).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_backup_comes_back_as_it_was_and_a_changed_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("db");
        std::fs::write(&file, vec![7; 100_000]).unwrap();
        let sources = [Source {
            name: "database".into(),
            path: file,
        }];
        let manifest = |name: &str| {
            listing(Entry {
                name: name.into(),
                ..entry(&sources[0]).unwrap()
            })
        };
        let backup = dir.path().join("b");
        let good = manifest("database");
        write(&backup, &good, &sources).unwrap();
        assert!(
            write(&backup, &good, &sources).is_err(),
            "a backup is not written over"
        );
        let into = |name: &str| {
            let into = dir.path().join(name);
            std::fs::create_dir(&into).unwrap();
            into
        };
        assert_eq!(unpack(&backup, &into("1")).unwrap(), good);
        assert_eq!(
            std::fs::read(dir.path().join("1/database")).unwrap(),
            vec![7; 100_000]
        );
        let foreign = dir.path().join("f");
        write(&foreign, &manifest("keys/other"), &sources).unwrap();
        assert!(
            unpack(&foreign, &into("2"))
                .unwrap_err()
                .to_string()
                .contains("no file of a backup")
        );
        let mut lie = good.clone();
        lie.files[0].sha256 = Digest::of(b"another");
        let lied = dir.path().join("l");
        write(&lied, &lie, &sources).unwrap();
        assert!(
            unpack(&lied, &into("3"))
                .unwrap_err()
                .to_string()
                .contains("another digest")
        );
        let mut bytes = std::fs::read(&backup).unwrap();
        bytes.truncate(bytes.len() - 20);
        std::fs::write(&backup, bytes).unwrap();
        assert!(unpack(&backup, &into("4")).is_err(), "a cut one");
    }
}
