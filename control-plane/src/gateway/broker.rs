//! The gateway's broker: the embedded one behind its guard, or one that is run elsewhere.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;
use chrono::DateTime;
use slipway_bus::{
    Client, Event, Options,
    acl::Acl,
    broker,
    guard::{Admission, Admitted, Applicant, Budget, Guard},
    tls,
};
use slipway_protocol::{
    ids::{Digest, SiteId},
    keys::{Signer, Stamp},
    topic::{self, Topic},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    app::App,
    metrics,
    store::{StoreError, edge_certificates},
    upkeep::mosquitto::CONTROL_PLANE,
};

/// Edges by their certificate: its common name is the site, and so is the client id, and it was not taken back.
struct Edges(Arc<App>);

impl Admission for Edges {
    fn admit(&self, applicant: &Applicant) -> Result<Admitted, String> {
        let certificate = applicant.certificate.as_ref().ok_or("no client certificate")?;
        let site = SiteId::new(certificate.common_name.as_str()).map_err(|e| e.to_string())?;
        if applicant.client_id != site.as_str() {
            return Err(format!(
                "the client id is not `{site}`, the name in the certificate"
            ));
        }
        let leave = self.0.edges.check(&site, &certificate.serial)?;
        let acl = Acl {
            publish: vec![format!("{}#", topic::site_events_prefix(&site))],
            subscribe: vec![topic::site_commands(&site)],
        };
        Ok(Admitted {
            leave,
            budget: Budget::SITE,
            ..Admitted::from(acl)
        })
    }

    fn refused(&self, what: &'static str, applicant: &str, reason: &str) {
        metrics::broker_refused(what);
        warn!(what, applicant, reason, "refused at the broker");
    }
}

/// Connects to the broker of the settings, starting the embedded one, whose tasks go into `tasks`, if none is named.
///
/// # Errors
/// When the broker cannot be started or a certificate cannot be made.
pub async fn connect(
    app: &Arc<App>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<(Client, mpsc::Receiver<Event>)> {
    let options = match &app.config.broker {
        Some(external) => {
            let identity = app
                .authority
                .identity("control-plane", &["control-plane".to_owned()])?;
            Options {
                client_id: format!("control-plane-{:08x}", rand::random::<u32>()),
                host: external.host.clone(),
                port: external.port,
                tls: Some(tls::client_config(&app.authority.certificate, Some(&identity))?),
                credentials: None,
                // Replicas share what arrives: each message is taken by one of them.
                subscriptions: vec![format!("$share/{}/{}", group(&app.file_key), topic::all_events())],
                will: None,
            }
        }
        None => {
            let (backend, own_broker) = broker::prepare()?;
            let broker_stop = stop.clone();
            tasks.spawn(async { Ok(own_broker.run(broker_stop).await?) });
            let door = open_door(app, &backend).await?;
            let door_stop = stop.clone();
            tasks.spawn(async {
                door.run(door_stop).await;
                Ok(())
            });
            // Only the first one is asked how it is; there is one in a process.
            let _ = app.broker.set(backend.clone());
            Options {
                client_id: "control-plane".to_owned(),
                host: backend.address.ip().to_string(),
                port: backend.address.port(),
                tls: None,
                credentials: Some(backend.credentials()),
                subscriptions: vec![topic::all_events()],
                will: None,
            }
        }
    };
    Ok(Client::start(options, stop.clone()))
}

/// The name of the replicas' share, that no site can know. Mosquitto lets anybody subscribe to anything and judges only what it
/// hands out: a site in the same share would be given its part of all reports, and they would be dropped. A signature by
/// Ed25519 is the same each time (RFC 8032, 5.1.6), so replicas that hold one key have one name; this one is never sent.
fn group(signer: &Signer) -> String {
    let nobody = SiteId::new(CONTROL_PLANE).expect("the name is a site's by its form");
    let stamp = Stamp {
        revision: 0,
        issued_at: DateTime::UNIX_EPOCH,
        expires_at: DateTime::UNIX_EPOCH,
    };
    let secret = signer.seal(&Topic::Renew(nobody), stamp, &"the replicas' share");
    Digest::of(&secret).to_string()
}

async fn open_door(app: &Arc<App>, backend: &broker::Backend) -> anyhow::Result<Guard> {
    let good = app.store.read(|db| edge_certificates::good(db, None)).await;
    let mut sites: BTreeMap<SiteId, Vec<String>> = BTreeMap::new();
    for (site, serial) in good.map_err(|e: StoreError| e)? {
        sites.entry(site).or_default().push(serial);
    }
    for (site, serials) in sites {
        app.edges.set(&site, serials);
    }
    let address = app.config.mqtt;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen for edges on {address}"))?;
    let mut hosts = vec![
        app.config.mqtt_public.host.clone(),
        "127.0.0.1".to_owned(),
        "localhost".to_owned(),
    ];
    hosts.dedup();
    let identity = app.authority.identity("slipway broker", &hosts)?;
    let guard = Guard {
        listener,
        tls: Some(tls::server_config(&identity, Some(&app.authority.certificate))?),
        admission: Arc::new(Edges(Arc::clone(app))),
        backend: backend.clone(),
        max_connections: usize::try_from(app.config.mqtt_connections).unwrap_or(usize::MAX),
    };
    info!(%address, "embedded broker up");
    Ok(guard)
}
