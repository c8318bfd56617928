//! Many machines added or changed at once: every row is checked, against the others and against what is there, and then all
//! are written, or none. The plan only reads, so that a dry run is the same code without the end.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{MachineId, SiteId},
    inventory::FirmwareKind,
    order::BmcDriver,
    seal::Secret,
};
use uuid::Uuid;

use super::{
    AddressBook, add, bmc_place, check_bmc_is_its_own,
    row::{self, ImportRow, RowError, Wanted},
    update::{check_bmc_password, check_use, write},
};
use crate::{
    access::{Actor, Caller, Permission, Target},
    app::App,
    domain::bmc_passwords::after_change,
    error::ApiError,
    store::{
        Database, discovered,
        machines::{self, BmcDetails, Class, Hold, Machine, MachineDetails},
        sites,
    },
    workflow::state::MachineState,
};

/// Most rows of one import.
pub const MOST_ROWS: usize = 5000;

/// What becomes of a row's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is added.
    Create,
    /// It is changed.
    Update,
    /// It is as the row says.
    Unchanged,
    /// The row is wrong.
    Error,
}

/// What is said of a row.
#[derive(Debug, Clone)]
pub struct Line {
    /// Which one, from 1; a header is not counted.
    pub row: usize,
    /// The machine it names.
    pub name: String,
    /// What becomes of it.
    pub action: Action,
    /// What is wrong with it.
    pub errors: Vec<RowError>,
}

/// How an import is done.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Change machines that are there already and differ.
    pub update: bool,
}

/// A row, and what is known to be wrong with it from reading it out of its file.
pub type Given = (ImportRow, Vec<RowError>);

/// Imports machines. If any row is wrong nothing is done, and the lines say why.
///
/// # Errors
/// When there are too many rows, or the store fails.
pub async fn import(
    app: &Arc<App>,
    caller: &Caller,
    rows: Vec<Given>,
    how: How,
) -> Result<Vec<Line>, ApiError> {
    if rows.is_empty() || rows.len() > MOST_ROWS {
        let detail = format!("an import has 1 to {MOST_ROWS} rows, and this one {}", rows.len());
        return Err(ApiError::Bad("rows", detail));
    }
    let (context, caller, now) = (Arc::clone(app), caller.clone(), (app.now)());
    if how.dry_run {
        let lines = app
            .store
            .read(move |db| plan(db, (&context, &caller, how.update), rows, now));
        return Ok(lines.await?.0);
    }
    let lines = app.store.transaction(move |db| {
        // In order, so that two imports do not wait for each other.
        for site in rows
            .iter()
            .map(|(row, _)| row.site.as_str())
            .collect::<BTreeSet<_>>()
        {
            sites::hold(db, site)?;
        }
        let (lines, steps) = plan(db, (&context, &caller, how.update), rows, now)?;
        if lines.iter().all(|line| line.errors.is_empty()) {
            for step in steps {
                step.apply(db, (&caller.actor, now))?;
            }
        }
        Ok::<_, ApiError>(lines)
    });
    let lines = lines.await?;
    app.work.notify_one();
    Ok(lines)
}

/// What is to be written.
enum Step {
    Create(Box<Machine>),
    /// As it was, and as it is to be.
    Update(Box<(Machine, Machine)>),
}

impl Step {
    fn apply(self, db: &mut Database, by: (&Actor, DateTime<Utc>)) -> Result<(), ApiError> {
        match self {
            Self::Create(machine) => add(db, *machine, by).map(|_| ()),
            Self::Update(both) => write(db, (&both.0, &both.1), both.0.version, by).map(|_| ()),
        }
    }
}

/// What is there already of what the rows name.
struct Known<'a> {
    app: &'a App,
    books: BTreeMap<SiteId, Result<AddressBook, RowError>>,
    machines: HashMap<String, Machine>,
    ports: HashMap<String, String>,
    update: bool,
    now: DateTime<Utc>,
}

type Planned = (Vec<Line>, Vec<Step>);

fn plan(
    db: &mut Database,
    (app, caller, update): (&App, &Caller, bool),
    rows: Vec<Given>,
    now: DateTime<Utc>,
) -> Result<Planned, ApiError> {
    let (mut lines, mut wanted) = (Vec::with_capacity(rows.len()), Vec::new());
    for (n, (row, mut errors)) in (1..).zip(rows) {
        let name = row.name.clone();
        match row::read(row) {
            Ok(row) if errors.is_empty() => wanted.push((n, row)),
            Ok(_) => {}
            Err(more) => errors.extend(more),
        }
        lines.push(Line {
            row: n,
            name,
            action: Action::Error,
            errors,
        });
    }
    for (n, error) in row::clashes(wanted.iter().map(|(n, row)| (*n, row))) {
        lines[n - 1].errors.push(error);
    }
    wanted.retain(|(n, _)| lines[n - 1].errors.is_empty());
    let mut known = known(db, (app, caller, update), &wanted, now)?;
    // Addresses that are asked for go first: none of them may be chosen for another machine.
    wanted.sort_by_key(|(n, row)| (row.address.is_none(), *n));
    let mut steps = Vec::new();
    for (n, row) in wanted {
        let line = &mut lines[n - 1];
        match step(db, &mut known, row)? {
            Ok(None) => line.action = Action::Unchanged,
            Ok(Some(step)) => {
                line.action = if matches!(step, Step::Create(_)) {
                    Action::Create
                } else {
                    Action::Update
                };
                steps.push(step);
            }
            Err(error) => line.errors.push(error),
        }
    }
    Ok((lines, steps))
}

fn known<'a>(
    db: &mut Database,
    (app, caller, update): (&'a App, &Caller, bool),
    rows: &[(usize, Wanted)],
    now: DateTime<Utc>,
) -> Result<Known<'a>, ApiError> {
    let mut books = BTreeMap::new();
    for site in rows.iter().map(|(_, row)| &row.site).collect::<HashSet<_>>() {
        let may = caller.require(Permission::MachinesWrite, Target::site(site.as_str()));
        let book = match may.and_then(|()| AddressBook::open(db, site)) {
            Err(error @ (ApiError::Internal(_) | ApiError::Unavailable(..))) => return Err(error),
            other => other.map_err(|e| RowError::of("site", &e)),
        };
        books.insert(site.clone(), book);
    }
    let names: Vec<String> = rows.iter().map(|(_, row)| row.name.clone()).collect();
    let macs: Vec<String> = rows
        .iter()
        .flat_map(|(_, row)| row.macs.iter().map(ToString::to_string))
        .collect();
    let machines = machines::of_names(db, &names)?;
    Ok(Known {
        app,
        books,
        machines: machines.into_iter().map(|m| (m.name.clone(), m)).collect(),
        ports: machines::of_ports(db, &macs)?,
        update,
        now,
    })
}

/// What is to be done for a row; nothing if its machine is as it says.
fn step(
    db: &mut Database,
    known: &mut Known<'_>,
    row: Wanted,
) -> Result<Result<Option<Step>, RowError>, ApiError> {
    if let Some(Err(error)) = known.books.get(&row.site) {
        return Ok(Err(error.clone()));
    }
    let former = known.machines.get(&row.name).cloned();
    let own = former.as_ref().map(|m| m.id.to_string());
    let foreign = row.macs.iter().find(|mac| {
        let holder = known.ports.get(&mac.to_string());
        holder.is_some() && holder != own.as_ref()
    });
    if let Some(mac) = foreign {
        let detail = format!("{mac} is a port of another machine");
        return Ok(Err(RowError {
            field: "macs",
            code: "taken",
            detail,
        }));
    }
    match former {
        None => created(db, known, row),
        Some(former) => changed(db, known, former, row),
    }
}

fn created(
    db: &mut Database,
    known: &mut Known<'_>,
    row: Wanted,
) -> Result<Result<Option<Step>, RowError>, ApiError> {
    let Some(Ok(book)) = known.books.get_mut(&row.site) else {
        return Err(ApiError::NotFound("site", row.site.to_string()));
    };
    let address = match book.take(row.address) {
        Ok(address) => address,
        Err(error) => return Ok(Err(RowError::of("address", &error))),
    };
    let id = MachineId(Uuid::now_v7());
    let bmc_password = encrypted(known.app, id, row.bmc_password.as_ref())?;
    let machine = Machine {
        id,
        name: row.name,
        state: if row.shelved {
            MachineState::Enrolled
        } else {
            MachineState::Available
        },
        address,
        details: MachineDetails {
            inventory: discovered::inventory_of(db, &row.site, &row.macs)?,
            macs: row.macs,
            firmware: row.firmware.unwrap_or(FirmwareKind::Uefi),
            bmc: row.bmc.map(|address| BmcDetails {
                driver: BmcDriver::Ipmi,
                address,
                username: row.bmc_user.unwrap_or_else(|| "admin".to_owned()),
            }),
            labels: row.labels.unwrap_or_default(),
        },
        site: row.site,
        bmc_password,
        bmc_candidates: Vec::new(),
        bmc_state: None,
        class: Class::default(),
        hold: Hold::default(),
        live_job: None,
        version: 1,
        created_at: known.now,
    };
    if let Err(refused) = own_bmc(db, &machine)? {
        return Ok(Err(refused));
    }
    Ok(Ok(Some(Step::Create(Box::new(machine)))))
}

fn encrypted(app: &App, id: MachineId, password: Option<&Secret>) -> Result<Option<String>, ApiError> {
    let encrypt = |password| app.vault.encrypt(&bmc_place(id), password);
    Ok(password.map(encrypt).transpose()?)
}

fn changed(
    db: &mut Database,
    known: &mut Known<'_>,
    former: Machine,
    row: Wanted,
) -> Result<Result<Option<Step>, RowError>, ApiError> {
    let error = |field, code, detail: String| Ok(Err(RowError { field, code, detail }));
    if former.site != row.site {
        // Which one is not said: the caller may not see that site.
        let detail = format!("machine `{}` stands at another site", former.name);
        return error("site", "machine_site", detail);
    }
    let given = row.bmc_password.is_some();
    let (next, differs) = applied(known.app, &former, row)?;
    let Some(field) = differs.first().copied() else {
        return Ok(Ok(None));
    };
    if !known.update {
        let detail = format!(
            "machine `{}` is there already, and differs in {}; ask for an update to change it",
            former.name,
            differs.join(", ")
        );
        return error(field, "differs", detail);
    }
    if let Err(refused) = check_bmc_password(&former, &next, given) {
        return Ok(Err(RowError::of("bmc_password", &refused)));
    }
    if let Err(refused) = check_use(db, &former, &next) {
        if matches!(refused, ApiError::Internal(_) | ApiError::Unavailable(..)) {
            return Err(refused);
        }
        return Ok(Err(RowError::of(field, &refused)));
    }
    if former.address != next.address
        && let Some(Ok(book)) = known.books.get_mut(&next.site)
        && let Err(refused) = book.take(Some(next.address))
    {
        return Ok(Err(RowError::of("address", &refused)));
    }
    if former.details.bmc != next.details.bmc
        && let Err(refused) = own_bmc(db, &next)?
    {
        return Ok(Err(refused));
    }
    Ok(Ok(Some(Step::Update(Box::new((former, next))))))
}

/// Whether its BMC is no other machine's.
fn own_bmc(db: &mut Database, machine: &Machine) -> Result<Result<(), RowError>, ApiError> {
    match check_bmc_is_its_own(db, machine) {
        Err(error @ (ApiError::Internal(_) | ApiError::Unavailable(..))) => Err(error),
        other => Ok(other.map_err(|refused| RowError::of("bmc", &refused))),
    }
}

/// The machine as the row says, and the fields in which it differs.
fn applied(app: &App, former: &Machine, row: Wanted) -> Result<(Machine, Vec<&'static str>), ApiError> {
    let mut next = former.clone();
    let mut differs = Vec::new();
    let ports = |macs: &[_]| macs.iter().copied().collect::<HashSet<_>>();
    if ports(&row.macs) != ports(&former.details.macs) {
        next.details.macs = row.macs;
        differs.push("macs");
    }
    next.details.firmware = row.firmware.unwrap_or(former.details.firmware);
    next.address = row.address.unwrap_or(former.address);
    next.details.labels = row.labels.unwrap_or_else(|| former.details.labels.clone());
    if let Some(address) = row.bmc {
        let kept = former.details.bmc.clone();
        let username = row.bmc_user.or(kept.as_ref().map(|b| b.username.clone()));
        next.details.bmc = Some(BmcDetails {
            driver: kept.map_or(BmcDriver::Ipmi, |b| b.driver),
            address,
            username: username.unwrap_or_else(|| "admin".to_owned()),
        });
    }
    let fields = [
        ("firmware", next.details.firmware != former.details.firmware),
        ("address", next.address != former.address),
        ("labels", next.details.labels != former.details.labels),
        ("bmc", next.details.bmc != former.details.bmc),
    ];
    differs.extend(
        fields
            .into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(field, _)| field),
    );
    if let Some(password) = &row.bmc_password {
        let kept = former.bmc_password.as_ref();
        let kept = kept
            .map(|text| app.vault.decrypt(&bmc_place(former.id), text))
            .transpose()?;
        if kept.as_ref().map(Secret::reveal) != Some(password.reveal()) {
            next.bmc_password = encrypted(app, former.id, Some(password))?;
            differs.push("bmc_password");
        }
    }
    next.bmc_candidates = after_change(former, &next);
    Ok((next, differs))
}
