//! Settings of single sign-on. Read here, used by [`crate::access::oidc`].

use std::path::PathBuf;

use clap::Args;
use reqwest::Url;
use serde::Deserialize;
use slipway_protocol::seal::Secret;

use super::ConfigError;
use crate::access::oidc::groups::Rule;

/// As given, before defaults. In the file they stand in a table `[oidc]`.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GivenOidc {
    /// URL of an OpenID provider for single sign-on, as its discovery document names itself
    #[arg(long, env = "SLIPWAY_OIDC_ISSUER")]
    #[serde(rename = "issuer")]
    pub oidc_issuer: Option<String>,
    /// Our client id at the provider [default: slipway]
    #[arg(long, env = "SLIPWAY_OIDC_CLIENT_ID")]
    #[serde(rename = "client_id")]
    pub oidc_client_id: Option<String>,
    /// File with our client secret; without one we are a public client
    #[arg(long, env = "SLIPWAY_OIDC_CLIENT_SECRET_FILE")]
    #[serde(rename = "client_secret_file")]
    pub oidc_client_secret_file: Option<PathBuf>,
    /// Scopes to ask for [default: openid profile email]
    #[arg(long, env = "SLIPWAY_OIDC_SCOPES")]
    #[serde(rename = "scopes")]
    pub oidc_scopes: Option<String>,
    /// The claim that lists somebody's groups [default: groups]
    #[arg(long, env = "SLIPWAY_OIDC_GROUPS_CLAIM")]
    #[serde(rename = "groups_claim")]
    pub oidc_groups_claim: Option<String>,
    /// Roles that groups stand for: GROUP=ROLE@SCOPE, several apart by `;`
    #[arg(long, env = "SLIPWAY_OIDC_ROLES", value_delimiter = ';')]
    #[serde(rename = "roles")]
    pub oidc_roles: Option<Vec<String>>,
    /// Adds who logs in for the first time as a user; otherwise an administrator links them first [default: false]
    #[arg(long, env = "SLIPWAY_OIDC_CREATE_USERS")]
    #[serde(rename = "create_users")]
    pub oidc_create_users: Option<bool>,
}

/// As used.
#[derive(Debug, Clone)]
pub struct Oidc {
    /// URL of the provider, as it names itself.
    pub issuer: String,
    /// Our client id there.
    pub client_id: String,
    /// Our client secret there.
    pub client_secret: Option<Secret>,
    /// Scopes to ask for, separated by spaces; `openid` is among them.
    pub scopes: String,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// What groups stand for.
    pub roles: Vec<Rule>,
    /// Whether who is not known is added.
    pub create_users: bool,
}

/// An issuer must be reached by TLS, or on this host.
fn check_issuer(issuer: &str) -> Result<(), ConfigError> {
    let bad = |reason: &str| ConfigError::Setting {
        name: "SLIPWAY_OIDC_ISSUER",
        reason: format!("`{issuer}` {reason}"),
    };
    let url = Url::parse(issuer).map_err(|_| bad("is not a URL"))?;
    let here = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    match url.scheme() {
        "https" => {}
        "http" if here => {}
        _ => return Err(bad("must begin with https://: what it says decides who may what")),
    }
    if url.query().is_some() || url.fragment().is_some() || issuer.contains(' ') {
        return Err(bad("has a query, a fragment or a space"));
    }
    Ok(())
}

/// Adds what the file says and the defaults; `None` without an issuer.
pub(super) fn resolve(given: GivenOidc, file: GivenOidc) -> Result<Option<Oidc>, ConfigError> {
    let Some(issuer) = given.oidc_issuer.or(file.oidc_issuer) else {
        return Ok(None);
    };
    check_issuer(&issuer)?;
    let secret = given.oidc_client_secret_file.or(file.oidc_client_secret_file);
    let secret = secret.map(|path| match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Secret::new(text.trim().to_owned())),
        Err(source) => Err(ConfigError::Read { path, source }),
    });
    let rules = given.oidc_roles.or(file.oidc_roles).unwrap_or_default();
    let rules = rules.iter().filter(|text| !text.trim().is_empty());
    let rule = |text: &String| {
        text.trim().parse().map_err(|reason| ConfigError::Setting {
            name: "SLIPWAY_OIDC_ROLES",
            reason,
        })
    };
    let text = |given: Option<String>, file: Option<String>, usual: &str| {
        given.or(file).unwrap_or_else(|| usual.to_owned())
    };
    let scopes = text(given.oidc_scopes, file.oidc_scopes, "openid profile email");
    if !scopes.split(' ').any(|scope| scope == "openid") {
        return Err(ConfigError::Setting {
            name: "SLIPWAY_OIDC_SCOPES",
            reason: format!("`{scopes}` lacks `openid`, without which there is no ID token"),
        });
    }
    Ok(Some(Oidc {
        issuer,
        client_id: text(given.oidc_client_id, file.oidc_client_id, "slipway"),
        client_secret: secret.transpose()?,
        scopes,
        groups_claim: text(given.oidc_groups_claim, file.oidc_groups_claim, "groups"),
        roles: rules.map(rule).collect::<Result<_, _>>()?,
        create_users: given
            .oidc_create_users
            .or(file.oidc_create_users)
            .unwrap_or(false),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(issuer: &str) -> GivenOidc {
        GivenOidc {
            oidc_issuer: Some(issuer.to_owned()),
            ..GivenOidc::default()
        }
    }

    #[test]
    fn an_issuer_is_enough_and_bad_settings_are_named() {
        assert!(
            resolve(GivenOidc::default(), GivenOidc::default())
                .unwrap()
                .is_none()
        );
        let file = GivenOidc {
            oidc_roles: Some(vec!["ops=operator@global".into(), String::new()]),
            ..GivenOidc::default()
        };
        let oidc = resolve(issuer("https://id.example.com"), file).unwrap().unwrap();
        assert_eq!((oidc.client_id.as_str(), oidc.roles.len()), ("slipway", 1));
        assert!(!oidc.create_users);
        for bad in [
            "http://id.example.com",
            "id",
            "https://id.example.com/?x",
            "ftp://127.0.0.1",
        ] {
            let refused = resolve(issuer(bad), GivenOidc::default())
                .unwrap_err()
                .to_string();
            assert!(refused.contains("SLIPWAY_OIDC_ISSUER"), "{refused}");
        }
        let rules = GivenOidc {
            oidc_roles: Some(vec!["ops".into()]),
            ..issuer("http://127.0.0.1:9")
        };
        let refused = resolve(rules, GivenOidc::default()).unwrap_err().to_string();
        assert!(refused.contains("GROUP=ROLE@SCOPE"), "{refused}");
    }
}
