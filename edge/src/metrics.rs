//! The edge's metrics, named in one place.

use metrics::counter;

/// A signed message failed its verification; `code` is [`slipway_protocol::keys::OpenError::code`].
pub fn message_refused(code: &'static str) {
    counter!("slipway_messages_refused_total", "code" => code).increment(1);
}

/// A signed message was accepted.
pub fn message_accepted(kind: &'static str) {
    counter!("slipway_messages_accepted_total", "kind" => kind).increment(1);
}

/// A connection, publish or subscribe was refused at the site's broker.
pub fn broker_refused(what: &'static str) {
    counter!("slipway_broker_refused_total", "what" => what).increment(1);
}
