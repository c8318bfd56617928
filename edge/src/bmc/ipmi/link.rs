//! The socket of one session: sends, repeats, waits; and the handshake that opens a session over it.
//! What is sent and accepted is decided by its callers and by [`super::rakp`].

use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::super::BmcError;
use super::crypto::{Suite, equal};
use super::rakp::{Exchange, OpenRequest, OpenResponse, Privilege, Rakp1, RakpReply, status};
use super::session::{Credentials, Timing};
use super::wire::{Frame, PayloadType, WireError, parse, setup, take};

/// Bit of the role byte: look the user up by name alone.
const NAME_ONLY: u8 = 0x10;

/// The socket and what is needed to speak of it in errors.
pub(super) struct Link {
    pub(super) socket: UdpSocket,
    pub(super) bmc: String,
    pub(super) timing: Timing,
    pub(super) random: SystemRandom,
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

    pub(super) fn bytes<const N: usize>(&self) -> Result<[u8; N], BmcError> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).map_err(|_| BmcError::Random {
            bmc: self.bmc.clone(),
        })?;
        Ok(bytes)
    }

    /// Sends what `packet` makes (anew for each try) until `accept` takes an answer. What `accept` does not
    /// take (late, foreign or forged packets) is skipped without ending the wait.
    pub(super) async fn exchange<T>(
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

    pub(super) async fn open_session(&self, suite: Suite) -> Result<(u32, u32), BmcError> {
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

    /// RAKP 1 and 2: both prove knowledge of the password; ours goes out in RAKP 3. The BMC proves first, so which of several
    /// passwords it knows is found without a wrong one being tried on it.
    pub(super) async fn greet<'a>(
        &self,
        suite: Suite,
        (console_id, system_id): (u32, u32),
        credentials: &'a Credentials,
    ) -> Result<(Exchange, &'a str), BmcError> {
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
        let mut exchange = Exchange {
            suite,
            console_id,
            system_id,
            console_random,
            system_random: take(&answer.body, 0).map_err(short)?,
            guid: take(&answer.body, 16).map_err(short)?,
            role,
            user,
            password: Vec::new(),
        };
        for password in &credentials.passwords {
            exchange.password = password.as_bytes().to_vec();
            if answer.session_id == console_id && equal(&answer.body[32..], &exchange.code2()) {
                return Ok((exchange, password));
            }
        }
        Err(BmcError::Credentials {
            bmc: self.bmc.clone(),
            reason: "the BMC's proof of the password is wrong",
        })
    }

    /// RAKP 3 and 4.
    pub(super) async fn prove(&self, exchange: &Exchange) -> Result<(), BmcError> {
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
