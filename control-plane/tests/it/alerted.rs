//! Alerts over real HTTP: rules that make no sense are refused, and what is wrong is told by webhook and by mail to a real
//! SMTP sink.

use std::time::Duration;

use crate::common::server::server_as;
use axum::{Router, extract::State, routing::post};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::config::Given;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

const LIMIT: Duration = Duration::from_secs(60);

/// An SMTP server that takes mails, the first one only at its second attempt, and passes on what it got.
async fn smtp_sink() -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let (got, mails) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut refuse = true;
        while let Ok((stream, _)) = listener.accept().await {
            let mail = serve_smtp(stream, std::mem::take(&mut refuse)).await.unwrap();
            mail.into_iter().for_each(|mail| got.send(mail).unwrap());
        }
    });
    (url, mails)
}

/// Speaks SMTP (RFC 5321) on one connection; gives back the mail, unless it is to be refused.
async fn serve_smtp(stream: TcpStream, refuse: bool) -> std::io::Result<Option<String>> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink\r\n").await?;
    let (mut mail, mut line) = (None, String::new());
    while stream.read_line(&mut line).await? > 0 {
        let answer = match line.get(..4).unwrap_or_default().to_uppercase().as_str() {
            "EHLO" | "HELO" | "MAIL" | "RSET" | "NOOP" => "250 sink\r\n",
            "RCPT" if refuse => "451 later\r\n",
            "RCPT" => "250 sink\r\n",
            "DATA" => {
                stream.write_all(b"354 go\r\n").await?;
                let mut text = String::new();
                while !text.ends_with("\r\n.\r\n") {
                    stream.read_line(&mut text).await?;
                }
                mail = Some(text);
                "250 taken\r\n"
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(mail);
            }
            _ => "502 what\r\n",
        };
        stream.write_all(answer.as_bytes()).await?;
        line.clear();
    }
    Ok(mail)
}

/// A webhook receiver that passes on what it got.
async fn receiver() -> (String, mpsc::UnboundedReceiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (got, events) = mpsc::unbounded_channel();
    let receive = async |State(got): State<mpsc::UnboundedSender<Value>>,
                         axum::Json(event): axum::Json<Value>| {
        got.send(event).unwrap();
    };
    let router = Router::new().route("/", post(receive)).with_state(got);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, events)
}

async fn within<T>(next: impl Future<Output = Option<T>>) -> T {
    tokio::time::timeout(LIMIT, next).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_told_by_webhook_and_by_mail() {
    let ((smtp, mut mails), (hook, mut events)) = (smtp_sink().await, receiver().await);
    let given = Given {
        smtp: Some(smtp),
        smtp_from: Some("Slipway <slipway@example.com>".into()),
        webhook_private: Some(true),
        ..Given::default()
    };
    let server = server_as(given).await;
    server.make_site("bj-1").await;
    let post = async |path: &str, body: Value| server.call(Method::POST, path, Some(&body)).await;
    let (_, webhook) = post("/api/v1/webhooks", json!({ "url": hook, "kinds": [] })).await;
    let condition =
        json!({ "is": "state_older_than", "object": "machine", "state": "available", "seconds": 0 });
    let rule = json!({ "name": "idle machines", "condition": condition, "webhooks": [webhook["id"]],
        "emails": ["ops@example.com"] });
    let (status, made) = post("/api/v1/alert-rules", rule.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(post("/api/v1/alert-rules", rule).await.1["code"], "taken");
    let machine = json!({ "name": "m1", "site": "bj-1", "macs": ["02:00:00:00:00:01"], "firmware": "bios" });
    assert_eq!(post("/api/v1/machines", machine).await.0, StatusCode::CREATED);
    let opened = within(events.recv()).await;
    assert_eq!(
        (opened["kind"].as_str(), opened["data"]["name"].as_str()),
        (Some("alert.opened"), Some("idle machines"))
    );
    let open = server.get("/api/v1/alerts?open=true&site=bj-1").await;
    assert_eq!(open["items"][0]["id"], opened["data"]["alert"]);
    assert_eq!(
        server.call(Method::DELETE, "/api/v1/machines/m1", None).await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(within(events.recv()).await["kind"], "alert.resolved");
    let resolved = server.get("/api/v1/alerts?open=false").await;
    assert_eq!(resolved["items"].as_array().unwrap().len(), 1);
    // The one that was refused at first may come last.
    let texts = [within(mails.recv()).await, within(mails.recv()).await];
    for word in ["Alert", "Resolved"] {
        let subject = format!("Subject: [Slipway] {word}: idle machines");
        let mail = texts.iter().find(|text| text.contains(&subject)).unwrap();
        assert!(
            mail.contains("To: ops@example.com") && mail.contains("machine m1 at bj-1 is available since"),
            "{mail}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_makes_no_sense_is_refused() {
    let server = server_as(Given::default()).await;
    let failed = json!({ "is": "job_failed" });
    let odd = json!({ "is": "state_older_than", "object": "job", "state": "available", "seconds": 1 });
    let cases = [
        (json!({ "name": "", "condition": failed }), "name"),
        (
            json!({ "name": "r", "condition": failed, "emails": ["ops"] }),
            "email",
        ),
        (
            json!({ "name": "r", "condition": failed, "emails": ["ops@example.com"] }),
            "no_smtp",
        ),
        (
            json!({ "name": "r", "condition": failed, "webhooks": ["none"] }),
            "not_found",
        ),
        (json!({ "name": "r", "condition": odd }), "state"),
        (json!({ "name": "r", "condition": { "is": "moon_full" } }), "body"),
    ];
    for (rule, code) in cases {
        let (_, problem) = server
            .call(Method::POST, "/api/v1/alert-rules", Some(&rule))
            .await;
        assert_eq!(problem["code"], code, "{rule}");
    }
    let good = json!({ "name": "r", "condition": failed });
    let (status, made) = server
        .call(Method::POST, "/api/v1/alert-rules", Some(&good))
        .await;
    assert_eq!(status, StatusCode::CREATED);
    let off = json!({ "active": false, "condition": { "is": "site_offline", "seconds": 600 } });
    let (_, changed) = server
        .call(Method::PATCH, "/api/v1/alert-rules/r", Some(&off))
        .await;
    assert_eq!(
        (&changed["id"], changed["active"].as_bool()),
        (&made["id"], Some(false))
    );
    assert_eq!(
        server.get("/api/v1/alert-rules").await["items"][0]["condition"]["seconds"],
        600
    );
    assert_eq!(
        server.call(Method::DELETE, "/api/v1/alert-rules/r", None).await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        server.call(Method::GET, "/api/v1/alert-rules/r", None).await.0,
        StatusCode::NOT_FOUND
    );
}
