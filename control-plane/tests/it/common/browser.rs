//! A browser without a screen: keeps cookies, follows redirects one at a time, fills the provider's forms in.

use std::collections::BTreeMap;

use reqwest::{Client, Response, StatusCode, header, redirect::Policy};

/// One person's browser.
pub(crate) struct Browser {
    http: Client,
    cookies: BTreeMap<String, String>,
}

/// `scheme://host:port` of a URL.
fn origin(url: &str) -> String {
    url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

/// Where an answer leads.
pub(crate) fn location(answer: &Response) -> String {
    let to = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
    match to.starts_with('/') {
        true => format!("{}{to}", origin(answer.url().as_str())),
        false => to,
    }
}

/// A parameter of a URL.
pub(crate) fn parameter(url: &str, name: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).unwrap();
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.map(|(_, value)| value.into_owned())
}

impl Browser {
    pub(crate) fn new() -> Self {
        let http = Client::builder().redirect(Policy::none()).build().unwrap();
        Self {
            http,
            cookies: BTreeMap::new(),
        }
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    pub(crate) fn set_cookie(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) async fn get(&mut self, url: &str) -> Response {
        let request = self.http.get(url);
        self.send(request).await
    }

    async fn post(&mut self, url: &str, form: &str) -> Response {
        let form_type = "application/x-www-form-urlencoded";
        let request = self.http.post(url).header(header::CONTENT_TYPE, form_type);
        self.send(request.body(form.to_owned())).await
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Response {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let answer = request
            .header(header::COOKIE, cookies.join("; "))
            .send()
            .await
            .unwrap();
        for cookie in answer.headers().get_all(header::SET_COOKIE) {
            let text = cookie.to_str().unwrap();
            let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.set_cookie(name, value);
            }
        }
        answer
    }

    /// Logs in as `name` at the provider, whose page is at `url`: where it sends the browser back to.
    pub(crate) async fn log_in_at_provider(&mut self, url: &str, name: &str, home: &str) -> String {
        let mut answer = self.get(url).await;
        for _ in 0..12 {
            if answer.status() == StatusCode::OK {
                let page = answer.url().to_string();
                let body = answer.text().await.unwrap();
                let form = if body.contains("name=\"login\"") {
                    format!("prompt=login&login={name}&password=any")
                } else {
                    "prompt=consent".to_owned()
                };
                answer = self.post(&page, &form).await;
                continue;
            }
            assert!(
                answer.status().is_redirection(),
                "{}: {}",
                answer.status(),
                answer.text().await.unwrap()
            );
            let to = location(&answer);
            if to.starts_with(home) {
                return to;
            }
            answer = self.get(&to).await;
        }
        panic!("the provider never sends the browser back");
    }
}
