//! Who may come in at the embedded broker's door, kept in memory beside the store: the door asks for every connection, and
//! must not wait for a database. Holds serial numbers of certificates only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{PoisonError, RwLock},
};

use slipway_protocol::ids::SiteId;
use tokio_util::sync::CancellationToken;

/// The certificates that are good, by site.
#[derive(Debug, Default)]
pub struct Admitted(RwLock<BTreeMap<SiteId, Good>>);

#[derive(Debug)]
struct Good {
    serials: BTreeSet<String>,
    /// Ends the connections of those who came in by them.
    leave: CancellationToken,
}

impl Admitted {
    /// From now on these are good. Who is in by a certificate that no longer is, is put out; that another one became good
    /// puts nobody out.
    pub fn set(&self, site: &SiteId, serials: impl IntoIterator<Item = String>) {
        let serials: BTreeSet<String> = serials.into_iter().collect();
        let mut sites = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match sites.get_mut(site) {
            Some(good) if good.serials.is_subset(&serials) => good.serials = serials,
            former => {
                if let Some(good) = former {
                    good.leave.cancel();
                }
                let leave = CancellationToken::new();
                sites.insert(site.clone(), Good { serials, leave });
            }
        }
    }

    /// Whether a certificate is good; what comes back is cancelled when it no longer is.
    ///
    /// # Errors
    /// Why it is not, for the log.
    pub fn check(&self, site: &SiteId, serial: &str) -> Result<CancellationToken, String> {
        let sites = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let good = sites.get(site).filter(|good| !good.serials.is_empty());
        let good = good.ok_or_else(|| format!("site {site} has no edge that joined, or it was revoked"))?;
        if good.serials.contains(serial) {
            Ok(good.leave.clone())
        } else {
            Err(format!("the certificate {serial} of site {site} was taken back"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lost_their_certificate_is_put_out_and_who_renewed_is_not() {
        let admitted = Admitted::default();
        let site = SiteId::new("bj-1").unwrap();
        let set = |serials: &[&str]| admitted.set(&site, serials.iter().map(ToString::to_string));
        assert!(admitted.check(&site, "1").is_err(), "nobody joined");
        set(&["1"]);
        let first = admitted.check(&site, "1").unwrap();
        assert!(admitted.check(&site, "2").is_err());
        set(&["1", "2"]);
        assert!(!first.is_cancelled());
        let second = admitted.check(&site, "2").unwrap();
        set(&["2", "3"]);
        assert!(
            first.is_cancelled() && second.is_cancelled(),
            "both come back by what is good"
        );
        assert!(admitted.check(&site, "1").is_err());
        let third = admitted.check(&site, "3").unwrap();
        set(&[]);
        assert!(third.is_cancelled());
        assert!(admitted.check(&site, "3").is_err());
    }
}
