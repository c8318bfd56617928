//! Who asks for a boot script or an overlay: the machine itself, as far as the network shows, or somebody else. What a machine is
//! given to boot holds the key to its order.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use slipway_protocol::ids::MacAddr;

use super::HttpState;

/// What is known of who asks in the name of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller<'a> {
    /// From where.
    pub(super) address: Ipv4Addr,
    /// The port that answers for that address, where it is on a network of ours.
    pub(super) port: Option<MacAddr>,
    /// Whether it is on a network of ours, where every machine that speaks has a port.
    pub(super) attached: bool,
    /// All ports of the machine it asks for.
    pub(super) own_ports: &'a [MacAddr],
    /// The address that this edge gave the port.
    pub(super) given: Option<Ipv4Addr>,
    /// Whether this edge gives out addresses.
    pub(super) serves_dhcp: bool,
}

impl Caller<'_> {
    /// Whether it is the machine itself, as far as the network shows: it has the address that was given to that port, and where
    /// this box sees who has it, a port of that machine has. Where another server gives out addresses the port alone tells.
    pub(super) fn is_the_machine(&self) -> bool {
        match self.port {
            Some(port) if !self.own_ports.contains(&port) => false,
            Some(_) if !self.serves_dhcp => true,
            // The kernel has forgotten it already, under a flood of neighbours: the machine asks again, and is seen then.
            None if self.attached => false,
            _ => self.given == Some(self.address),
        }
    }
}

/// Whether the machine that has a port asks for itself.
pub(super) fn is_from(state: &HttpState, mac: MacAddr, peer: SocketAddr) -> bool {
    let IpAddr::V4(address) = peer.ip().to_canonical() else {
        return false;
    };
    let table = &state.context.table;
    let own_ports = table.ports_of(mac);
    let caller = Caller {
        address,
        port: state.neighbours.port_of(address),
        attached: state.neighbours.is_attached(address),
        own_ports: &own_ports,
        given: table.address_of(mac),
        serves_dhcp: state.serves_dhcp,
    };
    caller.is_the_machine()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machine_itself_is_taken_for_it() {
        let (own, second, other) = (
            MacAddr([2, 0, 0, 0, 0, 1]),
            MacAddr([2, 0, 0, 0, 0, 2]),
            MacAddr([2, 0, 0, 0, 0, 9]),
        );
        let (its, elsewhere) = (Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 66));
        let asks = |address, port, given, serves_dhcp| {
            Caller {
                address,
                port,
                attached: false,
                own_ports: &[own, second],
                given,
                serves_dhcp,
            }
            .is_the_machine()
        };
        assert!(asks(its, Some(own), Some(its), true));
        assert!(
            asks(its, Some(second), Some(its), true),
            "by another port of its own"
        );
        assert!(asks(its, None, Some(its), true), "through a relay");
        let unseen = Caller {
            address: its,
            port: None,
            attached: true,
            own_ports: &[own],
            given: Some(its),
            serves_dhcp: true,
        };
        assert!(!unseen.is_the_machine(), "a neighbour whose port nobody knows");
        assert!(
            !asks(elsewhere, Some(other), Some(its), true),
            "a neighbour with an address of its own"
        );
        assert!(
            !asks(its, Some(other), Some(its), true),
            "a neighbour that took the address"
        );
        assert!(
            !asks(elsewhere, Some(own), Some(its), true),
            "with an address nobody gave it"
        );
        assert!(!asks(elsewhere, None, Some(its), true), "from another network");
        assert!(!asks(its, None, None, true), "a port nobody gave an address");
        assert!(
            asks(elsewhere, Some(own), None, false),
            "another server gave the address"
        );
        assert!(!asks(elsewhere, Some(other), None, false));
        assert!(!asks(elsewhere, None, None, false));
    }
}
