//! A call of the API, its job's wait, its order and its steps are one trace, as a collector of OTLP over HTTP gets it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::State, http::StatusCode as Status, routing::post};
use chrono::{TimeDelta, Utc};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};
use slipway_control_plane::{
    config::Given,
    domain,
    store::{Store, sites},
    telemetry::Tracer,
};
use slipway_protocol::{
    ids::SiteId,
    keys::Signer,
    report::{Failure, Outcome, Report, StepReport, StepState},
    seal::OpeningKey,
};
use tokio_util::sync::CancellationToken;

use crate::common::{
    Postgres,
    server::{Server, server_as},
};

/// What a collector got, and how often it says no first.
#[derive(Default)]
struct Got {
    spans: Vec<Value>,
    refusals: u32,
}

type Collector = Arc<Mutex<Got>>;

async fn take(State(got): State<Collector>, Json(body): Json<Value>) -> Status {
    let mut got = got.lock().unwrap();
    if got.refusals > 0 {
        got.refusals -= 1;
        return Status::SERVICE_UNAVAILABLE;
    }
    let resource = &body["resourceSpans"][0];
    assert_eq!(
        resource["resource"]["attributes"][0]["value"]["stringValue"],
        "slipway-control-plane"
    );
    let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
    got.spans.extend(spans.iter().cloned());
    Status::OK
}

async fn collector() -> (String, Collector) {
    let got = Collector::default();
    got.lock().unwrap().refusals = 1;
    let router = Router::new()
        .route("/v1/traces", post(take))
        .with_state(Arc::clone(&got));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, got)
}

/// Waits for the span of a name in a trace.
async fn span(got: &Collector, trace: &str, name: &str) -> Value {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let spans = got.lock().unwrap().spans.clone();
        let found = spans
            .into_iter()
            .find(|span| span["traceId"] == trace && span["name"] == name);
        if let Some(found) = found {
            return found;
        }
        assert!(
            Instant::now() < limit,
            "no span `{name}`: {:?}",
            got.lock().unwrap().spans
        );
        tokio::task::yield_now().await;
    }
}

async fn job_runs(server: &Server, job: &str) -> Value {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let found = server.get(&format!("/api/v1/jobs/{job}")).await;
        if found["state"] == "running" {
            return found;
        }
        assert!(Instant::now() < limit, "{found}");
        tokio::task::yield_now().await;
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Asks for an instance within a trace of the caller's; the job's id.
async fn ask(server: &Server, name: &str, flags: &str) -> String {
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-{flags}");
    let request = server.http.post(format!("{}/api/v1/instances", server.url));
    let body = json!({ "name": name, "site": "bj-1", "image": "i" });
    let request = request.bearer_auth(&server.token).header("traceparent", parent);
    let answer = request.json(&body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert!(
        answer.headers()["traceparent"].to_str().unwrap().contains(TRACE),
        "the answer says which"
    );
    let made: Value = answer.json().await.unwrap();
    made["job"]["id"].as_str().unwrap().to_owned()
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn one_trace(database: Option<String>) {
    let (endpoint, got) = collector().await;
    let given = Given {
        database_url: database.clone(),
        otlp_endpoint: Some(endpoint.clone()),
        ..Given::default()
    };
    let server = server_as(given).await;
    server.make_site("bj-1").await;
    server.upload("i", b"image".to_vec()).await;
    let machine = json!({ "name": "m1", "site": "bj-1", "macs": ["52:54:00:00:00:01"], "firmware": "bios" });
    assert_eq!(
        server.post("/api/v1/machines", machine).await.0,
        StatusCode::CREATED
    );
    let id = ask(&server, "web-1", "01").await;
    // Another replica, on the same database, to which the site reports.
    let (tracer, exporter) = Tracer::new(&Url::parse(&endpoint).unwrap()).unwrap();
    tokio::spawn(exporter.run(CancellationToken::new()));
    let sqlite = server.dir.path().join("control-plane.db").display().to_string();
    let store = Store::open(&database.unwrap_or(sqlite))
        .await
        .unwrap()
        .with_tracer(tracer);
    let site = SiteId::new("bj-1").unwrap();
    let joins = site.clone();
    let joined = store.transaction(move |db| {
        let report_key = Signer::generate().unwrap().0.verifying_key();
        let sealing_key = OpeningKey::generate().unwrap().0.sealing_key();
        sites::set_keys(db, &joins, report_key, sealing_key, ("-", &report_key.id()))
    });
    joined.await.unwrap();
    let job = job_runs(&server, &id).await;
    let order = server
        .get(&format!(
            "/api/v1/machines/{}/order",
            job["machine"].as_str().unwrap()
        ))
        .await;
    let steps: Vec<StepReport> = serde_json::from_value::<Vec<Value>>(order["order"]["steps"].clone())
        .unwrap_or_else(|e| panic!("{e}: {order}"))
        .into_iter()
        .map(|step| StepReport::pending(serde_json::from_value(step["id"].clone()).unwrap()))
        .collect();
    let began = Utc::now() - TimeDelta::minutes(9);
    let over = |steps: &[StepReport], n: usize, state: StepState| {
        let mut steps = steps.to_vec();
        steps[n].state = state;
        steps[n].attempt = 1;
        steps[n].started_at = Some(began);
        steps[n].finished_at = Some(began + TimeDelta::minutes(2));
        steps[n].failure = (state == StepState::Failed).then(|| Failure {
            code: "no_disk".into(),
            message: "none".into(),
            transient: false,
        });
        steps
    };
    let first = over(&steps, 0, StepState::Done);
    let last = over(&first, 1, StepState::Failed);
    let failure = last[1].failure.clone().unwrap();
    let failed = Outcome::Failed {
        at: Utc::now(),
        step: Some(last[1].id.clone()),
        failure,
    };
    let report = |steps: &[StepReport], outcome: Outcome| Report {
        machine: job["machine"].as_str().unwrap().parse().unwrap(),
        job: id.parse().unwrap(),
        order_revision: 1,
        retry: 0,
        outcome,
        steps: steps.to_vec(),
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: vec![],
        local: Vec::new(),
        bmc: None,
    };
    for (revision, report) in [
        (1, report(&first, Outcome::Running)),
        (1, report(&first, Outcome::Running)),
        (2, report(&last, failed)),
    ] {
        let site = site.clone();
        let taken =
            store.transaction(move |db| domain::jobs::take_report(db, &site, revision, &report, Utc::now()));
        taken.await.unwrap();
    }
    let api = span(&got, TRACE, "POST /api/v1/instances").await;
    assert_eq!(
        (api["parentSpanId"].as_str(), api["kind"].as_i64()),
        (Some("00f067aa0ba902b7"), Some(2))
    );
    let whole = span(&got, TRACE, "job install").await;
    assert_eq!(whole["parentSpanId"], api["spanId"]);
    assert_eq!(whole["status"]["message"], "no_disk: none", "{whole}");
    let names = [first[0].id.to_string(), last[1].id.to_string()].map(|id| format!("step {id}"));
    for name in ["schedule", "order", names[0].as_str(), names[1].as_str()] {
        let part = span(&got, TRACE, name).await;
        assert_eq!(part["parentSpanId"], whole["spanId"], "{part}");
    }
    let step = span(&got, TRACE, &names[0]).await;
    let nanos = |at: chrono::DateTime<Utc>| at.timestamp_nanos_opt().unwrap() / 1_000_000_000;
    let told: i64 = step["startTimeUnixNano"].as_str().unwrap().parse().unwrap();
    assert_eq!(told / 1_000_000_000, nanos(began), "its real time");
    let count = |name: &str| {
        got.lock()
            .unwrap()
            .spans
            .iter()
            .filter(|span| span["name"] == name)
            .count()
    };
    assert_eq!(
        (count(&names[0]), count("order")),
        (1, 1),
        "each once, whatever is repeated"
    );
    // Whoever does not want to be traced is not.
    ask(&server, "web-2", "00").await;
    let (_, list) = server.call(Method::GET, "/api/v1/instances", None).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let next = got.lock().unwrap().spans.len();
    let limit = Instant::now() + Duration::from_secs(30);
    while !got.lock().unwrap().spans[next..]
        .iter()
        .any(|span| span["name"] == "GET /api/v1/instances")
    {
        assert!(Instant::now() < limit);
        tokio::task::yield_now().await;
    }
    assert_eq!(count("POST /api/v1/instances"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_what_comes_of_it_are_one_trace_on_sqlite() {
    one_trace(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_what_comes_of_it_are_one_trace_on_postgresql() {
    let cluster = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    one_trace(Some(cluster.url())).await;
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}
