//! Anti-entropy under loss, repetition, reordering, restart and restored backups: both sides converge.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use slipway_protocol::{
    ids::Digest,
    sync::{Document, Held, Hello, HelloAnswer, Holdings, Lists, SyncRequest, answer_hello},
    topic::Kind,
};

/// What travels. Documents are stood for by their revision.
#[derive(Debug, Clone)]
enum Message {
    Hello(Box<Hello>),
    Sync(SyncRequest),
    Command(Document, u64),
    Report(String, u64),
    ReportBack(String, u64),
}

/// One fault or fact of a schedule.
#[derive(Debug, Clone)]
enum Event {
    NewOrder(u8),
    NewReport(u8),
    Tick,
    DeliverFirst,
    DeliverLast,
    RepeatFirst,
    LoseFirst,
    EdgeLosesDisk,
    ControlPlaneRestoresBackup,
    TakeBackup,
}

#[derive(Default, Clone)]
struct World {
    wanted: Holdings,
    received: Holdings,
    backup: (Holdings, Holdings),
    edge_commands: Holdings,
    edge_reports: Holdings,
    edge_report_revision: u64,
    wire: Vec<Message>,
}

impl World {
    fn hello(&self, lists: bool) -> Message {
        let lists = lists.then(|| Lists {
            commands: self.edge_commands.list(),
            reports: self.edge_reports.list(),
            leases: vec![],
        });
        Message::Hello(Box::new(Hello {
            version: "test".into(),
            wire: (1, 1),
            actions: vec![],
            commands: self.edge_commands.digest(),
            reports: self.edge_reports.digest(),
            starting: false,
            leases: None,
            lists,
            logs: vec![],
            run: None,
            proof: None,
        }))
    }

    fn new_order(&mut self, machine: u8) {
        let subject = machine.to_string();
        let next = self.wanted.revision(Kind::Order, &subject).unwrap_or(0) + 1;
        self.wanted.hold(Kind::Order, subject.clone(), next);
        self.wire.push(Message::Command(
            Document {
                kind: Kind::Order,
                subject,
            },
            next,
        ));
    }

    fn new_report(&mut self, machine: u8) {
        self.edge_report_revision += 1;
        self.edge_reports
            .hold(Kind::Report, machine.to_string(), self.edge_report_revision);
        self.wire
            .push(Message::Report(machine.to_string(), self.edge_report_revision));
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Hello(hello) => self.control_plane_hears(&hello),
            Message::Sync(SyncRequest::Lists) => self.wire.push(self.hello(true)),
            Message::Sync(
                SyncRequest::Nothing
                | SyncRequest::Logs { .. }
                | SyncRequest::Prove { .. }
                | SyncRequest::StandBy { .. },
            ) => {}
            Message::ReportBack(subject, revision) => self.edge_reports.hold(Kind::Report, subject, revision),
            Message::Sync(SyncRequest::Reports { subjects }) => {
                for subject in subjects {
                    if let Some(revision) = self.edge_reports.revision(Kind::Report, &subject) {
                        self.wire.push(Message::Report(subject, revision));
                    }
                }
            }
            Message::Command(document, revision) => {
                self.edge_commands.hold(document.kind, document.subject, revision)
            }
            Message::Report(subject, revision) => self.received.hold(Kind::Report, subject, revision),
        }
    }

    fn control_plane_hears(&mut self, hello: &Hello) {
        match answer_hello(&self.wanted, &self.received, hello) {
            HelloAnswer::InSync => {}
            HelloAnswer::AskLists => self.wire.push(Message::Sync(SyncRequest::Lists)),
            HelloAnswer::Exchange {
                send,
                want_reports,
                tell_reports,
                ahead,
            } => {
                for subject in tell_reports {
                    let revision = self.received.revision(Kind::Report, &subject).unwrap();
                    self.wire.push(Message::ReportBack(subject, revision));
                }
                for Held {
                    kind,
                    subject,
                    revision,
                } in ahead
                {
                    self.wanted.hold(kind, subject.clone(), revision + 1);
                    self.wire
                        .push(Message::Command(Document { kind, subject }, revision + 1));
                }
                for document in send {
                    let revision = self.wanted.revision(document.kind, &document.subject).unwrap();
                    self.wire.push(Message::Command(document, revision));
                }
                if !want_reports.is_empty() {
                    self.wire.push(Message::Sync(SyncRequest::Reports {
                        subjects: want_reports,
                    }));
                }
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::NewOrder(machine) => self.new_order(*machine),
            Event::NewReport(machine) => self.new_report(*machine),
            Event::Tick => self.wire.push(self.hello(false)),
            Event::DeliverFirst if !self.wire.is_empty() => {
                let message = self.wire.remove(0);
                self.deliver(message);
            }
            Event::DeliverLast => {
                if let Some(message) = self.wire.pop() {
                    self.deliver(message);
                }
            }
            Event::RepeatFirst => {
                if let Some(message) = self.wire.first().cloned() {
                    self.deliver(message);
                }
            }
            Event::LoseFirst if !self.wire.is_empty() => drop(self.wire.remove(0)),
            Event::EdgeLosesDisk => {
                (self.edge_commands, self.edge_reports) = (Holdings::default(), Holdings::default());
            }
            Event::TakeBackup => self.backup = (self.wanted.clone(), self.received.clone()),
            Event::ControlPlaneRestoresBackup => (self.wanted, self.received) = self.backup.clone(),
            Event::DeliverFirst | Event::LoseFirst => {}
        }
    }

    /// After the faults end: ticks with everything delivered. Two rounds must do.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.apply(&Event::Tick);
            while !self.wire.is_empty() {
                self.apply(&Event::DeliverFirst);
            }
        }
    }

    fn assert_converged(&self) {
        let missing = self.wanted.missing_from(&self.edge_commands.list());
        assert!(missing.is_empty(), "the edge lacks {missing:?}");
        for held in self.wanted.list() {
            let at_edge = self.edge_commands.revision(held.kind, &held.subject);
            assert_eq!(at_edge, Some(held.revision), "{held:?}");
        }
        let missing = self.edge_reports.missing_from(&self.received.list());
        assert!(missing.is_empty(), "the control plane lacks {missing:?}");
        let missing = self.received.missing_from(&self.edge_reports.list());
        assert!(missing.is_empty(), "the edge lacks its own {missing:?}");
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..4_u8).prop_map(Event::NewOrder),
        3 => (0..4_u8).prop_map(Event::NewReport),
        2 => Just(Event::Tick),
        6 => Just(Event::DeliverFirst),
        2 => Just(Event::DeliverLast),
        2 => Just(Event::RepeatFirst),
        4 => Just(Event::LoseFirst),
        1 => Just(Event::EdgeLosesDisk),
        1 => Just(Event::TakeBackup),
        1 => Just(Event::ControlPlaneRestoresBackup),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn converges_after_any_schedule_of_faults(events in proptest::collection::vec(event(), 0..80)) {
        let mut world = World::default();
        for event in &events {
            world.apply(event);
        }
        world.settle();
        world.assert_converged();
    }
}

#[test]
fn in_sync_costs_one_small_message() {
    let mut world = World::default();
    world.new_order(1);
    world.settle();
    world.apply(&Event::Tick);
    assert_eq!(world.wire.len(), 1);
    world.apply(&Event::DeliverFirst);
    assert!(world.wire.is_empty(), "nothing is sent when both hold the same");
    assert_ne!(world.wanted.digest(), Digest::of(b""));
}

/// An edge that takes no leases is in step whatever leases there are; one that takes them gets those it lacks, and tells
/// of those it holds in a higher revision.
#[test]
fn leases_are_compared_with_those_who_take_them() {
    let mut wanted = Holdings::default();
    wanted.hold(Kind::Order, "m", 1);
    let orders = wanted.clone();
    wanted.hold(Kind::Lease, "m", 5);
    let none = Holdings::default();
    let hello = |leases: Option<&Holdings>, lists: bool| Hello {
        version: "test".into(),
        wire: (1, 1),
        actions: vec![],
        commands: orders.digest(),
        reports: none.digest(),
        starting: false,
        leases: leases.map(Holdings::digest),
        lists: lists.then(|| Lists {
            commands: orders.list(),
            reports: vec![],
            leases: leases.map(Holdings::list).unwrap_or_default(),
        }),
        logs: vec![],
        run: None,
        proof: None,
    };
    assert_eq!(
        answer_hello(&wanted, &none, &hello(None, false)),
        HelloAnswer::InSync
    );
    assert_eq!(
        answer_hello(&wanted, &none, &hello(None, true)),
        HelloAnswer::InSync
    );
    let asked = answer_hello(&wanted, &none, &hello(Some(&none), false));
    assert_eq!(asked, HelloAnswer::AskLists);
    let answer = answer_hello(&wanted, &none, &hello(Some(&none), true));
    assert!(
        matches!(&answer, HelloAnswer::Exchange { send, ahead, .. } if send.len() == 1
            && send[0].kind == Kind::Lease && ahead.is_empty()),
        "{answer:?}"
    );
    let mut newer = Holdings::default();
    newer.hold(Kind::Lease, "m", 6);
    let answer = answer_hello(&wanted, &none, &hello(Some(&newer), true));
    assert!(
        matches!(&answer, HelloAnswer::Exchange { send, ahead, .. } if send.is_empty()
            && ahead.len() == 1 && ahead[0].revision == 6),
        "{answer:?}"
    );
}
