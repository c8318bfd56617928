//! Signed messages and inventories that somebody changed: none ends whoever reads it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use slipway_protocol::{
    ids::{MachineId, SiteId},
    inventory::Inventory,
    keys::{Expect, KeyRing, Signer, Stamp},
    limits,
    order::Order,
    report::{AgentHello, AgentReport, LogChunk, MachineSeen, Report},
    site::SiteConfig,
    sync::Hello,
    topic::Topic,
};
use uuid::Uuid;

const GOLDEN: [&str; 4] = [
    include_str!("golden/v1/order.json"),
    include_str!("golden/v1/report.json"),
    include_str!("golden/v1/hello.json"),
    include_str!("golden/v1/config.json"),
];

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// Words of the language, and numbers that were trouble.
const WORDS: [&[u8]; 10] = [
    b"\"body\":",
    b"null",
    b"18446744073709551615",
    b"-9223372036854775808",
    b"1e999",
    b"\"262142-12-31T23:59:60Z\"",
    b"[[[[",
    b"{\"a\":",
    b"\\ud800",
    b"\xff",
];

/// The envelope first as it comes, then with a body that its sender signed: whoever has a key may be hostile, too.
#[test]
fn fuzzed_envelopes_end_nothing() {
    let signer = Signer::from_seed(&[7; 32]).unwrap();
    let ring = KeyRing::new([signer.verifying_key()]);
    let topic = Topic::Order(SiteId::new("bj-1").unwrap(), MachineId(Uuid::nil()));
    let stamp = Stamp {
        revision: 5,
        issued_at: now(),
        expires_at: now() + TimeDelta::hours(1),
    };
    let bodies = GOLDEN.map(|text| {
        let envelope: Value = serde_json::from_str(text).unwrap();
        envelope.pointer("/msg/body").cloned().unwrap_or(json!({}))
    });
    let mut seeds: Vec<Vec<u8>> = bodies
        .iter()
        .map(|body| signer.seal(&topic, stamp, body))
        .collect();
    seeds.extend(bodies.iter().map(|body| serde_json::to_vec(body).unwrap()));
    let expect = Expect {
        now: now(),
        held: None,
    };
    let mut opened = 0_u64;
    slipway_fuzz::fuzz("envelope", &seeds, &WORDS, |bytes| {
        let _ = ring.open::<Order>(&topic, bytes, expect);
        let Ok(body) = serde_json::from_slice::<Value>(bytes) else {
            return;
        };
        let sealed = signer.seal(&topic, stamp, &body);
        let outcomes = [
            ring.open::<Order>(&topic, &sealed, expect).is_ok(),
            ring.open::<Report>(&topic, &sealed, expect).is_ok(),
            ring.open::<AgentHello>(&topic, &sealed, expect).is_ok(),
            ring.open::<AgentReport>(&topic, &sealed, expect).is_ok(),
            ring.open::<SiteConfig>(&topic, &sealed, expect).is_ok(),
            ring.open::<Hello>(&topic, &sealed, expect).is_ok(),
            ring.open::<MachineSeen>(&topic, &sealed, expect).is_ok(),
            ring.open::<LogChunk>(&topic, &sealed, expect).is_ok(),
        ];
        opened += outcomes.iter().filter(|opened| **opened).count() as u64;
    });
    assert!(opened > 0, "some are what they were");
}

#[test]
fn fuzzed_inventories_end_nothing() {
    let inventory = json!({
        "firmware": "uefi", "manufacturer": "M", "product": "P", "serial": "S", "uuid": "u", "cpu": "C", "threads": 64,
        "memory_bytes": 1_u64 << 40,
        "nics": [{ "name": "eth0", "mac": "52:54:00:00:00:01", "speed_mbit": 25_000, "link": true,
            "neighbour": { "chassis": "c", "port": "swp1", "system": "leaf-1", "vlan": 100 } }],
        "disks": [{ "serial": "D1", "wwn": "0x5000", "model": "X", "size_bytes": 1_u64 << 42, "kind": "nvme" }],
    });
    let seeds = [serde_json::to_vec(&inventory).unwrap(), b"{}".to_vec()];
    let mut taken = 0_u64;
    slipway_fuzz::fuzz("inventory", &seeds, &WORDS, |bytes| {
        if let Ok(inventory) = serde_json::from_slice::<Inventory>(bytes) {
            taken += u64::from(limits::inventory(&inventory).is_ok());
        }
    });
    assert!(taken > 0, "some are taken");
}
