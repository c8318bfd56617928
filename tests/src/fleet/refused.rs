//! What a process refused, counted by reason, from its metrics page: pure.

use std::collections::BTreeMap;

/// Number of refusals by metric and labels.
pub type Refused = BTreeMap<String, u64>;

const METRICS: [&str; 2] = ["slipway_messages_refused_total", "slipway_broker_refused_total"];

/// The refusals on a page in Prometheus' text form.
#[must_use]
pub fn from_page(page: &str) -> Refused {
    let is_refusal = |line: &&str| METRICS.iter().any(|name| line.starts_with(name));
    let count = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((
            name.trim_start_matches("slipway_").to_owned(),
            value.parse().ok()?,
        ))
    };
    page.lines().filter(is_refusal).filter_map(count).collect()
}

/// Adds counts to counts.
pub fn add(all: &mut Refused, more: &Refused) {
    for (name, count) in more {
        *all.entry(name.clone()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_added_up_by_reason() {
        let page = "# TYPE slipway_messages_refused_total counter\n\
                    slipway_messages_refused_total{code=\"stale\"} 2\nslipway_jobs 7\n";
        let mut all = from_page(page);
        assert_eq!(all.len(), 1);
        let more = from_page(page);
        add(&mut all, &more);
        assert_eq!(all["messages_refused_total{code=\"stale\"}"], 4);
    }
}
