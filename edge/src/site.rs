//! One running edge: binds every socket first, then starts all tasks. A task that ends ends the process; the service
//! manager starts it again, and it goes on with what is on disk.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, RwLock, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context as _;
use chrono::Utc;
use futures::FutureExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use slipway_bus::{
    Client, Options, broker,
    tls::{self, Shown},
};
use slipway_listen::{Limits, room_for_connections};
use slipway_protocol::{
    ids::EdgeRunId,
    keys::{Stamp, VerifyingKey},
    report::Presence,
    site::{SiteConfig, chunk_key_context},
    topic::{self, Topic},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    agents::{self, AgentAdmission, Doors},
    bmc::Drivers,
    boot::BootTable,
    boots::Boots,
    config::{Config, Interface},
    context::{Context, Outbox},
    dhcp::{keeping, ra, reply::Server, server as dhcp},
    http::{self, HttpState},
    identity::Identity,
    image_room,
    images::{ControlPlane, ImageCache},
    job_log::{self, JobLogs},
    ledger::Ledger,
    link::Link,
    local::{Local, server},
    neighbours,
    renew::Renewal,
    retirement::{self, Reason, Retirement},
    runner::actor::Runner,
    status,
    store::Store,
    tftp::server::{self as tftp, Files},
    uplink::{self, KEYS_SETTING, Uplink, Word},
    watch,
};

/// How long the last will is good: as long as one process may run.
const WILL_VALIDITY: chrono::TimeDelta = chrono::TimeDelta::days(3650);
/// Boot programs handed out by TFTP and HTTP.
const BOOT_PROGRAMS: [&str; 3] = ["undionly.kpxe", "snponly.efi", "ipxe.efi"];

/// All sockets of an edge, bound before anything runs.
struct Sockets {
    dhcp: Vec<(Interface, UdpSocket)>,
    tftp: Vec<(IpAddr, UdpSocket)>,
    http: Vec<TcpListener>,
    agents: Vec<TcpListener>,
    people: TcpListener,
    local: server::Door,
}

impl Sockets {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let mut sockets = Self {
            dhcp: Vec::new(),
            tftp: Vec::new(),
            http: Vec::new(),
            agents: Vec::new(),
            people: listen(config.mqtt_debug).await?,
            local: server::bind(&server::path(&config.data_dir))?,
        };
        for interface in &config.interfaces {
            let address = IpAddr::V4(interface.address);
            let shown = &interface.name;
            if config.dhcp {
                let socket = dhcp::bind(shown, 67)
                    .with_context(|| format!("cannot serve DHCP on {shown} (port 67)"))?;
                sockets.dhcp.push((interface.clone(), socket));
            }
            let socket = UdpSocket::bind((address, 69)).await;
            sockets.tftp.push((
                address,
                socket.with_context(|| format!("cannot serve TFTP on {address} (port 69)"))?,
            ));
            sockets
                .http
                .push(listen(SocketAddr::new(address, config.http_port)).await?);
            sockets
                .agents
                .push(listen(SocketAddr::new(address, config.mqtt_port)).await?);
        }
        Ok(sockets)
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: is another edge running?"))
}

/// Words of the runner: reports to the uplink, messages to the agents.
struct Words {
    uplink: mpsc::Sender<Word>,
    agents: Client,
}

impl Outbox for Words {
    fn report_changed(&self, machine: slipway_protocol::ids::MachineId) {
        // A full queue: the report is on disk, and the next comparison of holdings sends it.
        let _ = self.uplink.try_send(Word::Report(machine));
    }

    fn to_agent(&self, topic: &Topic, payload: Vec<u8>) {
        // An agent that misses this says hello again when it reconnects.
        let _ = self.agents.publish(&topic.to_string(), payload);
    }
}

/// Runs the edge until `stop`. A box that was revoked, or that another one with its identity takes the place of, stays up and
/// does nothing.
///
/// # Errors
/// When it cannot start, or a part of it has failed.
pub async fn run(config: Config, metrics: PrometheusHandle, stop: CancellationToken) -> anyhow::Result<()> {
    let identity = Identity::load(&config.data_dir)?;
    let store = Store::open(&config.data_dir.join("edge.db"))?;
    let work = stop.child_token();
    let retirement = Retirement::of(work.clone());
    let result = if retirement::was_revoked(&store, &identity)? {
        retirement.retire(Reason::Revoked);
        Ok(())
    } else {
        serve(&config, &identity, store, (metrics, retirement.clone(), work)).await
    };
    let Some(reason) = retirement.reason() else {
        return result;
    };
    if let Err(error) = result {
        warn!(%error, "a part of this box failed while it ended its work");
    }
    status::say(&config, &reason.text(&identity));
    error!("{}", reason.text(&identity));
    stop.cancelled().await;
    Ok(())
}

async fn serve(
    config: &Config,
    identity: &Identity,
    store: Store,
    (metrics, retirement, stop): (PrometheusHandle, Retirement, CancellationToken),
) -> anyhow::Result<()> {
    let sockets = Sockets::bind(config).await?;
    let (backend, own_broker) = broker::prepare()?;
    let (words, words_receiver) = mpsc::channel(4096);
    let (local, local_events) = agents::connect(&identity.site, &backend, stop.clone());
    let (uplink, agents) = (words.clone(), local.clone());
    let outbox = Arc::new(Words { uplink, agents });
    let context = take_up(config, identity, store, outbox)?;
    let (runner, runner_task) = Runner::start(Arc::clone(&context), stop.clone())?;
    let renewal = renewal(identity, config)?;
    let doors = (sockets.agents, sockets.people);
    let mut tasks = JoinSet::new();
    open_agents_broker(doors, &renewal, (&context, &backend), &mut tasks, &stop)?;
    let (sightings, sightings_receiver) = mpsc::channel(4096);
    let (unknown, unknown_receiver) = mpsc::channel(256);
    let boot_programs = Arc::new(Files::load(&config.boot_programs, &BOOT_PROGRAMS)?);
    tasks.spawn(own_broker.run(stop.clone()).map(|ended| Ok(ended?)));
    let parts = BootParts {
        sightings: sightings.clone(),
        files: Arc::clone(&boot_programs),
        stop: stop.clone(),
    };
    start_boot_services(&mut tasks, &context, config, (sockets.dhcp, sockets.tftp), parts)?;
    let state = http_state(
        config,
        identity,
        (&context, &runner),
        (boot_programs, sightings),
        metrics,
    );
    start_http(&mut tasks, sockets.http, &state, &stop);
    keep_room(&mut tasks, config, &context, &stop);
    let (central, central_events) = connect_central(identity, renewal.uplink.clone(), &stop)?;
    let state = start_local(&mut tasks, config, (&context, &runner), sockets.local, &stop);
    let (to_central, to_mirror) = (Arc::new(central.clone()), Arc::new(local.clone()));
    let logs = job_log::ship::run(Arc::clone(&context), to_central, to_mirror, stop.clone());
    tasks.spawn(logs.map(Ok));
    watch_standing(&mut tasks, (&context, &state), identity, &retirement, &stop);
    let link = self::uplink(&context, &runner, (central, local), state, retirement);
    let central_events = status::told(config, identity, central_events);
    tasks.spawn(renewal.run(Arc::clone(&context), stop.clone()));
    let link_stop = stop.clone();
    tasks.spawn(async { Ok(link.run(central_events, words_receiver, link_stop).await?) });
    tasks.spawn(async move { Ok(runner_task.await??) });
    tasks.spawn(agents::listen(
        Arc::clone(&context),
        runner.clone(),
        local_events,
        unknown,
    ));
    tasks.spawn(watch::run(
        context,
        runner,
        (sightings_receiver, unknown_receiver),
        words,
        stop.clone(),
    ));
    info!(site = %identity.site, "edge up");
    until_one_ends(tasks, stop).await
}

/// Keeps the image cache within its room.
fn keep_room(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    config: &Config,
    context: &Arc<Context>,
    stop: &CancellationToken,
) {
    let room = config
        .image_cache_bytes
        .unwrap_or_else(|| image_room::usual(&config.data_dir));
    tasks.spawn(image_room::run(Arc::clone(context), room, stop.clone()));
}

/// Asks how this box stands, by itself, and ends its work if another one is to do it.
fn watch_standing(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    (context, link): (&Arc<Context>, &Arc<Link>),
    identity: &Identity,
    retirement: &Retirement,
    stop: &CancellationToken,
) {
    tasks.spawn(retirement::run(
        Arc::clone(context),
        Arc::clone(link),
        identity.url.clone(),
        retirement.clone(),
        stop.clone(),
    ));
}

/// Opens the door for operations at the box; what comes back is the link's state, by which they are allowed.
fn start_local(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    config: &Config,
    (context, runner): (&Arc<Context>, &Runner),
    door: server::Door,
    stop: &CancellationToken,
) -> Arc<Link> {
    let link = Arc::new(Link::down_since((context.now)()));
    let (context, runner) = (Arc::clone(context), runner.clone());
    let local = Local::new(context, runner, Arc::clone(&link), config.cut_off_after);
    tasks.spawn(server::run(Arc::new(local), door, stop.clone()));
    link
}

fn renewal(identity: &Identity, config: &Config) -> anyhow::Result<Renewal> {
    Ok(Renewal {
        uplink: Shown::new(&identity.uplink_tls())?,
        agents: Shown::new(&identity.agent_tls())?,
        identity: identity.clone(),
        data_dir: config.data_dir.clone(),
        addresses: config.addresses(),
    })
}

fn open_agents_broker(
    (agents, people): (Vec<TcpListener>, TcpListener),
    renewal: &Renewal,
    (context, backend): (&Arc<Context>, &broker::Backend),
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let doors = Doors {
        agents,
        people,
        tls: tls::renewed_server_config(renewal.agents.clone())?,
    };
    let admission = AgentAdmission {
        context: Arc::clone(context),
    };
    agents::open_doors(doors, backend, admission, tasks, stop);
    Ok(())
}

fn uplink(
    context: &Arc<Context>,
    runner: &Runner,
    (central, mirror): (Client, Client),
    link: Arc<Link>,
    retirement: Retirement,
) -> Uplink {
    let table = Arc::clone(&context.table);
    let on_config = Box::new(move |c: &SiteConfig| {
        table.set_site(&c.subnets, c.discover);
        table.set_relays(&c.dhcp_relays);
    });
    Uplink {
        context: Arc::clone(context),
        runner: runner.clone(),
        central: Arc::new(central),
        starting: AtomicBool::new(true),
        mirror: Arc::new(mirror),
        link,
        on_config,
        run: EdgeRunId(Uuid::new_v4()),
        proof: Mutex::default(),
        retirement,
    }
}

fn http_state(
    config: &Config,
    identity: &Identity,
    (context, runner): (&Arc<Context>, &Runner),
    (boot_programs, sightings): (Arc<Files>, mpsc::Sender<dhcp::Sighting>),
    metrics: PrometheusHandle,
) -> Arc<HttpState> {
    Arc::new(HttpState {
        context: Arc::clone(context),
        runner: runner.clone(),
        liveos: config.liveos.clone(),
        boot_programs,
        http_port: config.http_port,
        mqtt_port: config.mqtt_port,
        ca: identity.ca.clone(),
        neighbours: Arc::new(neighbours::Kernel),
        serves_dhcp: config.dhcp,
        sightings,
        metrics,
    })
}

fn start_http(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    listeners: Vec<TcpListener>,
    state: &Arc<HttpState>,
    stop: &CancellationToken,
) {
    // A machine fetches a few files at once; one address that asks for more is up to something.
    let limits = Limits {
        connections: room_for_connections().min(Limits::default().connections) / listeners.len().max(1),
        per_address: 32,
        ..Limits::default()
    };
    for listener in listeners {
        let (router, stop) = (http::router(Arc::clone(state)), stop.clone());
        let limits = limits.clone();
        tasks.spawn(async move { Ok(slipway_listen::serve(listener, router, limits, stop).await?) });
    }
}

/// Waits for `stop` or for a part to end, which is a failure of the whole.
async fn until_one_ends(
    mut tasks: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let first = tokio::select! {
        () = stop.cancelled() => None,
        ended = tasks.join_next() => ended,
    };
    stop.cancel();
    let drain = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(5), drain).await.is_err() {
        info!("some tasks did not end in time; ending without them");
    }
    match first {
        None => Ok(()),
        Some(Ok(Ok(()))) => anyhow::bail!("a part of the edge ended by itself"),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(panic)) => Err(panic.into()),
    }
}

/// The shared handles, with what an earlier life of this edge left on disk.
fn take_up(
    config: &Config,
    identity: &Identity,
    store: Store,
    outbox: Arc<dyn Outbox>,
) -> anyhow::Result<Arc<Context>> {
    let context = context(config, identity, store, outbox)?;
    uplink::fill_ledger(&context)?;
    if let Some(held) = uplink::held_config(&context)? {
        context.table.set_site(&held.subnets, held.discover);
        context.table.set_relays(&held.dhcp_relays);
    }
    restore_leases(&context)?;
    match context.store.logs() {
        Ok(logs) => context.logs.take_up(logs),
        // Logs are for people; the site works without them.
        Err(error) => warn!(%error, "the logs of earlier jobs cannot be read"),
    }
    Ok(Arc::new(context))
}

fn context(
    config: &Config,
    identity: &Identity,
    store: Store,
    outbox: Arc<dyn Outbox>,
) -> anyhow::Result<Context> {
    let opening = identity.opening_key()?;
    let chunk_key = opening.open(&identity.chunk_key, &chunk_key_context(&identity.site))?;
    let source = ControlPlane {
        http: reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .build()?,
        url: identity.url.clone(),
        site: identity.site.clone(),
        chunk_key,
    };
    let keys: Vec<VerifyingKey> = match store.setting(KEYS_SETTING)? {
        Some(text) => serde_json::from_str(&text)?,
        None => identity.verifying_keys.clone(),
    };
    Ok(Context {
        site: identity.site.clone(),
        boots: Boots::load(store.clone())?,
        store,
        ledger: Ledger::default(),
        logs: JobLogs::default(),
        table: Arc::new(BootTable::of(
            config
                .interfaces
                .iter()
                .map(|interface| interface.address)
                .collect(),
        )),
        images: ImageCache::new(config.data_dir.join("chunks"), Arc::new(source)),
        signer: identity.signer()?,
        opening,
        outbox,
        bmcs: Arc::new(Drivers::default()),
        now: Utc::now,
        keys: RwLock::new(keys),
    })
}

fn restore_leases(context: &Context) -> anyhow::Result<()> {
    context.table.restore(context.store.dhcp_leases()?);
    Ok(())
}

fn connect_central(
    identity: &Identity,
    shown: Shown,
    stop: &CancellationToken,
) -> anyhow::Result<(Client, mpsc::Receiver<slipway_bus::Event>)> {
    let topic = Topic::Presence(identity.site.clone());
    let now = Utc::now();
    let stamp = Stamp {
        revision: now.timestamp_millis().cast_unsigned(),
        issued_at: now,
        expires_at: now + WILL_VALIDITY,
    };
    let will = identity
        .signer()?
        .seal(&topic, stamp, &Presence { online: false });
    let options = Options {
        client_id: identity.site.to_string(),
        host: identity.broker_host.clone(),
        port: identity.broker_port,
        tls: Some(tls::renewed_client_config(&identity.ca, shown)?),
        credentials: None,
        subscriptions: vec![topic::site_commands(&identity.site)],
        will: Some((topic.to_string(), will)),
    };
    Ok(Client::start(options, stop.clone()))
}

/// What all boot services share.
struct BootParts {
    sightings: mpsc::Sender<dhcp::Sighting>,
    files: Arc<Files>,
    stop: CancellationToken,
}

type BootSockets = (Vec<(Interface, UdpSocket)>, Vec<(IpAddr, UdpSocket)>);

fn start_boot_services(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    context: &Arc<Context>,
    config: &Config,
    (dhcp_sockets, tftp_sockets): BootSockets,
    parts: BootParts,
) -> anyhow::Result<()> {
    let BootParts {
        sightings,
        files,
        stop,
    } = parts;
    let (leases, keeping) = keeping::start(context.store.clone(), stop.clone());
    tasks.spawn(async move {
        keeping.await;
        Ok(())
    });
    for (interface, socket) in dhcp_sockets {
        let index = interface_index(&interface.name)?;
        tasks.spawn(ra::run(interface.name.clone(), index, stop.clone()));
        let server = Server {
            address: interface.address,
            http_port: config.http_port,
        };
        let service = dhcp::Service {
            server,
            table: Arc::clone(&context.table),
            clock: Utc::now,
            leases: leases.clone(),
            sightings: sightings.clone(),
        };
        let stop = stop.clone();
        tasks.spawn(async move {
            dhcp::run(socket, service, stop).await;
            Ok(())
        });
    }
    let (ended, ended_receiver) = mpsc::channel(1024);
    let table = Arc::clone(&context.table);
    let service = tftp::Service {
        files,
        is_known: Arc::new(
            move |address| matches!(address, IpAddr::V4(address) if table.is_reserved(address)),
        ),
        ended,
    };
    for (address, socket) in tftp_sockets {
        let (service, stop) = (service.clone(), stop.clone());
        tasks.spawn(async move {
            tftp::run(socket, address, service, stop).await;
            Ok(())
        });
    }
    tasks.spawn(watch::tftp(Arc::clone(context), ended_receiver, sightings));
    Ok(())
}

fn interface_index(name: &str) -> anyhow::Result<u32> {
    let path = Path::new("/sys/class/net").join(name).join("ifindex");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("there is no network interface `{name}`"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{} holds no number", path.display()))
}
