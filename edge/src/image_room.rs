//! Keeps the image cache within its room: what was not used for longest goes, but never what an order in force needs, since the WAN may
//! be down when it is asked for.

use std::{
    collections::HashSet,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use slipway_protocol::{
    ids::{Digest, ImageId, MachineId},
    image::{Chunk, ImageNotice, Manifest},
    keys::Expect,
    order::{Action, Order},
    topic::{Kind, Topic},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{context::Context, images::ImageCache, store::StoreError};

/// How often it is looked how much there is.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Down to this share of its room the cache is emptied, in percent, so that not every chunk that comes puts another out.
const DOWN_TO: u64 = 90;
/// The share of its file system that the cache may take if nothing else is said, in percent.
const SHARE: u64 = 80;

/// A chunk in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which one.
    pub digest: Digest,
    /// Compressed, as it lies there.
    pub bytes: u64,
    /// When it was used last.
    pub used_at: SystemTime,
}

/// Which chunks go, so that the rest fits into `room` bytes with some to spare; none while everything fits. Pure.
#[must_use]
pub fn to_drop(mut held: Vec<Held>, room: u64, needed: &HashSet<Digest>) -> Vec<Digest> {
    let mut total: u64 = held.iter().map(|chunk| chunk.bytes).sum();
    if total <= room {
        return Vec::new();
    }
    held.sort_by_key(|chunk| chunk.used_at);
    let mut going = Vec::new();
    for chunk in held.iter().filter(|chunk| !needed.contains(&chunk.digest)) {
        if total <= room / 100 * DOWN_TO {
            break;
        }
        total -= chunk.bytes;
        going.push(chunk.digest);
    }
    going
}

/// The room of a cache for which nothing is said: a share of the file system it is on.
#[must_use]
pub fn usual(dir: &Path) -> u64 {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    rustix::fs::statvfs(there).map_or(u64::MAX, |fs| {
        fs.f_blocks.saturating_mul(fs.f_frsize) / 100 * SHARE
    })
}

/// Looks now and then until `stop`.
///
/// # Errors
/// Never; the type is that of all tasks.
pub async fn run(context: Arc<Context>, room: u64, stop: CancellationToken) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = look.tick() => {}
        }
        let context = Arc::clone(&context);
        let swept = tokio::task::spawn_blocking(move || sweep(&context, room)).await?;
        if let Err(error) = swept {
            // The cache works on, and grows; the next look may do better.
            warn!(error = %anyhow::Error::from(error), "cannot tell which images are needed, so none goes");
        }
    }
}

/// Drops what must go; answers how many chunks went.
///
/// # Errors
/// When the store cannot be read: then nothing goes.
pub fn sweep(context: &Context, room: u64) -> Result<usize, StoreError> {
    let held = context.images.held();
    if held.iter().map(|chunk| chunk.bytes).sum::<u64>() <= room {
        return Ok(0);
    }
    let going = to_drop(held, room, &needed(context)?);
    for digest in &going {
        context.images.drop_chunk(*digest);
    }
    if going.is_empty() {
        warn!(
            room,
            "the image cache is over its room, and all of it is needed by orders in force"
        );
    } else {
        info!(
            chunks = going.len(),
            room, "chunks of images that were not used for longest went from the cache"
        );
    }
    Ok(going.len())
}

/// The chunks of all images that orders need which are not done, and of those that are to stay whatever happens.
fn needed(context: &Context) -> Result<HashSet<Digest>, StoreError> {
    let mut needed = HashSet::new();
    let ring = context.key_ring();
    for document in context.store.documents()? {
        if document.kind == Kind::Image
            && let Ok(image) = document.subject.parse::<ImageId>()
        {
            let topic = Topic::Image(context.site.clone(), image);
            let notice = ring.open::<ImageNotice>(&topic, &document.payload, Expect::kept());
            if let Some(notice) = notice.ok().filter(|notice| notice.body().pinned) {
                needed.extend(chunks_of(&notice.body().manifest));
            }
            continue;
        }
        let Some(machine) = (document.kind == Kind::Order)
            .then(|| document.subject.parse::<MachineId>().ok())
            .flatten()
        else {
            continue;
        };
        let topic = Topic::Order(context.site.clone(), machine);
        let Ok(order) = ring.open::<Order>(&topic, &document.payload, Expect::kept()) else {
            continue;
        };
        let order = order.into_body();
        let report = context.store.report(machine)?;
        if report.is_some_and(|held| held.report.job == order.job && held.report.outcome.is_final()) {
            continue;
        }
        for step in &order.steps {
            if let Action::ImageEnsure { image } = step.action
                && let Some((_, manifest)) = context.image(image)?
            {
                needed.extend(chunks_of(&manifest));
            }
        }
    }
    Ok(needed)
}

fn chunks_of(manifest: &Manifest) -> impl Iterator<Item = Digest> {
    manifest.chunks.iter().filter_map(|chunk| match chunk {
        Chunk::Data { sha256, .. } => Some(*sha256),
        _ => None,
    })
}

impl ImageCache {
    /// What lies in the cache.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        let folders = std::fs::read_dir(self.dir()).into_iter().flatten().flatten();
        let files =
            folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
        let held = files.filter_map(|file| {
            let digest = file.file_name().to_str()?.parse().ok()?;
            let there = file.metadata().ok()?;
            Some(Held {
                digest,
                bytes: there.len(),
                used_at: there.modified().ok()?,
            })
        });
        held.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(n: u8, bytes: u64, used: u64) -> Held {
        Held {
            digest: Digest::of(&[n]),
            bytes,
            used_at: SystemTime::UNIX_EPOCH + Duration::from_secs(used),
        }
    }

    fn of(numbers: &[u8]) -> Vec<Digest> {
        numbers.iter().map(|n| Digest::of(&[*n])).collect()
    }

    #[test]
    fn what_was_not_used_for_longest_goes_and_what_is_needed_stays() {
        let held = vec![
            chunk(1, 400, 30),
            chunk(2, 400, 10),
            chunk(3, 400, 20),
            chunk(4, 400, 40),
        ];
        let none = HashSet::new();
        assert_eq!(to_drop(held.clone(), 1600, &none), []);
        assert_eq!(to_drop(held.clone(), 1500, &none), of(&[2]));
        assert_eq!(to_drop(held.clone(), 1000, &none), of(&[2, 3]));
        let needed: HashSet<Digest> = of(&[2]).into_iter().collect();
        assert_eq!(to_drop(held.clone(), 1500, &needed), of(&[3]));
        let all: HashSet<Digest> = of(&[1, 2, 3, 4]).into_iter().collect();
        assert_eq!(
            to_drop(held.clone(), 1, &all),
            [],
            "an order in force comes before the room"
        );
        assert_eq!(to_drop(held, 0, &none).len(), 4);
        assert_eq!(to_drop(vec![], 0, &none), []);
    }
}
