//! Logs of jobs in: those that arrive together are verified by the keys of their sites, and stored in one transaction. A log
//! may have gaps: what cannot be stored now is asked for when the edge says hello, or is lost.

use std::collections::BTreeSet;

use slipway_protocol::{
    ids::SiteId,
    keys::{Expect, KeyRing},
    report::LogChunk,
    topic::Topic,
};

use super::{
    Refusal, check_clock,
    intake::Arrived,
    records::{Keys, Records},
};
use crate::{domain::job_logs, metrics};

fn topic(arrived: &Arrived) -> Topic {
    Topic::Log(arrived.site.clone(), arrived.machine)
}

/// Takes chunks that arrived together.
pub(super) async fn take(records: &dyn Records, arrived: Vec<Arrived>) {
    let sites: BTreeSet<SiteId> = arrived.iter().map(|chunk| chunk.site.clone()).collect();
    let keys = match records.keys(sites).await {
        Ok(keys) => keys,
        Err(failure) => {
            let failure = Refusal::from(failure);
            arrived.iter().for_each(|chunk| failure.tell(&topic(chunk)));
            return;
        }
    };
    let mut opened = Vec::with_capacity(arrived.len());
    for chunk in arrived {
        match open(records, &keys, &chunk) {
            Ok(chunk) => opened.push(chunk),
            Err(refusal) => refusal.tell(&topic(&chunk)),
        }
    }
    let Some(first) = opened.first() else { return };
    let first = Topic::Log(first.site.clone(), first.machine);
    match records.keep_logs(opened).await {
        Ok(refused) => {
            for chunk in refused {
                let topic = Topic::Log(chunk.site, chunk.machine);
                Refusal::NotItsJob(chunk.chunk.job).tell(&topic);
            }
        }
        Err(failure) => Refusal::from(failure).tell(&first),
    }
}

fn open(records: &dyn Records, keys: &Keys, arrived: &Arrived) -> Result<job_logs::Arrived, Refusal> {
    let site = arrived.site.clone();
    let key = keys.get(&site).ok_or_else(|| Refusal::NotJoined(site.clone()))?;
    let expect = Expect {
        now: records.now(),
        held: None,
    };
    let chunk = KeyRing::new([*key]).open::<LogChunk>(&topic(arrived), &arrived.payload, expect)?;
    check_clock(chunk.header(), expect.now)?;
    metrics::message_accepted("log");
    Ok(job_logs::Arrived {
        site,
        machine: arrived.machine,
        chunk: chunk.into_body(),
    })
}
