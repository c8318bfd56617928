//! Every route of the control plane, on one page. What each needs stands in [`crate::access::routes`].

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, Uri},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use crate::{
    access::{
        authenticate, proxies,
        routes::{Needs, needs},
    },
    api::{
        NO_NUL, access, account, addresses, alerts, audit, bmc_passwords, emergency_codes, events, images,
        instance_batches, instance_lists, instances, job_logs, jobs, machine_changes, machine_import,
        machine_lists, machine_power, machine_types, machines, overview, plans, projects, rescue, search,
        signing_keys, sites, sso, stock, users, views, webhooks,
    },
    app::App,
    error::{ApiError, Problem},
    metrics,
    telemetry::{self, Context, Span, span::Kind},
    web,
};

/// The document's head.
#[derive(OpenApi)]
#[openapi(info(
    title = "Slipway",
    description = "Bare-metal provisioning over many sites",
    license(name = "Apache-2.0")
))]
struct Document;

/// Adds to every operation what all have in common: how callers prove who they are, and what a refusal looks like.
fn complete(document: &mut utoipa::openapi::OpenApi) {
    use utoipa::{
        PartialSchema as _, ToSchema as _,
        openapi::{
            Components, ContentBuilder, Ref, RefOr, ResponseBuilder,
            security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
        },
    };
    let components = document.components.get_or_insert_with(Components::default);
    components
        .schemas
        .insert(Problem::name().into_owned(), Problem::schema());
    let key = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(authenticate::COOKIE)));
    components
        .security_schemes
        .insert("key".to_owned(), RefOr::T(key));
    components
        .security_schemes
        .insert("session".to_owned(), RefOr::T(cookie));
    let problem = || {
        let schema = Ref::from_schema_name(Problem::name());
        let content = ContentBuilder::new().schema(Some(RefOr::Ref(schema))).build();
        let response = ResponseBuilder::new().description("refused: `code` says why");
        RefOr::T(response.content("application/problem+json", content).build())
    };
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (Method::GET, &mut item.get),
            (Method::POST, &mut item.post),
            (Method::PUT, &mut item.put),
            (Method::PATCH, &mut item.patch),
            (Method::DELETE, &mut item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            operation.operation_id = Some(operation_id(&method, path));
            let refusals = &mut operation.responses.responses;
            refusals.retain(|status, _| status.starts_with(['2', '3']));
            refusals.insert("default".to_owned(), problem());
            if needs(&method, path) != Some(Needs::Nothing) {
                let nothing: [&str; 0] = [];
                let either = ["key", "session"].map(|scheme| SecurityRequirement::new(scheme, nothing));
                operation.security = Some(either.into());
            }
        }
    }
}

/// An operation's id, by which programs made from the document name it: `get_machines_machine`. Ids must differ
/// (OpenAPI 3.1, 4.8.10), and the names of our functions do not.
fn operation_id(method: &Method, path: &str) -> String {
    let words = path
        .trim_start_matches("/api/v1")
        .split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    let method = method.as_str().to_ascii_lowercase();
    words.fold(method, |id, word| format!("{id}_{word}"))
}

type Routes = OpenApiRouter<Arc<App>>;

fn open_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(access::healthz))
        .routes(routes!(access::readyz))
        .routes(routes!(access::setup_state, access::setup))
        .routes(routes!(account::login))
        .routes(routes!(access::join))
        .routes(routes!(access::renew))
        .routes(routes!(access::standing))
        .routes(routes!(sso::login))
        .routes(routes!(sso::callback))
        .routes(routes!(sso::key))
        .routes(routes!(images::chunk))
}

/// Who somebody is and may do.
fn people_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(account::logout))
        .routes(routes!(account::me, account::change))
        .routes(routes!(account::keys, account::make_key))
        .routes(routes!(account::remove_key))
        .routes(routes!(account::ssh_keys, account::add_ssh_key))
        .routes(routes!(account::remove_ssh_key))
        .routes(routes!(views::list))
        .routes(routes!(views::put, views::delete))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::get, users::update, users::delete))
        .routes(routes!(users::grant))
        .routes(routes!(users::revoke))
        .routes(routes!(users::permissions))
        .routes(routes!(users::roles))
        .routes(routes!(users::role, users::put_role, users::delete_role))
        .routes(routes!(projects::list, projects::create))
        .routes(routes!(projects::get, projects::update, projects::delete))
        .routes(routes!(projects::set_member, projects::remove_member))
        .routes(routes!(projects::set_quota))
        .routes(routes!(audit::list))
}

/// What tenants have.
fn instance_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(instances::create, instance_lists::list))
        .routes(routes!(instance_batches::create))
        .routes(routes!(instance_batches::begin))
        .routes(routes!(plans::create))
        .routes(routes!(plans::reinstall))
        .routes(routes!(instances::get, instances::update, instances::delete))
        .routes(routes!(instances::start))
        .routes(routes!(instances::stop))
        .routes(routes!(instances::restart))
        .routes(routes!(instances::reinstall))
        .routes(routes!(rescue::rescue))
        .routes(routes!(rescue::reset_password))
        .routes(routes!(events::instance_timeline))
}

fn guarded_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(access::metrics))
        .routes(routes!(sites::create, sites::list))
        .routes(routes!(sites::get, sites::update, sites::delete))
        .routes(routes!(sites::token))
        .routes(routes!(sites::revoke))
        .routes(routes!(emergency_codes::make, emergency_codes::revoke))
        .routes(routes!(signing_keys::list, signing_keys::rotate))
        .routes(routes!(signing_keys::retire))
        .routes(routes!(addresses::list))
        .routes(routes!(addresses::reserve))
        .routes(routes!(addresses::unreserve))
        .routes(routes!(machines::create, machine_lists::list))
        .routes(routes!(machines::get, machine_changes::update, machines::delete))
        .routes(routes!(machine_import::import))
        .routes(routes!(machine_changes::move_by))
        .routes(routes!(bmc_passwords::rotate))
        .routes(routes!(machine_power::power))
        .routes(routes!(machines::order))
        .routes(routes!(machines::report))
        .routes(routes!(machines::history))
        .routes(routes!(machines::discovered))
        .routes(routes!(overview::get))
        .routes(routes!(search::search))
        .routes(routes!(stock::list))
        .routes(routes!(machine_types::list))
        .routes(routes!(
            machine_types::get,
            machine_types::put,
            machine_types::delete
        ))
        .routes(routes!(machine_types::preview))
        .routes(routes!(images::upload, images::list))
        .routes(routes!(images::get, images::update, images::delete))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(job_logs::get))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(events::list))
        .routes(routes!(events::machine_timeline))
        .routes(routes!(events::job_timeline))
        .routes(routes!(webhooks::create, webhooks::list))
        .routes(routes!(webhooks::get, webhooks::update, webhooks::delete))
        .routes(routes!(webhooks::test))
        .routes(routes!(webhooks::rotate))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(alerts::create, alerts::list_rules))
        .routes(routes!(alerts::get, alerts::update, alerts::delete))
        .routes(routes!(alerts::list))
}

/// All routes, and the OpenAPI document made from them.
pub fn routes(app: &Arc<App>) -> (Router, utoipa::openapi::OpenApi) {
    let (open, guarded) = (
        open_routes(),
        guarded_routes().merge(instance_routes()).merge(people_routes()),
    );
    let (guarded, guarded_document) = guarded.with_state(Arc::clone(app)).split_for_parts();
    let (open, open_document) = open.with_state(Arc::clone(app)).split_for_parts();
    let mut document = Document::openapi();
    document.merge(guarded_document);
    document.merge(open_document);
    complete(&mut document);
    let docs: Router = SwaggerUi::new("/docs")
        .url("/api/openapi.json", document.clone())
        .into();
    let guarded = guarded.merge(docs).layer(middleware::from_fn_with_state(
        Arc::clone(app),
        authenticate::guard,
    ));
    let secure = app.config.public_url.starts_with("https:");
    let router = guarded
        .merge(open)
        .fallback(move |method: Method, uri: Uri, headers: HeaderMap| async move {
            web::page(&method, &uri, &headers, secure)
        })
        .layer(middleware::from_fn_with_state(Arc::clone(app), traced))
        .layer(middleware::from_fn(measure))
        .layer(middleware::from_fn_with_state(Arc::clone(app), proxies::resolve))
        .layer(CatchPanicLayer::new());
    (router, document)
}

/// Tells a collector of each request, within the caller's trace if they are in one; the answer says which it is.
async fn traced(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let quiet = matches!(
        route.as_deref(),
        None | Some("/healthz" | "/readyz" | "/metrics" | "/api/v1/chunks/{digest}")
    );
    let came = request
        .headers()
        .get("traceparent")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let context = match came {
        Some(caller) => Context::child(caller),
        None => Context::new(),
    };
    let (Some(route), Ok(context), false, true) = (route, context, quiet, app.store.tracer().is_on()) else {
        return next.run(request).await;
    };
    let (start, method) = ((app.now)(), request.method().to_string());
    let mut response = telemetry::within(context, next.run(request)).await;
    if let Ok(value) = context.to_string().parse() {
        response.headers_mut().insert("traceparent", value);
    }
    let status = response.status();
    let span = Span {
        trace: context.trace,
        id: context.span,
        parent: came.map(|caller| caller.span),
        name: format!("{method} {route}"),
        kind: Kind::Server,
        start,
        end: (app.now)(),
        attributes: vec![
            ("http.request.method", method),
            ("http.route", route),
            ("http.response.status_code", status.as_u16().to_string()),
        ],
        failure: status.is_server_error().then(|| status.to_string()),
    };
    app.store.tracer().tell(context.sampled.then_some(span));
    response
}

/// Counts and times requests by route, never by path: paths are without number.
async fn measure(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let begun = Instant::now();
    let response = if request
        .uri()
        .path_and_query()
        .is_some_and(|text| text.as_str().contains("%00"))
    {
        ApiError::Bad("path", NO_NUL.to_owned()).into_response()
    } else {
        next.run(request).await
    };
    metrics::request(&route, response.status().as_u16(), begun.elapsed().as_secs_f64());
    response
}
