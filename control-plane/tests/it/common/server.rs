//! A control plane in process, over real HTTP, set up, with the key of its first administrator.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::{config::Given, serve};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) http: reqwest::Client,
    /// Changing calls that were answered 2xx or 403: each must stand in the audit log. Those of strangers (401) are counted by a
    /// metric alone, or they would fill the disk.
    pub(crate) changes: AtomicUsize,
    pub(crate) stop: CancellationToken,
    pub(crate) task: Option<JoinHandle<anyhow::Result<()>>>,
    pub(crate) dir: TempDir,
    pub(crate) database_url: String,
}

/// Ann's password.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// With an empty SQLite file.
pub(crate) async fn server() -> Server {
    server_as(Given::default()).await
}

/// With settings that are not as usual.
pub(crate) async fn server_as(given: Given) -> Server {
    server_with(given, |_, _| {}).await
}

/// With settings that depend on the URL it will have.
pub(crate) async fn server_with(given: Given, complete: impl FnOnce(&mut Given, &str)) -> Server {
    slipway_bus::tls::install_provider();
    let dir = tempfile::tempdir().unwrap();
    let http = free();
    let mut given = Given {
        http: Some(http),
        mqtt: Some(free()),
        data_dir: Some(dir.path().into()),
        ..given
    };
    complete(&mut given, &format!("http://{http}"));
    let config = given.resolve().unwrap();
    let (url, database_url) = (config.public_url.clone(), config.database_url.clone());
    let (told, link) = tokio::sync::oneshot::channel();
    let stop = CancellationToken::new();
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    let announce = |link: &str| told.send(link.to_owned()).unwrap();
    let task = tokio::spawn(serve::run(config, metrics, announce, stop.clone()));
    let link = tokio::time::timeout(Duration::from_secs(30), link)
        .await
        .unwrap()
        .unwrap();
    let setup = link.split_once("token=").unwrap().1.to_owned();
    let mut server = Server {
        url,
        token: String::new(),
        http: reqwest::Client::new(),
        changes: AtomicUsize::new(0),
        stop,
        task: Some(task),
        dir,
        database_url,
    };
    while server
        .http
        .get(format!("{}/healthz", server.url))
        .send()
        .await
        .is_err()
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.get("/api/v1/setup").await["needed"], json!(true));
    let body = json!({ "token": setup, "name": "ann", "password": PASSWORD });
    let (status, answer) = server.call(Method::POST, "/api/v1/setup", Some(&body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    server.token = answer["token"].as_str().unwrap().to_owned();
    assert_eq!(server.get("/api/v1/setup").await["needed"], json!(false));
    let again = server.call(Method::POST, "/api/v1/setup", Some(&body)).await;
    assert_eq!(again.0, StatusCode::UNAUTHORIZED, "the set-up token is good once");
    server
}

/// Tells one story on each database. Each has a runtime of its own, which nobody waits for: a background task that asks a
/// database that is gone would hold it up for half a minute.
pub(crate) fn on_each_server(story: impl AsyncFn(&Server)) {
    let tell = |given: Given| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async { story(&server_as(given).await).await });
        runtime.shutdown_background();
    };
    tell(Given::default());
    let cluster = super::Postgres::start();
    tell(Given {
        database_url: Some(cluster.url()),
        ..Given::default()
    });
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        // It ends by itself; a test that minds how takes the task.
        drop(self.task.take());
    }
}

impl Server {
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let changes = !method.is_safe();
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        if changes && (status.is_success() || status == StatusCode::FORBIDDEN) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        (
            status,
            serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null),
        )
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::POST, path, Some(&body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    pub(crate) async fn make_site(&self, id: &str) {
        let subnet = json!({ "network": "192.0.2.0/24", "server": "192.0.2.1" });
        let (status, answer) = self
            .post("/api/v1/sites", json!({ "id": id, "subnets": [subnet] }))
            .await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }

    pub(crate) async fn upload(&self, name: &str, bytes: Vec<u8>) -> (StatusCode, Value) {
        let url = format!("{}/api/v1/images?name={name}", self.url);
        let answer = self
            .http
            .post(url)
            .bearer_auth(&self.token)
            .body(bytes)
            .send()
            .await
            .unwrap();
        (answer.status(), answer.json().await.unwrap())
    }
}
