//! Speaks with the OpenID provider: finds its addresses, keeps its keys, and turns a code into somebody. Every answer is
//! bounded in time and size; no secret and no token is logged.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use reqwest::{RequestBuilder, Url, header};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use slipway_protocol::seal::Secret;
use tokio::sync::Mutex;

use super::{
    groups,
    jwks::KeySet,
    token::{self, Expected, TokenError},
};
use crate::{config::oidc::Oidc, error::chain};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// How long addresses and keys are believed.
const FRESH: Duration = Duration::from_secs(3600);
/// How soon keys are asked for again because one is unknown.
const KEYS_AGAIN: Duration = Duration::from_secs(10);

/// Why nobody was found.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// It does not answer, or not as a provider does.
    #[error("the single sign-on provider failed: {0}")]
    Failed(String),
    /// It does not take the code, or somebody else's.
    #[error("the single sign-on provider refused: {0}")]
    Refused(String),
    /// What it says is not believed.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Somebody, as the provider knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Issuer and subject, separated by a space: who it is, for ever.
    pub subject: String,
    /// A name to begin with; theirs to change at the provider, so never looked anybody up by.
    pub name: Option<String>,
    /// Where mail reaches them.
    pub email: Option<String>,
    /// Their groups; `None` if the provider says nothing of them.
    pub groups: Option<BTreeSet<String>>,
}

/// What a log-in is begun with; the first two and the challenge travel by the browser.
#[derive(Debug, Clone, Copy)]
pub struct Begun<'a> {
    /// Comes back with the code.
    pub state: &'a str,
    /// Comes back within the ID token.
    pub nonce: &'a str,
    /// SHA-256 of the PKCE verifier, base64url.
    pub challenge: &'a str,
}

/// What the provider says of itself.
#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

#[derive(Debug, Clone)]
struct Known {
    metadata: Arc<Metadata>,
    keys: KeySet,
    at: Instant,
    keys_at: Instant,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

/// The provider.
pub struct Provider {
    config: Oidc,
    redirect: String,
    client: OnceLock<Result<reqwest::Client, String>>,
    known: std::sync::Mutex<Option<Known>>,
    /// Held by whoever asks the provider what all need to know; when and why that failed last.
    asking: Mutex<Option<(Instant, String)>>,
}

impl Provider {
    /// A provider that sends browsers back to `redirect`; asked nothing before somebody logs in.
    #[must_use]
    pub fn new(config: Oidc, redirect: String) -> Self {
        Self {
            config,
            redirect,
            client: OnceLock::new(),
            known: std::sync::Mutex::default(),
            asking: Mutex::default(),
        }
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &Oidc {
        &self.config
    }

    /// Whether it answers as a provider does.
    ///
    /// # Errors
    /// When it does not.
    pub async fn look(&self) -> Result<(), ProviderError> {
        self.known().await.map(|_| ())
    }

    /// Where the browser goes to log in.
    ///
    /// # Errors
    /// When the provider does not say.
    pub async fn authorization(&self, begun: Begun<'_>) -> Result<Url, ProviderError> {
        let known = self.known().await?;
        let parameters = [
            ("response_type", "code"),
            ("client_id", &self.config.client_id),
            ("redirect_uri", &self.redirect),
            ("scope", &self.config.scopes),
            ("state", begun.state),
            ("nonce", begun.nonce),
            ("code_challenge", begun.challenge),
            ("code_challenge_method", "S256"),
        ];
        let mut url = address(&known.metadata.authorization_endpoint)?;
        url.query_pairs_mut().extend_pairs(parameters);
        Ok(url)
    }

    /// Turns a code into somebody. `issuer` is the one that came with the code, if one did (RFC 9207).
    ///
    /// # Errors
    /// When the provider refuses, or says what is not believed.
    pub async fn exchange(
        &self,
        (code, verifier, nonce): (&str, &str, &str),
        issuer: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Identity, ProviderError> {
        let known = self.known().await?;
        let metadata = &known.metadata;
        let must_say = metadata.authorization_response_iss_parameter_supported;
        if issuer.map_or(must_say, |issuer| issuer != self.config.issuer) {
            let said = issuer.unwrap_or("nobody").to_owned();
            return Err(TokenError::Issuer(said).into());
        }
        let tokens: Tokens = self.answer(self.code_request(metadata, code, verifier)?).await?;
        let claims = self.verify(&tokens.id_token, nonce, known.clone(), now).await?;
        let mut all = claims.all;
        let lacks = |claim: &str| !all.contains_key(claim);
        if lacks(&self.config.groups_claim) || lacks("preferred_username") || lacks("email") {
            let more = self
                .user_info(metadata, tokens.access_token, &claims.subject)
                .await?;
            for (claim, value) in more {
                all.entry(claim).or_insert(value);
            }
        }
        let text = |claim: &str| all.get(claim).and_then(Value::as_str).map(str::to_owned);
        Ok(Identity {
            subject: format!("{} {}", self.config.issuer, claims.subject),
            name: text("preferred_username").or_else(|| text("email")),
            email: text("email"),
            groups: groups::listed(&all, &self.config.groups_claim),
        })
    }

    /// Believes a token; asks for the keys once more if its key is unknown.
    async fn verify(
        &self,
        token: &str,
        nonce: &str,
        known: Known,
        now: DateTime<Utc>,
    ) -> Result<token::Claims, ProviderError> {
        let expected = Expected {
            issuer: &self.config.issuer,
            client: &self.config.client_id,
            nonce,
        };
        match token::verify(token, &known.keys, expected, now) {
            Err(TokenError::UnknownKey) => {
                let keys = self.new_keys(known).await?;
                Ok(token::verify(token, &keys, expected, now)?)
            }
            verified => Ok(verified?),
        }
    }

    fn code_request(
        &self,
        metadata: &Metadata,
        code: &str,
        verifier: &str,
    ) -> Result<RequestBuilder, ProviderError> {
        let client = &self.config.client_id;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &self.redirect),
            ("code_verifier", verifier),
        ];
        let mut request = self.client()?.post(address(&metadata.token_endpoint)?);
        let methods = &metadata.token_endpoint_auth_methods_supported;
        // Basic is what a provider takes that says nothing.
        let basic = methods.is_empty() || methods.iter().any(|method| method == "client_secret_basic");
        match self.config.client_secret.as_ref().map(Secret::reveal) {
            Some(secret) if basic => {
                let pair = STANDARD.encode(format!("{}:{}", encoded(client), encoded(secret)));
                request = request.header(header::AUTHORIZATION, format!("Basic {pair}"));
            }
            Some(secret) => form.extend([("client_id", client.as_str()), ("client_secret", secret)]),
            None => form.push(("client_id", client)),
        }
        let body: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        let form = "application/x-www-form-urlencoded";
        Ok(request.header(header::CONTENT_TYPE, form).body(body.join("&")))
    }

    /// What the provider says of somebody besides the ID token, if it says it.
    async fn user_info(
        &self,
        metadata: &Metadata,
        token: Option<String>,
        subject: &str,
    ) -> Result<Map<String, Value>, ProviderError> {
        let (Some(url), Some(token)) = (&metadata.userinfo_endpoint, token) else {
            return Ok(Map::new());
        };
        let request = self.client()?.get(address(url)?).bearer_auth(token);
        let claims: Map<String, Value> = self.answer(request).await?;
        if claims.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(ProviderError::Refused(
                "its user information is about somebody else".to_owned(),
            ));
        }
        Ok(claims)
    }

    fn kept(&self) -> Option<Known> {
        let kept = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clone()
    }

    fn keep(&self, known: Known) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// What the provider says of itself. One asks for all who wait, and they share its answer, a failure too: a provider
    /// that hangs holds nobody up for longer than one question takes.
    async fn known(&self) -> Result<Known, ProviderError> {
        let fresh = || self.kept().filter(|known| known.at.elapsed() < FRESH);
        if let Some(known) = fresh() {
            return Ok(known);
        }
        let since = Instant::now();
        let mut asking = self.asking.lock().await;
        if let Some(known) = fresh() {
            return Ok(known);
        }
        if let Some((_, why)) = asking.as_ref().filter(|(at, _)| *at >= since) {
            return Err(ProviderError::Failed(why.clone()));
        }
        let asked = self.ask().await;
        match &asked {
            Ok(known) => self.keep(known.clone()),
            Err(ProviderError::Failed(why)) => *asking = Some((Instant::now(), why.clone())),
            Err(_) => {}
        }
        asked
    }

    async fn ask(&self) -> Result<Known, ProviderError> {
        let issuer = &self.config.issuer;
        let url = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let metadata: Metadata = self.answer(self.client()?.get(address(&url)?)).await?;
        if metadata.issuer != *issuer {
            let said = format!(
                "it names itself `{}`, SLIPWAY_OIDC_ISSUER says `{issuer}`",
                metadata.issuer
            );
            return Err(ProviderError::Failed(said));
        }
        Ok(Known {
            keys: self.keys(&metadata).await?,
            metadata: Arc::new(metadata),
            at: Instant::now(),
            keys_at: Instant::now(),
        })
    }

    async fn keys(&self, metadata: &Metadata) -> Result<KeySet, ProviderError> {
        let bytes = self
            .bytes(self.client()?.get(address(&metadata.jwks_uri)?))
            .await?;
        KeySet::parse(&bytes).map_err(|e| ProviderError::Failed(format!("its keys cannot be read: {e}")))
    }

    /// The keys as they are now, unless they were asked for a moment ago.
    async fn new_keys(&self, former: Known) -> Result<KeySet, ProviderError> {
        let _asking = self.asking.lock().await;
        let current = self.kept().unwrap_or_else(|| former.clone());
        if current.keys_at > former.keys_at || current.keys_at.elapsed() < KEYS_AGAIN {
            return Ok(current.keys);
        }
        let keys = self.keys(&former.metadata).await?;
        self.keep(Known {
            keys: keys.clone(),
            keys_at: Instant::now(),
            ..former
        });
        Ok(keys)
    }

    fn client(&self) -> Result<&reqwest::Client, ProviderError> {
        let build = || {
            let builder = reqwest::Client::builder()
                .timeout(LIMIT)
                .redirect(reqwest::redirect::Policy::none())
                .user_agent("slipway");
            builder.build().map_err(|e| chain(&e))
        };
        let client = self.client.get_or_init(build).as_ref();
        client.map_err(|e| ProviderError::Failed(e.clone()))
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ProviderError> {
        let bytes = self.bytes(request).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| ProviderError::Failed(format!("its answer cannot be read: {e}")))
    }

    async fn bytes(&self, request: RequestBuilder) -> Result<Vec<u8>, ProviderError> {
        let failed = |e: reqwest::Error| ProviderError::Failed(chain(&e.without_url()));
        let mut answer = request
            .header(header::ACCEPT, "application/json")
            .send()
            .await
            .map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_ANSWER {
                return Err(ProviderError::Failed("its answer is too long".to_owned()));
            }
        }
        match answer.status() {
            status if status.is_success() => Ok(bytes),
            status if status.is_client_error() => Err(ProviderError::Refused(reason(&bytes, status))),
            status => Err(ProviderError::Failed(reason(&bytes, status))),
        }
    }
}

/// Why, in the provider's own words where it has some.
fn reason(body: &[u8], status: reqwest::StatusCode) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |key: &str| {
        body[key]
            .as_str()
            .map(|text| text.chars().take(200).collect::<String>())
    };
    match (word("error"), word("error_description")) {
        (Some(error), Some(more)) => format!("{error}: {more}"),
        (Some(error), None) => error,
        _ => format!("it answered {status}"),
    }
}

fn address(text: &str) -> Result<Url, ProviderError> {
    Url::parse(text).map_err(|_| ProviderError::Failed(format!("`{text}` is not a URL")))
}

/// Percent-encoded for a form: all but what stands for itself everywhere.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
