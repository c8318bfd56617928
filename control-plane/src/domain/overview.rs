//! Everything the caller may see, site by site, counted: what a dashboard shows on one page. Reads in one transaction and
//! puts the counts together; changes nothing.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    instances::JOB_LIFE,
    limits::under_work,
    sites::{is_among, is_online},
};
use crate::{
    access::{Caller, Permission, Target, Visible},
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult,
        overview::{self, Counts, Heard, Stuck},
    },
};

/// For how long a failed job is counted.
const FAILED_FOR: TimeDelta = TimeDelta::hours(24);

/// What is counted, at one site or over all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Machines by state.
    pub machines: BTreeMap<String, i64>,
    /// Jobs that wait.
    pub queued: i64,
    /// Jobs under way.
    pub running: i64,
    /// Jobs that failed within 24 hours.
    pub failed: i64,
    /// Alerts that are open.
    pub open_alerts: i64,
    /// What has been stuck longest.
    pub stuck: Option<Stuck>,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteTally {
    /// Its name.
    pub name: String,
    /// Whether its edge is connected.
    pub online: bool,
    /// When its edge was last heard.
    pub last_seen: Option<DateTime<Utc>>,
    /// For how many seconds it was not heard.
    pub lag_s: Option<i64>,
    /// What is counted there.
    pub tally: Tally,
}

/// What is read.
#[derive(Debug, Clone, Default)]
struct Found {
    sites: Vec<Heard>,
    machines: Counts,
    live: Counts,
    failed: Vec<(String, i64)>,
    alerts: Vec<(Option<String>, i64)>,
    stuck: Vec<Stuck>,
}

/// Whether somebody may see anything of a kind at all.
fn sees_any(visible: &Visible) -> bool {
    match visible {
        Visible::All => true,
        Visible::Only { sites, projects } => !sites.is_empty() || !projects.is_empty(),
    }
}

fn read(db: &mut Database, caller: &Caller, now: DateTime<Utc>) -> StoreResult<Found> {
    let mut found = Found {
        sites: overview::sites(db)?,
        ..Found::default()
    };
    let visible = caller.visible(Permission::SitesRead);
    found.sites.retain(|site| is_among(&visible, &site.name));
    let longest = now - JOB_LIFE;
    let visible = caller.visible(Permission::MachinesRead);
    if sees_any(&visible) {
        found.machines = overview::machines(db, &visible)?;
        let words = under_work("machine");
        found
            .stuck
            .extend(overview::stuck_machines(db, &visible, (words, longest))?);
    }
    let visible = caller.visible(Permission::InstancesRead);
    if sees_any(&visible) {
        let words = under_work("instance");
        found
            .stuck
            .extend(overview::stuck_instances(db, &visible, (words, longest))?);
    }
    let visible = caller.visible(Permission::JobsRead);
    if sees_any(&visible) {
        let words = under_work("job");
        found.live = overview::jobs(db, &visible, words)?;
        found.failed = overview::failed_jobs(db, &visible, now - FAILED_FOR)?;
        found
            .stuck
            .extend(overview::stuck_jobs(db, &visible, (words, now))?);
    }
    // As the list of alerts: they are of no project, and of sites that their readers need not know.
    if caller.may(Permission::AlertsRead, Target::GLOBAL) {
        found.alerts = overview::open_alerts(db)?;
    }
    Ok(found)
}

/// Counts what the caller may see: sites by name, and the same over all of them.
///
/// # Errors
/// When the store fails.
pub async fn get(app: &App, caller: &Caller) -> Result<(Vec<SiteTally>, Tally), ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    let read = app.store.read(move |db| read(db, &caller, now));
    Ok(put_together(read.await?, now))
}

impl Tally {
    fn add_stuck(&mut self, stuck: &Stuck) {
        if self.stuck.as_ref().is_none_or(|other| stuck.since < other.since) {
            self.stuck = Some(stuck.clone());
        }
    }

    fn add(&mut self, other: &Self) {
        for (state, count) in &other.machines {
            *self.machines.entry(state.clone()).or_default() += count;
        }
        self.queued += other.queued;
        self.running += other.running;
        self.failed += other.failed;
        self.open_alerts += other.open_alerts;
        if let Some(stuck) = &other.stuck {
            self.add_stuck(stuck);
        }
    }
}

fn put_together(found: Found, now: DateTime<Utc>) -> (Vec<SiteTally>, Tally) {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut totals = Tally::default();
    for (site, state, count) in found.machines {
        tallies.entry(site).or_default().machines.insert(state, count);
    }
    for (site, state, count) in found.live {
        let tally = tallies.entry(site).or_default();
        if state == "queued" {
            tally.queued += count;
        } else {
            tally.running += count;
        }
    }
    for (site, count) in found.failed {
        tallies.entry(site).or_default().failed += count;
    }
    for (site, count) in found.alerts {
        match site {
            Some(site) => tallies.entry(site).or_default().open_alerts += count,
            None => totals.open_alerts += count,
        }
    }
    for stuck in &found.stuck {
        tallies.entry(stuck.site.clone()).or_default().add_stuck(stuck);
    }
    let site = |heard: Heard| SiteTally {
        online: is_online(heard.online, heard.last_seen, now),
        lag_s: heard.last_seen.map(|at| (now - at).num_seconds().max(0)),
        last_seen: heard.last_seen,
        tally: tallies.remove(&heard.name).unwrap_or_default(),
        name: heard.name,
    };
    let sites: Vec<SiteTally> = found.sites.into_iter().map(site).collect();
    for site in &sites {
        totals.add(&site.tally);
    }
    (sites, totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_put_together_by_site_and_over_all() {
        let now = Utc::now();
        let heard = |name: &str, ago_s: i64| Heard {
            name: name.into(),
            online: true,
            last_seen: Some(now - TimeDelta::seconds(ago_s)),
        };
        let stuck = |site: &str, id: &str, hours: i64| Stuck {
            kind: "job",
            site: site.into(),
            id: id.into(),
            name: id.into(),
            state: "running".into(),
            since: now - TimeDelta::hours(hours),
        };
        let count = |site: &str, state: &str, count| (site.to_owned(), state.to_owned(), count);
        let found = Found {
            sites: vec![heard("a", 5), heard("b", 500)],
            machines: vec![
                count("a", "available", 3),
                count("b", "available", 4),
                count("b", "erasing", 1),
            ],
            live: vec![count("a", "queued", 2), count("b", "running", 6)],
            failed: vec![("b".into(), 7)],
            alerts: vec![(None, 1), (Some("a".into()), 2)],
            stuck: vec![stuck("b", "x", 3), stuck("b", "y", 9), stuck("a", "z", 4)],
        };
        let (sites, totals) = put_together(found, now);
        let told: Vec<_> = sites.iter().map(|s| (s.online, s.lag_s)).collect();
        assert_eq!(told, [(true, Some(5)), (false, Some(500))]);
        assert_eq!(
            totals.machines,
            BTreeMap::from([("available".into(), 7), ("erasing".into(), 1)])
        );
        assert_eq!(
            (totals.queued, totals.running, totals.failed, totals.open_alerts),
            (2, 6, 7, 3)
        );
        let ids = sites.iter().map(|s| s.tally.stuck.as_ref().unwrap().id.as_str());
        assert_eq!(ids.collect::<Vec<_>>(), ["z", "y"]);
        assert_eq!(totals.stuck.unwrap().id, "y");
    }
}
