//! One BMC's sessions: a datagram in, at most one datagram out. It owns no socket.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use slipway_edge::bmc::ipmi::crypto::{SessionKeys, Suite};
use slipway_edge::bmc::ipmi::rakp::{OpenRequest, Privilege, Rakp1, RakpReply};
use slipway_edge::bmc::ipmi::wire::{
    Frame, PayloadType, PlusFrame, Request, Response, parse, sessionless, setup,
};

use super::chassis::Chassis;
use super::commands::{self, Context, Effect};
use super::faults::Faults;
use super::login::{self, Login, Stage};
use super::oddities::{Oddities, take};
use super::users::Users;

/// Sessions at a time, as many BMCs have.
const SLOTS: usize = 8;
/// A session without a packet for so long is forgotten.
const IDLE: Duration = Duration::from_secs(60);
/// How long a BMC says nothing after a cold reset (a real one takes minutes).
const RESTART: Duration = Duration::from_secs(2);

/// An admitted session.
struct Session {
    keys: SessionKeys,
    limit: Privilege,
    privilege: Privilege,
    sent: u32,
    window: Window,
    /// The last request and its answer: a repeated one is answered, not done again.
    last: Option<(Request, Response)>,
}

struct Slot {
    login: Login,
    session: Option<Session>,
    used: Instant,
}

/// Session sequence numbers received: none twice, none older than 16.
#[derive(Default)]
struct Window {
    highest: u32,
    seen: u32,
}

impl Window {
    fn accept(&mut self, sequence: u32) -> bool {
        if sequence > self.highest {
            self.seen = self.seen.checked_shl(sequence - self.highest).unwrap_or(0) | 1;
            self.highest = sequence;
            return true;
        }
        let age = self.highest - sequence;
        let bit = 1u32.checked_shl(age).unwrap_or(0);
        let fresh = age < 16 && self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}

/// One BMC.
pub struct Server {
    users: Users,
    chassis: Arc<dyn Chassis>,
    faults: Arc<Faults>,
    guid: [u8; 16],
    random: SystemRandom,
    slots: HashMap<u32, Slot>,
    settings: commands::Settings,
    silent_until: Option<Instant>,
}

impl Server {
    /// A BMC with no session yet.
    pub fn new(users: Users, chassis: Arc<dyn Chassis>, faults: Arc<Faults>) -> Self {
        let random = SystemRandom::new();
        let mut guid = [0; 16];
        random.fill(&mut guid).ok(); // an all-zero GUID works as well
        Self {
            users,
            chassis,
            faults,
            guid,
            random,
            slots: HashMap::new(),
            settings: commands::Settings::default(),
            silent_until: None,
        }
    }

    /// The answer to `datagram`, if it deserves one.
    pub async fn handle(&mut self, datagram: &[u8], now: Instant) -> Option<Vec<u8>> {
        if self.silent_until.is_some_and(|until| now < until) {
            return None;
        }
        self.slots.retain(|_, slot| now.duration_since(slot.used) < IDLE);
        match parse(datagram).ok()? {
            Frame::Sessionless(message) => {
                let request = Request::parse(message).ok()?;
                let response = commands::outside_session(&request, &self.guid);
                Some(sessionless(&response.encode()))
            }
            Frame::Plus(frame) if frame.payload_type == PayloadType::Message => {
                self.message(&frame, now).await
            }
            Frame::Plus(frame) => {
                let (kind, answer) = self.set_up(&frame, now)?;
                Some(setup(kind, &self.oddly(answer)))
            }
        }
    }

    fn bytes<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).ok()?;
        Some(bytes)
    }

    /// An answer of the session set-up as this maker's firmware would have it.
    fn oddly(&self, mut answer: Vec<u8>) -> Vec<u8> {
        self.faults.with_oddities(|odd| {
            if let (Some(tag), Some(first)) = (odd.tag, answer.first_mut()) {
                *first = tag;
            }
            if odd.short_refusals && answer.get(1).is_some_and(|status| *status != 0) {
                answer.truncate(2);
            }
            answer.resize(answer.len() + odd.trailing, 0);
        });
        answer
    }

    fn set_up(&mut self, frame: &PlusFrame<'_>, now: Instant) -> Option<(PayloadType, Vec<u8>)> {
        match frame.payload_type {
            PayloadType::OpenRequest => {
                let request = OpenRequest::parse(frame.payload).ok()?;
                let suite = Suite::from_algorithms(request.algorithms);
                if suite.is_some() && self.faults.with_oddities(|odd| odd.silent_about == suite) {
                    return None;
                }
                self.make_room(now);
                let id = u32::from_le_bytes(self.bytes()?) | 1;
                let full = self.faults.with_oddities(|odd| take(&mut odd.full));
                let free = !full && self.slots.len() < SLOTS && !self.slots.contains_key(&id);
                let (answer, login) = login::open(&request, free.then_some(id));
                if let Some(login) = login {
                    self.slots.insert(
                        id,
                        Slot {
                            login,
                            session: None,
                            used: now,
                        },
                    );
                }
                Some((PayloadType::OpenResponse, answer))
            }
            PayloadType::Rakp(1) => {
                let first = Rakp1::parse(frame.payload).ok()?;
                let random = (self.bytes()?, self.guid);
                let unnamed = self.users.named(&first.user).is_none();
                if unnamed && self.faults.with_oddities(|odd| odd.silent_about_names) {
                    return None;
                }
                let slot = self.slots.get_mut(&first.system_id)?;
                slot.used = now;
                let answer = slot.login.greet(first, &self.users, random);
                Some((PayloadType::Rakp(2), answer))
            }
            PayloadType::Rakp(3) => {
                let third = RakpReply::parse(frame.payload).ok()?;
                let slot = self.slots.get_mut(&third.session_id)?;
                slot.used = now;
                let (answer, admission) = slot.login.admit(&third);
                if admission.is_none() {
                    self.faults.login_failed();
                }
                // a repeated RAKP 3 must not restart the sequence numbers of a session in use
                if let (Some(admission), None) = (admission, &slot.session) {
                    slot.session = Some(Session {
                        keys: admission.keys,
                        limit: admission.limit,
                        privilege: Privilege::User.min(admission.limit),
                        sent: 0,
                        window: Window::default(),
                        last: None,
                    });
                }
                Some((PayloadType::Rakp(4), answer))
            }
            _ => None,
        }
    }

    /// Half-open sessions give way when all slots are taken, the oldest first.
    fn make_room(&mut self, now: Instant) {
        if self.slots.len() < SLOTS {
            return;
        }
        let half_open = self.slots.iter().filter(|(_, slot)| slot.session.is_none());
        let oldest = half_open
            .max_by_key(|(_, slot)| now.duration_since(slot.used))
            .map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.slots.remove(&id);
        }
    }

    async fn message(&mut self, frame: &PlusFrame<'_>, now: Instant) -> Option<Vec<u8>> {
        let iv = self.bytes()?;
        let slot = self.slots.get_mut(&frame.session_id)?;
        let session = slot.session.as_mut()?;
        let message = session.keys.open(frame).ok()?;
        if !session.window.accept(frame.sequence) {
            return None;
        }
        slot.used = now;
        slot.login.stage = Stage::Active; // the console has the keys: RAKP is over
        let request = Request::parse(&message).ok()?;
        if self
            .faults
            .with_oddities(|odd| commands::is_ignored(&request, odd))
        {
            return None;
        }
        let mut effect = Effect::None;
        let response = match &session.last {
            Some((known, answer)) if *known == request => answer.clone(),
            _ if !commands::about_session(&request) && self.faults.take_busy() => {
                let code = self.faults.with_oddities(|odd| odd.busy_code.unwrap_or(0xc0));
                commands::answer(&request, code, Vec::new())
            }
            _ => {
                let mut context = Context {
                    users: &self.users,
                    chassis: self.chassis.as_ref(),
                    faults: &self.faults,
                    settings: &mut self.settings,
                    guid: &self.guid,
                    session: frame.session_id,
                    limit: session.limit,
                    privilege: &mut session.privilege,
                };
                let (response, wanted) = commands::execute(&request, &mut context).await;
                effect = wanted;
                session.last = Some((request, response.clone()));
                response
            }
        };
        if matches!(effect, Effect::HangUp) {
            self.slots.remove(&frame.session_id);
            return None;
        }
        session.sent = session.sent.wrapping_add(1).max(1);
        let (message, trailing) = self
            .faults
            .with_oddities(|odd| (spoil(response, odd), odd.trailing));
        let mut packet = session
            .keys
            .seal(slot.login.console_id, session.sent, &message, iv);
        packet.resize(packet.len() + trailing, 0);
        self.apply(effect, now);
        Some(packet)
    }

    fn apply(&mut self, effect: Effect, now: Instant) {
        match effect {
            Effect::None | Effect::HangUp => {}
            Effect::Close(id) => {
                self.slots.remove(&id);
            }
            Effect::Restart => {
                self.slots.clear();
                self.settings = commands::Settings::default();
                self.silent_until = Some(now + RESTART);
            }
        }
    }
}

/// An answer's message as this maker's firmware would have it.
fn spoil(mut response: Response, odd: &mut Oddities) -> Vec<u8> {
    if odd.netfn_echoed {
        response.netfn &= !1;
    }
    if !response.data.is_empty() && take(&mut odd.empty) {
        response.data.clear();
    }
    let mut message = response.encode();
    if odd.wrong_checksums {
        message[2] ^= 0x55;
        if let Some(last) = message.last_mut() {
            *last ^= 0x55;
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::super::MemoryChassis;
    use super::*;

    #[test]
    fn no_sequence_number_is_accepted_twice() {
        let mut window = Window::default();
        for (sequence, fresh) in [
            (1, true),
            (1, false),
            (3, true),
            (2, true),
            (2, false),
            (40, true),
            (20, false),
            (39, true),
        ] {
            assert_eq!(window.accept(sequence), fresh, "sequence {sequence}");
        }
    }

    #[tokio::test]
    async fn noise_is_survived_and_changes_nothing() {
        let chassis = Arc::new(MemoryChassis::default());
        let mut server = Server::new(
            Users::administrator("admin", "secret"),
            chassis.clone(),
            Arc::default(),
        );
        let open = OpenRequest {
            tag: 0,
            privilege: 4,
            console_id: 9,
            algorithms: [3, 4, 1],
        };
        let samples = [
            setup(PayloadType::OpenRequest, &open.encode()),
            setup(PayloadType::Rakp(1), &[0; 30]),
            setup(PayloadType::Rakp(3), &[0; 8]),
            sessionless(
                &Request {
                    netfn: 6,
                    command: 0x38,
                    sequence: 1,
                    data: vec![14, 4],
                }
                .encode(),
            ),
        ];
        for sample in &samples {
            for at in 0..sample.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut bad = sample.clone();
                    bad[at] = value;
                    server.handle(&bad, Instant::now()).await;
                }
                server.handle(&sample[..at], Instant::now()).await;
            }
        }
        assert_eq!(chassis.actions(), []);
        assert!(server.slots.len() <= SLOTS);
    }
}
