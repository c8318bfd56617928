//! HTTP to the control plane. A problem it answers becomes an error that reads "what (code)".

use std::{path::Path, time::Duration};

use anyhow::{Context as _, anyhow};
use reqwest::Method;
use serde_json::Value;

/// Most rows of a page.
const PAGE: usize = 1000;

/// What the control plane refused, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{detail} ({code})")]
pub(crate) struct Refusal {
    detail: String,
    code: String,
}

/// Whether a call was refused with this stable code.
pub(crate) fn refused_as(error: &anyhow::Error, code: &str) -> bool {
    error
        .downcast_ref::<Refusal>()
        .is_some_and(|refusal| refusal.code == code)
}

/// Code and words of a refusal, if it is one.
pub(crate) fn refused(error: &anyhow::Error) -> Option<(&str, &str)> {
    let refusal = error.downcast_ref::<Refusal>()?;
    Some((&refusal.code, &refusal.detail))
}

/// The control plane's API.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self {
            http,
            url: url.trim_end_matches('/').to_owned(),
            token,
        })
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, None).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::PATCH, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// An answer that is asked for with more than a path.
    pub(crate) async fn asked(&self, path: &str, asked: &[(&str, Option<String>)]) -> anyhow::Result<Value> {
        let request = self.http.get(format!("{}{path}", self.url));
        self.send(request.query(asked)).await
    }

    /// A list that `filters` narrow, every page of it in one.
    pub(crate) async fn all(&self, path: &str, filters: &[(&str, Option<String>)]) -> anyhow::Result<Value> {
        self.last(path, filters, usize::MAX).await
    }

    /// The last rows of a list that `filters` narrow: lists are read from their beginning only, so every page is read and
    /// no more than `rows` and a page are held.
    pub(crate) async fn last(
        &self,
        path: &str,
        filters: &[(&str, Option<String>)],
        rows: usize,
    ) -> anyhow::Result<Value> {
        let (mut items, mut cursor): (Vec<Value>, Option<String>) = (Vec::new(), None);
        loop {
            let mut page = self.page(path, filters, cursor.as_deref()).await?;
            if let Value::Array(more) = page["items"].take() {
                items.extend(more);
            }
            items.drain(..items.len().saturating_sub(rows));
            let next = page["next"].as_str().map(str::to_owned);
            if next.is_none() || next == cursor {
                return Ok(serde_json::json!({ "items": items }));
            }
            cursor = next;
        }
    }

    /// The first rows of a list that `filters` narrow.
    pub(crate) async fn first(
        &self,
        path: &str,
        filters: &[(&str, Option<String>)],
        rows: usize,
    ) -> anyhow::Result<Vec<Value>> {
        let (mut items, mut cursor): (Vec<Value>, Option<String>) = (Vec::new(), None);
        loop {
            let mut page = self.page(path, filters, cursor.as_deref()).await?;
            if let Value::Array(more) = page["items"].take() {
                items.extend(more);
            }
            let next = page["next"].as_str().map(str::to_owned);
            if items.len() >= rows || next.is_none() || next == cursor {
                items.truncate(rows);
                return Ok(items);
            }
            cursor = next;
        }
    }

    /// One page of a list that `filters` narrow, of as many rows as there may be: the first, or the one at `cursor`.
    pub(crate) async fn page(
        &self,
        path: &str,
        filters: &[(&str, Option<String>)],
        cursor: Option<&str>,
    ) -> anyhow::Result<Value> {
        let request = self.http.get(format!("{}{path}?limit={PAGE}", self.url));
        self.send(request.query(filters).query(&[("cursor", cursor)]))
            .await
    }

    /// Begins a session by name and password: its cookie, and what changing requests must carry besides.
    pub(crate) async fn log_in(&self, name: &str, password: &str) -> anyhow::Result<Session> {
        let body = serde_json::json!({ "name": name, "password": password });
        let request = self.http.post(format!("{}/api/v1/login", self.url)).json(&body);
        let answer = self.answer(request).await?;
        if answer.status() == reqwest::StatusCode::UNAUTHORIZED {
            anyhow::bail!("{} knows no user `{name}` with this password", self.url);
        }
        if !answer.status().is_success() {
            return Err(problem(&self.url, answer).await);
        }
        let cookie = answer.headers().get("set-cookie").and_then(|c| c.to_str().ok());
        let cookie = cookie
            .and_then(|cookie| cookie.split(';').next())
            .map(str::to_owned);
        let body: Value = answer.json().await?;
        Ok(Session {
            cookie: cookie.context("the control plane gave no session")?,
            csrf: body["csrf"]
                .as_str()
                .context("the control plane gave no session")?
                .to_owned(),
        })
    }

    /// A call within a session.
    pub(crate) async fn within(
        &self,
        session: &Session,
        (method, path): (Method, &str),
        body: Value,
    ) -> anyhow::Result<Value> {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let request = request
            .header("Cookie", &session.cookie)
            .header("X-CSRF-Token", &session.csrf);
        self.send(request.json(&body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(request).await
    }

    /// A live stream of server-sent events.
    pub(crate) async fn stream(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        let request = self.http.get(format!("{}{path}", self.url));
        let answer = self.answer(request.header("Accept", "text/event-stream")).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(problem(&self.url, answer).await)
    }

    /// Posts a text that is no JSON body of ours; a refusal that lists `rows` is an answer too.
    pub(crate) async fn post_text(&self, path: &str, kind: &str, text: String) -> anyhow::Result<Value> {
        let request = self.http.post(format!("{}{path}", self.url));
        let answer = self
            .answer(request.header("Content-Type", kind).body(text))
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() || body["rows"].is_array() {
            return Ok(body);
        }
        Err(refusal(&self.url, status, &body))
    }

    /// Uploads a disk image as it is read; never whole in memory.
    pub(crate) async fn upload(
        &self,
        query: &[(&str, Option<String>)],
        file: &Path,
    ) -> anyhow::Result<Value> {
        let opened = tokio::fs::File::open(file)
            .await
            .with_context(|| format!("cannot read {}", file.display()))?;
        let body = reqwest::Body::from(opened);
        let request = self
            .http
            .post(format!("{}/api/v1/images", self.url))
            .query(query)
            .body(body);
        self.send(request).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let answer = self.answer(request).await?;
        if answer.status().is_success() {
            return Ok(serde_json::from_str(&answer.text().await?).unwrap_or(Value::Null));
        }
        Err(problem(&self.url, answer).await)
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await;
        answer.with_context(|| format!("cannot reach the control plane at {}", self.url))
    }
}

/// A session that was begun by name and password. No `Debug`: it is a secret.
pub(crate) struct Session {
    cookie: String,
    csrf: String,
}

/// What an answer that is no success says.
async fn problem(url: &str, answer: reqwest::Response) -> anyhow::Error {
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    refusal(url, status, &body)
}

fn refusal(url: &str, status: reqwest::StatusCode, body: &Value) -> anyhow::Error {
    match (body["detail"].as_str(), body["code"].as_str()) {
        (Some(detail), Some(code)) => Refusal {
            detail: detail.to_owned(),
            code: code.to_owned(),
        }
        .into(),
        _ => anyhow!("{url} answered {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, http::StatusCode, routing::get};

    #[tokio::test]
    async fn a_problem_is_told_in_its_own_words() {
        slipway_bus::tls::install_provider();
        let problem = r#"{"detail":"there is no site `x`","code":"not_found"}"#;
        let router = Router::new().route(
            "/api/v1/sites/x",
            get(move || async move { (StatusCode::NOT_FOUND, problem) }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::new(&url, Some("t".into())).unwrap();
        let error = client.get("/api/v1/sites/x").await.unwrap_err();
        assert_eq!(error.to_string(), "there is no site `x` (not_found)");
        let nowhere = Client::new("http://127.0.0.1:1", None)
            .unwrap()
            .get("/")
            .await
            .unwrap_err();
        assert!(nowhere.to_string().contains("http://127.0.0.1:1"));
    }

    /// Numbers from 1 to 2500 in pages, as lists of the API are; those a filter leaves only.
    async fn numbers(axum::extract::Query(query): axum::extract::Query<Numbers>) -> String {
        let from = query.cursor.unwrap_or(0);
        let to = (from + query.limit).min(2500);
        let shown = ((from + 1)..=to).filter(|n| n % query.every.unwrap_or(1) == 0);
        let items: Vec<u64> = shown.collect();
        let next = (to < 2500).then(|| to.to_string());
        serde_json::json!({ "items": items, "next": next }).to_string()
    }

    #[derive(serde::Deserialize)]
    struct Numbers {
        limit: u64,
        cursor: Option<u64>,
        every: Option<u64>,
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_end_and_its_last_rows_are_kept() {
        slipway_bus::tls::install_provider();
        let router = Router::new().route("/numbers", get(numbers));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::new(&url, None).unwrap();
        let all = client.all("/numbers", &[("every", None)]).await.unwrap();
        assert_eq!(all["items"].as_array().unwrap().len(), 2500);
        let filters = [("every", Some("2".to_owned()))];
        let last = client.last("/numbers", &filters, 3).await.unwrap();
        assert_eq!(last["items"], serde_json::json!([2496, 2498, 2500]));
    }
}
