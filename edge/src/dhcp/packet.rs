//! DHCPv4 packets (RFC 2131, options RFC 2132). Reading is tolerant: a malformed option is skipped and all others are
//! kept, since firmware in the field sends such packets. Must never panic on any bytes.

use std::{collections::BTreeMap, net::Ipv4Addr};

use slipway_protocol::ids::MacAddr;

/// Length of the fixed part with the magic cookie, in bytes.
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// BOOTP's least length, in bytes; some ROMs drop shorter packets.
const LEAST: usize = 300;
/// What every client takes (RFC 2131, 2), in bytes with IP and UDP headers.
const EVERYBODY_TAKES: usize = 576;
/// Bytes of 0 that stand behind the end mark at least.
const BEHIND_END: usize = 4;
/// IP and UDP headers, in bytes.
const HEADERS: usize = 28;
/// Flag in the first byte of `flags`: answers are to be broadcast.
const BROADCAST: u8 = 0x80;

/// Option codes used here.
pub mod code {
    /// Subnet mask.
    pub const SUBNET_MASK: u8 = 1;
    /// Routers.
    pub const ROUTER: u8 = 3;
    /// Name servers.
    pub const DNS: u8 = 6;
    /// Host name.
    pub const HOST_NAME: u8 = 12;
    /// Vendor-specific information.
    pub const VENDOR: u8 = 43;
    /// Requested address.
    pub const REQUESTED_IP: u8 = 50;
    /// Lease time in seconds.
    pub const LEASE_TIME: u8 = 51;
    /// Overload: options also stand in `file` and `sname`.
    pub const OVERLOAD: u8 = 52;
    /// Message type.
    pub const MESSAGE_TYPE: u8 = 53;
    /// Server identifier.
    pub const SERVER_ID: u8 = 54;
    /// Why a request was refused, for people.
    pub const MESSAGE: u8 = 56;
    /// The largest packet the client takes, in bytes with IP and UDP headers.
    pub const MAX_SIZE: u8 = 57;
    /// Renewal time in seconds.
    pub const RENEWAL: u8 = 58;
    /// Rebinding time in seconds.
    pub const REBINDING: u8 = 59;
    /// Vendor class.
    pub const VENDOR_CLASS: u8 = 60;
    /// Client identifier.
    pub const CLIENT_ID: u8 = 61;
    /// TFTP server name.
    pub const TFTP_SERVER: u8 = 66;
    /// Boot file name.
    pub const BOOT_FILE: u8 = 67;
    /// User class.
    pub const USER_CLASS: u8 = 77;
    /// Relay agent information (RFC 3046).
    pub const RELAY: u8 = 82;
    /// Client architecture (RFC 4578).
    pub const ARCHITECTURE: u8 = 93;
    /// Client machine identifier (RFC 4578).
    pub const MACHINE_ID: u8 = 97;
    /// The subnet an address is wanted on (RFC 3011).
    pub const SUBNET_SELECTION: u8 = 118;
    /// iPXE's own options.
    pub const IPXE: u8 = 175;
}

/// What a relay says, inside option 82.
pub mod relay_code {
    /// The subnet an address is wanted on (RFC 3527).
    pub const LINK_SELECTION: u8 = 5;
    /// What the client is to take for our address, so that its renewals pass the relay (RFC 5107).
    pub const SERVER_ID_OVERRIDE: u8 = 11;
}

/// What iPXE says of itself, inside option 175.
pub mod ipxe_code {
    /// It can load by HTTP.
    pub const HTTP: u8 = 0x13;
    /// It shall not wait 3 s for a ProxyDHCP server.
    pub const NO_PROXY: u8 = 176;
}

/// Why a packet is not a client's that is served here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotServed {
    /// Not a DHCP request, or cut short.
    #[error("not a DHCP request")]
    NotDhcp,
    /// Of a network that has no addresses as Ethernet has (its IANA hardware type).
    #[error("a client by hardware of type {}, which is not served: boot it by an Ethernet port", hardware(*.0))]
    Hardware(u8),
}

/// A hardware type in words (IANA, ARP parameters).
fn hardware(kind: u8) -> String {
    match kind {
        32 => "32, InfiniBand (RFC 4390)".to_owned(),
        24 | 27 => format!("{kind}, FireWire or EUI-64"),
        other => other.to_string(),
    }
}

/// What a client wants, or what it is told (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// Looking for servers.
    Discover,
    /// An offer.
    Offer,
    /// Taking an offer, or keeping an address.
    Request,
    /// The address is in use by another.
    Decline,
    /// Granted.
    Ack,
    /// Refused.
    Nak,
    /// The address is given back.
    Release,
    /// Only the other options are wanted.
    Inform,
}

impl MessageType {
    const ALL: [Self; 8] = [
        Self::Discover,
        Self::Offer,
        Self::Request,
        Self::Decline,
        Self::Ack,
        Self::Nak,
        Self::Release,
        Self::Inform,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }

    fn byte(self) -> u8 {
        Self::ALL
            .iter()
            .position(|t| *t == self)
            .map_or(0, |i| i as u8 + 1)
    }
}

/// A packet from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it wants.
    pub message: MessageType,
    /// Transaction id.
    pub xid: [u8; 4],
    /// Seconds and flags, as they came; the top bit of `flags` asks for a broadcast.
    pub flags: [u8; 2],
    /// The client's address, if it has one.
    pub ciaddr: Ipv4Addr,
    /// The relay's address, if one is in between.
    pub giaddr: Ipv4Addr,
    /// The client's port.
    pub mac: MacAddr,
    /// Its hardware type, given back as it came.
    hardware: u8,
    options: BTreeMap<u8, Vec<u8>>,
}

impl Request {
    /// Reads a client's packet.
    ///
    /// # Errors
    /// When it is none, or by hardware that has no MAC addresses. IEEE 802 (6) is Ethernet by another name, and some firmware
    /// leaves the type 0.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotServed> {
        let fixed: &[u8; FIXED] = bytes
            .get(..FIXED)
            .and_then(|fixed| fixed.try_into().ok())
            .ok_or(NotServed::NotDhcp)?;
        let [operation, hardware, length, ..] = *fixed;
        if operation != 1 || fixed[236..] != COOKIE {
            return Err(NotServed::NotDhcp);
        }
        if length != 6 || !matches!(hardware, 0 | 1 | 6) {
            return Err(NotServed::Hardware(hardware));
        }
        let mut options = BTreeMap::new();
        read_options(&bytes[FIXED..], &mut options);
        let overload = options
            .get(&code::OVERLOAD)
            .and_then(|o: &Vec<u8>| o.first().copied())
            .unwrap_or(0);
        if overload & 1 != 0 {
            read_options(&fixed[108..236], &mut options);
        }
        if overload & 2 != 0 {
            read_options(&fixed[44..108], &mut options);
        }
        let address = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
        let message = options
            .get(&code::MESSAGE_TYPE)
            .and_then(|value| MessageType::from_byte(*value.first()?))
            .ok_or(NotServed::NotDhcp)?;
        Ok(Self {
            hardware,
            message,
            xid: [fixed[4], fixed[5], fixed[6], fixed[7]],
            flags: [fixed[10], fixed[11]],
            ciaddr: address(12),
            giaddr: address(24),
            mac: MacAddr([fixed[28], fixed[29], fixed[30], fixed[31], fixed[32], fixed[33]]),
            options,
        })
    }

    /// An option's bytes as they came (RFC 3396: parts joined).
    #[must_use]
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.get(&code).map(Vec::as_slice)
    }

    /// An option that holds an address.
    #[must_use]
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = self.option(code)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes))
    }

    /// Whether the answer must be broadcast.
    #[must_use]
    pub fn wants_broadcast(&self) -> bool {
        self.flags[0] & BROADCAST != 0
    }

    /// What the relay says under a [`relay_code`], where that is an address.
    #[must_use]
    pub fn relayed_address(&self, wanted: u8) -> Option<Ipv4Addr> {
        let value = inner_option(self.option(code::RELAY)?, wanted)?;
        <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
    }

    /// Whether this is an iPXE that can load by HTTP; one that says nothing of what it can does.
    #[must_use]
    pub fn is_ipxe_with_http(&self) -> bool {
        let http = |features| inner_option(features, ipxe_code::HTTP).is_some_and(|value| value != [0]);
        self.is_ipxe() && self.option(code::IPXE).is_none_or(http)
    }

    /// Options of another packet of the same client, where this one leaves them out.
    pub(super) fn fill_in(&mut self, codes: &[u8], from: &BTreeMap<u8, Vec<u8>>) {
        for code in codes {
            if let Some(value) = from.get(code).filter(|_| !self.options.contains_key(code)) {
                self.options.insert(*code, value.clone());
            }
        }
    }

    /// These options, as they came.
    pub(super) fn only(&self, codes: &[u8]) -> BTreeMap<u8, Vec<u8>> {
        let wanted = self.options.iter().filter(|(code, _)| codes.contains(code));
        wanted.map(|(code, value)| (*code, value.clone())).collect()
    }

    /// Whether this is iPXE: user class `iPXE`, bare, or one of several in the form of RFC 3004.
    #[must_use]
    pub fn is_ipxe(&self) -> bool {
        let Some(mut classes) = self.option(code::USER_CLASS) else {
            return false;
        };
        if classes == b"iPXE" {
            return true;
        }
        while let Some((len, rest)) = classes.split_first() {
            let Some((class, rest)) = rest.split_at_checked(usize::from(*len)) else {
                return false;
            };
            if class == b"iPXE" {
                return true;
            }
            classes = rest;
        }
        false
    }

    /// The first architecture it names (RFC 4578: one or more 16-bit numbers), else the one in its vendor class
    /// (`PXEClient:Arch:00007:UNDI:003016`).
    #[must_use]
    pub fn architecture(&self) -> Option<u16> {
        if let Some([high, low, ..]) = self.option(code::ARCHITECTURE) {
            return Some(u16::from_be_bytes([*high, *low]));
        }
        let class = std::str::from_utf8(self.option(code::VENDOR_CLASS)?).ok()?;
        class.split_once(":Arch:")?.1.get(..5)?.parse().ok()
    }

    /// The longest answer this client takes, in bytes without headers.
    fn takes_bytes(&self) -> usize {
        let said = match self.option(code::MAX_SIZE) {
            Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        };
        said.max(EVERYBODY_TAKES) - HEADERS
    }

    /// Whether its vendor class starts with this text.
    #[must_use]
    pub fn vendor_class_starts_with(&self, text: &str) -> bool {
        self.option(code::VENDOR_CLASS)
            .is_some_and(|class| class.starts_with(text.as_bytes()))
    }
}

/// The value of an option inside another.
fn inner_option(mut rest: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [code, len, tail @ ..] = rest {
        let (value, tail) = tail.split_at_checked(usize::from(*len))?;
        if *code == wanted {
            return Some(value);
        }
        rest = tail;
    }
    None
}

/// Reads options until the end mark or the end of the bytes; parts of one option are joined (RFC 3396).
fn read_options(mut bytes: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) {
    while let Some((&code, rest)) = bytes.split_first() {
        bytes = match code {
            0 => rest,
            255 => return,
            _ => {
                let Some((&len, rest)) = rest.split_first() else {
                    return;
                };
                let Some((value, rest)) = rest.split_at_checked(len.into()) else {
                    return;
                };
                options.entry(code).or_default().extend_from_slice(value);
                rest
            }
        };
    }
}

/// An answer to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it is told.
    pub message: MessageType,
    /// The address it may use.
    pub yiaddr: Ipv4Addr,
    /// The server it loads its boot file from.
    pub siaddr: Ipv4Addr,
    /// The boot file, also in the fixed field where it fits.
    pub file: Option<String>,
    /// Options besides the message type; written in this order, as far as the client's largest packet allows. What a client cannot do
    /// without comes first: the server, the mask before the routers (RFC 2132, 3.3), then what it boots.
    pub options: Vec<(u8, Vec<u8>)>,
}

impl Reply {
    /// The bytes of the answer to `request`. What a relay added (option 82) is given back word for word, last
    /// (RFC 3046, 2.2).
    #[must_use]
    pub fn encode(&self, request: &Request) -> Vec<u8> {
        let mut out = vec![0; FIXED];
        out[..3].copy_from_slice(&[2, request.hardware, 6]);
        out[4..8].copy_from_slice(&request.xid);
        out[10..12].copy_from_slice(&request.flags);
        if self.message != MessageType::Nak {
            out[12..16].copy_from_slice(&request.ciaddr.octets());
        } else if !request.giaddr.is_unspecified() {
            // RFC 2131, 4.3.2: the relay broadcasts it, since the client's address is wrong.
            out[10] |= BROADCAST;
        }
        out[16..20].copy_from_slice(&self.yiaddr.octets());
        out[20..24].copy_from_slice(&self.siaddr.octets());
        out[24..28].copy_from_slice(&request.giaddr.octets());
        out[28..34].copy_from_slice(&request.mac.0);
        if let Some(file) = self.file.as_ref().filter(|file| file.len() < 128) {
            out[108..108 + file.len()].copy_from_slice(file.as_bytes());
        }
        out[236..240].copy_from_slice(&COOKIE);
        write_option(&mut out, code::MESSAGE_TYPE, &[self.message.byte()]);
        let relay = request.option(code::RELAY);
        let last = relay.map_or(0, written_bytes) + 1 + BEHIND_END;
        let room = request.takes_bytes().saturating_sub(last);
        for (code, value) in &self.options {
            if out.len() + written_bytes(value) < room {
                write_option(&mut out, *code, value);
                // Some ROMs take a name for a text that ends with a byte of 0, which a pad option is (RFC 2132, 3.1).
                if matches!(*code, code::BOOT_FILE | code::TFTP_SERVER) {
                    out.push(0);
                }
            }
        }
        if let Some(relay) = relay {
            write_option(&mut out, code::RELAY, relay);
        }
        out.push(255);
        // Some ROMs look for an option past the end mark: what they find there is none.
        out.resize((out.len() + BEHIND_END).max(LEAST), 0);
        out
    }
}

/// Length of an option as written.
fn written_bytes(value: &[u8]) -> usize {
    value.len() + 2 * value.len().div_ceil(255).max(1)
}

/// Writes an option, in parts of 255 bytes where it is longer (RFC 3396).
fn write_option(out: &mut Vec<u8>, code: u8, value: &[u8]) {
    if value.is_empty() {
        out.extend_from_slice(&[code, 0]);
    }
    for part in value.chunks(255) {
        // A part is 1 to 255 bytes long.
        out.extend_from_slice(&[code, part.len() as u8]);
        out.extend_from_slice(part);
    }
}
