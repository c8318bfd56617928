//! Operations at the box: who is refused and by which word, how a lease is used up, and what a restart leaves of it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use slipway_bus::Event;
use slipway_edge::{
    local::{Answer, may_follow, server},
    runner::next,
    store::Store,
};
use slipway_protocol::{
    ids::JobId,
    lease::{LocalUse, Operation},
    report::{Outcome, Report},
    topic::Topic,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};
use uuid::Uuid;

use super::edge::*;

#[tokio::test]
async fn who_may_not_is_refused_by_name_and_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    let restart = async |machine: &str, code: &str| edge.ask(Operation::Restart, machine, code).await;
    assert_eq!(
        restart("node-7", CODE).await,
        "site_is_online",
        "not for long enough"
    );
    NOW.fetch_add(60, Ordering::Relaxed);
    assert_eq!(restart("node-7", CODE).await, "no_emergency_code");
    with_code(&edge).await;
    assert_eq!(restart("node-8", CODE).await, "no_lease");
    assert_eq!(edge.ask(Operation::Release, "node-7", CODE).await, "not_offered");
    assert_eq!(
        edge.ask(Operation::Rescue, "node-7", CODE).await,
        "bad_offer",
        "a stranger signed it"
    );
    for _ in 0..5 {
        assert_eq!(restart("node-7", "0000").await, "wrong_code");
    }
    assert_eq!(
        restart("node-7", CODE).await,
        "too_many_tries",
        "even with the right one"
    );
    NOW.fetch_add(60, Ordering::Relaxed);
    NOW.fetch_add(24 * 3600, Ordering::Relaxed);
    assert_eq!(restart("node-7", CODE).await, "lease_expired");
    edge.events.send(Event::Connected).await.unwrap();
    let online = async {
        while restart("node-7", CODE).await != "site_is_online" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), online)
        .await
        .unwrap();
    let lines = edge.store.journal(100).unwrap();
    assert!(
        lines
            .iter()
            .all(|line| line.uid == 7 && line.refused.is_some() && line.job.is_none())
    );
    assert!(lines.len() >= 12, "{lines:?}");
    assert_eq!(edge.report().unwrap().order_revision, 1, "nothing was done");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn a_lease_is_used_up_and_a_restart_forgets_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    with_code(&edge).await;
    assert_eq!(
        edge.ask(Operation::Restart, &machine().to_string(), CODE).await,
        ""
    );
    let at = |revision: u64| {
        move |store: &Store| {
            let report = store.report(machine()).unwrap().unwrap().report;
            report.order_revision == revision && report.outcome.is_final()
        }
    };
    edge.until("the first is done", at(2)).await;
    assert_eq!(
        edge.ask(Operation::PowerOff, "node-7", CODE).await,
        "offer_used",
        "its sibling was"
    );
    let told = edge.report().unwrap().local;
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].uid, told[0].revision, told[0].outcome.clone()),
        (7, 2, None)
    );
    edge.stop.cancel();
    drop(edge);

    let edge = Edge::start(dir.path());
    NOW.fetch_add(60, Ordering::Relaxed);
    assert_eq!(edge.ask(Operation::PowerOff, "node-7", CODE).await, "offer_used");
    assert_eq!(edge.ask(Operation::Restart, "node-7", CODE).await, "");
    edge.until("the second is done", at(3)).await;
    assert_eq!(edge.ask(Operation::Restart, "node-7", CODE).await, "offer_used");
    let told: Vec<(u64, bool)> = edge
        .report()
        .unwrap()
        .local
        .iter()
        .map(|u| (u.revision, u.outcome.is_some()))
        .collect();
    assert_eq!(told, [(2, true), (3, false)]);
    // An order of the control plane comes after it; what was done locally is told on.
    edge.send(&Topic::Order(site(), machine()), sealed_order(&centre(), 4, 4))
        .await;
    edge.until("the control plane's is done", at(4)).await;
    let told: Vec<bool> = edge
        .report()
        .unwrap()
        .local
        .iter()
        .map(|u| u.outcome.is_some())
        .collect();
    assert_eq!(told, [true, true]);
    assert_eq!(
        edge.store
            .journal(100)
            .unwrap()
            .iter()
            .filter(|line| line.job.is_some())
            .count(),
        2
    );
}

/// The process may die after the order was kept and before the runner took it.
#[tokio::test]
async fn a_local_operation_is_told_though_the_process_died_before_it_ran() {
    let dir = tempfile::tempdir().unwrap();
    drop(started(dir.path()).await);
    let store = Store::open(&dir.path().join("edge.db")).unwrap();
    let document = slipway_edge::store::Document {
        kind: slipway_protocol::topic::Kind::Order,
        subject: machine().to_string(),
        revision: 2,
        payload: sealed_order(&centre(), 21, 2),
    };
    let line = slipway_edge::store::Entry {
        at: now(),
        uid: 7,
        operation: Operation::Restart,
        machine: machine().to_string(),
        job: Some(JobId(Uuid::from_u128(21))),
        revision: Some(2),
        refused: None,
    };
    assert!(store.put_offered(&document, &line).unwrap());
    let edge = Edge::start(dir.path());
    let told = |store: &Store| {
        store
            .report(machine())
            .unwrap()
            .is_some_and(|held| held.report.local.len() == 1)
    };
    edge.until("it is told", told).await;
}

#[tokio::test]
async fn the_socket_answers_its_owner_a_line_each_way() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    let path = server::path(dir.path());
    std::fs::write(&path, "left by an earlier process").unwrap();
    let door = server::bind(&path).unwrap();
    tokio::spawn(server::run(Arc::clone(&edge.local), door, edge.stop.clone()));
    let say = async |line: &str| {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert_eq!(
        say("{\"ask\":\"wipe\"}\n").await,
        "",
        "what is no request is hung up on"
    );
    let answer: Answer = serde_json::from_str(&say("{\"ask\":\"list\"}\n").await).unwrap();
    let Answer::Machines {
        cut_off_since,
        machines,
    } = answer
    else {
        panic!("no list");
    };
    assert!(cut_off_since.is_none());
    assert_eq!(
        (machines[0].name.as_str(), machines[0].last.as_deref()),
        ("node-7", Some("done"))
    );
    assert_eq!(
        machines[0].open,
        [Operation::Restart, Operation::PowerOff, Operation::Rescue]
    );
}

#[test]
fn what_was_done_before_decides_what_may_follow() {
    let report = |operation, outcome: Outcome| {
        let mut report = next::begin(&order(1), 2, None);
        report.local.push(LocalUse {
            at: now(),
            operation,
            job: report.job,
            revision: 2,
            uid: 0,
            outcome: None,
        });
        report.outcome = outcome;
        report
    };
    let code = |operation, report: &Report| match may_follow("m", operation, Some(report)) {
        Ok(()) => "",
        Err(refusal) => refusal.code(),
    };
    let done = || Outcome::Done { at: now() };
    for operation in Operation::ALL {
        assert_eq!(
            code(operation, &report(Operation::Restart, Outcome::Running)),
            "machine_busy"
        );
        assert_eq!(code(operation, &report(Operation::Release, done())), "released");
        assert_eq!(code(operation, &report(Operation::PowerOff, done())), "");
        let expected = if operation == Operation::PowerOn {
            "use_restart"
        } else {
            ""
        };
        assert_eq!(code(operation, &report(Operation::Rescue, done())), expected);
        assert!(may_follow("m", operation, None).is_ok());
    }
}
