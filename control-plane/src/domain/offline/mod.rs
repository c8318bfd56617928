//! What may be done at a site while it is cut off: leases issued and taken back, the emergency code, and what a site says
//! that it did.

mod adopt;
mod issue;

use serde_json::json;
use slipway_protocol::{ids::SiteId, seal::Secret, site::emergency_code_text};

pub(super) use adopt::take_local_uses;
pub use issue::reconcile;

use super::sites::{get, missing};
use crate::{
    access::{Caller, Permission, Target, password},
    app::App,
    error::ApiError,
    store::{
        audit::{self, Change},
        events::{self, NewEvent},
        sites,
    },
    vault,
};

/// What codes are made of: Crockford's base 32, in which nothing is taken for something else.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a code.
const LENGTH: usize = 20;

/// Makes a site's emergency code, in place of the one it had. It is shown once; its hash goes to the site.
///
/// # Errors
/// When there is no such site, or the caller may not change it.
pub async fn make_code(app: &App, caller: &Caller, id: String) -> Result<Secret, ApiError> {
    let site = get(app, caller, id).await?;
    caller.require(Permission::SitesWrite, Target::site(site.id.as_str()))?;
    let code = Secret::new(code_of(&vault::random::<LENGTH>()?));
    let hash = password::hash(Secret::new(emergency_code_text(code.reveal()))).await?;
    set_code(app, caller, site.id, Some(hash)).await?;
    Ok(code)
}

/// Takes a site's emergency code back: nothing more can be done there without the control plane, once the site knows.
///
/// # Errors
/// When there is no such site, or the caller may not change it.
pub async fn revoke_code(app: &App, caller: &Caller, id: String) -> Result<(), ApiError> {
    let site = get(app, caller, id).await?;
    caller.require(Permission::SitesWrite, Target::site(site.id.as_str()))?;
    set_code(app, caller, site.id, None).await
}

async fn set_code(app: &App, caller: &Caller, id: SiteId, hash: Option<String>) -> Result<(), ApiError> {
    let (by, now, site) = (caller.actor.clone(), (app.now)(), id.clone());
    let write = app.store.transaction(move |db| {
        let former = sites::get(db, id.as_str())?.ok_or_else(|| missing(id.as_str()))?;
        sites::set_emergency_code(db, &id, hash.as_deref())?;
        let (action, kind) = match hash {
            Some(_) => ("site.emergency_code", "site.emergency_code_made"),
            None => ("site.revoke_emergency_code", "site.emergency_code_revoked"),
        };
        events::append(db, &NewEvent::new(kind, now).site(&id))?;
        let told = |is_set: bool| Some(json!({ "emergency_code": is_set }));
        let (before, after) = (told(former.emergency_code.is_some()), told(hash.is_some()));
        let change = Change::new(action, format!("site/{id}"), before, after);
        Ok::<_, ApiError>(audit::done(db, &by, now, change)?)
    });
    write.await?;
    app.poke_site(site.as_str());
    Ok(())
}

/// A code by random bytes: groups of four, to be read aloud. 5 bits a character, 100 in all.
fn code_of(random: &[u8; LENGTH]) -> String {
    let letters: Vec<char> = random
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect();
    let groups: Vec<String> = letters.chunks(4).map(|group| group.iter().collect()).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_aloud() {
        assert_eq!(code_of(&[0; LENGTH]), "0000-0000-0000-0000-0000");
        let mut bytes = [0; LENGTH];
        bytes.iter_mut().zip(12..).for_each(|(byte, n)| *byte = n);
        assert_eq!(code_of(&bytes), "cdef-ghjk-mnpq-rstv-wxyz");
        let mut letters = ALPHABET.to_vec();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), 32, "each letter once");
    }
}
