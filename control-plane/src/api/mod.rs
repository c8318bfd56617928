//! HTTP handlers, one file a noun: parse, call the domain, view. No SQL and no MQTT here.

pub mod access;
pub mod account;
pub mod addresses;
pub mod alerts;
pub mod audit;
pub mod bmc_passwords;
pub mod emergency_codes;
pub mod events;
pub mod images;
pub mod instance_batches;
pub mod instance_lists;
pub mod instances;
pub mod job_logs;
pub mod jobs;
pub mod machine_changes;
pub mod machine_import;
pub mod machine_lists;
pub mod machine_power;
pub mod machine_types;
pub mod machines;
mod ordering;
pub mod overview;
pub mod plans;
pub mod projects;
pub mod rescue;
pub mod search;
pub mod signing_keys;
mod since;
pub mod sites;
pub mod sso;
pub mod stock;
pub mod users;
pub mod views;
pub mod webhooks;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, request::Parts},
};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};

use crate::error::ApiError;

/// Most rows of a page.
const MAX_PAGE: i64 = 1000;

/// Which page of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct Page {
    /// Rows at most; 1 to 1000, 100 by default
    pub limit: Option<i64>,
    /// `next` of the page before
    pub cursor: Option<String>,
}

impl Page {
    fn limit(&self) -> i64 {
        self.limit.unwrap_or(100).clamp(1, MAX_PAGE)
    }

    fn cursor(&self) -> String {
        self.cursor.clone().unwrap_or_default()
    }
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Cursor of the next page; none at the end.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// A page of views, whose `key` is the cursor.
    fn page(items: Vec<T>, limit: i64, key: impl Fn(&T) -> String) -> Self {
        let next = next(&items, limit, key);
        Self { items, next }
    }
}

/// The cursor of the page after these rows, if there may be one.
fn next<R>(rows: &[R], limit: i64, key: impl Fn(&R) -> String) -> Option<String> {
    let full = i64::try_from(rows.len()).is_ok_and(|len| len >= limit);
    rows.last().filter(|_| full).map(key)
}

/// Longest JSON body, in bytes.
const MAX_BODY: usize = 2 * 1024 * 1024;
/// PostgreSQL keeps no NUL in a text, and nobody has one in a name.
pub(crate) const NO_NUL: &str = "a NUL character cannot stand in a text";

/// A JSON body whose errors are problem details with a code.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = axum::body::to_bytes(body, MAX_BODY).await;
        let bytes = bytes.map_err(|e| ApiError::Bad("body", format!("the body cannot be read: {e}")))?;
        if bytes.windows(6).any(|six| six == br"\u0000") {
            return Err(ApiError::Bad("body", NO_NUL.to_owned()));
        }
        let request = Request::from_parts(parts, bytes.into());
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(ApiError::Bad("body", rejection.body_text())),
        }
    }
}

/// Parameters in the path or after `?` whose errors are problem details with a code.
macro_rules! parameters {
    ($name:ident, $code:literal) => {
        #[doc = concat!("As axum's, but what is wrong is told by the code `", $code, "`.")]
        pub struct $name<T>(pub T);

        impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for $name<T> {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
                match axum::extract::$name::<T>::from_request_parts(parts, state).await {
                    Ok(axum::extract::$name(found)) => Ok(Self(found)),
                    Err(rejection) => Err(ApiError::Bad($code, rejection.body_text())),
                }
            }
        }
    };
}

parameters!(Query, "query");
parameters!(Path, "path");

/// Tells a field that is null from one that is left out: `Some(None)` from `None`.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The revision in `If-Match`, if one is given.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get("if-match") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim_matches('"');
    let bad = || {
        ApiError::Bad(
            "if_match",
            "If-Match is not an ETag that was given here".to_owned(),
        )
    };
    text.parse().map(Some).map_err(|_| bad())
}

fn parse<T: std::str::FromStr>(code: &'static str, text: &str) -> Result<T, ApiError>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|e: T::Err| ApiError::Bad(code, e.to_string()))
}
