//! The kernel's neighbour table: which port answers for an address on the networks that this box is connected to. It tells a machine
//! that asks in its own name from one that only has another one's address; a machine that spoofs the port's MAC, too, it does
//! not tell (docs/THREATS.md).

use std::net::Ipv4Addr;

use slipway_protocol::ids::MacAddr;

/// Where the table is read.
const PATH: &str = "/proc/net/arp";
/// Where the routes are read.
const ROUTES: &str = "/proc/net/route";
/// The entry is complete (`ATF_COM`, linux/if_arp.h).
const COMPLETE: u32 = 0x02;

/// Looks neighbours up.
pub trait Neighbours: Send + Sync {
    /// The port that answers for an address; none if it is on no network of ours, or not known.
    fn port_of(&self, address: Ipv4Addr) -> Option<MacAddr>;

    /// Whether an address is of a network that this box is connected to: then its port is known once it was spoken with.
    fn is_attached(&self, address: Ipv4Addr) -> bool;
}

/// The kernel's own table (proc(5), `/proc/net/arp`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

impl Neighbours for Kernel {
    fn port_of(&self, address: Ipv4Addr) -> Option<MacAddr> {
        // Where there is no such table nobody is a neighbour.
        let table = std::fs::read_to_string(PATH).unwrap_or_default();
        find(&table, address)
    }

    fn is_attached(&self, address: Ipv4Addr) -> bool {
        let routes = std::fs::read_to_string(ROUTES).unwrap_or_default();
        attached(&routes, address)
    }
}

/// Whether a table of routes (proc(5), `/proc/net/route`) has a way to an address without a gateway. Pure.
#[must_use]
pub fn attached(routes: &str, address: Ipv4Addr) -> bool {
    // The numbers stand as this machine has them in memory.
    let number = |text: &str| {
        u32::from_str_radix(text, 16)
            .ok()
            .map(u32::to_ne_bytes)
            .map(Ipv4Addr::from)
    };
    let mut best = None;
    for line in routes.lines().skip(1) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, to, via, .., mask, _, _, _] = columns.as_slice() else {
            continue;
        };
        let (Some(to), Some(via), Some(mask)) = (number(to), number(via), number(mask)) else {
            continue;
        };
        let bits = mask.to_bits();
        if address.to_bits() & bits == to.to_bits() && best.is_none_or(|(longest, _)| bits > longest) {
            best = Some((bits, via.is_unspecified()));
        }
    }
    best.is_some_and(|(_, direct)| direct)
}

/// A table's entry for an address. Pure.
#[must_use]
pub fn find(table: &str, address: Ipv4Addr) -> Option<MacAddr> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        if columns.next()?.parse::<Ipv4Addr>().ok()? != address {
            return None;
        }
        let _hardware_type = columns.next()?;
        let flags = u32::from_str_radix(columns.next()?.trim_start_matches("0x"), 16).ok()?;
        let mac: MacAddr = columns.next()?.parse().ok()?;
        (flags & COMPLETE != 0).then_some(mac)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_route_tells_whether_a_gateway_is_between() {
        let hex = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let line = |to, via, mask| {
            format!(
                "br0\t{}\t{}\t0001\t0\t0\t0\t{}\t0\t0\t0\n",
                hex(to),
                hex(via),
                hex(mask)
            )
        };
        let routes = [
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n".to_owned(),
            line([0, 0, 0, 0], [192, 0, 2, 254], [0, 0, 0, 0]),
            line([192, 0, 2, 0], [0, 0, 0, 0], [255, 255, 255, 0]),
            line([192, 0, 2, 128], [192, 0, 2, 9], [255, 255, 255, 192]),
            "garbage\n".to_owned(),
        ]
        .concat();
        for (address, is_attached) in [
            ([192, 0, 2, 7], true),
            ([192, 0, 2, 200], true),
            ([192, 0, 2, 130], false),
            ([198, 51, 100, 7], false),
        ] {
            assert_eq!(attached(&routes, address.into()), is_attached, "{address:?}");
        }
        assert!(!attached("", Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn complete_entries_alone_count() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     192.0.2.10       0x1         0x2         52:54:00:00:00:01     *        br0\n\
                     192.0.2.1        0x1         0x6         52:54:00:00:00:02     *        br0\n\
                     192.0.2.12       0x1         0x0         00:00:00:00:00:00     *        br0\n\
                     not a line\n";
        let at = |last: u8| find(table, Ipv4Addr::new(192, 0, 2, last));
        assert_eq!(at(10), "52:54:00:00:00:01".parse().ok());
        assert_eq!(
            at(1),
            "52:54:00:00:00:02".parse().ok(),
            "not the one that begins alike"
        );
        assert_eq!((at(12), at(13)), (None, None));
        assert_eq!(find("", Ipv4Addr::LOCALHOST), None);
    }
}
