//! Schemathesis against the running API and its own OpenAPI document: no 5xx, no answer that the document does not allow.

use std::process::Command;

use reqwest::{Method, StatusCode};
use slipway_control_plane::config::Given;

use crate::common::{
    Postgres,
    server::{Server, server_as},
};

/// `make tools` installs it and says where.
fn schemathesis() -> String {
    std::env::var("SLIPWAY_SCHEMATHESIS")
        .expect("SLIPWAY_SCHEMATHESIS is not set: run this through `make test`")
}

/// Sends `cases` random requests to each operation. The event stream is left out: it never ends.
fn fuzz(server: &Server, document: &std::path::Path, key: Option<&str>, cases: u32) {
    let mut command = Command::new(schemathesis());
    command.arg("run").arg(document);
    command.current_dir(document.parent().unwrap());
    command.args(["--url", &server.url, "--exclude-path-regex", "events$"]);
    command.args([
        "--max-examples",
        &cases.to_string(),
        "--phases",
        "coverage,fuzzing",
    ]);
    let checks = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    ];
    command.args(["--checks", &checks.join(",")]);
    if let Some(key) = key {
        command.args(["-H", &format!("Authorization: Bearer {key}")]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tested = said.lines().find_map(|line| line.trim().strip_prefix("Tested: "));
    let tested: usize = tested.and_then(|n| n.parse().ok()).unwrap_or(0);
    assert!(tested >= 80, "only {tested} operations were tried:\n{said}");
}

async fn holds(given: Given) {
    let server = server_as(given).await;
    server.make_site("bj-1").await;
    server.upload("i", b"image".to_vec()).await;
    let (status, document) = server.call(Method::GET, "/api/openapi.json", None).await;
    assert_eq!(status, StatusCode::OK);
    let path = server.dir.path().join("openapi.json");
    std::fs::write(&path, document.to_string()).unwrap();
    let key = server.token.clone();
    tokio::task::spawn_blocking(move || {
        fuzz(&server, &path, Some(&key), 10);
        fuzz(&server, &path, None, 2);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_breaks_the_api_or_its_document_on_sqlite() {
    holds(Given::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_breaks_the_api_or_its_document_on_postgresql() {
    let cluster = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let given = Given {
        database_url: Some(cluster.url()),
        ..Given::default()
    };
    holds(given).await;
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}
