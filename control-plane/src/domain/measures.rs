//! What `/metrics` says of the whole fleet, read when it is asked for. Every replica says the same, so dashboards take the
//! greatest, not the sum. What counts what this process did is in [`crate::metrics`].

use std::fmt::{Display, Write as _};

use chrono::{DateTime, Utc};

use super::limits::{UNDER_WORK, limit_s};
use crate::{
    app::App,
    error::ApiError,
    store::{
        Load,
        measures::{self, Measures},
    },
};

/// Metrics in Prometheus' text form.
#[derive(Default)]
struct Text(String);

impl Text {
    /// A gauge with all its values.
    fn gauge<V: Display>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (String, V)>) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in values {
            let labels = if labels.is_empty() {
                labels
            } else {
                format!("{{{labels}}}")
            };
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

/// A label; names of sites and states hold nothing that would have to be escaped.
fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{value}\"")
}

/// Reads and writes them.
///
/// # Errors
/// When the database fails.
pub async fn text(app: &App) -> Result<String, ApiError> {
    let measures = app.store.read(measures::read).await?;
    Ok(written(&measures, &app.store.loads(), (app.now)()))
}

fn written(measures: &Measures, loads: &[Load], now: DateTime<Utc>) -> String {
    let mut text = Text::default();
    states(&mut text, measures, now);
    sites(&mut text, measures, now);
    told(&mut text, measures, now);
    let pool = |load: &Load| label("pool", load.pool);
    let busy = loads.iter().map(|load| (pool(load), load.busy));
    text.gauge(
        "slipway_database_connections_busy",
        "Transactions that run now.",
        busy,
    );
    let size = loads.iter().map(|load| (pool(load), load.size));
    text.gauge(
        "slipway_database_connections",
        "Transactions that can run at once.",
        size,
    );
    let waiting = loads.iter().map(|load| (pool(load), load.waiting));
    text.gauge(
        "slipway_database_waiting",
        "Transactions that wait for a connection.",
        waiting,
    );
    text.0
}

fn seconds(since: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    (now - since).num_seconds().max(0)
}

fn states(text: &mut Text, measures: &Measures, now: DateTime<Utc>) {
    for (object, rows) in &measures.states {
        let plural = format!("slipway_{object}s");
        let help = format!("Number of {object}s by state.");
        let counts = rows.iter().map(|row| (label("state", &row.state), row.count));
        text.gauge(&plural, &help, counts);
        let oldest = rows.iter().filter(|row| row.count > 0);
        let oldest = oldest.filter_map(|row| Some((label("state", &row.state), seconds(row.since?, now))));
        let help = format!("For how long the {object} that is in a state longest is in it.");
        text.gauge(&format!("slipway_{object}_oldest_seconds"), &help, oldest);
    }
    let limits = UNDER_WORK.iter().flat_map(|(object, states)| {
        let label = |state: &&str| format!("{},{}", label("object", object), label("state", state));
        states
            .iter()
            .filter_map(move |state| Some((label(state), limit_s(object, state)?)))
    });
    let limits: Vec<(String, i64)> = limits.collect();
    text.gauge(
        "slipway_state_limit_seconds",
        "How long an object may be in a state.",
        limits,
    );
}

fn sites(text: &mut Text, measures: &Measures, now: DateTime<Utc>) {
    let site = |name: &str| label("site", name);
    let online = measures
        .sites
        .iter()
        .map(|heard| (site(&heard.site), u8::from(heard.online)));
    text.gauge(
        "slipway_site_online",
        "Whether a joined site is connected.",
        online,
    );
    let silent = measures.sites.iter();
    let silent = silent.filter_map(|heard| Some((site(&heard.site), seconds(heard.at?, now))));
    text.gauge(
        "slipway_site_silent_seconds",
        "For how long a site was not heard.",
        silent,
    );
    let orders = measures.sites.iter().map(|heard| {
        let found = measures.unacknowledged.iter().find(|(of, _)| *of == heard.site);
        (site(&heard.site), found.map_or(0, |(_, count)| *count))
    });
    let help = "Orders of running jobs that the site has not reported on.";
    text.gauge("slipway_orders_unacknowledged", help, orders);
}

fn told(text: &mut Text, measures: &Measures, now: DateTime<Utc>) {
    let by_state = |found: &[(String, i64)]| {
        let states = ["waiting", "delivered", "dead"].map(|state| {
            let found = found.iter().find(|(of, _)| of == state);
            (label("state", state), found.map_or(0, |(_, count)| *count))
        });
        states.to_vec()
    };
    let deliveries = by_state(&measures.deliveries);
    text.gauge(
        "slipway_webhook_deliveries",
        "Deliveries to webhooks by state.",
        deliveries,
    );
    text.gauge("slipway_mails", "Mails by state.", by_state(&measures.mails));
    let oldest = measures.delivery_waits.map_or(0, |since| seconds(since, now));
    let none = String::new;
    let help = "For how long the oldest delivery waits.";
    text.gauge("slipway_webhook_oldest_seconds", help, [(none(), oldest)]);
    let alerts = [(none(), measures.alerts_open)];
    text.gauge("slipway_alerts_open", "Alerts that are open.", alerts);
    let last = [(none(), measures.last_event)];
    text.gauge("slipway_events_last", "Number of the last event.", last);
    let help = "Events that the webhook furthest behind has not looked at.";
    text.gauge(
        "slipway_webhook_backlog_events",
        help,
        [(none(), measures.behind)],
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::measures::{Heard, InState};
    use chrono::TimeDelta;

    #[test]
    fn a_fleet_is_told_in_prometheus_words() {
        let now = Utc::now();
        let measures = Measures {
            states: vec![(
                "job",
                vec![InState {
                    state: "running".into(),
                    count: 2,
                    since: Some(now - TimeDelta::seconds(90)),
                }],
            )],
            sites: vec![Heard {
                site: "bj-1".into(),
                online: false,
                at: None,
            }],
            unacknowledged: vec![("bj-1".into(), 3)],
            ..Measures::default()
        };
        let load = Load {
            pool: "writers",
            size: 8,
            busy: 1,
            waiting: 4,
        };
        let text = written(&measures, &[load], now);
        for line in [
            "slipway_jobs{state=\"running\"} 2",
            "slipway_job_oldest_seconds{state=\"running\"} 90",
            "slipway_state_limit_seconds{object=\"job\",state=\"running\"} 7200",
            "slipway_site_online{site=\"bj-1\"} 0",
            "slipway_orders_unacknowledged{site=\"bj-1\"} 3",
            "slipway_webhook_deliveries{state=\"dead\"} 0",
            "slipway_webhook_backlog_events 0",
            "slipway_database_waiting{pool=\"writers\"} 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
