//! Instances: what tenants asked for.

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
use crate::workflow::state::InstanceState;

/// What a tenant asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// A machine by name, or any.
    pub machine: Option<MachineId>,
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
}

type Row = (
    String,
    String,
    String,
    Option<String>,
    String,
    String,
    String,
    String,
    i64,
);

fn instance(row: Row) -> StoreResult<Instance> {
    let (id, name, site, machine, image, state, job, wish, created_at) = row;
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
    );
    diesel::insert_into(dsl::instances)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// One instance: by id, or the newest of that name that is not released.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, id_or_name: &str) -> StoreResult<Option<Instance>> {
    use instances::dsl;
    let by_id = dsl::instances
        .find(id_or_name)
        .first::<Row>(connection)
        .optional()?;
    if let Some(row) = by_id {
        return instance(row).map(Some);
    }
    let released = to_word(&InstanceState::Released)?;
    let by_name = dsl::instances
        .filter(dsl::name.eq(id_or_name))
        .filter(dsl::state.ne(released));
    by_name
        .order(dsl::created_at.desc())
        .first::<Row>(connection)
        .optional()?
        .map(instance)
        .transpose()
}

/// Up to `limit` instances whose id comes after `after`, newest ids last.
///
/// # Errors
/// When the database fails.
pub fn list(connection: &mut Database, after: &str, limit: i64) -> StoreResult<Vec<Instance>> {
    use instances::dsl;
    let rows = dsl::instances
        .filter(dsl::id.gt(after))
        .order(dsl::id)
        .limit(limit)
        .load::<Row>(connection)?;
    rows.into_iter().map(instance).collect()
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
    rows.into_iter().map(instance).collect()
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
