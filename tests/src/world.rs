//! A running world: lab, control plane in the centre's namespace, edge in the site's. Everything is stopped and removed
//! when it is dropped.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use slipway_lab::{
    commands::{
        down::{Disks, down},
        exec::{Place, command},
        expose::expose,
        up::{Spec, up},
    },
    state::{Lab, LabId, MachineFirmware, SITE_ADDRESS},
};

use slipway_protocol::report::Report;

use crate::{api::Api, fleet::rack::Rack};

/// The site of every world.
pub const SITE: &str = "bj-1";

/// What a world is made of besides the lab: built by the Makefile, named by environment variables.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Folder with the binaries.
    pub binaries: PathBuf,
    /// Folder with the LiveOS.
    pub liveos: PathBuf,
    /// Folder with guest images.
    pub guests: PathBuf,
}

impl Parts {
    /// From `SLIPWAY_BINARIES`, `SLIPWAY_LIVEOS_DIR` and `SLIPWAY_GUESTS`.
    ///
    /// # Errors
    /// When one is not set: the parts are built by `make`.
    pub fn from_environment() -> anyhow::Result<Self> {
        let folder = |name: &str| {
            let value = std::env::var_os(name).map(PathBuf::from);
            value.with_context(|| {
                format!("{name} is not set: run this through `make test` or `make demo`, which build it")
            })
        };
        Ok(Self {
            binaries: folder("SLIPWAY_BINARIES")?,
            liveos: folder("SLIPWAY_LIVEOS_DIR")?,
            guests: folder("SLIPWAY_GUESTS")?,
        })
    }

    /// A guest image.
    #[must_use]
    pub fn guest(&self, name: &str) -> PathBuf {
        self.guests.join(format!("{name}.raw"))
    }
}

/// A running world.
pub struct World {
    /// The lab's id.
    pub id: LabId,
    /// The lab's definition.
    pub lab: Lab,
    /// The API, with a token.
    pub api: Api,
    /// Data and logs.
    pub folder: PathBuf,
    /// Simulated machines at the site, if it has any.
    pub rack: Option<Rack>,
    parts: Parts,
    control_plane: Option<Child>,
    edge: Option<Child>,
}

impl World {
    /// Starts a world named `name` whose API is reached at `api_at` (port 0 for any): lab up, control plane set up, edge
    /// joined, machines enrolled.
    ///
    /// # Errors
    /// When any part of it does not come up; nothing is left then.
    pub async fn start(name: &str, spec: &Spec, parts: Parts, api_at: SocketAddr) -> anyhow::Result<Self> {
        Self::start_with_rack(name, (spec, 0), parts, api_at).await
    }

    /// The same with so many simulated machines at the site, besides those of the lab.
    ///
    /// # Errors
    /// When any part of it does not come up; nothing is left then.
    pub async fn start_with_rack(
        name: &str,
        (spec, simulated): (&Spec, u8),
        parts: Parts,
        api_at: SocketAddr,
    ) -> anyhow::Result<Self> {
        let world = Self::without_edge(name, (spec, simulated), parts, (api_at, SITE_ADDRESS));
        let mut world = world.await?;
        world.join().await?;
        world.start_edge()?;
        world.enrol().await?;
        Ok(world)
    }

    /// The same up to the site, whose edge will be at `edge_address`: nothing has joined it, and no machine is enrolled.
    ///
    /// # Errors
    /// When any part of it does not come up; nothing is left then.
    pub async fn without_edge(
        name: &str,
        (spec, simulated): (&Spec, u8),
        parts: Parts,
        (api_at, edge_address): (SocketAddr, Ipv4Addr),
    ) -> anyhow::Result<Self> {
        let (mut world, setup) = Self::fresh(name, (spec, simulated), parts, api_at).await?;
        world.api.set_up(&setup).await?;
        world.make_site(edge_address).await?;
        Ok(world)
    }

    /// The same up to a control plane that nobody has set up yet, with its set-up token.
    ///
    /// # Errors
    /// When any part of it does not come up; nothing is left then.
    pub async fn fresh(
        name: &str,
        (spec, simulated): (&Spec, u8),
        parts: Parts,
        api_at: SocketAddr,
    ) -> anyhow::Result<(Self, String)> {
        slipway_bus::tls::install_provider();
        let (id, lab) = fresh_lab(name, spec, &parts)?;
        let folder = id.folder().join("world");
        std::fs::create_dir_all(&folder)?;
        let listener =
            TcpListener::bind(api_at).with_context(|| format!("cannot serve the API on {api_at}"))?;
        let api = Api::new(format!("http://{}", listener.local_addr()?))?;
        let mut world = Self {
            id,
            lab,
            api,
            folder,
            rack: None,
            parts,
            control_plane: None,
            edge: None,
        };
        if simulated > 0 {
            world.rack = Some(Rack::start(&world.id.site(), simulated, 1)?);
        }
        world.start_control_plane()?;
        world.forward(listener)?;
        let setup = world.wait_for_setup_token().await?;
        Ok((world, setup))
    }

    fn forward(&self, listener: TcpListener) -> anyhow::Result<()> {
        let id = self.id.clone();
        let target = SocketAddr::new(self.lab.centre_address.into(), 8080);
        std::thread::Builder::new().name("expose".into()).spawn(move || {
            if let Err(error) = expose(&id, &listener, Place::Centre, target) {
                eprintln!("the API is no longer forwarded: {error}");
            }
        })?;
        Ok(())
    }

    /// Starts the control plane, also after a kill.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_control_plane(&mut self) -> anyhow::Result<()> {
        let centre = self.lab.centre_address;
        let mut command = self.process(Place::Centre, "slipway-control-plane")?;
        command
            .env("SLIPWAY_HTTP", format!("{centre}:8080"))
            .env("SLIPWAY_MQTT", format!("{centre}:8883"))
            .env("SLIPWAY_MQTT_PUBLIC", format!("{centre}:8883"))
            .env("SLIPWAY_PUBLIC_URL", format!("http://{centre}:8080"))
            .env("SLIPWAY_DATA_DIR", self.folder.join("control-plane"));
        self.control_plane = Some(self.spawn(command, "control-plane")?);
        Ok(())
    }

    /// Starts the edge, also after a kill.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_edge(&mut self) -> anyhow::Result<()> {
        let mut command = self.edge_command()?;
        command.arg("run");
        self.edge = Some(self.spawn(command, "edge")?);
        Ok(())
    }

    fn edge_command(&self) -> anyhow::Result<Command> {
        let mut command = self.process(Place::Site, "slipway-edge")?;
        let mut interfaces = format!("br0={}", self.lab.site_address);
        if self.rack.is_some() {
            interfaces += &format!(",lo={}", Rack::place().edge());
        }
        command
            .env("SLIPWAY_DATA_DIR", self.folder.join("edge"))
            .env("SLIPWAY_INTERFACES", interfaces)
            .env("SLIPWAY_LIVEOS", &self.parts.liveos);
        Ok(command)
    }

    /// Kills the control plane, and with it the central broker (SIGKILL).
    pub fn kill_control_plane(&mut self) {
        kill(&mut self.control_plane);
    }

    /// Kills the edge, and with it the site's broker (SIGKILL).
    pub fn kill_edge(&mut self) {
        kill(&mut self.edge);
    }

    fn process(&self, place: Place, name: &str) -> anyhow::Result<Command> {
        let program = self.parts.binaries.join(name);
        Ok(command(&self.id, place, &program.display().to_string())?)
    }

    fn spawn(&self, mut command: Command, log: &str) -> anyhow::Result<Child> {
        let open = |kind: &str| {
            let path = self.folder.join(format!("{log}.{kind}"));
            File::options()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(|| format!("cannot write {}", path.display()))
        };
        command
            .stdin(Stdio::null())
            .stdout(open("out")?)
            .stderr(open("log")?);
        command.spawn().with_context(|| format!("cannot start {log}"))
    }

    async fn wait_for_setup_token(&self) -> anyhow::Result<String> {
        let path = self.folder.join("control-plane.out");
        let token = wait_for("the set-up link", Duration::from_secs(30), || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            text.split_once("token=")
                .map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default().to_owned())
        });
        token.await.with_context(|| self.log("control-plane"))
    }

    async fn make_site(&self, edge_address: Ipv4Addr) -> anyhow::Result<()> {
        let subnet = json!({
            "network": "192.0.2.0/24",
            "server": edge_address.to_string(),
            "pool": ["192.0.2.201", "192.0.2.250"],
            "lease_seconds": 600,
        });
        let mut subnets = vec![subnet];
        if self.rack.is_some() {
            let place = Rack::place();
            subnets.push(json!({ "network": place.network(), "server": place.edge(), "lease_seconds": 600 }));
        }
        let site = json!({ "id": SITE, "description": "the lab", "discover": true, "subnets": subnets });
        self.api.post("/api/v1/sites", site).await?;
        Ok(())
    }

    /// A join token of the site.
    ///
    /// # Errors
    /// When the control plane makes none.
    pub async fn token(&self) -> anyhow::Result<String> {
        let path = format!("/api/v1/sites/{SITE}/tokens");
        let token = self.api.post(&path, json!({})).await?;
        Ok(token["token"]
            .as_str()
            .context("no token in the answer")?
            .to_owned())
    }

    async fn join(&self) -> anyhow::Result<()> {
        self.join_with(&self.token().await?)
    }

    /// Lets the edge join by this token.
    ///
    /// # Errors
    /// When the token is refused.
    pub fn join_with(&self, token: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut child = self
            .edge_command()?
            .args(["join", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("no standard input")?
            .write_all(token.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "the edge could not join: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(())
    }

    /// Enrols the lab's machines.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn enrol(&self) -> anyhow::Result<()> {
        for machine in &self.lab.machines {
            let firmware = match machine.firmware {
                MachineFirmware::Bios => "bios",
                MachineFirmware::Uefi => "uefi",
            };
            let body = json!({
                "name": machine.name,
                "site": SITE,
                "macs": [machine.mac],
                "firmware": firmware,
                "bmc": {
                    "driver": "ipmi",
                    "address": format!("{}:623", machine.bmc_address),
                    "username": self.lab.bmc_user,
                    "password": self.lab.bmc_password,
                },
            });
            self.api.post("/api/v1/machines", body).await?;
        }
        for body in self.rack.iter().flat_map(|rack| rack.enrolments(SITE)) {
            self.api.post("/api/v1/machines", body).await?;
        }
        Ok(())
    }

    /// What the edge holds on its disk of each machine's job: the site's own truth.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn site_reports(&self) -> anyhow::Result<Vec<Report>> {
        let store = slipway_edge::store::Store::open(&self.folder.join("edge/edge.db"))?;
        Ok(store.reports()?.into_iter().map(|held| held.report).collect())
    }

    /// Asks for an instance; gives back instance and job.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn install(&self, name: &str, image: &str, more: Value) -> anyhow::Result<(Value, String)> {
        let mut body = json!({ "name": name, "site": SITE, "image": image });
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        let accepted = self.api.post("/api/v1/instances", body).await?;
        let job = accepted["job"]["id"]
            .as_str()
            .context("no job in the answer")?
            .to_owned();
        Ok((accepted["instance"].clone(), job))
    }

    /// Path of a guest's image.
    #[must_use]
    pub fn guest(&self, name: &str) -> PathBuf {
        self.parts.guest(name)
    }

    /// Uploads a guest image under its own name.
    ///
    /// # Errors
    /// When the upload fails.
    pub async fn upload_guest(&self, name: &str) -> anyhow::Result<()> {
        self.api.upload(name, &self.parts.guest(name)).await.map(drop)
    }

    /// A command in one of the lab's namespaces.
    ///
    /// # Errors
    /// When the lab is down.
    pub fn command(&self, place: Place, program: &str) -> anyhow::Result<Command> {
        Ok(command(&self.id, place, program)?)
    }

    /// The end of a part's log.
    #[must_use]
    pub fn log(&self, part: &str) -> String {
        tail(&self.folder.join(format!("{part}.log")))
    }

    /// The end of a machine's console.
    #[must_use]
    pub fn console(&self, machine: usize) -> String {
        self.lab
            .machines
            .get(machine)
            .map(|m| tail(&m.console_log))
            .unwrap_or_default()
    }

    /// A metric of the edge or the control plane, summed over all labels that contain `label`.
    ///
    /// # Errors
    /// When the page cannot be read.
    pub fn edge_metric(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let url = format!("http://{}:8081/metrics", self.lab.site_address);
        let output = self
            .command(Place::Site, "curl")?
            .args(["-sS", "-m", "5", &url])
            .output()?;
        Ok(metric(&String::from_utf8_lossy(&output.stdout), name, label))
    }
}

/// The sum of a metric's values over all lines that contain `label`, from Prometheus' text form.
#[must_use]
pub fn metric(page: &str, name: &str, label: &str) -> f64 {
    let lines = page
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Waits for a level.
///
/// # Errors
/// When it is not reached in time.
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("{what} did not come within {} s", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn tail(path: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

fn kill(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        // It may be gone already; either way it is waited for.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A lab of that name where nothing runs. One that a killed run left behind is taken down first: names of labs are those of
/// tests, so nobody else uses it.
pub(crate) fn fresh_lab(name: &str, spec: &Spec, parts: &Parts) -> anyhow::Result<(LabId, Lab)> {
    let id = LabId::new("/var/tmp/slipway-lab", name)?;
    down(&id, Disks::Remove)?;
    let spec = Spec {
        program: Some(parts.binaries.join("slipway-lab")),
        ..spec.clone()
    };
    let lab = up(&id, &spec)?;
    Ok((id, lab))
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_edge();
        self.kill_control_plane();
        if std::thread::panicking() {
            eprintln!("--- control plane\n{}", self.log("control-plane"));
            eprintln!("--- edge\n{}", self.log("edge"));
            eprintln!("--- console of m1\n{}", self.console(0));
        }
        if let Err(error) = down(&self.id, Disks::Remove) {
            eprintln!("the lab is not wholly down: {error}; run `make clean-lab`");
        }
    }
}
