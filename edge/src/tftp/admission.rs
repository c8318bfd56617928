//! Which transfers are open: limits, and requests that are repeats of one in work. Must never make a client fail for good:
//! what is not admitted is not answered, so that the client asks again. Where there is no place left, the oldest transfer of which
//! nothing was acknowledged yet makes room: that is what a flood of invented senders leaves behind.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

/// Transfers at once.
const MAX_TRANSFERS: usize = 2_000;
/// Transfers at once to addresses that no machine has that is to boot; the other places are kept for those.
const MAX_STRANGERS: usize = 1_500;
/// Transfers at once to one address.
const MAX_PER_PEER: usize = 8;

struct Open {
    peer: SocketAddr,
    request: Vec<u8>,
    known: bool,
    touched: Arc<AtomicBool>,
    leave: CancellationToken,
}

#[derive(Default)]
struct Inner {
    last_id: u64,
    /// By age.
    open: BTreeMap<u64, Open>,
    strangers: usize,
    by_address: HashMap<IpAddr, Vec<u64>>,
}

impl Inner {
    fn of(&self, address: IpAddr) -> &[u64] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }

    fn remove(&mut self, id: u64) {
        let Some(open) = self.open.remove(&id) else { return };
        open.leave.cancel();
        self.strangers -= usize::from(!open.known);
        let address = open.peer.ip();
        if let Some(ids) = self.by_address.get_mut(&address) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }

    /// Which transfer makes room for another one: `Ok(None)`, there is room; an error, none does.
    fn in_the_way(&self, address: IpAddr, known: bool) -> Result<Option<u64>, Full> {
        let untouched = |id: &u64| !self.open[id].touched.load(Ordering::Relaxed);
        let own = self.of(address);
        if own.len() >= MAX_PER_PEER {
            return own.iter().copied().find(untouched).map(Some).ok_or(Full);
        }
        if self.open.len() < MAX_TRANSFERS && (known || self.strangers < MAX_STRANGERS) {
            return Ok(None);
        }
        let oldest = |of_known: bool| {
            let mut ids = self.open.keys().copied();
            ids.find(|id| self.open[id].known == of_known && untouched(id))
        };
        let found = oldest(false).or_else(|| known.then(|| oldest(true)).flatten());
        found.map(Some).ok_or(Full)
    }
}

/// All places are taken by transfers that go on.
struct Full;

/// The open transfers.
#[derive(Clone, Default)]
pub(super) struct Admission(Arc<Mutex<Inner>>);

impl Admission {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a request; `known` says that a machine which is to boot has the address. `None`: it is a repeat of one in work from
    /// the same port, or there are too many. Another request from the same port is admitted, since boot ROMs ask for the size
    /// first and use the port again.
    pub(super) fn admit(&self, peer: SocketAddr, request: &[u8], known: bool) -> Option<Admitted> {
        let mut inner = self.lock();
        let is_repeat = |id: &u64| inner.open[id].peer == peer && inner.open[id].request == request;
        if inner.of(peer.ip()).iter().any(is_repeat) {
            return None;
        }
        if let Some(id) = inner.in_the_way(peer.ip(), known).ok()? {
            inner.remove(id);
        }
        inner.last_id += 1;
        let id = inner.last_id;
        let admitted = Admitted {
            admission: self.clone(),
            id,
            touched: Arc::default(),
            leave: CancellationToken::new(),
        };
        let open = Open {
            peer,
            request: request.to_vec(),
            known,
            touched: Arc::clone(&admitted.touched),
            leave: admitted.leave.clone(),
        };
        inner.open.insert(id, open);
        inner.by_address.entry(peer.ip()).or_default().push(id);
        inner.strangers += usize::from(!known);
        Some(admitted)
    }
}

/// An admitted transfer; open as long as this lives.
pub(super) struct Admitted {
    admission: Admission,
    id: u64,
    touched: Arc<AtomicBool>,
    leave: CancellationToken,
}

impl Admitted {
    /// The client acknowledged a part of the file: it is there.
    pub(super) fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Ends when the transfer is to make room for another one.
    pub(super) fn evicted(&self) -> tokio_util::sync::WaitForCancellationFuture<'_> {
        self.leave.cancelled()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_left_out_and_the_places_of_one_address_bounded() {
        let (admission, peer) = (Admission::default(), SocketAddr::from(([192, 0, 2, 9], 2070)));
        let probe = admission.admit(peer, b"size", false).unwrap();
        assert!(admission.admit(peer, b"size", false).is_none(), "a repeat");
        let file = admission.admit(peer, b"file", false);
        assert!(file.is_some(), "the same port, after the size");
        let admit = |n: u16| admission.admit((peer.ip(), n).into(), b"file", false);
        probe.touch();
        let mut others: Vec<_> = (0..6).map(|n| admit(n).unwrap()).collect();
        assert_eq!(admission.lock().open.len(), MAX_PER_PEER);
        others.push(admit(6).unwrap());
        assert_eq!(admission.lock().open.len(), MAX_PER_PEER);
        assert!(!probe.leave.is_cancelled(), "it goes on");
        assert!(
            file.as_ref().unwrap().leave.is_cancelled(),
            "the oldest untouched one"
        );
        others.iter().for_each(Admitted::touch);
        assert!(admit(7).is_none(), "all go on");
        let neighbour = SocketAddr::from(([192, 0, 2, 10], 2070));
        assert!(admission.admit(neighbour, b"file", false).is_some());
        drop((probe, file, others));
        let inner = admission.lock();
        assert!(inner.by_address.is_empty() && inner.open.is_empty() && inner.strangers == 0);
    }

    #[test]
    fn a_flood_of_invented_senders_takes_no_place_from_who_is_there() {
        let admission = Admission::default();
        let at = |n: u32| SocketAddr::from((n.to_be_bytes(), 2070));
        let reader = admission.admit(at(1), b"file", false).unwrap();
        reader.touch();
        let flood: Vec<_> = (100..10_100)
            .map(|n| admission.admit(at(n), b"file", false).unwrap())
            .collect();
        assert_eq!(admission.lock().open.len(), MAX_STRANGERS);
        let machine = admission.admit(at(2), b"file", true).unwrap();
        let newcomer = admission.admit(at(3), b"file", false).unwrap();
        assert!(
            [&reader, &machine, &newcomer]
                .iter()
                .all(|one| !one.leave.is_cancelled())
        );
        flood
            .iter()
            .filter(|one| !one.leave.is_cancelled())
            .for_each(Admitted::touch);
        newcomer.touch();
        assert!(
            admission.admit(at(4), b"file", false).is_none(),
            "all strangers' places go on"
        );
        assert!(
            admission.admit(at(5), b"file", true).is_some(),
            "a machine has a place kept"
        );
    }
}
