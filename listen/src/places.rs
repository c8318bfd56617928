//! Places for connections: in all, and by address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;

use crate::Limits;

/// The connections of a server.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    per_address: usize,
    exempt: Vec<IpNet>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

/// What addresses are counted by: of IPv6 the network of 64 bits, in which anybody has as many as they like.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Places {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            most: limits.connections,
            per_address: limits.per_address,
            exempt: limits.exempt.clone(),
            held: Mutex::default(),
        }
    }

    /// A place, if there is one.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let address = counted(peer);
        let is_exempt = self.exempt.iter().any(|net| net.contains(&peer.to_canonical()));
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = held.by_address.get(&address).copied().unwrap_or_default();
        if held.all >= self.most || (of_address >= self.per_address && !is_exempt) {
            return None;
        }
        held.all += 1;
        held.by_address.insert(address, of_address + 1);
        Some(Place {
            places: Arc::clone(self),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all = held.all.saturating_sub(1);
        match held.by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.by_address.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_all_and_by_address_and_given_back() {
        let limits = Limits {
            connections: 5,
            per_address: 2,
            exempt: vec!["10.0.0.0/8".parse().unwrap()],
            ..Limits::default()
        };
        let places = Arc::new(Places::new(&limits));
        let take = |address: &str| places.take(address.parse().unwrap());
        let one = take("192.0.2.1");
        let two = take("::ffff:192.0.2.1");
        assert!(one.is_some() && two.is_some());
        assert!(take("192.0.2.1").is_none(), "two of one address");
        let six = [take("2001:db8::1"), take("2001:db8::2")];
        assert!(six.iter().all(Option::is_some) && take("2001:db8::3").is_none());
        let fifth = take("10.0.0.1");
        assert!(fifth.is_some() && take("10.0.0.1").is_none(), "five in all");
        drop((one, two));
        let proxied = [take("10.0.0.1"), take("10.0.0.1")];
        assert!(proxied.iter().all(Option::is_some), "a proxy stands for many");
        drop((six, fifth, proxied));
        let held = places.held.lock().unwrap();
        assert_eq!((held.all, held.by_address.len()), (0, 0));
    }
}
