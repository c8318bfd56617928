//! The boot table: what DHCP, TFTP and HTTP answer a machine, in memory, one change at a time. A change of one machine
//! among 100,000 touches that machine's entry and nothing else. No I/O here; `now` is an argument.

mod leases;

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{PoisonError, RwLock},
};

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::{
    ids::{MacAddr, MachineId},
    site::SubnetConfig,
};

pub use self::leases::Lease;
use self::leases::{Asking, Leases};

/// A machine's port as orders want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// The machine.
    pub machine: MachineId,
    /// The port.
    pub mac: MacAddr,
    /// The address it is given. All ports of a machine may have the same: it boots by one of them.
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

/// An address that entries give.
#[derive(Debug)]
struct Reserved {
    ports: Vec<MacAddr>,
    /// The port that was granted it last.
    granted: Option<MacAddr>,
    /// How long that grant runs.
    until: DateTime<Utc>,
}

/// The table; shared by all boot services.
#[derive(Default)]
pub struct BootTable {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    subnets: Vec<SubnetConfig>,
    /// Relays outside those.
    relays: Vec<Ipv4Addr>,
    /// This box's own addresses, the first its name where it has none on a network.
    own: Vec<Ipv4Addr>,
    discover: bool,
    entries: HashMap<MacAddr, BootEntry>,
    reserved: HashMap<Ipv4Addr, Reserved>,
    leases: Leases,
}

impl BootTable {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A table of a box with these addresses. Machines of a network that is served through relays alone know it by the first.
    #[must_use]
    pub fn of(own: Vec<Ipv4Addr>) -> Self {
        let table = Self::default();
        table.write().own = own;
        table
    }

    /// Sets the networks served, and whether unknown machines are booted to be looked at.
    pub fn set_site(&self, subnets: &[SubnetConfig], discover: bool) {
        let mut inner = self.write();
        let own = inner.own.clone();
        inner.subnets = subnets.to_vec();
        for subnet in &mut inner.subnets {
            if let Some(first) = own.first().filter(|_| !own.contains(&subnet.server)) {
                subnet.server = *first;
            }
        }
        inner.discover = discover;
        inner.leases.set_pools(subnets.iter().filter_map(|s| s.pool));
    }

    /// Sets which relays are believed although they are on no network of the site.
    pub fn set_relays(&self, relays: &[Ipv4Addr]) {
        self.write().relays = relays.to_vec();
    }

    /// Whether who calls itself a relay at this address is answered there.
    #[must_use]
    pub fn believes_relay(&self, relay: Ipv4Addr) -> bool {
        let inner = self.read();
        inner.subnet_of(relay).is_some() || inner.relays.contains(&relay)
    }

    /// Sets what one port is answered.
    pub fn bind(&self, entry: BootEntry) {
        self.write().bind(entry);
    }

    /// Forgets a port. Its address goes back to the pool it is in, if any, once the last grant of it has run out.
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
        reserved.or_else(|| inner.leases.address_of(mac))
    }

    /// Whether an address is that of a machine which is to boot.
    #[must_use]
    pub fn is_reserved(&self, address: Ipv4Addr) -> bool {
        self.read().reserved.contains_key(&address)
    }

    /// All ports of the machine that has this one; the port alone if no order knows it.
    #[must_use]
    pub fn ports_of(&self, mac: MacAddr) -> Vec<MacAddr> {
        let inner = self.read();
        let Some(entry) = inner.entries.get(&mac) else {
            return vec![mac];
        };
        let reserved = inner.reserved.get(&entry.address);
        let same = |port: &&MacAddr| {
            let other = inner.entries.get(*port);
            other.is_some_and(|other| other.machine == entry.machine)
        };
        reserved.map_or_else(
            || vec![mac],
            |reserved| reserved.ports.iter().filter(same).copied().collect(),
        )
    }

    /// The port that has an address now; of a machine's ports the one that was granted it last.
    #[must_use]
    pub fn port_at(&self, address: Ipv4Addr) -> Option<MacAddr> {
        let inner = self.read();
        match inner.reserved.get(&address) {
            Some(reserved) => reserved.granted.or_else(|| reserved.ports.first().copied()),
            None => inner.leases.holder_of(address),
        }
    }

    /// The network an address is in; of several the smallest.
    #[must_use]
    pub fn subnet_of(&self, address: Ipv4Addr) -> Option<SubnetConfig> {
        self.read().subnet_of(address).cloned()
    }

    /// The address and boot of a port that asks on the network of `via` (the relay's address, or ours on the interface
    /// it came in by). `None`: no address for it there, so silence.
    ///
    /// An unknown port is offered an address of the pool: its former one, else the one it wishes for, else one never
    /// or longest not leased. It is kept for a minute; [`BootTable::confirm`] makes it a lease.
    #[must_use]
    pub fn answer(
        &self,
        mac: MacAddr,
        via: Ipv4Addr,
        wish: Option<Ipv4Addr>,
        now: DateTime<Utc>,
    ) -> Option<Answer> {
        let known = self.read().known(mac, via);
        match known {
            Some(answer) => answer,
            None => self.write().unknown(Asking { mac, wish, now }, via),
        }
    }

    /// What a port that made its address itself is told on the network of `via`; nothing is leased.
    #[must_use]
    pub fn inform(&self, mac: MacAddr, via: Ipv4Addr, address: Ipv4Addr) -> Option<Answer> {
        let inner = self.read();
        let subnet = inner.subnet_of(via)?.clone();
        let entry = inner.entries.get(&mac);
        Some(Answer {
            subnet,
            address,
            hostname: entry.and_then(|e| e.hostname.clone()),
            netboot: entry.map_or(inner.discover, BootEntry::netboots),
            unknown: entry.is_none(),
        })
    }

    /// A port was granted the address of an [`Answer`] (DHCPACK), for the lease time from `now` on. The lease, if it is one of a pool.
    pub fn confirm(&self, mac: MacAddr, answer: &Answer, now: DateTime<Utc>) -> Option<Lease> {
        let until = now + TimeDelta::seconds(answer.subnet.lease_seconds.into());
        let mut inner = self.write();
        match inner.reserved.get_mut(&answer.address) {
            Some(reserved) => {
                reserved.granted = Some(mac);
                reserved.until = until;
                None
            }
            None => {
                inner.leases.confirm(mac, answer.address, until);
                let address = answer.address;
                Some(Lease { mac, address, until })
            }
        }
    }

    /// A client found its address in use by another (DHCPDECLINE): not leased again for ten minutes.
    pub fn decline(&self, mac: MacAddr, address: Ipv4Addr, now: DateTime<Utc>) {
        self.write().leases.decline(mac, address, now);
    }

    /// A client gives its address back (DHCPRELEASE). It stays its own until another needs it.
    pub fn release(&self, mac: MacAddr, address: Ipv4Addr, now: DateTime<Utc>) {
        self.write().leases.release(mac, address, now);
    }

    /// All leases, to be kept over a restart.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        self.read().leases.all().collect()
    }

    /// Takes up leases that were kept.
    pub fn restore(&self, leases: Vec<Lease>) {
        let mut inner = self.write();
        leases.iter().for_each(|lease| inner.leases.restore(lease));
    }
}

impl BootEntry {
    fn netboots(&self) -> bool {
        matches!(self.mode, BootMode::LiveOs { .. })
    }
}

impl Inner {
    fn bind(&mut self, entry: BootEntry) {
        let port = (entry.mac, entry.address);
        if self
            .entries
            .get(&entry.mac)
            .is_none_or(|old| old.address != entry.address)
        {
            self.unbind(entry.mac);
            let reserved = self.reserved.entry(port.1).or_insert_with(|| Reserved {
                ports: Vec::new(),
                granted: None,
                until: DateTime::UNIX_EPOCH,
            });
            reserved.ports.push(port.0);
        }
        self.entries.insert(port.0, entry);
    }

    fn unbind(&mut self, mac: MacAddr) {
        let Some(entry) = self.entries.remove(&mac) else {
            return;
        };
        let Some(reserved) = self.reserved.get_mut(&entry.address) else {
            return;
        };
        reserved.ports.retain(|port| *port != mac);
        reserved.granted = reserved.granted.filter(|port| *port != mac);
        if reserved.ports.is_empty() {
            let until = reserved.until;
            self.reserved.remove(&entry.address);
            self.leases.vacate(entry.address, until);
        }
    }

    fn subnet_of(&self, address: Ipv4Addr) -> Option<&SubnetConfig> {
        let holding = self.subnets.iter().filter(|s| s.network.contains(&address));
        holding.max_by_key(|subnet| subnet.network.prefix_len())
    }

    /// The answer to a port that has an entry: `Some(None)` when its address is not of that network.
    fn known(&self, mac: MacAddr, via: Ipv4Addr) -> Option<Option<Answer>> {
        let entry = self.entries.get(&mac)?;
        let subnet = self.subnet_of(via).filter(|s| s.network.contains(&entry.address));
        Some(subnet.map(|subnet| Answer {
            subnet: subnet.clone(),
            address: entry.address,
            hostname: entry.hostname.clone(),
            netboot: entry.netboots(),
            unknown: false,
        }))
    }

    fn unknown(&mut self, asking: Asking, via: Ipv4Addr) -> Option<Answer> {
        let subnet = self.subnet_of(via)?.clone();
        let network = subnet.network;
        let own = [
            Some(subnet.server),
            subnet.gateway,
            Some(network.network()),
            Some(network.broadcast()),
        ];
        let reserved = &self.reserved;
        let taken = |address| own.contains(&Some(address)) || reserved.contains_key(&address);
        let address = self.leases.offer(asking, subnet.pool?, taken)?;
        Some(Answer {
            subnet,
            address,
            hostname: None,
            netboot: self.discover,
            unknown: true,
        })
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
        let answer = table.answer(mac(n), VIA, None, now)?;
        table.confirm(mac(n), &answer, now);
        Some(answer.address.octets()[3])
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
            table.answer(mac(9), Ipv4Addr::new(10, 0, 0, 1), None, now),
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
        let reserved = second.answer(mac(8), VIA, None, now).unwrap();
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
                    .answer(mac(*n), Ipv4Addr::new(10, 0, 0, 1), None, Utc::now())
                    .unwrap()
                    .netboot
            })
            .collect::<Vec<_>>();
        assert_eq!(netboots, [77_777]);
        table.unbind(mac(77_777));
        assert_eq!(table.entry(mac(77_777)), None);
    }

    #[test]
    fn an_offer_nobody_takes_is_free_again_after_a_minute() {
        let (table, now) = (table(), Utc::now());
        let offered = |n, wish: Option<u8>, now| {
            let wish = wish.map(|last| Ipv4Addr::new(192, 0, 2, last));
            table
                .answer(mac(n), VIA, wish, now)
                .map(|a| a.address.octets()[3])
        };
        assert_eq!(
            offered(1, Some(202), now),
            Some(202),
            "the wish of one that lost its lease"
        );
        assert_eq!(offered(2, Some(202), now), Some(200), "another's");
        assert_eq!(offered(3, Some(77), now), Some(201), "not of the pool");
        assert_eq!(offered(4, None, now), None, "all are offered");
        let later = now + TimeDelta::seconds(61);
        assert_eq!(address(&table, 2, later), Some(200), "its own still");
        assert_eq!(
            offered(4, None, later),
            Some(201),
            "of the ended offers the first"
        );
        assert_eq!(offered(5, None, later), Some(202));
        assert_eq!(offered(6, None, later), None);
    }

    #[test]
    fn ports_that_share_an_address_hold_it_together_and_it_cools_down_afterwards() {
        let (table, now) = (table(), Utc::now());
        let shared = Ipv4Addr::new(192, 0, 2, 200);
        let entry = |n| BootEntry {
            machine: MachineId(Uuid::nil()),
            mac: mac(n),
            address: shared,
            hostname: None,
            mode: BootMode::Local,
        };
        table.bind(entry(1));
        table.bind(entry(2));
        assert_eq!(address(&table, 2, now), Some(200));
        assert_eq!(
            table.port_at(shared),
            Some(mac(2)),
            "the port that was granted it"
        );
        table.bind(entry(2));
        table.unbind(mac(2));
        assert_eq!(address(&table, 8, now), Some(201), "port 1 holds it still");
        table.unbind(mac(1));
        assert_eq!(
            address(&table, 9, now),
            Some(202),
            "a system that was told it may use it yet"
        );
        assert_eq!(address(&table, 10, now), None);
        assert_eq!(address(&table, 10, now + TimeDelta::seconds(601)), Some(200));
    }

    #[test]
    fn a_reservation_takes_a_leased_address_and_gives_it_back() {
        let (table, now) = (table(), Utc::now());
        assert_eq!(address(&table, 1, now), Some(200));
        let reserving = BootEntry {
            machine: MachineId(Uuid::nil()),
            mac: mac(50),
            address: Ipv4Addr::new(192, 0, 2, 200),
            hostname: None,
            mode: BootMode::Local,
        };
        table.bind(reserving);
        assert_eq!(address(&table, 1, now), Some(201), "its lease is over");
        let later = now + TimeDelta::hours(1);
        assert_eq!(
            [2, 3, 4].map(|n| address(&table, n, later)),
            [Some(202), Some(201), None]
        );
        table.unbind(mac(50));
        assert_eq!(address(&table, 4, later), Some(200));
    }

    #[test]
    fn a_pool_never_holds_the_networks_own_addresses() {
        let whole = SubnetConfig {
            network: "192.0.2.0/29".parse().unwrap(),
            gateway: Some(Ipv4Addr::new(192, 0, 2, 6)),
            pool: Some((Ipv4Addr::new(192, 0, 2, 0), Ipv4Addr::new(192, 0, 2, 7))),
            ..subnet()
        };
        let table = BootTable::default();
        table.set_site(
            &[
                SubnetConfig {
                    pool: None,
                    ..subnet()
                },
                whole,
            ],
            false,
        );
        let got: Vec<_> = (0..6).map_while(|n| address(&table, n, Utc::now())).collect();
        assert_eq!(
            got,
            [2, 3, 4, 5],
            "the smaller network, without its ends, server and gateway"
        );
    }

    /// Every schedule of clients: no two hold one address, and what is full comes back.
    #[test]
    fn no_two_ports_ever_hold_one_address() {
        proptest::proptest!(|(moves in proptest::collection::vec((0..6_u32, 0..5_u8, 0..400_i64), 1..80))| {
            let (table, mut now) = (table(), Utc::now());
            let mut held: HashMap<u8, (u32, DateTime<Utc>)> = HashMap::new();
            for (n, what, seconds) in moves {
                now += TimeDelta::seconds(seconds);
                let own = table.address_of(mac(n));
                match (what, own) {
                    (0, Some(own)) => {
                        table.decline(mac(n), own, now);
                        held.remove(&own.octets()[3]);
                    }
                    (1, Some(own)) => {
                        table.release(mac(n), own, now);
                        held.remove(&own.octets()[3]);
                    }
                    (2, _) => {
                        table.restore(table.leases());
                        table.set_site(&[subnet()], true);
                    }
                    _ => if let Some(got) = address(&table, n, now) {
                        if let Some((other, until)) = held.insert(got, (n, now + TimeDelta::seconds(600))) {
                            proptest::prop_assert!(other == n || until <= now, "{got} of {other} given to {n}");
                        }
                        held.retain(|a, (m, _)| *a == got || *m != n);
                    },
                }
            }
        });
    }
}
