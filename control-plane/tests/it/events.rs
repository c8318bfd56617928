//! The event stream, on SQLite and on PostgreSQL: numbers without gaps whatever the writers do, each thing of a report
//! told once, pages, and the live tail over real HTTP.

use std::{collections::HashMap, time::Duration};

use crate::common::{
    Postgres, on_each_database,
    server::{Server, server_as},
};
use chrono::{DateTime, Utc};
use diesel::{Connection as _, RunQueryDsl as _, connection::SimpleConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::{
    access::Visible,
    config::Given,
    domain,
    store::{
        Store, StoreError,
        events::{self, Event, Filter, NewEvent, Order},
    },
};
use slipway_protocol::{
    ids::{JobId, MachineId, SiteId, StepId},
    report::{EventSource, Failure, Outcome, Report, StepReport, StepState, TimelineEvent},
};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);
const WRITERS: u64 = 8;
const EACH: u64 = 30;

/// What a reader sees that numbers first and then reads on.
async fn read_on(store: &Store, after: u64) -> Vec<Event> {
    let filter = Filter {
        after,
        ..Filter::default()
    };
    let read = store.transaction(move |db| {
        events::number(db)?;
        events::list(db, &filter, Order::Oldest, 50)
    });
    read.await.unwrap()
}

/// Writes events in transactions of one or two; every fifth is rolled back.
async fn write(store: Store, writer: u64) {
    let mut n = 0;
    for round in 0.. {
        if n >= EACH {
            return;
        }
        let many = 1 + round % 2;
        let fails = round % 5 == 4;
        let done = store.transaction(move |db| {
            for i in 0..many {
                let data = json!({ "writer": writer, "n": n + i });
                events::append(db, &NewEvent::new("test.written", Utc::now()).data(data))?;
            }
            if fails { Err(StoreError::Task) } else { Ok(()) }
        });
        assert_eq!(done.await.is_err(), fails);
        if !fails {
            n += many;
        }
    }
}

/// A reader that follows eight writers of two replicas sees every event once, numbered without gaps, each writer's in
/// its order.
async fn follow_writers(replicas: [Store; 2]) {
    let reader = replicas[0].clone();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(replicas[usize::from(writer % 2 == 1)].clone(), writer)))
        .collect();
    let mut next_of: HashMap<u64, u64> = HashMap::new();
    let mut last = 0;
    let all = async {
        while next_of.len() < WRITERS as usize || next_of.values().any(|n| *n < EACH) {
            for event in read_on(&reader, last).await {
                assert_eq!(event.seq, last + 1, "a gap or a repeat");
                last = event.seq;
                let next = next_of.entry(event.data["writer"].as_u64().unwrap()).or_default();
                assert_eq!(event.data["n"].as_u64(), Some(*next), "out of order: {event:?}");
                *next += 1;
            }
        }
    };
    tokio::time::timeout(LIMIT, all).await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let rest = read_on(&reader, last).await;
    assert!(rest.is_empty(), "what was rolled back is not seen: {rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_skips_nothing_whatever_the_writers_do() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = Store::open(&dir.path().join("t.db").display().to_string())
        .await
        .unwrap();
    follow_writers([sqlite.clone(), sqlite]).await;
    let postgres = Postgres::start();
    let open = async || Store::open(&postgres.url()).await.unwrap();
    follow_writers([open().await, open().await]).await;
}

/// PostgreSQL: an event written first and committed last is seen after the one that overtook it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_commits_late_is_seen_late_and_not_lost() {
    let postgres = Postgres::start();
    let store = Store::open(&postgres.url()).await.unwrap();
    let (written, is_written) = tokio::sync::oneshot::channel();
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let late_store = store.clone();
    let late = async move {
        let held = late_store.transaction(move |db| {
            events::append(db, &NewEvent::new("test.late", Utc::now()))?;
            written.send(()).unwrap();
            may_go.recv().unwrap();
            Ok::<_, StoreError>(())
        });
        held.await
    };
    let late = tokio::spawn(late);
    is_written.await.unwrap();
    let append = |kind: &'static str| {
        store.transaction(move |db| events::append(db, &NewEvent::new(kind, Utc::now())))
    };
    append("test.early").await.unwrap();
    let seen =
        |events: &[Event]| -> Vec<(u64, String)> { events.iter().map(|e| (e.seq, e.kind.clone())).collect() };
    assert_eq!(
        seen(&read_on(&store, 0).await),
        [(1, "test.early".to_owned())],
        "nobody waits for the late one"
    );
    go.send(()).unwrap();
    late.await.unwrap().unwrap();
    append("test.last").await.unwrap();
    let rest = seen(&read_on(&store, 1).await);
    assert_eq!(rest, [(2, "test.late".to_owned()), (3, "test.last".to_owned())]);
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

fn seen(second: i64, source: EventSource, code: &str) -> TimelineEvent {
    TimelineEvent {
        at: at(second),
        source,
        code: code.to_owned(),
        text: String::new(),
    }
}

fn step(state: StepState, attempt: u32) -> StepReport {
    StepReport {
        state,
        attempt,
        started_at: Some(at(i64::from(attempt) * 10)),
        finished_at: (state == StepState::Done).then(|| at(55)),
        failure: (attempt == 2).then(|| Failure {
            code: "timeout".into(),
            message: "too slow".into(),
            transient: true,
        }),
        ..StepReport::pending("write-image".parse::<StepId>().unwrap())
    }
}

fn report(steps: Vec<StepReport>, events: Vec<TimelineEvent>) -> Report {
    Report {
        machine: MachineId(Uuid::from_u128(1)),
        job: JobId(Uuid::from_u128(2)),
        order_revision: 1,
        retry: 0,
        outcome: Outcome::Running,
        steps,
        disk: None,
        inventory: None,
        agent: None,
        events,
    }
}

/// Reports that are lost, repeated and reordered tell each thing once.
#[tokio::test]
async fn what_is_new_in_a_report_is_told_once() {
    let offer = seen(1, EventSource::Dhcp, "offer");
    let again = seen(31, EventSource::Dhcp, "offer");
    let script = seen(12, EventSource::Http, "script");
    let first = report(vec![step(StepState::Running, 1)], vec![offer.clone()]);
    // The oldest event went, as in a long list; the first try failed and the second was done between two reports.
    let third = report(vec![step(StepState::Done, 2)], vec![script, again]);
    on_each_database(|store| {
        let (first, third) = (first.clone(), third.clone());
        async move {
            let site = SiteId::new("bj-1").unwrap();
            let words = [
                (1, &first, true),
                (1, &first, false),
                (3, &third, true),
                (2, &first, false),
                (3, &third, false),
            ];
            for (revision, report, news) in words {
                let (site, report) = (site.clone(), report.clone());
                let take = move |db: &mut _| domain::jobs::take_report(db, &site, revision, &report, at(100));
                assert_eq!(
                    store.transaction(take).await.unwrap(),
                    news,
                    "revision {revision}"
                );
            }
            let told = read_on(&store, 0).await;
            let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
            let expected = [
                "dhcp.offer",
                "step.running",
                "http.script",
                "step.retry",
                "dhcp.offer",
                "step.done",
            ];
            assert_eq!(kinds, expected);
            assert_eq!(told[3].text, "write-image: too slow");
            assert_eq!(told[3].data["attempt"], 2);
            assert_eq!(told[5].at, at(55), "when it happened, not when it was heard");
            let ids = (
                told[0].site.as_deref(),
                told[0].machine.clone(),
                told[0].job.clone(),
            );
            let (machine, job) = (first.machine.to_string(), first.job.to_string());
            assert_eq!(ids, (Some("bj-1"), Some(machine), Some(job)));
        }
    })
    .await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn filters_and_what_a_caller_may_see() {
    on_each_database(|store| async move {
        let append = store.transaction(|db| {
            for (site, kind) in [
                ("a", "job.failed"),
                ("b", "job.failed"),
                ("a", "jobs"),
                ("a", "job"),
                ("a", "JOB-x.y"),
            ] {
                let event = NewEvent::new(kind, Utc::now()).site(&SiteId::new(site).unwrap());
                events::append(db, &event.project(&format!("p-{site}")))?;
            }
            Ok::<_, StoreError>(())
        });
        append.await.unwrap();
        let list = async |filter: Filter, order| -> Vec<u64> {
            let page = store.transaction(move |db| {
                events::number(db)?;
                events::list(db, &filter, order, 3)
            });
            page.await.unwrap().iter().map(|event| event.seq).collect()
        };
        let all = Filter::default();
        assert_eq!(list(all.clone(), Order::Oldest).await, [1, 2, 3]);
        assert_eq!(list(all.clone(), Order::Newest).await, [5, 4, 3]);
        let before = Filter {
            before: Some(3),
            ..all.clone()
        };
        assert_eq!(list(before, Order::Newest).await, [2, 1]);
        let kind = |kind: &str| Filter {
            kind: Some(kind.to_owned()),
            ..all.clone()
        };
        assert_eq!(
            list(kind("job"), Order::Oldest).await,
            [1, 2, 4],
            "a kind and those below it, not its namesakes"
        );
        assert_eq!(
            list(kind("____x"), Order::Oldest).await,
            [5],
            "kinds are made of plain letters"
        );
        let mut some = all.clone();
        let only = |sites: &[&str], projects: &[&str]| Visible::Only {
            sites: sites.iter().map(|&s| s.to_owned()).collect(),
            projects: projects.iter().map(|&p| p.to_owned()).collect(),
        };
        some.visible = only(&["b"], &[]);
        assert_eq!(list(some.clone(), Order::Oldest).await, [2]);
        some.visible = only(&[], &["p-b"]);
        assert_eq!(list(some.clone(), Order::Oldest).await, [2]);
        some.visible = only(&["b"], &["p-a"]);
        assert_eq!(
            list(some.clone(), Order::Oldest).await,
            [1, 2, 3],
            "either will do"
        );
        some.visible = only(&[], &[]);
        assert_eq!(list(some, Order::Oldest).await, [0; 0], "who may see nothing");
        let far = Filter {
            after: u64::MAX,
            ..all
        };
        assert_eq!(list(far, Order::Oldest).await, [0; 0]);
    })
    .await;
}

const SQLITE: EmbeddedMigrations = embed_migrations!("../migrations/control-plane/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("../migrations/control-plane/postgres");
const OLD_ROWS: &str = "INSERT INTO history (at, object, what, detail) VALUES \
    (7, 'machine/m-1', 'job running', 'j'), (8, 'instance/i-1', 'failed', 'why'), (9, 'site/bj-1', 'created', '')";

/// The history of an older version goes over into the stream, and back.
#[tokio::test(flavor = "multi_thread")]
async fn history_moves_into_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    for url in [dir.path().join("t.db").display().to_string(), postgres.url()] {
        drop(Store::open(&url).await.unwrap());
        go_back(&url);
        let store = Store::open(&url).await.unwrap();
        let told = read_on(&store, 0).await;
        let rows: Vec<_> = told
            .iter()
            .map(|e| (e.seq, e.kind.as_str(), e.text.as_str()))
            .collect();
        let expected = [
            (1, "machine.job_running", "j"),
            (2, "instance.failed", "why"),
            (3, "site.created", ""),
        ];
        assert_eq!(rows, expected, "{url}");
        assert_eq!(
            (told[0].machine.as_deref(), told[1].instance.as_deref()),
            (Some("m-1"), Some("i-1"))
        );
        store
            .transaction(|db| events::append(db, &NewEvent::new("test.next", Utc::now())))
            .await
            .unwrap();
        assert_eq!(read_on(&store, 3).await[0].seq, 4, "numbers go on");
        drop(store);
        go_back(&url);
    }
}

/// Takes migrations back until there is a history, which must hold nothing but what went over; adds to it.
fn go_back(url: &str) {
    let count = "SELECT count(*) AS n FROM history";
    if url.starts_with("postgres") {
        let mut db = diesel::PgConnection::establish(url).unwrap();
        while diesel::sql_query(count).execute(&mut db).is_err() {
            db.revert_last_migration(POSTGRES).unwrap();
        }
        db.batch_execute(&format!("DELETE FROM history; {OLD_ROWS}"))
            .unwrap();
    } else {
        let mut db = diesel::SqliteConnection::establish(url).unwrap();
        while diesel::sql_query(count).execute(&mut db).is_err() {
            db.revert_last_migration(SQLITE).unwrap();
        }
        db.batch_execute(&format!("DELETE FROM history; {OLD_ROWS}"))
            .unwrap();
    }
}

/// A live tail as a browser reads it.
struct Tail {
    answer: reqwest::Response,
    text: String,
}

impl Tail {
    async fn open(server: &Server, query: &str, last: Option<u64>) -> Self {
        let mut request = server.http.get(format!("{}/api/v1/events{query}", server.url));
        request = request
            .bearer_auth(&server.token)
            .header("Accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self {
            answer,
            text: String::new(),
        }
    }

    /// The next message: its id and its data; nothing when the stream has ended.
    async fn next(&mut self) -> Option<(u64, Value)> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    message
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                };
                let found = field("id").map(|id| {
                    (
                        id.parse().unwrap(),
                        serde_json::from_str(field("data").unwrap()).unwrap(),
                    )
                });
                self.text = rest.to_owned();
                if found.is_some() {
                    return found;
                }
                continue;
            }
            let chunk = tokio::time::timeout(LIMIT, self.answer.chunk()).await.unwrap();
            self.text.push_str(&String::from_utf8_lossy(&chunk.unwrap()?));
        }
    }
}

/// Live and paged, resumed, fed by another replica, ended by the end of the process.
async fn tail_story(database_url: Option<String>) {
    let given = Given {
        database_url: database_url.clone(),
        ..Given::default()
    };
    let mut server = server_as(given).await;
    let mut all = Tail::open(&server, "?after=0", None).await;
    server.make_site("bj-1").await;
    let (id, event) = all.next().await.unwrap();
    assert_eq!(
        (id, event["kind"].as_str(), event["seq"].as_u64()),
        (1, Some("site.created"), Some(1))
    );
    let mut fresh = Tail::open(&server, "?site=bj-2", None).await;
    let machine = json!({ "name": "m1", "site": "bj-1", "macs": ["02:00:00:00:00:01"], "firmware": "bios" });
    let (status, _) = server
        .call(Method::POST, "/api/v1/machines", Some(&machine))
        .await;
    assert_eq!(status, StatusCode::CREATED);
    server.make_site("bj-2").await;
    let of =
        |told: Option<(u64, Value)>| told.map(|(id, event)| (id, event["kind"].as_str().unwrap().to_owned()));
    let added = Some((2, "machine.added".to_owned()));
    assert_eq!(of(all.next().await), added);
    assert_eq!(of(fresh.next().await).unwrap().0, 3, "from now on, filtered");
    let mut resumed = Tail::open(&server, "?after=0", Some(1)).await;
    assert_eq!(
        of(resumed.next().await),
        added,
        "Last-Event-ID goes before `after`"
    );
    assert_eq!(of(resumed.next().await).unwrap().0, 3);
    if let Some(url) = database_url {
        let replica = Store::open(&url).await.unwrap();
        let append =
            replica.transaction(|db| events::append(db, &NewEvent::new("test.elsewhere", Utc::now())));
        append.await.unwrap();
        assert_eq!(of(resumed.next().await), Some((4, "test.elsewhere".to_owned())));
    }
    pages(&server).await;
    server.stop.cancel();
    while all.next().await.is_some() {}
    let ended = tokio::time::timeout(LIMIT, server.task.take().unwrap()).await;
    ended.unwrap().unwrap().unwrap();
}

async fn pages(server: &Server) {
    let seqs = |page: &Value| -> Vec<u64> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["seq"].as_u64().unwrap())
            .collect()
    };
    let newest = server.get("/api/v1/events?kind=site&limit=1").await;
    assert_eq!((seqs(&newest), newest["next"].as_str()), (vec![3], Some("3")));
    assert_eq!(
        seqs(&server.get("/api/v1/events?kind=site&limit=1&cursor=3").await),
        [1]
    );
    let oldest = server.get("/api/v1/events?after=1&limit=1").await;
    assert_eq!((seqs(&oldest), oldest["next"].as_str()), (vec![2], Some("2")));
    assert_eq!(
        seqs(&server.get("/api/v1/events?after=1&limit=1&cursor=2").await),
        [3]
    );
    let (status, problem) = server.call(Method::GET, "/api/v1/events?cursor=x", None).await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (StatusCode::BAD_REQUEST, Some("cursor"))
    );
    assert_eq!(seqs(&server.get("/api/v1/machines/m1/timeline").await), [2]);
    let history = server.get("/api/v1/machines/m1/history").await;
    assert_eq!(history["items"][0]["what"], "added");
    let id = server.get("/api/v1/machines/m1").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let (status, _) = server.call(Method::DELETE, "/api/v1/machines/m1", None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let after = server.get(&format!("/api/v1/machines/{id}/timeline")).await;
    assert_eq!(
        after["items"][1]["kind"], "machine.deleted",
        "it outlives its machine"
    );
    for path in ["machines/none", "instances/none", "jobs/none"] {
        let (status, _) = server
            .call(Method::GET, &format!("/api/v1/{path}/timeline"), None)
            .await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_read_live_and_in_pages() {
    tail_story(None).await;
    let postgres = Postgres::start();
    tail_story(Some(postgres.url())).await;
}
