//! What clients said in their DISCOVER, for those that leave it out of their REQUEST: some ROMs name their vendor class once, and then
//! expect to be answered as what they are. Pure; the time is an argument.

use std::collections::{BTreeMap, HashMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::ids::MacAddr;

use super::packet::{MessageType, Request, code};

/// How long a client may take from its DISCOVER to its REQUEST.
const KEPT_FOR: TimeDelta = TimeDelta::seconds(60);
/// How many clients are remembered; the oldest is forgotten for a new one.
pub const MOST: usize = 4096;
/// What tells who asks.
const WHO: [u8; 5] = [
    code::VENDOR_CLASS,
    code::USER_CLASS,
    code::ARCHITECTURE,
    code::MACHINE_ID,
    code::IPXE,
];

struct Said {
    at: DateTime<Utc>,
    xid: [u8; 4],
    options: BTreeMap<u8, Vec<u8>>,
}

/// The clients that sent a DISCOVER lately.
#[derive(Default)]
pub struct Memory {
    said: HashMap<MacAddr, Said>,
    order: VecDeque<(DateTime<Utc>, MacAddr)>,
}

impl Memory {
    /// The packet as its client means it: a REQUEST that tells nothing of who asks is completed from the DISCOVER of the same
    /// transaction.
    #[must_use]
    pub fn complete(&mut self, mut request: Request, now: DateTime<Utc>) -> Request {
        match request.message {
            MessageType::Discover => self.note(&request, now),
            MessageType::Request => {
                let tells = WHO[..2].iter().any(|code| request.option(*code).is_some());
                if let Some(said) = self.said.get(&request.mac)
                    && !tells
                    && said.xid == request.xid
                    && (now - said.at).abs() <= KEPT_FOR
                {
                    request.fill_in(&WHO, &said.options);
                }
            }
            _ => {}
        }
        request
    }

    fn note(&mut self, request: &Request, now: DateTime<Utc>) {
        while self.order.len() >= MOST
            && let Some((at, mac)) = self.order.pop_front()
        {
            if self.said.get(&mac).is_some_and(|said| said.at == at) {
                self.said.remove(&mac);
            }
        }
        let options = request.only(&WHO);
        let said = Said {
            at: now,
            xid: request.xid,
            options,
        };
        self.said.insert(request.mac, said);
        self.order.push_back((now, request.mac));
    }

    /// How many clients are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.said.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.said.is_empty()
    }
}
