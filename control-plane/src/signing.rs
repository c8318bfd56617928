//! The keys of this control plane in memory, and by which of them each site is signed to. What is decided about them stands
//! in [`crate::domain::signing_keys`]; this only signs. Has no `Debug`: it holds private keys.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use slipway_protocol::{
    ids::{KeyId, SiteId},
    keys::{Signer, VerifyingKey},
};

/// A key that signs.
#[derive(Clone)]
pub struct Live {
    /// Counts the keys from 1.
    pub generation: u64,
    /// It.
    pub signer: Arc<Signer>,
}

/// What is known now.
#[derive(Default)]
struct Known {
    /// The newest first; never empty once loaded.
    keys: Vec<Live>,
    sites: BTreeMap<SiteId, KeyId>,
}

/// The keys.
pub struct Signing(RwLock<Known>);

impl Signing {
    /// With the first key alone.
    #[must_use]
    pub fn new(first: Arc<Signer>) -> Self {
        let keys = vec![Live {
            generation: 1,
            signer: first,
        }];
        Self(RwLock::new(Known {
            keys,
            sites: BTreeMap::new(),
        }))
    }

    /// Takes what the store says. `keys` has the newest first and is not empty.
    pub fn set(&self, keys: Vec<Live>, sites: BTreeMap<SiteId, KeyId>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Known { keys, sites };
    }

    fn with<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest key: whoever is told of this control plane now trusts it.
    #[must_use]
    pub fn newest(&self) -> Live {
        self.with(|known| known.keys[0].clone())
    }

    /// A key by its id, if it has not been retired.
    #[must_use]
    pub fn by_id(&self, id: &KeyId) -> Option<Live> {
        self.with(|known| {
            let found = known.keys.iter().find(|key| key.signer.key_id() == id);
            found.cloned()
        })
    }

    /// The newest key that a site is known to trust; the oldest there is if nothing is known.
    #[must_use]
    pub fn of_site(&self, site: &SiteId) -> Live {
        self.with(|known| {
            let trusted = known.sites.get(site);
            let trusted = trusted.and_then(|id| known.keys.iter().find(|key| key.signer.key_id() == id));
            trusted.unwrap_or(&known.keys[known.keys.len() - 1]).clone()
        })
    }

    /// What edges are told to trust, the newest first.
    #[must_use]
    pub fn verifying(&self) -> Vec<VerifyingKey> {
        self.with(|known| known.keys.iter().map(|key| key.signer.verifying_key()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_signed_to_by_what_it_is_known_to_trust() {
        let key = |generation| Live {
            generation,
            signer: Arc::new(Signer::generate().unwrap().0),
        };
        let (old, new) = (key(1), key(2));
        let signing = Signing::new(Arc::new(Signer::generate().unwrap().0));
        let site = |name: &str| SiteId::new(name).unwrap();
        let trusts = BTreeMap::from([(site("knows"), new.signer.key_id().clone())]);
        signing.set(vec![new.clone(), old.clone()], trusts.clone());
        assert_eq!(signing.newest().generation, 2);
        assert_eq!(signing.of_site(&site("knows")).generation, 2);
        assert_eq!(signing.of_site(&site("other")).generation, 1);
        assert_eq!(
            signing.verifying(),
            [new.signer.verifying_key(), old.signer.verifying_key()]
        );
        signing.set(vec![new.clone()], trusts);
        assert_eq!(
            signing.of_site(&site("other")).generation,
            2,
            "there is no other any more"
        );
        assert!(signing.by_id(old.signer.key_id()).is_none());
    }
}
