//! What is at the other ends of the machine's cables: switches say so each 30 s by LLDP (IEEE 802.1AB-2016). Listens only, and
//! believes nothing: what is heard is shown to people.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use pnet_datalink::{Channel, ChannelType, Config, NetworkInterface};
use slipway_protocol::{
    ids::MacAddr,
    inventory::{Neighbour, Nic},
};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::inventory;

/// EtherType of LLDP (section 7.3).
const ETHER_TYPE: u16 = 0x88cc;
/// Organisation of IEEE 802.1 (annex D of IEEE 802.1Q-2018).
const IEEE_802_1: [u8; 3] = [0x00, 0x80, 0xc2];

/// What was heard at each port so far; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Neighbours(Arc<watch::Sender<BTreeMap<MacAddr, Neighbour>>>);

impl Neighbours {
    /// Starts to listen at all ports that are there, each on a thread of its own until the machine restarts.
    #[must_use]
    pub fn listen() -> Self {
        let all = Self::default();
        let interfaces = pnet_datalink::interfaces();
        for nic in inventory::nics(Path::new("/")) {
            let Some(interface) = interfaces.iter().find(|i| i.name == nic.name) else {
                continue;
            };
            let (own, interface) = (all.clone(), interface.clone());
            let thread = std::thread::Builder::new().name(format!("lldp-{}", nic.name));
            let started = thread.spawn(move || {
                if let Err(error) = own.hear(&interface, nic.mac) {
                    warn!(port = nic.name, %error, "neighbours of a port are not heard");
                }
            });
            if let Err(error) = started {
                warn!(%error, "no thread to hear neighbours");
            }
        }
        all
    }

    fn hear(&self, interface: &NetworkInterface, mac: MacAddr) -> std::io::Result<()> {
        let config = Config {
            channel_type: ChannelType::Layer3(ETHER_TYPE),
            ..Config::default()
        };
        let Channel::Ethernet(_, mut frames) = pnet_datalink::channel(interface, config)? else {
            return Err(std::io::Error::other("no channel of Ethernet frames"));
        };
        loop {
            match parse(frames.next()?) {
                Some(Heard::Here(neighbour)) => self.put(mac, neighbour),
                Some(Heard::Leaves) => self.forget(mac),
                None => {}
            }
        }
    }

    /// Notes what was heard at a port.
    pub fn put(&self, mac: MacAddr, neighbour: Neighbour) {
        self.0.send_if_modified(|known| {
            let is_news = known.get(&mac) != Some(&neighbour);
            if is_news {
                // Not in the job's log, which tenants read: how a site is cabled is its operator's affair.
                debug!(%mac, system = neighbour.system, port = neighbour.port, "a port's neighbour was heard");
                known.insert(mac, neighbour);
            }
            is_news
        });
    }

    fn forget(&self, mac: MacAddr) {
        self.0.send_if_modified(|known| known.remove(&mac).is_some());
    }

    /// Puts what was heard beside the ports.
    pub fn tell(&self, nics: &mut [Nic]) {
        let known = self.0.borrow();
        for nic in nics {
            nic.neighbour = known.get(&nic.mac).cloned();
        }
    }

    /// Told of each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BTreeMap<MacAddr, Neighbour>> {
        self.0.subscribe()
    }
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Who is there.
    Here(Neighbour),
    /// Whoever was there goes: a time to live of nothing (section 9.2.5.2).
    Leaves,
}

/// Reads an LLDP data unit, the frame behind its EtherType. `None` if it is none: chassis, port and time to live stand first,
/// in that order (section 8.2).
#[must_use]
pub fn parse(unit: &[u8]) -> Option<Heard> {
    let mut rest = unit;
    let chassis = id(field(&mut rest, 1)?, [4, 5])?;
    let port = id(field(&mut rest, 2)?, [3, 4])?;
    let [high, low, ..] = *field(&mut rest, 3)? else {
        return None;
    };
    if u16::from_be_bytes([high, low]) == 0 {
        return Some(Heard::Leaves);
    }
    let mut neighbour = Neighbour {
        chassis,
        port,
        description: None,
        system: None,
        vlan: None,
    };
    while let Some((kind, value)) = next(&mut rest) {
        match kind {
            0 => break,
            4 => neighbour.description = text(value),
            5 => neighbour.system = text(value),
            127 => neighbour.vlan = vlan(value).or(neighbour.vlan),
            _ => {}
        }
    }
    Some(Heard::Here(neighbour))
}

/// The next field: seven bits of type, nine of length, and the value (section 8.4).
fn next<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let [high, low, behind @ ..] = *rest else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([high & 1, *low]));
    let value = behind.get(..length)?;
    *rest = &behind[length..];
    Some((high >> 1, value))
}

fn field<'a>(rest: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    let (kind, value) = next(rest)?;
    (kind == wanted).then_some(value)
}

/// A chassis or port ID: its subtype, then a MAC address or a network address if that is one of the two, else a name
/// (sections 8.5.2 and 8.5.3).
fn id(value: &[u8], [mac, network]: [u8; 2]) -> Option<String> {
    let (subtype, value) = value.split_first()?;
    match value {
        [a, b, c, d, e, f] if *subtype == mac => Some(MacAddr([*a, *b, *c, *d, *e, *f]).to_string()),
        [1, a, b, c, d] if *subtype == network => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
        name => text(name).or_else(|| (!name.is_empty()).then(|| hex::encode(name))),
    }
}

/// Text as people see it, without what a terminal would obey.
fn text(value: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value);
    let text: String = text.chars().filter(|c| !c.is_control()).take(255).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn vlan(value: &[u8]) -> Option<u16> {
    match value {
        [a, b, c, 1, high, low] if [*a, *b, *c] == IEEE_802_1 => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(fields: &[(u8, &[u8])]) -> Vec<u8> {
        let mut unit = Vec::new();
        for (kind, value) in fields {
            unit.extend([kind << 1, u8::try_from(value.len()).unwrap()]);
            unit.extend(*value);
        }
        unit
    }

    const CHASSIS: (u8, &[u8]) = (1, &[4, 0x02, 0, 0, 0, 0, 9]);
    const PORT: (u8, &[u8]) = (2, b"\x05Ethernet12");
    const LIVES: (u8, &[u8]) = (3, &[0, 120]);

    #[test]
    fn a_switch_says_its_name_and_the_port() {
        let told = unit(&[
            CHASSIS,
            PORT,
            LIVES,
            (4, b"to rack\x1b[2J a1"),
            (5, b"leaf-1 "),
            (7, &[0, 4, 0, 4]),
            (127, &[0x00, 0x80, 0xc2, 1, 0x0f, 0xa0]),
            (0, b""),
            (5, b"behind the end"),
        ]);
        let expected = Neighbour {
            chassis: "02:00:00:00:00:09".into(),
            port: "Ethernet12".into(),
            description: Some("to rack[2J a1".into()),
            system: Some("leaf-1".into()),
            vlan: Some(4000),
        };
        assert_eq!(parse(&told), Some(Heard::Here(expected)));
        let address = unit(&[(1, &[5, 1, 192, 0, 2, 7]), (2, &[7, 0xff, 0xfe]), LIVES]);
        let Some(Heard::Here(other)) = parse(&address) else {
            panic!("no neighbour");
        };
        assert_eq!(other.chassis, "192.0.2.7");
        let leaves = unit(&[CHASSIS, PORT, (3, &[0, 0])]);
        assert_eq!(parse(&leaves), Some(Heard::Leaves));
    }

    #[test]
    fn what_is_cut_off_or_out_of_order_is_none() {
        let whole = unit(&[CHASSIS, PORT, LIVES]);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(parse(&unit(&[PORT, CHASSIS, LIVES])), None);
        assert_eq!(parse(&[0xff; 1500]), None);
    }

    #[test]
    fn only_news_are_told() {
        let all = Neighbours::default();
        let mut changes = all.changes();
        let mac: MacAddr = "02:00:00:00:00:01".parse().unwrap();
        let Some(Heard::Here(one)) = parse(&unit(&[CHASSIS, PORT, LIVES])) else {
            panic!("no neighbour");
        };
        all.put(mac, one.clone());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        all.put(mac, one.clone());
        assert!(!changes.has_changed().unwrap(), "it is the same");
        let mut nics = [Nic {
            name: "eth0".into(),
            mac,
            speed_mbit: None,
            link: true,
            neighbour: None,
        }];
        all.tell(&mut nics);
        assert_eq!(nics[0].neighbour, Some(one));
        all.forget(mac);
        assert!(changes.has_changed().unwrap());
        all.tell(&mut nics);
        assert_eq!(nics[0].neighbour, None);
    }
}
