//! Alert rules: what holds opens an alert once and resolves by itself, on SQLite and on PostgreSQL; told by webhook and by
//! mail to a real SMTP sink.

use std::{collections::BTreeMap, time::Duration};

use crate::common::on_each_database;
use crate::common::server::server_as;
use axum::{Router, extract::State, routing::post};
use chrono::{DateTime, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::{
    config::Given,
    domain,
    store::{
        Store, StoreError,
        alerts::{self, Alert, Condition, Filter, Rule, StateOf},
        events::{self, NewEvent},
        instances::{self, Instance, Wish},
        jobs::{self, Job},
        machines::{self, Machine, MachineDetails},
        sites::{self, SiteSettings},
    },
    workflow::state::{InstanceState, JobKind, JobState, MachineState},
};
use slipway_protocol::{
    ids::{ImageId, InstanceId, JobId, MacAddr, MachineId, SiteId},
    inventory::{DiskRule, FirmwareKind},
    report::{Failure, Outcome, Report},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn site() -> SiteId {
    SiteId::new("bj-1").unwrap()
}

const MACHINE: MachineId = MachineId(Uuid::from_u128(1));
const INSTANCE: InstanceId = InstanceId(Uuid::from_u128(2));

fn job(n: u8, created_at: DateTime<Utc>) -> Job {
    Job {
        id: JobId(Uuid::from_u128(100 + u128::from(n))),
        instance: INSTANCE,
        site: site(),
        machine: Some(MACHINE),
        kind: JobKind::Install,
        priority: 0,
        waiting: None,
        state: JobState::Queued,
        failure: None,
        deadline: at(100_000),
        created_at,
        finished_at: None,
    }
}

fn machine() -> Machine {
    Machine {
        id: MACHINE,
        name: "m1".into(),
        site: site(),
        state: MachineState::Available,
        address: [192, 0, 2, 9].into(),
        details: MachineDetails {
            macs: vec![MacAddr([2, 0, 0, 0, 0, 1])],
            firmware: FirmwareKind::Bios,
            bmc: None,
            labels: BTreeMap::new(),
            inventory: None,
        },
        bmc_password: None,
        live_job: None,
        version: 1,
        created_at: at(0),
    }
}

fn instance() -> Instance {
    Instance {
        id: INSTANCE,
        name: "web-1".into(),
        site: site(),
        machine: Some(MACHINE),
        image: ImageId::of(b"i"),
        state: InstanceState::Installing,
        job: job(1, at(0)).id,
        wish: Wish {
            machine: None,
            disk: DiskRule::default(),
            user: "u".into(),
            ssh_keys: vec![],
            user_data: None,
        },
        project: "default".into(),
        locked: false,
        created_at: at(0),
    }
}

fn failed(at: DateTime<Utc>) -> Report {
    let failure = Failure {
        code: "disk_ambiguous".into(),
        message: "two disks".into(),
        transient: false,
    };
    Report {
        machine: MACHINE,
        job: job(1, at).id,
        order_revision: 1,
        retry: 0,
        outcome: Outcome::Failed {
            at,
            step: None,
            failure,
        },
        steps: vec![],
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
    }
}

/// A site that was heard at 0, with a machine, an instance and its job, all begun at 0.
async fn begin(store: &Store) {
    let begun = store.transaction(|db| {
        let settings = SiteSettings {
            description: String::new(),
            discover: false,
            subnets: vec![],
        };
        sites::insert(db, &site(), &settings, at(0))?;
        domain::sites::heard(db, &site(), true, at(0))?;
        machines::insert(db, &machine())?;
        instances::insert(db, &instance())?;
        let event = NewEvent::new("instance.installing", at(0)).instance(INSTANCE);
        events::append(db, &event.entered(&InstanceState::Installing)?)?;
        jobs::insert(db, &job(1, at(0)))?;
        jobs::start(db, job(1, at(0)).id, MACHINE)
    });
    begun.await.unwrap();
}

async fn with_rule(store: &Store, condition: Condition) {
    let rule = Rule {
        id: "r".into(),
        name: "rule".into(),
        condition,
        webhooks: vec!["w".into()],
        emails: vec!["ops@example.com".into()],
        active: true,
        created_at: at(0),
    };
    store
        .transaction(move |db| alerts::put_rule(db, &rule))
        .await
        .unwrap();
}

/// Looks at the rules at a time, twice: the second look must change nothing. Gives back what is open.
async fn look(store: &Store, now: i64) -> Vec<Alert> {
    let look = || {
        store.transaction(move |db| {
            assert!(domain::alerts::evaluate(db, "me", at(now))?);
            alerts::list(
                db,
                &Filter {
                    open: Some(true),
                    ..Filter::default()
                },
                "",
                100,
            )
        })
    };
    let open = look().await.unwrap();
    assert_eq!(look().await.unwrap(), open, "looking changes nothing");
    open
}

fn objects(open: &[Alert]) -> Vec<&str> {
    open.iter().map(|alert| alert.object.as_str()).collect()
}

/// Kinds of all alert events, with their texts.
async fn told(store: &Store) -> Vec<(String, String)> {
    let all = events::Filter {
        kind: Some("alert".into()),
        ..events::Filter::default()
    };
    let told = store.transaction(move |db| {
        events::number(db)?;
        events::list(db, &all, events::Order::Oldest, 100)
    });
    told.await
        .unwrap()
        .into_iter()
        .map(|event| (event.kind, event.text))
        .collect()
}

#[tokio::test]
async fn a_state_that_lasts_too_long() {
    on_each_database(|store| async move {
        begin(&store).await;
        let condition = Condition::StateOlderThan {
            object: StateOf::Instance,
            state: "installing".into(),
            seconds: 60,
        };
        with_rule(&store, condition).await;
        assert!(look(&store, 60).await.is_empty());
        let open = look(&store, 61).await;
        assert_eq!(objects(&open), [format!("instance/{INSTANCE}")]);
        let text = "instance web-1 at bj-1 is installing since 2027-01-15T08:00:00Z";
        assert_eq!(
            (open[0].text.as_str(), open[0].site.as_deref()),
            (text, Some("bj-1"))
        );
        let claimed = store.transaction(|db| domain::alerts::evaluate(db, "other", at(62)));
        assert!(!claimed.await.unwrap(), "one replica at a time");
        let moved = |from, to, now| {
            store.transaction(move |db| {
                assert!(instances::advance(db, INSTANCE, from, to)?);
                let event = NewEvent::new("instance.moved", at(now)).instance(INSTANCE);
                events::append(db, &event.entered(&to)?)
            })
        };
        moved(InstanceState::Installing, InstanceState::Running, 70)
            .await
            .unwrap();
        assert!(look(&store, 71).await.is_empty());
        moved(InstanceState::Running, InstanceState::Installing, 80)
            .await
            .unwrap();
        assert!(look(&store, 140).await.is_empty(), "counted anew");
        assert_eq!(look(&store, 141).await.len(), 1);
        let kinds: Vec<String> = told(&store).await.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(
            kinds,
            ["alert.opened", "alert.resolved", "alert.opened"],
            "each told once"
        );
    })
    .await;
}

#[tokio::test]
async fn a_site_that_is_silent() {
    on_each_database(|store| async move {
        begin(&store).await;
        with_rule(&store, Condition::SiteOffline { seconds: 30 }).await;
        assert!(
            look(&store, 89).await.is_empty(),
            "connected: three hellos may be missed"
        );
        assert_eq!(objects(&look(&store, 90).await), ["site/bj-1"]);
        let heard =
            |online, now| store.transaction(move |db| domain::sites::heard(db, &site(), online, at(now)));
        heard(true, 100).await.unwrap();
        assert!(look(&store, 101).await.is_empty());
        heard(false, 110).await.unwrap();
        assert!(look(&store, 129).await.is_empty());
        assert_eq!(
            look(&store, 130).await[0].text,
            "site bj-1 was last heard at 2027-01-15T08:01:40Z"
        );
    })
    .await;
}

#[tokio::test]
async fn a_job_that_failed_until_another_one_works() {
    on_each_database(|store| async move {
        begin(&store).await;
        with_rule(&store, Condition::JobFailed).await;
        assert!(look(&store, 1).await.is_empty());
        let report = failed(at(2));
        let take = store.transaction(move |db| domain::jobs::take_report(db, &site(), 1, &report, at(2)));
        assert!(take.await.unwrap());
        let open = look(&store, 3).await;
        assert_eq!(objects(&open), [format!("instance/{INSTANCE}")]);
        assert!(
            open[0].text.ends_with("failed: two disks (disk_ambiguous)"),
            "{}",
            open[0].text
        );
        let again = store.transaction(|db| {
            jobs::insert(db, &job(2, at(4)))?;
            instances::set_job(db, INSTANCE, job(2, at(4)).id)
        });
        again.await.unwrap();
        assert!(look(&store, 5).await.is_empty());
        let mails = store.transaction(|db| {
            let mut subjects = Vec::new();
            while let Some(mail) = slipway_control_plane::store::mails::take(db, at(6), at(7))? {
                subjects.push(mail.subject);
            }
            Ok::<_, StoreError>(subjects)
        });
        assert_eq!(
            mails.await.unwrap(),
            ["[Slipway] Alert: rule", "[Slipway] Resolved: rule"]
        );
    })
    .await;
}

#[tokio::test]
async fn a_fault_until_it_is_cleared_and_a_rule_that_is_switched_off() {
    on_each_database(|store| async move {
        begin(&store).await;
        with_rule(&store, Condition::MachineFault).await;
        let fault = async |kind: &'static str| {
            let event = NewEvent::new(kind, at(1))
                .machine(MACHINE)
                .text("fan 3 stands still");
            let append = store.transaction(move |db| {
                events::append(db, &event)?;
                events::number(db)
            });
            append.await.unwrap();
        };
        fault("fault.fan").await;
        let open = look(&store, 2).await;
        assert_eq!(open[0].text, "machine m1 at bj-1: fan 3 stands still (fault.fan)");
        fault("fault.cleared").await;
        assert!(look(&store, 3).await.is_empty());
        fault("fault.fan").await;
        assert_eq!(look(&store, 4).await.len(), 1);
        let off = store.transaction(|db| {
            let rule = alerts::get_rule(db, "rule")?.unwrap();
            alerts::put_rule(
                db,
                &Rule {
                    active: false,
                    ..rule
                },
            )
        });
        off.await.unwrap();
        assert!(look(&store, 5).await.is_empty());
        assert_eq!(told(&store).await.len(), 4);
    })
    .await;
}

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
