//! What is found by a text, of each kind, whatever page it would be on. Reads names alone; a text that few rows hold costs a
//! look at each name of that kind.

use diesel::prelude::*;

use super::{
    Database, StoreResult,
    ordering::{beginning, containing, lower},
    schema::{images, instances, jobs, machine_words, machines, projects, sites, users},
    visible,
};
use crate::access::Visible;

/// Most machines that are looked at because something of theirs but the name holds the text.
const MOST: i64 = 1000;

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Its id, as the API takes it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// For people: where it is and how it stands.
    pub detail: String,
}

/// What is looked for: so much of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    /// The text.
    pub q: String,
    /// Hits at most.
    pub limit: i64,
}

impl Sought {
    /// Names that begin with the text, then names that hold it.
    fn look(&self, mut load: impl FnMut(String) -> StoreResult<Vec<Hit>>) -> StoreResult<Vec<Hit>> {
        let most = usize::try_from(self.limit).unwrap_or(0);
        let mut hits = load(beginning(&self.q))?;
        if hits.len() < most {
            let known = hits.len();
            for hit in load(containing(&self.q))? {
                if !hits[..known].contains(&hit) {
                    hits.push(hit);
                }
            }
        }
        hits.truncate(most);
        Ok(hits)
    }
}

type Texts = (String, String, String, String);

fn hits(rows: Vec<Texts>) -> Vec<Hit> {
    let hit = |(id, name, place, state): Texts| Hit {
        id,
        name,
        detail: format!("{place}, {state}"),
    };
    rows.into_iter().map(hit).collect()
}

/// Sites by name.
///
/// # Errors
/// When the database fails.
pub fn sites(db: &mut Database, sought: &Sought, only: Option<&[String]>) -> StoreResult<Vec<Hit>> {
    sought.look(|pattern| {
        let mut query = sites::table
            .filter(sites::id.like(pattern).escape('\\'))
            .order(sites::id)
            .limit(sought.limit)
            .select((sites::id, sites::online))
            .into_boxed();
        if let Some(only) = only {
            query = query.filter(sites::id.eq_any(only.to_vec()));
        }
        let rows: Vec<(String, bool)> = query.load(db)?;
        let hit = |(id, online): (String, bool)| Hit {
            name: id.clone(),
            id,
            detail: if online { "online" } else { "offline" }.to_owned(),
        };
        Ok(rows.into_iter().map(hit).collect())
    })
}

/// Machines by name; then by what else they are looked for by.
///
/// # Errors
/// When the database fails.
pub fn machines(db: &mut Database, sought: &Sought, only: Option<&[String]>) -> StoreResult<Vec<Hit>> {
    sought.look(|pattern| {
        let mut query = machines::table
            .order(machines::name)
            .limit(sought.limit)
            .select((machines::id, machines::name, machines::site, machines::state))
            .into_boxed();
        query = if pattern.starts_with('%') {
            let said = machine_words::table
                .filter(machine_words::words.like(pattern).escape('\\'))
                .select(machine_words::machine)
                .limit(MOST);
            let said: Vec<String> = said.load(db)?;
            query.filter(machines::id.eq_any(said))
        } else {
            let named = lower(machines::name).like(pattern).escape('\\');
            query.filter(named.or(machines::id.eq(sought.q.clone())))
        };
        if let Some(sites) = only {
            query = query.filter(machines::site.eq_any(sites.to_vec()));
        }
        Ok(hits(query.load(db)?))
    })
}

/// Instances by name, those that were given back by their id alone.
///
/// # Errors
/// When the database fails.
pub fn instances(db: &mut Database, sought: &Sought, whose: &Visible) -> StoreResult<Vec<Hit>> {
    sought.look(|pattern| {
        let named = lower(instances::name).like(pattern).escape('\\');
        let named = named.and(instances::state.ne("released"));
        let mut query = instances::table
            .filter(named.or(instances::id.eq(sought.q.clone())))
            .order((instances::name, instances::id))
            .limit(sought.limit)
            .select((instances::id, instances::name, instances::site, instances::state))
            .into_boxed();
        if let Some((sites, projects)) = visible::bounds(whose) {
            query = query.filter(visible::instances_of(sites, projects));
        }
        Ok(hits(query.load(db)?))
    })
}

/// Jobs by the beginning of their id.
///
/// # Errors
/// When the database fails.
pub fn jobs(db: &mut Database, sought: &Sought, whose: &Visible) -> StoreResult<Vec<Hit>> {
    if !sought.q.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        return Ok(Vec::new());
    }
    let mut query = jobs::table
        .filter(jobs::id.like(beginning(&sought.q)).escape('\\'))
        .order(jobs::id.desc())
        .limit(sought.limit)
        .select((jobs::id, jobs::kind, jobs::site, jobs::state))
        .into_boxed();
    if let Some((sites, projects)) = visible::bounds(whose) {
        query = query.filter(visible::jobs_of(sites, projects));
    }
    let rows: Vec<Texts> = query.load(db)?;
    let hit = |(id, kind, site, state): Texts| Hit {
        name: id.clone(),
        id,
        detail: format!("{kind} at {site}, {state}"),
    };
    Ok(rows.into_iter().map(hit).collect())
}

/// Images by name or family.
///
/// # Errors
/// When the database fails.
pub fn images(db: &mut Database, sought: &Sought) -> StoreResult<Vec<Hit>> {
    sought.look(|pattern| {
        let named = lower(images::name).like(pattern.clone()).escape('\\');
        let of_id = images::id.like(beginning(&sought.q)).escape('\\');
        let family = lower(images::family.assume_not_null());
        let of_family = family.like(pattern).escape('\\');
        let rows = images::table
            .filter(of_family.or(named).or(of_id))
            .order(images::name)
            .limit(sought.limit)
            .select((images::id, images::name, images::family, images::version));
        let rows: Vec<(String, String, Option<String>, Option<String>)> = rows.load(db)?;
        let hit = |(id, name, family, version): (_, _, Option<String>, Option<String>)| Hit {
            id,
            name,
            detail: match (family, version) {
                (Some(family), Some(version)) => format!("{family} {version}"),
                _ => String::new(),
            },
        };
        Ok(rows.into_iter().map(hit).collect())
    })
}

/// Projects by name or what is said of them.
///
/// # Errors
/// When the database fails.
pub fn projects(db: &mut Database, sought: &Sought, only: Option<&[String]>) -> StoreResult<Vec<Hit>> {
    sought.look(|pattern| {
        let said = lower(projects::description).like(pattern.clone()).escape('\\');
        let mut query = projects::table
            .filter(projects::id.like(pattern).escape('\\').or(said))
            .order(projects::id)
            .limit(sought.limit)
            .select((projects::id, projects::description))
            .into_boxed();
        if let Some(only) = only {
            query = query.filter(projects::id.eq_any(only.to_vec()));
        }
        let rows: Vec<(String, String)> = query.load(db)?;
        let hit = |(id, detail): (String, String)| Hit {
            name: id.clone(),
            id,
            detail,
        };
        Ok(rows.into_iter().map(hit).collect())
    })
}

/// Users by name or mail address.
///
/// # Errors
/// When the database fails.
pub fn users(db: &mut Database, sought: &Sought) -> StoreResult<Vec<Hit>> {
    sought.look(|pattern| {
        let named = lower(users::name).like(pattern.clone()).escape('\\');
        let rows = users::table
            .filter(named.or(lower(users::email.assume_not_null()).like(pattern).escape('\\')))
            .order(users::name)
            .limit(sought.limit)
            .select((users::id, users::name, users::email));
        let rows: Vec<(String, String, Option<String>)> = rows.load(db)?;
        let hit = |(id, name, email): (String, String, Option<String>)| Hit {
            id,
            name,
            detail: email.unwrap_or_default(),
        };
        Ok(rows.into_iter().map(hit).collect())
    })
}
