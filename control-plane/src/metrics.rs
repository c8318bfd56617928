//! The control plane's metrics, named in one place.

use metrics::counter;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

/// Upper ends of the buckets of requests' times, in seconds.
const REQUEST_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// What keeps the metrics of a process: buckets, so that those of several replicas add up.
///
/// # Errors
/// Never: the buckets are not empty.
pub fn recorder() -> Result<PrometheusBuilder, BuildError> {
    let requests = Matcher::Full("slipway_http_request_seconds".to_owned());
    PrometheusBuilder::new().set_buckets_for_metric(requests, REQUEST_BUCKETS)
}

/// A signed message failed its verification; `code` is [`slipway_protocol::keys::OpenError::code`].
pub fn message_refused(code: &'static str) {
    counter!("slipway_messages_refused_total", "code" => code).increment(1);
}

/// A signed message was accepted.
pub fn message_accepted(kind: &'static str) {
    counter!("slipway_messages_accepted_total", "kind" => kind).increment(1);
}

/// Somebody without valid credentials was refused; `code` is the refusal's.
pub fn stranger_refused(code: &'static str) {
    counter!("slipway_strangers_refused_total", "code" => code).increment(1);
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

/// An attempt to tell somebody was made; `by` is `webhook` or `mail`, `result` is `delivered`, `failed` or `dead`.
pub fn told(by: &'static str, result: &'static str) {
    counter!("slipway_notifications_total", "by" => by, "result" => result).increment(1);
}

/// Spans that no collector took.
pub fn spans_dropped(count: u64) {
    counter!("slipway_spans_dropped_total").increment(count);
}

/// Counts from nothing what is to be watched, so that its first time is an increase and not a new row.
pub fn begin() {
    for code in [
        "malformed",
        "unknown_key",
        "bad_signature",
        "misaddressed",
        "version",
        "expired",
        "stale",
        "out_of_bounds",
        "clock_ahead",
        "not_joined",
        "not_its_machine",
        "not_its_job",
        "unknown_topic",
        slipway_bus::FAULT,
    ] {
        counter!("slipway_messages_refused_total", "code" => code).increment(0);
    }
    for kind in ["hello", "report"] {
        counter!("slipway_messages_accepted_total", "kind" => kind).increment(0);
    }
    for what in [
        "connections",
        "tls",
        "handshake",
        "connect",
        "revoked",
        "packet",
        "publish",
        "subscribe",
        "slow",
    ] {
        counter!("slipway_broker_refused_total", "what" => what).increment(0);
    }
    for by in ["webhook", "mail"] {
        for result in ["delivered", "failed", "dead"] {
            counter!("slipway_notifications_total", "by" => by, "result" => result).increment(0);
        }
    }
}
