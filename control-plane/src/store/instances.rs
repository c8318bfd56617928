//! Instances: what tenants asked for.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    ids::{ImageId, InstanceId, JobId, MachineId, SiteId},
    inventory::DiskRule,
};

use super::{
    Database, StoreResult, from_json, from_word, micros, parse, schema::instances, time, to_json, to_word,
};
use crate::{
    access::{Target, Visible},
    workflow::state::InstanceState,
};

/// What a tenant asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// A machine by name, or any.
    pub machine: Option<MachineId>,
    /// A machine of this type.
    #[serde(default)]
    pub machine_type: Option<String>,
    /// A machine with these labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Which disk.
    pub disk: DiskRule,
    /// The user to make.
    pub user: String,
    /// Its public keys.
    pub ssh_keys: Vec<String>,
    /// Tenant's user-data, encrypted.
    pub user_data: Option<String>,
}

/// An instance.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its name; the host name.
    pub name: String,
    /// Where.
    pub site: SiteId,
    /// On which machine, once chosen.
    pub machine: Option<MachineId>,
    /// Its image.
    pub image: ImageId,
    /// Its state.
    pub state: InstanceState,
    /// Its last job.
    pub job: JobId,
    /// What was asked for.
    pub wish: Wish,
    /// When.
    pub created_at: DateTime<Utc>,
    /// The project it is in.
    pub project: String,
    /// Whether it is locked against change.
    pub locked: bool,
}

pub(super) type Row = (
    String,
    String,
    String,
    Option<String>,
    String,
    String,
    String,
    String,
    i64,
    String,
    bool,
    Option<String>,
);

pub(super) fn from_row(row: Row) -> StoreResult<Instance> {
    let (id, name, site, machine, image, state, job, wish, created_at, project, locked, _) = row;
    Ok(Instance {
        id: parse(&id)?,
        name,
        site: parse(&site)?,
        machine: machine.map(|m| parse(&m)).transpose()?,
        image: parse(&image)?,
        state: from_word(&state)?,
        job: parse(&job)?,
        wish: from_json(&wish)?,
        created_at: time(created_at),
        project,
        locked,
    })
}

/// Adds an instance.
///
/// # Errors
/// When the database fails.
pub fn insert(connection: &mut Database, i: &Instance) -> StoreResult<()> {
    use instances::dsl;
    let row = (
        dsl::id.eq(i.id.to_string()),
        dsl::name.eq(&i.name),
        dsl::site.eq(i.site.as_str()),
        dsl::machine.eq(i.machine.map(|m| m.to_string())),
        dsl::image.eq(i.image.to_string()),
        dsl::state.eq(to_word(&i.state)?),
        dsl::job.eq(i.job.to_string()),
        dsl::wish.eq(to_json(&i.wish)?),
        dsl::created_at.eq(micros(i.created_at)),
        dsl::project.eq(&i.project),
        dsl::machine_type.eq(&i.wish.machine_type),
    );
    diesel::insert_into(dsl::instances)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// The name of an instance that waits for a machine of a type.
///
/// # Errors
/// When the database fails.
pub fn waiting_for_type(connection: &mut Database, machine_type: &str) -> StoreResult<Option<String>> {
    use instances::dsl;
    let waiting: Vec<(String, String)> = dsl::instances
        .filter(dsl::machine_type.eq(machine_type))
        .filter(dsl::machine.is_null())
        .filter(dsl::state.eq(to_word(&InstanceState::Requested)?))
        .select((dsl::name, dsl::wish))
        .load(connection)?;
    for (name, wish) in waiting {
        // One that names its machine is counted under the type and does not ask for it.
        if from_json::<Wish>(&wish)?.machine_type.is_some() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// One instance by its id.
///
/// # Errors
/// When the database fails.
pub fn by_id(connection: &mut Database, id: InstanceId) -> StoreResult<Option<Instance>> {
    let row = instances::table.find(id.to_string()).first::<Row>(connection);
    row.optional()?.map(from_row).transpose()
}

/// One instance among those that may be seen: by id, or the newest of that name that is not released.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, id_or_name: &str, visible: &Visible) -> StoreResult<Option<Instance>> {
    use instances::dsl;
    let by_id = dsl::instances
        .find(id_or_name)
        .first::<Row>(connection)
        .optional()?;
    let seen = |i: &Instance| {
        visible.has(Target {
            site: Some(i.site.as_str()),
            project: Some(&i.project),
        })
    };
    if let Some(row) = by_id {
        return Ok(Some(from_row(row)?).filter(seen));
    }
    let released = to_word(&InstanceState::Released)?;
    let by_name = dsl::instances
        .filter(dsl::name.eq(id_or_name))
        .filter(dsl::state.ne(released));
    let rows = by_name.order(dsl::created_at.desc()).load::<Row>(connection)?;
    for row in rows {
        let found = from_row(row)?;
        if seen(&found) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether a project has an instance of that name that is not released.
///
/// # Errors
/// When the database fails.
pub fn name_taken(connection: &mut Database, project: &str, name: &str) -> StoreResult<bool> {
    use instances::dsl;
    let rows = dsl::instances
        .filter(dsl::project.eq(project))
        .filter(dsl::name.eq(name))
        .filter(dsl::state.ne(to_word(&InstanceState::Released)?));
    Ok(rows.count().get_result::<i64>(connection)? > 0)
}

/// Where a list that is read page by page goes on: after this time and id.
pub type Cursor = Option<(DateTime<Utc>, InstanceId)>;

/// Up to `limit` instances in a state that come after `after`, oldest first.
///
/// # Errors
/// When the database fails.
pub fn in_state(
    connection: &mut Database,
    state: InstanceState,
    after: Cursor,
    limit: i64,
) -> StoreResult<Vec<Instance>> {
    use instances::dsl;
    let mut query = dsl::instances
        .filter(dsl::state.eq(to_word(&state)?))
        .order((dsl::created_at, dsl::id))
        .limit(limit)
        .into_boxed();
    if let Some((at, id)) = after {
        let same_time = dsl::created_at.eq(micros(at)).and(dsl::id.gt(id.to_string()));
        query = query.filter(dsl::created_at.gt(micros(at)).or(same_time));
    }
    let rows = query.load::<Row>(connection)?;
    rows.into_iter().map(from_row).collect()
}

/// Whether an instance that is not released uses an image.
///
/// # Errors
/// When the database fails.
pub fn uses_image(connection: &mut Database, image: ImageId) -> StoreResult<bool> {
    use instances::dsl;
    let users = dsl::instances
        .filter(dsl::image.eq(image.to_string()))
        .filter(dsl::state.ne(to_word(&InstanceState::Released)?));
    Ok(users.count().get_result::<i64>(connection)? > 0)
}

/// Counts an instance, until it has a machine, as one of a type that it did not ask for by name.
///
/// # Errors
/// When the database fails.
pub fn count_as(connection: &mut Database, id: InstanceId, machine_type: Option<&str>) -> StoreResult<()> {
    use instances::dsl;
    diesel::update(dsl::instances.find(id.to_string()))
        .set(dsl::machine_type.eq(machine_type))
        .execute(connection)?;
    Ok(())
}

/// The instances of a site that have a machine and stand in one of these states.
///
/// # Errors
/// When the database fails.
pub fn on_machines_at(
    connection: &mut Database,
    site: &SiteId,
    states: &[InstanceState],
) -> StoreResult<Vec<Instance>> {
    use instances::dsl;
    let states = states.iter().map(to_word).collect::<StoreResult<Vec<_>>>()?;
    let rows = dsl::instances
        .filter(dsl::site.eq(site.as_str()))
        .filter(dsl::machine.is_not_null())
        .filter(dsl::state.eq_any(states));
    rows.load::<Row>(connection)?.into_iter().map(from_row).collect()
}

/// The instance that holds a machine of a site.
///
/// # Errors
/// When the database fails.
pub fn on_machine(db: &mut Database, site: &SiteId, machine: MachineId) -> StoreResult<Option<Instance>> {
    use instances::dsl;
    let row = dsl::instances
        .filter(dsl::site.eq(site.as_str()))
        .filter(dsl::machine.eq(machine.to_string()))
        .filter(dsl::state.ne(to_word(&InstanceState::Released)?));
    row.first::<Row>(db).optional()?.map(from_row).transpose()
}

/// Moves an instance on, if it still is in `from`; `false` otherwise.
///
/// # Errors
/// When the database fails.
pub fn advance(
    connection: &mut Database,
    id: InstanceId,
    from: InstanceState,
    to: InstanceState,
) -> StoreResult<bool> {
    use instances::dsl;
    let row = dsl::instances
        .find(id.to_string())
        .filter(dsl::state.eq(to_word(&from)?));
    Ok(diesel::update(row)
        .set(dsl::state.eq(to_word(&to)?))
        .execute(connection)?
        == 1)
}

/// Sets the machine an instance is on.
///
/// # Errors
/// When the database fails.
pub fn set_machine(connection: &mut Database, id: InstanceId, machine: MachineId) -> StoreResult<()> {
    use instances::dsl;
    diesel::update(dsl::instances.find(id.to_string()))
        .set(dsl::machine.eq(Some(machine.to_string())))
        .execute(connection)?;
    Ok(())
}

/// Sets what may change of an instance at rest: its name and its lock.
///
/// # Errors
/// When the database fails.
pub fn rename(connection: &mut Database, id: InstanceId, name: &str, locked: bool) -> StoreResult<()> {
    use instances::dsl;
    diesel::update(dsl::instances.find(id.to_string()))
        .set((dsl::name.eq(name), dsl::locked.eq(locked)))
        .execute(connection)?;
    Ok(())
}

/// Sets what an instance is to be installed with.
///
/// # Errors
/// When the database fails.
pub fn set_wish(connection: &mut Database, id: InstanceId, image: ImageId, wish: &Wish) -> StoreResult<()> {
    use instances::dsl;
    diesel::update(dsl::instances.find(id.to_string()))
        .set((dsl::image.eq(image.to_string()), dsl::wish.eq(to_json(wish)?)))
        .execute(connection)?;
    Ok(())
}

/// Sets an instance's last job.
///
/// # Errors
/// When the database fails.
pub fn set_job(connection: &mut Database, id: InstanceId, job: JobId) -> StoreResult<()> {
    use instances::dsl;
    diesel::update(dsl::instances.find(id.to_string()))
        .set(dsl::job.eq(job.to_string()))
        .execute(connection)?;
    Ok(())
}
