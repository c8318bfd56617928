//! The socket of one session: sends, repeats, waits; and the handshake that opens a session over it.
//! What is sent and accepted is decided by its callers and by [`super::rakp`].

use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::super::BmcError;
use super::crypto::{Suite, equal};
use super::rakp::{Exchange, OpenRequest, OpenResponse, Privilege, Rakp1, RakpReply, status};
use super::session::{Credentials, Timing};
use super::wire::{Frame, PayloadType, parse, setup, take};

/// The socket and what is needed to speak of it in errors.
pub(super) struct Link {
    pub(super) socket: UdpSocket,
    pub(super) bmc: String,
    pub(super) timing: Timing,
    pub(super) random: SystemRandom,
    /// Whether it answered anything at all, so that silence is told apart from a BMC that is not there.
    pub(super) heard: bool,
}

/// What a datagram is to whoever waits for an answer.
pub(super) enum Heard<T> {
    /// The answer.
    Answer(T),
    /// It was meant to be, but cannot be read.
    Spoilt,
    /// Something else: late, foreign or forged.
    Other,
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

    /// Sends what `packet` makes (anew for each try) until `judge` finds an answer. Whatever else comes is skipped without
    /// ending the wait: one spoilt answer is none.
    pub(super) async fn exchange<T>(
        &mut self,
        operation: &'static str,
        mut packet: impl FnMut(&Self) -> Result<Vec<u8>, BmcError>,
        mut judge: impl FnMut(&[u8]) -> Heard<T>,
    ) -> Result<T, BmcError> {
        let mut wait = self.timing.first_wait;
        let mut refused = None;
        let mut spoilt = false;
        for _ in 0..self.timing.tries {
            let deadline = Instant::now() + wait;
            if let Err(error) = self.socket.send(&packet(self)?).await {
                refused = Some(error);
            }
            let mut buffer = [0; 1024];
            while let Ok(received) = timeout_at(deadline, self.socket.recv(&mut buffer)).await {
                match received.map(|length| judge(&buffer[..length])) {
                    Ok(Heard::Answer(answer)) => {
                        self.heard = true;
                        return Ok(answer);
                    }
                    Ok(Heard::Spoilt) => spoilt = true,
                    Ok(Heard::Other) => {}
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
            _ if spoilt => self.malformed(operation, "short answer"),
            Some(error) => self.network(error),
            None => BmcError::Timeout {
                bmc: self.bmc.clone(),
                operation,
                heard: self.heard,
            },
        })
    }

    /// One step of the session set-up: `payload` out, the payload of type `answer` in, as `read` makes of it. The tag is not looked
    /// at, which some BMCs leave 0: a socket is one session's alone, and [`judge_reply`] and the codes tell whose an answer is.
    async fn step<T>(
        &mut self,
        operation: &'static str,
        (kind, payload): (PayloadType, Vec<u8>),
        answer: PayloadType,
        read: impl Fn(&[u8]) -> Heard<T>,
    ) -> Result<T, BmcError> {
        let packet = setup(kind, &payload);
        self.exchange(
            operation,
            |_| Ok(packet.clone()),
            |datagram| match parse(datagram) {
                Ok(Frame::Plus(f)) if f.payload_type == answer => read(f.payload),
                _ => Heard::Other,
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

    pub(super) async fn open_session(
        &mut self,
        suite: Suite,
        privilege: Privilege,
    ) -> Result<(u32, u32), BmcError> {
        const OPERATION: &str = "open session";
        let console_id = u32::from_le_bytes(self.bytes()?) | 1; // 0 is not a session id
        let request = OpenRequest {
            tag: 0,
            privilege: privilege as u8,
            console_id,
            algorithms: suite.algorithms(),
        };
        let sent = (PayloadType::OpenRequest, request.encode());
        let read = |payload: &[u8]| match OpenResponse::parse(payload) {
            Err(_) => Heard::Spoilt,
            Ok(answer) if answer.status != status::OK => Heard::Answer(answer),
            Ok(answer) if answer.console_id != console_id => Heard::Other,
            Ok(answer) if answer.system_id == 0 => Heard::Spoilt,
            Ok(answer) => Heard::Answer(answer),
        };
        let answer = self
            .step(OPERATION, sent, PayloadType::OpenResponse, read)
            .await?;
        if answer.status != status::OK {
            return Err(self.refused(answer.status, OPERATION));
        }
        if answer.algorithms != suite.algorithms() {
            return Err(BmcError::SuitesRefused {
                bmc: self.bmc.clone(),
            });
        }
        Ok((console_id, answer.system_id))
    }

    /// RAKP 1 and 2: both prove knowledge of the password; ours goes out in RAKP 3. The BMC proves first, so which of several
    /// passwords it knows is found without a wrong one being tried on it. `blank` has all but what the BMC says.
    pub(super) async fn greet<'a>(
        &mut self,
        blank: Exchange,
        credentials: &'a Credentials,
    ) -> Result<(Exchange, &'a str), BmcError> {
        const OPERATION: &str = "log in (RAKP 1)";
        let first = Rakp1 {
            tag: 1,
            system_id: blank.system_id,
            console_random: blank.console_random,
            role: blank.role,
            user: blank.user.clone(),
        };
        let sent = (PayloadType::Rakp(1), first.encode());
        let least = 32 + blank.suite.hash_length();
        let read = |payload: &[u8]| judge_reply(payload, blank.console_id, least);
        let answer = self.step(OPERATION, sent, PayloadType::Rakp(2), read).await?;
        if answer.status != status::OK {
            return Err(self.refused(answer.status, OPERATION));
        }
        let short = |_| self.malformed(OPERATION, "short answer");
        let mut exchange = Exchange {
            system_random: take(&answer.body, 0).map_err(short)?,
            guid: take(&answer.body, 16).map_err(short)?,
            ..blank
        };
        for password in &credentials.passwords {
            exchange.password = password.as_bytes().to_vec();
            if equal(&answer.body[32..least], &exchange.code2()) {
                return Ok((exchange, password));
            }
        }
        Err(BmcError::Credentials {
            bmc: self.bmc.clone(),
            reason: WRONG_PROOF,
        })
    }

    /// RAKP 3 and 4.
    pub(super) async fn prove(&mut self, exchange: &Exchange) -> Result<(), BmcError> {
        const OPERATION: &str = "log in (RAKP 3)";
        let third = RakpReply {
            tag: 2,
            status: status::OK,
            session_id: exchange.system_id,
            body: exchange.code3(),
        };
        let sent = (PayloadType::Rakp(3), third.encode());
        let length = exchange.suite.code_length();
        let read = |payload: &[u8]| judge_reply(payload, exchange.console_id, length);
        let answer = self.step(OPERATION, sent, PayloadType::Rakp(4), read).await?;
        if answer.status != status::OK {
            return Err(self.refused(answer.status, OPERATION));
        }
        // Some send the whole code where the specification wants its beginning.
        if !equal(&answer.body[..length], &exchange.code4()) {
            return Err(self.malformed(OPERATION, "wrong RAKP 4 code"));
        }
        Ok(())
    }
}

/// Why a BMC that answered is not believed; without a login having been tried on it.
pub(super) const WRONG_PROOF: &str = "the BMC's proof of the password is wrong";

/// Bit of the role byte: look the user up by name alone.
pub(super) const NAME_ONLY: u8 = 0x10;

/// RAKP 2 or 4: this console's, and long enough unless it is a refusal. Bytes that follow are looked over.
fn judge_reply(payload: &[u8], console_id: u32, least: usize) -> Heard<RakpReply> {
    match RakpReply::parse(payload) {
        Err(_) => Heard::Spoilt,
        // Some name no session in a refusal.
        Ok(reply) if reply.status != status::OK && [0, console_id].contains(&reply.session_id) => {
            Heard::Answer(reply)
        }
        Ok(reply) if reply.session_id != console_id => Heard::Other,
        Ok(reply) if reply.body.len() < least => Heard::Spoilt,
        Ok(reply) => Heard::Answer(reply),
    }
}
