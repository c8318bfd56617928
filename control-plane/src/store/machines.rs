//! Machines and their ports.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    bmc::BmcState,
    ids::{JobId, MacAddr, MachineId, SiteId},
    inventory::{FirmwareKind, Inventory},
    order::BmcDriver,
};

use super::{
    Database, StoreResult,
    bmc_passwords::{BmcCandidate, candidates_to_json},
    from_json, from_word, micros, parse,
    schema::{machine_bmcs, machine_labels, machine_words, machines, macs},
    time, to_json, to_word,
};
use crate::workflow::state::MachineState;

/// What is known of a machine besides its columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDetails {
    /// Its ports.
    pub macs: Vec<MacAddr>,
    /// How it boots.
    pub firmware: FirmwareKind,
    /// Its BMC, without the password.
    pub bmc: Option<BmcDetails>,
    /// For operators.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The hardware an agent found; a column of its own.
    #[serde(skip)]
    pub inventory: Option<Inventory>,
}

/// A BMC, without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BmcDetails {
    /// Its protocol.
    pub driver: BmcDriver,
    /// Where the edge reaches it.
    pub address: SocketAddr,
    /// User name.
    pub username: String,
}

/// The type of a machine, and by whom it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Class {
    /// The type's name.
    pub machine_type: Option<String>,
    /// Whether an operator gave it; rules do not change it then.
    pub pinned: bool,
    /// Why there is none although types fit.
    pub reason: Option<String>,
    /// The revision of the types it was decided by.
    pub revision: i64,
}

/// What keeps a machine out of use, or will.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hold {
    /// Why, for people.
    pub reason: Option<String>,
    /// Whether it is to be quarantined when its instance gives it back.
    pub quarantine: bool,
}

/// A machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub site: SiteId,
    /// Its state.
    pub state: MachineState,
    /// The address it is given.
    pub address: Ipv4Addr,
    /// The rest.
    pub details: MachineDetails,
    /// BMC password, encrypted.
    pub bmc_password: Option<String>,
    /// What may be its password instead, oldest first.
    pub bmc_candidates: Vec<BmcCandidate>,
    /// How its BMC was when it was last asked; written by [`super::bmc_states`] alone.
    pub bmc_state: Option<BmcState>,
    /// Its type.
    pub class: Class,
    /// What keeps it out of use.
    pub hold: Hold,
    /// The job that works on it.
    pub live_job: Option<JobId>,
    /// Grows with each change by an operator.
    pub version: u64,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

pub(super) type Row = (
    String,
    String,
    String,
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    i64,
    i64,
    Option<String>,
    Option<String>,
    bool,
    Option<String>,
    i64,
    Option<String>,
    bool,
    Option<String>,
    Option<String>,
    Option<i64>,
);

pub(super) fn from_row(row: Row) -> StoreResult<Machine> {
    let (id, name, site, state, address, details, bmc_password, live_job, version, created_at, ..) = row;
    let (.., inventory, machine_type, pinned, reason, revision, held, quarantine, candidates, bmc_state, _) =
        row;
    let details = MachineDetails {
        inventory: inventory.map(|text| from_json(&text)).transpose()?,
        ..from_json(&details)?
    };
    Ok(Machine {
        id: parse(&id)?,
        name,
        site: parse(&site)?,
        state: from_word(&state)?,
        address: parse(&address)?,
        details,
        class: Class {
            machine_type,
            pinned,
            reason,
            revision,
        },
        hold: Hold {
            reason: held,
            quarantine,
        },
        bmc_password,
        bmc_candidates: candidates.map_or_else(|| Ok(Vec::new()), |text| from_json(&text))?,
        bmc_state: bmc_state.map(|text| from_json(&text)).transpose()?,
        live_job: live_job.map(|job| parse(&job)).transpose()?,
        version: version.cast_unsigned(),
        created_at: time(created_at),
    })
}

/// Adds a machine.
///
/// # Errors
/// [`super::StoreError::Taken`] when its name, address or a port is taken.
pub fn insert(connection: &mut Database, m: &Machine) -> StoreResult<()> {
    use machines::dsl;
    let row = (
        dsl::id.eq(m.id.to_string()),
        dsl::name.eq(&m.name),
        dsl::site.eq(m.site.as_str()),
        dsl::state.eq(to_word(&m.state)?),
        dsl::address.eq(m.address.to_string()),
        dsl::details.eq(to_json(&m.details)?),
        dsl::bmc_password.eq(&m.bmc_password),
        dsl::bmc_candidates.eq(candidates_to_json(&m.bmc_candidates)?),
        dsl::version.eq(1_i64),
        dsl::created_at.eq(micros(m.created_at)),
        dsl::inventory.eq(m.details.inventory.as_ref().map(to_json).transpose()?),
        dsl::machine_type.eq(&m.class.machine_type),
        dsl::type_pinned.eq(m.class.pinned),
        dsl::type_reason.eq(&m.class.reason),
        dsl::typed_by.eq(m.class.revision),
        dsl::reason.eq(&m.hold.reason),
        dsl::quarantine.eq(m.hold.quarantine),
    );
    diesel::insert_into(dsl::machines)
        .values(row)
        .execute(connection)?;
    put_macs(connection, m)?;
    put_bmc(connection, m)?;
    put_words(connection, m)?;
    put_labels(connection, m.id, &m.details.labels)
}

/// Keeps a second time where its BMC is, to find it by that.
fn put_bmc(connection: &mut Database, m: &Machine) -> StoreResult<()> {
    use machine_bmcs::dsl;
    let id = m.id.to_string();
    diesel::delete(dsl::machine_bmcs.find(&id)).execute(connection)?;
    if let Some(bmc) = &m.details.bmc {
        diesel::insert_into(dsl::machine_bmcs)
            .values((
                dsl::machine.eq(&id),
                dsl::site.eq(m.site.as_str()),
                dsl::address.eq(bmc.address.to_string()),
            ))
            .execute(connection)?;
    }
    Ok(())
}

/// The name of another machine of its site that has the same BMC.
///
/// # Errors
/// When the database fails.
pub fn with_same_bmc(connection: &mut Database, m: &Machine) -> StoreResult<Option<String>> {
    let Some(bmc) = &m.details.bmc else {
        return Ok(None);
    };
    Ok(machine_bmcs::table
        .inner_join(machines::table.on(machines::id.eq(machine_bmcs::machine)))
        .filter(machine_bmcs::site.eq(m.site.as_str()))
        .filter(machine_bmcs::address.eq(bmc.address.to_string()))
        .filter(machine_bmcs::machine.ne(m.id.to_string()))
        .select(machines::name)
        .first(connection)
        .optional()?)
}

/// Keeps once more what a machine is looked for by, in one narrow row: its own one is long.
fn put_words(connection: &mut Database, m: &Machine) -> StoreResult<()> {
    use machine_words::dsl;
    let mut words = vec![m.name.clone(), m.address.to_string()];
    words.extend(m.details.macs.iter().map(ToString::to_string));
    words.extend(m.details.bmc.as_ref().map(|bmc| bmc.address.to_string()));
    words.extend(
        m.details
            .inventory
            .as_ref()
            .and_then(|found| found.serial.clone()),
    );
    let (id, words) = (m.id.to_string(), words.join("\n").to_lowercase());
    diesel::delete(dsl::machine_words.find(&id)).execute(connection)?;
    diesel::insert_into(dsl::machine_words)
        .values((dsl::machine.eq(&id), dsl::words.eq(&words)))
        .execute(connection)?;
    Ok(())
}

/// Keeps the ports a second time, where each is there but once.
fn put_macs(connection: &mut Database, m: &Machine) -> StoreResult<()> {
    for mac in &m.details.macs {
        let row = (macs::mac.eq(mac.to_string()), macs::machine.eq(m.id.to_string()));
        diesel::insert_into(macs::table).values(row).execute(connection)?;
    }
    Ok(())
}

/// Keeps labels a second time, where machines are found by them.
fn put_labels(
    connection: &mut Database,
    id: MachineId,
    labels: &BTreeMap<String, String>,
) -> StoreResult<()> {
    use machine_labels::dsl;
    let id = id.to_string();
    diesel::delete(dsl::machine_labels.filter(dsl::machine.eq(&id))).execute(connection)?;
    for (name, value) in labels {
        let row = (dsl::machine.eq(&id), dsl::name.eq(name), dsl::value.eq(value));
        diesel::insert_into(dsl::machine_labels)
            .values(row)
            .execute(connection)?;
    }
    Ok(())
}

/// One machine, by id, else by name.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, id_or_name: &str) -> StoreResult<Option<Machine>> {
    use machines::dsl;
    let by_id = dsl::machines
        .find(id_or_name)
        .first::<Row>(connection)
        .optional()?;
    let row = match by_id {
        Some(row) => Some(row),
        None => dsl::machines
            .filter(dsl::name.eq(id_or_name))
            .first::<Row>(connection)
            .optional()?,
    };
    row.map(from_row).transpose()
}

/// Keys looked up in one query: databases take some thousands of parameters, not all that there may be.
const KEYS: usize = 500;

/// Those machines of these names that are there.
///
/// # Errors
/// When the database fails.
pub fn of_names(connection: &mut Database, names: &[String]) -> StoreResult<Vec<Machine>> {
    let mut found = Vec::new();
    for names in names.chunks(KEYS) {
        let rows = machines::table.filter(machines::name.eq_any(names.to_vec()));
        for row in rows.load::<Row>(connection)? {
            found.push(from_row(row)?);
        }
    }
    Ok(found)
}

/// Which of these ports are a machine's: port, and the id of its machine.
///
/// # Errors
/// When the database fails.
pub fn of_ports(connection: &mut Database, ports: &[String]) -> StoreResult<HashMap<String, String>> {
    let mut found = HashMap::new();
    for ports in ports.chunks(KEYS) {
        let rows = macs::table.filter(macs::mac.eq_any(ports.to_vec()));
        found.extend(rows.load::<(String, String)>(connection)?);
    }
    Ok(found)
}

/// Gives a machine to a job, if it is in `from` and no job works on it; `false` otherwise.
///
/// # Errors
/// When the database fails.
pub fn take(connection: &mut Database, id: MachineId, from: MachineState, job: JobId) -> StoreResult<bool> {
    use machines::dsl;
    let row = dsl::machines
        .find(id.to_string())
        .filter(dsl::state.eq(to_word(&from)?))
        .filter(dsl::live_job.is_null());
    let change = (
        dsl::state.eq(to_word(&MachineState::Allocated)?),
        dsl::live_job.eq(Some(job.to_string())),
    );
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// Ends a job's work on a machine, leaving it in `state`.
///
/// # Errors
/// When the database fails.
pub fn leave(connection: &mut Database, id: MachineId, job: JobId, state: MachineState) -> StoreResult<bool> {
    use machines::dsl;
    let row = dsl::machines
        .find(id.to_string())
        .filter(dsl::live_job.eq(job.to_string()));
    let change = (dsl::state.eq(to_word(&state)?), dsl::live_job.eq(None::<String>));
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// Sets what operators say of a machine, if it still has `version`; `false` otherwise.
///
/// # Errors
/// [`super::StoreError::Taken`] when its name, address or a port is taken.
pub fn update(connection: &mut Database, m: &Machine, version: u64) -> StoreResult<bool> {
    use machines::dsl;
    let version = version.cast_signed();
    let row = dsl::machines
        .find(m.id.to_string())
        .filter(dsl::version.eq(version));
    let change = (
        dsl::name.eq(&m.name),
        dsl::address.eq(m.address.to_string()),
        dsl::details.eq(to_json(&m.details)?),
        dsl::bmc_password.eq(&m.bmc_password),
        dsl::bmc_candidates.eq(candidates_to_json(&m.bmc_candidates)?),
        dsl::version.eq(version.saturating_add(1)),
    );
    if diesel::update(row).set(change).execute(connection)? == 0 {
        return Ok(false);
    }
    diesel::delete(macs::table.filter(macs::machine.eq(m.id.to_string()))).execute(connection)?;
    put_macs(connection, m)?;
    put_bmc(connection, m)?;
    put_words(connection, m)?;
    put_labels(connection, m.id, &m.details.labels)?;
    Ok(true)
}

/// Notes the hardware an agent found.
///
/// # Errors
/// When the database fails.
pub fn set_inventory(connection: &mut Database, id: MachineId, inventory: &Inventory) -> StoreResult<()> {
    use machines::dsl;
    diesel::update(dsl::machines.find(id.to_string()))
        .set(dsl::inventory.eq(Some(to_json(inventory)?)))
        .execute(connection)?;
    match get(connection, &id.to_string())? {
        Some(machine) => put_words(connection, &machine),
        None => Ok(()),
    }
}

/// The machines of a site.
///
/// # Errors
/// When the database fails.
pub fn ids_at(connection: &mut Database, site: &SiteId) -> StoreResult<Vec<MachineId>> {
    use machines::dsl;
    let ids: Vec<String> = dsl::machines
        .filter(dsl::site.eq(site.as_str()))
        .order(dsl::id)
        .select(dsl::id)
        .load(connection)?;
    ids.iter().map(|id| parse(id)).collect()
}

/// The versions of a site's machines that no job works on.
///
/// # Errors
/// When the database fails.
pub fn idle_at(connection: &mut Database, site: &SiteId) -> StoreResult<HashMap<MachineId, i64>> {
    use machines::dsl;
    let rows: Vec<(String, i64)> = dsl::machines
        .filter(dsl::site.eq(site.as_str()))
        .filter(dsl::live_job.is_null())
        .select((dsl::id, dsl::version))
        .load(connection)?;
    let read = |(id, version): (String, i64)| Ok((parse(&id)?, version));
    rows.into_iter().map(read).collect()
}

/// The addresses taken at a site.
///
/// # Errors
/// When the database fails.
pub fn addresses(connection: &mut Database, site: &SiteId) -> StoreResult<Vec<Ipv4Addr>> {
    use machines::dsl;
    let rows: Vec<String> = dsl::machines
        .filter(dsl::site.eq(site.as_str()))
        .select(dsl::address)
        .load(connection)?;
    rows.iter().map(|text| parse(text)).collect()
}

/// The addresses taken at a site, by address, each with its machine's name.
///
/// # Errors
/// When the database fails.
pub fn addresses_by_name(connection: &mut Database, site: &SiteId) -> StoreResult<Vec<(Ipv4Addr, String)>> {
    use machines::dsl;
    let rows: Vec<(String, String)> = dsl::machines
        .filter(dsl::site.eq(site.as_str()))
        .select((dsl::address, dsl::name))
        .load(connection)?;
    let read = |(address, name): (String, String)| Ok((parse(&address)?, name));
    let mut all = rows.into_iter().map(read).collect::<StoreResult<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

/// Removes a machine.
///
/// # Errors
/// When the database fails.
pub fn delete(connection: &mut Database, id: MachineId) -> StoreResult<bool> {
    diesel::delete(macs::table.filter(macs::machine.eq(id.to_string()))).execute(connection)?;
    super::hardware_faults::forget(connection, id)?;
    Ok(diesel::delete(machines::table.find(id.to_string())).execute(connection)? == 1)
}

/// The site of a machine.
///
/// # Errors
/// When the database fails.
pub fn site_of(connection: &mut Database, id: MachineId) -> StoreResult<Option<SiteId>> {
    use machines::dsl;
    let site: Option<String> = dsl::machines
        .find(id.to_string())
        .select(dsl::site)
        .first(connection)
        .optional()?;
    site.map(|site| parse(&site)).transpose()
}

/// The site of the machine that has a port.
///
/// # Errors
/// When the database fails.
pub fn site_of_port(connection: &mut Database, mac: MacAddr) -> StoreResult<Option<SiteId>> {
    let machine: Option<String> = macs::table
        .find(mac.to_string())
        .select(macs::machine)
        .first(connection)
        .optional()?;
    let Some(machine) = machine else { return Ok(None) };
    let site: Option<String> = machines::table
        .find(machine)
        .select(machines::site)
        .first(connection)
        .optional()?;
    site.map(|site| parse(&site)).transpose()
}

/// Names and addresses of machines by their ids.
///
/// # Errors
/// When the database fails.
pub fn names(connection: &mut Database, ids: Vec<String>) -> StoreResult<BTreeMap<String, (String, String)>> {
    use machines::dsl;
    let rows: Vec<(String, String, String)> = dsl::machines
        .filter(dsl::id.eq_any(ids))
        .select((dsl::id, dsl::name, dsl::address))
        .load(connection)?;
    Ok(rows
        .into_iter()
        .map(|(id, name, address)| (id, (name, address)))
        .collect())
}
