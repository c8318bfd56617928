//! What comes from the broker: what is not for this site is not taken, and what this edge has lost is.

use slipway_protocol::{
    ids::SiteId,
    keys::Stamp,
    report::{Outcome, Report},
    topic::Topic,
};

use super::edge::{Edge, centre, machine, now, order, sealed_order, site, stamp, started};

/// All sites trust one key: a broker that brings an edge what was signed for another site must come to nothing.
#[tokio::test]
async fn what_was_signed_for_another_site_is_not_taken_on_any_topic() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    let before = edge.store.documents().unwrap();
    let foreign = Topic::Order(SiteId::new("bj-2").unwrap(), machine());
    let stolen = centre().seal(&foreign, stamp(9), &order(66));
    edge.send(&foreign, stolen.clone()).await;
    edge.send(&Topic::Order(site(), machine()), stolen).await;
    // Messages are taken one after the other: when this one is there, those before it have been judged.
    edge.send(&Topic::Order(site(), machine()), sealed_order(&centre(), 2, 5))
        .await;
    edge.until("a true order is there", |store| {
        store.documents().unwrap() != before
    })
    .await;
    let held: Vec<u64> = edge
        .store
        .documents()
        .unwrap()
        .iter()
        .map(|d| d.revision)
        .collect();
    assert_eq!(held, [5]);
}

/// What an edge's report is when its control plane tells it one of its own, as after the restore of an old disk.
async fn told(edge: &Edge, report: &Report, revision: u64) {
    let topic = Topic::ReportBack(site(), machine());
    let stamp = Stamp {
        revision,
        ..stamp(revision)
    };
    edge.send(&topic, centre().seal(&topic, stamp, report)).await;
}

#[tokio::test]
async fn a_newer_report_of_its_own_is_gone_on_from_and_an_older_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    let held = edge.store.report(machine()).unwrap().unwrap();
    let mut newer = held.report.clone();
    newer.outcome = Outcome::Done {
        at: now() + chrono::TimeDelta::seconds(5),
    };
    told(&edge, &newer, held.revision + 1_000).await;
    let is_newer = |store: &slipway_edge::store::Store| {
        let held = store.report(machine()).unwrap();
        held.is_some_and(|held| held.report.outcome == newer.outcome)
    };
    edge.until("the newer report is there", is_newer).await;
    told(&edge, &held.report, held.revision + 1).await;
    // Its order is taken after it; what it left of the report shows then.
    edge.send(&Topic::Order(site(), machine()), sealed_order(&centre(), 1, 2))
        .await;
    let taken = |store: &slipway_edge::store::Store| {
        let held = store.report(machine()).unwrap();
        held.is_some_and(|held| held.report.order_revision == 2)
    };
    edge.until("the order is taken again", taken).await;
    assert_eq!(edge.report().unwrap().outcome, newer.outcome);
}

#[tokio::test]
async fn an_order_that_a_report_told_back_has_overtaken_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    let held = edge.store.report(machine()).unwrap().unwrap();
    let later = Report {
        job: order(7).job,
        order_revision: 7,
        ..held.report
    };
    told(&edge, &later, held.revision + 1_000).await;
    let overtaken = |store: &slipway_edge::store::Store| {
        let held = store.report(machine()).unwrap();
        held.is_some_and(|held| held.report.order_revision == 7)
    };
    edge.until("the later report is there", overtaken).await;
    edge.send(&Topic::Order(site(), machine()), sealed_order(&centre(), 7, 7))
        .await;
    let held =
        |store: &slipway_edge::store::Store| store.documents().unwrap().iter().any(|d| d.revision == 7);
    edge.until("the later order is there", held).await;
    let report = edge.report().unwrap();
    assert_eq!((report.job, report.order_revision), (order(7).job, 7));
    assert!(
        matches!(report.outcome, Outcome::Done { .. }),
        "it is not done again"
    );
}
