//! Single sign-on with a real OpenID provider (npm's `oidc-provider`, which `make tools` installs), by a browser without a
//! screen: log-ins by each algorithm, roles by groups, links, command lines, and what a browser may not do.

use std::{io::BufRead as _, process::Stdio};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use slipway_control_plane::config::{Given, oidc::GivenOidc};

use crate::common::{
    Postgres,
    browser::{Browser, location, parameter},
    server::{Server, server_as, server_with},
};

/// The provider's process; ended when dropped.
struct Provider {
    child: std::process::Child,
    /// Held open: the process ends when it cannot write.
    _says: std::io::BufReader<std::process::ChildStdout>,
    issuer: String,
}

impl Provider {
    /// Starts one that sends browsers back to a control plane.
    fn start(control_plane: &str) -> Self {
        let script = std::env::var("SLIPWAY_OIDC_PROVIDER")
            .expect("SLIPWAY_OIDC_PROVIDER is not set: run this through `make test`");
        let mut child = std::process::Command::new("node")
            .arg(script)
            .arg(format!("{control_plane}/api/v1/auth/oidc/callback"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node runs");
        let mut issuer = String::new();
        let mut says = std::io::BufReader::new(child.stdout.take().unwrap());
        says.read_line(&mut issuer).unwrap();
        assert!(
            issuer.starts_with("http://127.0.0.1:"),
            "the provider said {issuer:?}"
        );
        Self {
            child,
            _says: says,
            issuer: issuer.trim().to_owned(),
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A control plane whose provider knows `client`.
async fn with_provider(client: &str, oidc: GivenOidc, given: Given) -> (Server, Provider) {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), format!("secret of {client}/+%\n")).unwrap();
    let client = client.to_owned();
    let mut provider = None;
    let server = server_with(given, |given, url| {
        let started = Provider::start(url);
        given.oidc = GivenOidc {
            oidc_issuer: Some(started.issuer.clone()),
            oidc_client_id: Some(client),
            oidc_client_secret_file: Some(secret.path().to_owned()),
            ..oidc
        };
        provider = Some(started);
    })
    .await;
    assert_eq!(server.get("/api/v1/setup").await["single_sign_on"], json!(true));
    (server, provider.unwrap())
}

fn creating() -> GivenOidc {
    let roles = [
        "ops=operator@global",
        "web=member@project:web",
        "readers=viewer@global",
        "web=nothing@global",
    ];
    GivenOidc {
        oidc_create_users: Some(true),
        oidc_roles: Some(roles.map(str::to_owned).to_vec()),
        ..GivenOidc::default()
    }
}

/// Goes to the provider and back: the answer of the callback.
async fn dance(server: &Server, browser: &mut Browser, name: &str, query: &str) -> reqwest::Response {
    let begun = browser
        .get(&format!("{}/api/v1/auth/oidc/login{query}", server.url))
        .await;
    assert_eq!(begun.status(), StatusCode::FOUND);
    let back = browser
        .log_in_at_provider(&location(&begun), name, &server.url)
        .await;
    browser.get(&back).await
}

async fn problem(answer: reqwest::Response, status: u16, code: &str) -> String {
    assert_eq!(answer.status(), status, "{:?}", answer.headers());
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["code"], code, "{body}");
    body["detail"].as_str().unwrap().to_owned()
}

/// Whom the session of a browser is of.
async fn me(server: &Server, browser: &mut Browser) -> Value {
    let answer = browser.get(&format!("{}/api/v1/me", server.url)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

async fn logs_in_by(client: &str, given: Given) {
    let (server, _provider) = with_provider(client, creating(), given).await;
    server.post("/api/v1/projects", json!({ "id": "web" })).await;
    let mut browser = Browser::new();
    let answer = dance(&server, &mut browser, "bob", "?next=/instances?state=failed").await;
    assert_eq!(
        answer.status(),
        StatusCode::SEE_OTHER,
        "{}",
        answer.text().await.unwrap()
    );
    assert_eq!(answer.headers()[header::LOCATION], "/instances?state=failed");
    assert!(
        browser.cookie("slipway_sso").is_none(),
        "the log-in's own cookie is gone"
    );
    let bob = me(&server, &mut browser).await;
    assert_eq!(
        (bob["name"].as_str(), bob["email"].as_str()),
        (Some("bob"), Some("bob@example.com"))
    );
    let scopes: Vec<&str> = bob["held"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| h["scope"].as_str().unwrap())
        .collect();
    assert_eq!(
        scopes,
        ["global", "project:web"],
        "what the groups stand for, and no role that is not there"
    );
    let user = server.get("/api/v1/users/bob").await;
    assert!(user["subject"].as_str().unwrap().ends_with(" bob"), "{user}");
    // The second time they are known.
    let mut other = Browser::new();
    assert_eq!(
        dance(&server, &mut other, "bob", "").await.status(),
        StatusCode::SEE_OTHER
    );
    assert_eq!(me(&server, &mut other).await["id"], bob["id"]);
    let noted = server.get("/api/v1/audit?action=login&actor=bob").await;
    assert_eq!(noted["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_by_rs256() {
    logs_in_by("rs", Given::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_by_es256_and_a_secret_in_the_form() {
    logs_in_by("es", Given::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_by_eddsa_on_postgresql() {
    let cluster = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let given = Given {
        database_url: Some(cluster.url()),
        ..Given::default()
    };
    logs_in_by("ed", given).await;
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_by_a_shared_secret_is_refused() {
    let (server, _provider) = with_provider("hs", creating(), Given::default()).await;
    let detail = problem(
        dance(&server, &mut Browser::new(), "bob", "").await,
        400,
        "sso_token",
    )
    .await;
    assert!(detail.contains("HS256"), "{detail}");
    let noted = server.get("/api/v1/audit?action=login&outcome=sso_token").await;
    assert_eq!(noted["items"][0]["via"], "sso", "{noted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_linked_stays_out_and_names_are_not_enough() {
    let oidc = GivenOidc::default();
    let (server, _provider) = with_provider("rs", oidc, Given::default()).await;
    let detail = problem(
        dance(&server, &mut Browser::new(), "ann", "").await,
        403,
        "forbidden",
    )
    .await;
    assert!(detail.contains("slipway user link NAME SUBJECT"), "{detail}");
    let link = json!({ "subject": "ann" });
    let (status, user) = server.call(Method::PATCH, "/api/v1/users/ann", Some(&link)).await;
    assert_eq!(status, StatusCode::OK, "{user}");
    let mut browser = Browser::new();
    assert_eq!(
        dance(&server, &mut browser, "ann", "").await.status(),
        StatusCode::SEE_OTHER
    );
    assert_eq!(me(&server, &mut browser).await["name"], "ann");
    server.post("/api/v1/users", json!({ "name": "zoe" })).await;
    let (status, taken) = server.call(Method::PATCH, "/api/v1/users/zoe", Some(&link)).await;
    assert_eq!(
        (status, taken["code"].as_str()),
        (StatusCode::CONFLICT, Some("taken"))
    );
    let unlink = json!({ "subject": "" });
    server
        .call(Method::PATCH, "/api/v1/users/ann", Some(&unlink))
        .await;
    let gone = browser.get(&format!("{}/api/v1/me", server.url)).await;
    assert_eq!(gone.status(), StatusCode::UNAUTHORIZED, "unlinking ends sessions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_a_disabled_user_and_a_lost_group_are_told() {
    let (server, _provider) = with_provider("rs", creating(), Given::default()).await;
    // The first administrator is called ann, too, and is somebody else until an administrator says otherwise.
    let detail = problem(
        dance(&server, &mut Browser::new(), "ann", "").await,
        409,
        "sso_name_taken",
    )
    .await;
    assert!(detail.contains("slipway user link ann ann"), "{detail}");
    server.post("/api/v1/users", json!({ "name": "carol" })).await;
    let link = json!({ "subject": "carol" });
    server
        .call(Method::PATCH, "/api/v1/users/carol", Some(&link))
        .await;
    let grant = json!({ "role": "viewer", "scope": "global" });
    server.post("/api/v1/users/carol/grants", grant).await;
    assert_eq!(
        dance(&server, &mut Browser::new(), "carol", "").await.status(),
        StatusCode::SEE_OTHER
    );
    let carol = server.get("/api/v1/users/carol").await;
    assert_eq!(
        carol["grants"][0]["role"], "viewer",
        "what an administrator granted stays: {carol}"
    );
    // Whoever is carol at the provider was bob before: bob's groups, then carol's none.
    dance(&server, &mut Browser::new(), "bob", "").await;
    let grants = |user: Value| user["grants"].as_array().unwrap().len();
    assert_eq!(grants(server.get("/api/v1/users/bob").await), 1);
    for (user, subject) in [("carol", ""), ("bob", "carol")] {
        let path = format!("/api/v1/users/{user}");
        server
            .call(Method::PATCH, &path, Some(&json!({ "subject": subject })))
            .await;
    }
    assert_eq!(
        dance(&server, &mut Browser::new(), "carol", "").await.status(),
        StatusCode::SEE_OTHER
    );
    assert_eq!(
        grants(server.get("/api/v1/users/bob").await),
        0,
        "no group, no role"
    );
    server
        .call(
            Method::PATCH,
            "/api/v1/users/bob",
            Some(&json!({ "disabled": true })),
        )
        .await;
    let detail = problem(
        dance(&server, &mut Browser::new(), "carol", "").await,
        403,
        "forbidden",
    )
    .await;
    assert!(detail.contains("`bob` is disabled"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_browser_that_began_ends_a_log_in() {
    let (server, provider) = with_provider("rs", creating(), Given::default()).await;
    let login = format!("{}/api/v1/auth/oidc/login", server.url);
    let (mut bob, mut eve) = (Browser::new(), Browser::new());
    let begun = bob.get(&login).await;
    let url = location(&begun);
    assert!(url.starts_with(&provider.issuer));
    assert_eq!(parameter(&url, "code_challenge_method").as_deref(), Some("S256"));
    let back = bob.log_in_at_provider(&url, "bob", &server.url).await;
    let state = parameter(&back, "state").unwrap();
    // Without the cookie, with the cookie of another log-in, and with another state.
    problem(eve.get(&back).await, 400, "sso_state").await;
    eve.get(&login).await;
    problem(eve.get(&back).await, 400, "sso_state").await;
    problem(bob.get(&back.replace(&state, "x")).await, 400, "sso_state").await;
    // Somebody who says another issuer sent them.
    let mixed = back.replace("iss=http", "iss=https");
    problem(bob.get(&mixed).await, 400, "sso_token").await;
    // A code of another log-in does not fit this one's verifier: the provider refuses.
    let other = location(&eve.get(&login).await);
    let theirs = eve.log_in_at_provider(&other, "carol", &server.url).await;
    let injected = back.replace(
        &parameter(&back, "code").unwrap(),
        &parameter(&theirs, "code").unwrap(),
    );
    problem(bob.get(&injected).await, 400, "sso_refused").await;
    let detail = problem(
        bob.get(&format!(
            "{}?state={state}&error=access_denied",
            back.split('?').next().unwrap()
        ))
        .await,
        400,
        "sso_refused",
    )
    .await;
    assert!(detail.contains("access_denied"), "{detail}");
    let users = server.get("/api/v1/users").await;
    assert_eq!(
        users["items"].as_array().unwrap().len(),
        1,
        "nobody came in: {users}"
    );
    for next in [
        "//evil.example.com",
        "https://evil.example.com",
        "/%5Cevil.example.com",
    ] {
        problem(bob.get(&format!("{login}?next={next}")).await, 400, "next").await;
    }
    problem(bob.get(&format!("{login}?port=40000")).await, 400, "query").await;
    problem(
        bob.get(&format!("{login}?port=80&challenge=x")).await,
        400,
        "port",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_gets_a_key_by_code_and_secret_once() {
    let (server, _provider) = with_provider("rs", creating(), Given::default()).await;
    let verifier = "a secret of the command line";
    let hash = ring::digest::digest(&ring::digest::SHA256, verifier.as_bytes());
    let challenge = URL_SAFE_NO_PAD.encode(hash);
    let query = format!("?port=40000&challenge={challenge}");
    let mut browser = Browser::new();
    let answer = dance(&server, &mut browser, "bob", &query).await;
    let to = location(&answer);
    assert!(
        to.starts_with("http://127.0.0.1:40000/?code=slipway-code-"),
        "{to}"
    );
    assert!(browser.cookie("slipway_session").is_none());
    let ask = |verifier: &str| {
        let body = json!({ "code": parameter(&to, "code"), "verifier": verifier, "name": "cli-box" });
        let url = format!("{}/api/v1/auth/oidc/key", server.url);
        server.http.post(url).json(&body).send()
    };
    problem(ask("another").await.unwrap(), 401, "unauthorized").await;
    let made = ask(verifier).await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Value = made.json().await.unwrap();
    problem(ask(verifier).await.unwrap(), 401, "unauthorized").await;
    let mine = server
        .http
        .get(format!("{}/api/v1/me", server.url))
        .bearer_auth(made["key"].as_str().unwrap());
    let mine: Value = mine.send().await.unwrap().json().await.unwrap();
    assert_eq!(mine["name"], "bob");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_provider_there_is_no_single_sign_on() {
    let server = server_as(Given::default()).await;
    assert_eq!(server.get("/api/v1/setup").await["single_sign_on"], json!(false));
    let answer = server
        .http
        .get(format!("{}/api/v1/auth/oidc/login", server.url))
        .send()
        .await
        .unwrap();
    problem(answer, 409, "sso_off").await;
    let silent = GivenOidc {
        oidc_issuer: Some("http://127.0.0.1:1".into()),
        ..GivenOidc::default()
    };
    let server = server_with(Given::default(), |given, _| given.oidc = silent).await;
    let answer = server
        .http
        .get(format!("{}/api/v1/auth/oidc/login", server.url))
        .send()
        .await
        .unwrap();
    problem(answer, 502, "sso_provider").await;
}
