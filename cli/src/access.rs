//! `slipway user`, `slipway role` and `slipway project`: who may do what where, and how much a project may hold.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    client::Client,
    output::{self, Format},
    terminal::{self, FromStdin},
};

/// Users.
#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// List users
    List,
    /// Add a user; they may nothing until a role is granted to them
    Create {
        /// Their name: 1 to 63 of a-z, 0-9 and '-'
        name: String,
        /// Where mail reaches them
        #[arg(long)]
        email: Option<String>,
        /// Ask for a password of 12 characters or more; without one they cannot log in by password
        #[arg(long, conflicts_with = "password_stdin")]
        ask_password: bool,
        #[command(flatten)]
        from_stdin: FromStdin,
    },
    /// Show a user
    Show { user: String },
    /// Let a user in again
    Enable { user: String },
    /// Shut a user out; their sessions end
    Disable { user: String },
    /// Remove a user, with their keys, sessions and grants
    Delete { user: String },
    /// Give a user a new password; their sessions end
    SetPassword {
        user: String,
        #[command(flatten)]
        from_stdin: FromStdin,
    },
    /// Let a user log in by single sign-on, as the one whom the provider calls SUBJECT in `sub`
    Link { user: String, subject: String },
    /// Let a user no longer log in by single sign-on; their sessions end
    Unlink { user: String },
    /// Grant a role to a user
    Grant(Grant),
    /// Take a role back from a user
    Revoke(Grant),
}

/// A role that somebody holds somewhere.
#[derive(Debug, Args)]
pub(crate) struct Grant {
    user: String,
    role: String,
    /// global, site:NAME or project:NAME
    #[arg(long)]
    scope: String,
}

/// Roles.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// List roles: the built-in ones, then those that were made
    List,
    /// Show a role
    Show { role: String },
    /// Make a role, or change what it allows
    Set {
        role: String,
        /// One thing it allows; may be repeated
        #[arg(long = "permission", required = true)]
        permissions: Vec<String>,
    },
    /// Remove a role that nobody holds
    Delete { role: String },
    /// List every permission there is
    Permissions,
}

/// Projects.
#[derive(Debug, Subcommand)]
pub(crate) enum Project {
    /// List projects
    List,
    /// Make a project
    Create {
        /// Its name: 1 to 63 of a-z, 0-9 and '-'
        project: String,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Show a project
    Show { project: String },
    /// Change a project's description
    Describe { project: String, description: String },
    /// Remove a project that has no instances
    Delete { project: String },
    /// Who is in a project
    #[command(subcommand)]
    Member(Member),
    /// How many machines a project may hold
    #[command(subcommand)]
    Quota(Quota),
}

/// Members of a project.
#[derive(Debug, Subcommand)]
pub(crate) enum Member {
    /// Let a user into a project, or change their role in it
    Add {
        project: String,
        user: String,
        /// owner, member, viewer or a role that was made
        #[arg(long, default_value = "member")]
        role: String,
    },
    /// Take a user out of a project
    Remove { project: String, user: String },
}

/// Quotas of a project.
#[derive(Debug, Subcommand)]
pub(crate) enum Quota {
    /// Set how many machines a project may hold
    #[command(group = ArgGroup::new("how_many").required(true))]
    Set {
        project: String,
        /// At most so many
        #[arg(group = "how_many")]
        machines: Option<u32>,
        /// As many as it likes
        #[arg(long, group = "how_many")]
        unlimited: bool,
        /// Of this machine type only [default: of all together]
        #[arg(long = "type", value_name = "TYPE")]
        machine_type: Option<String>,
    },
}

const USER: [(&str, &str); 6] = [
    ("user", "/name"),
    ("email", "/email"),
    ("password", "/has_password"),
    ("disabled", "/disabled"),
    ("grants", "/grants"),
    ("created", "/created_at"),
];
const GRANT: [(&str, &str); 3] = [("role", "/role"), ("scope", "/scope"), ("id", "/id")];
const ROLE: [(&str, &str); 3] = [
    ("role", "/name"),
    ("built in", "/built_in"),
    ("permissions", "/permissions"),
];
const PROJECT: [(&str, &str); 5] = [
    ("project", "/id"),
    ("instances", "/instances"),
    ("quotas", "/quotas"),
    ("members", "/members"),
    ("description", "/description"),
];

/// Carries out what is asked about users.
pub(crate) async fn run_user(client: &Client, format: Format, user: User) -> anyhow::Result<ExitCode> {
    let of = |user: &str, what: &str| format!("/api/v1/users/{user}{what}");
    let answer = match user {
        User::List => client.all("/api/v1/users", &[]).await?,
        User::Create {
            name,
            email,
            ask_password,
            from_stdin,
        } => {
            let mut body = json!({ "name": name, "email": email });
            if ask_password || from_stdin.password_stdin {
                body["password"] =
                    terminal::new_password(&format!("New password of {name}"), from_stdin)?.into();
            }
            client.post("/api/v1/users", body).await?
        }
        User::Show { user } => client.get(&of(&user, "")).await?,
        User::Enable { user } => client.patch(&of(&user, ""), json!({ "disabled": false })).await?,
        User::Disable { user } => client.patch(&of(&user, ""), json!({ "disabled": true })).await?,
        User::Link { user, subject } => {
            client
                .patch(&of(&user, ""), json!({ "subject": subject }))
                .await?
        }
        User::Unlink { user } => client.patch(&of(&user, ""), json!({ "subject": "" })).await?,
        User::SetPassword { user, from_stdin } => {
            let password = terminal::new_password(&format!("New password of {user}"), from_stdin)?;
            client
                .patch(&of(&user, ""), json!({ "password": password }))
                .await?
        }
        User::Delete { user } => {
            client.delete(&of(&user, "")).await?;
            return Ok(ExitCode::SUCCESS);
        }
        User::Grant(Grant { user, role, scope }) => {
            let body = json!({ "role": role, "scope": scope });
            let answer = client.post(&of(&user, "/grants"), body).await?;
            output::print(format, &answer, &GRANT);
            return Ok(ExitCode::SUCCESS);
        }
        User::Revoke(grant) => {
            let id = grant_id(&client.get(&of(&grant.user, "")).await?, &grant)?;
            client.delete(&of(&grant.user, &format!("/grants/{id}"))).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let grant = |grant: &Value| {
        Some(format!(
            "{}@{}",
            grant["role"].as_str()?,
            grant["scope"].as_str()?
        ))
    };
    output::print(format, &worded(format, answer, "grants", grant), &USER);
    Ok(ExitCode::SUCCESS)
}

/// The id of the grant that is meant: people know role and scope.
fn grant_id(user: &Value, meant: &Grant) -> anyhow::Result<String> {
    let grants = user["grants"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_meant =
        |grant: &&Value| grant["role"] == meant.role.as_str() && grant["scope"] == meant.scope.as_str();
    let found = grants
        .iter()
        .find(is_meant)
        .and_then(|grant| grant["id"].as_str());
    let id = found.with_context(|| {
        format!(
            "`{}` does not hold the role `{}` at {}; `slipway user show` lists what they hold",
            meant.user, meant.role, meant.scope
        )
    })?;
    Ok(id.to_owned())
}

/// In a table, objects within rows become a word each; JSON stays as the API answered.
fn worded(format: Format, mut answer: Value, list: &str, word: impl Fn(&Value) -> Option<String>) -> Value {
    if format == Format::Json {
        return answer;
    }
    let change = |row: &mut Value| {
        if let Some(objects) = row[list].as_array() {
            row[list] = objects.iter().filter_map(&word).collect::<Vec<_>>().into();
        }
    };
    if answer["items"].is_array() {
        answer["items"]
            .as_array_mut()
            .into_iter()
            .flatten()
            .for_each(change);
    } else {
        change(&mut answer);
    }
    answer
}

/// Carries out what is asked about roles.
pub(crate) async fn run_role(client: &Client, format: Format, role: Role) -> anyhow::Result<ExitCode> {
    let of = |role: &str| format!("/api/v1/roles/{role}");
    let answer = match role {
        Role::List => client.get("/api/v1/roles").await?,
        Role::Show { role } => client.get(&of(&role)).await?,
        Role::Set { role, permissions } => {
            client
                .put(&of(&role), json!({ "permissions": permissions }))
                .await?
        }
        Role::Delete { role } => {
            client.delete(&of(&role)).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Role::Permissions => {
            let answer = client.get("/api/v1/permissions").await?;
            output::print(format, &answer, &[("permission", "")]);
            return Ok(ExitCode::SUCCESS);
        }
    };
    output::print(format, &answer, &ROLE);
    Ok(ExitCode::SUCCESS)
}

/// Carries out what is asked about projects.
pub(crate) async fn run_project(
    client: &Client,
    format: Format,
    project: Project,
) -> anyhow::Result<ExitCode> {
    let of = |project: &str, what: &str| format!("/api/v1/projects/{project}{what}");
    let answer = match project {
        Project::List => client.all("/api/v1/projects", &[]).await?,
        Project::Create { project, description } => {
            let body = json!({ "id": project, "description": description });
            client.post("/api/v1/projects", body).await?
        }
        Project::Show { project } => client.get(&of(&project, "")).await?,
        Project::Describe { project, description } => {
            let body = json!({ "description": description });
            client.patch(&of(&project, ""), body).await?
        }
        Project::Member(Member::Add { project, user, role }) => {
            let path = of(&project, &format!("/members/{user}"));
            client.put(&path, json!({ "role": role })).await?
        }
        Project::Quota(Quota::Set {
            project,
            machines,
            machine_type,
            ..
        }) => {
            let machine_type = machine_type.as_deref().unwrap_or("*");
            let path = of(&project, &format!("/quotas/{machine_type}"));
            client.put(&path, json!({ "machines": machines })).await?
        }
        Project::Delete { project } => {
            client.delete(&of(&project, "")).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Project::Member(Member::Remove { project, user }) => {
            client.delete(&of(&project, &format!("/members/{user}"))).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let member = |member: &Value| {
        Some(format!(
            "{}:{}",
            member["user"].as_str()?,
            member["role"].as_str()?
        ))
    };
    let quota = |quota: &Value| {
        Some(format!(
            "{}:{}/{}",
            quota["machine_type"].as_str()?,
            quota["used"],
            quota["machines"]
        ))
    };
    let answer = worded(format, worded(format, answer, "members", member), "quotas", quota);
    output::print(format, &answer, &PROJECT);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Value {
        json!({ "name": "ann", "grants": [
            { "id": "g-1", "role": "viewer", "scope": "global" },
            { "id": "g-2", "role": "operator", "scope": "site:bj-1" },
        ]})
    }

    #[test]
    fn a_grant_is_found_by_role_and_scope() {
        let grant = |role: &str, scope: &str| Grant {
            user: "ann".into(),
            role: role.into(),
            scope: scope.into(),
        };
        assert_eq!(grant_id(&ann(), &grant("operator", "site:bj-1")).unwrap(), "g-2");
        let error = grant_id(&ann(), &grant("operator", "global")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`ann` does not hold the role `operator` at global"),
            "{error}"
        );
    }

    #[test]
    fn objects_are_words_in_tables_and_stay_in_json() {
        let word = |grant: &Value| Some(grant["role"].as_str()?.to_owned());
        let list = json!({ "items": [ann()], "next": null });
        assert_eq!(worded(Format::Json, list.clone(), "grants", word), list);
        let shown = worded(Format::Table, list, "grants", word);
        assert_eq!(shown["items"][0]["grants"], json!(["viewer", "operator"]));
        assert_eq!(
            worded(Format::Table, ann(), "grants", word)["grants"],
            json!(["viewer", "operator"])
        );
    }
}
