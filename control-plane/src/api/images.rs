//! `/api/v1/images` and `/api/v1/chunks`

use std::sync::Arc;

use axum::{
    Json,
    body::Body as HttpBody,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    ids::{Digest, SiteId},
    site::chunk_proof,
};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};
use utoipa::{IntoParams, ToSchema};

use super::{Body, List, Page, Path, Query, parse};
use crate::{
    access::{Caller, Permission, Target},
    app::App,
    domain::{self, image_chunks},
    error::ApiError,
    store::{
        audit::{self, Change},
        images::{self, Edition, Image},
        uploads,
    },
};

/// An image.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageView {
    /// Its id: the digest of its content.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The family it is a version of.
    pub family: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Whether its family's name no longer means it.
    pub deprecated: bool,
    /// The types of machines it may be installed on; of all if empty.
    pub machine_types: Vec<String>,
    /// Raw size in bytes.
    pub size_bytes: u64,
    /// Bytes stored and sent.
    pub stored_bytes: u64,
    /// Chunks, zero ones included.
    pub chunks: usize,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

fn view(image: Image) -> ImageView {
    ImageView {
        id: image.id.to_string(),
        name: image.name,
        family: image.edition.family,
        version: image.edition.version,
        deprecated: image.edition.deprecated,
        machine_types: image.edition.machine_types,
        size_bytes: image.manifest.size_bytes,
        stored_bytes: image.manifest.stored_bytes(),
        chunks: image.manifest.chunks.len(),
        created_at: image.created_at,
    }
}

/// What an upload is called.
#[derive(Debug, Deserialize, IntoParams)]
pub struct UploadName {
    /// The image's name: a-z, 0-9 and '-'
    pub name: String,
    /// The family it is a version of
    pub family: Option<String>,
    /// Its version, given with a family
    pub version: Option<String>,
}

/// What the audit log calls an image.
fn object(image: &Image) -> String {
    format!("image/{}", image.name)
}

/// Uploads a raw disk image, or one compressed by zstd.
#[utoipa::path(post, path = "/api/v1/images", tag = "images", params(UploadName),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = ImageView), (status = 400), (status = 409)))]
pub async fn upload(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(UploadName {
        name,
        family,
        version,
    }): Query<UploadName>,
    body: HttpBody,
) -> Result<impl IntoResponse, ApiError> {
    caller.require(Permission::ImagesWrite, Target::GLOBAL)?;
    domain::names::check(&name)?;
    let stream = body.into_data_stream().map_err(std::io::Error::other);
    let reader = SyncIoBridge::new(Box::pin(StreamReader::new(stream)));
    let (upload, manifest) = image_chunks::store(&app, reader).await?;
    let image = Image {
        id: manifest.id(),
        name,
        edition: Edition {
            family,
            version,
            ..Edition::default()
        },
        manifest,
        created_at: (app.now)(),
    };
    let (kept, by, now) = (image.clone(), caller.actor, image.created_at);
    let id = upload.id().to_owned();
    app.store
        .transaction(move |db| {
            domain::images::check(db, &kept)?;
            images::insert(db, &kept)?;
            uploads::end(db, &id)?;
            Ok::<_, ApiError>(audit::done(
                db,
                &by,
                now,
                Change::new(
                    "image.create",
                    object(&kept),
                    None,
                    Some(domain::images::told(&kept)),
                ),
            )?)
        })
        .await?;
    upload.done();
    Ok((StatusCode::CREATED, Json(view(image))))
}

/// Which images.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct ImageFilter {
    /// Versions of one family
    pub family: Option<String>,
}

/// Lists images by name.
#[utoipa::path(get, path = "/api/v1/images", tag = "images", params(Page, ImageFilter),
    responses((status = 200, body = List<ImageView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    Query(page): Query<Page>,
    Query(filter): Query<ImageFilter>,
) -> Result<Json<List<ImageView>>, ApiError> {
    let (limit, cursor) = (page.limit(), page.cursor());
    let rows = app
        .store
        .read(move |db| images::list(db, filter.family, &cursor, limit))
        .await?;
    let items = rows.into_iter().map(view).collect();
    Ok(Json(List::page(items, limit, |image: &ImageView| {
        image.name.clone()
    })))
}

/// Shows an image: by id or name, as `family:version`, or the newest of a family.
#[utoipa::path(get, path = "/api/v1/images/{image}", tag = "images", params(("image" = String, Path)),
    responses((status = 200, body = ImageView), (status = 404)))]
pub async fn get(State(app): State<Arc<App>>, Path(key): Path<String>) -> Result<Json<ImageView>, ApiError> {
    let found = app.store.read(move |db| domain::images::find(db, &key));
    Ok(Json(view(found.await?)))
}

/// What is to be changed of an image; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageChange {
    /// Its name.
    pub name: Option<String>,
    /// The family it is a version of, given with a version; null takes it out of its family.
    #[serde(default, deserialize_with = "super::given")]
    #[schema(value_type = Option<String>)]
    pub family: Option<Option<String>>,
    /// Its version, given with a family.
    #[serde(default, deserialize_with = "super::given")]
    #[schema(value_type = Option<String>)]
    pub version: Option<Option<String>>,
    /// Whether its family's name no longer means it.
    pub deprecated: Option<bool>,
    /// The types of machines it may be installed on; of all if empty.
    pub machine_types: Option<Vec<String>>,
}

/// Changes what is said of an image, named by id, name or `family:version`.
#[utoipa::path(patch, path = "/api/v1/images/{image}", tag = "images", params(("image" = String, Path)),
    request_body = ImageChange,
    responses((status = 200, body = ImageView), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(body): Body<ImageChange>,
) -> Result<Json<ImageView>, ApiError> {
    let version = match (body.family, body.version) {
        (None, None) => None,
        (Some(None), None | Some(None)) => Some(None),
        (Some(Some(family)), Some(Some(version))) => Some(Some((family, version))),
        _ => {
            let detail = "a family and a version are given together".to_owned();
            return Err(ApiError::Bad("version", detail));
        }
    };
    let wanted = domain::images::Update {
        name: body.name,
        version,
        deprecated: body.deprecated,
        machine_types: body.machine_types,
    };
    Ok(Json(view(
        domain::images::update(&app, &caller, key, wanted).await?,
    )))
}

/// Removes an image nobody uses.
#[utoipa::path(delete, path = "/api/v1/images/{image}", tag = "images", params(("image" = String, Path)),
    responses((status = 204), (status = 404), (status = 409)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.require(Permission::ImagesWrite, Target::GLOBAL)?;
    let now = (app.now)();
    app.store
        .transaction(move |db| {
            let image = images::get(db, &key)?.ok_or_else(|| ApiError::NotFound("image", key.clone()))?;
            if crate::store::instances::uses_image(db, image.id)? {
                return Err(ApiError::Conflict(
                    "image_in_use",
                    format!("image `{key}` is used by an instance"),
                ));
            }
            images::delete(db, image.id)?;
            Ok(audit::done(
                db,
                &caller.actor,
                now,
                Change::new(
                    "image.delete",
                    object(&image),
                    Some(domain::images::told(&image)),
                    None,
                ),
            )?)
        })
        .await?;
    app.sweep.wake();
    Ok(StatusCode::NO_CONTENT)
}

/// Gives an edge a compressed chunk; it proves itself by its site's chunk key.
#[utoipa::path(get, path = "/api/v1/chunks/{digest}", tag = "images", params(("digest" = String, Path)),
    responses((status = 200, description = "zstd-compressed bytes"), (status = 401), (status = 404)))]
pub async fn chunk(
    State(app): State<Arc<App>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .ok_or(ApiError::Unauthorized)?;
    let site = given
        .strip_prefix("Slipway-Edge ")
        .and_then(|rest| rest.split_once(':'));
    let site: SiteId = site
        .and_then(|(site, _)| site.parse().ok())
        .ok_or(ApiError::Unauthorized)?;
    let key = domain::edges::chunk_key(&app, site.as_str())
        .await?
        .ok_or(ApiError::Unauthorized)?;
    let expected = chunk_proof(&site, &key, &format!("/api/v1/chunks/{digest}"));
    if Digest::of(expected.as_bytes()) != Digest::of(given.as_bytes()) {
        return Err(ApiError::Unauthorized);
    }
    let missing = || ApiError::NotFound("chunk", digest.clone());
    let path = app.chunks.path(parse("digest", &digest)?);
    let file = tokio::fs::File::open(path).await.map_err(|_| missing())?;
    let len = file.metadata().await.map_err(|_| missing())?.len();
    let body = HttpBody::from_stream(ReaderStream::with_capacity(file, 256 * 1024));
    Ok(([(header::CONTENT_LENGTH, len.to_string())], body).into_response())
}
