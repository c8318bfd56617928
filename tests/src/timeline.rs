//! A job's phases in seconds, read from its report: pure.

use chrono::{DateTime, Utc};
use serde_json::Value;

/// A phase: its name, and when it was reached, in seconds after the job was made.
pub type Phase = (&'static str, f64);

/// When the phases of an install were reached.
#[must_use]
pub fn phases(job: &Value) -> Vec<Phase> {
    let Some(begun) = time(&job["created_at"]) else {
        return Vec::new();
    };
    let seconds = |at: DateTime<Utc>| (at - begun).num_milliseconds() as f64 / 1000.0;
    let event = |source: &str, code: &str| {
        let found = job["events"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|e| e["source"] == source && e["code"] == code);
        found.and_then(|e| time(&e["at"]))
    };
    let step = |id: &str| {
        let found = job["steps"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|s| s["id"] == id);
        found.and_then(|s| time(&s["finished_at"]))
    };
    let named = [
        ("image in the site's cache", step("ensure-image")),
        ("machine switched on by its BMC", step("boot-network")),
        ("first DHCP offer", event("dhcp", "offer")),
        ("boot program by TFTP", event("tftp", "file")),
        ("boot script by HTTP", event("http", "script")),
        ("LiveOS loaded", event("http", "overlay")),
        ("agent connected", event("agent", "connected")),
        ("disk chosen", step("choose-disk")),
        ("image written and verified", step("write-image")),
        ("first-boot data written", step("configure")),
        ("machine rebooted", step("reboot")),
        ("guest phoned home", event("guest", "phone_home")),
    ];
    named
        .into_iter()
        .filter_map(|(name, at)| Some((name, seconds(at?))))
        .collect()
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str()?.parse().ok()
}

/// The phases as a table.
#[must_use]
pub fn table(job: &Value) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let mut before = 0.0;
    for (name, at) in phases(job) {
        writeln!(text, "  {at:7.1} s  +{:5.1}  {name}", (at - before).max(0.0))
            .expect("writing to memory does not fail");
        before = at;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_seconds_after_the_request() {
        let job = serde_json::json!({
            "created_at": "2026-11-21T12:00:00Z",
            "events": [{ "source": "dhcp", "code": "offer", "at": "2026-11-21T12:00:02.500Z" }],
            "steps": [{ "id": "ensure-image", "finished_at": "2026-11-21T12:00:01Z" }, { "id": "reboot" }],
        });
        assert_eq!(
            phases(&job),
            [("image in the site's cache", 1.0), ("first DHCP offer", 2.5)]
        );
        assert!(table(&job).contains("2.5 s  +  1.5  first DHCP offer"));
    }
}
