//! Which addresses of a site machines may be given: pure but for reading the site. Writes nothing.

use std::{
    collections::{HashSet, VecDeque},
    net::Ipv4Addr,
};

use ipnet::Ipv4AddrRange;
use slipway_protocol::{ids::SiteId, site::SubnetConfig};

use crate::{
    error::ApiError,
    store::{
        Database, machines,
        reservations::{self, Reservation},
        sites,
    },
};

/// Whether a machine may have the address, were it free: a host address of one of the networks, outside its pool, that is
/// neither its server nor its gateway.
pub(in crate::domain) fn fits(subnets: &[SubnetConfig], address: Ipv4Addr) -> bool {
    subnets.iter().any(|s| {
        let pooled = s
            .pool
            .is_some_and(|(first, last)| (first..=last).contains(&address));
        s.network.contains(&address)
            && address != s.network.network()
            && address != s.network.broadcast()
            && address != s.server
            && Some(address) != s.gateway
            && !pooled
    })
}

/// The addresses of one site: which are taken, and which may be given next.
pub(super) struct AddressBook {
    subnets: Vec<SubnetConfig>,
    reserved: Vec<Reservation>,
    taken: HashSet<Ipv4Addr>,
    /// What was not yet looked at for an address that anybody may have. Nothing becomes free while a book is open.
    left: VecDeque<Ipv4AddrRange>,
}

impl AddressBook {
    /// Opens the book of a site. Whoever is going to write an address holds the site ([`sites::hold`]) before.
    ///
    /// # Errors
    /// When there is no such site.
    pub(super) fn open(db: &mut Database, site: &SiteId) -> Result<Self, ApiError> {
        let found = sites::get(db, site.as_str())?;
        let found = found.ok_or_else(|| ApiError::NotFound("site", site.to_string()))?;
        let taken = machines::addresses(db, site)?.into_iter().collect();
        let reserved = reservations::of_site(db, site)?;
        Ok(Self::new(found.settings.subnets, reserved, taken))
    }

    fn new(subnets: Vec<SubnetConfig>, reserved: Vec<Reservation>, taken: HashSet<Ipv4Addr>) -> Self {
        let left = subnets.iter().map(|s| s.network.hosts()).collect();
        Self {
            subnets,
            reserved,
            taken,
            left,
        }
    }

    fn reservation(&self, address: Ipv4Addr) -> Option<&Reservation> {
        self.reserved
            .iter()
            .find(|r| (r.first..=r.last).contains(&address))
    }

    /// Takes the address asked for if it fits, or the first one of the site's networks that is free and outside the pools.
    ///
    /// # Errors
    /// When it does not fit or is taken, or none is left.
    pub(super) fn take(&mut self, asked: Option<Ipv4Addr>) -> Result<Ipv4Addr, ApiError> {
        let address = match asked {
            Some(address) => self.fitting(address)?,
            None => self.any()?,
        };
        self.taken.insert(address);
        Ok(address)
    }

    fn fitting(&self, address: Ipv4Addr) -> Result<Ipv4Addr, ApiError> {
        if !fits(&self.subnets, address) {
            let detail = format!(
                "{address} is not a host address of the site's networks outside their pools, server and gateway"
            );
            return Err(ApiError::Bad("address", detail));
        }
        if let Some(reserved) = self.reservation(address) {
            let detail = format!("{address} is reserved: {}", reserved.note);
            return Err(ApiError::Conflict("address_reserved", detail));
        }
        if self.taken.contains(&address) {
            let detail = format!("{address} is another machine's address at this site");
            return Err(ApiError::Conflict("address_taken", detail));
        }
        Ok(address)
    }

    fn any(&mut self) -> Result<Ipv4Addr, ApiError> {
        while let Some(range) = self.left.front_mut() {
            let Some(address) = range.next() else {
                self.left.pop_front();
                continue;
            };
            let free = !self.taken.contains(&address) && self.reservation(address).is_none();
            if free && fits(&self.subnets, address) {
                return Ok(address);
            }
        }
        let detail = "the site has no free address outside its pools and reservations".to_owned();
        Err(ApiError::Conflict("addresses_used_up", detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(taken: &[u8]) -> AddressBook {
        let address = |n: u8| Ipv4Addr::new(192, 0, 2, n);
        let subnet = SubnetConfig {
            network: "192.0.2.0/28".parse().unwrap(),
            server: address(1),
            gateway: Some(address(2)),
            dns: vec![],
            pool: Some((address(3), address(4))),
            lease_seconds: 600,
        };
        let reserved = Reservation {
            id: "r".into(),
            first: address(9),
            last: address(14),
            note: "switches".into(),
            created_at: chrono::DateTime::UNIX_EPOCH,
        };
        AddressBook::new(
            vec![subnet],
            vec![reserved],
            taken.iter().map(|n| address(*n)).collect(),
        )
    }

    fn last(taken: Result<Ipv4Addr, ApiError>) -> Result<u8, &'static str> {
        taken.map(|address| address.octets()[3]).map_err(|e| e.code())
    }

    #[test]
    fn addresses_are_free_host_addresses_outside_the_pool() {
        let choose = |asked: Option<u8>, taken: &[u8]| {
            last(book(taken).take(asked.map(|n| Ipv4Addr::new(192, 0, 2, n))))
        };
        assert_eq!(choose(None, &[]), Ok(5));
        assert_eq!(choose(None, &[5, 6, 7, 8]), Err("addresses_used_up"));
        assert_eq!(choose(Some(9), &[]), Err("address_reserved"));
        assert_eq!(choose(Some(5), &[5]), Err("address_taken"));
        for bad in [0, 1, 2, 3, 15, 200] {
            assert_eq!(choose(Some(bad), &[]), Err("address"), "{bad}");
        }
    }

    #[test]
    fn no_address_is_given_twice() {
        let mut book = book(&[7, 8]);
        assert_eq!(last(book.take(Some(Ipv4Addr::new(192, 0, 2, 5)))), Ok(5));
        assert_eq!(last(book.take(None)), Ok(6));
        assert_eq!(last(book.take(None)), Err("addresses_used_up"));
    }
}
