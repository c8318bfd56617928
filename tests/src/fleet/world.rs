//! A running fleet: a control plane and one edge a site, each a real process, and simulated machines in this process.
//! Everything is stopped and removed when it is dropped. It must never reach beyond its own loopback addresses.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use slipway_lab::bmc::{self, Faults, Users};
use tokio::{net::UdpSocket, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    chassis::SimulatedChassis,
    database::{Database, Postgres},
    image,
    machine::Machine,
    pace::Pace,
    place::{Block, MAX_MACHINES, MAX_SITES, MachinePlace, SitePlace},
    process::{Process, Usage},
    refused::{self, Refused},
    replicas,
};
use crate::{api::Api, world::wait_for};

/// The image every install is of.
pub const IMAGE: &str = "guest";
/// Requests to the API at once while the fleet is set up and installs are asked for.
pub const PARALLEL: usize = 16;
const BMC_USER: &str = "fleet";
const BMC_PASSWORD: &str = "simulated";

/// How large a fleet is.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Sites, each with an edge.
    pub sites: u8,
    /// Machines a site.
    pub machines: u8,
    /// Control planes on that one database, 1 or more; several need PostgreSQL and have a Mosquitto between them and the
    /// sites, and a balancer before them.
    pub replicas: u8,
    /// The control plane's database.
    pub database: Database,
    /// Seed of all times of simulated hardware.
    pub seed: u64,
}

/// One process and where its metrics are.
pub struct Part {
    process: Mutex<Process>,
    metrics: String,
    former_refused: Mutex<Refused>,
}

impl Part {
    fn new(process: Process, metrics: String) -> Self {
        Self {
            process: Mutex::new(process),
            metrics,
            former_refused: Mutex::default(),
        }
    }

    /// The process.
    pub fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills it (SIGKILL), after a look at what it refused.
    pub async fn kill(&self, api: &Api) {
        let refused = self.refused(api).await;
        *self.former_refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        self.process().kill();
    }

    /// What it has refused in all its lives, as far as it was asked.
    pub async fn refused(&self, api: &Api) -> Refused {
        let mut all = self
            .former_refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let page = api.page(&self.metrics).await.unwrap_or_default();
        refused::add(&mut all, &refused::from_page(&page));
        all
    }
}

/// A running fleet.
pub struct Fleet {
    /// What it was made of.
    pub spec: Spec,
    /// Its addresses.
    pub block: Block,
    /// The API, with a token.
    pub api: Api,
    /// The control planes.
    pub control_planes: Vec<Part>,
    /// The edges.
    pub edges: Vec<Part>,
    /// What the machines' BMCs are told to do wrong, and their event logs, by the machines' names.
    pub bmcs: BTreeMap<String, Arc<Faults>>,
    machines: JoinSet<std::io::Result<()>>,
    _broker: Option<Process>,
    stop: CancellationToken,
    /// Data and logs.
    folder: tempfile::TempDir,
    _disks: tempfile::TempDir,
    _postgres: Option<Postgres>,
    /// Keeps other fleets out of this one's addresses.
    _lock: TcpListener,
}

impl Fleet {
    /// Starts a fleet through the public API: sites made, edges joined, machines enrolled, image uploaded.
    ///
    /// # Errors
    /// When any part of it does not come up; nothing is left then.
    pub async fn start(spec: Spec) -> anyhow::Result<Self> {
        ensure!(
            spec.sites <= MAX_SITES && spec.machines <= MAX_MACHINES,
            "a fleet has at most {MAX_SITES} sites of {MAX_MACHINES} machines"
        );
        slipway_bus::tls::install_provider();
        let (block, lock) = free_block()?;
        let folder = tempfile::Builder::new().prefix("slipway-fleet-").tempdir()?;
        let postgres = match spec.database {
            Database::Sqlite => None,
            Database::Postgres => Some(Postgres::start()?),
        };
        let liveos = image::liveos(folder.path())?;
        ensure!(
            spec.replicas == 1 || postgres.is_some(),
            "several replicas need PostgreSQL"
        );
        let control_planes: Vec<Part> = (0..spec.replicas)
            .map(|index| control_plane(block, (index, spec.replicas), folder.path(), postgres.as_ref()))
            .collect::<anyhow::Result<_>>()?;
        let stop = CancellationToken::new();
        let broker = match &control_planes[..] {
            [_] => None,
            several => {
                replicas::balance(block, spec.replicas, &stop).await?;
                Some(replicas::broker(block, &several[0], folder.path())?)
            }
        };
        let edges = (0..spec.sites).map(|site| edge(block.site(site), folder.path(), &liveos));
        let mut fleet = Self {
            spec,
            block,
            api: Api::new(format!("http://{}", block.api()))?,
            control_planes,
            edges: edges.collect::<anyhow::Result<_>>()?,
            bmcs: BTreeMap::new(),
            machines: JoinSet::new(),
            _broker: broker,
            stop,
            // A disk's speed is not what is measured.
            _disks: tempfile::Builder::new()
                .prefix("slipway-fleet-")
                .tempdir_in(memory())?,
            folder,
            _postgres: postgres,
            _lock: lock,
        };
        // The first makes keys and tables, and is set up, before the others come.
        fleet.control_planes[0].process().start()?;
        let token = fleet.setup_token().await?;
        fleet.api.set_up(&token).await?;
        for replica in &fleet.control_planes[1..] {
            replica.process().start()?;
        }
        let guest = image::guest(fleet.folder.path())?;
        fleet.api.upload(IMAGE, &guest).await?;
        fleet.open_sites(block).await?;
        fleet.enrol(block).await?;
        Ok(fleet)
    }

    async fn setup_token(&self) -> anyhow::Result<String> {
        let look = || {
            let text = self.control_planes[0].process().output();
            let (_, rest) = text.split_once("token=")?;
            rest.split_once(char::is_whitespace)
                .map(|(token, _)| token.to_owned())
        };
        let token = wait_for("the set-up link", Duration::from_secs(60), look).await;
        token.with_context(|| self.control_planes[0].process().log_tail())
    }

    async fn open_sites(&self, block: Block) -> anyhow::Result<()> {
        let sites = (0..self.spec.sites).map(|site| self.open_site(block.site(site), usize::from(site)));
        futures::stream::iter(sites)
            .buffer_unordered(4)
            .try_collect()
            .await
    }

    async fn open_site(&self, place: SitePlace, index: usize) -> anyhow::Result<()> {
        let subnet = json!({ "network": place.network(), "server": place.edge(), "lease_seconds": 600 });
        let site =
            json!({ "id": place.name(), "description": "simulated", "discover": false, "subnets": [subnet] });
        self.api.post("/api/v1/sites", site).await?;
        let token = self
            .api
            .post(&format!("/api/v1/sites/{}/tokens", place.name()), json!({}))
            .await?;
        let token = token["token"]
            .as_str()
            .context("no token in the answer")?
            .to_owned();
        let edge = self.edges.get(index).context("no such edge")?;
        let mut join = edge.process().command();
        let output = tokio::task::spawn_blocking(move || join.args(["join", &token]).output()).await??;
        ensure!(
            output.status.success(),
            "{} could not join: {}",
            place.name(),
            String::from_utf8_lossy(&output.stderr)
        );
        edge.process().start()
    }

    async fn enrol(&mut self, block: Block) -> anyhow::Result<()> {
        let machines = self.spec.machines;
        let places: Vec<MachinePlace> = (0..self.spec.sites)
            .flat_map(|site| (0..machines).map(move |machine| block.site(site).machine(machine)))
            .collect();
        for place in &places {
            let pace = Pace::new(self.spec.seed, place.number());
            let machine = Machine::new(*place, self._disks.path(), pace)?;
            let chassis = SimulatedChassis::new(machine, self.stop.clone());
            let socket = UdpSocket::bind(place.bmc()).await;
            let socket = socket.with_context(|| format!("cannot serve a BMC on {}", place.bmc()))?;
            let users = Users::administrator(BMC_USER, BMC_PASSWORD);
            let faults = Arc::<Faults>::default();
            self.bmcs.insert(place.name(), Arc::clone(&faults));
            self.machines
                .spawn(bmc::serve_with_faults(socket, users, Arc::new(chassis), faults));
        }
        let api = &self.api;
        let posts = places.into_iter().map(|place| async move {
            let bmc = json!({ "driver": "ipmi", "address": place.bmc(), "username": BMC_USER, "password": BMC_PASSWORD });
            let body = json!({ "name": place.name(), "site": place.site.name(), "macs": [place.mac()],
                "firmware": "bios", "address": place.address(), "bmc": bmc });
            api.post("/api/v1/machines", body).await.map(drop)
        });
        futures::stream::iter(posts)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// What all edges have used.
    #[must_use]
    pub fn edge_usage(&self) -> Usage {
        usage(&self.edges)
    }

    /// What all control planes have used.
    #[must_use]
    pub fn control_plane_usage(&self) -> Usage {
        usage(&self.control_planes)
    }

    /// What control plane and edges have refused, by reason.
    pub async fn refused(&self) -> Refused {
        let mut all: Refused = BTreeMap::new();
        for part in self.edges.iter().chain(&self.control_planes) {
            refused::add(&mut all, &part.refused(&self.api).await);
        }
        all
    }

    /// Gives the first administrator a password, for those who come by a browser.
    ///
    /// # Errors
    /// When the control plane refuses it.
    pub async fn let_in(&self, password: &str) -> anyhow::Result<()> {
        let change = json!({ "password": password });
        self.api
            .call(reqwest::Method::PATCH, "/api/v1/users/demo", Some(change))
            .await?;
        Ok(())
    }

    /// The processes that ended by themselves, which none should.
    #[must_use]
    pub fn ended(&self) -> Vec<String> {
        let parts = self.edges.iter().chain(&self.control_planes);
        parts.filter_map(|part| part.process().ended()).collect()
    }

    /// Data and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves data and logs where they are; gives back where.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
        self.machines.abort_all();
        if std::thread::panicking() {
            for part in &self.control_planes {
                eprintln!("--- control plane\n{}", part.process().log_tail());
            }
            for (index, edge) in self.edges.iter().enumerate().take(4) {
                eprintln!("--- edge {index}\n{}", edge.process().log_tail());
            }
        }
    }
}

/// CPU time and peak memory, summed.
fn usage(parts: &[Part]) -> Usage {
    parts.iter().fold(Usage::default(), |sum, part| {
        let used = part.process().usage();
        Usage {
            cpu_s: sum.cpu_s + used.cpu_s,
            peak_bytes: sum.peak_bytes + used.peak_bytes,
        }
    })
}

/// A block of addresses that no other fleet on this host uses, and what keeps it.
fn free_block() -> anyhow::Result<(Block, TcpListener)> {
    let lock = |block: u8| TcpListener::bind((Ipv4Addr::new(127, block, 0, 1), 1)).ok();
    let free = (16..=250).find_map(|block| lock(block).map(|held| (Block(block), held)));
    free.context("no free block of loopback addresses: run as root, and stop other fleets")
}

fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        shared.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// A binary of this workspace: in `SLIPWAY_BINARIES`, else where this program was built.
///
/// # Errors
/// When it is not built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("SLIPWAY_BINARIES")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    let own = std::env::current_exe()?;
    folders.extend(own.ancestors().skip(1).take(2).map(Path::to_owned));
    let found = folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: run `cargo build --bins` or set SLIPWAY_BINARIES"))
}

fn level() -> (String, String) {
    let level = std::env::var("SLIPWAY_LOG").unwrap_or_else(|_| "warn".to_owned());
    ("SLIPWAY_LOG".to_owned(), level)
}

/// One control plane, `index` of `replicas`. Replicas share keys and image chunks, here by one folder.
fn control_plane(
    block: Block,
    (index, replicas): (u8, u8),
    folder: &Path,
    postgres: Option<&Postgres>,
) -> anyhow::Result<Part> {
    let data = folder.join("control-plane");
    let http = if replicas == 1 {
        block.api()
    } else {
        block.replica(index)
    };
    let mut environment = vec![
        level(),
        ("SLIPWAY_HTTP".to_owned(), http.to_string()),
        ("SLIPWAY_MQTT".to_owned(), block.mqtt().to_string()),
        ("SLIPWAY_MQTT_PUBLIC".to_owned(), block.mqtt().to_string()),
        ("SLIPWAY_PUBLIC_URL".to_owned(), format!("http://{}", block.api())),
        ("SLIPWAY_DATA_DIR".to_owned(), data.display().to_string()),
    ];
    environment.extend(postgres.map(|p| ("SLIPWAY_DATABASE_URL".to_owned(), p.url())));
    if replicas > 1 {
        let broker = block.replicas_mqtt().to_string();
        environment.push(("SLIPWAY_BROKER".to_owned(), broker));
    }
    let log = folder.join(format!("control-plane-{index}"));
    let process = Process::new(binary("slipway-control-plane")?, &[], environment, log);
    Ok(Part::new(process, format!("http://{http}/metrics")))
}

fn edge(place: SitePlace, folder: &Path, liveos: &Path) -> anyhow::Result<Part> {
    let data = folder.join(place.name());
    let address = place.edge();
    let environment = vec![
        level(),
        ("SLIPWAY_DATA_DIR".to_owned(), data.display().to_string()),
        ("SLIPWAY_INTERFACES".to_owned(), format!("lo={address}")),
        // Broadcasts of a hundred sites cannot be told apart on one loopback interface.
        ("SLIPWAY_EDGE_DHCP".to_owned(), "false".to_owned()),
        ("SLIPWAY_EDGE_MQTT_DEBUG".to_owned(), format!("{address}:1883")),
        ("SLIPWAY_LIVEOS".to_owned(), liveos.display().to_string()),
        ("SLIPWAY_BOOT_PROGRAMS".to_owned(), liveos.display().to_string()),
        // One site of a hundred on this host.
        ("TOKIO_WORKER_THREADS".to_owned(), "1".to_owned()),
    ];
    let process = Process::new(binary("slipway-edge")?, &["run"], environment, data);
    Ok(Part::new(
        process,
        format!("http://{}/metrics", place.edge_http()),
    ))
}
