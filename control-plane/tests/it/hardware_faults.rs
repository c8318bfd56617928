//! What the BMC of a machine has logged: told once however often it is reported, an alert until a person has looked after
//! it, on SQLite and on PostgreSQL.

use serde_json::{Value, json};
use slipway_control_plane::{
    domain,
    store::{
        Store,
        alerts::Condition,
        events::{self, Event, NewEvent},
        jobs, machines,
    },
};
use slipway_protocol::report::{FaultSeverity, HardwareFault, Outcome, Report};

use crate::{
    alerts::{MACHINE, at, begin, job, look, site, with_rule},
    common::on_each_database,
};

fn fault(record: u16) -> HardwareFault {
    HardwareFault {
        record,
        bmc_time: 1_795_000_000,
        seen_at: at(1),
        kind: "power_supply".into(),
        severity: FaultSeverity::Critical,
        text: "power supply: input is lost (sensor 0x52)".into(),
        raw: format!("{record:04x}02c086fd6a20000408526f03ffff"),
    }
}

fn report(n: u8, outcome: Outcome, faults: Vec<HardwareFault>) -> Report {
    Report {
        machine: MACHINE,
        job: job(n, at(0)).id,
        order_revision: 1,
        retry: 0,
        outcome,
        steps: vec![],
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: faults,
        local: Vec::new(),
        bmc: None,
    }
}

/// Takes a report, and numbers its events.
async fn take(store: &Store, revision: u64, report: Report) {
    let take = store.transaction(move |db| {
        assert!(domain::jobs::take_report(db, &site(), revision, &report, at(2))?);
        events::number(db)
    });
    take.await.unwrap();
}

/// All events of a kind and below, oldest first.
async fn told(store: &Store, kind: &str) -> Vec<Event> {
    let filter = events::Filter {
        kind: Some(kind.into()),
        ..events::Filter::default()
    };
    let list = store.transaction(move |db| events::list(db, &filter, events::Order::Oldest, 100));
    list.await.unwrap()
}

#[tokio::test]
async fn a_fault_is_told_once_and_stays_until_somebody_looked_after_it() {
    on_each_database(|store| async move {
        begin(&store).await;
        with_rule(&store, Condition::MachineFault).await;
        take(&store, 1, report(1, Outcome::Running, vec![fault(7)])).await;
        take(&store, 2, report(1, Outcome::Running, vec![fault(7)])).await;
        let events = told(&store, "fault").await;
        let [event] = events.as_slice() else {
            panic!("{events:?}");
        };
        let words = "power supply: input is lost (sensor 0x52); logged at 2026-11-18T11:06:40Z by the BMC's clock";
        assert_eq!((event.kind.as_str(), event.text.as_str(), event.at), ("fault.sel", words, at(1)));
        let place = (event.machine.as_deref(), event.site.as_deref(), event.job.as_deref());
        let (machine, job_id) = (MACHINE.to_string(), job(1, at(0)).id.to_string());
        assert_eq!(place, (Some(machine.as_str()), Some("bj-1"), Some(job_id.as_str())));
        let data = json!({ "kind": "power_supply", "severity": "critical", "record": 7, "bmc_time": 1_795_000_000,
            "raw": fault(7).raw });
        assert_eq!(event.data, data);
        let open = look(&store, 3).await;
        assert_eq!(open[0].text, format!("machine m1 at bj-1: {words} (fault.sel)"));

        let done = Outcome::Done { at: at(4) };
        take(&store, 3, report(1, done.clone(), vec![fault(7)])).await;
        assert_eq!(look(&store, 5).await.len(), 1, "an install says nothing of a power supply");
        let again = store.transaction(|db| {
            jobs::insert(db, &job(2, at(6)))?;
            jobs::start(db, job(2, at(6)).id, MACHINE)
        });
        again.await.unwrap();
        take(&store, 4, report(2, Outcome::Running, vec![fault(7), fault(8)])).await;
        let records = |events: Vec<Event>| -> Vec<Value> {
            events.into_iter().map(|event| event.data["record"].clone()).collect()
        };
        assert_eq!(records(told(&store, "fault").await), [7, 8], "another job carries what is told");

        let clear = store.transaction(|db| {
            let event = NewEvent::new("fault.cleared", at(7)).machine(MACHINE);
            events::append(db, &event)?;
            events::number(db)
        });
        clear.await.unwrap();
        assert!(look(&store, 8).await.is_empty());
        take(&store, 5, report(2, done, vec![fault(7), fault(8)])).await;
        assert!(look(&store, 9).await.is_empty(), "what was looked after is not told again");
    })
    .await;
}

#[tokio::test]
async fn what_an_edge_makes_up_stays_within_bounds() {
    on_each_database(|store| async move {
        begin(&store).await;
        let unset = HardwareFault {
            bmc_time: 77,
            kind: "fan\u{1b}[2J".into(),
            text: format!("fan\n{}", "x".repeat(5000)),
            ..fault(1)
        };
        let no_record = HardwareFault {
            raw: "'; --".into(),
            ..fault(2)
        };
        let long = HardwareFault {
            raw: "a".repeat(301),
            ..fault(3)
        };
        let mut faults = vec![unset, no_record, long];
        faults.extend((4..100).map(fault));
        take(&store, 1, report(1, Outcome::Running, faults)).await;
        let events = told(&store, "fault").await;
        assert_eq!(events.len(), 14, "of the first 16 those that have a record");
        assert!(
            events[0].text.ends_with("x; the BMC does not know when"),
            "{}",
            events[0].text
        );
        assert!(events[0].text.starts_with("fanx") && events[0].text.len() < 350);
        assert_eq!(events[0].data["kind"], "fan[2J");
        let deleted = store.transaction(|db| {
            machines::delete(db, MACHINE)?;
            slipway_control_plane::store::hardware_faults::tell(db, MACHINE, &fault(4).raw, at(9))
        });
        assert!(deleted.await.unwrap(), "a machine that is deleted leaves nothing");
    })
    .await;
}
