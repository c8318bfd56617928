//! What a caller may see, as conditions of queries: the one place that says so. Reads and decides nothing.

use diesel::{dsl::auto_type, prelude::*};

use super::schema::{instances, jobs};
use crate::access::Visible;

/// The sites and the projects that somebody is bound to; `None` is everything.
pub(super) fn bounds(visible: &Visible) -> Option<(Vec<String>, Vec<String>)> {
    match visible {
        Visible::All => None,
        Visible::Only { sites, projects } => Some((
            sites.iter().cloned().collect(),
            projects.iter().cloned().collect(),
        )),
    }
}

/// Jobs at the sites, and of instances in the projects.
#[auto_type(no_type_alias)]
pub(super) fn jobs_of(sites: Vec<String>, projects: Vec<String>) -> _ {
    let theirs = instances::table
        .filter(instances::project.eq_any(projects))
        .select(instances::id.nullable());
    jobs::site.eq_any(sites).or(jobs::instance.eq_any(theirs))
}

/// Instances at the sites, and in the projects.
#[auto_type(no_type_alias)]
pub(super) fn instances_of(sites: Vec<String>, projects: Vec<String>) -> _ {
    instances::site
        .eq_any(sites)
        .or(instances::project.eq_any(projects))
}
