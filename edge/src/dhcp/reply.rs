//! What a DHCP client is answered: a pure function of its packet, the boot table and the time.

use std::net::{Ipv4Addr, SocketAddrV4};

use chrono::{DateTime, Utc};

use super::packet::{MessageType, Reply, Request, code, ipxe_code, relay_code};
use crate::boot::{Answer, BootTable, Lease};

/// Who answers.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// Our address on the interface the packet came in by.
    pub address: Ipv4Addr,
    /// Port of the HTTP boot server.
    pub http_port: u16,
}

/// What to do about a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub reply: Reply,
    /// Where to send it.
    pub to: SocketAddrV4,
    /// Whether no order knows the client.
    pub unknown: bool,
    /// The firmware's architecture, if it is to boot from the network and there is no boot program for it.
    pub no_program: Option<u16>,
    /// The lease of the pool that is granted; it must be on disk before the client hears of it.
    pub lease: Option<Lease>,
}

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// Decides about a packet; `None` is silence. DECLINE, RELEASE and what was granted are noted in the table. Whoever calls itself a
/// relay is answered on the site's own networks, and where the site's list has it.
#[must_use]
pub fn decide(request: &Request, server: Server, table: &BootTable, now: DateTime<Utc>) -> Option<Decision> {
    if !request.giaddr.is_unspecified() && !table.believes_relay(request.giaddr) {
        return None;
    }
    let via = network_of(request, server, table);
    // A client that answers another server's offer means that server alone, whatever it says.
    let chosen = request.address(code::SERVER_ID);
    if chosen.is_some_and(|id| id != server.address && id != server_id(request, server)) {
        return None;
    }
    match request.message {
        MessageType::Discover => {
            let wish = request.address(code::REQUESTED_IP);
            let answer = table.answer(request.mac, via, wish, now)?;
            Some(grant(MessageType::Offer, request, &answer, server))
        }
        MessageType::Request => request_decision(request, via, server, table, now),
        MessageType::Inform => {
            // An answer goes to machines of the site alone, whatever address somebody claims to have.
            table.subnet_of(request.ciaddr)?;
            let answer = table.inform(request.mac, via, request.ciaddr)?;
            let mut decision = grant(MessageType::Ack, request, &answer, server);
            // RFC 2131, 4.3.5: no address and no lease time in the answer to an INFORM.
            decision.reply.yiaddr = Ipv4Addr::UNSPECIFIED;
            let timed = [code::LEASE_TIME, code::RENEWAL, code::REBINDING];
            decision.reply.options.retain(|(code, _)| !timed.contains(code));
            Some(decision)
        }
        MessageType::Decline => {
            if let Some(address) = request.address(code::REQUESTED_IP) {
                table.decline(request.mac, address, now);
            }
            None
        }
        MessageType::Release => {
            table.release(request.mac, request.ciaddr, now);
            None
        }
        MessageType::Offer | MessageType::Ack | MessageType::Nak => None,
    }
}

/// An address of the network the client is on: what the relay or the client selects, else the relay's own.
///
/// Without a relay it is our network, but for a client that has an address already: it renews by unicast, past the
/// relay it once came through, so its address tells the network.
fn network_of(request: &Request, server: Server, table: &BootTable) -> Ipv4Addr {
    let selected = request
        .relayed_address(relay_code::LINK_SELECTION)
        .or_else(|| request.address(code::SUBNET_SELECTION))
        .filter(|address| table.subnet_of(*address).is_some());
    if let Some(selected) = selected {
        return selected;
    }
    if !request.giaddr.is_unspecified() {
        return request.giaddr;
    }
    let has_address = !request.ciaddr.is_unspecified() && table.subnet_of(request.ciaddr).is_some();
    if has_address {
        request.ciaddr
    } else {
        server.address
    }
}

/// What the client is to take for our address.
fn server_id(request: &Request, server: Server) -> Ipv4Addr {
    let overridden = request.relayed_address(relay_code::SERVER_ID_OVERRIDE);
    overridden.unwrap_or(server.address)
}

fn request_decision(
    request: &Request,
    via: Ipv4Addr,
    server: Server,
    table: &BootTable,
    now: DateTime<Utc>,
) -> Option<Decision> {
    let chosen = request.address(code::SERVER_ID);
    let named = request.address(code::REQUESTED_IP).unwrap_or(request.ciaddr);
    // Some name no address at all: they mean the one that was offered to them.
    let wanted = match table.address_of(request.mac) {
        Some(offered) if named.is_unspecified() => offered,
        None if named.is_unspecified() => return None,
        _ => named,
    };
    match table.answer(request.mac, via, Some(wanted), now) {
        Some(answer) if answer.address == wanted => {
            let lease = table.confirm(request.mac, &answer, now);
            let decision = grant(MessageType::Ack, request, &answer, server);
            Some(Decision { lease, ..decision })
        }
        // We are the authority on this network: a wrong address is refused at once, so that the client starts anew.
        Some(_) => Some(refuse(request, server)),
        None if chosen.is_some() => Some(refuse(request, server)),
        None => None,
    }
}

fn grant(message: MessageType, request: &Request, answer: &Answer, server: Server) -> Decision {
    let subnet = &answer.subnet;
    let lease = subnet.lease_seconds;
    let mut options = vec![
        (code::SERVER_ID, server_id(request, server).octets().to_vec()),
        (code::LEASE_TIME, lease.to_be_bytes().to_vec()),
        (code::RENEWAL, (lease / 2).to_be_bytes().to_vec()),
        (code::REBINDING, (lease / 8 * 7).to_be_bytes().to_vec()),
        (code::SUBNET_MASK, subnet.network.netmask().octets().to_vec()),
    ];
    if let Some(gateway) = subnet.gateway {
        options.push((code::ROUTER, gateway.octets().to_vec()));
    }
    if !subnet.dns.is_empty() {
        options.push((code::DNS, subnet.dns.iter().flat_map(Ipv4Addr::octets).collect()));
    }
    let file = boot_file(request, answer, server);
    let boots = ["PXEClient", "HTTPClient"]
        .iter()
        .any(|class| request.vendor_class_starts_with(class));
    let no_program = request
        .architecture()
        .filter(|_| answer.netboot && boots && file.is_none());
    if let Some(file) = &file {
        options.extend(boot_options(request, file, server));
    }
    if request.is_ipxe() {
        options.push((code::IPXE, vec![ipxe_code::NO_PROXY, 1, 1]));
    }
    // RFC 6842: the client identifier is given back; RFC 4578: so is the machine identifier.
    for echoed in [code::CLIENT_ID, code::MACHINE_ID] {
        if let Some(value) = request.option(echoed) {
            options.push((echoed, value.to_vec()));
        }
    }
    if let Some(name) = &answer.hostname {
        options.push((code::HOST_NAME, name.clone().into_bytes()));
    }
    let siaddr = if file.is_some() {
        server.address
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    let reply = Reply {
        message,
        yiaddr: answer.address,
        siaddr,
        file,
        options,
    };
    Decision {
        to: destination(request, &reply),
        reply,
        unknown: answer.unknown,
        no_program,
        lease: None,
    }
}

/// What the client loads next: iPXE for firmware, and for an iPXE that cannot do HTTP; our script for iPXE; nothing for a machine that boots its disk or an
/// operating system that only wants an address.
fn boot_file(request: &Request, answer: &Answer, server: Server) -> Option<String> {
    if !answer.netboot {
        return None;
    }
    let base = format!("http://{}:{}", server.address, server.http_port);
    if request.is_ipxe_with_http() {
        return Some(format!("{base}/boot/{}.ipxe", request.mac.hyphenated()));
    }
    let pxe = request.vendor_class_starts_with("PXEClient");
    match request.architecture()? {
        // RFC 4578 and the IANA registry: 0 BIOS, 7 and 9 EFI x86-64, 16 EFI x86-64 by HTTP.
        0 if pxe => Some("undionly.kpxe".to_owned()),
        7 | 9 if pxe => Some("snponly.efi".to_owned()),
        16 if request.vendor_class_starts_with("HTTPClient") => Some(format!("{base}/ipxe/snponly.efi")),
        _ => None,
    }
}

fn boot_options(request: &Request, file: &str, server: Server) -> Vec<(u8, Vec<u8>)> {
    let mut options = vec![(code::BOOT_FILE, file.as_bytes().to_vec())];
    if request.is_ipxe_with_http() {
        return options;
    }
    if request.vendor_class_starts_with("HTTPClient") {
        options.push((code::VENDOR_CLASS, b"HTTPClient".to_vec()));
    } else {
        options.push((code::VENDOR_CLASS, b"PXEClient".to_vec()));
        options.push((code::TFTP_SERVER, server.address.to_string().into_bytes()));
        // PXE 2.1, sub-option 6 = 8: load the boot file named here, look for no boot server.
        options.push((code::VENDOR, vec![6, 1, 8, 255]));
    }
    options
}

fn refuse(request: &Request, server: Server) -> Decision {
    let mut options = vec![
        (code::SERVER_ID, server_id(request, server).octets().to_vec()),
        (code::MESSAGE, b"this address is not yours here".to_vec()),
    ];
    // RFC 6842 wants it in every answer.
    if let Some(id) = request.option(code::CLIENT_ID) {
        options.push((code::CLIENT_ID, id.to_vec()));
    }
    let reply = Reply {
        message: MessageType::Nak,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        siaddr: Ipv4Addr::UNSPECIFIED,
        file: None,
        options,
    };
    Decision {
        to: destination(request, &reply),
        reply,
        unknown: false,
        no_program: None,
        lease: None,
    }
}

/// RFC 2131, 4.1: to the relay; else to the address the client has; else to all. A client that has no address yet and
/// does not ask for a broadcast gets one all the same: unicast to it would need an ARP entry made by hand.
fn destination(request: &Request, reply: &Reply) -> SocketAddrV4 {
    if !request.giaddr.is_unspecified() {
        return SocketAddrV4::new(request.giaddr, SERVER_PORT);
    }
    // The address that it says it has is believed where it is the one that it is granted, or of a network of ours.
    let own =
        [reply.yiaddr, Ipv4Addr::UNSPECIFIED].contains(&request.ciaddr) || reply.yiaddr.is_unspecified();
    let has_address = !request.ciaddr.is_unspecified() && own && reply.message != MessageType::Nak;
    let to = if has_address && !request.wants_broadcast() {
        request.ciaddr
    } else {
        Ipv4Addr::BROADCAST
    };
    SocketAddrV4::new(to, CLIENT_PORT)
}
