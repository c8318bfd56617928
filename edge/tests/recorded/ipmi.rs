//! Sessions of ipmitool with a BMC written by others, read with nothing but the password: what our client makes of such bytes.

use slipway_edge::bmc::ipmi::{
    crypto::{SessionKeys, Suite, equal},
    rakp::{Exchange, OpenRequest, OpenResponse, Rakp1, RakpReply, status},
    wire::{Frame, PayloadType, Request, Response, WireError, parse, take},
};

use super::{capture, fixtures};

/// The password of the recording (its README).
const PASSWORD: &[u8] = b"secret12";

/// What was read of a recording.
#[derive(Debug, Default)]
struct Seen {
    requests: usize,
    responses: usize,
    /// Payloads of types that this product does not use (serial over LAN).
    other: usize,
    unprotected: usize,
    sessions: usize,
}

/// The set-up as far as it was heard.
#[derive(Default)]
struct Opening {
    algorithms: Option<[u8; 3]>,
    console_id: u32,
    first: Option<Rakp1>,
    exchange: Option<Exchange>,
    keys: Option<SessionKeys>,
}

impl Opening {
    fn hear(&mut self, kind: PayloadType, payload: &[u8], seen: &mut Seen) {
        match kind {
            PayloadType::OpenRequest => {
                let request = OpenRequest::parse(payload).unwrap();
                *self = Self {
                    algorithms: Some(request.algorithms),
                    console_id: request.console_id,
                    ..Self::default()
                };
            }
            PayloadType::OpenResponse => {
                let answer = OpenResponse::parse(payload).unwrap();
                assert_eq!((answer.status, answer.console_id), (status::OK, self.console_id));
            }
            PayloadType::Rakp(1) => self.first = Some(Rakp1::parse(payload).unwrap()),
            PayloadType::Rakp(2) => {
                let (reply, first) = (RakpReply::parse(payload).unwrap(), self.first.clone().unwrap());
                let Some(suite) = self.algorithms.and_then(Suite::from_algorithms) else {
                    return;
                };
                let exchange = Exchange {
                    suite,
                    console_id: self.console_id,
                    system_id: first.system_id,
                    console_random: first.console_random,
                    system_random: take(&reply.body, 0).unwrap(),
                    guid: take(&reply.body, 16).unwrap(),
                    role: first.role,
                    user: first.user,
                    password: PASSWORD.to_vec(),
                };
                assert!(equal(&reply.body[32..], &exchange.code2()), "the BMC's proof");
                self.exchange = Some(exchange);
            }
            PayloadType::Rakp(3) => {
                if let Some(exchange) = &self.exchange {
                    let reply = RakpReply::parse(payload).unwrap();
                    assert!(equal(&reply.body, &exchange.code3()), "the console's proof");
                }
            }
            PayloadType::Rakp(_) => {
                if let Some(exchange) = &self.exchange {
                    let reply = RakpReply::parse(payload).unwrap();
                    assert!(equal(&reply.body, &exchange.code4()), "the keys");
                    self.keys = Some(exchange.keys());
                    seen.sessions += 1;
                }
            }
            PayloadType::Message => {}
        }
    }
}

fn read(name: &str) -> Seen {
    let datagrams = capture::datagrams(&fixtures().join("ipmi/sol-lab").join(name));
    let (mut seen, mut opening) = (Seen::default(), Opening::default());
    for datagram in datagrams {
        let from_console = datagram.to.port() == 9623;
        let frame = match parse(&datagram.payload) {
            Ok(Frame::Sessionless(message)) => {
                let read = (Request::parse(message).is_ok(), Response::parse(message).is_ok());
                assert!(if from_console { read.0 } else { read.1 });
                continue;
            }
            Ok(Frame::Plus(frame)) => frame,
            Err(WireError::Format) => {
                seen.other += 1;
                continue;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        if frame.payload_type != PayloadType::Message {
            opening.hear(frame.payload_type, frame.payload, &mut seen);
            continue;
        }
        let Some(keys) = &opening.keys else {
            seen.unprotected += 1;
            continue;
        };
        match keys.open(&frame) {
            Ok(message) if from_console => {
                Request::parse(&message).unwrap();
                seen.requests += 1;
            }
            Ok(message) => {
                assert_eq!(Response::parse(&message), Response::authentic(&message));
                seen.responses += 1;
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    seen
}

#[test]
fn recorded_ipmi_sessions_with_encryption_are_read_whole() {
    let seen = read("sol-suite3-aes.pcap");
    assert!(seen.sessions >= 1 && seen.unprotected == 0, "{seen:?}");
    assert!(seen.requests >= 4 && seen.responses >= 4, "{seen:?}");
    assert!(seen.other > 50, "serial over LAN: {seen:?}");
}

/// Suite 2 encrypts nothing, so no session of it is one of ours.
#[test]
fn recorded_ipmi_sessions_without_encryption_are_none_of_ours() {
    let seen = read("sol-suite2-plaintext.pcap");
    assert_eq!(
        (seen.sessions, seen.requests, seen.responses),
        (0, 0, 0),
        "{seen:?}"
    );
    assert!(seen.unprotected >= 8, "{seen:?}");
}
