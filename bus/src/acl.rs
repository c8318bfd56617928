//! Which topics a client may publish and subscribe. Pure.

/// The topics of one client, as MQTT filters (`+` one level, `#` the rest).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    /// What it may publish, also as its last will.
    pub publish: Vec<String>,
    /// What it may subscribe.
    pub subscribe: Vec<String>,
}

impl Acl {
    /// Whether a message may be published on `topic`. A topic with wildcards or NUL (MQTT 3.1.1, 1.5.3) never may.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        !topic.contains(['+', '#', '\0']) && self.publish.iter().any(|pattern| covers(pattern, topic))
    }

    /// Whether all that `filter` matches is allowed. `$share/group/` is looked through.
    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let filter = match filter.strip_prefix("$share/") {
            Some(shared) => match shared.split_once('/') {
                Some((_group, filter)) => filter,
                None => return false,
            },
            None => filter,
        };
        !filter.contains('\0') && self.subscribe.iter().any(|pattern| covers(pattern, filter))
    }
}

/// Whether everything `filter` matches is matched by `pattern` too.
fn covers(pattern: &str, filter: &str) -> bool {
    let mut pattern = pattern.split('/');
    let mut filter = filter.split('/');
    loop {
        match (pattern.next(), filter.next()) {
            (Some("#"), Some(_)) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(want), Some(level)) if want == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_gets_its_own_topics_and_no_wider_filter() {
        let acl = Acl {
            publish: vec!["slipway/v1/bj-1/evt/#".into()],
            subscribe: vec!["slipway/v1/bj-1/cmd/#".into()],
        };
        assert!(acl.may_publish("slipway/v1/bj-1/evt/hello"));
        assert!(acl.may_subscribe("slipway/v1/bj-1/cmd/#"));
        assert!(acl.may_subscribe("slipway/v1/bj-1/cmd/order/+"));
        assert!(acl.may_subscribe("$share/g/slipway/v1/bj-1/cmd/#"));
        for topic in [
            "slipway/v1/bj-2/evt/hello",
            "slipway/v1/bj-1/cmd/config",
            "slipway/v1/bj-1/evt/+",
            "slipway/v1/bj-1/evt/\0",
            "$SYS/x",
            "",
        ] {
            assert!(!acl.may_publish(topic), "{topic}");
        }
        for filter in [
            "#",
            "+/#",
            "slipway/v1/+/cmd/#",
            "slipway/v1/bj-1/#",
            "slipway/v1/bj-1/evt/#",
            "$share/g/#",
            "$share/g",
            "slipway/v1/bj-1/cmd/\0",
            "slipway/v1/bj-1/cmd",
        ] {
            assert!(!acl.may_subscribe(filter), "{filter}");
        }
    }

    #[test]
    fn the_control_plane_hears_every_site() {
        let acl = Acl {
            publish: vec!["slipway/v1/+/cmd/#".into()],
            subscribe: vec!["slipway/v1/+/evt/#".into()],
        };
        assert!(acl.may_publish("slipway/v1/bj-1/cmd/order/m"));
        assert!(!acl.may_publish("slipway/v1/bj-1/evt/report/m"));
        assert!(acl.may_subscribe("slipway/v1/+/evt/#"));
        assert!(!acl.may_subscribe("slipway/v1/#"));
    }
}
