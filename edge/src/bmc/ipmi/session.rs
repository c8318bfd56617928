//! One RMCP+ session over UDP: opens it, keeps its sequence numbers, repeats what was lost, closes it.
//!
//! A request is repeated with the same IPMI sequence and a new session sequence number, so that a BMC accepts
//! the packet and can still see that the command is the same. It never decides whether a command is repeated
//! after an answer: that is [`super::IpmiBmc`]'s work.

use std::net::SocketAddr;
use std::time::Duration;

use ring::rand::SystemRandom;
use tokio::net::UdpSocket;

use super::super::BmcError;
use super::chassis::{CLOSE_SESSION, Command, SET_PRIVILEGE};
use super::crypto::{SessionKeys, Suite};
use super::link::{Heard, Link, NAME_ONLY};
use super::rakp::{Exchange, Privilege};
use super::wire::{Frame, Request, Response, parse};

/// User and password. Has no `Debug`, so that it cannot be logged.
#[derive(Clone)]
pub struct Credentials {
    /// User name, at most 16 bytes.
    pub user: String,
    /// What may be the password, at most 20 bytes each. The first that the BMC proves to know is used; no other is ever sent
    /// in any form, so that none counts as a failed login.
    pub passwords: Vec<String>,
}

impl Credentials {
    /// A user whose password is known.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            passwords: vec![password.into()],
        }
    }
}

/// How long to wait and how often to repeat.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Wait for the first answer; each repetition waits half as long again.
    pub first_wait: Duration,
    /// Packets sent for one request before giving up.
    pub tries: u32,
    /// Pause before a command is sent again after "busy".
    pub busy_pause: Duration,
    /// How often a busy command is sent again.
    pub busy_tries: u32,
    /// How long a BMC that has no free session, or that has fallen silent, is asked again: as long as it takes to forget the
    /// sessions of others (IPMI 2.0, 6.12.15: 60 s without a packet).
    pub idle: Duration,
    /// Pause between those tries.
    pub idle_pause: Duration,
}

/// What a session is opened by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The cipher suite.
    pub suite: Suite,
    /// The privilege asked for.
    pub privilege: Privilege,
}

impl Offer {
    /// The best there is.
    pub const BEST: Self = Self {
        suite: Suite::Seventeen,
        privilege: Privilege::Administrator,
    };

    /// For people.
    pub(super) fn words(self) -> String {
        let suite = self.suite.id();
        match self.privilege {
            Privilege::Administrator => format!("cipher suite {suite}"),
            lesser => format!("cipher suite {suite}, privilege {}", lesser.word()),
        }
    }

    /// What to offer after a failure: suite 3 to a BMC that refuses suite 17 or says nothing to it, `OPERATOR` to one whose user may
    /// not be more; none if nothing else is left to try. Pure.
    #[must_use]
    pub fn after(self, error: &BmcError) -> Option<Self> {
        match error {
            BmcError::SuitesRefused { .. } | BmcError::Malformed { .. } | BmcError::Timeout { .. }
                if self.suite == Suite::Seventeen =>
            {
                Some(Self {
                    suite: Suite::Three,
                    ..self
                })
            }
            BmcError::Privilege { .. } if self.privilege == Privilege::Administrator => Some(Self {
                privilege: Privilege::Operator,
                ..self
            }),
            _ => None,
        }
    }
}

impl Default for Timing {
    /// 0.7 s, 5 packets (9 s in all); busy: 6 times every 0.5 s; out of sessions: every 5 s for 65 s.
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(700),
            tries: 5,
            busy_pause: Duration::from_millis(500),
            busy_tries: 6,
            idle: Duration::from_secs(65),
            idle_pause: Duration::from_secs(5),
        }
    }
}

/// An open session.
pub struct Session {
    link: Link,
    keys: SessionKeys,
    privilege: Privilege,
    password: String,
    system_id: u32,
    console_id: u32,
    sent: u32,
    heard: u32,
    message: u8,
    closed: bool,
}

impl Session {
    /// Opens a session as offered at `address` and raises it to that privilege. `bmc` is the name for errors.
    ///
    /// # Errors
    /// [`BmcError::SuitesRefused`] when this suite is not offered, [`BmcError::Credentials`],
    /// [`BmcError::Privilege`], [`BmcError::NoFreeSession`], and what the network does.
    pub async fn open(
        address: SocketAddr,
        bmc: &str,
        credentials: &Credentials,
        (offer, timing): (Offer, Timing),
    ) -> Result<Self, BmcError> {
        let too_long = |password: &String| password.len() > 20;
        if credentials.user.len() > 16 || credentials.passwords.iter().any(too_long) {
            let reason = "user name over 16 or password over 20 bytes";
            return Err(BmcError::Credentials {
                bmc: bmc.to_owned(),
                reason,
            });
        }
        let local: SocketAddr = if address.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let network = |source| BmcError::Network {
            bmc: bmc.to_owned(),
            source,
        };
        let socket = UdpSocket::bind(local).await.map_err(network)?;
        socket.connect(address).await.map_err(network)?;
        let mut link = Link {
            socket,
            bmc: bmc.to_owned(),
            timing,
            random: SystemRandom::new(),
            heard: false,
        };
        let (console_id, system_id) = link.open_session(offer.suite, offer.privilege).await?;
        let blank = Exchange {
            suite: offer.suite,
            console_id,
            system_id,
            console_random: link.bytes()?,
            system_random: [0; 16],
            guid: [0; 16],
            role: NAME_ONLY | offer.privilege as u8,
            user: credentials.user.as_bytes().to_vec(),
            password: Vec::new(),
        };
        let (exchange, password) = link.greet(blank, credentials).await?;
        link.prove(&exchange).await?;
        let mut session = Self {
            link,
            keys: exchange.keys(),
            privilege: offer.privilege,
            password: password.to_owned(),
            system_id: exchange.system_id,
            console_id: exchange.console_id,
            sent: 0,
            heard: 0,
            message: 0,
            closed: false,
        };
        session.raise().await?;
        Ok(session)
    }

    /// What it was opened by.
    pub fn offer(&self) -> Offer {
        Offer {
            suite: self.keys.suite(),
            privilege: self.privilege,
        }
    }

    /// The password it was opened with.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    async fn raise(&mut self) -> Result<(), BmcError> {
        let (completion, _) = self.request(SET_PRIVILEGE, &[self.privilege as u8]).await?;
        match completion {
            0 => Ok(()),
            // 0x80/0x81: not available for this user or above its limit; 0xD4: insufficient privilege
            0x80 | 0x81 | 0xd4 => Err(BmcError::Privilege {
                bmc: self.link.bmc.clone(),
                operation: SET_PRIVILEGE.name,
            }),
            0xc0 | 0xc3 => Err(BmcError::Busy {
                bmc: self.link.bmc.clone(),
                operation: SET_PRIVILEGE.name,
            }),
            _ => Err(BmcError::Completion {
                bmc: self.link.bmc.clone(),
                operation: SET_PRIVILEGE.name,
                completion,
            }),
        }
    }

    /// Sends one command; gives completion code and data. Repeats the packet when nothing comes back.
    ///
    /// # Errors
    /// [`BmcError::Timeout`] or [`BmcError::Network`]; after either the session may be dead on the other side.
    pub async fn request(&mut self, command: Command, data: &[u8]) -> Result<(u8, Vec<u8>), BmcError> {
        self.message = (self.message + 1) & 0x3f;
        let request = Request {
            netfn: command.netfn,
            command: command.number,
            sequence: self.message,
            data: data.into(),
        };
        let bytes = request.encode();
        let Self {
            link,
            keys,
            system_id,
            console_id,
            sent,
            heard,
            ..
        } = self;
        link.exchange(
            command.name,
            |link| {
                *sent = sent.wrapping_add(1).max(1); // 0 means "outside a session"
                Ok(keys.seal(*system_id, *sent, &bytes, link.bytes()?))
            },
            |datagram| match accept(datagram, keys, *console_id, heard) {
                Heard::Answer(response)
                    if response.sequence == request.sequence && response.command == request.command =>
                {
                    Heard::Answer((response.completion, response.data))
                }
                Heard::Spoilt => Heard::Spoilt,
                Heard::Answer(_) | Heard::Other => Heard::Other,
            },
        )
        .await
    }

    /// Closes the session; waits for the BMC's word only as long as one packet.
    pub async fn close(mut self) {
        self.link.timing.tries = 1;
        let id = self.system_id.to_le_bytes();
        self.closed = self.request(CLOSE_SESSION, &id).await.is_ok();
    }
}

impl Drop for Session {
    /// A session dropped without [`Session::close`] (a cancelled task) still tells the BMC, without waiting.
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let data = self.system_id.to_le_bytes().to_vec();
        let request = Request {
            netfn: CLOSE_SESSION.netfn,
            command: CLOSE_SESSION.number,
            sequence: 0,
            data,
        };
        if let Ok(iv) = self.link.bytes() {
            let packet = self.keys.seal(
                self.system_id,
                self.sent.wrapping_add(1).max(1),
                &request.encode(),
                iv,
            );
            // nothing can be done about a failure here: the BMC's idle timeout ends the session
            self.link.socket.try_send(&packet).ok();
        }
    }
}

/// The response in `datagram` if it is genuine, for this session and not older than the window of 16.
fn accept(datagram: &[u8], keys: &SessionKeys, console_id: u32, heard: &mut u32) -> Heard<Response> {
    let Ok(Frame::Plus(frame)) = parse(datagram) else {
        return Heard::Other;
    };
    if frame.session_id != console_id {
        return Heard::Other;
    }
    let Ok(message) = keys.open(&frame) else {
        return Heard::Other;
    };
    if frame.sequence < heard.saturating_sub(16) {
        return Heard::Other;
    }
    *heard = (*heard).max(frame.sequence);
    match Response::authentic(&message) {
        Ok(response) => Heard::Answer(response),
        Err(_) => Heard::Spoilt,
    }
}
