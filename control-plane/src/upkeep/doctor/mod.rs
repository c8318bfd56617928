//! `slipway-control-plane doctor`: looks at everything a control plane stands on, changes nothing, and says of each thing how it
//! is and what to do. The looks are in their own files; here is what they come to.

mod database;
mod host;
mod outside;

use std::fmt;

use chrono::Utc;
use serde::Serialize;

use crate::config::Config;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but somebody should look.
    Warn,
    /// The control plane cannot work so.
    Fail,
}

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The thing.
    pub check: &'static str,
    /// How it is.
    pub status: Status,
    /// What was seen.
    pub detail: String,
    /// What to do; nothing if it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Ok,
            detail: detail.into(),
            advice: None,
        }
    }

    fn warn(check: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            advice: Some(advice.into()),
            ..Self::ok(check, detail)
        }
    }

    fn fail(check: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            ..Self::warn(check, detail, advice)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.status {
            Status::Ok => "OK",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
        };
        write!(f, "{word:4} {}: {}", self.check, self.detail)?;
        match &self.advice {
            Some(advice) => write!(f, "\n     -> {advice}"),
            None => Ok(()),
        }
    }
}

/// Looks at everything.
pub async fn run(config: &Config) -> Vec<Finding> {
    let now = Utc::now();
    let mut found = host::look(config, now);
    found.extend(outside::ports(config).await);
    found.extend(database::look(config, now).await);
    found.extend(outside::mail(config).await);
    found.extend(outside::webhooks(config));
    found.extend(outside::sign_on(config).await);
    found
}

/// Whether a control plane can work so.
#[must_use]
pub fn works(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.status < Status::Fail)
}

/// The worst first, each in lines of its own.
#[must_use]
pub fn text(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}
