//! Alert rules, and what they find. A rule is looked at as a level: what holds now is compared with what is open, so an
//! alert opens once, resolves by itself, and nothing is missed by a replica that was down.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::names;
use crate::{
    access::Caller,
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult,
        alerts::{self, Alert, Condition, Filter, Rule, StateOf},
        audit::{self, Change},
        events::{self, NewEvent},
        instances, jobs, leases,
        mails::{self, Mail},
        sites, states, webhooks,
    },
    workflow::state::{InstanceState, JobState, MachineState},
};

/// For how long a replica that looks at the rules has them to itself.
const LEASE: TimeDelta = TimeDelta::seconds(30);

/// A connected edge says hello every 30 s; one that is silent for three of them is not called offline sooner.
const HELLOS: TimeDelta = TimeDelta::seconds(90);

/// Most failed instances and sites looked at.
const MOST: i64 = 10_000;

/// Checks a rule and keeps it, as a new one or in place of the one of its id.
///
/// # Errors
/// When it makes no sense here, or its name is taken.
pub async fn put(app: &App, caller: &Caller, rule: Rule) -> Result<Rule, ApiError> {
    check(app, &rule)?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    let kept = app.store.transaction(move |db| {
        for id in &rule.webhooks {
            webhooks::get(db, id)?.ok_or_else(|| ApiError::NotFound("webhook", id.clone()))?;
        }
        let namesake = alerts::get_rule(db, &rule.name)?.is_some_and(|other| other.id != rule.id);
        if namesake {
            let detail = format!("there is an alert rule `{}` already", rule.name);
            return Err(ApiError::Conflict("taken", detail));
        }
        let before = alerts::get_rule(db, &rule.id)?.map(|former| json!(former));
        alerts::put_rule(db, &rule)?;
        audit::done(
            db,
            &by,
            now,
            Change::new(
                "alertrule.put",
                format!("alert-rule/{}", rule.name),
                before,
                Some(json!(rule)),
            ),
        )?;
        Ok(rule)
    });
    kept.await
}

fn check(app: &App, rule: &Rule) -> Result<(), ApiError> {
    if rule.name.is_empty() || rule.name.len() > 100 || rule.name.chars().any(char::is_control) {
        return Err(ApiError::Bad(
            "name",
            "a rule's name is 1 to 100 bytes of one line".to_owned(),
        ));
    }
    names::check_is_no_id(&rule.name)?;
    for address in &rule.emails {
        let parsed: Result<lettre::Address, _> = address.parse();
        parsed.map_err(|_| ApiError::Bad("email", format!("`{address}` is not a mail address")))?;
    }
    if !rule.emails.is_empty() && app.config.smtp.is_none() {
        let detail = "no mail server is set: start the control plane with SLIPWAY_SMTP, or use webhooks";
        return Err(ApiError::Bad("no_smtp", detail.to_owned()));
    }
    if let Condition::StateOlderThan { object, state, .. } = &rule.condition
        && !is_state(*object, state)
    {
        let detail = format!("`{state}` is not a state of a {}", object.word());
        return Err(ApiError::Bad("state", detail));
    }
    Ok(())
}

fn is_state(object: StateOf, word: &str) -> bool {
    let word = serde_json::Value::from(word);
    match object {
        StateOf::Machine => serde_json::from_value::<MachineState>(word).is_ok(),
        StateOf::Instance => serde_json::from_value::<InstanceState>(word).is_ok(),
        StateOf::Job => serde_json::from_value::<JobState>(word).is_ok(),
    }
}

/// A new rule's id.
#[must_use]
pub fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// One rule, by id or name.
///
/// # Errors
/// When there is none.
pub async fn get(app: &App, key: String) -> Result<Rule, ApiError> {
    app.store
        .transaction(move |db| {
            alerts::get_rule(db, &key)?.ok_or_else(|| ApiError::NotFound("alert rule", key))
        })
        .await
}

/// Removes a rule with its alerts; nobody is told that those are over.
///
/// # Errors
/// When there is none.
pub async fn delete(app: &App, caller: &Caller, key: String) -> Result<(), ApiError> {
    let rule = get(app, key).await?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    let deleted = app.store.transaction(move |db| {
        alerts::delete_rule(db, &rule.id)?;
        audit::done(
            db,
            &by,
            now,
            Change::new(
                "alertrule.delete",
                format!("alert-rule/{}", rule.name),
                Some(json!(rule)),
                None,
            ),
        )
    });
    Ok(deleted.await?)
}

/// Looks at all rules, opens and resolves alerts, and notes who is to be told; `false` if another replica does so.
///
/// # Errors
/// When the store fails.
pub fn evaluate(db: &mut Database, holder: &str, now: DateTime<Utc>) -> StoreResult<bool> {
    if !leases::claim(db, "alerts", holder, now, now + LEASE)? {
        return Ok(false);
    }
    for rule in alerts::list_rules(db, "", i64::MAX)? {
        let holds = if rule.active {
            holding(db, &rule.condition, now)?
        } else {
            BTreeMap::new()
        };
        let filter = Filter {
            open: Some(true),
            rule: Some(rule.id.clone()),
            ..Filter::default()
        };
        let open = alerts::list(db, &filter, "", i64::MAX)?;
        for alert in open.iter().filter(|alert| !holds.contains_key(&alert.object)) {
            if alerts::resolve(db, &alert.id, now)? {
                tell(db, &rule, alert, now, News::Resolved)?;
            }
        }
        let known: BTreeSet<&String> = open.iter().map(|alert| &alert.object).collect();
        for (object, found) in holds.iter().filter(|(object, _)| !known.contains(object)) {
            let alert = Alert {
                id: new_id(),
                rule: rule.id.clone(),
                object: object.clone(),
                site: found.site.clone(),
                text: found.text.clone(),
                opened_at: now,
                resolved_at: None,
            };
            alerts::open(db, &alert)?;
            tell(db, &rule, &alert, now, News::Opened)?;
        }
    }
    Ok(true)
}

/// What holds of one object.
struct Found {
    site: Option<String>,
    text: String,
}

type Holding = BTreeMap<String, Found>;

fn holding(db: &mut Database, condition: &Condition, now: DateTime<Utc>) -> StoreResult<Holding> {
    match condition {
        Condition::StateOlderThan {
            object,
            state,
            seconds,
        } => in_state_too_long(
            db,
            object.word(),
            state,
            now - TimeDelta::seconds((*seconds).into()),
        ),
        Condition::SiteOffline { seconds } => silent_sites(db, TimeDelta::seconds((*seconds).into()), now),
        Condition::JobFailed => failed_jobs(db),
        Condition::MachineFault => faulty_machines(db),
        Condition::Impostor => impostors(db, now),
    }
}

fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn in_state_too_long(
    db: &mut Database,
    object: &str,
    state: &str,
    before: DateTime<Utc>,
) -> StoreResult<Holding> {
    let mut found = Holding::new();
    for (id, since) in states::older_than(db, object, state, before)? {
        // The object's own row has the last word.
        let live = states::live(db, object, &id)?.filter(|(word, ..)| word == state);
        if let Some((_, name, site)) = live {
            let text = format!("{object} {name} at {site} is {state} since {}", stamp(since));
            found.insert(
                format!("{object}/{id}"),
                Found {
                    site: Some(site),
                    text,
                },
            );
        }
    }
    Ok(found)
}

fn silent_sites(db: &mut Database, longest: TimeDelta, now: DateTime<Utc>) -> StoreResult<Holding> {
    let mut found = Holding::new();
    for site in sites::list(db, "", MOST)? {
        let longest = if site.online { longest.max(HELLOS) } else { longest };
        let Some(seen) = site.last_seen.filter(|seen| now - *seen >= longest) else {
            continue;
        };
        let text = format!("site {} was last heard at {}", site.id, stamp(seen));
        let site = site.id.to_string();
        found.insert(
            format!("site/{site}"),
            Found {
                site: Some(site),
                text,
            },
        );
    }
    Ok(found)
}

fn failed_jobs(db: &mut Database) -> StoreResult<Holding> {
    let mut found = Holding::new();
    for instance in instances::in_state(db, InstanceState::Failed, None, MOST)? {
        let job = jobs::get(db, &instance.job.to_string())?;
        let Some(job) = job.filter(|job| job.state == JobState::Failed) else {
            continue;
        };
        let why = job
            .failure
            .map_or_else(String::new, |f| format!(": {} ({})", f.message, f.code));
        let text = format!(
            "job {} of instance {} at {} failed{why}",
            job.id, instance.name, job.site
        );
        let site = Some(instance.site.to_string());
        found.insert(format!("instance/{}", instance.id), Found { site, text });
    }
    Ok(found)
}

fn faulty_machines(db: &mut Database) -> StoreResult<Holding> {
    let mut found = Holding::new();
    for event in events::last_of_machines(db, "fault")? {
        let Some(id) = event.machine.filter(|_| event.kind != events::FAULT_CLEARED) else {
            continue;
        };
        if let Some((_, name, site)) = states::live(db, "machine", &id)? {
            let text = format!("machine {name} at {site}: {} ({})", event.text, event.kind);
            found.insert(
                format!("machine/{id}"),
                Found {
                    site: Some(site),
                    text,
                },
            );
        }
    }
    Ok(found)
}

/// Kinds of events by which an edge or the gateway says that somebody stood for another.
const IMPOSTORS: [&str; 4] = [
    "http.not_the_machine",
    "http.overlay_again",
    "http.agent_at_work",
    "site.edge_copied",
];
/// For how long after such an event its alert is open.
const IMPOSTOR_FOR: TimeDelta = TimeDelta::hours(1);

fn impostors(db: &mut Database, now: DateTime<Utc>) -> StoreResult<Holding> {
    let mut found = Holding::new();
    for event in events::since(db, &IMPOSTORS, now - IMPOSTOR_FOR, MOST)? {
        let object = match (&event.machine, &event.site) {
            (Some(machine), _) => format!("machine/{machine}"),
            (None, Some(site)) => format!("site/{site}"),
            (None, None) => continue,
        };
        let named = match &event.machine {
            Some(id) => {
                states::live(db, "machine", id)?.map(|(_, name, site)| format!("machine {name} at {site}"))
            }
            None => event.site.as_ref().map(|site| format!("site {site}")),
        };
        let Some(named) = named else {
            continue;
        };
        let text = format!("{named}: {} ({})", event.text, event.kind);
        let site = event.site;
        // The newest of an object comes first.
        found.entry(object).or_insert(Found { site, text });
    }
    Ok(found)
}

/// What is told of an alert.
#[derive(Clone, Copy, PartialEq, Eq)]
enum News {
    Opened,
    Resolved,
}

/// Tells of an alert in the stream, by which it reaches the rule's webhooks, and by mail.
fn tell(db: &mut Database, rule: &Rule, alert: &Alert, now: DateTime<Utc>, news: News) -> StoreResult<()> {
    let (kind, word) = match news {
        News::Opened => ("alert.opened", "Alert"),
        News::Resolved => ("alert.resolved", "Resolved"),
    };
    let data = json!({ "alert": alert.id, "rule": rule.id, "name": rule.name, "object": alert.object,
        "opened_at": alert.opened_at, "webhooks": rule.webhooks });
    let mut event = NewEvent::new(kind, now).text(&alert.text).data(data);
    if let Some((object, id)) = alert.object.split_once('/') {
        event = event.about(object, id);
    }
    if let Some(site) = &alert.site {
        event = event.about("site", site);
    }
    events::append(db, &event)?;
    for recipient in &rule.emails {
        let subject = format!("[Slipway] {word}: {}", rule.name);
        let over = match news {
            News::Opened => String::new(),
            News::Resolved => format!("\nover since {}", stamp(now)),
        };
        let body = format!(
            "{}\n\nopened at {}{over}\nobject {}\n",
            alert.text,
            stamp(alert.opened_at),
            alert.object
        );
        let mail = Mail {
            id: Uuid::now_v7().to_string(),
            recipient: recipient.clone(),
            subject,
            body,
            attempts: 0,
            created_at: now,
        };
        mails::insert(db, &mail)?;
    }
    Ok(())
}
