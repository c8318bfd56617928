//! The keys that orders are signed by.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Body, List, Path, parse};
use crate::{
    access::Caller,
    app::App,
    domain::signing_keys::{self, Used},
    error::ApiError,
};

/// Most sites that are named of each key.
const NAMED: usize = 100;

/// A signing key.
#[derive(Debug, Serialize, ToSchema)]
pub struct SigningKeyView {
    /// By which messages name it: 16 hexadecimal digits.
    pub id: String,
    /// The public half, base64url: what `slipway mqtt watch --key` takes.
    pub public: String,
    /// `newest`, `trusted` (its messages are believed; sites that know no newer one are signed to by it) or `retired`.
    pub state: &'static str,
    /// How many sites are signed to by it.
    pub sites: usize,
    /// Some of them, by name.
    pub site_names: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was retired.
    pub retired_at: Option<DateTime<Utc>>,
}

fn view(keys: Vec<Used>) -> Json<List<SigningKeyView>> {
    let one = |(place, (key, sites)): (usize, Used)| SigningKeyView {
        id: key.id.to_string(),
        public: key.public.to_string(),
        state: match key.retired_at {
            Some(_) => "retired",
            None if place == 0 => "newest",
            None => "trusted",
        },
        sites: sites.len(),
        site_names: sites.iter().take(NAMED).map(ToString::to_string).collect(),
        created_at: key.created_at,
        retired_at: key.retired_at,
    };
    Json(List {
        items: keys.into_iter().enumerate().map(one).collect(),
        next: None,
    })
}

/// Lists the keys that orders are signed by, the newest first.
#[utoipa::path(get, path = "/api/v1/signing-keys", tag = "sites",
    responses((status = 200, body = List<SigningKeyView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Json<List<SigningKeyView>>, ApiError> {
    Ok(view(signing_keys::list(&app, &caller).await?))
}

/// Makes a new key and announces it to every site; each is signed to by it as soon as it has taken the announcement.
#[utoipa::path(post, path = "/api/v1/signing-keys", tag = "sites",
    responses((status = 201, body = List<SigningKeyView>), (status = 409)))]
pub async fn rotate(State(app): State<Arc<App>>, caller: Caller) -> Result<impl IntoResponse, ApiError> {
    let keys = signing_keys::rotate(&app, &caller).await?;
    Ok((StatusCode::CREATED, view(keys)))
}

/// How a key is retired.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retirement {
    /// Though sites know no newer key, which then have to join again, or machines at work do not.
    #[serde(default)]
    pub force: bool,
}

/// Retires a key: nothing is signed by it any more, and no site is told to trust it.
#[utoipa::path(post, path = "/api/v1/signing-keys/{key}/retire", tag = "sites", request_body = Retirement,
    params(("key" = String, Path)),
    responses((status = 200, body = List<SigningKeyView>), (status = 400), (status = 404), (status = 409)))]
pub async fn retire(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(body): Body<Retirement>,
) -> Result<Json<List<SigningKeyView>>, ApiError> {
    let id = parse("key", &key)?;
    Ok(view(signing_keys::retire(&app, &caller, id, body.force).await?))
}
