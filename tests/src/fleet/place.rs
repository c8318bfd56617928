//! Names and addresses of a fleet: pure arithmetic over its block of loopback addresses. Each site has an address of its
//! own, so that every edge listens on its usual ports; machines have theirs in the site's network, BMCs included.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use slipway_protocol::ids::MacAddr;

/// The most sites a fleet has.
pub const MAX_SITES: u8 = 250;
/// The most machines a site has.
pub const MAX_MACHINES: u8 = 240;
/// Host number of a site's first machine.
const FIRST_HOST: u8 = 10;
/// Port of the edges' HTTP server.
pub const EDGE_HTTP_PORT: u16 = 8081;

/// A block of loopback addresses, `127.block.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block(pub u8);

impl Block {
    /// Where the control plane listens for the API.
    #[must_use]
    pub fn api(self) -> SocketAddr {
        SocketAddr::from(([127, self.0, 0, 1], 8080))
    }

    /// Where a replica of several listens for the API, from 0.
    #[must_use]
    pub fn replica(self, index: u8) -> SocketAddr {
        SocketAddr::from(([127, self.0, 0, 10 + index], 8080))
    }

    /// Where the broker listens for replicas.
    #[must_use]
    pub fn replicas_mqtt(self) -> SocketAddr {
        SocketAddr::from(([127, self.0, 0, 1], 8884))
    }

    /// Where the control plane listens for edges.
    #[must_use]
    pub fn mqtt(self) -> SocketAddr {
        SocketAddr::from(([127, self.0, 0, 1], 8883))
    }

    /// The sites, from 0.
    #[must_use]
    pub fn site(self, index: u8) -> SitePlace {
        SitePlace { block: self.0, index }
    }
}

/// Where a site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SitePlace {
    block: u8,
    index: u8,
}

impl SitePlace {
    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        format!("site-{:03}", self.index)
    }

    /// Its network in CIDR form.
    #[must_use]
    pub fn network(self) -> String {
        format!("127.{}.{}.0/24", self.block, self.index + 1)
    }

    /// Its edge.
    #[must_use]
    pub fn edge(self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.block, self.index + 1, 1)
    }

    /// Its edge's HTTP server.
    #[must_use]
    pub fn edge_http(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.edge(), EDGE_HTTP_PORT)
    }

    /// Its machines, from 0.
    #[must_use]
    pub fn machine(self, index: u8) -> MachinePlace {
        MachinePlace { site: self, index }
    }
}

/// Where a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MachinePlace {
    /// Its site.
    pub site: SitePlace,
    index: u8,
}

impl MachinePlace {
    /// Its name; also the serial number of its only disk.
    #[must_use]
    pub fn name(self) -> String {
        format!("m-{:03}-{:03}", self.site.index, self.index)
    }

    /// Its only port.
    #[must_use]
    pub fn mac(self) -> MacAddr {
        MacAddr([2, 0x51, 0x1b, self.site.block, self.site.index, self.index])
    }

    /// Its address, where its BMC listens too.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.site.block, self.site.index + 1, FIRST_HOST + self.index)
    }

    /// Its BMC.
    #[must_use]
    pub fn bmc(self) -> SocketAddr {
        SocketAddr::new(self.address().into(), 623)
    }

    /// A number of its own, to seed what is random about it.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.site.index) << 8 | u64::from(self.index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_shares_an_address_a_port_or_a_name() {
        let places =
            || (0..MAX_SITES).flat_map(|s| (0..MAX_MACHINES).map(move |m| Block(16).site(s).machine(m)));
        let count = usize::from(MAX_SITES) * usize::from(MAX_MACHINES);
        let edges: BTreeSet<Ipv4Addr> = (0..MAX_SITES).map(|s| Block(16).site(s).edge()).collect();
        let addresses: BTreeSet<Ipv4Addr> = places().map(MachinePlace::address).collect();
        assert_eq!(edges.len(), usize::from(MAX_SITES));
        assert_eq!(addresses.len(), count);
        assert!(addresses.is_disjoint(&edges));
        assert_eq!(
            places()
                .map(|p| p.mac().to_string())
                .collect::<BTreeSet<_>>()
                .len(),
            count
        );
        assert_eq!(
            places().map(MachinePlace::name).collect::<BTreeSet<_>>().len(),
            count
        );
        assert_eq!(
            places().map(MachinePlace::number).collect::<BTreeSet<_>>().len(),
            count
        );
    }
}
