//! The API over real HTTP, in process: who may, what is refused by which code, and what an edge gets.

use crate::common::server::server;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_protocol::{
    ids::{Digest, SiteId},
    keys::{Expect, KeyRing, Signer},
    seal::OpeningKey,
    site::{JoinAnswer, JoinRequest, JoinToken, ProvenJoinRequest, chunk_key_context, chunk_proof},
    topic::Topic,
};

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn bad_input_is_refused_by_a_stable_code() {
    let server = server().await;
    server.make_site("bj-1").await;
    let site = |subnet: Value| json!({ "id": "x", "subnets": [subnet] });
    let machine = |more: Value| {
        let mut body =
            json!({ "name": "m1", "site": "bj-1", "macs": ["52:54:00:00:00:01"], "firmware": "bios" });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let cases = [
        ("/api/v1/sites", json!({ "id": "Bad Name" }), "name"),
        ("/api/v1/sites", json!({ "id": "bj-1" }), "taken"),
        ("/api/v1/sites", json!({ "id": "x", "colour": "red" }), "body"),
        (
            "/api/v1/sites",
            site(json!({ "network": "192.0.2.0/24", "server": "198.51.100.1" })),
            "subnet",
        ),
        ("/api/v1/machines", machine(json!({ "macs": [] })), "no_mac"),
        (
            "/api/v1/machines",
            machine(json!({ "address": "192.0.2.1" })),
            "address",
        ),
        (
            "/api/v1/machines",
            machine(json!({ "site": "nowhere" })),
            "not_found",
        ),
        (
            "/api/v1/instances",
            json!({ "name": "w", "site": "bj-1", "image": "none" }),
            "not_found",
        ),
        (
            "/api/v1/instances",
            json!({ "name": "w", "site": "bj-1", "image": "i", "disk": { "path": "/dev/sda" } }),
            "body",
        ),
        (
            "/api/v1/instances",
            json!({ "name": "w", "site": "bj-1", "image": "i", "ssh_keys": ["x"] }),
            "ssh_key",
        ),
        (
            "/api/v1/instances",
            json!({ "name": "w", "site": "bj-1", "image": "i", "user": "Root\n" }),
            "user",
        ),
    ];
    for (path, body, code) in cases {
        let (status, answer) = server.post(path, body.clone()).await;
        assert!(status.is_client_error(), "{path} {body}: {status}");
        assert_eq!(answer["code"], code, "{path} {body}: {answer}");
    }
    assert_eq!(server.upload("empty", vec![]).await.1["code"], "image_empty");
    let (status, _) = server.post("/api/v1/machines", machine(json!({}))).await;
    assert_eq!(status, StatusCode::CREATED);
    let (_, shown) = server.call(Method::GET, "/api/v1/machines/m1", None).await;
    assert_eq!(
        (shown["state"].as_str(), shown["address"].as_str()),
        (Some("available"), Some("192.0.2.2"))
    );
    let patch = |tag: &'static str| {
        let request = server
            .http
            .patch(format!("{}/api/v1/sites/bj-1", server.url))
            .bearer_auth(&server.token);
        request
            .header("If-Match", tag)
            .json(&json!({ "discover": true }))
            .send()
    };
    assert_eq!(
        patch("\"7\"").await.unwrap().status(),
        StatusCode::PRECONDITION_FAILED
    );
    assert_eq!(patch("\"1\"").await.unwrap().headers()["etag"], "\"2\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_twice_makes_one_instance() {
    let server = server().await;
    server.make_site("bj-1").await;
    let (status, image) = server
        .upload("i", [vec![0; 5_000_000], b"x".to_vec()].concat())
        .await;
    assert_eq!(status, StatusCode::CREATED, "{image}");
    let ask = |key: &'static str, name: &'static str| {
        let request = server
            .http
            .post(format!("{}/api/v1/instances", server.url))
            .bearer_auth(&server.token);
        let body = json!({ "name": name, "site": "bj-1", "image": "i" });
        async move {
            let answer = request
                .header("Idempotency-Key", key)
                .json(&body)
                .send()
                .await
                .unwrap();
            (answer.status(), answer.json::<Value>().await.unwrap())
        }
    };
    let first = ask("k", "w").await;
    assert_eq!(first.0, StatusCode::ACCEPTED);
    let again = ask("k", "w").await;
    let ids = |(status, answer): &(StatusCode, Value)| {
        (
            *status,
            answer["instance"]["id"].clone(),
            answer["job"]["id"].clone(),
        )
    };
    assert_eq!(ids(&again), ids(&first), "the very same instance and job");
    assert_eq!(ask("k", "other").await.1["code"], "idempotency_key");
    let (_, list) = server.call(Method::GET, "/api/v1/instances", None).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let job = first.1["job"]["id"].as_str().unwrap();
    let (_, job) = server
        .call(Method::GET, &format!("/api/v1/jobs/{job}"), None)
        .await;
    assert_eq!(job["state"], "queued", "no edge has joined, so it waits");
    let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let shown = server.get("/api/v1/instances/w").await;
        match shown["waiting"].as_str() {
            Some(why) => break assert_eq!(why, "no edge has joined site bj-1"),
            None => assert!(tokio::time::Instant::now() < limit, "nobody said why: {shown}"),
        }
    }
    let cancel = format!("/api/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
    assert_eq!(server.post(&cancel, json!({})).await.0, StatusCode::ACCEPTED);
    assert_eq!(server.post(&cancel, json!({})).await.1["code"], "job_ended");
}

/// What an edge sends, with keys of its own.
fn join_request(token: &JoinToken) -> (ProvenJoinRequest, OpeningKey) {
    let csr = || {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec![])
            .unwrap()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap()
    };
    let (opening, _) = OpeningKey::generate().unwrap();
    let request = JoinRequest {
        token: token.id.clone(),
        site: token.site.clone(),
        csr: csr(),
        agent_csr: csr(),
        report_key: Signer::generate().unwrap().0.verifying_key(),
        sealing_key: opening.sealing_key(),
        trusts: None,
    };
    (
        ProvenJoinRequest {
            proof: token.proof(&request),
            request,
        },
        opening,
    )
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn a_join_token_is_good_once_for_its_holder_and_chunks_are_for_edges() {
    let server = server().await;
    server.make_site("bj-1").await;
    let (_, image) = server.upload("i", b"hello".to_vec()).await;
    assert_eq!(image["chunks"], 1);
    let (status, token) = server.post("/api/v1/sites/bj-1/tokens", json!({})).await;
    assert_eq!(status, StatusCode::CREATED);
    let token = JoinToken::from_text(token["token"].as_str().unwrap()).unwrap();
    let send = async |proven: &ProvenJoinRequest| {
        server
            .post("/api/v1/join", serde_json::to_value(proven).unwrap())
            .await
    };
    let thief = JoinToken {
        secret: "guessed".into(),
        ..token.clone()
    };
    assert_eq!(send(&join_request(&thief).0).await.1["code"], "token_proof");
    let stranger = JoinToken {
        id: "0000".into(),
        ..token.clone()
    };
    assert_eq!(send(&join_request(&stranger).0).await.1["code"], "token_unknown");
    let (proven, opening) = join_request(&token);
    let answered = server
        .http
        .post(format!("{}/api/v1/join", server.url))
        .json(&proven)
        .send()
        .await
        .unwrap();
    assert_eq!(answered.status(), StatusCode::OK);
    let payload = answered.bytes().await.unwrap();
    assert_eq!(send(&proven).await.1["code"], "token_used");
    let topic = Topic::Config(SiteId::new("bj-1").unwrap());
    let expect = Expect {
        now: chrono::Utc::now(),
        held: None,
    };
    let answer = KeyRing::new([token.verifying_key])
        .open::<JoinAnswer>(&topic, &payload, expect)
        .unwrap()
        .into_body();
    let key = opening
        .open(&answer.chunk_key, &chunk_key_context(&token.site))
        .unwrap();
    let path = format!("/api/v1/chunks/{}", Digest::of(b"hello"));
    let fetch = async |proof: String| {
        server
            .http
            .get(format!("{}{path}", server.url))
            .header("Authorization", proof)
            .send()
            .await
            .unwrap()
    };
    let chunk = fetch(chunk_proof(&token.site, &key, &path)).await;
    assert_eq!(chunk.status(), StatusCode::OK);
    assert_eq!(
        zstd::bulk::decompress(&chunk.bytes().await.unwrap(), 100).unwrap(),
        b"hello"
    );
    let other_path = chunk_proof(&token.site, &key, "/api/v1/chunks/other");
    assert_eq!(fetch(other_path).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        fetch(format!("Bearer {}", server.token)).await.status(),
        StatusCode::UNAUTHORIZED
    );
}
