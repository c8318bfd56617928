//! What the gateway reads and keeps, as a trait: the gateway's decisions are the same over the product's store, which
//! [`App`] stands for, and over one that a simulator can break off at any call. A call that writes is one transaction.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{Digest, ImageId, JobId, MacAddr, MachineId, SiteId},
    image::ImageNotice,
    keys::{Signer, VerifyingKey},
    log::{LogHeld, LogTold},
    report::{Failure, MachineSeen, Outcome, Report},
    site::SiteConfig,
    sync::{Held, Hello},
    topic::Kind,
};

use super::intake::Opened;
use crate::{
    app::App,
    domain::{self, edge_runs::RunStanding, job_logs, sites::config_of},
    error::ApiError,
    store::{
        Database, StoreError, StoreResult, images,
        jobs::{self, Job},
        offers::{self, LeaseRow},
        orders::{self, OrderRow},
        reports, signing_keys, sites,
    },
    workflow::state::JobState,
};

/// By what the reports of sites are verified.
pub type Keys = HashMap<SiteId, VerifyingKey>;

/// The revision of a site's configuration, and its machines that have an order, with the order's revision.
pub type Heads = (u64, Vec<(MachineId, u64)>);

/// What the gateway works on.
#[async_trait]
pub trait Records: Send + Sync {
    /// The clock.
    fn now(&self) -> DateTime<Utc>;
    /// Signs what is sent to a site.
    fn signer(&self, site: &SiteId) -> Arc<Signer>;
    /// The revision that images' notices have for a site: their content never changes, but who vouches for it.
    fn edition(&self, _site: &SiteId) -> u64 {
        1
    }
    /// A site holds its configuration in this revision.
    async fn confirmed(&self, _site: &SiteId, _config: u64) -> Result<(), ApiError> {
        Ok(())
    }
    /// The keys of those of these sites that have joined.
    async fn keys(&self, sites: BTreeSet<SiteId>) -> Result<Keys, ApiError>;
    /// What a site should hold, by revisions; `None` for a site nobody made or joined.
    async fn heads(&self, site: &SiteId) -> Result<Option<Heads>, ApiError>;
    /// The orders of these machines; those without one are left out.
    async fn orders(&self, machines: Vec<MachineId>) -> Result<Vec<OrderRow>, ApiError>;
    /// Those of these images that are there.
    async fn images(&self, needed: BTreeSet<ImageId>) -> Result<Vec<ImageId>, ApiError>;
    /// A site's configuration with its revision.
    async fn config(&self, site: &SiteId) -> Result<Option<(u64, SiteConfig)>, ApiError>;
    /// What a site is told of an image.
    async fn notice(&self, image: ImageId) -> Result<Option<ImageNotice>, ApiError>;
    /// The revisions held of a site's reports, by machine.
    async fn received(&self, site: &SiteId) -> Result<Vec<(String, u64)>, ApiError>;
    /// The newest report that is held on a machine, with its revision.
    async fn report(&self, machine: MachineId) -> Result<Option<(u64, Report)>, ApiError>;
    /// What the run of an edge that says hello is told, should there be two boxes with one identity.
    async fn run_heard(&self, _site: &SiteId, _hello: &Hello) -> Result<RunStanding, ApiError> {
        Ok(RunStanding::Works { in_doubt: false })
    }
    /// A site was heard, or its connection was lost.
    async fn heard(&self, site: &SiteId, online: bool) -> Result<(), ApiError>;
    /// A site saw a machine nobody knows; `false` if the port is a machine's of another site, and nothing was kept.
    async fn seen(&self, site: &SiteId, mac: MacAddr, seen: MachineSeen) -> Result<bool, ApiError>;
    /// The revisions of the leases a site is to hold; none at a site whose edge takes none.
    async fn leases(&self, _site: &SiteId) -> Result<Vec<(MachineId, u64)>, ApiError> {
        Ok(Vec::new())
    }
    /// A machine's lease.
    async fn lease(&self, _site: &SiteId, _machine: MachineId) -> Result<Option<LeaseRow>, ApiError> {
        Ok(None)
    }
    /// A site's edge said whether it takes leases.
    async fn takes_leases(&self, _site: &SiteId, _takes: bool) -> Result<(), ApiError> {
        Ok(())
    }
    /// A site holds these leases, and all its reports were heard.
    async fn holds_leases(&self, _site: &SiteId, _held: Vec<(MachineId, u64)>) -> Result<(), ApiError> {
        Ok(())
    }
    /// Issues what is in force anew, above what an edge holds.
    async fn raise(&self, site: &SiteId, ahead: Vec<Held>) -> Result<(), ApiError>;
    /// Keeps those reports that are news, and wakes who waits for them; gives back those about machines that are not their
    /// site's, of which nothing was kept.
    async fn keep(&self, reports: Vec<Opened>) -> Result<Vec<Opened>, ApiError>;
    /// Keeps pieces of logs, and wakes who waits for them; gives back those that are not their site's to send.
    async fn keep_logs(&self, _logs: Vec<job_logs::Arrived>) -> Result<Vec<job_logs::Arrived>, ApiError> {
        Ok(Vec::new())
    }
    /// How much is held of the logs a site told of.
    async fn held_logs(&self, _site: &SiteId, _told: Vec<LogTold>) -> Result<Vec<LogHeld>, ApiError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Records for App {
    fn now(&self) -> DateTime<Utc> {
        (self.now)()
    }

    fn signer(&self, site: &SiteId) -> Arc<Signer> {
        self.signing.of_site(site).signer
    }

    fn edition(&self, site: &SiteId) -> u64 {
        edition(self.signing.of_site(site).generation, site, (self.now)())
    }

    async fn confirmed(&self, site: &SiteId, config: u64) -> Result<(), ApiError> {
        domain::signing_keys::confirm(self, site, config).await
    }

    async fn keys(&self, sites: BTreeSet<SiteId>) -> Result<Keys, ApiError> {
        Ok(self.store.read(move |db| keys(db, sites)).await?)
    }

    async fn heads(&self, site: &SiteId) -> Result<Option<Heads>, ApiError> {
        let id = site.clone();
        Ok(self.store.read(move |db| heads(db, &id)).await?)
    }

    async fn orders(&self, machines: Vec<MachineId>) -> Result<Vec<OrderRow>, ApiError> {
        let read = self.store.read(move |db| {
            let rows = machines.into_iter().map(|machine| order(db, machine));
            rows.filter_map(StoreResult::transpose)
                .collect::<StoreResult<_>>()
        });
        Ok(read.await?)
    }

    async fn images(&self, needed: BTreeSet<ImageId>) -> Result<Vec<ImageId>, ApiError> {
        let read = self.store.transaction(move |db| images::existing(db, &needed));
        Ok(read.await?)
    }

    async fn config(&self, site: &SiteId) -> Result<Option<(u64, SiteConfig)>, ApiError> {
        let id = site.clone();
        let read = self.store.transaction(move |db| {
            // Together: a revision stands for the keys that were announced by it, which this process may not know yet.
            let Some(row) = sites::get(db, id.as_str())? else {
                return Ok(None);
            };
            let keys = signing_keys::all(db)?.into_iter();
            let keys = keys.filter(|key| key.retired_at.is_none()).map(|key| key.public);
            Ok::<_, StoreError>(Some((row.revision, config_of(&row, keys.collect()))))
        });
        Ok(read.await?)
    }

    async fn notice(&self, image: ImageId) -> Result<Option<ImageNotice>, ApiError> {
        let row = self
            .store
            .transaction(move |db| images::get(db, &image.to_string()));
        Ok(row.await?.map(|image| ImageNotice {
            name: image.name,
            manifest: image.manifest,
            pinned: false,
        }))
    }

    async fn received(&self, site: &SiteId) -> Result<Vec<(String, u64)>, ApiError> {
        let id = site.clone();
        Ok(self.store.read(move |db| reports::revisions(db, &id)).await?)
    }

    async fn report(&self, machine: MachineId) -> Result<Option<(u64, Report)>, ApiError> {
        Ok(self
            .store
            .read(move |db| reports::of_machine(db, machine))
            .await?)
    }

    async fn run_heard(&self, site: &SiteId, hello: &Hello) -> Result<RunStanding, ApiError> {
        domain::edge_runs::heard(self, site, hello).await
    }

    async fn heard(&self, site: &SiteId, online: bool) -> Result<(), ApiError> {
        let (site, now) = (site.clone(), (self.now)());
        let set = self
            .store
            .transaction(move |db| domain::sites::heard(db, &site, online, now));
        Ok(set.await?)
    }

    async fn seen(&self, site: &SiteId, mac: MacAddr, seen: MachineSeen) -> Result<bool, ApiError> {
        let (site, now) = (site.clone(), (self.now)());
        let put = self
            .store
            .transaction(move |db| domain::machines::seen(db, &site, mac, &seen, now));
        Ok(put.await?)
    }

    async fn leases(&self, site: &SiteId) -> Result<Vec<(MachineId, u64)>, ApiError> {
        let id = site.clone();
        let read = self.store.read(move |db| {
            let takes = sites::get(db, id.as_str())?.is_some_and(|row| row.takes_leases);
            if takes {
                offers::heads(db, &id)
            } else {
                Ok(Vec::new())
            }
        });
        Ok(read.await?)
    }

    async fn lease(&self, site: &SiteId, machine: MachineId) -> Result<Option<LeaseRow>, ApiError> {
        let id = site.clone();
        let row = self.store.read(move |db| offers::lease_of(db, &id, machine));
        Ok(row.await?)
    }

    async fn takes_leases(&self, site: &SiteId, takes: bool) -> Result<(), ApiError> {
        let id = site.clone();
        let known = self.store.read(move |db| sites::get(db, id.as_str())).await?;
        // Each hello says it, and hardly one says anything new: nobody waits for the right to write then.
        if known.is_none_or(|known| known.takes_leases == takes) {
            return Ok(());
        }
        let id = site.clone();
        let set = self
            .store
            .transaction(move |db| sites::set_takes_leases(db, &id, takes));
        Ok(set.await?)
    }

    async fn holds_leases(&self, site: &SiteId, held: Vec<(MachineId, u64)>) -> Result<(), ApiError> {
        if held.is_empty() {
            return Ok(());
        }
        let id = site.clone();
        let former = self.store.read(move |db| offers::former(db, &id, &held)).await?;
        if former.is_empty() {
            return Ok(());
        }
        let forgotten = self.store.transaction(move |db| offers::forget(db, former));
        Ok(forgotten.await?)
    }

    async fn raise(&self, site: &SiteId, ahead: Vec<Held>) -> Result<(), ApiError> {
        let id = site.clone();
        let raised = self.store.transaction(move |db| {
            for held in &ahead {
                match (held.kind, held.subject.parse()) {
                    (Kind::Config, _) => sites::raise_revision(db, &id, held.revision)?,
                    // Its site may have begun what it was offered: its report will tell, and what it began is not undone.
                    (Kind::Order, Ok(machine)) if offers::may_be_used(db, machine, held.revision)? => {}
                    (Kind::Order, Ok(machine)) => orders::raise_revision(db, machine, held.revision)?,
                    (Kind::Lease, Ok(machine)) => offers::raise_revision(db, &id, machine, held.revision)?,
                    _ => {}
                }
            }
            Ok::<_, StoreError>(())
        });
        Ok(raised.await?)
    }

    async fn keep_logs(&self, logs: Vec<job_logs::Arrived>) -> Result<Vec<job_logs::Arrived>, ApiError> {
        let now = (self.now)();
        let kept = self.store.transaction(move |db| keep_logs(db, logs, now)).await?;
        for job in kept.news {
            // Nobody waiting for this job is no error.
            let _ = self.reports.send(job.to_string());
        }
        Ok(kept.refused)
    }

    async fn held_logs(&self, site: &SiteId, told: Vec<LogTold>) -> Result<Vec<LogHeld>, ApiError> {
        let (site, now) = (site.clone(), (self.now)());
        let held = self.store.read(move |db| job_logs::held(db, &site, &told, now));
        Ok(held.await?)
    }

    async fn keep(&self, opened: Vec<Opened>) -> Result<Vec<Opened>, ApiError> {
        let now = (self.now)();
        let KeptReports { kept, refused } = self.store.transaction(move |db| keep(db, opened, now)).await?;
        for (job, _) in &kept {
            // Nobody waiting for this job is no error.
            let _ = self.reports.send(job.to_string());
        }
        // Only the end of a job may leave a machine for those who wait; progress comes a hundred times as often.
        if kept.iter().any(|(_, ended)| *ended) {
            self.work.notify_one();
        }
        Ok(refused)
    }
}

fn keys(db: &mut Database, sites: BTreeSet<SiteId>) -> StoreResult<Keys> {
    let mut keys = Keys::new();
    for site in sites {
        if let Some(key) = sites::get(db, site.as_str())?.and_then(|row| row.report_key) {
            keys.insert(site, key);
        }
    }
    Ok(keys)
}

/// How long before their notices run out images are told of anew, twice over.
const HALF_A_YEAR_S: u64 = 180 * 24 * 3600;

/// Grows with the key a site is signed to by, and twice a year, so that no agent meets a notice that has run out; each site on
/// a day of its own.
fn edition(generation: u64, site: &SiteId, now: DateTime<Utc>) -> u64 {
    let bytes = Digest::of(site.as_str().as_bytes()).0;
    let day = u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) % HALF_A_YEAR_S;
    let half_years = (now.timestamp().max(0).cast_unsigned() + day) / HALF_A_YEAR_S;
    generation * 1_000_000 + half_years
}

/// An order, with how its job has ended: to an edge that has a report of it that is no news.
fn order(db: &mut Database, machine: MachineId) -> StoreResult<Option<OrderRow>> {
    let Some(mut row) = orders::get(db, machine)? else {
        return Ok(None);
    };
    let job = jobs::get(db, &row.order.job.to_string())?;
    row.order.settled = job.as_ref().and_then(outcome);
    Ok(Some(row))
}

fn outcome(job: &Job) -> Option<Outcome> {
    let at = job.finished_at?;
    let failed = |failure| Outcome::Failed {
        at,
        step: None,
        failure,
    };
    match job.state {
        JobState::Queued | JobState::Running => None,
        JobState::Done => Some(Outcome::Done { at }),
        JobState::Failed | JobState::Cancelled => Some(failed(job.failure.clone().unwrap_or(Failure {
            code: "cancelled".to_owned(),
            message: "the job was called off".to_owned(),
            transient: false,
        }))),
    }
}

/// A site without an edge that joined is sent nothing: whoever listens there has lost its trust.
fn heads(db: &mut Database, site: &SiteId) -> StoreResult<Option<Heads>> {
    let row = sites::get(db, site.as_str())?.filter(|row| row.report_key.is_some());
    let Some(row) = row else {
        return Ok(None);
    };
    Ok(Some((row.revision, orders::heads(db, site)?)))
}

/// What came of reports.
#[derive(Default)]
struct KeptReports {
    /// The jobs of those that were news, and whether each has ended.
    kept: Vec<(JobId, bool)>,
    refused: Vec<Opened>,
}

/// Keeps reports that came together.
fn keep(db: &mut Database, opened: Vec<Opened>, now: DateTime<Utc>) -> StoreResult<KeptReports> {
    let heard: BTreeSet<&SiteId> = opened.iter().map(|report| &report.site).collect();
    for site in heard {
        domain::sites::heard(db, site, true, now)?;
    }
    let mut result = KeptReports::default();
    for opened in opened {
        let (site, report) = (&opened.site, &opened.report);
        if !domain::machines::is_of_site(db, site, report.machine)? {
            result.refused.push(opened);
        } else if domain::jobs::take_report(db, site, opened.revision, report, now)? {
            result.kept.push((report.job, report.outcome.is_final()));
        }
    }
    Ok(result)
}

/// What came of pieces of logs.
#[derive(Default)]
struct KeptLogs {
    /// The jobs whose logs grew.
    news: BTreeSet<JobId>,
    refused: Vec<job_logs::Arrived>,
}

fn keep_logs(db: &mut Database, logs: Vec<job_logs::Arrived>, now: DateTime<Utc>) -> StoreResult<KeptLogs> {
    let mut kept = KeptLogs::default();
    for arrived in logs {
        match job_logs::take(db, &arrived, now)? {
            None => kept.refused.push(arrived),
            Some(true) => drop(kept.news.insert(arrived.chunk.job)),
            Some(false) => {}
        }
    }
    Ok(kept)
}
