//! The boot table: what DHCP, TFTP and HTTP answer a machine, in memory, one change at a time. A change of one machine
//! among 100,000 touches that machine's entry and nothing else. No I/O here; `now` is an argument.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::Ipv4Addr,
    sync::{PoisonError, RwLock},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    ids::{MacAddr, MachineId},
    site::SubnetConfig,
};

/// A machine's port as orders want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// The machine.
    pub machine: MachineId,
    /// The port.
    pub mac: MacAddr,
    /// The address it is given.
    pub address: Ipv4Addr,
    /// The name sent with it.
    pub hostname: Option<String>,
    /// What it boots.
    pub mode: BootMode,
}

/// What a machine boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootMode {
    /// Its disk: an address, but no boot file.
    Local,
    /// The LiveOS; `boot_key` names its overlay.
    LiveOs {
        /// In the overlay's URL.
        boot_key: String,
    },
}

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

/// What to answer a port that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The network it is on.
    pub subnet: SubnetConfig,
    /// Its address.
    pub address: Ipv4Addr,
    /// The name sent with it.
    pub hostname: Option<String>,
    /// Whether it is offered a network boot.
    pub netboot: bool,
    /// Whether no order knows it.
    pub unknown: bool,
}

/// How long a declined address is left alone.
const DECLINED_FOR: TimeDelta = TimeDelta::minutes(10);

/// The table; shared by all boot services.
#[derive(Default)]
pub struct BootTable {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    subnets: Vec<SubnetConfig>,
    discover: bool,
    entries: HashMap<MacAddr, BootEntry>,
    reserved: HashMap<Ipv4Addr, MacAddr>,
    leases: HashMap<MacAddr, Lease>,
    leased: BTreeMap<Ipv4Addr, MacAddr>,
    declined: HashMap<Ipv4Addr, DateTime<Utc>>,
}

impl BootTable {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the networks served, and whether unknown machines are booted to be looked at.
    pub fn set_site(&self, subnets: &[SubnetConfig], discover: bool) {
        let mut inner = self.write();
        inner.subnets = subnets.to_vec();
        inner.discover = discover;
    }

    /// Sets what one port is answered.
    pub fn bind(&self, entry: BootEntry) {
        let mut inner = self.write();
        inner.unbind(entry.mac);
        inner.reserved.insert(entry.address, entry.mac);
        inner.entries.insert(entry.mac, entry);
    }

    /// Forgets a port.
    pub fn unbind(&self, mac: MacAddr) {
        self.write().unbind(mac);
    }

    /// What one port is to be answered by orders.
    #[must_use]
    pub fn entry(&self, mac: MacAddr) -> Option<BootEntry> {
        self.read().entries.get(&mac).cloned()
    }

    /// Whether unknown machines are booted to be looked at.
    #[must_use]
    pub fn discovers(&self) -> bool {
        self.read().discover
    }

    /// The address a port has now, by order or lease.
    #[must_use]
    pub fn address_of(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        let inner = self.read();
        let reserved = inner.entries.get(&mac).map(|entry| entry.address);
        reserved.or_else(|| inner.leases.get(&mac).map(|lease| lease.address))
    }

    /// The port that has an address now.
    #[must_use]
    pub fn port_at(&self, address: Ipv4Addr) -> Option<MacAddr> {
        let inner = self.read();
        inner
            .reserved
            .get(&address)
            .or_else(|| inner.leased.get(&address))
            .copied()
    }

    /// The network an address is in.
    #[must_use]
    pub fn subnet_of(&self, address: Ipv4Addr) -> Option<SubnetConfig> {
        self.read().subnet_of(address).cloned()
    }

    /// The address and boot of a port that asks on the network of `via` (the relay's address, or ours on the interface
    /// it came in by). `None`: no address for it there, so silence.
    ///
    /// An unknown port gets a lease from the pool: its former one, else one never or longest not leased.
    #[must_use]
    pub fn answer(&self, mac: MacAddr, via: Ipv4Addr, now: DateTime<Utc>) -> Option<Answer> {
        if let Some(entry) = self.entry(mac) {
            let inner = self.read();
            let subnet = inner
                .subnet_of(via)
                .filter(|s| s.network.contains(&entry.address))?
                .clone();
            let netboot = matches!(entry.mode, BootMode::LiveOs { .. });
            return Some(Answer {
                subnet,
                address: entry.address,
                hostname: entry.hostname,
                netboot,
                unknown: false,
            });
        }
        let mut inner = self.write();
        let subnet = inner.subnet_of(via)?.clone();
        let address = inner.lease(mac, &subnet, now)?;
        let netboot = inner.discover;
        Some(Answer {
            subnet,
            address,
            hostname: None,
            netboot,
            unknown: true,
        })
    }

    /// A client found its address in use by another (DHCPDECLINE).
    pub fn decline(&self, mac: MacAddr, address: Ipv4Addr, now: DateTime<Utc>) {
        let mut inner = self.write();
        if inner.leased.get(&address) == Some(&mac) {
            inner.leased.remove(&address);
            inner.leases.remove(&mac);
            inner.declined.insert(address, now);
        }
    }

    /// A client gives its address back (DHCPRELEASE). It stays its own until another needs it.
    pub fn release(&self, mac: MacAddr, now: DateTime<Utc>) {
        if let Some(lease) = self.write().leases.get_mut(&mac) {
            lease.until = now;
        }
    }

    /// All leases, to be kept over a restart.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        self.read().leases.values().cloned().collect()
    }

    /// Takes up leases that were kept.
    pub fn restore(&self, leases: Vec<Lease>) {
        let mut inner = self.write();
        for lease in leases {
            inner.leased.insert(lease.address, lease.mac);
            inner.leases.insert(lease.mac, lease);
        }
    }
}

impl Inner {
    fn unbind(&mut self, mac: MacAddr) {
        if let Some(entry) = self.entries.remove(&mac)
            && self.reserved.get(&entry.address) == Some(&mac)
        {
            self.reserved.remove(&entry.address);
        }
    }

    fn subnet_of(&self, address: Ipv4Addr) -> Option<&SubnetConfig> {
        self.subnets
            .iter()
            .find(|subnet| subnet.network.contains(&address))
    }

    fn lease(&mut self, mac: MacAddr, subnet: &SubnetConfig, now: DateTime<Utc>) -> Option<Ipv4Addr> {
        let (first, last) = subnet.pool?;
        let in_pool = |address: Ipv4Addr| (first..=last).contains(&address);
        let former = self
            .leases
            .get(&mac)
            .map(|l| l.address)
            .filter(|a| in_pool(*a) && self.is_free_for(mac, *a, now));
        let address = match former {
            Some(address) => address,
            None => self.pick(mac, subnet, (first, last), now)?,
        };
        if let Some(old) = self.leases.get(&mac).map(|l| l.address)
            && self.leased.get(&old) == Some(&mac)
        {
            self.leased.remove(&old);
        }
        if let Some(expired) = self.leased.insert(address, mac).filter(|other| *other != mac) {
            self.leases.remove(&expired);
        }
        let until = now + TimeDelta::seconds(subnet.lease_seconds.into());
        self.leases.insert(mac, Lease { mac, address, until });
        Some(address)
    }

    fn is_free_for(&self, mac: MacAddr, address: Ipv4Addr, now: DateTime<Utc>) -> bool {
        let reserved = self.reserved.contains_key(&address);
        let declined = self
            .declined
            .get(&address)
            .is_some_and(|at| now - *at < DECLINED_FOR);
        let taken = self.leased.get(&address).is_some_and(|holder| {
            *holder != mac && self.leases.get(holder).is_some_and(|lease| lease.until > now)
        });
        !reserved && !declined && !taken
    }

    /// A free address: one nobody had, else the one whose lease ended first.
    fn pick(
        &self,
        mac: MacAddr,
        subnet: &SubnetConfig,
        (first, last): (Ipv4Addr, Ipv4Addr),
        now: DateTime<Utc>,
    ) -> Option<Ipv4Addr> {
        let own: HashSet<Ipv4Addr> = [Some(subnet.server), subnet.gateway]
            .into_iter()
            .flatten()
            .collect();
        let pool = (u32::from(first)..=u32::from(last))
            .map(Ipv4Addr::from)
            .filter(|a| !own.contains(a));
        let free = pool.filter(|address| self.is_free_for(mac, *address, now));
        let ended = |address: &Ipv4Addr| {
            self.leased
                .get(address)
                .and_then(|holder| self.leases.get(holder))
                .map(|l| l.until)
        };
        let mut best: Option<(DateTime<Utc>, Ipv4Addr)> = None;
        for address in free {
            match ended(&address) {
                None => return Some(address),
                Some(until) if best.is_none_or(|(b, _)| until < b) => best = Some((until, address)),
                Some(_) => {}
            }
        }
        best.map(|(_, address)| address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn subnet() -> SubnetConfig {
        SubnetConfig {
            network: "192.0.2.0/24".parse().unwrap(),
            server: Ipv4Addr::new(192, 0, 2, 1),
            gateway: None,
            dns: vec![],
            pool: Some((Ipv4Addr::new(192, 0, 2, 200), Ipv4Addr::new(192, 0, 2, 202))),
            lease_seconds: 600,
        }
    }

    fn mac(n: u32) -> MacAddr {
        let [a, b, c, d] = n.to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    }

    fn table() -> BootTable {
        let table = BootTable::default();
        table.set_site(&[subnet()], true);
        table
    }

    const VIA: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn address(table: &BootTable, n: u32, now: DateTime<Utc>) -> Option<u8> {
        table.answer(mac(n), VIA, now).map(|a| a.address.octets()[3])
    }

    #[test]
    fn the_pool_is_sticky_and_runs_out_and_comes_back() {
        let (table, now) = (table(), Utc::now());
        assert_eq!(
            [1, 2, 3, 1].map(|n| address(&table, n, now)),
            [Some(200), Some(201), Some(202), Some(200)]
        );
        assert_eq!(address(&table, 4, now), None, "the pool is full");
        let later = now + TimeDelta::seconds(601);
        assert_eq!(address(&table, 2, later), Some(201), "its own again");
        assert_eq!(address(&table, 4, later), Some(200), "an ended lease of another");
        table.decline(mac(4), Ipv4Addr::new(192, 0, 2, 200), later);
        assert_eq!(address(&table, 4, later), Some(202), "not the declined one");
        assert_eq!(
            table.answer(mac(9), Ipv4Addr::new(10, 0, 0, 1), now),
            None,
            "a network nobody configured"
        );
    }

    #[test]
    fn leases_survive_a_restart_and_reservations_are_never_leased() {
        let (first, now) = (table(), Utc::now());
        assert_eq!(address(&first, 7, now), Some(200));
        let second = table();
        second.restore(first.leases());
        second.bind(BootEntry {
            machine: MachineId(Uuid::nil()),
            mac: mac(8),
            address: Ipv4Addr::new(192, 0, 2, 201),
            hostname: None,
            mode: BootMode::Local,
        });
        assert_eq!(
            address(&second, 9, now),
            Some(202),
            "200 is leased and 201 reserved"
        );
        assert_eq!(address(&second, 7, now), Some(200));
        let reserved = second.answer(mac(8), VIA, now).unwrap();
        assert!(!reserved.netboot && !reserved.unknown);
    }

    #[test]
    fn one_among_a_hundred_thousand_changes_alone() {
        let table = BootTable::default();
        let network = "10.0.0.0/8".parse().unwrap();
        table.set_site(
            &[SubnetConfig {
                network,
                server: Ipv4Addr::new(10, 0, 0, 1),
                pool: None,
                ..subnet()
            }],
            false,
        );
        let bind = |n: u32, mode| {
            table.bind(BootEntry {
                machine: MachineId(Uuid::from_u128(n.into())),
                mac: mac(n),
                address: Ipv4Addr::from(0x0a00_0100 + n),
                hostname: None,
                mode,
            });
        };
        (0..100_000).for_each(|n| bind(n, BootMode::Local));
        bind(77_777, BootMode::LiveOs { boot_key: "k".into() });
        let netboots = (0..100_000)
            .filter(|n| {
                table
                    .answer(mac(*n), Ipv4Addr::new(10, 0, 0, 1), Utc::now())
                    .unwrap()
                    .netboot
            })
            .collect::<Vec<_>>();
        assert_eq!(netboots, [77_777]);
        table.unbind(mac(77_777));
        assert_eq!(table.entry(mac(77_777)), None);
    }
}
