//! Logging in by single sign-on. What a log-in was begun with travels in a sealed cookie of the browser's, so any replica can
//! end it and strangers cannot fill a table. Who somebody is, is known by issuer and subject alone, never by an e-mail
//! address: those change hands.

mod people;
mod terminal;

pub use terminal::{KeyWish, key_for_code};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::seal::Secret;

use super::accounts::{self, LoggedIn};
use crate::{
    access::{
        Actor, Via,
        oidc::provider::{Begun, Identity, Provider, ProviderError},
    },
    app::App,
    error::ApiError,
    store::audit::{self, Change},
    vault,
};

/// How long somebody may take to log in at the provider.
pub const PATIENCE: TimeDelta = TimeDelta::minutes(10);
/// What the cookie is sealed for.
const PLACE: &str = "sso/login";

/// A command line that waits for the log-in on this very host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// SHA-256 of what it will show for the code, base64url.
    pub challenge: String,
}

/// What the cookie holds.
#[derive(Serialize, Deserialize)]
struct Pending {
    state: String,
    nonce: String,
    verifier: String,
    next: String,
    waiting: Option<Waiting>,
    until: DateTime<Utc>,
}

/// What came back by the browser.
#[derive(Debug, Default)]
pub struct Returned {
    /// The code, if they logged in.
    pub code: Option<String>,
    /// What we sent along.
    pub state: Option<String>,
    /// Who says so.
    pub issuer: Option<String>,
    /// Why they did not.
    pub error: Option<String>,
}

/// How a log-in ends.
pub enum Ended {
    /// With a session, and where the browser goes next.
    Session(LoggedIn, String),
    /// With a code for a command line: where the browser takes it.
    Terminal(String),
}

impl From<ProviderError> for ApiError {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Failed(_) => Self::Upstream("sso_provider", error.to_string()),
            ProviderError::Refused(_) => Self::Bad("sso_refused", error.to_string()),
            ProviderError::Token(_) => Self::Bad("sso_token", error.to_string()),
        }
    }
}

fn provider(app: &App) -> Result<&Provider, ApiError> {
    let off = "this control plane has no single sign-on; its operator sets it up by SLIPWAY_OIDC_ISSUER";
    app.sso
        .as_ref()
        .ok_or_else(|| ApiError::Conflict("sso_off", off.to_owned()))
}

/// The subject of somebody at the provider of this control plane, as users keep it.
///
/// # Errors
/// When there is no provider, or it is no subject.
pub fn subject(app: &App, subject: &str) -> Result<String, ApiError> {
    let issuer = &provider(app)?.config().issuer;
    if subject.len() > 255 || subject.chars().any(char::is_control) {
        let detail = "a subject is what the provider calls somebody in `sub`: 255 characters at most";
        return Err(ApiError::Bad("subject", detail.to_owned()));
    }
    Ok(format!("{issuer} {subject}"))
}

/// What proves later that one knows `secret`.
fn challenge(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, secret.as_bytes()))
}

fn random() -> Result<String, ApiError> {
    Ok(URL_SAFE_NO_PAD.encode(vault::random::<32>()?))
}

/// A place within this site for a browser to go to: `/` and what follows, and nothing that leads elsewhere.
fn check_next(next: &str) -> Result<(), ApiError> {
    let mut bytes = next.bytes();
    let rooted = bytes.next() == Some(b'/') && !matches!(bytes.next(), Some(b'/' | b'\\'));
    if rooted && next.len() <= 1024 && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
        return Ok(());
    }
    let detail = "`next` is a path of this site, as in /instances";
    Err(ApiError::Bad("next", detail.to_owned()))
}

fn check_waiting(waiting: &Waiting) -> Result<(), ApiError> {
    if waiting.port < 1024 {
        return Err(ApiError::Bad("port", "a port is one of 1024 to 65535".to_owned()));
    }
    let hash = URL_SAFE_NO_PAD.decode(&waiting.challenge);
    if !hash.is_ok_and(|hash| hash.len() == 32) {
        let detail = "`challenge` is the SHA-256 of a secret, in base64url without padding";
        return Err(ApiError::Bad("challenge", detail.to_owned()));
    }
    Ok(())
}

/// Begins a log-in: where the browser goes, and what it keeps meanwhile.
///
/// # Errors
/// When there is no single sign-on, its provider does not answer, or the way back will not do.
pub async fn begin(
    app: &App,
    next: Option<String>,
    waiting: Option<Waiting>,
) -> Result<(String, Secret), ApiError> {
    let provider = provider(app)?;
    let next = next.unwrap_or_else(|| "/".to_owned());
    check_next(&next)?;
    waiting.as_ref().map_or(Ok(()), check_waiting)?;
    let pending = Pending {
        state: random()?,
        nonce: random()?,
        verifier: random()?,
        next,
        waiting,
        until: (app.now)() + PATIENCE,
    };
    let begun = Begun {
        state: &pending.state,
        nonce: &pending.nonce,
        challenge: &challenge(&pending.verifier),
    };
    let url = provider.authorization(begun).await?;
    let text = serde_json::to_string(&pending).map_err(|e| ApiError::Internal(e.into()))?;
    let cookie = app.vault.encrypt(PLACE, &Secret::new(text))?;
    Ok((url.into(), Secret::new(cookie)))
}

/// What this browser began; anybody else's return fits no cookie.
fn pending(app: &App, cookie: Option<String>, state: Option<&str>) -> Result<Pending, ApiError> {
    let text = cookie.and_then(|cookie| app.vault.decrypt(PLACE, &cookie).ok());
    let found: Option<Pending> = text.and_then(|text| serde_json::from_str(text.reveal()).ok());
    let fits = |pending: &Pending| state == Some(pending.state.as_str()) && pending.until > (app.now)();
    found.filter(fits).ok_or_else(|| {
        let detail = "this log-in was not begun in this browser, or too long ago; log in again";
        ApiError::Bad("sso_state", detail.to_owned())
    })
}

/// Ends a log-in that was begun in this browser.
///
/// # Errors
/// When it was not, the provider refuses or is not believed, or whoever it is may not come in.
pub async fn end(
    app: &App,
    cookie: Option<String>,
    returned: Returned,
    address: String,
) -> Result<Ended, ApiError> {
    let provider = provider(app)?;
    if !app.logins.take(&address, std::time::Instant::now()) {
        return Err(ApiError::TooMany("too many log-ins".to_owned()));
    }
    let pending = pending(app, cookie, returned.state.as_deref())?;
    let ended = come_in(app, provider, (pending, returned), &address).await;
    if let Err(error) = &ended {
        note_refusal(app, error, address).await?;
    }
    ended
}

async fn come_in(
    app: &App,
    provider: &Provider,
    (pending, returned): (Pending, Returned),
    address: &str,
) -> Result<Ended, ApiError> {
    if let Some(error) = returned.error {
        let error: String = error.chars().filter(|c| !c.is_control()).take(100).collect();
        return Err(ProviderError::Refused(error).into());
    }
    let code = returned.code.unwrap_or_default();
    let proof = (code.as_str(), pending.verifier.as_str(), pending.nonce.as_str());
    let identity: Identity = provider
        .exchange(proof, returned.issuer.as_deref(), (app.now)())
        .await?;
    let user = people::welcome(app, provider.config(), identity, address.to_owned()).await?;
    match pending.waiting {
        Some(waiting) => Ok(Ended::Terminal(terminal::code_for(app, &user, &waiting).await?)),
        None => {
            let begun = accounts::begin_session(app, user, address.to_owned()).await?;
            Ok(Ended::Session(begun, pending.next))
        }
    }
}

async fn note_refusal(app: &App, error: &ApiError, address: String) -> Result<(), ApiError> {
    let by = Actor {
        name: "nobody".to_owned(),
        via: Via::Sso,
        address,
    };
    let (code, now, why) = (error.code(), (app.now)(), error.to_string());
    let noted = app.store.transaction(move |db| {
        let change = Change {
            action: "login",
            object: "sso".to_owned(),
            before: None,
            after: Some(serde_json::json!({ "why": why })),
        };
        audit::refused(db, &by, now, code, change)
    });
    Ok(noted.await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_sent_nowhere_else() {
        for good in ["/", "/instances?state=failed#x", "/a//b"] {
            assert!(check_next(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "//evil.example.com",
            "/\\evil.example.com",
            "https://evil.example.com",
            "evil",
            "/a\r\nSet-Cookie: x",
            "/ x",
            "/\t/evil.example.com",
            "/a\\b",
        ] {
            assert!(check_next(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_line_waits_at_an_unprivileged_port_with_a_hash() {
        let waiting = |port, challenge: &str| Waiting {
            port,
            challenge: challenge.to_owned(),
        };
        let hash = challenge("secret");
        assert!(check_waiting(&waiting(40000, &hash)).is_ok());
        assert!(check_waiting(&waiting(80, &hash)).is_err());
        assert!(check_waiting(&waiting(40000, "x")).is_err());
        // From RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
