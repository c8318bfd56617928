//! Reports in: those that arrive together are verified by the keys of their sites, and stored in one transaction. A write
//! to disk costs the same for one report and for a hundred. Nothing is decided about jobs here.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use slipway_protocol::{
    ids::{JobId, MachineId, SiteId},
    keys::{Expect, KeyRing, OpenError},
    report::Report,
    topic::Topic,
};

use super::{
    Refusal, check_clock,
    records::{Keys, Records},
};
use crate::metrics;

/// A report as it came.
#[derive(Clone)]
pub(super) struct Arrived {
    pub(super) site: SiteId,
    pub(super) machine: MachineId,
    pub(super) payload: Bytes,
}

/// A verified report.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The site it came from.
    pub site: SiteId,
    /// Its revision.
    pub revision: u64,
    /// The report.
    pub report: Arc<Report>,
}

impl Opened {
    fn topic(&self) -> Topic {
        Topic::Report(self.site.clone(), self.report.machine)
    }
}

/// Takes reports that arrived together.
pub(super) async fn take(records: &dyn Records, arrived: Vec<Arrived>) {
    let sites: BTreeSet<SiteId> = arrived.iter().map(|report| report.site.clone()).collect();
    let keys = match records.keys(sites).await {
        Ok(keys) => keys,
        Err(failure) => {
            let failure = Refusal::from(failure);
            for report in arrived {
                failure.tell(&Topic::Report(report.site, report.machine));
            }
            return;
        }
    };
    let mut opened = Vec::with_capacity(arrived.len());
    for report in arrived {
        let topic = Topic::Report(report.site.clone(), report.machine);
        match open(records, &keys, &topic, &report) {
            Ok(report) => opened.push(report),
            Err(refusal) => refusal.tell(&topic),
        }
    }
    let opened = newest(opened);
    if let Ok(refused) = records.keep(opened.clone()).await {
        return refuse(refused);
    }
    // One that cannot be stored must not hold up the others.
    for report in opened {
        let topic = report.topic();
        match records.keep(vec![report]).await {
            Ok(refused) => refuse(refused),
            Err(failure) => Refusal::from(failure).tell(&topic),
        }
    }
}

fn refuse(reports: Vec<Opened>) {
    for report in reports {
        let topic = report.topic();
        Refusal::not_its_machine(&topic).tell(&topic);
    }
}

fn open(records: &dyn Records, keys: &Keys, topic: &Topic, arrived: &Arrived) -> Result<Opened, Refusal> {
    let site = arrived.site.clone();
    let key = keys.get(&site).ok_or_else(|| Refusal::NotJoined(site.clone()))?;
    let expect = Expect {
        now: records.now(),
        held: None,
    };
    let report = KeyRing::new([*key]).open::<Report>(topic, &arrived.payload, expect)?;
    check_clock(report.header(), expect.now)?;
    if report.body().machine != arrived.machine {
        let made_for = format!("machine {}", report.body().machine);
        let topic = topic.to_string();
        return Err(OpenError::Misaddressed { topic, made_for }.into());
    }
    metrics::message_accepted("report");
    Ok(Opened {
        site,
        revision: report.header().revision,
        report: Arc::new(report.into_body()),
    })
}

/// Of several reports on one job of a machine only the last word counts; of several jobs each one's.
fn newest(opened: Vec<Opened>) -> Vec<Opened> {
    let mut by_job: BTreeMap<(MachineId, JobId), Opened> = BTreeMap::new();
    for report in opened {
        let key = (report.report.machine, report.report.job);
        match by_job.get(&key) {
            Some(held) if held.revision >= report.revision => {}
            _ => drop(by_job.insert(key, report)),
        }
    }
    let mut newest: Vec<Opened> = by_job.into_values().collect();
    // The job before must end before the one after it is heard of.
    newest.sort_by_key(|report| report.revision);
    newest
}

#[cfg(test)]
mod tests {
    use slipway_protocol::report::Outcome;
    use uuid::Uuid;

    use super::*;

    fn opened(machine: u128, job: u128, revision: u64) -> Opened {
        let report = Report {
            machine: MachineId(Uuid::from_u128(machine)),
            job: JobId(Uuid::from_u128(job)),
            order_revision: 1,
            retry: 0,
            outcome: Outcome::Running,
            steps: Vec::new(),
            disk: None,
            inventory: None,
            agent: None,
            events: Vec::new(),
            hardware_faults: Vec::new(),
            local: Vec::new(),
            bmc: None,
        };
        Opened {
            site: SiteId::new("bj-1").unwrap(),
            revision,
            report: Arc::new(report),
        }
    }

    #[test]
    fn the_last_word_on_each_job_counts_and_the_older_job_comes_first() {
        let all = vec![
            opened(1, 8, 30),
            opened(1, 7, 20),
            opened(2, 9, 5),
            opened(1, 7, 10),
            opened(1, 8, 40),
        ];
        let newest = newest(all);
        let told: Vec<(u128, u64)> = newest
            .iter()
            .map(|o| (o.report.job.0.as_u128(), o.revision))
            .collect();
        assert_eq!(told, [(9, 5), (7, 20), (8, 40)]);
    }
}
