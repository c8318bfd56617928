//! `slipway login` and `slipway logout`: how the command line comes to a key, keeps it, and gives it back. The session that
//! a password opens lasts as long as the command: what is kept is an API key, which its owner sees and can take back.

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Client, Session, refused_as},
    config::{self, Config},
    sso,
    terminal::{self, FromStdin},
};

/// How to log in.
#[derive(Debug, Args)]
pub(crate) struct Login {
    // Not named `url`: that is the option every command has.
    /// URL of the control plane, as in http://127.0.0.1:8080 [default: --url]
    #[arg(value_name = "URL")]
    address: Option<String>,
    /// The token is the one-time one of the set-up link
    #[arg(long)]
    setup: bool,
    /// Log in as this user with their password; with --setup, the name of the first administrator
    #[arg(long)]
    name: Option<String>,
    /// Log in with a browser on this computer, by the control plane's single sign-on
    #[arg(long, conflicts_with_all = ["setup", "name"])]
    sso: bool,
    #[command(flatten)]
    from_stdin: FromStdin,
}

/// Logs in and keeps what it got.
pub(crate) async fn login(login: Login, url: Option<String>) -> anyhow::Result<()> {
    let path = config::path()?;
    let url = match login.address.or(url) {
        Some(url) => url,
        None => config::load(&path)?
            .url
            .context("no control plane is known: run `slipway login URL`, or set SLIPWAY_URL")?,
    };
    let (token, key) = match login.name {
        Some(name) if !login.setup => {
            let password = terminal::password(&format!("Password of {name}"), login.from_stdin)?;
            let made = make_key(&Client::new(&url, None)?, (&name, &password), &key_name(&host())).await?;
            (made.0, Some(made.1))
        }
        _ if login.sso => {
            let made = sso::log_in(&url, &key_name(&host()), sso::show).await?;
            (made.0, Some(made.1))
        }
        name if login.setup => (set_up(&url, name).await?, None),
        _ => (terminal::secret("API token")?.trim().to_owned(), None),
    };
    let me = Client::new(&url, Some(token.clone()))?.get("/api/v1/me").await?;
    let kept = Config {
        url: Some(url),
        token: Some(token),
        key,
    };
    config::save(&path, &kept)?;
    let name = me["name"].as_str().unwrap_or("?");
    eprintln!("Logged in as {name}; remembered in {}.", path.display());
    Ok(())
}

/// Uses the set-up token up.
async fn set_up(url: &str, name: Option<String>) -> anyhow::Result<String> {
    let token = terminal::secret("Set-up token")?.trim().to_owned();
    let user = || std::env::var("USER").unwrap_or_else(|_| "admin".to_owned());
    let body = json!({ "token": token, "name": name.unwrap_or_else(user) });
    let answer = Client::new(url, None)?.post("/api/v1/setup", body).await?;
    let token = answer["token"]
        .as_str()
        .context("the control plane gave no token")?;
    Ok(token.to_owned())
}

/// An API key (secret and id) of this name by name and password; it takes the place of an older one of that name.
async fn make_key(
    client: &Client,
    (name, password): (&str, &str),
    key: &str,
) -> anyhow::Result<(String, String)> {
    let session = client.log_in(name, password).await?;
    let made = replace_key(client, &session, key).await;
    // The session is of no more use, whether there is a key or not.
    let ended = client
        .within(&session, (Method::POST, "/api/v1/logout"), json!({}))
        .await;
    let made = made?;
    ended?;
    match (made["key"].as_str(), made["id"].as_str()) {
        (Some(secret), Some(id)) => Ok((secret.to_owned(), id.to_owned())),
        _ => bail!("the control plane gave no key"),
    }
}

async fn replace_key(client: &Client, session: &Session, key: &str) -> anyhow::Result<Value> {
    let former = format!("/api/v1/me/keys/{key}");
    match client.within(session, (Method::DELETE, &former), json!({})).await {
        Err(error) if !refused_as(&error, "not_found") => return Err(error),
        _ => {}
    }
    client
        .within(session, (Method::POST, "/api/v1/me/keys"), json!({ "name": key }))
        .await
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of this computer's key, made of what names may hold.
fn key_name(host: &str) -> String {
    let usable = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = format!("cli-{host}").chars().map(usable).take(63).collect();
    name.trim_end_matches('-').to_owned()
}

/// Removes the key that was made at log-in from the control plane, and what is kept here.
pub(crate) async fn logout() -> anyhow::Result<()> {
    let path = config::path()?;
    let kept = config::load(&path)?;
    let (Some(url), Some(token)) = (kept.url, kept.token) else {
        bail!("nobody is logged in");
    };
    if let Some(key) = &kept.key {
        give_back(&Client::new(&url, Some(token))?, key).await.context(
            "the key is still good and still kept here; try again, or remove it at the control plane",
        )?;
    } else {
        eprintln!(
            "The token was not made by `slipway login --name` or `--sso`, so it stays good; `slipway key delete` removes keys."
        );
    }
    let nobody = Config {
        url: Some(url),
        ..Config::default()
    };
    config::save(&path, &nobody)?;
    eprintln!("Logged out.");
    Ok(())
}

/// Removes the key; one that is gone already is as good.
async fn give_back(client: &Client, key: &str) -> anyhow::Result<()> {
    match client.delete(&format!("/api/v1/me/keys/{key}")).await {
        Err(error) if !refused_as(&error, "unauthorized") && !refused_as(&error, "not_found") => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use axum::{
        Router,
        extract::State,
        http::{HeaderMap, Method, StatusCode, Uri, header},
        response::{IntoResponse, Response},
    };

    type Asked = Arc<Mutex<Vec<String>>>;

    /// A control plane that knows one user, and holds what it is asked against what the API wants.
    async fn answer(
        State(asked): State<Asked>,
        (method, uri): (Method, Uri),
        headers: HeaderMap,
        body: String,
    ) -> Response {
        let has = |name: &str, value: &str| headers.get(name).is_some_and(|v| v == value);
        let proven = has("cookie", "slipway_session=s-1") && has("x-csrf-token", "c-1");
        asked.lock().unwrap().push(format!("{method} {}", uri.path()));
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        if uri.path() == "/api/v1/login" {
            if body["password"] != "correct horse" {
                let refusal = r#"{"detail":"credentials are missing","code":"unauthorized"}"#;
                return (StatusCode::UNAUTHORIZED, refusal).into_response();
            }
            let cookie = "slipway_session=s-1; Path=/; HttpOnly";
            return ([(header::SET_COOKIE, cookie)], r#"{"csrf":"c-1","name":"ann"}"#).into_response();
        }
        if uri.path().ends_with("/k-narrowed") {
            let refusal = r#"{"detail":"a narrowed API key","code":"forbidden"}"#;
            return (StatusCode::FORBIDDEN, refusal).into_response();
        }
        if !proven {
            let refusal = r#"{"detail":"credentials are missing","code":"unauthorized"}"#;
            return (StatusCode::UNAUTHORIZED, refusal).into_response();
        }
        if method == Method::DELETE {
            let refusal = r#"{"detail":"there is no API key `cli-box`","code":"not_found"}"#;
            return (StatusCode::NOT_FOUND, refusal).into_response();
        }
        (StatusCode::CREATED, r#"{"id":"k-1","key":"slipway-api-1"}"#).into_response()
    }

    async fn control_plane() -> (Client, Asked) {
        slipway_bus::tls::install_provider();
        let asked = Asked::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&asked));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (Client::new(&url, None).unwrap(), asked)
    }

    #[tokio::test]
    async fn a_password_becomes_a_key_and_the_session_ends() {
        let (client, asked) = control_plane().await;
        let made = make_key(&client, ("ann", "correct horse"), "cli-box")
            .await
            .unwrap();
        assert_eq!(made, ("slipway-api-1".to_owned(), "k-1".to_owned()));
        let expected = [
            "POST /api/v1/login",
            "DELETE /api/v1/me/keys/cli-box",
            "POST /api/v1/me/keys",
            "POST /api/v1/logout",
        ];
        assert_eq!(*asked.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_wrong_password_is_told_and_nothing_else_is_tried() {
        let (client, asked) = control_plane().await;
        let error = make_key(&client, ("ann", "wrong"), "cli-box").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("knows no user `ann` with this password"),
            "{error}"
        );
        assert_eq!(*asked.lock().unwrap(), ["POST /api/v1/login"]);
    }

    #[tokio::test]
    async fn a_key_that_is_gone_already_counts_as_given_back_and_another_refusal_does_not() {
        let (client, _) = control_plane().await;
        give_back(&client, "k-1").await.unwrap();
        let error = give_back(&client, "k-narrowed").await.unwrap_err();
        assert!(refused_as(&error, "forbidden"), "{error}");
    }

    #[test]
    fn keys_are_named_after_the_computer() {
        assert_eq!(key_name("Box.example.com"), "cli-box-example-com");
        assert_eq!(key_name(""), "cli");
        assert_eq!(key_name(&"a".repeat(80)).len(), 63);
    }
}
