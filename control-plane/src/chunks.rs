//! Image bytes: cut into chunks, compressed, stored by digest in a folder. Never whole in memory. An upload that is cut
//! leaves chunks that the next one finds.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use slipway_protocol::{
    ids::Digest,
    image::{CHUNK_BYTES, Chunk, Manifest},
};

/// zstd level: most of the gain at little of the time.
const LEVEL: i32 = 3;

/// An image cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The upload or the folder failed.
    #[error("cannot store the image")]
    Io(#[from] std::io::Error),
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
        let mut raw = std::io::BufReader::with_capacity(1 << 20, raw);
        let magic =
            std::io::BufRead::fill_buf(&mut raw)?.starts_with(&zstd::zstd_safe::MAGICNUMBER.to_le_bytes());
        if magic {
            self.cut(zstd::stream::read::Decoder::with_buffer(raw)?)
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
            (&mut raw).take(CHUNK_BYTES).read_to_end(&mut piece)?;
            if piece.is_empty() {
                break;
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
        if let Ok(held) = std::fs::metadata(&path) {
            return Ok(Chunk::Data {
                sha256,
                stored_bytes: held.len(),
            });
        }
        let compressed = zstd::bulk::compress(piece, LEVEL)?;
        write(&path, &compressed)?;
        Ok(Chunk::Data {
            sha256,
            stored_bytes: compressed.len() as u64,
        })
    }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let partial = path.with_extension(format!("part-{:08x}", rand::random::<u32>()));
    let mut file = std::fs::File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&partial, path)
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
}
