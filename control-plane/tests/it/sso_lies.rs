//! A provider that lies: it signs whatever the test says, by good keys and bad ones. Each lie is refused for its own reason,
//! and a new key of an honest provider is found.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use reqwest::StatusCode;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use slipway_control_plane::{
    access::oidc::provider::Provider,
    config::{
        Given,
        oidc::{GivenOidc, Oidc},
    },
};

use crate::common::{
    browser::{Browser, location, parameter},
    server::{Server, server_with},
};

/// What the provider says next.
struct Said {
    issuer: String,
    /// What its document names it.
    named: String,
    /// Seeds of the keys it publishes.
    published: Vec<u8>,
    token: String,
    info: Value,
}

type Liar = Arc<Mutex<Said>>;

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn token(header: &Value, body: &Value, seed: u8) -> String {
    let signed = format!("{}.{}", base64(header.to_string()), base64(body.to_string()));
    format!("{signed}.{}", base64(key(seed).sign(signed.as_bytes())))
}

async fn metadata(State(liar): State<Liar>) -> Json<Value> {
    let said = liar.lock().unwrap();
    let at = |path: &str| format!("{}{path}", said.issuer);
    Json(
        json!({ "issuer": said.named, "authorization_endpoint": at("/auth"), "token_endpoint": at("/token"),
        "jwks_uri": at("/keys"), "userinfo_endpoint": at("/me") }),
    )
}

async fn keys(State(liar): State<Liar>) -> Json<Value> {
    let published = liar.lock().unwrap().published.clone();
    let one = |seed: u8| json!({ "kty": "OKP", "crv": "Ed25519", "kid": seed.to_string(), "x": base64(key(seed).public_key()) });
    let keys: Vec<Value> = published.into_iter().map(one).collect();
    Json(json!({ "keys": keys }))
}

async fn tokens(State(liar): State<Liar>) -> Json<Value> {
    Json(json!({ "id_token": liar.lock().unwrap().token, "access_token": "a" }))
}

async fn info(State(liar): State<Liar>) -> Json<Value> {
    Json(liar.lock().unwrap().info.clone())
}

async fn lying() -> (Server, Liar) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let liar = Arc::new(Mutex::new(Said {
        issuer: issuer.clone(),
        named: issuer.clone(),
        published: vec![1],
        token: String::new(),
        info: json!({ "sub": "42" }),
    }));
    let router = Router::new()
        .route("/.well-known/openid-configuration", get(metadata))
        .route("/keys", get(keys))
        .route("/token", post(tokens))
        .route("/me", get(info))
        .with_state(Arc::clone(&liar));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let oidc = GivenOidc {
        oidc_issuer: Some(issuer),
        oidc_create_users: Some(true),
        ..GivenOidc::default()
    };
    let server = server_with(Given::default(), |given, _| given.oidc = oidc).await;
    (server, liar)
}

/// Begins a log-in, lets the liar say what `lie` makes of the truth, and comes back: status, code, detail.
async fn told(
    server: &Server,
    liar: &Liar,
    lie: impl Fn(&mut Value, &mut Value) -> u8,
) -> (StatusCode, Value) {
    let mut browser = Browser::new();
    let begun = browser
        .get(&format!("{}/api/v1/auth/oidc/login", server.url))
        .await;
    let to = location(&begun);
    let mut header = json!({ "alg": "EdDSA", "kid": "1" });
    let now = Utc::now().timestamp();
    let mut body = json!({ "iss": liar.lock().unwrap().issuer, "sub": "42", "aud": "slipway", "exp": now + 300, "iat": now,
        "nonce": parameter(&to, "nonce"), "preferred_username": "dora", "email": "d@example.com", "groups": [] });
    let seed = lie(&mut header, &mut body);
    liar.lock().unwrap().token = token(&header, &body, seed);
    let state = parameter(&to, "state").unwrap();
    let back = browser
        .get(&format!(
            "{}/api/v1/auth/oidc/callback?code=c&state={state}",
            server.url
        ))
        .await;
    let status = back.status();
    (status, back.json().await.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lie_is_refused_for_its_own_reason() {
    type Lie = (&'static str, fn(&mut Value, &mut Value) -> u8);
    let lies: [Lie; 8] = [
        ("answers another log-in", |_, body| {
            body["nonce"] = json!("n");
            1
        }),
        ("not valid at this time", |_, body| {
            body["exp"] = json!(Utc::now().timestamp() - 3600);
            1
        }),
        ("for another client", |_, body| {
            body["aud"] = json!("another");
            1
        }),
        ("is issued by `https://evil.example.com`", |_, body| {
            body["iss"] = json!("https://evil.example.com");
            1
        }),
        ("signed by `none`", |header, _| {
            header["alg"] = json!("none");
            1
        }),
        ("signed by `HS256`", |header, _| {
            header["alg"] = json!("HS256");
            1
        }),
        ("is not the provider's", |_, _| 2),
        ("does not publish", |header, _| {
            header["kid"] = json!("2");
            2
        }),
    ];
    let (server, liar) = lying().await;
    for (reason, lie) in lies {
        let (status, answer) = told(&server, &liar, lie).await;
        assert_eq!(
            (status, answer["code"].as_str()),
            (StatusCode::BAD_REQUEST, Some("sso_token")),
            "{answer}"
        );
        assert!(
            answer["detail"].as_str().unwrap().contains(reason),
            "{reason}: {answer}"
        );
    }
    let (status, answer) = told(&server, &liar, |_, _| 1).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "the truth: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_of_another_name_or_with_words_about_another_is_refused() {
    let (server, liar) = lying().await;
    liar.lock().unwrap().named = "https://evil.example.com".to_owned();
    let answer = server
        .http
        .get(format!("{}/api/v1/auth/oidc/login", server.url))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let named = liar.lock().unwrap().issuer.clone();
    liar.lock().unwrap().named = named;
    liar.lock().unwrap().info = json!({ "sub": "43", "preferred_username": "ann" });
    let less = |_: &mut Value, body: &mut Value| {
        body.as_object_mut().unwrap().remove("preferred_username");
        1
    };
    let (status, answer) = told(&server, &liar, less).await;
    assert_eq!(
        (status, answer["code"].as_str()),
        (StatusCode::BAD_REQUEST, Some("sso_refused")),
        "{answer}"
    );
}

#[tokio::test]
async fn who_waits_for_a_provider_that_fails_shares_one_answer() {
    slipway_bus::tls::install_provider();
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let failing = move || async move {
        *count.lock().unwrap() += 1;
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let router = Router::new().route("/.well-known/openid-configuration", get(failing));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let oidc = Oidc {
        issuer,
        client_id: "slipway".into(),
        client_secret: None,
        scopes: "openid".into(),
        groups_claim: "groups".into(),
        roles: vec![],
        create_users: false,
    };
    let provider = Provider::new(oidc, "http://localhost/".into());
    // All ask before any answer is there: the futures are polled in turn by this one thread.
    let answers = futures::future::join_all((0..5).map(|_| provider.look())).await;
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    assert_eq!(*asked.lock().unwrap(), 1);
    assert!(provider.look().await.is_err());
    assert_eq!(*asked.lock().unwrap(), 2, "who comes later asks anew");
}
