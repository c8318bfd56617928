//! One text looked for in everything the caller may see. Reads in one transaction; what may not be seen is not looked at.

use crate::{
    access::{Caller, Permission, Target, Visible},
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult,
        search::{self, Hit, Sought},
    },
};

/// Fewest letters that are looked for: one is in nearly everything.
const FEWEST: usize = 2;

/// What a hit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A site.
    Site,
    /// A machine.
    Machine,
    /// An instance.
    Instance,
    /// A job.
    Job,
    /// An image.
    Image,
    /// A project.
    Project,
    /// A user.
    User,
}

impl Kind {
    /// Its word in the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Machine => "machine",
            Self::Instance => "instance",
            Self::Job => "job",
            Self::Image => "image",
            Self::Project => "project",
            Self::User => "user",
        }
    }
}

/// The sites to look at; `None` is all of them: whoever works in a project sees all, to choose where.
fn sites_of(visible: Visible) -> Option<Vec<String>> {
    match visible {
        Visible::Only { sites, projects } if projects.is_empty() => Some(sites.into_iter().collect()),
        _ => None,
    }
}

/// The projects to look at; `None` is all of them.
fn projects_of(visible: Visible) -> Option<Vec<String>> {
    match visible {
        Visible::All => None,
        Visible::Only { projects, .. } => Some(projects.into_iter().collect()),
    }
}

fn find(db: &mut Database, caller: &Caller, sought: &Sought) -> StoreResult<Vec<(Kind, Hit)>> {
    let mut found = Vec::new();
    let mut add = |kind: Kind, hits: Vec<Hit>| found.extend(hits.into_iter().map(|hit| (kind, hit)));
    let only = sites_of(caller.visible(Permission::SitesRead));
    add(Kind::Site, search::sites(db, sought, only.as_deref())?);
    let may = |permission| caller.may_somewhere(permission);
    if may(Permission::MachinesRead) {
        let only = caller.visible(Permission::MachinesRead).sites(None);
        add(Kind::Machine, search::machines(db, sought, only.as_deref())?);
    }
    if may(Permission::InstancesRead) {
        let visible = caller.visible(Permission::InstancesRead);
        add(Kind::Instance, search::instances(db, sought, &visible)?);
    }
    if may(Permission::JobsRead) {
        let visible = caller.visible(Permission::JobsRead);
        add(Kind::Job, search::jobs(db, sought, &visible)?);
    }
    if may(Permission::ImagesRead) {
        add(Kind::Image, search::images(db, sought)?);
    }
    if may(Permission::ProjectsRead) {
        let only = projects_of(caller.visible(Permission::ProjectsRead));
        add(Kind::Project, search::projects(db, sought, only.as_deref())?);
    }
    if caller.may(Permission::UsersRead, Target::GLOBAL) {
        add(Kind::User, search::users(db, sought)?);
    }
    Ok(found)
}

/// How well a hit fits: what is called so comes before what begins so, and that before the rest.
fn rank(hit: &Hit, q: &str) -> u8 {
    let (id, name) = (hit.id.to_lowercase(), hit.name.to_lowercase());
    if id == q || name == q {
        0
    } else if id.starts_with(q) || name.starts_with(q) {
        1
    } else {
        2
    }
}

/// Looks for a text: up to `limit` hits of each kind, the best first.
///
/// # Errors
/// `query` for a text that is too short; when the store fails.
pub async fn search(app: &App, caller: &Caller, q: &str, limit: i64) -> Result<Vec<(Kind, Hit)>, ApiError> {
    let q = q.trim().to_lowercase();
    if q.chars().count() < FEWEST {
        let detail = format!("q: look for {FEWEST} letters or more");
        return Err(ApiError::Bad("query", detail));
    }
    let (caller, sought) = (caller.clone(), Sought { q: q.clone(), limit });
    let mut found = app.store.read(move |db| find(db, &caller, &sought)).await?;
    // A stable sort: kinds stay in their order among hits that fit alike.
    found.sort_by_key(|(_, hit)| rank(hit, &q));
    Ok(found)
}
