//! The link between the edge and the control plane: a broker that keeps nothing. It loses, repeats and delays as the
//! schedule says, and keeps a copy of what went by for those who replay it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slipway_bus::{Publish, PublishError};

use super::{
    agenda::{Agenda, Event},
    dice::Dice,
    gate::Gate,
    schedule::Noise,
};

/// How many passed messages are remembered a side.
const REMEMBERED: usize = 64;

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The edge.
    Edge,
    /// The control plane.
    Centre,
}

/// What was carried, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Messages put in.
    pub messages: u64,
    /// Lost ones.
    pub lost: u64,
    /// Repeated ones.
    pub twice: u64,
    /// Delayed ones.
    pub late: u64,
}

struct Inner {
    dice: Dice,
    noise: Noise,
    /// Cuts in force.
    cuts: u32,
    /// Whether the edge's client believes that it is connected.
    believed: bool,
    to_edge: Vec<(String, Vec<u8>)>,
    to_centre: Vec<(String, Vec<u8>)>,
    carried: Carried,
    edge_is_up: bool,
}

/// A handle; clones share it.
#[derive(Clone)]
pub struct Wire {
    inner: Arc<Mutex<Inner>>,
    agenda: Agenda,
}

impl Wire {
    /// A link that is up.
    #[must_use]
    pub fn new(agenda: Agenda, seed: u64, noise: Noise) -> Self {
        let inner = Inner {
            dice: Dice::new(seed ^ 0x0771_5e00),
            noise,
            cuts: 0,
            believed: false,
            to_edge: Vec::new(),
            to_centre: Vec::new(),
            carried: Carried::default(),
            edge_is_up: false,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            agenda,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts it; whoever is connected learns of it when the world tells.
    pub fn cut(&self) {
        self.lock().cuts += 1;
    }

    /// Ends a cut.
    pub fn mend(&self) {
        let mut inner = self.lock();
        inner.cuts = inner.cuts.saturating_sub(1);
    }

    /// Ends all cuts and noise.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.cuts = 0;
        inner.noise = Noise::default();
    }

    /// Whether bytes go through.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.lock().cuts == 0
    }

    /// Whether the edge's client believes that it is connected.
    #[must_use]
    pub fn is_believed(&self) -> bool {
        self.lock().believed
    }

    /// What the edge's client believes from now on.
    pub fn believe(&self, connected: bool) {
        self.lock().believed = connected;
    }

    /// Whether there is an edge to hear: a broker keeps nothing for one that is away.
    pub fn edge_is_up(&self, up: bool) {
        let mut inner = self.lock();
        inner.edge_is_up = up;
        inner.believed &= up;
    }

    /// What was carried.
    #[must_use]
    pub fn carried(&self) -> Carried {
        self.lock().carried
    }

    /// A message that went by towards an end, if any did.
    #[must_use]
    pub fn remembered(&self, towards: End) -> Option<(String, Vec<u8>)> {
        let mut inner = self.lock();
        let count = match towards {
            End::Edge => inner.to_edge.len(),
            End::Centre => inner.to_centre.len(),
        };
        let at = usize::try_from(inner.dice.bits() % (count.max(1) as u64)).unwrap_or(0);
        match towards {
            End::Edge => inner.to_edge.get(at).cloned(),
            End::Centre => inner.to_centre.get(at).cloned(),
        }
    }

    fn carry(&self, towards: End, topic: &str, payload: Vec<u8>) {
        let mut inner = self.lock();
        inner.carried.messages += 1;
        let noise = inner.noise;
        let lost = inner.dice.permille(noise.lost) || inner.cuts > 0;
        let twice = inner.dice.permille(noise.twice);
        let remembered = match towards {
            End::Edge => &mut inner.to_edge,
            End::Centre => &mut inner.to_centre,
        };
        if remembered.len() < REMEMBERED {
            remembered.push((topic.to_owned(), payload.clone()));
        }
        if lost || (towards == End::Edge && !inner.edge_is_up) {
            inner.carried.lost += 1;
            return;
        }
        let mut delays = vec![Self::delay(&mut inner)];
        if twice {
            inner.carried.twice += 1;
            delays.push(Self::delay(&mut inner) + 1);
        }
        drop(inner);
        for delay in delays {
            let (topic, payload) = (topic.to_owned(), payload.clone());
            let event = match towards {
                End::Edge => Event::ToEdge(topic, payload),
                End::Centre => Event::ToCentre(topic, payload),
            };
            self.agenda.after(delay, event);
        }
    }

    fn delay(inner: &mut Inner) -> u64 {
        if inner.dice.permille(inner.noise.late) {
            inner.carried.late += 1;
            return inner.dice.from_to(100, 20_000);
        }
        inner.dice.from_to(5, 9)
    }
}

/// The edge's end.
pub struct EdgeEnd {
    /// The link.
    pub wire: Wire,
    /// The edge's life.
    pub gate: Gate,
}

impl Publish for EdgeEnd {
    fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), PublishError> {
        self.gate.point();
        if !self.wire.is_believed() {
            return Err(PublishError::Offline);
        }
        self.wire.carry(End::Centre, topic, payload);
        self.gate.point();
        Ok(())
    }
}

/// Hears of a topic and a payload.
pub type Given = dyn Fn(&str, &[u8]) + Send + Sync;

/// The control plane's end, at the broker itself: it is always connected.
pub struct CentreEnd {
    /// The link.
    pub wire: Wire,
    /// Hears what was given out.
    pub given: Box<Given>,
}

impl Publish for CentreEnd {
    fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), PublishError> {
        (self.given)(topic, &payload);
        self.wire.carry(End::Edge, topic, payload);
        Ok(())
    }
}

/// A door for people that nobody looks through.
pub struct Nobody;

impl Publish for Nobody {
    fn publish(&self, _topic: &str, _payload: Vec<u8>) -> Result<(), PublishError> {
        Err(PublishError::Offline)
    }
}
