//! Alert rules, what they found, and the mails that tell of it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Database, StoreResult, from_json, micros,
    schema::{alert_rules, alerts},
    time, to_json,
};

/// When a rule holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "is", deny_unknown_fields)]
pub enum Condition {
    /// An object has been in a state for too long.
    StateOlderThan {
        /// `machine`, `instance` or `job`.
        object: StateOf,
        /// The state's word, as in `installing`.
        state: String,
        /// How long is too long.
        seconds: u32,
    },
    /// A site whose edge has joined was not heard for too long.
    SiteOffline {
        /// How long is too long.
        seconds: u32,
    },
    /// An instance's last job failed; over once another one works on it or it is given back.
    JobFailed,
    /// The last event of kind `fault.*` of a machine is not `fault.cleared`.
    MachineFault,
    /// Within the last hour somebody stood for a machine or for a site's box: asked for its boot from elsewhere, fetched its overlay
    /// again, or worked with a copy of the box's identity.
    Impostor,
}

/// Objects whose states rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateOf {
    /// Machines.
    Machine,
    /// Instances.
    Instance,
    /// Jobs.
    Job,
}

impl StateOf {
    /// The word of the objects.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Instance => "instance",
            Self::Job => "job",
        }
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// For people.
    pub name: String,
    /// When it holds.
    pub condition: Condition,
    /// Webhooks that are told, by id.
    pub webhooks: Vec<String>,
    /// Mail addresses that are told.
    pub emails: Vec<String>,
    /// Whether it is looked at.
    pub active: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

type RuleRow = (String, String, String, String, String, bool, i64);

fn rule(row: RuleRow) -> StoreResult<Rule> {
    let (id, name, condition, webhooks, emails, active, created_at) = row;
    Ok(Rule {
        id,
        name,
        condition: from_json(&condition)?,
        webhooks: from_json(&webhooks)?,
        emails: from_json(&emails)?,
        active,
        created_at: time(created_at),
    })
}

/// Adds a rule, or writes what operators set of the one of that id.
///
/// # Errors
/// [`super::StoreError::Taken`] when another has its name.
pub fn put_rule(connection: &mut Database, r: &Rule) -> StoreResult<()> {
    use alert_rules::dsl;
    let change = (
        dsl::name.eq(&r.name),
        dsl::condition.eq(to_json(&r.condition)?),
        dsl::webhooks.eq(to_json(&r.webhooks)?),
        dsl::emails.eq(to_json(&r.emails)?),
        dsl::active.eq(r.active),
    );
    let row = dsl::alert_rules.find(&r.id);
    if diesel::update(row).set(change.clone()).execute(connection)? == 0 {
        let row = (
            dsl::id.eq(&r.id),
            dsl::created_at.eq(micros(r.created_at)),
            change,
        );
        diesel::insert_into(dsl::alert_rules)
            .values(row)
            .execute(connection)?;
    }
    Ok(())
}

/// One rule, by id, else by name.
///
/// # Errors
/// When the database fails.
pub fn get_rule(connection: &mut Database, key: &str) -> StoreResult<Option<Rule>> {
    use alert_rules::dsl;
    let by_id = dsl::alert_rules
        .find(key)
        .first::<RuleRow>(connection)
        .optional()?;
    let row = match by_id {
        Some(row) => Some(row),
        None => dsl::alert_rules
            .filter(dsl::name.eq(key))
            .first::<RuleRow>(connection)
            .optional()?,
    };
    row.map(rule).transpose()
}

/// Up to `limit` rules whose id comes after `after`, oldest first.
///
/// # Errors
/// When the database fails.
pub fn list_rules(connection: &mut Database, after: &str, limit: i64) -> StoreResult<Vec<Rule>> {
    use alert_rules::dsl;
    let rows = dsl::alert_rules
        .filter(dsl::id.gt(after))
        .order(dsl::id)
        .limit(limit)
        .load::<RuleRow>(connection)?;
    rows.into_iter().map(rule).collect()
}

/// Removes a rule with its alerts.
///
/// # Errors
/// When the database fails.
pub fn delete_rule(connection: &mut Database, id: &str) -> StoreResult<bool> {
    Ok(diesel::delete(alert_rules::table.find(id)).execute(connection)? == 1)
}

/// What a rule found: open until it holds no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Alert {
    /// Its id.
    pub id: String,
    /// The rule, by id.
    pub rule: String,
    /// About what: `machine/ID`, `instance/ID`, `job/ID` or `site/ID`.
    pub object: String,
    /// At which site.
    pub site: Option<String>,
    /// For people.
    pub text: String,
    /// Since when.
    pub opened_at: DateTime<Utc>,
    /// Until when; none while it is open.
    pub resolved_at: Option<DateTime<Utc>>,
}

type AlertRow = (String, String, String, Option<String>, String, i64, Option<i64>);

fn alert(row: AlertRow) -> Alert {
    let (id, rule, object, site, text, opened_at, resolved_at) = row;
    Alert {
        id,
        rule,
        object,
        site,
        text,
        opened_at: time(opened_at),
        resolved_at: resolved_at.map(time),
    }
}

/// Opens an alert.
///
/// # Errors
/// [`super::StoreError::Taken`] when its rule has an open one about the same object.
pub fn open(connection: &mut Database, a: &Alert) -> StoreResult<()> {
    use alerts::dsl;
    let row = (
        dsl::id.eq(&a.id),
        dsl::rule.eq(&a.rule),
        dsl::object.eq(&a.object),
        dsl::site.eq(&a.site),
        dsl::text.eq(&a.text),
        dsl::opened_at.eq(micros(a.opened_at)),
    );
    diesel::insert_into(dsl::alerts).values(row).execute(connection)?;
    Ok(())
}

/// Resolves an alert; `false` if it was resolved before.
///
/// # Errors
/// When the database fails.
pub fn resolve(connection: &mut Database, id: &str, now: DateTime<Utc>) -> StoreResult<bool> {
    use alerts::dsl;
    let row = dsl::alerts.find(id).filter(dsl::resolved_at.is_null());
    let change = dsl::resolved_at.eq(Some(micros(now)));
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// How many alerts are open.
///
/// # Errors
/// When the database fails.
pub fn count_open(connection: &mut Database) -> StoreResult<i64> {
    let open = alerts::table.filter(alerts::resolved_at.is_null());
    Ok(open.count().get_result(connection)?)
}

/// Which alerts.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Open ones, or resolved ones.
    pub open: Option<bool>,
    /// Of one rule, by id.
    pub rule: Option<String>,
    /// At one site.
    pub site: Option<String>,
    /// At these sites, the ones the caller may see; `None` is all.
    pub visible_sites: Option<BTreeSet<String>>,
}

/// Up to `limit` alerts whose id comes before `before` (all with an empty one), newest first.
///
/// # Errors
/// When the database fails.
pub fn list(connection: &mut Database, filter: &Filter, before: &str, limit: i64) -> StoreResult<Vec<Alert>> {
    use alerts::dsl;
    let mut query = dsl::alerts.order(dsl::id.desc()).limit(limit).into_boxed();
    if !before.is_empty() {
        query = query.filter(dsl::id.lt(before.to_owned()));
    }
    match filter.open {
        Some(true) => query = query.filter(dsl::resolved_at.is_null()),
        Some(false) => query = query.filter(dsl::resolved_at.is_not_null()),
        None => {}
    }
    if let Some(rule) = &filter.rule {
        query = query.filter(dsl::rule.eq(rule));
    }
    if let Some(site) = &filter.site {
        query = query.filter(dsl::site.eq(site));
    }
    if let Some(sites) = &filter.visible_sites {
        query = query.filter(dsl::site.eq_any(sites.iter()));
    }
    let rows = query.load::<AlertRow>(connection)?;
    Ok(rows.into_iter().map(alert).collect())
}
