//! Leases on disk before their clients hear of them, many in one write: what comes while one is under way goes with the next.

use slipway_protocol::ids::MacAddr;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    boot::Lease,
    store::{Store, StoreError},
};

/// How many leases wait at most; whoever comes then is not answered and asks again.
const QUEUE: usize = 4096;
/// How many are written at once.
const BATCH: usize = 1024;

struct Waiting {
    lease: Lease,
    kept: oneshot::Sender<()>,
}

/// Has leases written; clones share one writer.
#[derive(Clone)]
pub struct Keeper {
    queue: mpsc::Sender<Waiting>,
}

impl Keeper {
    /// Hands a lease over. The receiver hears when it is on disk, or that it will not be.
    #[must_use]
    pub fn keep(&self, lease: Lease) -> oneshot::Receiver<()> {
        let (kept, receiver) = oneshot::channel();
        let mac: MacAddr = lease.mac;
        if self.queue.try_send(Waiting { lease, kept }).is_err() {
            tracing::debug!(%mac, "DHCP: too many leases wait to be written; this client asks again");
        }
        receiver
    }
}

/// The writer's task, and what hands it leases.
pub fn start(store: Store, stop: CancellationToken) -> (Keeper, impl Future<Output = ()> + Send + use<>) {
    let (queue, waiting) = mpsc::channel(QUEUE);
    (Keeper { queue }, run(store, waiting, stop))
}

async fn run(store: Store, mut waiting: mpsc::Receiver<Waiting>, stop: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let taken = tokio::select! {
            taken = waiting.recv_many(&mut batch, BATCH) => taken,
            () = stop.cancelled() => return,
        };
        if taken == 0 {
            // A box that serves no DHCP has nobody who hands leases over.
            return stop.cancelled().await;
        }
        let leases: Vec<Lease> = batch.iter().map(|waiting| waiting.lease.clone()).collect();
        let store = store.clone();
        let written = tokio::task::spawn_blocking(move || store.put_dhcp_leases(&leases)).await;
        let batch = batch.drain(..);
        match written.unwrap_or_else(|panic| {
            Err(StoreError::Row {
                what: "lease",
                reason: panic.to_string(),
            })
        }) {
            // One whose client was given up meanwhile is kept all the same.
            Ok(()) => batch.for_each(|waiting| {
                let _ = waiting.kept.send(());
            }),
            // Nobody is told of a lease that a restart would forget; they ask again.
            Err(error) => {
                error!(error = %anyhow::Error::from(error), leases = taken, "DHCP: leases cannot be written, so none is granted")
            }
        }
    }
}
