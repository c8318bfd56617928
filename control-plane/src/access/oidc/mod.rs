//! Single sign-on by OpenID Connect: what a provider says of somebody, and how it is known to be its word.

pub mod groups;
pub mod jwks;
pub mod provider;
pub mod token;
