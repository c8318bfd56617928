//! Every route of the control plane, on one page. All need a token but those of [`auth::OPEN`].

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    middleware::{self, Next},
    response::Response,
};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use crate::{
    api::{access, alerts, events, images, instances, jobs, machines, sites, webhooks},
    app::App,
    auth, metrics,
};

/// The document's head.
#[derive(OpenApi)]
#[openapi(info(
    title = "Slipway",
    description = "Bare-metal provisioning over many sites",
    license(name = "Apache-2.0")
))]
struct Document;

/// All routes, and the OpenAPI document made from them.
pub fn routes(app: &Arc<App>) -> (Router, utoipa::openapi::OpenApi) {
    let open = OpenApiRouter::new()
        .routes(routes!(access::healthz))
        .routes(routes!(access::setup))
        .routes(routes!(access::join))
        .routes(routes!(images::chunk));
    let guarded = OpenApiRouter::new()
        .routes(routes!(access::metrics))
        .routes(routes!(sites::create, sites::list))
        .routes(routes!(sites::get, sites::update, sites::delete))
        .routes(routes!(sites::token))
        .routes(routes!(machines::create, machines::list))
        .routes(routes!(machines::get, machines::delete))
        .routes(routes!(machines::order))
        .routes(routes!(machines::report))
        .routes(routes!(machines::history))
        .routes(routes!(machines::discovered))
        .routes(routes!(images::upload, images::list))
        .routes(routes!(images::get, images::delete))
        .routes(routes!(instances::create, instances::list))
        .routes(routes!(instances::get, instances::delete))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::cancel))
        .routes(routes!(events::list))
        .routes(routes!(events::machine_timeline))
        .routes(routes!(events::instance_timeline))
        .routes(routes!(events::job_timeline))
        .routes(routes!(webhooks::create, webhooks::list))
        .routes(routes!(webhooks::get, webhooks::update, webhooks::delete))
        .routes(routes!(webhooks::test))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(alerts::create, alerts::list_rules))
        .routes(routes!(alerts::get, alerts::update, alerts::delete))
        .routes(routes!(alerts::list));
    let (guarded, guarded_document) = guarded.with_state(Arc::clone(app)).split_for_parts();
    let (open, open_document) = open.with_state(Arc::clone(app)).split_for_parts();
    let mut document = Document::openapi();
    document.merge(guarded_document);
    document.merge(open_document);
    let docs: Router = SwaggerUi::new("/docs")
        .url("/api/openapi.json", document.clone())
        .into();
    let guarded = guarded.merge(docs).layer(middleware::from_fn_with_state(
        Arc::clone(app),
        auth::require_token,
    ));
    let router = guarded
        .merge(open)
        .layer(middleware::from_fn(measure))
        .layer(CatchPanicLayer::new());
    (router, document)
}

/// Counts and times requests by route, never by path: paths are without number.
async fn measure(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let begun = Instant::now();
    let response = next.run(request).await;
    metrics::request(&route, response.status().as_u16(), begun.elapsed().as_secs_f64());
    response
}
