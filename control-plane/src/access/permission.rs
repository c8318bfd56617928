//! What may be done, the built-in roles, and where a role holds. Pure; knows no request and no database.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        /// One thing that may be done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Permission {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
        }

        impl Permission {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As it stands in roles and answers.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

permissions! {
    /// See sites.
    SitesRead = "sites.read";
    /// Make, change and remove sites.
    SitesWrite = "sites.write";
    /// Make join tokens.
    SitesJoin = "sites.join";
    /// See machines, their orders and reports.
    MachinesRead = "machines.read";
    /// Enrol, change and remove machines.
    MachinesWrite = "machines.write";
    /// See images.
    ImagesRead = "images.read";
    /// Upload and remove images.
    ImagesWrite = "images.write";
    /// See instances.
    InstancesRead = "instances.read";
    /// Ask for instances, work on them, give them back.
    InstancesWrite = "instances.write";
    /// See jobs.
    JobsRead = "jobs.read";
    /// Call jobs off, try them again.
    JobsWrite = "jobs.write";
    /// See projects, their members and quotas.
    ProjectsRead = "projects.read";
    /// Make, change and remove projects.
    ProjectsWrite = "projects.write";
    /// Say who is in a project.
    MembersWrite = "projects.members";
    /// Set quotas.
    QuotasWrite = "quotas.write";
    /// See users and what they may do.
    UsersRead = "users.read";
    /// Make, change and remove users, and grant roles.
    UsersWrite = "users.write";
    /// See roles.
    RolesRead = "roles.read";
    /// Make, change and remove roles.
    RolesWrite = "roles.write";
    /// Read the audit log.
    AuditRead = "audit.read";
    /// Read events.
    EventsRead = "events.read";
    /// See webhooks.
    WebhooksRead = "webhooks.read";
    /// Make, change and remove webhooks.
    WebhooksWrite = "webhooks.write";
    /// See alerts and their rules.
    AlertsRead = "alerts.read";
    /// Make, change and remove alert rules.
    AlertsWrite = "alerts.write";
    /// Read the metrics.
    MetricsRead = "metrics.read";
}

// By hand: the derive does not see through the macro to the words.
impl PartialSchema for Permission {
    fn schema() -> RefOr<Schema> {
        let words = Self::ALL.iter().map(|permission| permission.word());
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(words));
        schema.description(Some("One thing that may be done.")).into()
    }
}

impl ToSchema for Permission {}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Permission {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().copied().find(|p| p.word() == word);
        known.ok_or_else(|| format!("there is no permission `{word}`; `slipway role permissions` lists them"))
    }
}

/// Roles every control plane has; they cannot be changed.
pub const BUILT_IN: [&str; 5] = ["admin", "operator", "owner", "member", "viewer"];

/// What a built-in role may.
#[must_use]
pub fn built_in(role: &str) -> Option<BTreeSet<Permission>> {
    use Permission as P;
    let administer = [
        P::UsersRead,
        P::UsersWrite,
        P::RolesRead,
        P::RolesWrite,
        P::AuditRead,
    ];
    let member = [
        P::SitesRead,
        P::ImagesRead,
        P::InstancesRead,
        P::InstancesWrite,
        P::JobsRead,
        P::JobsWrite,
        P::ProjectsRead,
        P::EventsRead,
    ];
    let reads = |p: &&Permission| p.word().ends_with(".read");
    let all = Permission::ALL.iter();
    Some(match role {
        "admin" => all.copied().collect(),
        "operator" => all.copied().filter(|p| !administer.contains(p)).collect(),
        "owner" => member.into_iter().chain([P::MembersWrite]).collect(),
        "member" => member.into_iter().collect(),
        "viewer" => all
            .filter(reads)
            .copied()
            .filter(|p| !administer.contains(p))
            .collect(),
        _ => return None,
    })
}

/// Where a role holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// At one site.
    Site(String),
    /// In one project.
    Project(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Site(site) => write!(f, "site:{site}"),
            Self::Project(project) => write!(f, "project:{project}"),
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "global" => Ok(Self::Global),
            Some(("site", site)) if !site.is_empty() => Ok(Self::Site(site.to_owned())),
            Some(("project", project)) if !project.is_empty() => Ok(Self::Project(project.to_owned())),
            _ => Err(format!(
                "`{text}` is not a scope: use global, site:NAME or project:NAME"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_roles_are_what_they_are_named() {
        let of = |role| built_in(role).unwrap();
        assert_eq!(of("admin").len(), Permission::ALL.len());
        assert!(of("operator").contains(&Permission::MachinesWrite));
        assert!(!of("operator").contains(&Permission::UsersWrite));
        assert!(of("owner").is_superset(&of("member")));
        assert!(
            !of("member").contains(&Permission::MachinesRead),
            "tenants see no hardware"
        );
        assert!(of("viewer").iter().all(|p| p.word().ends_with(".read")));
        assert!(!of("viewer").contains(&Permission::AuditRead));
        assert!(built_in("root").is_none());
        assert!(BUILT_IN.iter().all(|role| built_in(role).is_some()));
    }

    #[test]
    fn words_and_scopes_go_there_and_back() {
        for permission in Permission::ALL {
            assert_eq!(permission.word().parse(), Ok(*permission));
            assert_eq!(serde_json::to_value(permission).unwrap(), permission.word());
        }
        for scope in ["global", "site:bj-1", "project:web"] {
            assert_eq!(scope.parse::<Scope>().unwrap().to_string(), scope);
        }
        for bad in ["", "site:", "planet:earth", "Global"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }
}
