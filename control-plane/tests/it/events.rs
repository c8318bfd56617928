//! The event stream, on SQLite and on PostgreSQL: numbers without gaps whatever the writers do, each thing of a report
//! told once, filters, and the history of an older version.

use std::{collections::HashMap, time::Duration};

use crate::common::{Postgres, on_each_database};
use chrono::{DateTime, Utc};
use diesel::{Connection as _, RunQueryDsl as _, connection::SimpleConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use serde_json::json;
use slipway_control_plane::{
    access::Visible,
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
        hardware_faults: Vec::new(),
        local: Vec::new(),
        bmc: None,
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

#[tokio::test]
async fn old_events_go_and_numbers_go_on() {
    on_each_database(|store| async move {
        let append = |second: i64| {
            store.transaction(move |db| {
                events::append(db, &NewEvent::new("test.written", at(second)))?;
                events::number(db)
            })
        };
        for second in [1, 2, 30] {
            append(second).await.unwrap();
        }
        let prune = |limit| store.transaction(move |db| events::prune(db, at(20), limit));
        assert_eq!(prune(1).await.unwrap(), 1, "in pieces");
        assert_eq!(prune(10).await.unwrap(), 1);
        assert_eq!(prune(10).await.unwrap(), 0);
        assert_eq!(append(40).await.unwrap(), 4);
        let left: Vec<u64> = read_on(&store, 0).await.iter().map(|event| event.seq).collect();
        assert_eq!(left, [3, 4]);
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
