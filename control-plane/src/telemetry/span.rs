//! A span, and spans as OTLP's JSON has them. Pure.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

/// Who the others are in a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Within ourselves.
    Internal,
    /// We were called.
    Server,
}

/// Something that took its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The trace it is part of.
    pub trace: [u8; 16],
    /// Itself.
    pub id: [u8; 8],
    /// What it is part of.
    pub parent: Option<[u8; 8]>,
    /// What it is, of few words there are.
    pub name: String,
    /// Who the others are.
    pub kind: Kind,
    /// When it began.
    pub start: DateTime<Utc>,
    /// When it ended.
    pub end: DateTime<Utc>,
    /// More of it.
    pub attributes: Vec<(&'static str, String)>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// The id of a span that is told later or by another replica: always the same for the same thing.
#[must_use]
pub fn id_of(thing: &str) -> [u8; 8] {
    let digest = ring::digest::digest(&ring::digest::SHA256, thing.as_bytes());
    let mut id = [0; 8];
    id.copy_from_slice(&digest.as_ref()[..8]);
    id
}

fn attributes<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Value> {
    let pair = |(key, value)| json!({ "key": key, "value": { "stringValue": value } });
    pairs.into_iter().map(pair).collect()
}

fn nanos(at: DateTime<Utc>) -> String {
    at.timestamp_nanos_opt().unwrap_or(0).max(0).to_string()
}

fn one(span: &Span) -> Value {
    let kind = match span.kind {
        Kind::Internal => 1,
        Kind::Server => 2,
    };
    let pairs = span.attributes.iter().map(|(key, value)| (*key, value.as_str()));
    let status = match &span.failure {
        Some(why) => json!({ "code": 2, "message": why }),
        None => json!({}),
    };
    json!({
        "traceId": hex::encode(span.trace),
        "spanId": hex::encode(span.id),
        "parentSpanId": span.parent.map(hex::encode).unwrap_or_default(),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": nanos(span.start),
        "endTimeUnixNano": nanos(span.end.max(span.start)),
        "attributes": attributes(pairs),
        "status": status,
    })
}

/// The body of a request to `/v1/traces`.
#[must_use]
pub fn request(spans: &[Span]) -> Value {
    let resource = [
        ("service.name", "slipway-control-plane"),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ];
    json!({ "resourceSpans": [{
        "resource": { "attributes": attributes(resource) },
        "scopeSpans": [{ "scope": { "name": "slipway" }, "spans": spans.iter().map(one).collect::<Vec<_>>() }],
    }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_as_otlp_has_it() {
        let at = DateTime::from_timestamp(1, 5).unwrap();
        let span = Span {
            trace: [1; 16],
            id: [2; 8],
            parent: None,
            name: "step".into(),
            kind: Kind::Server,
            start: at,
            end: DateTime::from_timestamp(0, 0).unwrap(),
            attributes: vec![("slipway.site", "bj-1".into())],
            failure: Some("no disk".into()),
        };
        let body = request(&[span]);
        let told = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(told["traceId"], "01".repeat(16));
        assert_eq!(
            (told["spanId"].as_str(), told["kind"].as_i64()),
            (Some("0202020202020202"), Some(2))
        );
        assert_eq!(told["startTimeUnixNano"], "1000000005");
        assert_eq!(told["endTimeUnixNano"], "1000000005", "never before it began");
        assert_eq!(told["status"]["code"], 2);
        assert_eq!(told["attributes"][0]["value"]["stringValue"], "bj-1");
        assert_eq!(id_of("a"), id_of("a"));
        assert_ne!(id_of("a"), id_of("b"));
    }
}
