//! What the API answers when it cannot do what was asked: RFC 9457 problem details with a stable code. The one place that
//! turns an error into a status. What is nobody's fault but ours is logged whole and told in one sentence.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{pki::PkiError, store::StoreError, vault::VaultError};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request itself is wrong.
    #[error("{1}")]
    Bad(&'static str, String),
    /// No such thing.
    #[error("there is no {0} `{1}`")]
    NotFound(&'static str, String),
    /// It does not fit what is there.
    #[error("{1}")]
    Conflict(&'static str, String),
    /// No or wrong credentials.
    #[error("credentials are missing or not valid: log in, or send `Authorization: Bearer KEY`")]
    Unauthorized,
    /// Good credentials for something else.
    #[error("{0}")]
    Forbidden(String),
    /// Asked too often.
    #[error("{0}; wait a little, then try again")]
    TooMany(String),
    /// The thing was changed meanwhile.
    #[error("it was changed meanwhile: read it again, then send its new ETag in If-Match")]
    Changed,
    /// Another service that is needed for it failed.
    #[error("{1}")]
    Upstream(&'static str, String),
    /// Something that it needs is not there at the moment; the code says what.
    #[error("{1}")]
    Unavailable(&'static str, String),
    /// Our fault.
    #[error("the control plane failed")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// RFC 9457 problem details.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: &'static str,
    /// HTTP status.
    pub status: u16,
    /// For people: what failed, on which object, and what to do.
    pub detail: String,
    /// For programs: stable.
    pub code: &'static str,
}

impl ApiError {
    /// The status it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Bad(..) => StatusCode::BAD_REQUEST,
            Self::NotFound(..) => StatusCode::NOT_FOUND,
            Self::Conflict(..) => StatusCode::CONFLICT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Changed => StatusCode::PRECONDITION_FAILED,
            Self::Upstream(..) => StatusCode::BAD_GATEWAY,
            Self::Unavailable(..) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Logs what is our fault, with all its causes; the caller is told none of them.
    pub fn log(&self) {
        if let Self::Internal(source) = self {
            tracing::error!(error = %chain(source.as_ref()), "a request failed");
        }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bad(code, _)
            | Self::Conflict(code, _)
            | Self::Upstream(code, _)
            | Self::Unavailable(code, _) => code,
            Self::NotFound(..) => "not_found",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::TooMany(_) => "too_many_requests",
            Self::Changed => "changed_meanwhile",
            Self::Internal(_) => "internal",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let status = self.status();
        let problem = Problem {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("error"),
            status: status.as_u16(),
            detail: self.to_string(),
            code: self.code(),
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let soon = header::HeaderValue::from_static("5");
            response.headers_mut().insert(header::RETRY_AFTER, soon);
        }
        response
    }
}

/// An error with all its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Taken => Self::Conflict("taken", error.to_string()),
            StoreError::Busy(why) => {
                tracing::warn!(why, "the database is busy or cannot be reached");
                let detail = "the database is busy or cannot be reached; try again in a moment";
                Self::Unavailable("busy", detail.to_owned())
            }
            other => Self::Internal(other.into()),
        }
    }
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        Self::Internal(error.into())
    }
}

impl From<PkiError> for ApiError {
    fn from(error: PkiError) -> Self {
        match error {
            PkiError::Foreign(_) => Self::Bad("csr_foreign", error.to_string()),
            PkiError::Certificate(_) => Self::Bad("csr_unreadable", error.to_string()),
            other => Self::Internal(other.into()),
        }
    }
}
