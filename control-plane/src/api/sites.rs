//! `/api/v1/sites`

use std::{net::Ipv4Addr, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::site::SubnetConfig;
use utoipa::ToSchema;

use super::{Body, List, Page, Path, Query, if_match, parse};
use crate::{
    access::Caller,
    app::App,
    domain,
    error::ApiError,
    store::sites::{self, Limits, Offline, Site, SiteSettings},
};

/// A network of a site.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// The network, as in `192.0.2.0/24`.
    #[schema(value_type = String)]
    pub network: ipnet::Ipv4Net,
    /// The edge's own address on it.
    #[schema(value_type = String)]
    pub server: Ipv4Addr,
    /// Its router.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<Ipv4Addr>,
    /// First and last address for machines nobody has enrolled.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub pool: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Lease time in seconds.
    #[serde(default = "default_lease")]
    pub lease_seconds: u32,
}

fn default_lease() -> u32 {
    3600
}

impl From<Subnet> for SubnetConfig {
    fn from(s: Subnet) -> Self {
        let Subnet {
            network,
            server,
            gateway,
            dns,
            pool,
            lease_seconds,
        } = s;
        Self {
            network,
            server,
            gateway,
            dns,
            pool,
            lease_seconds,
        }
    }
}

impl From<SubnetConfig> for Subnet {
    fn from(s: SubnetConfig) -> Self {
        let SubnetConfig {
            network,
            server,
            gateway,
            dns,
            pool,
            lease_seconds,
        } = s;
        Self {
            network,
            server,
            gateway,
            dns,
            pool,
            lease_seconds,
        }
    }
}

/// A site to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSite {
    /// Its name: a-z, 0-9 and '-'.
    pub id: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Whether unknown machines are booted to be looked at.
    #[serde(default)]
    pub discover: bool,
    /// The networks its edge serves.
    #[serde(default)]
    pub subnets: Vec<Subnet>,
    /// DHCP relays that are believed although they are on none of the subnets.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub dhcp_relays: Vec<Ipv4Addr>,
    /// What the scheduler keeps to.
    #[serde(default)]
    pub limits: Limits,
    /// What may be done while it is cut off.
    #[serde(default)]
    pub offline: Offline,
}

/// What is to be changed of a site; the rest stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteChange {
    /// For people.
    pub description: Option<String>,
    /// Whether unknown machines are booted to be looked at.
    pub discover: Option<bool>,
    /// The networks its edge serves.
    pub subnets: Option<Vec<Subnet>>,
    /// DHCP relays that are believed although they are on none of the subnets.
    #[schema(value_type = Option<Vec<String>>)]
    pub dhcp_relays: Option<Vec<Ipv4Addr>>,
    /// What the scheduler keeps to.
    pub limits: Option<Limits>,
    /// What may be done while it is cut off.
    pub offline: Option<Offline>,
}

/// A site.
#[derive(Debug, Serialize, ToSchema)]
pub struct SiteView {
    /// Its name.
    pub id: String,
    /// For people.
    pub description: String,
    /// Whether unknown machines are booted to be looked at.
    pub discover: bool,
    /// The networks its edge serves.
    pub subnets: Vec<Subnet>,
    /// DHCP relays that are believed although they are on none of the subnets.
    #[schema(value_type = Vec<String>)]
    pub dhcp_relays: Vec<Ipv4Addr>,
    /// What the scheduler keeps to.
    pub limits: Limits,
    /// What may be done while it is cut off.
    pub offline: Offline,
    /// Whether it has an emergency code, without which nothing may be done while it is cut off.
    pub emergency_code: bool,
    /// Whether an edge has joined.
    pub joined: bool,
    /// Until when its edge's certificate is good; the edge renews it by itself.
    pub certificate_until: Option<DateTime<Utc>>,
    /// When its last edge was revoked, if none has joined since.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Whether its edge is connected.
    pub online: bool,
    /// When its edge was last heard.
    pub last_seen: Option<DateTime<Utc>>,
    /// Revision of its configuration; also its ETag.
    pub revision: u64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

fn view(site: Site, now: DateTime<Utc>) -> SiteView {
    SiteView {
        id: site.id.to_string(),
        description: site.settings.description,
        discover: site.settings.discover,
        subnets: site.settings.subnets.into_iter().map(Subnet::from).collect(),
        dhcp_relays: site.settings.dhcp_relays,
        limits: site.settings.limits,
        offline: site.settings.offline,
        emergency_code: site.emergency_code.is_some(),
        joined: site.report_key.is_some(),
        certificate_until: site.certificate_until,
        revoked_at: site.revoked_at,
        online: domain::sites::is_online(site.online, site.last_seen, now),
        last_seen: site.last_seen,
        revision: site.revision,
        created_at: site.created_at,
    }
}

/// Adds a site.
#[utoipa::path(post, path = "/api/v1/sites", tag = "sites", request_body = NewSite,
    responses((status = 201, body = SiteView), (status = 400), (status = 409)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(new): Body<NewSite>,
) -> Result<impl IntoResponse, ApiError> {
    let id = parse("name", &new.id)?;
    let settings = SiteSettings {
        description: new.description,
        discover: new.discover,
        subnets: new.subnets.into_iter().map(SubnetConfig::from).collect(),
        dhcp_relays: new.dhcp_relays,
        limits: new.limits,
        offline: new.offline,
    };
    let site = domain::sites::create(&app, &caller, id, settings).await?;
    Ok((StatusCode::CREATED, Json(view(site, (app.now)()))))
}

/// Lists sites by name.
#[utoipa::path(get, path = "/api/v1/sites", tag = "sites", params(Page), responses((status = 200, body = List<SiteView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<List<SiteView>>, ApiError> {
    let (limit, cursor, now) = (page.limit(), page.cursor(), (app.now)());
    let rows = app.store.read(move |db| sites::list(db, &cursor, limit)).await?;
    let next = super::next(&rows, limit, |site| site.id.to_string());
    let seen = rows
        .into_iter()
        .filter(|site| domain::sites::sees(&caller, &site.id));
    let items = seen.map(|site| view(site, now)).collect();
    Ok(Json(List { items, next }))
}

/// Shows a site.
#[utoipa::path(get, path = "/api/v1/sites/{site}", tag = "sites", params(("site" = String, Path)),
    responses((status = 200, body = SiteView), (status = 404)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(site): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let site = domain::sites::get(&app, &caller, site).await?;
    Ok(tagged(view(site, (app.now)())))
}

fn tagged(view: SiteView) -> impl IntoResponse {
    ([(header::ETAG, format!("\"{}\"", view.revision))], Json(view))
}

/// Changes a site.
#[utoipa::path(patch, path = "/api/v1/sites/{site}", tag = "sites", request_body = SiteChange,
    params(("site" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = SiteView), (status = 404), (status = 412)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(site): Path<String>,
    headers: HeaderMap,
    Body(change): Body<SiteChange>,
) -> Result<impl IntoResponse, ApiError> {
    let seen = if_match(&headers)?;
    let apply = move |settings: &mut SiteSettings| {
        if let Some(description) = change.description {
            settings.description = description;
        }
        if let Some(discover) = change.discover {
            settings.discover = discover;
        }
        if let Some(limits) = change.limits {
            settings.limits = limits;
        }
        if let Some(offline) = change.offline {
            settings.offline = offline;
        }
        if let Some(relays) = change.dhcp_relays {
            settings.dhcp_relays = relays;
        }
        if let Some(subnets) = change.subnets {
            settings.subnets = subnets.into_iter().map(SubnetConfig::from).collect();
        }
    };
    let site = domain::sites::update(&app, &caller, site, seen, apply).await?;
    Ok(tagged(view(site, (app.now)())))
}

/// Removes a site without machines.
#[utoipa::path(delete, path = "/api/v1/sites/{site}", tag = "sites", params(("site" = String, Path)),
    responses((status = 204), (status = 404), (status = 409)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(site): Path<String>,
) -> Result<StatusCode, ApiError> {
    domain::sites::delete(&app, &caller, site).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A join token; it is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub struct JoinTokenView {
    /// For `slipway-edge join TOKEN`.
    pub token: String,
    /// Until when it is good.
    pub expires_at: DateTime<Utc>,
}

/// Makes a one-time join token for the site's edge.
#[utoipa::path(post, path = "/api/v1/sites/{site}/tokens", tag = "sites", params(("site" = String, Path)),
    responses((status = 201, body = JoinTokenView), (status = 404)))]
pub async fn token(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(site): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let (token, expires_at) = domain::edges::join_token(&app, &caller, site).await?;
    Ok((
        StatusCode::CREATED,
        Json(JoinTokenView {
            token: token.to_text(),
            expires_at,
        }),
    ))
}

/// Why an edge's rights are taken back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// For the audit log, the events and whoever finds the machines out of use: one line.
    pub reason: String,
}

/// Takes a lost edge's rights back: certificates, keys, join tokens. Its jobs fail, its machines are kept out of use.
#[utoipa::path(post, path = "/api/v1/sites/{site}/revoke", tag = "sites", request_body = Revocation,
    params(("site" = String, Path)),
    responses((status = 200, body = SiteView), (status = 400), (status = 404), (status = 409)))]
pub async fn revoke(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(site): Path<String>,
    Body(body): Body<Revocation>,
) -> Result<Json<SiteView>, ApiError> {
    let site = domain::edges::revoke(&app, &caller, site, body.reason).await?;
    Ok(Json(view(site, (app.now)())))
}
