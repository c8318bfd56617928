//! The image cache of a site whose disk is not endless.

use slipway_edge::image_room;
use slipway_protocol::{
    ids::{Digest, ImageId},
    image::{Chunk, ImageNotice, Manifest},
    order::{Action, Order},
    topic::Topic,
};

use crate::edge::{Edge, centre, machine, order, site, stamp};

/// An image of three chunks of 1,000 bytes as they are kept.
async fn image(edge: &Edge, dir: &std::path::Path, n: u8, pinned: bool) -> ImageId {
    let digests: Vec<Digest> = (0..3).map(|part| Digest::of(&[n, part])).collect();
    let chunks = digests.iter().map(|sha256| Chunk::Data {
        sha256: *sha256,
        stored_bytes: 1000,
    });
    let manifest = Manifest {
        size_bytes: 3 << 20,
        chunk_bytes: 1 << 20,
        chunks: chunks.collect(),
    };
    let id = manifest.id();
    let notice = ImageNotice {
        name: format!("image-{n}"),
        manifest,
        pinned,
    };
    let topic = Topic::Image(site(), id);
    edge.send(&topic, centre().seal(&topic, stamp(u64::from(n)), &notice))
        .await;
    for digest in digests {
        let name = digest.to_string();
        let folder = dir.join("chunks").join(&name[..2]);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), [n; 1000]).unwrap();
    }
    edge.until("the image's notice is held", |_| {
        edge.context.image(id).is_ok_and(|held| held.is_some())
    })
    .await;
    id
}

fn lies_there(edge: &Edge, n: u8) -> usize {
    let digests: Vec<Digest> = (0..3).map(|part| Digest::of(&[n, part])).collect();
    let held = edge.context.images.held();
    held.iter()
        .filter(|chunk| digests.contains(&chunk.digest))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_over_its_room_keeps_what_an_order_in_force_needs() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path());
    let wanted = image(&edge, dir.path(), 1, false).await;
    image(&edge, dir.path(), 2, false).await;
    image(&edge, dir.path(), 3, true).await;
    let topic = Topic::Order(site(), machine());
    let mut order: Order = order(7);
    order.steps[0].action = Action::ImageEnsure { image: wanted };
    // It waits for something that is not there, so the job goes on.
    order.steps[0].needs = vec![];
    order.steps.push({
        let mut later = order.steps[0].clone();
        later.id = "inventory".parse().unwrap();
        later.action = Action::AgentInventory;
        later.role = later.action.role();
        later
    });
    edge.send(&topic, centre().seal(&topic, stamp(1), &order)).await;
    edge.until("the order is held", |_| edge.report().is_some()).await;
    assert_eq!(
        image_room::sweep(&edge.context, 9000).unwrap(),
        0,
        "all of it fits"
    );
    assert_eq!(image_room::sweep(&edge.context, 5000).unwrap(), 3);
    assert_eq!([1, 2, 3].map(|n| lies_there(&edge, n)), [3, 0, 3]);
    assert_eq!(
        image_room::sweep(&edge.context, 10).unwrap(),
        0,
        "what orders need and what is pinned stays, whatever the room"
    );
}
