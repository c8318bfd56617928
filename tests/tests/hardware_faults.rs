//! What a machine's BMC has logged becomes an event and an alert, once, whatever becomes of the edge in between. Real control
//! plane and edge, a BMC that answers real IPMI, on loopback.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use serde_json::{Value, json};
use slipway_tests::{
    api::Api,
    fleet::{Database, Fleet, Spec, world::IMAGE},
};

const MACHINE: &str = "m-000-000";
const LIMIT: Duration = Duration::from_secs(60);
/// IPMI table 32-1, bytes 11 to 16.
const INPUT_LOST: [u8; 6] = [0x08, 0x52, 0x6f, 0x03, 0xff, 0xff];
const FAN_STANDS: [u8; 6] = [0x04, 0x41, 0x01, 0x52, 0x00, 0x05];

/// Looks until there are so many items; gives them.
async fn items(api: &Api, path: &str, many: usize) -> Vec<Value> {
    let mut look = tokio::time::interval(Duration::from_millis(200));
    let found = tokio::time::timeout(LIMIT, async {
        loop {
            look.tick().await;
            let page = api.get(path).await.unwrap();
            let items = page["items"].as_array().unwrap().clone();
            if items.len() >= many {
                return items;
            }
        }
    });
    found
        .await
        .unwrap_or_else(|_| panic!("{path} has no {many} items"))
}

async fn job(api: &Api, path: &str, body: Value) {
    let accepted = api.post(path, body).await.unwrap();
    let job = accepted["job"]["id"].as_str().unwrap();
    let job = api.wait_for_job(job, LIMIT).await.unwrap();
    assert_eq!(job["state"], "done", "{:#}", job["failure"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_a_bmc_logged_becomes_an_event_and_an_alert_once() {
    let spec = Spec {
        sites: 1,
        machines: 1,
        replicas: 1,
        database: Database::Sqlite,
        seed: 4,
    };
    let fleet = Fleet::start(spec).await.unwrap();
    let api = &fleet.api;
    let log = fleet.bmcs[MACHINE].log();
    log.add_at([0x0d, 0x01, 0x6f, 0x01, 0xff, 0xff], 1_500_000_000);
    log.add(INPUT_LOST);
    let rule = json!({ "name": "faults", "condition": { "is": "machine_fault" } });
    api.post("/api/v1/alert-rules", rule).await.unwrap();

    let wish = json!({ "name": "web-1", "site": "site-000", "image": IMAGE });
    job(api, "/api/v1/instances", wish).await;
    let events = items(api, "/api/v1/events?kind=fault", 1).await;
    let text = events[0]["text"].as_str().unwrap();
    assert!(
        text.starts_with("power supply: input is lost (sensor 0x52); logged at 20"),
        "{text}"
    );
    assert_eq!(events[0]["data"]["record"], 2, "the drive of 2017 is no news");
    let alerts = items(api, "/api/v1/alerts?open=true", 1).await;
    let told = alerts[0]["text"].as_str().unwrap();
    assert!(told.contains("power supply: input is lost"), "{told}");

    fleet.edges[0].kill(api).await;
    fleet.edges[0].process().start().unwrap();
    log.add(FAN_STANDS);
    job(api, "/api/v1/instances/web-1/stop", json!({})).await;
    let events = items(api, "/api/v1/events?kind=fault", 2).await;
    let kinds: Vec<(&Value, &Value)> = events.iter().map(|e| (&e["kind"], &e["data"]["kind"])).collect();
    let sel = json!("fault.sel");
    assert_eq!(
        kinds,
        [(&sel, &json!("fan")), (&sel, &json!("power_supply"))],
        "newest first, each once"
    );
    let machine = events[0]["machine"].as_str().unwrap();
    let timeline = format!("/api/v1/events?kind=fault.sel&machine={machine}");
    assert_eq!(items(api, &timeline, 2).await, events, "both are the machine's");
    let report = api
        .get(&format!("/api/v1/machines/{MACHINE}/report"))
        .await
        .unwrap();
    let held = report["report"]["hardware_faults"].as_array().map(Vec::len);
    assert_eq!(held, Some(2), "{report:#}");
}
