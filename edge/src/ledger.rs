//! Which documents this edge holds in which revision: what digests and lists are made of. In memory, kept in step with
//! the store by whoever writes there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use slipway_protocol::{
    order::KNOWN_ACTIONS,
    sync::{Hello, Holdings, Lists},
    topic::Kind,
    version,
};

/// Both holdings of an edge.
#[derive(Debug, Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    commands: Holdings,
    reports: Holdings,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a command that is in the store.
    pub fn hold_command(&self, kind: Kind, subject: &str, revision: u64) {
        self.lock().commands.hold(kind, subject, revision);
    }

    /// Notes a report that is in the store.
    pub fn hold_report(&self, machine: &str, revision: u64) {
        self.lock().reports.set(Kind::Report, machine, revision);
    }

    /// The revision held of a machine's report.
    #[must_use]
    pub fn report_revision(&self, machine: &str) -> Option<u64> {
        self.lock().reports.revision(Kind::Report, machine)
    }

    /// The revision held of a command.
    #[must_use]
    pub fn command_revision(&self, kind: Kind, subject: &str) -> Option<u64> {
        self.lock().commands.revision(kind, subject)
    }

    /// What to say to the control plane now.
    #[must_use]
    pub fn hello(&self, with_lists: bool, starting: bool) -> Hello {
        let inner = self.lock();
        let (leases, commands) = inner.commands.split(Kind::Lease);
        let lists = with_lists.then(|| Lists {
            commands: commands.list(),
            reports: inner.reports.list(),
            leases: leases.list(),
        });
        Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wire: (version::MIN, version::CURRENT),
            actions: KNOWN_ACTIONS.map(str::to_owned).to_vec(),
            commands: commands.digest(),
            reports: inner.reports.digest(),
            starting,
            leases: Some(leases.digest()),
            lists,
            logs: Vec::new(),
            run: None,
            proof: None,
        }
    }
}
