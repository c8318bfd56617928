//! A client of the public REST API, as any user would write one.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// The API with a token.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Api {
    /// A client of the control plane at `base`, without a token yet.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(base: String) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(120))
            .build()?;
        Ok(Self {
            http,
            base,
            token: String::new(),
        })
    }

    /// Uses the set-up token up; the client has an API token from then on.
    ///
    /// # Errors
    /// When the token is refused.
    pub async fn set_up(&mut self, setup_token: &str) -> anyhow::Result<()> {
        let body = serde_json::json!({ "token": setup_token, "name": "demo" });
        let answer = self.call(Method::POST, "/api/v1/setup", Some(body)).await?;
        self.token = answer["token"]
            .as_str()
            .context("no token in the answer")?
            .to_owned();
        Ok(())
    }

    /// The token in use.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Base URL.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request and its status and body, whatever they are.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(StatusCode, String)> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        Ok((answer.status(), answer.text().await?))
    }

    /// A request that must succeed.
    ///
    /// # Errors
    /// When there is no answer or it is a problem.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let (status, text) = self.try_call(method.clone(), path, body).await?;
        ensure!(status.is_success(), "{method} {path}: {status} {text}");
        if text.is_empty() {
            Ok(Value::Null)
        } else {
            Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
        }
    }

    /// `GET`
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// `POST`
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// `POST` under an idempotency key, which makes it safe to repeat.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn post_once(&self, path: &str, body: &Value, key: &str) -> anyhow::Result<Value> {
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .bearer_auth(&self.token);
        let answer = request.header("Idempotency-Key", key).json(body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "POST {path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// A page by its whole URL, such as the metrics of an edge.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn page(&self, url: &str) -> anyhow::Result<String> {
        Ok(self
            .http
            .get(url)
            .bearer_auth(&self.token)
            .send()
            .await?
            .text()
            .await?)
    }

    /// A live stream of server-sent events, from after `last` on if that is given.
    ///
    /// # Errors
    /// When there is no answer or it is a problem.
    pub async fn stream(&self, path: &str, last: Option<u64>) -> anyhow::Result<reqwest::Response> {
        let mut request = self
            .http
            .get(format!("{}{path}", self.base))
            .bearer_auth(&self.token)
            .header("Accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        Ok(request.send().await?.error_for_status()?)
    }

    /// Uploads a disk image.
    ///
    /// # Errors
    /// When the file cannot be read or the upload is refused.
    pub async fn upload(&self, name: &str, file: &Path) -> anyhow::Result<Value> {
        let bytes = tokio::fs::read(file)
            .await
            .with_context(|| format!("cannot read {}", file.display()))?;
        let request = self
            .http
            .post(format!("{}/api/v1/images?name={name}", self.base))
            .bearer_auth(&self.token);
        let answer = request.body(bytes).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "upload of {name}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits until a job has ended; gives it back. Outages of the control plane in between are waited out.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn wait_for_job(&self, id: &str, limit: Duration) -> anyhow::Result<Value> {
        let end = tokio::time::Instant::now() + limit;
        let (mut revision, mut last) = (0, Value::Null);
        while tokio::time::Instant::now() < end {
            match self
                .get(&format!("/api/v1/jobs/{id}?after_revision={revision}&wait_s=5"))
                .await
            {
                Ok(job) => {
                    revision = job["revision"].as_u64().unwrap_or(0);
                    let ended = !matches!(job["state"].as_str(), Some("queued" | "running"));
                    if ended {
                        return Ok(job);
                    }
                    last = job;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        bail!(
            "job {id} did not end within {} s; it stands at {last:#}",
            limit.as_secs()
        )
    }
}
