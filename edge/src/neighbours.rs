//! The kernel's neighbour table: which port answers for an address on the networks that this box is connected to. It tells a machine
//! that asks in its own name from one that only has another one's address; a machine that spoofs the port's MAC, too, it does
//! not tell (docs/THREATS.md).

use std::net::Ipv4Addr;

use slipway_protocol::ids::MacAddr;

/// Where the table is read.
const PATH: &str = "/proc/net/arp";
/// The entry is complete (`ATF_COM`, linux/if_arp.h).
const COMPLETE: u32 = 0x02;

/// Looks neighbours up.
pub trait Neighbours: Send + Sync {
    /// The port that answers for an address; none if it is on no network of ours, or not known.
    fn port_of(&self, address: Ipv4Addr) -> Option<MacAddr>;
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
