//! The envelope: what is sealed opens, and nothing else does.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use chrono::{DateTime, Duration, TimeZone as _, Utc};
use proptest::prelude::*;
use slipway_protocol::{
    ids::{BootId, JobId, MachineId, SiteId},
    keys::{Expect, KeyRing, OpenError, Signer, Stamp},
    report::{AgentReport, LogChunk},
    topic::Topic,
};
use uuid::Uuid;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 21, 12, 0, 0).unwrap()
}

fn stamp(revision: u64) -> Stamp {
    Stamp {
        revision,
        issued_at: now(),
        expires_at: now() + Duration::hours(1),
    }
}

fn topic(machine: u128) -> Topic {
    Topic::Log(SiteId::new("bj-1").unwrap(), MachineId(Uuid::from_u128(machine)))
}

fn chunk(text: &str) -> LogChunk {
    LogChunk {
        job: JobId(Uuid::nil()),
        boot: None,
        offset: 7,
        text: text.to_owned(),
    }
}

fn expect(held: Option<u64>) -> Expect {
    Expect { now: now(), held }
}

fn code(result: Result<impl Sized, OpenError>) -> &'static str {
    result.map_or_else(|e| e.code(), |_| "opened")
}

#[test]
fn opens_what_was_sealed_and_refuses_the_rest_by_name() {
    let (signer, pkcs8) = Signer::generate().unwrap();
    let signer = Signer::from_pkcs8(&pkcs8).map_or(signer, |same| same);
    let (stranger, _) = Signer::generate().unwrap();
    let ring = KeyRing::new([signer.verifying_key()]);
    let sealed = signer.seal(&topic(1), stamp(5), &chunk("hello"));
    let open = |bytes: &[u8], on: Topic, expect| ring.open::<LogChunk>(&on, bytes, expect);

    let verified = open(&sealed, topic(1), expect(None)).unwrap();
    assert_eq!(
        (verified.body(), verified.header().revision),
        (&chunk("hello"), 5)
    );
    assert_eq!(
        code(open(&sealed, topic(1), expect(Some(5)))),
        "opened",
        "a repeat is harmless"
    );
    assert_eq!(code(open(&sealed, topic(1), expect(Some(6)))), "stale");
    assert_eq!(
        code(open(&sealed, topic(2), expect(None))),
        "bad_signature",
        "another machine's topic"
    );
    let late = Expect {
        now: now() + Duration::hours(1),
        held: None,
    };
    assert_eq!(code(open(&sealed, topic(1), late)), "expired");
    assert_eq!(
        code(open(
            &stranger.seal(&topic(1), stamp(9), &chunk("x")),
            topic(1),
            expect(None)
        )),
        "unknown_key"
    );
    assert_eq!(
        code(open(&sealed[..sealed.len() - 3], topic(1), expect(None))),
        "malformed"
    );
    assert_eq!(
        code(ring.open::<AgentReport>(&topic(1), &sealed, expect(None))),
        "malformed",
        "another body"
    );
    let text = String::from_utf8(sealed)
        .unwrap()
        .replacen(r#""v":1"#, r#""v":2"#, 1);
    assert_eq!(
        code(open(text.as_bytes(), topic(1), expect(None))),
        "bad_signature",
        "a raised version"
    );
}

#[test]
fn an_agent_opens_the_order_its_edge_relays_unopened() {
    let (signer, _) = Signer::generate().unwrap();
    let site = SiteId::new("bj-1").unwrap();
    let machine = MachineId(Uuid::from_u128(3));
    let sealed = signer.seal(
        &Topic::Order(site.clone(), machine),
        stamp(1),
        &chunk("stands for an order"),
    );
    let ring = KeyRing::new([signer.verifying_key()]);
    let relayed = ring.open::<LogChunk>(&Topic::AgentOrder(site.clone(), machine), &sealed, expect(None));
    assert_eq!(code(relayed), "opened");
    let other = Topic::AgentOrder(site, MachineId(Uuid::from_u128(4)));
    assert_eq!(
        code(ring.open::<LogChunk>(&other, &sealed, expect(None))),
        "bad_signature"
    );
}

#[test]
fn a_person_can_read_it() {
    let (signer, _) = Signer::generate().unwrap();
    let text = String::from_utf8(signer.seal(&topic(1), stamp(5), &chunk("hello"))).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["msg"]["kind"], "log");
    assert_eq!(value["msg"]["body"]["text"], "hello");
    assert_eq!(value["key"], signer.verifying_key().id().to_string());
    let _ = BootId(Uuid::nil());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_text_round_trips(text in "\\PC{0,200}", revision in 0..u64::MAX) {
        let signer = Signer::from_seed(&[7; 32]).unwrap();
        let sealed = signer.seal(&topic(1), stamp(revision), &chunk(&text));
        let ring = KeyRing::new([signer.verifying_key()]);
        let verified = ring.open::<LogChunk>(&topic(1), &sealed, expect(None)).unwrap();
        prop_assert_eq!(verified.body(), &chunk(&text));
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let ring = KeyRing::new([Signer::from_seed(&[7; 32]).unwrap().verifying_key()]);
        prop_assert!(ring.open::<LogChunk>(&topic(1), &bytes, expect(None)).is_err());
    }
}

/// Every bit of every byte: what opens after the flip must say the very same thing (a flip can only survive in the
/// letter case of nothing we compare, so in fact none may open).
#[test]
fn every_flipped_bit_is_refused() {
    let signer = Signer::from_seed(&[9; 32]).unwrap();
    let ring = KeyRing::new([signer.verifying_key()]);
    let sealed = signer.seal(&topic(1), stamp(5), &chunk("hello"));
    for index in 0..sealed.len() {
        for bit in 0..8 {
            let mut flipped = sealed.clone();
            flipped[index] ^= 1 << bit;
            let result = ring.open::<LogChunk>(&topic(1), &flipped, expect(None));
            assert!(
                result.is_err(),
                "bit {bit} of byte {index} flipped and still opened"
            );
        }
    }
}
