//! Image manifests: a raw disk image as a list of chunk hashes. Chunks travel zstd-compressed and are verified one by
//! one against the signed manifest; chunks that are all zero are not stored at all.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, ImageId};

/// The chunk size the control plane cuts images into, in bytes.
pub const CHUNK_BYTES: u64 = 4 * 1024 * 1024;

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Raw size in bytes.
    pub size_bytes: u64,
    /// Raw size of every chunk but the last.
    pub chunk_bytes: u64,
    /// The chunks in order.
    pub chunks: Vec<Chunk>,
}

/// One chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Chunk {
    /// All zero: nothing stored, nothing sent, nothing written to a disk known to be blank there.
    Zero,
    /// Stored under the digest of its raw bytes.
    Data {
        /// SHA-256 of the raw bytes; also the name under which the compressed bytes are served.
        sha256: Digest,
        /// Length of the zstd-compressed form.
        stored_bytes: u64,
    },
}

/// A manifest whose numbers do not fit each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// `chunk_bytes` is zero or too large to hold in memory.
    #[error("image manifest has chunks of {0} bytes; 1 to 67108864 are allowed")]
    ChunkSize(u64),
    /// The chunks do not add up to the size.
    #[error("image manifest of {size_bytes} bytes needs {expected} chunks but lists {listed}")]
    ChunkCount {
        /// Raw size.
        size_bytes: u64,
        /// Chunks that make.
        expected: u64,
        /// Chunks there are.
        listed: u64,
    },
}

impl Manifest {
    /// The image's id: the digest of the manifest in its one canonical form. Same bytes on disk, same id.
    #[must_use]
    pub fn id(&self) -> ImageId {
        let mut text = format!("slipway-image-v1 {} {}\n", self.size_bytes, self.chunk_bytes);
        for chunk in &self.chunks {
            match chunk {
                Chunk::Zero => text.push_str("zero\n"),
                Chunk::Data { sha256, .. } => {
                    text.push_str(&sha256.to_string());
                    text.push('\n');
                }
            }
        }
        Digest::of(text.as_bytes())
    }

    /// Checks that the numbers fit, so that a reader can index and allocate by them.
    ///
    /// # Errors
    /// Which number does not fit.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.chunk_bytes == 0 || self.chunk_bytes > 64 * 1024 * 1024 {
            return Err(ManifestError::ChunkSize(self.chunk_bytes));
        }
        let expected = self.size_bytes.div_ceil(self.chunk_bytes);
        let listed = self.chunks.len() as u64;
        if expected != listed {
            return Err(ManifestError::ChunkCount {
                size_bytes: self.size_bytes,
                expected,
                listed,
            });
        }
        Ok(())
    }

    /// Raw length of chunk `index` in bytes.
    #[must_use]
    pub fn chunk_len(&self, index: usize) -> u64 {
        let start = index as u64 * self.chunk_bytes;
        self.chunk_bytes.min(self.size_bytes.saturating_sub(start))
    }

    /// Bytes that are stored and sent: the compressed data chunks.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.chunks
            .iter()
            .map(|c| {
                if let Chunk::Data { stored_bytes, .. } = c {
                    *stored_bytes
                } else {
                    0
                }
            })
            .sum()
    }

    /// The digests of the data chunks in order, repeats included.
    pub fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        self.chunks.iter().filter_map(|c| {
            if let Chunk::Data { sha256, .. } = c {
                Some(*sha256)
            } else {
                None
            }
        })
    }
}

/// What `cmd/image/{image}` carries: an image the site is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNotice {
    /// The name operators gave it, for reading.
    pub name: String,
    /// What it is made of.
    pub manifest: Manifest,
    /// Whether it is fetched ahead and never evicted.
    pub pinned: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_must_fit() {
        let data = |n: u8| Chunk::Data {
            sha256: Digest::of(&[n]),
            stored_bytes: 5,
        };
        let good = Manifest {
            size_bytes: 10,
            chunk_bytes: 4,
            chunks: vec![data(1), Chunk::Zero, data(2)],
        };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(
            [good.chunk_len(0), good.chunk_len(1), good.chunk_len(2)],
            [4, 4, 2]
        );
        assert_eq!(good.stored_bytes(), 10);
        let short = Manifest {
            size_bytes: 13,
            ..good.clone()
        };
        assert_eq!(
            short.check(),
            Err(ManifestError::ChunkCount {
                size_bytes: 13,
                expected: 4,
                listed: 3
            })
        );
        let huge = Manifest {
            chunk_bytes: 1 << 40,
            ..good.clone()
        };
        assert_eq!(huge.check(), Err(ManifestError::ChunkSize(1 << 40)));
        assert_ne!(good.id(), short.id());
    }
}
