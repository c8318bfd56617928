//! The site's image cache: chunks by the digest of their raw bytes, zstd-compressed as they came. A chunk is verified
//! before it is kept, fetched once however many ask for it, and what an interrupted fetch left is resumed chunk by chunk.
//! Nothing here decides which images a site should hold.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use slipway_protocol::{
    ids::{Digest, SiteId},
    image::{Chunk, Manifest},
    report::Progress,
    seal::Secret,
    site::chunk_proof,
};

/// Chunks fetched at once.
const PARALLEL_FETCHES: usize = 4;
/// The largest raw chunk, in bytes; more is not unpacked.
const MAX_CHUNK_BYTES: u64 = 64 * 1024 * 1024;

/// A chunk could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The control plane did not give it.
    #[error("cannot fetch chunk {digest} from the control plane: {reason}")]
    Fetch {
        /// Which chunk.
        digest: Digest,
        /// What happened.
        reason: String,
    },
    /// The bytes are not what the manifest says.
    #[error("chunk {0} from the control plane does not have the bytes its manifest names")]
    Corrupt(Digest),
    /// The cache's folder cannot be written or read.
    #[error("cannot keep chunk {digest} in the image cache")]
    Keep {
        /// Which chunk.
        digest: Digest,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl ImageError {
    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        true
    }

    /// A stable word for reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fetch { .. } => "image_fetch",
            Self::Corrupt(_) => "image_corrupt",
            Self::Keep { .. } => "image_cache",
        }
    }
}

/// Where chunks come from.
#[async_trait]
pub trait Source: Send + Sync {
    /// The compressed bytes of a chunk, not yet verified.
    async fn fetch(&self, digest: Digest) -> Result<Bytes, String>;
}

/// The control plane's chunk endpoint.
pub struct ControlPlane {
    /// HTTP client.
    pub http: reqwest::Client,
    /// Base URL of the API.
    pub url: String,
    /// This site.
    pub site: SiteId,
    /// Proves this edge.
    pub chunk_key: Secret,
}

#[async_trait]
impl Source for ControlPlane {
    async fn fetch(&self, digest: Digest) -> Result<Bytes, String> {
        let path = format!("/api/v1/chunks/{digest}");
        let proof = chunk_proof(&self.site, &self.chunk_key, &path);
        let request = self
            .http
            .get(format!("{}{path}", self.url.trim_end_matches('/')))
            .header("Authorization", proof)
            .timeout(Duration::from_secs(60));
        let answer = request.send().await.and_then(reqwest::Response::error_for_status);
        answer
            .map_err(|e| e.to_string())?
            .bytes()
            .await
            .map_err(|e| e.to_string())
    }
}

/// The cache.
pub struct ImageCache {
    dir: PathBuf,
    source: Arc<dyn Source>,
    flights: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Bytes that came from the source since start.
    pub fetched_bytes: AtomicU64,
}

impl ImageCache {
    /// A cache in `dir`, filled from `source`.
    #[must_use]
    pub fn new(dir: PathBuf, source: Arc<dyn Source>) -> Self {
        Self {
            dir,
            source,
            flights: Mutex::default(),
            fetched_bytes: AtomicU64::new(0),
        }
    }

    /// Has every chunk of an image in the cache; `progress` hears of each in compressed bytes.
    ///
    /// # Errors
    /// The first chunk that could not be had.
    pub async fn ensure(
        &self,
        manifest: &Manifest,
        progress: impl Fn(Progress) + Sync,
    ) -> Result<(), ImageError> {
        let total_bytes = manifest.stored_bytes();
        let done = AtomicU64::new(0);
        let mut chunks = Vec::with_capacity(manifest.chunks.len());
        for chunk in &manifest.chunks {
            if let Chunk::Data { sha256, stored_bytes } = chunk {
                chunks.push((*sha256, *stored_bytes));
            }
        }
        let (done, progress) = (&done, &progress);
        let fetches = chunks.into_iter().map(|(digest, stored_bytes)| async move {
            self.hold(digest).await?;
            let done_bytes = done.fetch_add(stored_bytes, Ordering::Relaxed) + stored_bytes;
            progress(Progress {
                done_bytes,
                total_bytes,
            });
            Ok::<(), ImageError>(())
        });
        futures::stream::iter(fetches)
            .buffer_unordered(PARALLEL_FETCHES)
            .try_collect::<()>()
            .await
    }

    /// A chunk's compressed bytes, fetched if it is not held: the file, and its length in bytes.
    ///
    /// # Errors
    /// When it can be neither read nor fetched.
    pub async fn open(&self, digest: Digest) -> Result<(tokio::fs::File, u64), ImageError> {
        self.hold(digest).await?;
        let opened = async {
            let file = tokio::fs::File::open(self.path(digest)).await?;
            let len = file.metadata().await?.len();
            Ok((file, len))
        };
        opened.await.map_err(|source| ImageError::Keep { digest, source })
    }

    /// Has one chunk; of many who ask at once one fetches and the others wait.
    async fn hold(&self, digest: Digest) -> Result<(), ImageError> {
        let path = self.path(digest);
        if tokio::fs::try_exists(&path).await.unwrap_or(false) {
            note_use(path).await;
            return Ok(());
        }
        let flight = self.flight(digest);
        let landed = flight.lock().await;
        let result = if tokio::fs::try_exists(&path).await.unwrap_or(false) {
            Ok(())
        } else {
            self.fetch(digest, &path).await
        };
        drop(landed);
        self.flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&digest);
        result
    }

    fn flight(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flights.entry(digest).or_default())
    }

    async fn fetch(&self, digest: Digest, path: &Path) -> Result<(), ImageError> {
        let fetched = self.source.fetch(digest).await;
        let bytes = fetched.map_err(|reason| ImageError::Fetch { digest, reason })?;
        self.fetched_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let path = path.to_owned();
        let kept = tokio::task::spawn_blocking(move || {
            if !is_chunk(digest, &bytes) {
                return Err(ImageError::Corrupt(digest));
            }
            keep(&path, &bytes).map_err(|source| ImageError::Keep { digest, source })
        });
        kept.await.map_err(|e| ImageError::Fetch {
            digest,
            reason: e.to_string(),
        })?
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Forgets a chunk; whoever reads it now reads it to its end.
    pub(crate) fn drop_chunk(&self, digest: Digest) {
        // One that is gone already is as well.
        let _ = std::fs::remove_file(self.path(digest));
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.dir.join(&name[..2]).join(name)
    }
}

/// How exactly it is kept when a chunk was used.
const USE_EVERY: Duration = Duration::from_secs(600);

/// Notes that a chunk is used, in the file's own time of change: a restart must not forget it.
async fn note_use(path: PathBuf) {
    let noted = tokio::task::spawn_blocking(move || {
        let now = std::time::SystemTime::now();
        let noted = std::fs::metadata(&path)?.modified()?;
        if now.duration_since(noted).is_ok_and(|age| age < USE_EVERY) {
            return Ok(());
        }
        std::fs::File::options()
            .append(true)
            .open(&path)?
            .set_modified(now)
    });
    // At worst it goes earlier than another, and is fetched again.
    if let Ok(Err(error)) = noted.await {
        tracing::debug!(%error, "cannot note that a chunk is used");
    }
}

/// Whether compressed bytes unpack to what the digest names. Unpacks piece by piece, and no further than a chunk is long.
fn is_chunk(digest: Digest, compressed: &[u8]) -> bool {
    use std::io::Read as _;
    let Ok(decoder) = zstd::stream::read::Decoder::with_buffer(compressed) else {
        return false;
    };
    let mut decoder = decoder.take(MAX_CHUNK_BYTES);
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut piece = vec![0; 128 * 1024];
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => return context.finish().as_ref() == digest.0,
            Ok(len) => context.update(&piece[..len]),
            Err(_) => return false,
        }
    }
}

/// Writes beside, then renames: a chunk is whole or not there.
fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
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

    /// Serves chunks from memory, counts, and can be told to fail or lie.
    #[derive(Default)]
    struct Fixed {
        chunks: HashMap<Digest, Bytes>,
        fetches: AtomicU64,
        fail: std::sync::atomic::AtomicBool,
    }

    #[async_trait]
    impl Source for Fixed {
        async fn fetch(&self, digest: Digest) -> Result<Bytes, String> {
            self.fetches.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            if self.fail.load(Ordering::SeqCst) {
                return Err("cut".into());
            }
            self.chunks.get(&digest).cloned().ok_or_else(|| "404".into())
        }
    }

    fn image(raw: &[&[u8]]) -> (Manifest, HashMap<Digest, Bytes>) {
        let stored: Vec<(Digest, Bytes)> = raw
            .iter()
            .map(|r| (Digest::of(r), zstd::bulk::compress(r, 3).unwrap().into()))
            .collect();
        let data = stored.iter().map(|(d, b)| Chunk::Data {
            sha256: *d,
            stored_bytes: b.len() as u64,
        });
        let manifest = Manifest {
            size_bytes: raw.iter().map(|r| r.len() as u64).sum(),
            chunk_bytes: raw[0].len() as u64,
            chunks: data.collect(),
        };
        (manifest, stored.into_iter().collect())
    }

    #[tokio::test]
    async fn each_chunk_is_fetched_once_and_kept_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (manifest, chunks) = image(&[b"aaaa", b"bbbb", b"aaaa", b"cc"]);
        let source = Arc::new(Fixed {
            chunks,
            ..Fixed::default()
        });
        let cache = Arc::new(ImageCache::new(
            dir.path().into(),
            Arc::clone(&source) as Arc<dyn Source>,
        ));
        let asks = (0..20).map(|_| {
            let (cache, manifest) = (Arc::clone(&cache), manifest.clone());
            tokio::spawn(async move { cache.ensure(&manifest, |_| {}).await })
        });
        for ask in futures::future::join_all(asks).await {
            ask.unwrap().unwrap();
        }
        assert_eq!(source.fetches.load(Ordering::SeqCst), 3, "three different chunks");
        let again = ImageCache::new(dir.path().into(), Arc::clone(&source) as Arc<dyn Source>);
        let last = Mutex::new(None);
        again
            .ensure(&manifest, |p| *last.lock().unwrap() = Some(p))
            .await
            .unwrap();
        assert_eq!(
            source.fetches.load(Ordering::SeqCst),
            3,
            "nothing is fetched twice"
        );
        assert!(
            last.lock()
                .unwrap()
                .is_some_and(|p| p.done_bytes == p.total_bytes)
        );
    }

    #[tokio::test]
    async fn a_wrong_chunk_is_not_kept_and_a_cut_fetch_is_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let (manifest, mut chunks) = image(&[b"aaaa", b"bbbb"]);
        let wrong = Digest::of(b"bbbb");
        let right = chunks
            .insert(wrong, zstd::bulk::compress(b"evil", 3).unwrap().into())
            .unwrap();
        let source = Arc::new(Fixed {
            chunks: chunks.clone(),
            ..Fixed::default()
        });
        let cache = ImageCache::new(dir.path().into(), Arc::clone(&source) as Arc<dyn Source>);
        let error = cache.ensure(&manifest, |_| {}).await.unwrap_err();
        assert_eq!(error.code(), "image_corrupt");
        assert!(
            cache.open(wrong).await.is_err(),
            "the wrong bytes are not in the cache"
        );
        cache.open(Digest::of(b"aaaa")).await.unwrap();
        chunks.insert(wrong, right);
        let healed = Arc::new(Fixed {
            chunks,
            ..Fixed::default()
        });
        let cache = ImageCache::new(dir.path().into(), Arc::clone(&healed) as Arc<dyn Source>);
        healed.fail.store(true, Ordering::SeqCst);
        assert_eq!(
            cache.ensure(&manifest, |_| {}).await.unwrap_err().code(),
            "image_fetch"
        );
        healed.fail.store(false, Ordering::SeqCst);
        healed.fetches.store(0, Ordering::SeqCst);
        cache.ensure(&manifest, |_| {}).await.unwrap();
        assert_eq!(healed.fetches.load(Ordering::SeqCst), 1, "only what was missing");
    }
}
