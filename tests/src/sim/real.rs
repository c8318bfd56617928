//! The control plane's database as it is: the product's store (SQLite) and its handles, in memory. Slower by a hundred
//! times than [`super::memory`], which it holds to be true: the same seed must end in the same view.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics_exporter_prometheus::PrometheusBuilder;
use slipway_control_plane::{
    app::App,
    config::Given,
    domain,
    gateway::records::Records,
    store::{
        Database, Store, StoreResult,
        images::{self, Edition, Image},
        jobs,
        machines::{self, Machine},
        orders, reports,
        sites::{self, SiteSettings},
        upkeep,
    },
    workflow::{
        release,
        state::{JobKind, JobState, MachineState},
    },
};
use slipway_protocol::{
    ids::{InstanceId, JobId, MachineId},
    inventory::FirmwareKind,
    keys::Signer,
    order::Order,
    report::Failure,
};
use tokio::{runtime::Runtime, sync::Notify};
use uuid::Uuid;

use super::{
    base::{Base, Job, View},
    clock,
    machine::{mac, machine_id},
    memory::JOB_LIFE,
    site::{Site, manifest},
};

/// The product's store of one site that has joined.
pub struct Real {
    site: Arc<Site>,
    runtime: Runtime,
    dir: tempfile::TempDir,
    app: Mutex<Arc<App>>,
    jobs: Mutex<Vec<JobId>>,
    machines: u8,
    backups: Mutex<Vec<PathBuf>>,
}

fn failure(code: &str) -> Failure {
    Failure {
        code: code.to_owned(),
        message: "as the run has it".to_owned(),
        transient: false,
    }
}

impl Real {
    /// A store with one site, its machines and an image.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(site: Arc<Site>, machines: u8) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("slipway-sim-")
            .tempdir_in("/dev/shm")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let app = runtime.block_on(open(&dir, 0, Arc::clone(&site.centre)))?;
        let real = Self {
            site,
            runtime,
            dir,
            app: Mutex::new(app),
            jobs: Mutex::default(),
            machines,
            backups: Mutex::default(),
        };
        let (id, report, sealing) = (
            real.site.id.clone(),
            real.site.edge.verifying_key(),
            real.site.opening().sealing_key(),
        );
        real.with(move |db| {
            let settings = SiteSettings {
                dhcp_relays: vec![],
                description: String::new(),
                discover: false,
                subnets: Vec::new(),
                limits: Default::default(),
                offline: Default::default(),
            };
            sites::insert(db, &id, &settings, clock::centre())?;
            sites::set_keys(db, &id, report, sealing, ("-", &report.id()))?;
            (0..machines).try_for_each(|index| machines::insert(db, &machine(&id, index.into())))?;
            images::insert(db, &image())
        });
        Ok(real)
    }

    fn app(&self) -> Arc<App> {
        Arc::clone(&self.app.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn jobs(&self) -> MutexGuard<'_, Vec<JobId>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> StoreResult<T> + Send + 'static,
    ) -> T {
        let app = self.app();
        let done = self.runtime.block_on(app.store.transaction(work));
        done.expect("the store in memory works")
    }
}

/// The handles over the n-th copy of the database.
async fn open(dir: &tempfile::TempDir, copy: usize, centre: Arc<Signer>) -> anyhow::Result<Arc<App>> {
    let path = dir.path().join(format!("base-{copy}.db"));
    let given = Given {
        data_dir: Some(dir.path().into()),
        database_url: Some(path.display().to_string()),
        ..Given::default()
    };
    let config = given.resolve()?;
    let store = Store::open(&config.database_url).await?;
    let mut app = App::new(config, store, PrometheusBuilder::new().build_recorder().handle())?;
    let handles = Arc::get_mut(&mut app).expect("nobody else has it yet");
    handles.now = clock::centre;
    handles.file_key = centre;
    // As the product does at its start: sites are told of the keys that the database has.
    domain::signing_keys::load(&app).await?;
    Ok(app)
}

fn machine(site: &slipway_protocol::ids::SiteId, index: usize) -> Machine {
    Machine {
        id: machine_id(index),
        name: format!("m{index}"),
        site: site.clone(),
        state: MachineState::Allocated,
        address: [192, 0, 2, u8::try_from(10 + index).unwrap_or(0)].into(),
        details: machines::MachineDetails {
            macs: vec![mac(index)],
            firmware: FirmwareKind::Bios,
            bmc: None,
            labels: BTreeMap::new(),
            inventory: None,
        },
        bmc_password: None,
        bmc_candidates: Vec::new(),
        bmc_state: None,
        class: machines::Class::default(),
        hold: machines::Hold::default(),
        live_job: None,
        version: 1,
        created_at: clock::centre(),
    }
}

fn image() -> Image {
    Image {
        id: manifest().id(),
        name: "sim".to_owned(),
        manifest: manifest(),
        edition: Edition::default(),
        created_at: clock::centre(),
    }
}

fn withdraw(db: &mut Database, machine: MachineId, id: JobId) -> StoreResult<()> {
    if let Some(row) = orders::get(db, machine)?
        && row.order.job == id
    {
        orders::put(db, &row.site, &release::nothing(row.order))?;
    }
    Ok(())
}

impl Base for Real {
    fn records(&self) -> Arc<dyn Records> {
        self.app()
    }

    fn issue(&self, id: JobId, order: &Order) {
        self.jobs().push(id);
        let (site, order) = (self.site.id.clone(), order.clone());
        self.with(move |db| {
            orders::put(db, &site, &order)?;
            let job = jobs::Job {
                id,
                instance: Some(InstanceId(Uuid::from_u128(1))),
                site,
                machine: Some(order.machine),
                kind: JobKind::Install,
                priority: 0,
                waiting: None,
                state: JobState::Running,
                failure: None,
                deadline: order.deadline,
                created_at: clock::centre(),
                finished_at: None,
            };
            jobs::insert(db, &job)
        });
    }

    fn job(&self, id: JobId) -> Option<Job> {
        let row = self.with(move |db| jobs::get(db, &id.to_string()))?;
        Some(Job {
            machine: row.machine?,
            state: row.state,
            deadline: row.deadline,
            code: row.failure.map(|failure| failure.code),
            finished_at: row.finished_at,
        })
    }

    fn cancel(&self, id: JobId) -> bool {
        let Some(job) = self.job(id) else { return false };
        let now = clock::centre();
        self.with(move |db| {
            let ended = jobs::finish(db, id, JobState::Cancelled, Some(&failure("cancelled")), now)?;
            if ended {
                withdraw(db, job.machine, id)?;
            }
            Ok(ended)
        })
    }

    fn retry(&self, id: JobId) -> bool {
        let Some(job) = self.job(id).filter(|job| job.state == JobState::Failed) else {
            return false;
        };
        let deadline = clock::centre() + JOB_LIFE;
        self.with(move |db| {
            let row = orders::get(db, job.machine)?;
            let Some(row) = row.filter(|row| row.order.job == id && !row.order.steps.is_empty()) else {
                return Ok(false);
            };
            let order = Order {
                retry: row.order.retry + 1,
                deadline,
                ..row.order
            };
            orders::put(db, &row.site, &order)?;
            jobs::reopen(db, id, JobState::Running, deadline)
        })
    }

    fn fail_overdue(&self) -> Vec<JobId> {
        let live = |id: &JobId| self.job(*id).is_some_and(|job| !job.state.is_final());
        let before: Vec<JobId> = self.jobs().clone().into_iter().filter(live).collect();
        let app = self.app();
        let failed = self.runtime.block_on(domain::jobs::fail_overdue(&app));
        failed.expect("the store in memory works");
        before.into_iter().filter(|id| !live(id)).collect()
    }

    fn backup(&self) -> usize {
        let mut backups = self.backups.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.path().join(format!("backup-{}.db", backups.len()));
        let app = self.app();
        let copied = upkeep::copy_sqlite(&app.config.database_url, &path);
        copied.expect("the store in memory can be copied");
        backups.push(path);
        backups.len() - 1
    }

    fn restore(&self, backup: usize) {
        let backups = self.backups.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = 1 + std::fs::read_dir(self.dir.path()).map_or(0, Iterator::count);
        let path = self.dir.path().join(format!("base-{copy}.db"));
        let given_out = upkeep::highest_given_out(&self.app().config.database_url);
        std::fs::copy(&backups[backup], path).expect("there is room in memory");
        let app = self
            .runtime
            .block_on(open(&self.dir, copy, Arc::clone(&self.site.centre)));
        *self.app.lock().unwrap_or_else(PoisonError::into_inner) = app.expect("a copy of a store is one");
        let given_out = given_out.unwrap_or(0).max(clock::centre().timestamp());
        self.with(move |db| upkeep::raise_revisions(db, given_out));
    }

    fn view(&self) -> View {
        let (id, jobs, count) = (self.site.id.clone(), self.jobs().clone(), self.machines);
        let mut view = View::default();
        view.jobs
            .extend(jobs.into_iter().filter_map(|id| Some((id, self.job(id)?))));
        self.with(move |db| {
            view.config = sites::get(db, id.as_str())?.map_or(0, |row| row.revision);
            for machine in (0..usize::from(count)).map(machine_id) {
                let order = orders::get(db, machine)?;
                view.orders
                    .extend(order.map(|row| (machine, (row.revision, row.order))));
                let report = reports::of_machine(db, machine)?;
                view.reports.extend(report.map(|report| (machine, report)));
            }
            Ok(view)
        })
    }

    fn drive(&self, work: &mut (dyn Future<Output = ()> + Unpin), died: &Notify) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = work => true,
                () = died.notified() => false,
            }
        })
    }
}
