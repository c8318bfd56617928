//! Where each machine stands, by its edge's word; and the last word on each job.

use diesel::prelude::*;
use slipway_protocol::{
    ids::{JobId, MachineId, SiteId},
    report::Report,
};

use super::{
    Database, StoreResult, from_json, parse,
    schema::{job_reports, reports},
    to_json,
};

/// A report was news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The last report on the same job before it.
    pub former: Option<Report>,
}

/// Keeps a report if it is newer than the one held; nothing otherwise. Any replica may do this with any report.
///
/// # Errors
/// When the database fails.
pub fn put(
    connection: &mut Database,
    site: &SiteId,
    revision: u64,
    report: &Report,
) -> StoreResult<Option<News>> {
    use reports::dsl;
    let (machine, job, body) = (
        report.machine.to_string(),
        report.job.to_string(),
        to_json(report)?,
    );
    let revision = revision.cast_signed();
    let change = (
        dsl::site.eq(site.as_str()),
        dsl::job.eq(&job),
        dsl::revision.eq(revision),
        dsl::body.eq(&body),
    );
    let older = dsl::reports.find(&machine).filter(dsl::revision.lt(revision));
    if diesel::update(older).set(change).execute(connection)? == 0 {
        let held: Option<i64> = dsl::reports
            .find(&machine)
            .select(dsl::revision)
            .first(connection)
            .optional()?;
        if held.is_some() {
            return Ok(None);
        }
        diesel::insert_into(dsl::reports)
            .values((dsl::machine.eq(&machine), change))
            .execute(connection)?;
    }
    // Read under the lock of the machine's row: another replica's report is either before this one, and read here, or
    // it was refused.
    let former = of_job(connection, report.job)?.map(|(_, report)| report);
    put_for_job(connection, &job, revision, &body)?;
    Ok(Some(News { former }))
}

fn put_for_job(connection: &mut Database, job: &str, revision: i64, body: &str) -> StoreResult<()> {
    use job_reports::dsl;
    let change = (dsl::revision.eq(revision), dsl::body.eq(body));
    if diesel::update(dsl::job_reports.find(job))
        .set(change)
        .execute(connection)?
        == 0
    {
        diesel::insert_into(dsl::job_reports)
            .values((dsl::job.eq(job), change))
            .execute(connection)?;
    }
    Ok(())
}

/// The last report on a job, with its revision.
///
/// # Errors
/// When the database fails.
pub fn of_job(connection: &mut Database, job: JobId) -> StoreResult<Option<(u64, Report)>> {
    use job_reports::dsl;
    let row: Option<(i64, String)> = dsl::job_reports
        .find(job.to_string())
        .select((dsl::revision, dsl::body))
        .first(connection)
        .optional()?;
    row.map(|(revision, body)| Ok((revision.cast_unsigned(), from_json(&body)?)))
        .transpose()
}

/// A machine's last report, with its revision.
///
/// # Errors
/// When the database fails.
pub fn of_machine(connection: &mut Database, machine: MachineId) -> StoreResult<Option<(u64, Report)>> {
    use reports::dsl;
    let row: Option<(i64, String)> = dsl::reports
        .find(machine.to_string())
        .select((dsl::revision, dsl::body))
        .first(connection)
        .optional()?;
    row.map(|(revision, body)| Ok((revision.cast_unsigned(), from_json(&body)?)))
        .transpose()
}

/// The site that a machine's last report came from.
///
/// # Errors
/// When the database fails.
pub fn site_of(connection: &mut Database, machine: MachineId) -> StoreResult<Option<SiteId>> {
    use reports::dsl;
    let site: Option<String> = dsl::reports
        .find(machine.to_string())
        .select(dsl::site)
        .first(connection)
        .optional()?;
    site.map(|site| parse(&site)).transpose()
}

/// The revisions held of a site's reports, by machine.
///
/// # Errors
/// When the database fails.
pub fn revisions(connection: &mut Database, site: &SiteId) -> StoreResult<Vec<(String, u64)>> {
    use reports::dsl;
    let rows: Vec<(String, i64)> = dsl::reports
        .filter(dsl::site.eq(site.as_str()))
        .select((dsl::machine, dsl::revision))
        .load(connection)?;
    Ok(rows
        .into_iter()
        .map(|(machine, revision)| (machine, revision.cast_unsigned()))
        .collect())
}
