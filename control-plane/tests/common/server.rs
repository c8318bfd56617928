//! A whole control plane in this process, on real sockets.

use std::{net::SocketAddr, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::{config::Given, serve};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running control plane and a client with its token; stopped when dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) http: reqwest::Client,
    pub(crate) stop: CancellationToken,
    pub(crate) task: Option<JoinHandle<anyhow::Result<()>>>,
    _dir: TempDir,
}

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

impl Server {
    /// Starts one with an empty database; `given` says what is not as usual.
    pub(crate) async fn start(given: Given) -> Self {
        slipway_bus::tls::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let given = Given {
            http: Some(free()),
            mqtt: Some(free()),
            data_dir: Some(dir.path().into()),
            ..given
        };
        let config = given.resolve().unwrap();
        let url = config.public_url.clone();
        let (told, link) = tokio::sync::oneshot::channel();
        let stop = CancellationToken::new();
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let announce = |link: &str| told.send(link.to_owned()).unwrap();
        let task = tokio::spawn(serve::run(config, metrics, announce, stop.clone()));
        let link = tokio::time::timeout(Duration::from_secs(60), link);
        let link = link.await.unwrap().unwrap();
        let mut server = Self {
            url,
            token: String::new(),
            http: reqwest::Client::new(),
            stop,
            task: Some(task),
            _dir: dir,
        };
        let setup = link.split_once("token=").unwrap().1;
        let body = json!({ "token": setup, "name": "ann" });
        let (status, answer) = server.call(Method::POST, "/api/v1/setup", Some(&body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        server.token = answer["token"].as_str().unwrap().to_owned();
        server
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        request = request.bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    /// Adds a site; what it answers must be the status.
    pub(crate) async fn make_site(&self, id: &str) {
        let body = json!({ "id": id, "subnets": [{ "network": "192.0.2.0/24", "server": "192.0.2.1" }] });
        let (status, answer) = self.call(Method::POST, "/api/v1/sites", Some(&body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        // It ends by itself; a test that minds how takes the task.
        drop(self.task.take());
    }
}
