//! Leases of addresses from pools. Giving one out costs the same whether a pool holds ten addresses or 65,000: a cursor
//! walks over it once, afterwards the lease that ended first is taken. Pure; must never give out an address its caller
//! calls reserved.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::ids::MacAddr;

/// First and last address of a pool.
pub(super) type Range = (Ipv4Addr, Ipv4Addr);

/// How long an address is kept for a client that was offered it and has not asked for it yet.
const OFFERED_FOR: TimeDelta = TimeDelta::seconds(60);
/// How long a declined address is left alone.
const DECLINED_FOR: TimeDelta = TimeDelta::minutes(10);

/// A lease of an address from a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who has it.
    pub mac: MacAddr,
    /// The address.
    pub address: Ipv4Addr,
    /// Until when.
    pub until: DateTime<Utc>,
}

/// A port that asks for an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    pub(super) mac: MacAddr,
    /// The address it says it would like, such as the one it had.
    pub(super) wish: Option<Ipv4Addr>,
    pub(super) now: DateTime<Utc>,
}

/// An address that may not be given to others before `until`.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// `None`: nobody's, only to be left alone.
    mac: Option<MacAddr>,
    until: DateTime<Utc>,
}

#[derive(Debug)]
struct Pool {
    last: Ipv4Addr,
    /// The first address the cursor has not seen, as a number; beyond `last` when it has seen all.
    next: Option<u32>,
    /// The held addresses of this pool, by end.
    ends: BTreeSet<(DateTime<Utc>, Ipv4Addr)>,
}

/// All leases of a site.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// By first address; pools do not overlap.
    pools: BTreeMap<Ipv4Addr, Pool>,
    by_mac: HashMap<MacAddr, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, Held>,
}

impl Leases {
    /// Sets the pools; leases stay.
    pub(super) fn set_pools(&mut self, ranges: impl Iterator<Item = Range>) {
        let pool = |(first, last): Range| {
            let next = Some(u32::from(first));
            (
                first,
                Pool {
                    last,
                    next,
                    ends: BTreeSet::new(),
                },
            )
        };
        self.pools = ranges.map(pool).collect();
        let held: Vec<_> = self.by_address.iter().map(|(a, h)| (h.until, *a)).collect();
        for (until, address) in held {
            if let Some(pool) = self.pool_of(address) {
                pool.ends.insert((until, address));
            }
        }
    }

    /// The address of a port in a pool: its former one, else the one it wishes for, else one nobody had, else the one
    /// whose lease ended first. Kept for it for a minute at least; see [`Leases::confirm`].
    pub(super) fn offer(
        &mut self,
        Asking { mac, wish, now }: Asking,
        (first, last): Range,
        reserved: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let usable = |address: &Ipv4Addr| (first..=last).contains(address) && !reserved(*address);
        let kept = now + OFFERED_FOR;
        if let Some(own) = self.address_of(mac).filter(usable) {
            let until = self
                .by_address
                .get(&own)
                .map_or(kept, |held| held.until.max(kept));
            self.hold(own, Some(mac), until);
            return Some(own);
        }
        let wish = wish
            .filter(usable)
            .filter(|a| self.by_address.get(a).is_none_or(|held| held.until <= now));
        let address = match wish {
            Some(address) => address,
            None => match self.never_held(first, &reserved) {
                Some(address) => address,
                None => self.ended_first(first, now, &reserved)?,
            },
        };
        self.hold(address, Some(mac), kept);
        Some(address)
    }

    /// Makes what was offered a lease until `until`.
    pub(super) fn confirm(&mut self, mac: MacAddr, address: Ipv4Addr, until: DateTime<Utc>) {
        if self.by_mac.get(&mac) == Some(&address) {
            self.hold(address, Some(mac), until);
        }
    }

    /// Ends a lease. The address stays its port's until another needs it.
    pub(super) fn release(&mut self, mac: MacAddr, address: Ipv4Addr, now: DateTime<Utc>) {
        self.confirm(mac, address, now);
    }

    /// Leaves an address alone for a while, if it was this port's.
    pub(super) fn decline(&mut self, mac: MacAddr, address: Ipv4Addr, now: DateTime<Utc>) {
        if self.by_mac.get(&mac) == Some(&address) {
            self.vacate(address, now + DECLINED_FOR);
        }
    }

    /// Takes an address that was reserved back into its pool, to be given out after `until`.
    pub(super) fn vacate(&mut self, address: Ipv4Addr, until: DateTime<Utc>) {
        if self.pool_of(address).is_some() {
            self.hold(address, None, until);
        }
    }

    /// The address leased by a port.
    pub(super) fn address_of(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.by_mac.get(&mac).copied()
    }

    /// The port that leased an address.
    pub(super) fn holder_of(&self, address: Ipv4Addr) -> Option<MacAddr> {
        self.by_address.get(&address)?.mac
    }

    /// All leases.
    pub(super) fn all(&self) -> impl Iterator<Item = Lease> {
        self.by_address.iter().filter_map(|(address, held)| {
            Some(Lease {
                mac: held.mac?,
                address: *address,
                until: held.until,
            })
        })
    }

    /// Takes up a lease that was kept.
    pub(super) fn restore(&mut self, lease: &Lease) {
        self.hold(lease.address, Some(lease.mac), lease.until);
    }

    fn pool_of(&mut self, address: Ipv4Addr) -> Option<&mut Pool> {
        let (_, pool) = self.pools.range_mut(..=address).next_back()?;
        (address <= pool.last).then_some(pool)
    }

    fn hold(&mut self, address: Ipv4Addr, mac: Option<MacAddr>, until: DateTime<Utc>) {
        self.forget(address);
        if let Some(mac) = mac
            && let Some(former) = self.by_mac.insert(mac, address)
            && let Some(held) = self.by_address.get_mut(&former)
        {
            // Its lease there may still be in use, so it runs out in its own time.
            held.mac = None;
        }
        self.by_address.insert(address, Held { mac, until });
        if let Some(pool) = self.pool_of(address) {
            pool.ends.insert((until, address));
        }
    }

    fn forget(&mut self, address: Ipv4Addr) {
        let Some(held) = self.by_address.remove(&address) else {
            return;
        };
        if let Some(mac) = held.mac {
            self.by_mac.remove(&mac);
        }
        if let Some(pool) = self.pool_of(address) {
            pool.ends.remove(&(held.until, address));
        }
    }

    /// Moves the cursor on to an address nobody ever had; it passes each address once.
    fn never_held(&mut self, first: Ipv4Addr, reserved: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let pool = self.pools.get_mut(&first)?;
        while let Some(next) = pool.next.filter(|next| *next <= u32::from(pool.last)) {
            let address = Ipv4Addr::from(next);
            pool.next = next.checked_add(1);
            if !reserved(address) && !self.by_address.contains_key(&address) {
                return Some(address);
            }
        }
        None
    }

    /// The address whose lease ended first. Reserved ones on the way are forgotten; [`Leases::vacate`] brings them back.
    fn ended_first(
        &mut self,
        first: Ipv4Addr,
        now: DateTime<Utc>,
        reserved: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        loop {
            let &(until, address) = self.pools.get(&first)?.ends.first()?;
            if until > now {
                return None;
            }
            if !reserved(address) {
                return Some(address);
            }
            self.forget(address);
        }
    }
}
