//! `agent_write_image`: a signed image onto the bound disk, chunk by chunk, then read back from the device. Several
//! threads fetch and verify, one writes; no byte reaches the disk that is not in the signed manifest.

use std::{
    io::Read as _,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{Digest, ImageId},
    image::{Chunk, ImageNotice, Manifest},
    keys::Expect,
    report::{Failure, Progress},
    topic::Topic,
};
use tracing::info;

use super::{Attempt, Cancel, Machine, Outcome, bound_disk, lasting, passing};
use crate::{env::OpenDisk, fetch::Edge};

const FETCHERS: usize = 3;
/// Chunks that wait for the writer.
const QUEUE: usize = 2;
/// How often a chunk with wrong bytes is fetched again.
const CORRUPT_RETRIES: u32 = 3;
/// Bytes after which they are made to reach the device, so that progress means progress.
const SYNC_EVERY_BYTES: u64 = 256 * 1024 * 1024;

pub(super) fn run(machine: &Machine, attempt: &Attempt, image: ImageId) -> Result<Outcome, Failure> {
    let manifest = manifest(machine, attempt, image)?;
    let disk = bound_disk::open(machine, attempt)?;
    if manifest.size_bytes > disk.size_bytes() {
        let text = format!(
            "the image needs {} bytes but the chosen disk has {}; choose a larger disk",
            manifest.size_bytes,
            disk.size_bytes()
        );
        return Err(lasting("disk_too_small", text));
    }
    let job = Job {
        manifest: &manifest,
        disk: &disk,
        attempt,
        total_bytes: total_bytes(&manifest),
    };
    info!(%image, bytes = manifest.size_bytes, "writing the image");
    job.write(&machine.edge)?;
    let synced = disk.sync();
    synced.map_err(|e| passing("disk_write", format!("cannot finish writing the disk: {e}")))?;
    disk.drop_cache();
    job.verify()?;
    info!(%image, "image written and verified");
    Ok(Outcome::Done)
}

/// The image's manifest, as the control plane signed it. Its validity in time is not judged: the order names the image
/// by its content.
fn manifest(machine: &Machine, attempt: &Attempt, image: ImageId) -> Result<Manifest, Failure> {
    let limit = slipway_bus::MAX_PACKET_BYTES as u64;
    let fetched = machine
        .edge
        .get(&format!("/images/{image}"), limit, &attempt.cancel);
    let payload = fetched.map_err(|e| passing(e.code(), e))?;
    let topic = Topic::Image(machine.config.site.clone(), image);
    let expect = Expect {
        now: DateTime::<Utc>::MIN_UTC,
        held: None,
    };
    let notice = machine.keys.open::<ImageNotice>(&topic, &payload, expect);
    let manifest = notice
        .map_err(|e| lasting("manifest_refused", e))?
        .into_body()
        .manifest;
    manifest.check().map_err(|e| lasting("manifest_refused", e))?;
    if manifest.id() == image {
        Ok(manifest)
    } else {
        let text = format!(
            "the manifest the edge has for image {image} is that of {}",
            manifest.id()
        );
        Err(lasting("manifest_refused", text))
    }
}

/// A chunk on its way to the writer: its index, and its bytes unless it is zero.
type Ready = (usize, Option<Vec<u8>>);

struct Job<'a> {
    manifest: &'a Manifest,
    disk: &'a OpenDisk,
    attempt: &'a Attempt,
    total_bytes: u64,
}

/// Bytes to write and to read back.
fn total_bytes(manifest: &Manifest) -> u64 {
    let data = |(index, chunk): (usize, &Chunk)| match chunk {
        Chunk::Zero => 0,
        Chunk::Data { .. } => manifest.chunk_len(index),
    };
    let back: u64 = manifest.chunks.iter().enumerate().map(data).sum();
    manifest.size_bytes + back
}

impl Job<'_> {
    fn say(&self, done_bytes: u64) {
        let total_bytes = self.total_bytes;
        (self.attempt.progress)(Progress {
            done_bytes,
            total_bytes,
        });
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.attempt.cancel.is_set() {
            return Err(passing("cancelled", "the step was taken back before it was done"));
        }
        Ok(())
    }

    fn write(&self, edge: &Edge) -> Result<(), Failure> {
        let next = AtomicUsize::new(0);
        // Stops the other fetchers when one thread has failed; the step's own flag is the edge's to set.
        let stop = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(QUEUE);
            for _ in 0..FETCHERS {
                let (sender, next, stop) = (sender.clone(), &next, &stop);
                scope.spawn(move || self.fetch_chunks(edge, next, stop, &sender));
            }
            drop(sender);
            let result = self.write_chunks(&receiver);
            stop.store(1, Ordering::Relaxed);
            drop(receiver);
            result
        })
    }

    fn fetch_chunks(
        &self,
        edge: &Edge,
        next: &AtomicUsize,
        stop: &AtomicUsize,
        ready: &SyncSender<Result<Ready, Failure>>,
    ) {
        while stop.load(Ordering::Relaxed) == 0 {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = self.manifest.chunks.get(index) else {
                return;
            };
            let result = match chunk {
                Chunk::Zero => Ok((index, None)),
                Chunk::Data { sha256, .. } => {
                    let len = self.manifest.chunk_len(index);
                    fetch(edge, *sha256, len, &self.attempt.cancel).map(|bytes| (index, Some(bytes)))
                }
            };
            // A receiver that is gone has failed itself and said why.
            if ready.send(result).is_err() {
                return;
            }
        }
    }

    fn write_chunks(&self, ready: &Receiver<Result<Ready, Failure>>) -> Result<(), Failure> {
        let (mut written, mut unsynced) = (0, 0);
        for result in ready {
            let (index, bytes) = result?;
            self.go_on()?;
            let offset = index as u64 * self.manifest.chunk_bytes;
            let len = self.manifest.chunk_len(index);
            let wrote = match &bytes {
                Some(bytes) => self.disk.write_at(offset, bytes),
                None => self.disk.zero(offset, len),
            };
            wrote.map_err(|e| {
                passing(
                    "disk_write",
                    format!("cannot write the disk at byte {offset}: {e}"),
                )
            })?;
            written += len;
            unsynced += len;
            if unsynced >= SYNC_EVERY_BYTES {
                let synced = self.disk.sync();
                synced.map_err(|e| passing("disk_write", format!("cannot write the disk: {e}")))?;
                unsynced = 0;
            }
            self.say(written);
        }
        self.go_on()
    }

    /// Reads every data chunk back from the device.
    fn verify(&self) -> Result<(), Failure> {
        let mut done = self.manifest.size_bytes;
        let mut buffer = Vec::new();
        for (index, chunk) in self.manifest.chunks.iter().enumerate() {
            let Chunk::Data { sha256, .. } = chunk else {
                continue;
            };
            self.go_on()?;
            let offset = index as u64 * self.manifest.chunk_bytes;
            let len = self.manifest.chunk_len(index);
            buffer.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
            let read = self.disk.read_at(offset, &mut buffer);
            read.map_err(|e| {
                passing(
                    "disk_read",
                    format!("cannot read the disk back at byte {offset}: {e}"),
                )
            })?;
            if Digest::of(&buffer) != *sha256 {
                let text = format!(
                    "what was written at byte {offset} does not read back the same; the disk or its cable is \
                     likely broken"
                );
                return Err(passing("disk_verify", text));
            }
            done += len;
            self.say(done);
        }
        Ok(())
    }
}

/// A chunk's raw bytes, verified.
fn fetch(edge: &Edge, sha256: Digest, len: u64, cancel: &Cancel) -> Result<Vec<u8>, Failure> {
    // zstd makes nothing larger than this (its ZSTD_COMPRESSBOUND, with room)
    let limit = len + len / 128 + 4096;
    for _ in 0..=CORRUPT_RETRIES {
        let fetched = edge.get(&format!("/chunks/{sha256}"), limit, cancel);
        let stored = fetched.map_err(|e| passing(e.code(), e))?;
        if let Some(raw) = unpack(&stored, len).filter(|raw| Digest::of(raw) == sha256) {
            return Ok(raw);
        }
        tracing::warn!(chunk = %sha256, "a chunk does not have the bytes the manifest names; fetching it again");
    }
    let text = format!(
        "chunk {sha256} as the edge serves it does not have the bytes the signed manifest names; it was not \
         written; look at the edge's image cache and the network"
    );
    Err(passing("chunk_corrupt", text))
}

/// Unpacks to exactly `len` bytes, and never to more.
fn unpack(stored: &[u8], len: u64) -> Option<Vec<u8>> {
    let mut raw = Vec::with_capacity(usize::try_from(len).ok()?);
    let decoder = zstd::stream::read::Decoder::with_buffer(stored).ok()?;
    decoder.take(len + 1).read_to_end(&mut raw).ok()?;
    (raw.len() as u64 == len).then_some(raw)
}
