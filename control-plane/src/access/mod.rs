//! Who may do what: permissions, roles, callers, passwords, the table of routes, and the one place where a request is
//! let through. Nothing here changes an object.

pub mod authenticate;
pub mod caller;
pub mod oidc;
pub mod password;
pub mod permission;
pub mod proxies;
pub mod routes;
pub mod throttle;

pub use caller::{Actor, Caller, Target, Via, Visible};
pub use permission::{Permission, Scope};
