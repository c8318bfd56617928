//! Which addresses of a site machines may be given: pure but for reading the site. Writes nothing.

use std::{
    collections::{HashSet, VecDeque},
    net::Ipv4Addr,
};

use ipnet::Ipv4AddrRange;
use slipway_protocol::{ids::SiteId, site::SubnetConfig};

use crate::{
    error::ApiError,
    store::{Database, machines, sites},
};

/// The addresses of one site: which are taken, and which may be given next.
pub(super) struct AddressBook {
    subnets: Vec<SubnetConfig>,
    taken: HashSet<Ipv4Addr>,
    /// What was not yet looked at for an address that anybody may have. Nothing becomes free while a book is open.
    left: VecDeque<Ipv4AddrRange>,
}

impl AddressBook {
    /// Opens the book of a site.
    ///
    /// # Errors
    /// When there is no such site.
    pub(super) fn open(db: &mut Database, site: &SiteId) -> Result<Self, ApiError> {
        let found = sites::get(db, site.as_str())?;
        let found = found.ok_or_else(|| ApiError::NotFound("site", site.to_string()))?;
        let taken = machines::addresses(db, site)?.into_iter().collect();
        Ok(Self::new(found.settings.subnets, taken))
    }

    fn new(subnets: Vec<SubnetConfig>, taken: HashSet<Ipv4Addr>) -> Self {
        let left = subnets.iter().map(|s| s.network.hosts()).collect();
        Self { subnets, taken, left }
    }

    /// Whether a machine may have the address, were it free.
    fn usable(&self, address: Ipv4Addr) -> bool {
        self.subnets.iter().any(|s| {
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
        if !self.usable(address) {
            let detail = format!(
                "{address} is not a host address of the site's networks outside their pools, server and gateway"
            );
            return Err(ApiError::Bad("address", detail));
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
            if self.usable(address) && !self.taken.contains(&address) {
                return Ok(address);
            }
        }
        let detail = "the site has no free address outside its pools".to_owned();
        Err(ApiError::Conflict("addresses_used_up", detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(taken: &[u8]) -> AddressBook {
        let address = |n: u8| Ipv4Addr::new(192, 0, 2, n);
        let subnet = SubnetConfig {
            network: "192.0.2.0/29".parse().unwrap(),
            server: address(1),
            gateway: Some(address(2)),
            dns: vec![],
            pool: Some((address(3), address(4))),
            lease_seconds: 600,
        };
        AddressBook::new(vec![subnet], taken.iter().map(|n| address(*n)).collect())
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
        assert_eq!(choose(None, &[5, 6]), Err("addresses_used_up"));
        assert_eq!(choose(Some(5), &[5]), Err("address_taken"));
        for bad in [0, 1, 2, 3, 7, 200] {
            assert_eq!(choose(Some(bad), &[]), Err("address"), "{bad}");
        }
    }

    #[test]
    fn no_address_is_given_twice() {
        let mut book = book(&[]);
        assert_eq!(last(book.take(Some(Ipv4Addr::new(192, 0, 2, 5)))), Ok(5));
        assert_eq!(last(book.take(None)), Ok(6));
        assert_eq!(last(book.take(None)), Err("addresses_used_up"));
    }
}
