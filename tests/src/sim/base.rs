//! What the control plane's database is to a run: a thing that can be asked, copied and put back. There are two: tables
//! in memory, quick enough for a million runs, and the product's own store. Both must do the same with the same seed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use slipway_control_plane::{
    error::ApiError,
    gateway::{
        Opened,
        records::{Heads, Keys, Records},
    },
    store::{StoreError, orders::OrderRow},
    workflow::state::JobState,
};
use slipway_protocol::{
    ids::{ImageId, JobId, MacAddr, MachineId, SiteId},
    image::ImageNotice,
    keys::Signer,
    order::Order,
    report::{MachineSeen, Report},
    site::SiteConfig,
    sync::Held,
};
use tokio::sync::Notify;

use super::judge::Judge;

/// A job as the control plane has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its machine.
    pub machine: MachineId,
    /// Its state.
    pub state: JobState,
    /// When it fails at the latest.
    pub deadline: DateTime<Utc>,
    /// Why it failed.
    pub code: Option<String>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// All that is told of the control plane at the end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The revision of the site's configuration.
    pub config: u64,
    /// Orders in force.
    pub orders: BTreeMap<MachineId, (u64, Order)>,
    /// The last report on each machine.
    pub reports: BTreeMap<MachineId, (u64, Report)>,
    /// Jobs.
    pub jobs: BTreeMap<JobId, Job>,
}

/// A database of the control plane.
pub trait Base {
    /// What the gateway works on.
    fn records(&self) -> Arc<dyn Records>;
    /// Takes a job on, and puts its order in force.
    fn issue(&self, id: JobId, order: &Order);
    /// One job.
    fn job(&self, id: JobId) -> Option<Job>;
    /// Calls a job off and withdraws its order; `false` if it has ended.
    fn cancel(&self, id: JobId) -> bool;
    /// Takes a failed job up again; `false` if that cannot be.
    fn retry(&self, id: JobId) -> bool;
    /// Fails what is overdue, and answers which jobs.
    fn fail_overdue(&self) -> Vec<JobId>;
    /// Makes a backup, and answers its number.
    fn backup(&self) -> usize;
    /// Puts a backup back, as `slipway-control-plane restore` does.
    fn restore(&self, backup: usize);
    /// All of it.
    fn view(&self) -> View;
    /// Runs the gateway's future until it is ready, or until it died.
    fn drive(&self, work: &mut (dyn Future<Output = ()> + Unpin), died: &Notify) -> bool;
}

/// Where the control plane's process can die: before and after each call of its store.
#[derive(Clone)]
pub struct Fragile {
    /// What is asked.
    pub inner: Arc<dyn Records>,
    /// Sides of calls left until it dies; below zero it lives on.
    pub fuse: Arc<AtomicI64>,
    /// Whether writes find no room.
    pub full: Arc<AtomicBool>,
    /// Told of its death.
    pub died: Arc<Notify>,
    /// Sees what is kept.
    pub judge: Judge,
}

impl Fragile {
    async fn point(&self) {
        match self.fuse.load(Ordering::Relaxed) {
            0 => {
                self.died.notify_one();
                std::future::pending::<()>().await;
            }
            left if left > 0 => self.fuse.store(left - 1, Ordering::Relaxed),
            _ => {}
        }
    }

    async fn around<T>(&self, call: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        self.point().await;
        let answer = call.await;
        self.point().await;
        answer
    }

    async fn write<T>(&self, call: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        if self.full.load(Ordering::Relaxed) {
            self.judge.count(|figures| figures.disk_full += 1);
            return Err(ApiError::from(StoreError::Row("no room".to_owned())));
        }
        self.around(call).await
    }
}

#[async_trait]
impl Records for Fragile {
    fn now(&self) -> DateTime<Utc> {
        self.inner.now()
    }

    fn signer(&self, site: &SiteId) -> Arc<Signer> {
        self.inner.signer(site)
    }

    async fn keys(&self, sites: std::collections::BTreeSet<SiteId>) -> Result<Keys, ApiError> {
        self.around(self.inner.keys(sites)).await
    }

    async fn heads(&self, site: &SiteId) -> Result<Option<Heads>, ApiError> {
        self.around(self.inner.heads(site)).await
    }

    async fn orders(&self, machines: Vec<MachineId>) -> Result<Vec<OrderRow>, ApiError> {
        self.around(self.inner.orders(machines)).await
    }

    async fn images(&self, needed: std::collections::BTreeSet<ImageId>) -> Result<Vec<ImageId>, ApiError> {
        self.around(self.inner.images(needed)).await
    }

    async fn config(&self, site: &SiteId) -> Result<Option<(u64, SiteConfig)>, ApiError> {
        self.around(self.inner.config(site)).await
    }

    async fn notice(&self, image: ImageId) -> Result<Option<ImageNotice>, ApiError> {
        self.around(self.inner.notice(image)).await
    }

    async fn received(&self, site: &SiteId) -> Result<Vec<(String, u64)>, ApiError> {
        self.around(self.inner.received(site)).await
    }

    async fn report(&self, machine: MachineId) -> Result<Option<(u64, Report)>, ApiError> {
        self.around(self.inner.report(machine)).await
    }

    async fn heard(&self, site: &SiteId, online: bool) -> Result<(), ApiError> {
        self.write(self.inner.heard(site, online)).await
    }

    async fn seen(&self, site: &SiteId, mac: MacAddr, seen: MachineSeen) -> Result<bool, ApiError> {
        self.write(self.inner.seen(site, mac, seen)).await
    }

    async fn raise(&self, site: &SiteId, ahead: Vec<Held>) -> Result<(), ApiError> {
        self.write(self.inner.raise(site, ahead)).await
    }

    async fn keep(&self, reports: Vec<Opened>) -> Result<Vec<Opened>, ApiError> {
        let told = reports.clone();
        let keep = async {
            let kept = self.inner.keep(reports).await;
            for opened in told.iter().filter(|_| kept.is_ok()) {
                let held = self.inner.received(&opened.site).await?;
                let machine = opened.report.machine.to_string();
                if held.contains(&(machine, opened.revision)) {
                    self.judge.centre_keeps(opened.revision, &opened.report);
                }
            }
            kept
        };
        self.write(keep).await
    }
}
