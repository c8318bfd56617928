//! Image bytes: cut into chunks, compressed, stored by digest in a folder that replicas may share. Never whole in memory. What no
//! image refers to is swept; a chunk that an upload under way relies on is younger than any sweep that could take it, since the
//! upload touches what it finds.

use std::{
    collections::HashSet,
    fs::{self, File, FileTimes},
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use slipway_protocol::{
    ids::Digest,
    image::{CHUNK_BYTES, Chunk, Manifest},
};

use crate::image_content::{self, HEAD_BYTES, NotADisk};

/// zstd level: most of the gain at little of the time.
const LEVEL: i32 = 3;

/// An image cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The upload broke off, or is not what it says.
    #[error("the upload cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The folder cannot be written.
    #[error("cannot store the image")]
    Write(#[source] io::Error),
    /// It is no raw disk.
    #[error(transparent)]
    NotADisk(#[from] NotADisk),
    /// Nothing came.
    #[error("the image is empty")]
    Empty,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Chunks {
    dir: PathBuf,
}

impl Chunks {
    /// Chunks in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where a chunk lies.
    #[must_use]
    pub fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    /// Stores an image read from `raw`, a raw disk or the same compressed by zstd. Blocking.
    ///
    /// # Errors
    /// When reading or writing fails, or nothing came.
    pub fn store(&self, raw: impl Read) -> Result<Manifest, ChunkError> {
        let mut raw = io::BufReader::with_capacity(1 << 20, raw);
        let magic = io::BufRead::fill_buf(&mut raw)
            .map_err(ChunkError::Read)?
            .starts_with(&zstd::zstd_safe::MAGICNUMBER.to_le_bytes());
        if magic {
            let raw = zstd::stream::read::Decoder::with_buffer(raw);
            self.cut(raw.map_err(ChunkError::Read)?)
        } else {
            self.cut(raw)
        }
    }

    fn cut(&self, mut raw: impl Read) -> Result<Manifest, ChunkError> {
        let mut manifest = Manifest {
            size_bytes: 0,
            chunk_bytes: CHUNK_BYTES,
            chunks: Vec::new(),
        };
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let read = (&mut raw).take(CHUNK_BYTES).read_to_end(&mut piece);
            read.map_err(ChunkError::Read)?;
            if piece.is_empty() {
                break;
            }
            if manifest.chunks.is_empty() {
                image_content::check(&piece[..piece.len().min(HEAD_BYTES)])?;
            }
            manifest.size_bytes += piece.len() as u64;
            manifest.chunks.push(self.keep(&piece)?);
        }
        if manifest.size_bytes == 0 {
            Err(ChunkError::Empty)
        } else {
            Ok(manifest)
        }
    }

    fn keep(&self, piece: &[u8]) -> Result<Chunk, ChunkError> {
        if piece.iter().all(|byte| *byte == 0) {
            return Ok(Chunk::Zero);
        }
        let sha256 = Digest::of(piece);
        let path = self.path(sha256);
        if let Some(stored_bytes) = touch(&path) {
            return Ok(Chunk::Data { sha256, stored_bytes });
        }
        let compressed = zstd::bulk::compress(piece, LEVEL).map_err(ChunkError::Write)?;
        write(&path, &compressed).map_err(ChunkError::Write)?;
        Ok(Chunk::Data {
            sha256,
            stored_bytes: compressed.len() as u64,
        })
    }

    /// The time by the clock of the folder's file system, which stamps the chunks.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn now(&self) -> io::Result<SystemTime> {
        fs::create_dir_all(&self.dir)?;
        let probe = tempfile::NamedTempFile::new_in(&self.dir)?;
        probe.as_file().metadata()?.modified()
    }

    /// Removes what is not in `used` and was last touched before `before`: chunks, and parts of writes that broke off. Gives back
    /// how many bytes that were. Blocking.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn sweep(&self, used: &HashSet<Digest>, before: SystemTime) -> io::Result<u64> {
        let mut freed = 0;
        for folder in entries(&self.dir)? {
            if !folder.is_dir() {
                continue;
            }
            for path in entries(&folder)? {
                let name = path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default();
                let is_used = name.parse::<Digest>().is_ok_and(|digest| used.contains(&digest));
                if !is_used {
                    freed += take_away(&path, before)?;
                }
            }
        }
        Ok(freed)
    }
}

/// Notes that a chunk is relied on from now on; gives back its size, or none if it is not there. A sweep that moved it away at the
/// same time has either seen this, or the chunk is not found here any more.
fn touch(path: &Path) -> Option<u64> {
    let file = File::options().append(true).open(path).ok()?;
    file.set_times(FileTimes::new().set_modified(SystemTime::now()))
        .ok()?;
    let held = fs::metadata(path).ok()?;
    Some(held.len())
}

/// Removes a file that was last touched before `before`. It is moved aside first, so that who touches it meanwhile either is seen
/// to have done so or does not find it.
fn take_away(path: &Path, before: SystemTime) -> io::Result<u64> {
    let is_old = |path: &Path| match fs::metadata(path) {
        Ok(held) => Ok(Some((held.modified()? < before, held.len()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    if !is_old(path)?.is_some_and(|(old, _)| old) {
        return Ok(0);
    }
    let aside = path.with_extension(format!("sweep-{:08x}", rand::random::<u32>()));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    }
    match is_old(&aside)? {
        Some((true, bytes)) => {
            fs::remove_file(&aside)?;
            Ok(bytes)
        }
        Some((false, _)) => fs::rename(&aside, path).map(|()| 0),
        None => Ok(0),
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(found) => found.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let partial = path.with_extension(format!("part-{:08x}", rand::random::<u32>()));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()
    });
    let kept = written.and_then(|()| fs::rename(&partial, path));
    if kept.is_err() {
        // What cannot be removed now is swept.
        let _ = fs::remove_file(&partial);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_and_compressed_uploads_make_the_same_image_and_zeros_are_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        let chunks = Chunks::new(dir.path().into());
        let chunk = usize::try_from(CHUNK_BYTES).unwrap();
        let mut raw = vec![0; chunk * 2 + 10];
        raw[..5].copy_from_slice(b"hello");
        raw[chunk * 2..].fill(7);
        let manifest = chunks.store(&raw[..]).unwrap();
        assert_eq!(
            (manifest.check(), manifest.size_bytes),
            (Ok(()), raw.len() as u64)
        );
        assert_eq!(manifest.chunks[1], Chunk::Zero);
        let compressed = zstd::bulk::compress(&raw, 1).unwrap();
        assert_eq!(chunks.store(&compressed[..]).unwrap().id(), manifest.id());
        let Chunk::Data { sha256, .. } = manifest.chunks[2] else {
            panic!("not zero")
        };
        let stored = std::fs::read(chunks.path(sha256)).unwrap();
        assert_eq!(zstd::bulk::decompress(&stored, chunk).unwrap(), vec![7; 10]);
        assert!(matches!(chunks.store(&b""[..]), Err(ChunkError::Empty)));
    }

    #[test]
    fn a_sweep_takes_what_nobody_uses_and_nothing_that_is_relied_on() {
        let dir = tempfile::tempdir().unwrap();
        let chunks = Chunks::new(dir.path().into());
        let digest_of = |raw: &[u8]| Digest::of(raw);
        for raw in [&[1_u8; 600][..], &[2; 600], &[3; 600]] {
            chunks.store(raw).unwrap();
        }
        let partial = chunks.path(digest_of(&[1; 600])).with_extension("part-0badcafe");
        fs::write(&partial, b"a write that broke off").unwrap();
        let long_ago = SystemTime::now() - std::time::Duration::from_secs(3600);
        for raw in [[1; 600], [2; 600], [3; 600]] {
            let file = File::options()
                .append(true)
                .open(chunks.path(digest_of(&raw)))
                .unwrap();
            file.set_modified(long_ago).unwrap();
        }
        File::options()
            .append(true)
            .open(&partial)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        let before = chunks.now().unwrap();
        assert_eq!(
            chunks.store(&[3; 600][..]).unwrap().size_bytes,
            600,
            "an upload relies on it"
        );
        let used = HashSet::from([digest_of(&[2; 600])]);
        let freed = chunks.sweep(&used, before).unwrap();
        assert!(freed > 0);
        let is_there = |byte: u8| chunks.path(digest_of(&[byte; 600])).exists();
        assert_eq!([is_there(1), is_there(2), is_there(3)], [false, true, true]);
        assert!(!partial.exists());
        assert_eq!(chunks.sweep(&used, before).unwrap(), 0);
    }

    #[test]
    fn what_is_no_disk_is_refused_before_anything_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let chunks = Chunks::new(dir.path().into());
        let mut qcow2 = vec![0; 100_000];
        qcow2[..4].copy_from_slice(b"QFI\xfb");
        for upload in [zstd::bulk::compress(&qcow2, 1).unwrap(), qcow2] {
            let refused = chunks.store(&upload[..]).unwrap_err();
            assert!(matches!(refused, ChunkError::NotADisk(_)), "{refused}");
        }
        assert_eq!(entries(dir.path()).unwrap().len(), 0);
    }
}
