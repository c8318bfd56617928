//! Two boxes with one identity: a copy of an edge's data beside the original. Each start of an edge is a run with an id of its
//! own; a run that was followed by another one and still lives is the proof that there are two. Then the one that was there
//! first goes on, the other one stands by until somebody starts it again, and it is told once. Decided by a pure function.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use slipway_protocol::{
    ids::{EdgeRunId, SiteId},
    sync::Hello,
};

use crate::{
    app::App,
    error::ApiError,
    store::{
        edge_runs,
        events::{self, NewEvent},
    },
    vault,
};

/// How many former runs, and runs that stand by, are remembered.
const REMEMBERED: usize = 16;
/// How long a run that follows another one is not told to go on: the other one, if it lives, connects again within it.
const DOUBT: TimeDelta = TimeDelta::seconds(3);

/// The runs of a site's edge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRuns {
    /// The one that works, and since when it is known.
    pub current: Option<(EdgeRunId, DateTime<Utc>)>,
    /// Those before it, the newest last.
    pub former: Vec<EdgeRunId>,
    /// Those that are not to work, the newest last.
    pub standing_by: Vec<EdgeRunId>,
    /// What a former run was asked to give back.
    pub challenge: Option<(EdgeRunId, String)>,
}

/// What a run is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunStanding {
    /// It works; `in_doubt`, it has just followed another one, and is not told yet that it may go on.
    Works {
        /// Whether the former one may still live.
        in_doubt: bool,
    },
    /// It is to prove that it lives.
    Prove {
        /// What it is to give back.
        challenge: String,
    },
    /// It is not to work.
    StandsBy,
}

/// Judges a hello of run `run` that gives back `proof`: the runs after it, what it is told, and whether a copy was found just now.
/// `fresh` is a random text. Pure.
#[must_use]
pub fn judge(
    mut runs: EdgeRuns,
    (run, proof): (EdgeRunId, Option<&str>),
    fresh: &str,
    now: DateTime<Utc>,
) -> (EdgeRuns, RunStanding, bool) {
    let works = RunStanding::Works { in_doubt: false };
    match runs.current {
        _ if runs.standing_by.contains(&run) => (runs, RunStanding::StandsBy, false),
        Some((current, since)) if current == run => {
            // A clock that was set back makes nobody wait for long.
            let young = (since..since + DOUBT).contains(&now);
            let in_doubt = young && !runs.former.is_empty();
            (runs, RunStanding::Works { in_doubt }, false)
        }
        Some((current, _)) if runs.former.contains(&run) => {
            let asked = runs.challenge.as_ref().filter(|(asked, _)| *asked == run);
            let proven = asked.is_some_and(|(_, challenge)| proof == Some(challenge));
            if !proven {
                let challenge = asked.map_or_else(|| fresh.to_owned(), |(_, challenge)| challenge.clone());
                runs.challenge = Some((run, challenge.clone()));
                return (runs, RunStanding::Prove { challenge }, false);
            }
            runs.former.retain(|former| *former != run);
            remember(&mut runs.standing_by, current);
            runs.current = Some((run, now));
            runs.challenge = None;
            (runs, works, true)
        }
        former => {
            let in_doubt = former.is_some();
            if let Some((former, _)) = former {
                remember(&mut runs.former, former);
            }
            runs.current = Some((run, now));
            (runs, RunStanding::Works { in_doubt }, false)
        }
    }
}

fn remember(list: &mut Vec<EdgeRunId>, run: EdgeRunId) {
    if list.len() >= REMEMBERED {
        list.remove(0);
    }
    list.push(run);
}

/// Judges a hello, keeps what follows from it, and tells of a copy that it shows.
///
/// # Errors
/// When the store or the random source fails.
pub async fn heard(app: &App, site: &SiteId, hello: &Hello) -> Result<RunStanding, ApiError> {
    let Some(run) = hello.run else {
        return Ok(RunStanding::Works { in_doubt: false });
    };
    let (now, proof) = ((app.now)(), hello.proof.clone());
    let fresh = hex::encode(vault::random::<16>()?);
    let id = site.clone();
    let held = app.store.read(move |db| edge_runs::get(db, &id)).await?;
    // Nearly each hello says nothing new: nobody waits for the right to write then.
    let (after, standing, _) = judge(held.clone(), (run, proof.as_deref()), &fresh, now);
    if after == held {
        return Ok(standing);
    }
    let id = site.clone();
    let kept = app.store.transaction(move |db| {
        let held = edge_runs::get(db, &id)?;
        let (after, standing, copied) = judge(held, (run, proof.as_deref()), &fresh, now);
        edge_runs::put(db, &id, &after)?;
        if copied {
            let other = after.standing_by.last().copied();
            let text = "two boxes have this site's identity: the one that was there first goes on, the other one stands by; \
                        switch one of them off, then start the other one again, or join one of them to a site of its own";
            let data = json!({ "works": run, "stands_by": other });
            let event = NewEvent::new("site.edge_copied", now).site(&id);
            events::append(db, &event.text(text).data(data))?;
        }
        Ok::<_, ApiError>(standing)
    });
    kept.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const fn run(n: u128) -> EdgeRunId {
        EdgeRunId(Uuid::from_u128(n))
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    /// Hellos one after the other: who says one, what it gives back, and when.
    fn told(hellos: &[(u128, Option<&str>, i64)]) -> Vec<(RunStanding, bool)> {
        let mut runs = EdgeRuns::default();
        let mut answers = Vec::new();
        for (n, proof, second) in hellos {
            let fresh = format!("fresh {second}");
            let (after, standing, copied) = judge(runs, (run(*n), *proof), &fresh, at(*second));
            runs = after;
            answers.push((standing, copied));
        }
        answers
    }

    fn works(in_doubt: bool) -> (RunStanding, bool) {
        (RunStanding::Works { in_doubt }, false)
    }

    fn prove(challenge: &str) -> (RunStanding, bool) {
        let challenge = challenge.to_owned();
        (RunStanding::Prove { challenge }, false)
    }

    #[test]
    fn a_restart_is_no_copy_and_waits_for_a_moment() {
        let answers = told(&[
            (1, None, 0),
            (1, None, 1),
            (2, None, 10),
            (2, None, 12),
            (2, None, 13),
        ]);
        assert_eq!(
            answers,
            [works(false), works(false), works(true), works(true), works(false)]
        );
    }

    #[test]
    fn late_messages_of_a_former_run_show_no_copy() {
        let answers = told(&[
            (1, None, 0),
            (2, None, 10),
            (1, None, 11),
            (1, None, 12),
            (2, None, 14),
        ]);
        assert_eq!(
            answers,
            [
                works(false),
                works(true),
                prove("fresh 11"),
                prove("fresh 11"),
                works(false)
            ]
        );
    }

    #[test]
    fn of_two_that_live_the_first_works_and_it_is_told_once() {
        let stands_by = (RunStanding::StandsBy, false);
        let answers = told(&[
            (1, None, 0),
            (2, None, 10),
            (1, None, 11),
            (1, Some("a guess"), 11),
            (1, Some("fresh 11"), 12),
            (2, None, 13),
            (1, None, 14),
            (2, Some("fresh 11"), 15),
        ]);
        assert_eq!(answers[3], prove("fresh 11"));
        assert_eq!(answers[4], (RunStanding::Works { in_doubt: false }, true));
        assert_eq!(answers[5], stands_by);
        assert_eq!(answers[6], works(false));
        assert_eq!(answers[7], stands_by);
        assert_eq!(answers.iter().filter(|(_, copied)| *copied).count(), 1);
    }

    #[test]
    fn a_copy_that_is_started_again_works_if_the_first_is_gone() {
        let answers = told(&[
            (1, None, 0),
            (2, None, 10),
            (1, None, 11),
            (1, Some("fresh 11"), 12),
            (3, None, 100),
            (3, None, 104),
        ]);
        assert_eq!(answers[4..], [works(true), works(false)]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut runs = EdgeRuns::default();
        for n in 0..100 {
            runs = judge(runs, (run(n), None), "x", at(0)).0;
        }
        assert_eq!(runs.former.len(), REMEMBERED);
        assert_eq!(runs.former.last(), Some(&run(98)));
    }
}
