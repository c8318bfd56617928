//! Opening of an RMCP+ session: Open Session and the RAKP messages 1 to 4 with their authentication codes
//! (IPMI 2.0 sections 13.17 to 13.24, 13.31). Pure, for both sides; nonces are arguments.

use super::crypto::{SessionKeys, Suite};
use super::wire::{WireError, take};

/// Privilege level of a session (section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// May log in.
    Callback = 1,
    /// May read.
    User = 2,
    /// May control power and boot.
    Operator = 3,
    /// May configure.
    Administrator = 4,
}

impl Privilege {
    /// As people know it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Callback => "CALLBACK",
            Self::User => "USER",
            Self::Operator => "OPERATOR",
            Self::Administrator => "ADMINISTRATOR",
        }
    }

    /// From the low four bits of a byte on the wire.
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0x0f {
            1 => Some(Self::Callback),
            2 => Some(Self::User),
            3 => Some(Self::Operator),
            4 => Some(Self::Administrator),
            _ => None,
        }
    }
}

/// RMCP+ status codes used here (table 13-15).
pub mod status {
    /// No errors.
    pub const OK: u8 = 0x00;
    /// Insufficient resources to create a session.
    pub const NO_RESOURCES: u8 = 0x01;
    /// Invalid session id.
    pub const INVALID_SESSION: u8 = 0x02;
    /// Invalid authentication algorithm.
    pub const INVALID_AUTHENTICATION: u8 = 0x04;
    /// Invalid integrity algorithm.
    pub const INVALID_INTEGRITY: u8 = 0x05;
    /// Inactive session id.
    pub const INACTIVE_SESSION: u8 = 0x08;
    /// Invalid role.
    pub const INVALID_ROLE: u8 = 0x09;
    /// Unauthorised role or privilege level requested.
    pub const UNAUTHORISED_ROLE: u8 = 0x0a;
    /// Unauthorised name.
    pub const UNAUTHORISED_NAME: u8 = 0x0d;
    /// Invalid integrity check value.
    pub const INVALID_CHECK: u8 = 0x0f;
    /// Invalid confidentiality algorithm.
    pub const INVALID_CONFIDENTIALITY: u8 = 0x10;
    /// No cipher suite match.
    pub const NO_SUITE: u8 = 0x11;
}

/// RMCP+ Open Session Request (table 13-9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRequest {
    /// Chosen by the console; comes back in the response.
    pub tag: u8,
    /// Highest privilege wanted; 0 = the highest that goes.
    pub privilege: u8,
    /// Session id that the BMC shall use towards the console.
    pub console_id: u32,
    /// Authentication, integrity and confidentiality algorithm.
    pub algorithms: [u8; 3],
}

impl OpenRequest {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.tag, self.privilege, 0, 0];
        bytes.extend_from_slice(&self.console_id.to_le_bytes());
        bytes.extend_from_slice(&algorithm_records(self.algorithms));
        bytes
    }

    /// Reads the payload.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let [tag, privilege] = take(bytes, 0)?;
        let algorithms = parse_algorithms(bytes, 8)?;
        Ok(Self {
            tag,
            privilege,
            console_id: u32::from_le_bytes(take(bytes, 4)?),
            algorithms,
        })
    }
}

/// RMCP+ Open Session Response (table 13-10). After an error only tag, status and console id mean anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenResponse {
    /// Tag of the request.
    pub tag: u8,
    /// RMCP+ status code.
    pub status: u8,
    /// Session id of the console.
    pub console_id: u32,
    /// Session id that the console shall use towards the BMC.
    pub system_id: u32,
    /// The algorithms agreed on.
    pub algorithms: [u8; 3],
}

impl OpenResponse {
    /// The payload's bytes; short when the status is not 0.
    pub fn encode(&self, privilege: u8) -> Vec<u8> {
        let mut bytes = vec![self.tag, self.status, privilege, 0];
        bytes.extend_from_slice(&self.console_id.to_le_bytes());
        if self.status == status::OK {
            bytes.extend_from_slice(&self.system_id.to_le_bytes());
            bytes.extend_from_slice(&algorithm_records(self.algorithms));
        }
        bytes
    }

    /// Reads the payload.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let [tag, status] = take(bytes, 0)?;
        if status != status::OK {
            return Ok(Self {
                tag,
                status,
                console_id: 0,
                system_id: 0,
                algorithms: [0; 3],
            });
        }
        Ok(Self {
            tag,
            status,
            console_id: u32::from_le_bytes(take(bytes, 4)?),
            system_id: u32::from_le_bytes(take(bytes, 8)?),
            algorithms: parse_algorithms(bytes, 12)?,
        })
    }
}

fn algorithm_records(numbers: [u8; 3]) -> [u8; 24] {
    let [authentication, integrity, confidentiality] = numbers;
    let mut records = [0; 24];
    for (at, kind, number) in [
        (0, 0, authentication),
        (8, 1, integrity),
        (16, 2, confidentiality),
    ] {
        records[at] = kind;
        records[at + 3] = 8;
        records[at + 4] = number;
    }
    records
}

fn parse_algorithms(bytes: &[u8], at: usize) -> Result<[u8; 3], WireError> {
    let records: [u8; 24] = take(bytes, at)?;
    Ok([records[4] & 0x3f, records[12] & 0x3f, records[20] & 0x3f])
}

/// RAKP message 1 (table 13-11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rakp1 {
    /// Comes back in RAKP 2.
    pub tag: u8,
    /// The BMC's session id.
    pub system_id: u32,
    /// The console's random number.
    pub console_random: [u8; 16],
    /// Requested privilege, with bit 4 = look the user up by name only.
    pub role: u8,
    /// User name, at most 16 bytes.
    pub user: Vec<u8>,
}

impl Rakp1 {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.tag, 0, 0, 0];
        bytes.extend_from_slice(&self.system_id.to_le_bytes());
        bytes.extend_from_slice(&self.console_random);
        bytes.extend_from_slice(&[self.role, 0, 0, self.user.len() as u8]);
        bytes.extend_from_slice(&self.user);
        bytes
    }

    /// Reads the payload.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let [tag] = take(bytes, 0)?;
        let [role, _, _, length] = take(bytes, 24)?;
        let length = usize::from(length);
        if length > 16 {
            return Err(WireError::Format);
        }
        Ok(Self {
            tag,
            system_id: u32::from_le_bytes(take(bytes, 4)?),
            console_random: take(bytes, 8)?,
            role,
            user: bytes.get(28..28 + length).ok_or(WireError::Short)?.to_vec(),
        })
    }
}

/// RAKP messages 2, 3 and 4: tag, status, session id of the receiver, then a body that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RakpReply {
    /// Tag of this exchange.
    pub tag: u8,
    /// RMCP+ status code.
    pub status: u8,
    /// Session id of the receiver.
    pub session_id: u32,
    /// RAKP 2: random (16), GUID (16), code. RAKP 3 and 4: code. Empty after an error.
    pub body: Vec<u8>,
}

impl RakpReply {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.tag, self.status, 0, 0];
        bytes.extend_from_slice(&self.session_id.to_le_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Reads the payload.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let [tag, status] = take(bytes, 0)?;
        let session_id = match take(bytes, 4) {
            Ok(id) => u32::from_le_bytes(id),
            // A refusal says all that it says in its status; some end there.
            Err(_) if status != status::OK => 0,
            Err(short) => return Err(short),
        };
        Ok(Self {
            tag,
            status,
            session_id,
            body: bytes.get(8..).unwrap_or_default().to_vec(),
        })
    }
}

/// Everything both sides know after RAKP 2; makes and checks the authentication codes. Has no `Debug`.
#[derive(Clone)]
pub struct Exchange {
    /// Cipher suite agreed on.
    pub suite: Suite,
    /// Session id of the console.
    pub console_id: u32,
    /// Session id of the BMC.
    pub system_id: u32,
    /// Random number of the console.
    pub console_random: [u8; 16],
    /// Random number of the BMC.
    pub system_random: [u8; 16],
    /// GUID of the BMC.
    pub guid: [u8; 16],
    /// Role byte of RAKP 1.
    pub role: u8,
    /// User name.
    pub user: Vec<u8>,
    /// The user's key: the password (at most 20 bytes).
    pub password: Vec<u8>,
}

impl Exchange {
    fn name(&self) -> Vec<u8> {
        let mut name = vec![self.role, self.user.len() as u8];
        name.extend_from_slice(&self.user);
        name
    }

    /// Code of RAKP 2: proves that the BMC knows the password.
    pub fn code2(&self) -> Vec<u8> {
        let (console, system) = (self.console_id.to_le_bytes(), self.system_id.to_le_bytes());
        let parts: [&[u8]; 6] = [
            &console,
            &system,
            &self.console_random,
            &self.system_random,
            &self.guid,
            &self.name(),
        ];
        self.suite.hmac(&self.password, &parts)
    }

    /// Code of RAKP 3: proves that the console knows the password.
    pub fn code3(&self) -> Vec<u8> {
        let console = self.console_id.to_le_bytes();
        self.suite
            .hmac(&self.password, &[&self.system_random, &console, &self.name()])
    }

    /// Session integrity key; no separate BMC key (Kg) is supported, so the password takes its place.
    fn sik(&self) -> Vec<u8> {
        self.suite.hmac(
            &self.password,
            &[&self.console_random, &self.system_random, &self.name()],
        )
    }

    /// Code of RAKP 4: proves that the BMC derived the same keys.
    pub fn code4(&self) -> Vec<u8> {
        let system = self.system_id.to_le_bytes();
        let mut code = self
            .suite
            .hmac(&self.sik(), &[&self.console_random, &system, &self.guid]);
        code.truncate(self.suite.code_length());
        code
    }

    /// The keys of the session.
    pub fn keys(&self) -> SessionKeys {
        SessionKeys::derive(self.suite, &self.sik())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back_and_every_truncation_is_refused() {
        let open = OpenRequest {
            tag: 1,
            privilege: 4,
            console_id: 7,
            algorithms: [3, 4, 1],
        };
        assert_eq!(OpenRequest::parse(&open.encode()), Ok(open.clone()));
        let answer = OpenResponse {
            tag: 1,
            status: 0,
            console_id: 7,
            system_id: 8,
            algorithms: [3, 4, 1],
        };
        assert_eq!(OpenResponse::parse(&answer.encode(4)), Ok(answer.clone()));
        let first = Rakp1 {
            tag: 2,
            system_id: 8,
            console_random: [5; 16],
            role: 0x14,
            user: b"admin".to_vec(),
        };
        assert_eq!(Rakp1::parse(&first.encode()), Ok(first.clone()));
        for cut in 0..first.encode().len() {
            assert!(Rakp1::parse(&first.encode()[..cut]).is_err());
        }
        for cut in 0..open.encode().len() {
            assert!(OpenRequest::parse(&open.encode()[..cut]).is_err());
            assert!(OpenResponse::parse(&answer.encode(4)[..cut]).is_err());
        }
    }

    #[test]
    fn a_name_longer_than_sixteen_bytes_is_refused() {
        let mut bytes = Rakp1 {
            tag: 2,
            system_id: 8,
            console_random: [5; 16],
            role: 0x14,
            user: vec![b'x'; 16],
        }
        .encode();
        bytes[27] = 17;
        bytes.push(b'x');
        assert_eq!(Rakp1::parse(&bytes), Err(WireError::Format));
    }
}
