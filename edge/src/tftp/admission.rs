//! Which transfers are open: limits, and requests that are repeats of one in work. Must never make a client fail for good:
//! what is not admitted is not answered, so that the client asks again.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Transfers at once.
const MAX_TRANSFERS: usize = 2_000;
/// Transfers at once to one address.
const MAX_PER_PEER: usize = 8;

struct Open {
    id: u64,
    port: u16,
    request: Vec<u8>,
}

#[derive(Default)]
struct Inner {
    last_id: u64,
    total: usize,
    by_address: HashMap<IpAddr, Vec<Open>>,
}

/// The open transfers.
#[derive(Clone, Default)]
pub(super) struct Admission(Arc<Mutex<Inner>>);

impl Admission {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a request. `None`: it is a repeat of one in work from the same port, or there are too many. Another request
    /// from the same port is admitted, since boot ROMs ask for the size first and use the port again.
    pub(super) fn admit(&self, peer: SocketAddr, request: &[u8]) -> Option<Admitted> {
        let mut inner = self.lock();
        if inner.total >= MAX_TRANSFERS {
            return None;
        }
        inner.last_id += 1;
        let id = inner.last_id;
        let open = inner.by_address.entry(peer.ip()).or_default();
        let repeated = open.iter().any(|o| o.port == peer.port() && o.request == request);
        if repeated || open.len() >= MAX_PER_PEER {
            return None;
        }
        open.push(Open {
            id,
            port: peer.port(),
            request: request.to_vec(),
        });
        inner.total += 1;
        Some(Admitted {
            admission: self.clone(),
            address: peer.ip(),
            id,
        })
    }
}

/// An admitted transfer; open as long as this lives.
pub(super) struct Admitted {
    admission: Admission,
    address: IpAddr,
    id: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut inner = self.admission.lock();
        inner.total -= 1;
        if let Some(open) = inner.by_address.get_mut(&self.address) {
            open.retain(|o| o.id != self.id);
            if open.is_empty() {
                inner.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_and_floods_are_left_out_and_make_room_when_over() {
        let (admission, peer) = (Admission::default(), SocketAddr::from(([192, 0, 2, 9], 2070)));
        let probe = admission.admit(peer, b"size");
        assert!(
            probe.is_some() && admission.admit(peer, b"size").is_none(),
            "a repeat"
        );
        let file = admission.admit(peer, b"file");
        assert!(file.is_some(), "the same port, after the size");
        let others: Vec<_> = (0..10)
            .map_while(|n| admission.admit((peer.ip(), n).into(), b"file"))
            .collect();
        assert_eq!(others.len(), MAX_PER_PEER - 2);
        let neighbour = SocketAddr::from(([192, 0, 2, 10], 2070));
        assert!(
            admission.admit(neighbour, b"file").is_some(),
            "others are not hurt"
        );
        drop(probe);
        assert!(admission.admit(peer, b"size").is_some());
        drop((file, others));
        assert!(admission.lock().by_address.is_empty() && admission.lock().total == 0);
    }
}
