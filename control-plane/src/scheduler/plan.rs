//! Who goes next: pure. Priority first; among equals the project with the fewest installs under way; then who has waited
//! longest. A site takes no more than its limit at once, none in a maintenance window, and none while too many of its
//! installs fail: one bad switch or image must not eat a whole site. Whoever must wait is told why.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use slipway_protocol::ids::{InstanceId, SiteId};

use crate::store::sites::Limits;

/// An instance that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The instance.
    pub instance: InstanceId,
    /// Where it is to be.
    pub site: SiteId,
    /// Whose it is.
    pub project: String,
    /// Its rank.
    pub priority: i64,
    /// Since when it waits.
    pub since: DateTime<Utc>,
}

/// How things stand.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Installs under way: site and project of each.
    pub running: Vec<(String, String)>,
    /// Sites of installs that failed of late, one entry each.
    pub failed: Vec<String>,
    /// Each site's limits; a site that is not named has the usual ones.
    pub limits: HashMap<String, Limits>,
    /// Most installs under way at all sites together.
    pub most: usize,
}

/// What is decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Who may go, in this order.
    pub go: Vec<InstanceId>,
    /// Who waits, and why.
    pub wait: Vec<(InstanceId, String)>,
}

/// Decides.
#[must_use]
pub fn plan(candidates: Vec<Candidate>, standing: &Standing, now: DateTime<Utc>) -> Plan {
    let mut at_site: HashMap<String, usize> = HashMap::new();
    let mut of_project: HashMap<String, usize> = HashMap::new();
    for (site, project) in &standing.running {
        *at_site.entry(site.clone()).or_default() += 1;
        *of_project.entry(project.clone()).or_default() += 1;
    }
    let mut total = standing.running.len();
    let mut plan = Plan::default();
    let mut queues = queues(candidates);
    while let Some(candidate) = next(&mut queues, &of_project) {
        let site = candidate.site.as_str();
        let running = at_site.get(site).copied().unwrap_or(0);
        let why = if total >= standing.most {
            Some(format!(
                "{total} of {} installs are running at all sites together",
                standing.most
            ))
        } else {
            held_up(site, running, standing, now)
        };
        if let Some(why) = why {
            plan.wait.push((candidate.instance, why));
            continue;
        }
        total += 1;
        *of_project.entry(candidate.project.clone()).or_default() += 1;
        *at_site.entry(candidate.site.to_string()).or_default() += 1;
        plan.go.push(candidate.instance);
    }
    plan
}

/// Why a site takes nobody now.
fn held_up(site: &str, running: usize, standing: &Standing, now: DateTime<Utc>) -> Option<String> {
    let usual = Limits::default();
    let limits = standing.limits.get(site).unwrap_or(&usual);
    if let Some(window) = limits.maintenance.iter().find(|w| w.from <= now && now < w.to) {
        return Some(format!(
            "site {site} is in maintenance until {}",
            window.to.format("%F %R UTC")
        ));
    }
    let failed = standing.failed.iter().filter(|name| *name == site).count();
    if failed >= limits.max_failures as usize {
        return Some(format!(
            "site {site} is held back: {failed} installs failed there within 30 minutes; look at its jobs, or raise \
             its max_failures"
        ));
    }
    if running >= limits.max_installs as usize {
        return Some(format!(
            "site {site} has {running} of {} installs running",
            limits.max_installs
        ));
    }
    None
}

/// By priority, highest first; in each a queue a project, oldest first at the end.
type Queues = BTreeMap<std::cmp::Reverse<i64>, BTreeMap<String, Vec<Candidate>>>;

fn queues(candidates: Vec<Candidate>) -> Queues {
    let mut queues = Queues::new();
    for candidate in candidates {
        let rank = queues.entry(std::cmp::Reverse(candidate.priority)).or_default();
        rank.entry(candidate.project.clone()).or_default().push(candidate);
    }
    for queue in queues.values_mut().flat_map(BTreeMap::values_mut) {
        queue.sort_by_key(|c| std::cmp::Reverse((c.since, c.instance)));
    }
    queues
}

fn next(queues: &mut Queues, of_project: &HashMap<String, usize>) -> Option<Candidate> {
    let mut rank = queues.first_entry()?;
    let under_way = |project: &String| of_project.get(project).copied().unwrap_or(0);
    let fewest = rank
        .get()
        .iter()
        .min_by_key(|(project, queue)| (under_way(project), queue.last().map(|c| c.since)))
        .map(|(project, _)| project.clone())?;
    let queue = rank.get_mut().get_mut(&fewest)?;
    let candidate = queue.pop();
    if queue.is_empty() {
        rank.get_mut().remove(&fewest);
    }
    if rank.get().is_empty() {
        rank.remove();
    }
    candidate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sites::Window;
    use chrono::TimeDelta;
    use uuid::Uuid;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn candidate(n: u128, project: &str, priority: i64) -> Candidate {
        Candidate {
            instance: InstanceId(Uuid::from_u128(n)),
            site: SiteId::new("bj-1").unwrap(),
            project: project.into(),
            priority,
            since: at(i64::try_from(n).unwrap()),
        }
    }

    fn standing(max_installs: u32) -> Standing {
        let limits = Limits {
            max_installs,
            ..Limits::default()
        };
        Standing {
            limits: HashMap::from([("bj-1".to_owned(), limits)]),
            most: 1000,
            ..Standing::default()
        }
    }

    fn order(plan: &Plan) -> Vec<u128> {
        plan.go.iter().map(|id| id.0.as_u128()).collect()
    }

    #[test]
    fn priority_then_fair_share_then_age() {
        let mut all: Vec<Candidate> = (1..=5).map(|n| candidate(n, "big", 0)).collect();
        all.push(candidate(6, "small", 0));
        all.push(candidate(7, "small", 0));
        all.push(candidate(8, "big", 10));
        let plan = plan(all, &standing(100), at(100));
        assert_eq!(
            order(&plan),
            [8, 6, 1, 7, 2, 3, 4, 5],
            "a big project does not push a small one aside"
        );
        assert!(plan.wait.is_empty());
    }

    #[test]
    fn limits_hold_and_say_why() {
        let all: Vec<Candidate> = (1..=5).map(|n| candidate(n, "p", 0)).collect();
        let mut full = standing(3);
        full.running = vec![("bj-1".into(), "p".into()), ("sh-1".into(), "p".into())];
        let told = plan(all.clone(), &full, at(0));
        assert_eq!(order(&told), [1, 2]);
        assert_eq!(told.wait[0].1, "site bj-1 has 3 of 3 installs running");
        full.most = 3;
        let told = plan(all.clone(), &full, at(0));
        assert_eq!(order(&told), [1]);
        assert_eq!(
            told.wait[0].1,
            "3 of 3 installs are running at all sites together"
        );
        let mut failing = standing(100);
        failing.failed = vec!["bj-1".into(); 10];
        let told = plan(all.clone(), &failing, at(0));
        assert!(
            told.go.is_empty() && told.wait[0].1.contains("10 installs failed"),
            "{told:?}"
        );
        let mut closed = standing(100);
        closed.limits.get_mut("bj-1").unwrap().maintenance = vec![Window {
            from: at(0),
            to: at(0) + TimeDelta::hours(1),
        }];
        let told = plan(all.clone(), &closed, at(10));
        assert!(
            told.go.is_empty() && told.wait[0].1.contains("in maintenance until"),
            "{told:?}"
        );
        assert_eq!(
            order(&plan(all, &closed, at(3600))).len(),
            5,
            "and after it they go"
        );
    }

    #[test]
    fn everybody_is_decided_upon_once() {
        let all: Vec<Candidate> = (1..=200)
            .map(|n| candidate(n, ["a", "b", "c"][n as usize % 3], i64::try_from(n % 4).unwrap()))
            .collect();
        let told = plan(all, &standing(77), at(1000));
        assert_eq!((told.go.len(), told.wait.len()), (77, 123));
        let mut ids: Vec<_> = told.go.iter().chain(told.wait.iter().map(|(id, _)| id)).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 200);
    }
}
