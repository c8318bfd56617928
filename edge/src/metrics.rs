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

/// A boot script or an overlay was asked for by somebody else than the machine, or while none is waited for.
pub fn boot_refused(what: &'static str) {
    counter!("slipway_boot_refused_total", "what" => what).increment(1);
}

/// What a boot service saw of a port was a repeat, or there was no room for it: it is counted alone.
pub fn sighting_dropped(why: &'static str) {
    counter!("slipway_sightings_dropped_total", "why" => why).increment(1);
}

/// A DHCP packet was not served; counted once a minute and kind.
pub fn dhcp_not_served(what: &'static str) {
    counter!("slipway_dhcp_not_served_total", "what" => what).increment(1);
}
