//! Anti-entropy: how two sides find out what the other lacks. Pure. Each side keeps (kind, subject) -> revision;
//! digests are compared at every connect and on a slow tick, lists only when digests differ, documents only when a
//! list shows that they are missing. Losing, repeating or reordering any of these messages is harmless.
//!
//! Two holdings are compared: the *commands* of a site (config, orders, images), of which the control plane is the
//! source, and its *reports*, of which the edge is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Digest, EdgeRunId},
    log::{LogHeld, LogTold},
    topic::Kind,
};

/// Names one document of a site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Document {
    /// What it is about.
    pub kind: Kind,
    /// Which one of that kind.
    pub subject: String,
}

/// What one side holds: the revision of each document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings(BTreeMap<Document, u64>);

/// A listed document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What it is about.
    pub kind: Kind,
    /// Which one of that kind.
    pub subject: String,
    /// Its revision.
    pub revision: u64,
}

impl Holdings {
    /// Notes a document; a lower revision than the one held changes nothing.
    pub fn hold(&mut self, kind: Kind, subject: impl Into<String>, revision: u64) {
        let held = self
            .0
            .entry(Document {
                kind,
                subject: subject.into(),
            })
            .or_insert(revision);
        *held = revision.max(*held);
    }

    /// Notes a document in this revision, also when a higher one is held.
    pub fn set(&mut self, kind: Kind, subject: impl Into<String>, revision: u64) {
        let subject = subject.into();
        self.0.insert(Document { kind, subject }, revision);
    }

    /// What is held of one kind, and what is held of all others.
    #[must_use]
    pub fn split(&self, kind: Kind) -> (Self, Self) {
        let (of_kind, others) = self
            .0
            .iter()
            .map(|(document, revision)| (document.clone(), *revision))
            .partition(|(document, _)| document.kind == kind);
        (Self(of_kind), Self(others))
    }

    /// The revision held of a document.
    #[must_use]
    pub fn revision(&self, kind: Kind, subject: &str) -> Option<u64> {
        self.0
            .get(&Document {
                kind,
                subject: subject.to_owned(),
            })
            .copied()
    }

    /// One value for all of it; equal digests mean equal holdings.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let text = serde_json::to_vec(&self.list()).expect("a list of documents serialises");
        Digest::of(&text)
    }

    /// All of it, in a fixed order.
    #[must_use]
    pub fn list(&self) -> Vec<Held> {
        let held = |(d, &revision): (&Document, &u64)| Held {
            kind: d.kind,
            subject: d.subject.clone(),
            revision,
        };
        self.0.iter().map(held).collect()
    }

    /// The documents the other side, which listed `theirs`, lacks or holds in a lower revision.
    #[must_use]
    pub fn missing_from(&self, theirs: &[Held]) -> Vec<Document> {
        let theirs = Self::from_list(theirs);
        let lacks = |(document, revision): &(&Document, &u64)| {
            theirs.0.get(document).is_none_or(|has| has < revision)
        };
        self.0
            .iter()
            .filter(lacks)
            .map(|(document, _)| document.clone())
            .collect()
    }

    /// Holdings as listed by the other side.
    #[must_use]
    pub fn from_list(list: &[Held]) -> Self {
        let mut holdings = Self::default();
        for held in list {
            holdings.hold(held.kind, held.subject.clone(), held.revision);
        }
        holdings
    }
}

/// `evt/hello`: what an edge says when it connects, on each tick, and when it is asked for its lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the edge's build.
    pub version: String,
    /// Wire versions it speaks, oldest and newest.
    pub wire: (u16, u16),
    /// Actions it knows.
    #[serde(default)]
    pub actions: Vec<String>,
    /// Digest of the commands it holds.
    pub commands: Digest,
    /// Digest of the reports it has.
    pub reports: Digest,
    /// It has just started and waits to hear that it holds what it should, before it goes on with what it had begun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starting: bool,
    /// Digest of the leases it holds. Left out by edges that take none: nothing of the kind is sent to those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases: Option<Digest>,
    /// Both lists, when they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<Lists>,
    /// Logs of jobs of which it has not heard that they arrived, the newest [`MAX_TOLD`](crate::log::MAX_TOLD). Never part of
    /// the comparison of documents: logs may be lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogTold>,
    /// Which run of the edge's process says so. Left out by edges that cannot stand by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<EdgeRunId>,
    /// The challenge of the last [`SyncRequest::Prove`] for this run: that the run lives now, and that this is no late message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// Both lists of an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lists {
    /// The commands it holds.
    pub commands: Vec<Held>,
    /// The reports it has.
    pub reports: Vec<Held>,
    /// The leases it holds: apart from the other commands, so that a control plane that knows none reads the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<Held>,
}

/// `cmd/sync`: what the control plane wants of an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "want")]
pub enum SyncRequest {
    /// A digest differs: a hello with lists.
    Lists,
    /// These reports are missing here.
    Reports {
        /// Subjects: machines.
        subjects: Vec<String>,
    },
    /// How much of the logs that a hello told of is held here. Only said to edges that tell of logs.
    Logs {
        /// Each log with its end here.
        held: Vec<LogHeld>,
    },
    /// Nothing: the edge, which has just started, holds what it should, and its reports are its newest.
    Nothing,
    /// A hello of this run with this challenge: another run with the same identity was heard since. Only said to edges that
    /// tell their run.
    Prove {
        /// The run.
        run: EdgeRunId,
        /// What its hello is to give back.
        challenge: String,
    },
    /// This run does nothing more until it is started again: another box with the same identity works. Only said to edges that
    /// tell their run.
    StandBy {
        /// The run.
        run: EdgeRunId,
    },
}

/// What the control plane does about a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HelloAnswer {
    /// Both sides hold the same.
    InSync,
    /// Ask for the lists.
    AskLists,
    /// Send these commands, and ask for these reports.
    Exchange {
        /// Commands the edge lacks.
        send: Vec<Document>,
        /// Reports the control plane lacks, by subject.
        want_reports: Vec<String>,
        /// Reports of which the edge has lost the newest, by subject, as after the loss of its disk or the restore of an
        /// old one: they are told back to it, before any command.
        tell_reports: Vec<String>,
        /// Commands of which the edge holds a higher revision than the control plane gave out, as after the restore
        /// of an old backup: what is in force must be issued anew, above these.
        ahead: Vec<Held>,
    },
}

/// Decides about a hello: `commands` is what the control plane wants the site to hold, leases among them, `reports` what it
/// has of it. Leases are compared only with an edge that says that it takes them.
///
/// Documents of which the control plane knows nothing at all stay where they are: an edge may hold more.
#[must_use]
pub fn answer_hello(commands: &Holdings, reports: &Holdings, hello: &Hello) -> HelloAnswer {
    let (leases, commands) = commands.split(Kind::Lease);
    let Some(lists) = &hello.lists else {
        let same = commands.digest() == hello.commands
            && reports.digest() == hello.reports
            && hello.leases.is_none_or(|theirs| leases.digest() == theirs);
        return if same {
            HelloAnswer::InSync
        } else {
            HelloAnswer::AskLists
        };
    };
    let mut send = commands.missing_from(&lists.commands);
    if hello.leases.is_some() {
        send.extend(leases.missing_from(&lists.leases));
    }
    let subjects = |missing: Vec<Document>| missing.into_iter().map(|d| d.subject).collect::<Vec<_>>();
    let want_reports = subjects(Holdings::from_list(&lists.reports).missing_from(&reports.list()));
    let tell_reports = subjects(reports.missing_from(&lists.reports));
    let is_ahead = |h: &&Held| {
        let ours = if h.kind == Kind::Lease { &leases } else { &commands };
        ours.revision(h.kind, &h.subject).is_some_and(|r| r < h.revision)
    };
    let listed = lists.commands.iter().chain(&lists.leases);
    let ahead: Vec<Held> = listed.filter(is_ahead).cloned().collect();
    if send.is_empty() && want_reports.is_empty() && tell_reports.is_empty() && ahead.is_empty() {
        return HelloAnswer::InSync;
    }
    HelloAnswer::Exchange {
        send,
        want_reports,
        tell_reports,
        ahead,
    }
}
