//! By what deliveries to a webhook are signed: its secret, and for a while after a change its former one as well.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use slipway_protocol::seal::Secret;

use super::webhooks::secret_place;
use crate::{
    access::Caller,
    app::App,
    error::ApiError,
    store::{
        audit::{self, Change},
        webhooks::{self, Webhook},
    },
    vault::{self, Vault},
};

/// Longest time that both sign, in hours: a week.
const MAX_OVERLAP: u32 = 168;

/// A new secret.
///
/// # Errors
/// When there are no random bytes.
pub(super) fn new_secret() -> Result<Secret, ApiError> {
    Ok(Secret::new(format!(
        "whsec_{}",
        hex::encode(vault::random::<32>()?)
    )))
}

/// All secrets that sign now, the one of today first.
///
/// # Errors
/// When the vault's key does not fit.
pub fn signing(vault: &Vault, webhook: &Webhook, now: DateTime<Utc>) -> Result<Vec<Secret>, ApiError> {
    let former = webhook.former.as_ref().filter(|(_, until)| *until > now);
    let kept = std::iter::once(&webhook.secret).chain(former.map(|(secret, _)| secret));
    kept.map(|text| Ok(vault.decrypt(&secret_place(&webhook.id), text)?))
        .collect()
}

/// Gives a webhook a new secret, which is shown this once; the former one goes on signing beside it for `hours`.
///
/// # Errors
/// When there is no such webhook, or the time is too long.
pub async fn rotate(
    app: &App,
    caller: &Caller,
    id: String,
    hours: u32,
) -> Result<(Webhook, Secret), ApiError> {
    if hours > MAX_OVERLAP {
        let detail = format!("both secrets sign for {MAX_OVERLAP} hours at most");
        return Err(ApiError::Bad("overlap_hours", detail));
    }
    let secret = new_secret()?;
    let kept = app.vault.encrypt(&secret_place(&id), &secret)?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    let until = now + TimeDelta::hours(hours.into());
    let changed = app.store.transaction(move |db| {
        let found = webhooks::get(db, &id)?.ok_or_else(|| ApiError::NotFound("webhook", id.clone()))?;
        let webhook = Webhook {
            former: (hours > 0).then_some((found.secret, until)),
            secret: kept,
            ..found
        };
        webhooks::set_secret(db, &webhook)?;
        let change = Change {
            action: "webhook.secret",
            object: format!("webhook/{id}"),
            before: None,
            after: Some(json!({ "former_until": webhook.former.as_ref().map(|(_, until)| until) })),
        };
        audit::done(db, &by, now, change)?;
        Ok::<_, ApiError>(webhook)
    });
    Ok((changed.await?, secret))
}
