//! One running control plane: store, keys, broker, gateway, scheduler, API.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::FutureExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use slipway_bus::{Client, Event};
use slipway_listen::{Limits, room_for_connections};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    app::App,
    auth,
    config::Config,
    domain,
    gateway::{self, Gateway},
    notify::{self, mail::Mailer},
    router, scheduler,
    store::Store,
    telemetry::Tracer,
};

/// How long the parts may take to end once they are to: a request under way is answered.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs the control plane until `stop`. `announce` is given the set-up link, once, if nobody has a token yet.
///
/// # Errors
/// When it cannot start, or its API server fails.
pub async fn run(
    config: Config,
    metrics: PrometheusHandle,
    announce: impl FnOnce(&str),
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make the data folder {}", dir.display()))?;
    let mailer = config.smtp.as_deref();
    let mailer = mailer
        .map(|url| Mailer::new(url, &config.smtp_from))
        .transpose()?;
    let listener = TcpListener::bind(config.http)
        .await
        .with_context(|| format!("cannot listen on {}", config.http))?;
    let store = Store::open(&config.database_url).await?;
    let (tracer, exporter) = match &config.otlp_endpoint {
        Some(endpoint) => {
            let (tracer, exporter) = Tracer::new(endpoint)?;
            (tracer, Some(exporter))
        }
        None => (Tracer::default(), None),
    };
    let app = App::new(config, store.with_tracer(tracer), metrics)?;
    domain::signing_keys::load(&app).await?;
    let exporter = exporter.map(|exporter| tokio::spawn(exporter.run(stop.clone())));
    let mut tasks = JoinSet::new();
    let (client, events) = gateway::connect(&app, &mut tasks, &stop).await?;
    for part in parts(&app, client, events, mailer, &stop) {
        tasks.spawn(part.map(Ok));
    }
    if let Some(token) = auth::prepare_setup(&app).await? {
        announce(&format!(
            "{}/setup#token={}",
            app.config.public_url,
            token.reveal()
        ));
    }
    info!(http = %app.config.http, "control plane up");
    let limits = Limits {
        connections: room_for_connections().min(Limits::default().connections),
        exempt: app.config.trusted_proxies.clone(),
        ..Limits::default()
    };
    let server = slipway_listen::serve(listener, router::routes(&app).0, limits, stop.clone());
    tasks.spawn(async { Ok(server.await?) });
    let ended = until_one_ends(tasks, &stop).await;
    if let Some(exporter) = exporter.filter(|_| ended.is_ok()) {
        exporter.await?;
    }
    ended
}

/// The parts that are not servers.
fn parts(
    app: &Arc<App>,
    client: Client,
    events: mpsc::Receiver<Event>,
    mailer: Option<Mailer>,
    stop: &CancellationToken,
) -> [futures::future::BoxFuture<'static, ()>; 8] {
    // There is one connection in a process.
    let _ = app.link.set(client.clone());
    let records: Arc<dyn gateway::records::Records> = Arc::clone(app) as _;
    let gateway = Gateway::new(records, Arc::new(client), app.sites.subscribe());
    [
        Box::pin(gateway.run(events, stop.clone())),
        Box::pin(scheduler::run(Arc::clone(app), stop.clone())),
        Box::pin(domain::events::run(Arc::clone(app), stop.clone())),
        Box::pin(domain::signing_keys::run(Arc::clone(app), stop.clone())),
        Box::pin(domain::image_chunks::run(Arc::clone(app), stop.clone())),
        Box::pin(notify::webhooks::run(Arc::clone(app), stop.clone())),
        Box::pin(notify::alerts::run(Arc::clone(app), stop.clone())),
        Box::pin(send_mails(Arc::clone(app), mailer, stop.clone())),
    ]
}

/// Waits for `stop`, or for a part to end, which is a failure of the whole; then gives all parts a moment to end.
async fn until_one_ends(
    mut tasks: JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let first = tokio::select! {
        () = stop.cancelled() => None,
        ended = tasks.join_next() => ended,
    };
    let asked = stop.is_cancelled();
    stop.cancel();
    let drain = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drain).await.is_err() {
        info!("some parts did not end in time; ending without them");
    }
    match first {
        Some(Ok(Err(error))) => Err(error),
        Some(Err(panic)) => Err(panic.into()),
        Some(Ok(Ok(()))) if !asked => anyhow::bail!("a part of the control plane ended by itself"),
        _ => Ok(()),
    }
}

/// Sends mails until `stop`, if there is a server for them.
async fn send_mails(app: Arc<App>, mailer: Option<Mailer>, stop: CancellationToken) {
    match mailer {
        Some(mailer) => notify::mail::run(app, mailer, stop).await,
        None => stop.cancelled().await,
    }
}
