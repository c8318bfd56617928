//! Images as versions of families, bound to machine types; over HTTP, on both databases.

use std::time::Duration;

use crate::common::server::{Server, on_each_server};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn upload(server: &Server, query: &str) -> (StatusCode, Value) {
    let url = format!("{}/api/v1/images?{query}", server.url);
    let request = server.http.post(url).bearer_auth(&server.token);
    let answer = request.body(query.to_owned()).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

#[test]
fn a_family_means_its_newest_version_that_is_not_deprecated() {
    on_each_server(versions);
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn versions(server: &Server) {
    for version in ["13.9", "13.10", "12.1"] {
        let name = version.replace('.', "-");
        let (status, answer) = upload(server, &format!("name=d{name}&family=debian&version={version}")).await;
        assert_eq!(
            (status, &answer["version"]),
            (StatusCode::CREATED, &json!(version)),
            "{answer}"
        );
    }
    upload(server, "name=plain").await;
    let meant = async |key: &str| server.get(&format!("/api/v1/images/{key}")).await["name"].clone();
    assert_eq!(meant("debian").await, "d13-10");
    assert_eq!(meant("debian:12.1").await, "d12-1");
    let (status, changed) = server
        .patch("/api/v1/images/debian:13.10", json!({ "deprecated": true }))
        .await;
    assert_eq!(
        (status, &changed["deprecated"]),
        (StatusCode::OK, &json!(true)),
        "{changed}"
    );
    assert_eq!(meant("debian").await, "d13-9");
    assert_eq!(meant("debian:13.10").await, "d13-10", "it can still be asked for");
    let list = server.get("/api/v1/images?family=debian").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    for (query, code) in [
        ("name=debian", "image_name"),
        ("name=x&family=plain&version=1", "image_name"),
        ("name=x&family=x&version=1", "image_name"),
        ("name=x&family=debian&version=13.9", "taken"),
        ("name=x&family=debian", "version"),
        ("name=x&family=debian&version=a:b", "version"),
    ] {
        assert_eq!(upload(server, query).await.1["code"], code, "{query}");
    }
    for (body, code) in [
        (json!({ "name": "debian" }), "image_name"),
        (json!({ "family": "debian" }), "version"),
        (json!({ "family": null, "version": "1" }), "version"),
        (json!({ "name": "d13-9" }), "taken"),
        (json!({ "machine_types": ["none"] }), "not_found"),
        (json!({ "colour": "red" }), "body"),
    ] {
        assert_eq!(
            server.patch("/api/v1/images/plain", body.clone()).await.1["code"],
            code,
            "{body}"
        );
    }
    let missing = server
        .patch("/api/v1/images/debian", json!({ "deprecated": true }))
        .await;
    assert_eq!(
        missing.1["code"], "not_found",
        "a family is not changed as if it were one of its versions"
    );
    let (_, moved) = server
        .patch("/api/v1/images/d12-1", json!({ "family": null, "name": "old" }))
        .await;
    assert_eq!(
        (&moved["family"], &moved["version"]),
        (&Value::Null, &Value::Null)
    );
    server.make_site("bj-1").await;
    let wish = json!({ "name": "w", "site": "bj-1", "image": "debian" });
    let (status, made) = server.post("/api/v1/instances", wish).await;
    assert_eq!(
        (status, &made["instance"]["image"]["name"]),
        (StatusCode::ACCEPTED, &json!("d13-9"))
    );
}

#[test]
fn an_image_is_installed_on_machines_it_is_for() {
    on_each_server(bound);
}

async fn bound(server: &Server) {
    server.make_site("bj-1").await;
    upload(server, "name=gpu-driver").await;
    server.make_machine("bj-1", 1, json!({ "gpu": "yes" })).await;
    server.make_machine("bj-1", 2, json!({})).await;
    server
        .make_type("gpu", 0, json!({ "labels": { "gpu": "yes" } }))
        .await;
    server
        .make_type("big", 0, json!({ "labels": { "size": "big" } }))
        .await;
    let (_, image) = server
        .patch(
            "/api/v1/images/gpu-driver",
            json!({ "machine_types": ["gpu", "gpu"] }),
        )
        .await;
    assert_eq!(image["machine_types"], json!(["gpu"]));
    let ask = async |name: &str, more: Value| {
        let mut body = json!({ "name": name, "site": "bj-1", "image": "gpu-driver" });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let (status, answer) = server.post("/api/v1/instances", body).await;
        if status.is_success() {
            "made".to_owned()
        } else {
            answer["code"].as_str().unwrap().to_owned()
        }
    };
    assert_eq!(ask("a", json!({ "machine_type": "big" })).await, "image_type");
    assert_eq!(ask("a", json!({ "machine": "m2" })).await, "image_type");
    assert_eq!(ask("a", json!({ "machine": "m1" })).await, "made");
    assert_eq!(ask("b", json!({ "machine_type": "gpu" })).await, "made");
    assert_eq!(
        ask("c", json!({})).await,
        "made",
        "the scheduler chooses one that the image is for"
    );
    let (_, refused) = server
        .call(Method::DELETE, "/api/v1/machine-types/gpu", None)
        .await;
    assert_eq!(refused["code"], "machine_type_in_use");
    server
        .patch("/api/v1/images/gpu-driver", json!({ "machine_types": [] }))
        .await;
    // It waits for a machine of the type.
    server.call(Method::DELETE, "/api/v1/instances/b", None).await;
    let gone = server
        .call(Method::DELETE, "/api/v1/machine-types/gpu", None)
        .await;
    assert_eq!(gone.0, StatusCode::NO_CONTENT);
}

/// Chunks in the folder of a server; parts of writes and all else count, too.
fn stored(server: &Server) -> usize {
    let Ok(folders) = std::fs::read_dir(server.dir.path().join("chunks")) else {
        return 0;
    };
    let files = |dir: std::fs::DirEntry| std::fs::read_dir(dir.path()).map_or(1, Iterator::count);
    folders.map(|dir| files(dir.unwrap())).sum()
}

async fn until_stored(server: &Server, wanted: usize) {
    let wait = async {
        while stored(server) != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
    assert!(
        waited.is_ok(),
        "{} files are stored, not {wanted}",
        stored(server)
    );
}

/// A disk of three chunks of 4 MiB, the last of which it shares with all others.
fn disk(first: u8) -> Vec<u8> {
    const CHUNK: usize = 4 << 20;
    [vec![first; CHUNK], vec![first + 1; CHUNK], vec![9; CHUNK]].concat()
}

#[test]
fn chunks_go_with_the_last_image_that_refers_to_them() {
    on_each_server(async |server| {
        for (name, first) in [("one", 1), ("two", 3)] {
            let (status, made) = server.upload(name, disk(first)).await;
            assert_eq!(status, StatusCode::CREATED, "{made}");
        }
        until_stored(server, 5).await;
        for (name, left) in [("one", 3), ("two", 0)] {
            let (status, _) = server
                .call(Method::DELETE, &format!("/api/v1/images/{name}"), None)
                .await;
            assert_eq!(status, StatusCode::NO_CONTENT);
            until_stored(server, left).await;
        }
    });
}

#[test]
fn an_upload_that_fails_or_is_cut_leaves_nothing() {
    on_each_server(async |server| {
        let (status, made) = server.upload("kept", disk(1)).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        // Taken: refused after the last byte, when all is stored.
        let (status, refused) = server.upload("kept", disk(5)).await;
        assert_eq!(
            (status, refused["code"].as_str()),
            (StatusCode::CONFLICT, Some("taken"))
        );
        until_stored(server, 3).await;
        // What begins as no disk does is refused by name, also within zstd.
        let mut qcow2 = disk(5);
        qcow2[..4].copy_from_slice(b"QFI\xfb");
        let packed = zstd::bulk::compress(&qcow2, 1).unwrap();
        let page = "<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>".repeat(9);
        for (upload, what) in [
            (qcow2, "qcow2"),
            (packed, "qcow2"),
            (page.into_bytes(), "web page"),
        ] {
            let (status, refused) = server.upload("other", upload).await;
            assert_eq!(
                (status, refused["code"].as_str()),
                (StatusCode::BAD_REQUEST, Some("image_format")),
                "{refused}"
            );
            assert!(refused["detail"].as_str().unwrap().contains(what), "{refused}");
        }
        let cut = zstd::bulk::compress(&disk(7), 1).unwrap();
        let (status, refused) = server.upload("other", cut[..cut.len() / 2].to_vec()).await;
        assert_eq!(
            (status, refused["code"].as_str()),
            (StatusCode::BAD_REQUEST, Some("image_broken_off")),
            "{refused}"
        );
        // A client that goes away in the middle.
        let mut socket = std::net::TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
        let head = format!(
            "POST /api/v1/images?name=other HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 99999999\r\n\r\n",
            server.token
        );
        std::io::Write::write_all(&mut socket, head.as_bytes()).unwrap();
        std::io::Write::write_all(&mut socket, &disk(11)).unwrap();
        until_stored(server, 5).await;
        drop(socket);
        until_stored(server, 3).await;
        let images = server.get("/api/v1/images").await;
        assert_eq!(images["items"].as_array().unwrap().len(), 1);
    });
}
