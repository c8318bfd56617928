//! `/readyz` says what is not there, and that it is there again; `/healthz` goes on, as the process lives.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use slipway_control_plane::config::Given;

use crate::{
    attacks::world::{Broker, World},
    common::{
        Postgres,
        server::{server, server_as},
    },
};

const LIMIT: Duration = Duration::from_secs(60);

async fn asked(url: &str) -> (StatusCode, String) {
    let answer = reqwest::get(format!("{url}/readyz")).await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    let code = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|body| Some(body["code"].as_str()?.to_owned()));
    (status, code.unwrap_or(text))
}

async fn until(url: &str, status: StatusCode, what: &str) {
    let wait = async {
        while asked(url).await != (status, what.to_owned()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(LIMIT, wait).await.is_err() {
        panic!("not {status} {what} but {:?}", asked(url).await);
    }
    let alive = reqwest::get(format!("{url}/healthz")).await.unwrap();
    assert!(status != StatusCode::OK || alive.status() == StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_takes_no_file_is_not_ready() {
    let server = server().await;
    until(&server.url, StatusCode::OK, "ready\n").await;
    let chunks = server.dir.path().join("chunks");
    std::fs::remove_dir_all(&chunks).unwrap();
    std::fs::write(&chunks, "in the way").unwrap();
    until(&server.url, StatusCode::SERVICE_UNAVAILABLE, "no_space").await;
    std::fs::remove_file(&chunks).unwrap();
    until(&server.url, StatusCode::OK, "ready\n").await;
}

#[test]
fn a_database_that_is_gone_is_not_ready() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cluster = Postgres::start();
        let server = server_as(Given {
            database_url: Some(cluster.url()),
            ..Given::default()
        })
        .await;
        until(&server.url, StatusCode::OK, "ready\n").await;
        drop(cluster);
        until(&server.url, StatusCode::SERVICE_UNAVAILABLE, "database").await;
    });
    // A background task that asks the database that is gone would hold it up.
    runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone_is_not_ready() {
    let mut world = World::start(Broker::Mosquitto).await;
    let url = world.place.url("");
    until(&url, StatusCode::OK, "ready\n").await;
    world.mosquitto.as_mut().unwrap().stop();
    until(&url, StatusCode::SERVICE_UNAVAILABLE, "broker").await;
    world.mosquitto.as_mut().unwrap().restart();
    until(&url, StatusCode::OK, "ready\n").await;
}
