//! Bytes of RMCP, the IPMI session wrapper and the IPMI LAN message (IPMI 2.0 sections 13.1, 13.6, 13.8), for
//! both sides. Pure: it never holds keys, sockets or time, and never panics on what it is given.

/// RMCP header of every IPMI packet: version 1.0, no RMCP acknowledge, class IPMI (section 13.1.3).
pub const RMCP_HEADER: [u8; 4] = [0x06, 0x00, 0xff, 0x07];
/// "Authentication type" byte that marks an RMCP+ (IPMI 2.0) session header.
pub const AUTH_RMCP_PLUS: u8 = 0x06;
/// "Next header" byte of the session trailer: always 0x07 (section 13.6).
pub const NEXT_HEADER: u8 = 0x07;
/// Address of the BMC on the IPMB.
const BMC_ADDRESS: u8 = 0x20;
/// Software id of a remote console.
const CONSOLE_ADDRESS: u8 = 0x81;

/// Why a datagram is not a packet this product can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends before its own structure does.
    #[error("packet too short")]
    Short,
    /// Not RMCP of class IPMI.
    #[error("not an IPMI packet")]
    NotIpmi,
    /// An authentication type of IPMI 1.5 other than "none", or OEM.
    #[error("unsupported session format")]
    Format,
    /// A checksum of the IPMI message does not match.
    #[error("bad checksum")]
    Checksum,
    /// The authentication code does not match.
    #[error("bad authentication code")]
    Integrity,
    /// Encrypted part of a wrong length or with a wrong padding.
    #[error("bad encryption padding")]
    Padding,
    /// Protection does not match what the session agreed on.
    #[error("packet protection is not what the session agreed on")]
    Unprotected,
}

/// RMCP+ payload types (table 13-16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadType {
    /// An IPMI request or response.
    Message,
    /// RMCP+ Open Session Request.
    OpenRequest,
    /// RMCP+ Open Session Response.
    OpenResponse,
    /// RAKP message 1 to 4.
    Rakp(u8),
}

impl PayloadType {
    /// The six-bit number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Message => 0x00,
            Self::OpenRequest => 0x10,
            Self::OpenResponse => 0x11,
            Self::Rakp(n) => 0x11 + n,
        }
    }

    /// From the six-bit number; `None` for the ones not used here (SOL, OEM).
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0x00 => Some(Self::Message),
            0x10 => Some(Self::OpenRequest),
            0x11 => Some(Self::OpenResponse),
            0x12..=0x15 => Some(Self::Rakp(number - 0x11)),
            _ => None,
        }
    }
}

/// A parsed datagram; the payload is still as protected as it came.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// IPMI 1.5 format outside a session: an IPMI message in clear.
    Sessionless(&'a [u8]),
    /// IPMI 2.0 format.
    Plus(PlusFrame<'a>),
}

/// An RMCP+ packet.
#[derive(Debug, PartialEq, Eq)]
pub struct PlusFrame<'a> {
    /// What the payload is.
    pub payload_type: PayloadType,
    /// The payload is encrypted.
    pub encrypted: bool,
    /// The packet has a trailer with an authentication code.
    pub authenticated: bool,
    /// The receiver's session id; 0 outside a session.
    pub session_id: u32,
    /// Session sequence number; 0 outside a session.
    pub sequence: u32,
    /// The payload as sent.
    pub payload: &'a [u8],
    /// From the authentication type to the end of the datagram: what the authentication code covers, and itself.
    pub session: &'a [u8],
}

/// Parses one datagram.
pub fn parse(datagram: &[u8]) -> Result<Frame<'_>, WireError> {
    // The second byte is reserved and the third a sequence number that IPMI does not use (section 13.1.3); some fill them.
    let [version, _, _, class, session @ ..] = datagram else {
        return Err(WireError::Short);
    };
    if *version != RMCP_HEADER[0] || *class != RMCP_HEADER[3] {
        return Err(WireError::NotIpmi);
    }
    match session.first().copied().ok_or(WireError::Short)? {
        AUTH_RMCP_PLUS => parse_plus(session),
        0x00 => {
            let length = usize::from(*session.get(9).ok_or(WireError::Short)?);
            Ok(Frame::Sessionless(
                session.get(10..10 + length).ok_or(WireError::Short)?,
            ))
        }
        _ => Err(WireError::Format),
    }
}

fn parse_plus(session: &[u8]) -> Result<Frame<'_>, WireError> {
    let kind = *session.get(1).ok_or(WireError::Short)?;
    let payload_type = PayloadType::from_number(kind & 0x3f).ok_or(WireError::Format)?;
    let length = usize::from(u16::from_le_bytes(take(session, 10)?));
    Ok(Frame::Plus(PlusFrame {
        payload_type,
        encrypted: kind & 0x80 != 0,
        authenticated: kind & 0x40 != 0,
        session_id: u32::from_le_bytes(take(session, 2)?),
        sequence: u32::from_le_bytes(take(session, 6)?),
        payload: session.get(12..12 + length).ok_or(WireError::Short)?,
        session,
    }))
}

/// `N` bytes of `bytes` from `at`.
pub fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], WireError> {
    bytes
        .get(at..at + N)
        .and_then(|slice| slice.try_into().ok())
        .ok_or(WireError::Short)
}

/// A packet in IPMI 1.5 format outside a session, without authentication. `message` is at most 255 bytes.
pub fn sessionless(message: &[u8]) -> Vec<u8> {
    let mut packet = RMCP_HEADER.to_vec();
    packet.extend_from_slice(&[0; 9]);
    packet.push(u8::try_from(message.len()).unwrap_or(u8::MAX));
    packet.extend_from_slice(message);
    packet
}

/// An RMCP+ packet outside a session (Open Session and RAKP).
pub fn setup(payload_type: PayloadType, payload: &[u8]) -> Vec<u8> {
    let mut packet = RMCP_HEADER.to_vec();
    packet.extend_from_slice(&session_header(payload_type.number(), 0, 0, payload.len()));
    packet.extend_from_slice(payload);
    packet
}

/// The RMCP+ session header; `kind` is the payload type with the encrypted and authenticated bits.
pub fn session_header(kind: u8, session_id: u32, sequence: u32, payload_length: usize) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = AUTH_RMCP_PLUS;
    header[1] = kind;
    header[2..6].copy_from_slice(&session_id.to_le_bytes());
    header[6..10].copy_from_slice(&sequence.to_le_bytes());
    header[10..12].copy_from_slice(&u16::try_from(payload_length).unwrap_or(u16::MAX).to_le_bytes());
    header
}

/// An IPMI request message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Network function (even).
    pub netfn: u8,
    /// Command number.
    pub command: u8,
    /// Requester's sequence, 0..=63; the answer carries the same.
    pub sequence: u8,
    /// Command data.
    pub data: Vec<u8>,
}

/// An IPMI response message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Network function of the response (odd).
    pub netfn: u8,
    /// Command number.
    pub command: u8,
    /// Sequence of the request this answers.
    pub sequence: u8,
    /// Completion code, 0 = done.
    pub completion: u8,
    /// Response data after the completion code.
    pub data: Vec<u8>,
}

impl Request {
    /// The message's bytes, from a remote console to the BMC.
    pub fn encode(&self) -> Vec<u8> {
        message(
            [BMC_ADDRESS, self.netfn << 2],
            [CONSOLE_ADDRESS, self.sequence << 2, self.command],
            &self.data,
        )
    }

    /// Reads a request; checks both checksums.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let (head, data) = checked(bytes, 6)?;
        Ok(Self {
            netfn: head[1] >> 2,
            command: head[5],
            sequence: head[4] >> 2,
            data: data.to_vec(),
        })
    }
}

impl Response {
    /// The message's bytes, from the BMC to a remote console.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = vec![self.completion];
        data.extend_from_slice(&self.data);
        message(
            [CONSOLE_ADDRESS, self.netfn << 2],
            [BMC_ADDRESS, self.sequence << 2, self.command],
            &data,
        )
    }

    /// Reads a response whose authentication code was right, which says more than the checksums that some BMCs get wrong.
    pub fn authentic(bytes: &[u8]) -> Result<Self, WireError> {
        let [_, netfn, _, _, sequence, command, completion, rest @ ..] = bytes else {
            return Err(WireError::Short);
        };
        let (_checksum, data) = rest.split_last().ok_or(WireError::Short)?;
        Ok(Self {
            netfn: netfn >> 2,
            command: *command,
            sequence: sequence >> 2,
            completion: *completion,
            data: data.to_vec(),
        })
    }

    /// Reads a response; checks both checksums.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let (head, data) = checked(bytes, 7)?;
        Ok(Self {
            netfn: head[1] >> 2,
            command: head[5],
            sequence: head[4] >> 2,
            completion: head[6],
            data: data.to_vec(),
        })
    }
}

fn message(first: [u8; 2], second: [u8; 3], data: &[u8]) -> Vec<u8> {
    let mut bytes = first.to_vec();
    bytes.push(checksum(&first));
    bytes.extend_from_slice(&second);
    bytes.extend_from_slice(data);
    bytes.push(checksum(&bytes[3..]));
    bytes
}

/// Splits a message into `head` bytes and the data between head and last checksum, after checking both.
fn checked(bytes: &[u8], head: usize) -> Result<(&[u8], &[u8]), WireError> {
    if bytes.len() < head + 1 {
        return Err(WireError::Short);
    }
    let (body, last) = bytes.split_at(bytes.len() - 1);
    if checksum(&body[..2]) != body[2] || checksum(&body[3..]) != last[0] {
        return Err(WireError::Checksum);
    }
    Ok(body.split_at(head))
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_back_and_a_flipped_bit_is_found() {
        let request = Request {
            netfn: 0x06,
            command: 0x01,
            sequence: 5,
            data: vec![1, 2, 3],
        };
        let bytes = request.encode();
        assert_eq!(bytes, [0x20, 0x18, 0xc8, 0x81, 0x14, 0x01, 1, 2, 3, 0x64]);
        assert_eq!(Request::parse(&bytes), Ok(request));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert_eq!(Request::parse(&bad), Err(WireError::Checksum), "byte {at}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let packet = setup(PayloadType::OpenRequest, &[7; 32]);
        for length in 0..packet.len() {
            assert!(parse(&packet[..length]).is_err(), "{length} bytes");
        }
        assert!(matches!(parse(&packet), Ok(Frame::Plus(f)) if f.payload == [7; 32]));
        assert_eq!(parse(&sessionless(&[1, 2])), Ok(Frame::Sessionless(&[1, 2])));
    }
}
