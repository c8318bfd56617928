//! The control plane's tables in memory, by the rules of the product's own store: an order's revision grows by one, a
//! report is kept if it is newer, a job that has ended stays so, a restore begins above the seconds since 1970.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use slipway_control_plane::{
    domain::jobs::ends_another_order,
    error::ApiError,
    gateway::{
        Opened,
        records::{Heads, Keys, Records},
    },
    store::orders::OrderRow,
    workflow::{
        overdue::{Overdue, overdue},
        release,
        state::JobState,
    },
};
use slipway_protocol::{
    ids::{ImageId, JobId, MacAddr, MachineId, SiteId},
    image::ImageNotice,
    keys::Signer,
    order::Order,
    report::{Failure, MachineSeen, Outcome, Report},
    site::SiteConfig,
    sync::Held,
    topic::Kind,
};
use tokio::sync::Notify;

use super::{
    base::{Base, Job, View},
    clock,
    defect::Defect,
    site::{self, Site},
};

/// How long a job may take, as the product has it.
pub const JOB_LIFE: TimeDelta = TimeDelta::hours(2);

#[derive(Clone, Default)]
struct Tables {
    floor: u64,
    online: bool,
    view: View,
}

/// The tables; clones share them.
#[derive(Clone)]
pub struct Memory {
    tables: Arc<Mutex<Tables>>,
    backups: Arc<Mutex<Vec<Tables>>>,
    site: Arc<Site>,
    defect: Option<Defect>,
}

impl Memory {
    /// Tables with one site that has joined.
    #[must_use]
    pub fn new(site: Arc<Site>, defect: Option<Defect>) -> Self {
        let mut tables = Tables::default();
        tables.view.config = 1;
        Self {
            tables: Arc::new(Mutex::new(tables)),
            backups: Arc::default(),
            site,
            defect,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// The highest revision that was given out.
    fn highest(&self) -> u64 {
        let orders = self.view.orders.values().map(|(revision, _)| *revision);
        orders.max().unwrap_or(0).max(self.view.config).max(self.floor)
    }

    fn put_order(&mut self, order: &Order) {
        let held = self.view.orders.get(&order.machine);
        let revision = held.map_or(self.floor, |(revision, _)| *revision) + 1;
        self.view.orders.insert(order.machine, (revision, order.clone()));
    }

    fn take_report(&mut self, revision: u64, report: &Report, defect: Option<Defect>) {
        let held = self.view.reports.get(&report.machine).map(|(held, _)| *held);
        let older_too = defect == Some(Defect::CentreTakesOlderReports);
        if held.is_some_and(|held| held >= revision) && !older_too {
            return;
        }
        self.view
            .reports
            .insert(report.machine, (revision, report.clone()));
        let order = self.view.orders.get(&report.machine);
        let overtaken = order.is_some_and(|(_, order)| ends_another_order(order, report));
        let (end, code) = match &report.outcome {
            Outcome::Running => return,
            Outcome::Done { .. } => (JobState::Done, None),
            Outcome::Failed { failure, .. } => (JobState::Failed, Some(failure.code.clone())),
        };
        if !overtaken {
            self.finish(report.job, end, code);
        }
    }

    fn finish(&mut self, id: JobId, end: JobState, code: Option<String>) -> bool {
        let Some(job) = self.view.jobs.get_mut(&id).filter(|job| !job.state.is_final()) else {
            return false;
        };
        job.state = end;
        job.code = code;
        job.finished_at = Some(clock::centre());
        true
    }

    fn withdraw(&mut self, id: JobId) {
        let Some(job) = self.view.jobs.get(&id) else {
            return;
        };
        let order = self.view.orders.get(&job.machine).map(|(_, order)| order.clone());
        if let Some(order) = order.filter(|order| order.job == id) {
            self.put_order(&release::nothing(order));
        }
    }
}

/// How a job has ended, as its order says.
fn outcome(job: &Job) -> Option<Outcome> {
    let at = job.finished_at?;
    match job.state {
        JobState::Queued | JobState::Running => None,
        JobState::Done => Some(Outcome::Done { at }),
        JobState::Failed | JobState::Cancelled => Some(Outcome::Failed {
            at,
            step: None,
            failure: Failure {
                code: job.code.clone().unwrap_or_default(),
                message: String::new(),
                transient: false,
            },
        }),
    }
}

#[async_trait]
impl Records for Memory {
    fn now(&self) -> DateTime<Utc> {
        clock::centre()
    }

    fn signer(&self, _site: &SiteId) -> Arc<Signer> {
        Arc::clone(&self.site.centre)
    }

    async fn keys(&self, sites: BTreeSet<SiteId>) -> Result<Keys, ApiError> {
        let ours = sites.into_iter().filter(|site| *site == self.site.id);
        Ok(ours.map(|site| (site, self.site.edge.verifying_key())).collect())
    }

    async fn heads(&self, site: &SiteId) -> Result<Option<Heads>, ApiError> {
        if *site != self.site.id {
            return Ok(None);
        }
        let tables = self.lock();
        let heads = tables.view.orders.iter();
        let heads = heads
            .map(|(machine, (revision, _))| (*machine, *revision))
            .collect();
        Ok(Some((tables.view.config, heads)))
    }

    async fn orders(&self, machines: Vec<MachineId>) -> Result<Vec<OrderRow>, ApiError> {
        let tables = self.lock();
        let row = |machine: MachineId| {
            let (revision, mut order) = tables.view.orders.get(&machine)?.clone();
            order.settled = tables.view.jobs.get(&order.job).and_then(outcome);
            Some(OrderRow {
                site: self.site.id.clone(),
                revision,
                order,
            })
        };
        Ok(machines.into_iter().filter_map(row).collect())
    }

    async fn images(&self, needed: BTreeSet<ImageId>) -> Result<Vec<ImageId>, ApiError> {
        Ok(needed
            .into_iter()
            .filter(|id| *id == site::manifest().id())
            .collect())
    }

    async fn config(&self, site: &SiteId) -> Result<Option<(u64, SiteConfig)>, ApiError> {
        let revision = self.lock().view.config;
        Ok((*site == self.site.id).then(|| (revision, self.site.config())))
    }

    async fn notice(&self, image: ImageId) -> Result<Option<ImageNotice>, ApiError> {
        let manifest = site::manifest();
        let name = "sim".to_owned();
        Ok((manifest.id() == image).then_some(ImageNotice {
            name,
            manifest,
            pinned: false,
        }))
    }

    async fn received(&self, _site: &SiteId) -> Result<Vec<(String, u64)>, ApiError> {
        let tables = self.lock();
        let reports = tables.view.reports.iter();
        Ok(reports
            .map(|(m, (revision, _))| (m.to_string(), *revision))
            .collect())
    }

    async fn report(&self, machine: MachineId) -> Result<Option<(u64, Report)>, ApiError> {
        let told = self.defect != Some(Defect::CentreTellsNoReports);
        Ok(self.lock().view.reports.get(&machine).filter(|_| told).cloned())
    }

    async fn heard(&self, _site: &SiteId, online: bool) -> Result<(), ApiError> {
        self.lock().online = online;
        Ok(())
    }

    async fn seen(&self, _site: &SiteId, _mac: MacAddr, _seen: MachineSeen) -> Result<bool, ApiError> {
        Ok(true)
    }

    async fn raise(&self, _site: &SiteId, ahead: Vec<Held>) -> Result<(), ApiError> {
        let mut tables = self.lock();
        for held in ahead {
            match (held.kind, held.subject.parse::<MachineId>()) {
                (Kind::Config, _) if tables.view.config <= held.revision => {
                    tables.view.config = held.revision + 1;
                }
                (Kind::Order, Ok(machine)) => {
                    if let Some((revision, _)) = tables.view.orders.get_mut(&machine)
                        && *revision <= held.revision
                    {
                        *revision = held.revision + 1;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn keep(&self, reports: Vec<Opened>) -> Result<Vec<Opened>, ApiError> {
        let mut tables = self.lock();
        tables.online = true;
        for opened in reports {
            tables.take_report(opened.revision, &opened.report, self.defect);
        }
        Ok(Vec::new())
    }
}

impl Base for Memory {
    fn records(&self) -> Arc<dyn Records> {
        Arc::new(self.clone())
    }

    fn issue(&self, id: JobId, order: &Order) {
        let mut tables = self.lock();
        tables.put_order(order);
        let job = Job {
            machine: order.machine,
            state: JobState::Running,
            deadline: order.deadline,
            code: None,
            finished_at: None,
        };
        tables.view.jobs.insert(id, job);
    }

    fn job(&self, id: JobId) -> Option<Job> {
        self.lock().view.jobs.get(&id).cloned()
    }

    fn cancel(&self, id: JobId) -> bool {
        let mut tables = self.lock();
        let ended = tables.finish(id, JobState::Cancelled, Some("cancelled".to_owned()));
        if ended {
            tables.withdraw(id);
        }
        ended
    }

    fn retry(&self, id: JobId) -> bool {
        let mut tables = self.lock();
        let deadline = clock::centre() + JOB_LIFE;
        let Some(job) = tables
            .view
            .jobs
            .get(&id)
            .filter(|job| job.state == JobState::Failed)
        else {
            return false;
        };
        let order = tables
            .view
            .orders
            .get(&job.machine)
            .map(|(_, order)| order.clone());
        let Some(order) = order.filter(|order| order.job == id && !order.steps.is_empty()) else {
            return false;
        };
        tables.put_order(&Order {
            retry: order.retry + 1,
            deadline,
            ..order
        });
        if let Some(job) = tables.view.jobs.get_mut(&id) {
            job.state = JobState::Running;
            job.code = None;
            job.finished_at = None;
            job.deadline = deadline;
        }
        true
    }

    fn fail_overdue(&self) -> Vec<JobId> {
        let mut tables = self.lock();
        let (now, online) = (clock::centre(), tables.online);
        let mut ended = Vec::new();
        for (id, job) in tables.view.jobs.clone() {
            let (failure, withdrawn) = match overdue(job.state, "sim", (job.deadline, online), now) {
                Overdue::Wait => continue,
                Overdue::Withdraw(failure) => (failure, true),
                Overdue::GiveUp(failure) => (failure, false),
            };
            if tables.finish(id, JobState::Failed, Some(failure.code)) && withdrawn {
                tables.withdraw(id);
            }
            ended.push(id);
        }
        ended
    }

    fn backup(&self) -> usize {
        let mut backups = self.backups.lock().unwrap_or_else(PoisonError::into_inner);
        backups.push(self.lock().clone());
        backups.len() - 1
    }

    fn restore(&self, backup: usize) {
        let backups = self.backups.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(backup) = backups.get(backup) else { return };
        let mut tables = self.lock();
        let given_out = tables.highest();
        *tables = backup.clone();
        if self.defect == Some(Defect::RestoreKeepsRevisions) {
            return;
        }
        let seconds = clock::centre().timestamp().cast_unsigned();
        let floor = seconds.max(given_out).max(tables.highest()) + 1;
        tables.floor = floor;
        tables.view.config = tables.view.config.max(floor);
        for (revision, _) in tables.view.orders.values_mut() {
            *revision = floor.max(*revision);
        }
    }

    fn view(&self) -> View {
        self.lock().view.clone()
    }

    fn drive(&self, work: &mut (dyn Future<Output = ()> + Unpin), _died: &Notify) -> bool {
        // Nothing here waits for anything, so what is not ready has died.
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(work).poll(&mut context) == Poll::Ready(())
    }
}

/// The reports of a view, by machine, with their revisions alone.
#[must_use]
pub fn revisions(view: &View) -> BTreeMap<MachineId, u64> {
    view.reports
        .iter()
        .map(|(machine, (revision, _))| (*machine, *revision))
        .collect()
}
