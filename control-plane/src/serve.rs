//! One running control plane: store, keys, broker, gateway, scheduler, API.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
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
    let (client, events) = gateway::connect(&app, &stop).await?;
    let records: Arc<dyn gateway::records::Records> = Arc::clone(&app) as _;
    let gateway = Gateway::new(records, Arc::new(client), app.sites.subscribe());
    let gateway = tokio::spawn(gateway.run(events, stop.clone()));
    let scheduler = tokio::spawn(scheduler::run(Arc::clone(&app), stop.clone()));
    let events_task = tokio::spawn(domain::events::run(Arc::clone(&app), stop.clone()));
    let keys = tokio::spawn(domain::signing_keys::run(Arc::clone(&app), stop.clone()));
    let webhooks = tokio::spawn(notify::webhooks::run(Arc::clone(&app), stop.clone()));
    let alerts = tokio::spawn(notify::alerts::run(Arc::clone(&app), stop.clone()));
    let mails = tokio::spawn(send_mails(Arc::clone(&app), mailer, stop.clone()));
    if let Some(token) = auth::prepare_setup(&app).await? {
        announce(&format!(
            "{}/setup#token={}",
            app.config.public_url,
            token.reveal()
        ));
    }
    info!(http = %app.config.http, "control plane up");
    let service = router::routes(&app)
        .0
        .into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        result = server => result?,
        ended = gateway => ended.context("the gateway failed")?,
        ended = events_task => ended.context("the event stream failed")?,
        ended = keys => ended.context("the look at signing keys failed")?,
        ended = webhooks => ended.context("the delivery of webhooks failed")?,
        ended = alerts => ended.context("the look at alert rules failed")?,
        ended = mails => ended.context("the sending of mails failed")?,
        ended = scheduler => ended.context("the scheduler failed")?,
    }
    if let Some(exporter) = exporter.filter(|_| stop.is_cancelled()) {
        exporter.await?;
    }
    anyhow::ensure!(stop.is_cancelled(), "a part of the control plane ended by itself");
    Ok(())
}

/// Sends mails until `stop`, if there is a server for them.
async fn send_mails(app: Arc<App>, mailer: Option<Mailer>, stop: CancellationToken) {
    match mailer {
        Some(mailer) => notify::mail::run(app, mailer, stop).await,
        None => stop.cancelled().await,
    }
}
