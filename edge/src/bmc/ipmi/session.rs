//! One RMCP+ session over UDP: opens it, keeps its sequence numbers, repeats what was lost, closes it.
//!
//! A request is repeated with the same IPMI sequence and a new session sequence number, so that a BMC accepts
//! the packet and can still see that the command is the same. It never decides whether a command is repeated
//! after an answer: that is [`super::IpmiBmc`]'s work.

use std::net::SocketAddr;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::super::BmcError;
use super::chassis::{CLOSE_SESSION, Command, SET_PRIVILEGE};
use super::crypto::{SessionKeys, Suite, equal};
use super::rakp::{Exchange, OpenRequest, OpenResponse, Privilege, Rakp1, RakpReply, status};
use super::wire::{Frame, PayloadType, Request, Response, WireError, parse, setup, take};

/// Bit of the role byte: look the user up by name alone.
const NAME_ONLY: u8 = 0x10;

/// User and password. Has no `Debug`, so that it cannot be logged.
#[derive(Clone)]
pub struct Credentials {
    /// User name, at most 16 bytes.
    pub user: String,
    /// Password, at most 20 bytes.
    pub password: String,
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
}

impl Default for Timing {
    /// 0.7 s, 5 packets (9 s in all); busy: 6 times every 0.5 s.
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(700),
            tries: 5,
            busy_pause: Duration::from_millis(500),
            busy_tries: 6,
        }
    }
}

/// An open session with privilege ADMINISTRATOR.
pub struct Session {
    link: Link,
    keys: SessionKeys,
    system_id: u32,
    console_id: u32,
    sent: u32,
    heard: u32,
    message: u8,
    closed: bool,
}

/// The socket and what is needed to speak of it in errors.
struct Link {
    socket: UdpSocket,
    bmc: String,
    timing: Timing,
    random: SystemRandom,
}

impl Link {
    fn network(&self, source: std::io::Error) -> BmcError {
        BmcError::Network {
            bmc: self.bmc.clone(),
            source,
        }
    }

    fn malformed(&self, operation: &'static str, detail: &'static str) -> BmcError {
        BmcError::Malformed {
            bmc: self.bmc.clone(),
            operation,
            detail,
        }
    }

    fn bytes<const N: usize>(&self) -> Result<[u8; N], BmcError> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).map_err(|_| BmcError::Random {
            bmc: self.bmc.clone(),
        })?;
        Ok(bytes)
    }

    /// Sends what `packet` makes (anew for each try) until `accept` takes an answer. What `accept` does not
    /// take (late, foreign or forged packets) is skipped without ending the wait.
    async fn exchange<T>(
        &self,
        operation: &'static str,
        mut packet: impl FnMut() -> Result<Vec<u8>, BmcError>,
        mut accept: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<T, BmcError> {
        let mut wait = self.timing.first_wait;
        let mut refused = None;
        for _ in 0..self.timing.tries {
            let deadline = Instant::now() + wait;
            if let Err(error) = self.socket.send(&packet()?).await {
                refused = Some(error);
            }
            let mut buffer = [0; 1024];
            while let Ok(received) = timeout_at(deadline, self.socket.recv(&mut buffer)).await {
                match received {
                    Ok(length) => {
                        if let Some(answer) = accept(&buffer[..length]) {
                            return Ok(answer);
                        }
                    }
                    // "port unreachable": the BMC may be restarting, so the next try waits its turn
                    Err(error) => {
                        refused = Some(error);
                        tokio::time::sleep_until(deadline).await;
                    }
                }
            }
            wait = wait * 3 / 2;
        }
        Err(match refused {
            Some(error) => self.network(error),
            None => BmcError::Timeout {
                bmc: self.bmc.clone(),
                operation,
            },
        })
    }

    /// One step of the session set-up: `payload` out, the payload of type `answer` with the same tag in.
    async fn step(
        &self,
        operation: &'static str,
        (kind, payload): (PayloadType, Vec<u8>),
        answer: PayloadType,
    ) -> Result<Vec<u8>, BmcError> {
        let tag = payload.first().copied();
        let packet = setup(kind, &payload);
        self.exchange(
            operation,
            || Ok(packet.clone()),
            |datagram| match parse(datagram) {
                Ok(Frame::Plus(f)) if f.payload_type == answer && f.payload.first().copied() == tag => {
                    Some(f.payload.to_vec())
                }
                _ => None,
            },
        )
        .await
    }

    fn refused(&self, status_code: u8, operation: &'static str) -> BmcError {
        let bmc = self.bmc.clone();
        match status_code {
            status::NO_RESOURCES => BmcError::NoFreeSession { bmc },
            status::INVALID_AUTHENTICATION
            | status::INVALID_INTEGRITY
            | status::INVALID_CONFIDENTIALITY
            | status::NO_SUITE => BmcError::SuitesRefused { bmc },
            status::INVALID_ROLE | status::UNAUTHORISED_ROLE => BmcError::Privilege { bmc, operation },
            status::UNAUTHORISED_NAME => BmcError::Credentials {
                bmc,
                reason: "unknown user name",
            },
            status::INVALID_CHECK => BmcError::Credentials {
                bmc,
                reason: "wrong password",
            },
            status::INVALID_SESSION | status::INACTIVE_SESSION => BmcError::SessionLost { bmc, operation },
            _ => BmcError::Malformed {
                bmc,
                operation,
                detail: "unknown RMCP+ status",
            },
        }
    }

    async fn open_session(&self, suite: Suite) -> Result<(u32, u32), BmcError> {
        const OPERATION: &str = "open session";
        let console_id = u32::from_le_bytes(self.bytes()?) | 1; // 0 is not a session id
        let request = OpenRequest {
            tag: 0,
            privilege: Privilege::Administrator as u8,
            console_id,
            algorithms: suite.algorithms(),
        };
        let sent = (PayloadType::OpenRequest, request.encode());
        let answer = self.step(OPERATION, sent, PayloadType::OpenResponse).await?;
        let answer = OpenResponse::parse(&answer).map_err(|_| self.malformed(OPERATION, "short answer"))?;
        if answer.status != status::OK {
            return Err(self.refused(answer.status, OPERATION));
        }
        if answer.console_id != console_id || answer.system_id == 0 {
            return Err(self.malformed(OPERATION, "wrong session id"));
        }
        if answer.algorithms != suite.algorithms() {
            return Err(BmcError::SuitesRefused {
                bmc: self.bmc.clone(),
            });
        }
        Ok((console_id, answer.system_id))
    }

    /// RAKP 1 and 2: both prove knowledge of the password; ours goes out in RAKP 3.
    async fn greet(
        &self,
        suite: Suite,
        (console_id, system_id): (u32, u32),
        credentials: &Credentials,
    ) -> Result<Exchange, BmcError> {
        const OPERATION: &str = "log in (RAKP 1)";
        let role = NAME_ONLY | Privilege::Administrator as u8;
        let user = credentials.user.as_bytes().to_vec();
        let console_random = self.bytes()?;
        let first = Rakp1 {
            tag: 1,
            system_id,
            console_random,
            role,
            user: user.clone(),
        };
        let answer = self
            .step(
                OPERATION,
                (PayloadType::Rakp(1), first.encode()),
                PayloadType::Rakp(2),
            )
            .await?;
        let answer = RakpReply::parse(&answer).map_err(|_| self.malformed(OPERATION, "short answer"))?;
        if answer.status != status::OK {
            return Err(self.refused(answer.status, OPERATION));
        }
        let short = |_: WireError| self.malformed(OPERATION, "short answer");
        let exchange = Exchange {
            suite,
            console_id,
            system_id,
            console_random,
            system_random: take(&answer.body, 0).map_err(short)?,
            guid: take(&answer.body, 16).map_err(short)?,
            role,
            user,
            password: credentials.password.as_bytes().to_vec(),
        };
        if answer.session_id != console_id || !equal(&answer.body[32..], &exchange.code2()) {
            let bmc = self.bmc.clone();
            return Err(BmcError::Credentials {
                bmc,
                reason: "the BMC's proof of the password is wrong",
            });
        }
        Ok(exchange)
    }

    /// RAKP 3 and 4.
    async fn prove(&self, exchange: &Exchange) -> Result<(), BmcError> {
        const OPERATION: &str = "log in (RAKP 3)";
        let third = RakpReply {
            tag: 2,
            status: status::OK,
            session_id: exchange.system_id,
            body: exchange.code3(),
        };
        let answer = self
            .step(
                OPERATION,
                (PayloadType::Rakp(3), third.encode()),
                PayloadType::Rakp(4),
            )
            .await?;
        let answer = RakpReply::parse(&answer).map_err(|_| self.malformed(OPERATION, "short answer"))?;
        if answer.status != status::OK {
            return Err(self.refused(answer.status, OPERATION));
        }
        if answer.session_id != exchange.console_id || !equal(&answer.body, &exchange.code4()) {
            return Err(self.malformed(OPERATION, "wrong RAKP 4 code"));
        }
        Ok(())
    }
}

impl Session {
    /// Opens a session with `suite` at `address` and raises it to ADMINISTRATOR. `bmc` is the name for errors.
    ///
    /// # Errors
    /// [`BmcError::SuitesRefused`] when this suite is not offered, [`BmcError::Credentials`],
    /// [`BmcError::Privilege`], [`BmcError::NoFreeSession`], and what the network does.
    pub async fn open(
        address: SocketAddr,
        bmc: &str,
        credentials: &Credentials,
        (suite, timing): (Suite, Timing),
    ) -> Result<Self, BmcError> {
        if credentials.user.len() > 16 || credentials.password.len() > 20 {
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
        let link = Link {
            socket,
            bmc: bmc.to_owned(),
            timing,
            random: SystemRandom::new(),
        };
        let ids = link.open_session(suite).await?;
        let exchange = link.greet(suite, ids, credentials).await?;
        link.prove(&exchange).await?;
        let mut session = Self {
            link,
            keys: exchange.keys(),
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

    /// The cipher suite in use.
    pub fn suite(&self) -> Suite {
        self.keys.suite()
    }

    async fn raise(&mut self) -> Result<(), BmcError> {
        let (completion, _) = self
            .request(SET_PRIVILEGE, &[Privilege::Administrator as u8])
            .await?;
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
            || {
                *sent = sent.wrapping_add(1).max(1); // 0 means "outside a session"
                Ok(keys.seal(*system_id, *sent, &bytes, link.bytes()?))
            },
            |datagram| {
                let response = accept(datagram, keys, *console_id, heard)?;
                let wanted = response.sequence == request.sequence
                    && response.command == request.command
                    && response.netfn == request.netfn | 1;
                wanted.then_some((response.completion, response.data))
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
fn accept(datagram: &[u8], keys: &SessionKeys, console_id: u32, heard: &mut u32) -> Option<Response> {
    let Ok(Frame::Plus(frame)) = parse(datagram) else {
        return None;
    };
    if frame.session_id != console_id {
        return None;
    }
    let message = keys.open(&frame).ok()?;
    if frame.sequence < heard.saturating_sub(16) {
        return None;
    }
    *heard = (*heard).max(frame.sequence);
    Response::parse(&message).ok()
}
