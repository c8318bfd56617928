//! Who asks, and what they may. Made by the authentication of a request; decides, and reads nothing.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use axum::{extract::FromRequestParts, http::request::Parts};

use super::permission::{Permission, Scope};
use crate::error::ApiError;

/// How a caller proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A log-in with a browser.
    Session,
    /// An API key.
    Key,
    /// A one-time token.
    Token,
    /// The single sign-on provider's word.
    Sso,
    /// By a site's emergency code, at the site.
    Local,
    /// Not at all.
    Nothing,
}

impl Via {
    /// As it stands in the audit log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Key => "key",
            Self::Token => "token",
            Self::Sso => "sso",
            Self::Local => "local",
            Self::Nothing => "none",
        }
    }
}

/// Who did something, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// A user's name, or what acted.
    pub name: String,
    /// How they proved it.
    pub via: Via,
    /// From where.
    pub address: String,
}

/// What an object belongs to; decides which grants count for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Target<'a> {
    /// The site it is at.
    pub site: Option<&'a str>,
    /// The project it is in.
    pub project: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Something that belongs to no site and no project.
    pub const GLOBAL: Self = Self {
        site: None,
        project: None,
    };

    /// Something at a site.
    #[must_use]
    pub fn site(site: &'a str) -> Self {
        Self {
            site: Some(site),
            project: None,
        }
    }

    /// Something in a project.
    #[must_use]
    pub fn project(project: &'a str) -> Self {
        Self {
            site: None,
            project: Some(project),
        }
    }
}

/// Which objects a caller may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Visible {
    /// All.
    #[default]
    All,
    /// Those at one of the sites or in one of the projects.
    Only {
        /// The sites.
        sites: BTreeSet<String>,
        /// The projects.
        projects: BTreeSet<String>,
    },
}

impl Visible {
    /// The sites to look at, of all if none is asked for; `None` means every site.
    #[must_use]
    pub fn sites(self, asked: Option<String>) -> Option<Vec<String>> {
        match (self, asked) {
            (Self::All, asked) => asked.map(|site| vec![site]),
            (Self::Only { sites, .. }, None) => Some(sites.into_iter().collect()),
            (Self::Only { sites, .. }, Some(site)) => {
                Some(sites.into_iter().filter(|s| *s == site).collect())
            }
        }
    }

    /// Whether something at `site` and in `project` is among them.
    #[must_use]
    pub fn has(&self, target: Target<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Only { sites, projects } => {
                target.site.is_some_and(|site| sites.contains(site))
                    || target.project.is_some_and(|project| projects.contains(project))
            }
        }
    }
}

/// A grant with its role's permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Where it holds.
    pub scope: Scope,
    /// What it allows.
    pub permissions: BTreeSet<Permission>,
}

/// By what a caller proved who they are, as it is looked up: long answers are judged again by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// The hash of an API key.
    Key(String),
    /// The hash of a session's cookie.
    Session(String),
    /// Not by one that could be taken back.
    None,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user's id.
    pub user: String,
    /// For the audit log.
    pub actor: Actor,
    /// What they hold, narrowed to what their key allows.
    pub held: Arc<[Held]>,
    /// Whether their key allows less than they may.
    pub narrowed: bool,
    /// By what they proved it.
    pub credential: Credential,
}

impl Caller {
    /// Whether a permission is held anywhere at all.
    #[must_use]
    pub fn may_somewhere(&self, permission: Permission) -> bool {
        self.held
            .iter()
            .any(|held| held.permissions.contains(&permission))
    }

    /// Whether something may be done to an object.
    #[must_use]
    pub fn may(&self, permission: Permission, target: Target<'_>) -> bool {
        self.held.iter().any(|held| {
            held.permissions.contains(&permission)
                && match &held.scope {
                    Scope::Global => true,
                    Scope::Site(site) => target.site == Some(site),
                    Scope::Project(project) => target.project == Some(project),
                }
        })
    }

    /// The same, as an answer.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`] that names the permission.
    pub fn require(&self, permission: Permission, target: Target<'_>) -> Result<(), ApiError> {
        if self.may(permission, target) {
            return Ok(());
        }
        Err(forbidden(&self.actor.name, permission, target))
    }

    /// Refuses a narrowed key what would make more of it: its holder's account.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`] for a narrowed key.
    pub fn require_whole(&self) -> Result<(), ApiError> {
        if self.narrowed {
            let detail = "a narrowed API key does not change its holder's account; log in, or use a key that is not narrowed";
            return Err(ApiError::Forbidden(detail.to_owned()));
        }
        Ok(())
    }

    /// What may be seen with a permission.
    #[must_use]
    pub fn visible(&self, permission: Permission) -> Visible {
        let (mut sites, mut projects) = (BTreeSet::new(), BTreeSet::new());
        for held in self.held.iter().filter(|h| h.permissions.contains(&permission)) {
            match &held.scope {
                Scope::Global => return Visible::All,
                Scope::Site(site) => sites.insert(site.clone()),
                Scope::Project(project) => projects.insert(project.clone()),
            };
        }
        Visible::Only { sites, projects }
    }

    /// Whether every one of the permissions is held where `scope` says: nobody gives more than they have.
    #[must_use]
    pub fn covers(&self, permissions: &BTreeSet<Permission>, scope: &Scope) -> bool {
        let target = match scope {
            Scope::Global => Target::GLOBAL,
            Scope::Site(site) => Target::site(site),
            Scope::Project(project) => Target::project(project),
        };
        permissions.iter().all(|permission| self.may(*permission, target))
    }
}

/// The answer to who lacks a permission.
#[must_use]
pub fn forbidden(name: &str, permission: Permission, target: Target<'_>) -> ApiError {
    let place = match target {
        Target {
            project: Some(project),
            ..
        } => format!(" in project `{project}`"),
        Target { site: Some(site), .. } => format!(" at site `{site}`"),
        Target::GLOBAL => String::new(),
    };
    ApiError::Forbidden(format!(
        "`{name}` lacks the permission `{permission}`{place}; an administrator can grant a role that has it"
    ))
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or(ApiError::Unauthorized)
    }
}

/// The address a request came from, as a word for the audit log.
#[must_use]
pub fn address_word(address: Option<IpAddr>) -> String {
    address.map_or_else(
        || "unknown".to_owned(),
        |address| address.to_canonical().to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use Permission as P;

    fn caller(held: &[(&str, &[Permission])]) -> Caller {
        let held = held.iter().map(|(scope, permissions)| Held {
            scope: scope.parse().unwrap(),
            permissions: permissions.iter().copied().collect(),
        });
        Caller {
            user: "u".into(),
            actor: Actor {
                name: "ann".into(),
                via: Via::Key,
                address: "192.0.2.1".into(),
            },
            held: held.collect(),
            narrowed: false,
            credential: Credential::None,
        }
    }

    #[test]
    fn a_grant_counts_only_where_it_holds() {
        let ann = caller(&[
            ("site:bj-1", &[P::MachinesRead]),
            ("project:web", &[P::InstancesRead]),
        ]);
        assert!(ann.may(P::MachinesRead, Target::site("bj-1")));
        assert!(!ann.may(P::MachinesRead, Target::site("bj-2")));
        assert!(!ann.may(P::MachinesRead, Target::GLOBAL));
        assert!(!ann.may(P::MachinesRead, Target::project("web")));
        let both = Target {
            site: Some("bj-2"),
            project: Some("web"),
        };
        assert!(ann.may(P::InstancesRead, both));
        assert!(ann.may_somewhere(P::InstancesRead) && !ann.may_somewhere(P::InstancesWrite));
        assert!(ann.visible(P::InstancesRead).has(both));
        assert!(!ann.visible(P::InstancesRead).has(Target::project("db")));
        let refusal = ann.require(P::MachinesRead, Target::site("bj-2")).unwrap_err();
        assert!(
            refusal.to_string().contains("`machines.read` at site `bj-2`"),
            "{refusal}"
        );
    }

    #[test]
    fn nobody_gives_more_than_they_have() {
        let owner = caller(&[("project:web", &[P::InstancesRead, P::MembersWrite])]);
        let web = Scope::Project("web".into());
        assert!(owner.covers(&[P::InstancesRead].into(), &web));
        assert!(!owner.covers(&[P::InstancesWrite].into(), &web));
        assert!(!owner.covers(&[P::InstancesRead].into(), &Scope::Global));
        assert_eq!(
            caller(&[("global", &[P::InstancesRead])]).visible(P::InstancesRead),
            Visible::All
        );
    }
}
