//! The BMC's side of opening a session: Open Session and RAKP. Pure but for the random bytes it is handed.

use slipway_edge::bmc::ipmi::crypto::{SessionKeys, Suite, equal};
use slipway_edge::bmc::ipmi::rakp::{
    Exchange, OpenRequest, OpenResponse, Privilege, Rakp1, RakpReply, status,
};

use super::users::Users;

/// How far a session's opening has come.
pub(super) enum Stage {
    /// Open Session was answered.
    Opened,
    /// RAKP 1 was answered; the first message is kept so that a repeated one gets the same answer.
    Greeted(Box<(Rakp1, Exchange, Privilege)>),
    /// RAKP 3 was right.
    Active,
}

/// A session that is being opened, or is open.
pub(super) struct Login {
    pub(super) suite: Suite,
    pub(super) console_id: u32,
    pub(super) system_id: u32,
    pub(super) stage: Stage,
}

/// What the login yields when RAKP 3 is right.
pub(super) struct Admission {
    pub(super) keys: SessionKeys,
    pub(super) limit: Privilege,
}

/// Answers an Open Session Request: the payload, and the login to keep when it was granted.
pub(super) fn open(request: &OpenRequest, system_id: Option<u32>) -> (Vec<u8>, Option<Login>) {
    let refuse = |status| {
        let answer = OpenResponse {
            tag: request.tag,
            status,
            console_id: request.console_id,
            system_id: 0,
            algorithms: [0; 3],
        };
        (answer.encode(0), None)
    };
    let Some(suite) = Suite::from_algorithms(request.algorithms) else {
        return refuse(status::NO_SUITE);
    };
    let Some(system_id) = system_id else {
        return refuse(status::NO_RESOURCES);
    };
    let console_id = request.console_id;
    let answer = OpenResponse {
        tag: request.tag,
        status: status::OK,
        console_id,
        system_id,
        algorithms: request.algorithms,
    };
    let privilege = if request.privilege == 0 {
        Privilege::Administrator as u8
    } else {
        request.privilege
    };
    (
        answer.encode(privilege),
        Some(Login {
            suite,
            console_id,
            system_id,
            stage: Stage::Opened,
        }),
    )
}

impl Login {
    fn reply(&self, tag: u8, status: u8, body: Vec<u8>) -> Vec<u8> {
        RakpReply {
            tag,
            status,
            session_id: self.console_id,
            body,
        }
        .encode()
    }

    /// Answers RAKP 1 with RAKP 2.
    pub(super) fn greet(
        &mut self,
        first: Rakp1,
        users: &Users,
        (system_random, guid): ([u8; 16], [u8; 16]),
    ) -> Vec<u8> {
        if let Stage::Greeted(known) = &self.stage
            && known.0 == first
        {
            return self.second(first.tag, &known.1);
        }
        let Some(user) = users.named(&first.user) else {
            return self.reply(first.tag, status::UNAUTHORISED_NAME, Vec::new());
        };
        let wanted = match first.role & 0x0f {
            0 => Some(user.privilege),
            bits => Privilege::from_bits(bits),
        };
        let Some(limit) = wanted.filter(|wanted| *wanted <= user.privilege) else {
            return self.reply(first.tag, status::UNAUTHORISED_ROLE, Vec::new());
        };
        let exchange = Exchange {
            suite: self.suite,
            console_id: self.console_id,
            system_id: self.system_id,
            console_random: first.console_random,
            system_random,
            guid,
            role: first.role,
            user: first.user.clone(),
            password: user.password.as_bytes().to_vec(),
        };
        let answer = self.second(first.tag, &exchange);
        self.stage = Stage::Greeted(Box::new((first, exchange, limit)));
        answer
    }

    fn second(&self, tag: u8, exchange: &Exchange) -> Vec<u8> {
        let body = [
            exchange.system_random.as_slice(),
            &exchange.guid,
            &exchange.code2(),
        ]
        .concat();
        self.reply(tag, status::OK, body)
    }

    /// Answers RAKP 3 with RAKP 4; gives the admission when the console's proof is right.
    pub(super) fn admit(&mut self, third: &RakpReply) -> (Vec<u8>, Option<Admission>) {
        let Stage::Greeted(known) = &self.stage else {
            return (self.reply(third.tag, status::INACTIVE_SESSION, Vec::new()), None);
        };
        let (_, exchange, limit) = known.as_ref();
        if !equal(&third.body, &exchange.code3()) {
            return (self.reply(third.tag, status::INVALID_CHECK, Vec::new()), None);
        }
        let admission = Admission {
            keys: exchange.keys(),
            limit: *limit,
        };
        (
            self.reply(third.tag, status::OK, exchange.code4()),
            Some(admission),
        )
    }
}
