//! The real program in a process of its own, as an operator runs it.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use reqwest::StatusCode;
use serde_json::{Value, json};

/// A control plane's settings.
pub(crate) struct Place {
    pub(crate) dir: std::path::PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) mqtt: SocketAddr,
    pub(crate) database: Option<String>,
    /// More settings, by the names of their environment variables.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Where its log goes, if not to the test's own.
    pub(crate) log: Option<std::path::PathBuf>,
}

pub(crate) fn free() -> SocketAddr {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    bound.local_addr().unwrap()
}

impl Place {
    pub(crate) fn new(dir: &Path, database: Option<String>) -> Self {
        Self {
            dir: dir.to_owned(),
            http: free(),
            mqtt: free(),
            database,
            settings: Vec::new(),
            log: None,
        }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipway-control-plane"));
        command.arg("--data-dir").arg(&self.dir).args([
            "--http",
            &self.http.to_string(),
            "--mqtt",
            &self.mqtt.to_string(),
        ]);
        if let Some(url) = &self.database {
            command.env("SLIPWAY_DATABASE_URL", url);
        }
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.env("SLIPWAY_LOG", "warn");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipway-control-plane"));
        // Settings after the subcommand, too.
        command.args(arguments).args(self.command().get_args());
        command.envs(
            self.command()
                .get_envs()
                .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))),
        );
        command.output().unwrap()
    }

    pub(crate) fn doctor(&self) -> (bool, Vec<Value>) {
        let output = self.run(&["doctor", "--json"]);
        let found = serde_json::from_slice(&output.stdout);
        (
            output.status.success(),
            found.unwrap_or_else(|e| panic!("{e}: {output:?}")),
        )
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }
}

/// A running control plane; killed when dropped.
pub(crate) struct Running(Child, BufReader<ChildStdout>);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it: with the set-up token if it is a new one.
pub(crate) async fn start(place: &Place) -> Running {
    slipway_bus::tls::install_provider();
    let mut command = place.command();
    if let Some(log) = &place.log {
        command.stderr(std::fs::File::create(log).unwrap());
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let running = Running(child, out);
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while reqwest::get(place.url("/healthz")).await.is_err() {
        assert!(std::time::Instant::now() < limit, "it does not answer");
        tokio::task::yield_now().await;
    }
    running
}

pub(crate) async fn call(place: &Place, key: &str, path: &str, body: Option<Value>) -> (StatusCode, Value) {
    let http = reqwest::Client::new();
    let request = match body {
        Some(body) => http.post(place.url(path)).json(&body),
        None => http.get(place.url(path)),
    };
    let answer = request.bearer_auth(key).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap_or_default())
}

/// Sets a new control plane up: its first key.
pub(crate) async fn set_up(place: &Place, running: &mut Running) -> String {
    let mut line = String::new();
    running.1.read_line(&mut line).unwrap();
    let token = line.trim().split_once("token=").unwrap().1;
    let (status, answer) = call(
        place,
        "",
        "/api/v1/setup",
        Some(json!({ "token": token, "name": "ann" })),
    )
    .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["token"].as_str().unwrap().to_owned()
}

pub(crate) async fn fill(place: &Place, key: &str) {
    let subnet = json!({ "network": "192.0.2.0/24", "server": "192.0.2.1" });
    let machine = json!({ "name": "m1", "site": "bj-1", "macs": ["52:54:00:00:00:01"], "firmware": "bios",
        "bmc": { "address": "192.0.2.101:623", "username": "admin", "password": "hunter2", "driver": "ipmi" } });
    for (path, body) in [
        ("/api/v1/sites", json!({ "id": "bj-1", "subnets": [subnet] })),
        ("/api/v1/machines", machine),
    ] {
        let (status, answer) = call(place, key, path, Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
    let http = reqwest::Client::new();
    let image = http
        .post(place.url("/api/v1/images?name=i"))
        .bearer_auth(key)
        .body("image");
    assert_eq!(image.send().await.unwrap().status(), StatusCode::CREATED);
}

pub(crate) fn status<'a>(found: &'a [Value], check: &str) -> &'a str {
    let finding = found.iter().find(|finding| finding["check"] == check);
    finding.unwrap_or_else(|| panic!("nothing of {check}: {found:?}"))["status"]
        .as_str()
        .unwrap()
}
