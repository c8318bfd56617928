//! What is still to come, by its time; of the same time, in the order it was put down. Everything that reaches from one
//! simulated party to another goes through here, so it is the one place that gives a run its order.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use slipway_protocol::{ids::MachineId, topic::Topic};
use tokio::sync::Notify;

use super::{clock, machine::Happens};

/// Something to come.
#[derive(Debug, Clone)]
pub enum Event {
    /// A wish of the schedule is made.
    Wish(usize),
    /// Something that was asked for is called off, by its wish.
    Cancel(usize),
    /// A fault of the schedule befalls.
    Fault(usize),
    /// A fault has ended.
    Over(Ended),
    /// A message arrives at the edge.
    ToEdge(String, Vec<u8>),
    /// A message arrives at the control plane.
    ToCentre(String, Vec<u8>),
    /// A message arrives at a machine's agent.
    ToAgent(MachineId, Topic, Vec<u8>),
    /// A message of a machine's agent arrives at the edge.
    FromAgent(MachineId, String, Vec<u8>),
    /// The edge's client learns how its link is.
    LinkKnown,
    /// The edge's process is started.
    EdgeStarts,
    /// The control plane's process is started.
    CentreStarts,
    /// Something happens on a machine, in the boot that had this number.
    Machine(usize, u32, Happens),
    /// The control plane looks for what is overdue.
    Tick,
    /// All faults are over.
    Healed,
    /// Somebody looks whether all has come to rest.
    Rested,
}

/// What has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A cut of the link.
    Cut,
    /// A cut of a machine's link.
    SiteCut(usize),
    /// No room on the edge's disk.
    EdgeDiskFull,
    /// No room on the control plane's disk.
    CentreDiskFull,
    /// The time between the copy of the edge's disk and its return.
    EdgeBackup(usize),
    /// The time between a backup of the control plane and its restore.
    CentreBackup(usize),
    /// A BMC's silence.
    BmcMute(usize),
}

struct Entry {
    at_ms: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.number).cmp(&(other.at_ms, other.number))
    }
}

#[derive(Default)]
struct Inner {
    heap: BinaryHeap<Reverse<Entry>>,
    next: u64,
}

/// A handle; clones share it.
#[derive(Clone, Default)]
pub struct Agenda {
    inner: Arc<Mutex<Inner>>,
    stir: Arc<Notify>,
}

impl Agenda {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts down what comes after a time, and stops the runtime that runs: it may come before that has its next turn.
    pub fn after(&self, delay_ms: u64, event: Event) {
        let at_ms = clock::now_ms() + delay_ms;
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.heap.push(Reverse(Entry { at_ms, number, event }));
        drop(inner);
        self.stir.notify_one();
    }

    /// When the next thing comes.
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        self.lock().heap.peek().map(|Reverse(entry)| entry.at_ms)
    }

    /// Takes the next thing.
    #[must_use]
    pub fn take(&self) -> Option<(u64, Event)> {
        self.lock()
            .heap
            .pop()
            .map(|Reverse(entry)| (entry.at_ms, entry.event))
    }

    /// Whether a message is on its way.
    #[must_use]
    pub fn carries_messages(&self) -> bool {
        let on_its_way = |Reverse(entry): &Reverse<Entry>| {
            matches!(
                entry.event,
                Event::ToEdge(..) | Event::ToCentre(..) | Event::LinkKnown
            )
        };
        self.lock().heap.iter().any(on_its_way)
    }

    /// Waits until something was put down.
    pub async fn stirred(&self) {
        self.stir.notified().await;
    }

    /// Has whoever waits for something to be put down look around.
    pub fn stir(&self) {
        self.stir.notify_one();
    }
}
