//! What was installed on a machine last, and on which of its disks. Reads only.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::inventory::Disk;

use super::{
    Database, StoreResult,
    machines::Machine,
    parse, reports,
    schema::{images, instances, jobs},
    time,
};

/// How many installs on a machine are looked at for one that had chosen a disk.
const MOST: i64 = 20;

/// An install that had chosen its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastInstall {
    /// The job.
    pub job: String,
    /// How it stands; one that failed may have written a part.
    pub state: String,
    /// When it was asked for.
    pub at: DateTime<Utc>,
    /// The project of the instance.
    pub project: String,
    /// The instance's name.
    pub instance: String,
    /// Its image's name.
    pub image: Option<String>,
    /// The disk.
    pub disk: Disk,
}

/// A job: id, state, when it was made, the instance's project and name, and its image.
type Row = (String, String, i64, (String, String), String);

/// The last install on a machine that had chosen its disk.
///
/// # Errors
/// When the database fails.
pub fn on(db: &mut Database, machine: &Machine) -> StoreResult<Option<LastInstall>> {
    let of = instances::id.nullable().eq(jobs::instance.nullable());
    let rows: Vec<Row> = jobs::table
        .inner_join(instances::table.on(of))
        .filter(jobs::site.eq(machine.site.as_str()))
        .filter(jobs::machine.eq(machine.id.to_string()))
        .filter(jobs::kind.eq_any(["install", "reinstall"]))
        .order(jobs::id.desc())
        .limit(MOST)
        .select((
            jobs::id,
            jobs::state,
            jobs::created_at,
            (instances::project, instances::name),
            instances::image,
        ))
        .load(db)?;
    for (job, state, at, (project, instance), image) in rows {
        let report = reports::of_job(db, parse(&job)?)?;
        let Some(disk) = report.and_then(|(_, report)| report.disk) else {
            continue;
        };
        let image = images::table.find(image).select(images::name).first(db);
        return Ok(Some(LastInstall {
            job,
            state,
            at: time(at),
            project,
            instance,
            image: image.optional()?,
            disk,
        }));
    }
    Ok(None)
}
