//! What every route needs, on one page. A route that is not here is refused to everybody, so a new one cannot be open by
//! mistake; a test walks the API's document against this table. Where a route's object belongs to a site or project, its
//! handler asks again, for that object.

use axum::http::Method;

use super::permission::Permission as P;

/// What a caller must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: the request carries its own proof, or says nothing but that the process lives.
    Nothing,
    /// To be somebody: it is about the caller alone, or about what anybody may know of this API.
    Login,
    /// A permission, somewhere: the handler asks for its own object.
    Permission(P),
    /// A permission held everywhere: the object belongs to no site and no project.
    Global(P),
}

use Needs::{Global, Login, Nothing, Permission};

/// Method, path as in the API's document, need.
pub const ROUTES: &[(&str, &str, Needs)] = &[
    ("GET", "/healthz", Nothing),
    ("GET", "/readyz", Nothing),
    ("GET", "/api/v1/setup", Nothing),
    ("POST", "/api/v1/setup", Nothing),
    ("POST", "/api/v1/login", Nothing),
    ("POST", "/api/v1/join", Nothing),
    // Signed by the key its edge joined with.
    ("POST", "/api/v1/sites/{site}/renew", Nothing),
    ("GET", "/api/v1/sites/{site}/edges/{report_key}", Nothing),
    ("GET", "/api/v1/auth/oidc/login", Nothing),
    ("GET", "/api/v1/auth/oidc/callback", Nothing),
    ("POST", "/api/v1/auth/oidc/key", Nothing),
    ("GET", "/api/v1/chunks/{digest}", Nothing),
    ("GET", "/metrics", Global(P::MetricsRead)),
    ("GET", "/api/openapi.json", Login),
    ("GET", "/docs", Login),
    ("GET", "/docs/", Login),
    ("GET", "/docs/{*rest}", Login),
    ("POST", "/api/v1/logout", Login),
    ("GET", "/api/v1/me", Login),
    ("PATCH", "/api/v1/me", Login),
    ("GET", "/api/v1/me/keys", Login),
    ("POST", "/api/v1/me/keys", Login),
    ("DELETE", "/api/v1/me/keys/{key}", Login),
    ("GET", "/api/v1/me/ssh-keys", Login),
    ("POST", "/api/v1/me/ssh-keys", Login),
    ("DELETE", "/api/v1/me/ssh-keys/{key}", Login),
    ("GET", "/api/v1/me/views", Login),
    ("PUT", "/api/v1/me/views/{view}", Login),
    ("DELETE", "/api/v1/me/views/{view}", Login),
    ("GET", "/api/v1/users", Global(P::UsersRead)),
    ("POST", "/api/v1/users", Global(P::UsersWrite)),
    ("GET", "/api/v1/users/{user}", Global(P::UsersRead)),
    ("PATCH", "/api/v1/users/{user}", Global(P::UsersWrite)),
    ("DELETE", "/api/v1/users/{user}", Global(P::UsersWrite)),
    ("POST", "/api/v1/users/{user}/grants", Global(P::UsersWrite)),
    (
        "DELETE",
        "/api/v1/users/{user}/grants/{grant}",
        Global(P::UsersWrite),
    ),
    ("GET", "/api/v1/permissions", Login),
    ("GET", "/api/v1/roles", Global(P::RolesRead)),
    ("GET", "/api/v1/roles/{role}", Global(P::RolesRead)),
    ("PUT", "/api/v1/roles/{role}", Global(P::RolesWrite)),
    ("DELETE", "/api/v1/roles/{role}", Global(P::RolesWrite)),
    ("GET", "/api/v1/projects", Permission(P::ProjectsRead)),
    ("POST", "/api/v1/projects", Global(P::ProjectsWrite)),
    ("GET", "/api/v1/projects/{project}", Permission(P::ProjectsRead)),
    (
        "PATCH",
        "/api/v1/projects/{project}",
        Permission(P::ProjectsWrite),
    ),
    (
        "DELETE",
        "/api/v1/projects/{project}",
        Permission(P::ProjectsWrite),
    ),
    (
        "PUT",
        "/api/v1/projects/{project}/members/{user}",
        Permission(P::MembersWrite),
    ),
    (
        "DELETE",
        "/api/v1/projects/{project}/members/{user}",
        Permission(P::MembersWrite),
    ),
    (
        "PUT",
        "/api/v1/projects/{project}/quotas/{machine_type}",
        Permission(P::QuotasWrite),
    ),
    ("GET", "/api/v1/audit", Global(P::AuditRead)),
    // Counts what the caller may see, and nothing for who may see nothing.
    ("GET", "/api/v1/overview", Login),
    // Looks at what the caller may see alone.
    ("GET", "/api/v1/search", Login),
    ("GET", "/api/v1/sites", Permission(P::SitesRead)),
    ("POST", "/api/v1/sites", Permission(P::SitesWrite)),
    ("GET", "/api/v1/sites/{site}", Permission(P::SitesRead)),
    ("PATCH", "/api/v1/sites/{site}", Permission(P::SitesWrite)),
    ("DELETE", "/api/v1/sites/{site}", Permission(P::SitesWrite)),
    ("POST", "/api/v1/sites/{site}/tokens", Permission(P::SitesJoin)),
    ("POST", "/api/v1/sites/{site}/revoke", Permission(P::SitesJoin)),
    (
        "POST",
        "/api/v1/sites/{site}/emergency-code",
        Permission(P::SitesWrite),
    ),
    (
        "DELETE",
        "/api/v1/sites/{site}/emergency-code",
        Permission(P::SitesWrite),
    ),
    ("GET", "/api/v1/signing-keys", Global(P::SitesJoin)),
    ("POST", "/api/v1/signing-keys", Global(P::SitesJoin)),
    ("POST", "/api/v1/signing-keys/{key}/retire", Global(P::SitesJoin)),
    (
        "GET",
        "/api/v1/sites/{site}/addresses",
        Permission(P::MachinesRead),
    ),
    (
        "POST",
        "/api/v1/sites/{site}/reservations",
        Permission(P::SitesWrite),
    ),
    (
        "DELETE",
        "/api/v1/sites/{site}/reservations/{reservation}",
        Permission(P::SitesWrite),
    ),
    ("GET", "/api/v1/machines", Permission(P::MachinesRead)),
    ("POST", "/api/v1/machines", Permission(P::MachinesWrite)),
    ("POST", "/api/v1/machines/import", Permission(P::MachinesWrite)),
    ("GET", "/api/v1/machines/{machine}", Permission(P::MachinesRead)),
    (
        "PATCH",
        "/api/v1/machines/{machine}",
        Permission(P::MachinesWrite),
    ),
    (
        "DELETE",
        "/api/v1/machines/{machine}",
        Permission(P::MachinesWrite),
    ),
    (
        "POST",
        "/api/v1/machines/{machine}/{move}",
        Permission(P::MachinesWrite),
    ),
    (
        "POST",
        "/api/v1/machines/{machine}/bmc-password",
        Permission(P::MachinesWrite),
    ),
    (
        "POST",
        "/api/v1/machines/{machine}/power",
        Permission(P::MachinesWrite),
    ),
    (
        "GET",
        "/api/v1/machines/{machine}/order",
        Permission(P::MachinesRead),
    ),
    (
        "GET",
        "/api/v1/machines/{machine}/report",
        Permission(P::MachinesRead),
    ),
    (
        "GET",
        "/api/v1/machines/{machine}/history",
        Permission(P::MachinesRead),
    ),
    ("GET", "/api/v1/discovered", Permission(P::MachinesRead)),
    ("GET", "/api/v1/stock", Permission(P::MachinesRead)),
    ("GET", "/api/v1/machine-types", Permission(P::MachinesRead)),
    (
        "GET",
        "/api/v1/machine-types/{machine_type}",
        Permission(P::MachinesRead),
    ),
    (
        "PUT",
        "/api/v1/machine-types/{machine_type}",
        Global(P::MachinesWrite),
    ),
    (
        "DELETE",
        "/api/v1/machine-types/{machine_type}",
        Global(P::MachinesWrite),
    ),
    (
        "POST",
        "/api/v1/machine-types/{machine_type}/preview",
        Permission(P::MachinesRead),
    ),
    ("GET", "/api/v1/events", Permission(P::EventsRead)),
    (
        "GET",
        "/api/v1/machines/{machine}/timeline",
        Permission(P::EventsRead),
    ),
    (
        "GET",
        "/api/v1/instances/{instance}/timeline",
        Permission(P::EventsRead),
    ),
    ("GET", "/api/v1/jobs/{job}/timeline", Permission(P::EventsRead)),
    ("GET", "/api/v1/webhooks", Global(P::WebhooksRead)),
    ("POST", "/api/v1/webhooks", Global(P::WebhooksWrite)),
    ("GET", "/api/v1/webhooks/{webhook}", Global(P::WebhooksRead)),
    ("PATCH", "/api/v1/webhooks/{webhook}", Global(P::WebhooksWrite)),
    ("DELETE", "/api/v1/webhooks/{webhook}", Global(P::WebhooksWrite)),
    (
        "POST",
        "/api/v1/webhooks/{webhook}/test",
        Global(P::WebhooksWrite),
    ),
    (
        "POST",
        "/api/v1/webhooks/{webhook}/secret",
        Global(P::WebhooksWrite),
    ),
    (
        "GET",
        "/api/v1/webhooks/{webhook}/deliveries",
        Global(P::WebhooksRead),
    ),
    ("GET", "/api/v1/alert-rules", Global(P::AlertsRead)),
    ("POST", "/api/v1/alert-rules", Global(P::AlertsWrite)),
    ("GET", "/api/v1/alert-rules/{rule}", Global(P::AlertsRead)),
    ("PATCH", "/api/v1/alert-rules/{rule}", Global(P::AlertsWrite)),
    ("DELETE", "/api/v1/alert-rules/{rule}", Global(P::AlertsWrite)),
    ("GET", "/api/v1/alerts", Global(P::AlertsRead)),
    ("GET", "/api/v1/images", Permission(P::ImagesRead)),
    ("POST", "/api/v1/images", Global(P::ImagesWrite)),
    ("GET", "/api/v1/images/{image}", Permission(P::ImagesRead)),
    ("PATCH", "/api/v1/images/{image}", Global(P::ImagesWrite)),
    ("DELETE", "/api/v1/images/{image}", Global(P::ImagesWrite)),
    ("GET", "/api/v1/instances", Permission(P::InstancesRead)),
    ("POST", "/api/v1/instances", Permission(P::InstancesWrite)),
    (
        "GET",
        "/api/v1/instances/{instance}",
        Permission(P::InstancesRead),
    ),
    (
        "DELETE",
        "/api/v1/instances/{instance}",
        Permission(P::InstancesWrite),
    ),
    (
        "PATCH",
        "/api/v1/instances/{instance}",
        Permission(P::InstancesWrite),
    ),
    (
        "POST",
        "/api/v1/instances/{instance}/start",
        Permission(P::InstancesWrite),
    ),
    (
        "POST",
        "/api/v1/instances/{instance}/stop",
        Permission(P::InstancesWrite),
    ),
    (
        "POST",
        "/api/v1/instances/{instance}/restart",
        Permission(P::InstancesWrite),
    ),
    (
        "POST",
        "/api/v1/instances/{instance}/reinstall",
        Permission(P::InstancesWrite),
    ),
    (
        "POST",
        "/api/v1/instances/{instance}/rescue",
        Permission(P::InstancesWrite),
    ),
    (
        "POST",
        "/api/v1/instances/{instance}/reset-password",
        Permission(P::InstancesWrite),
    ),
    ("POST", "/api/v1/instances/plan", Permission(P::InstancesWrite)),
    (
        "POST",
        "/api/v1/instances/{instance}/reinstall/plan",
        Permission(P::InstancesWrite),
    ),
    ("POST", "/api/v1/instances/batch", Permission(P::InstancesWrite)),
    (
        "POST",
        "/api/v1/instances/batch/{verb}",
        Permission(P::InstancesWrite),
    ),
    ("POST", "/api/v1/jobs/{job}/retry", Permission(P::JobsWrite)),
    ("GET", "/api/v1/jobs", Permission(P::JobsRead)),
    ("GET", "/api/v1/jobs/{job}", Permission(P::JobsRead)),
    ("GET", "/api/v1/jobs/{job}/log", Permission(P::JobsRead)),
    ("POST", "/api/v1/jobs/{job}/cancel", Permission(P::JobsWrite)),
];

/// What a route needs; `None` for one that is not in the table.
#[must_use]
pub fn needs(method: &Method, path: &str) -> Option<Needs> {
    // HEAD is answered by the handlers of GET.
    let method = if method == Method::HEAD {
        "GET"
    } else {
        method.as_str()
    };
    ROUTES
        .iter()
        .find(|(m, p, _)| *m == method && *p == path)
        .map(|(_, _, needs)| *needs)
}

/// Whether a path is in the table, with whatever method.
#[must_use]
pub fn has_path(path: &str) -> bool {
    ROUTES.iter().any(|(_, p, _)| *p == path)
}
