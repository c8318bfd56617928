//! The control plane's metrics, named in one place.

use metrics::{counter, gauge};

/// A signed message failed its verification; `code` is [`slipway_protocol::keys::OpenError::code`].
pub fn message_refused(code: &'static str) {
    counter!("slipway_messages_refused_total", "code" => code).increment(1);
}

/// A signed message was accepted.
pub fn message_accepted(kind: &'static str) {
    counter!("slipway_messages_accepted_total", "kind" => kind).increment(1);
}

/// A connection, publish or subscribe was refused at the broker.
pub fn broker_refused(what: &'static str) {
    counter!("slipway_broker_refused_total", "what" => what).increment(1);
}

/// A request was answered.
pub fn request(route: &str, status: u16, seconds: f64) {
    let route = route.to_owned();
    counter!("slipway_http_requests_total", "route" => route.clone(), "status" => status.to_string())
        .increment(1);
    metrics::histogram!("slipway_http_request_seconds", "route" => route).record(seconds);
}

/// How many jobs there are in a state.
pub fn jobs(state: &str, count: i64) {
    gauge!("slipway_jobs", "state" => state.to_owned()).set(i32::try_from(count).unwrap_or(i32::MAX));
}

/// An attempt to tell somebody was made; `by` is `webhook` or `mail`, `result` is `delivered`, `failed` or `dead`.
pub fn told(by: &'static str, result: &'static str) {
    counter!("slipway_notifications_total", "by" => by, "result" => result).increment(1);
}

/// The number of the last event.
pub fn last_event(seq: u64) {
    gauge!("slipway_events_last").set(seq as f64);
}

/// How many alerts are open.
pub fn alerts_open(count: i64) {
    gauge!("slipway_alerts_open").set(i32::try_from(count).unwrap_or(i32::MAX));
}
