//! Leases: what may be done with a machine at its site while the control plane cannot be reached. A lease holds orders that
//! were compiled and signed beforehand; using one is taking an order as if it had just come. Decides nothing about sites,
//! sockets or people.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{JobId, MachineId, SiteId},
    report::Outcome,
    seal::Sealed,
};

/// How many operations a lease is good for, one after the other. The first takes the revision above the order in force, the
/// second the one above that.
pub const USES: u64 = 2;

/// What may be done with a machine locally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Off and on.
    Restart,
    /// Off.
    PowerOff,
    /// On.
    PowerOn,
    /// Into the LiveOS, with the instance's own keys let in.
    Rescue,
    /// Given back: the instance ends.
    Release,
    /// An operation of a later version; not offered to anybody.
    #[serde(other)]
    Unknown,
}

impl Operation {
    /// All that can be offered.
    pub const ALL: [Self; 5] = [
        Self::Restart,
        Self::PowerOff,
        Self::PowerOn,
        Self::Rescue,
        Self::Release,
    ];

    /// As it stands in messages, events and settings.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::PowerOff => "power_off",
            Self::PowerOn => "power_on",
            Self::Rescue => "rescue",
            Self::Release => "release",
            Self::Unknown => "unknown",
        }
    }
}

/// `cmd/lease/{machine}`: what may be done with a machine while its site is cut off. The envelope expires at `until`; a lease
/// without offers allows nothing and takes back what the one before it allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The machine's name, for people at the site.
    pub name: String,
    /// The name of the instance on it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// From then on no offer may be begun, by the edge's clock. What was begun runs to its end.
    pub until: DateTime<Utc>,
    /// What may be done, each with its order.
    #[serde(default)]
    pub offers: Vec<Offer>,
}

/// One pre-signed order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What it does.
    pub operation: Operation,
    /// The job its order is of.
    pub job: JobId,
    /// The revision of its order.
    pub revision: u64,
    /// The order's envelope for the machine's order topic, sealed to the site under [`offer_context`]: a broker that saw it
    /// unsealed could deliver it at any time.
    pub order: Sealed,
}

/// The place the envelope of an offer is bound to when it is sealed.
#[must_use]
pub fn offer_context(site: &SiteId, machine: MachineId, job: JobId) -> String {
    format!("lease/{site}/{machine}/{job}")
}

/// Why an operation cannot be taken from a lease. Every variant has a stable [`code`](LeaseError::code).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Its time is over.
    #[error(
        "the lease of machine {machine} ended at {until}: nothing can be done until the control plane is reached"
    )]
    Expired {
        /// The machine's name.
        machine: String,
        /// When.
        until: DateTime<Utc>,
    },
    /// The operation is not allowed, or the machine stands where it makes no sense.
    #[error("{} of machine {machine} is not offered; `slipway-edge local show` says what is", operation.word())]
    NotOffered {
        /// The machine's name.
        machine: String,
        /// What was asked for.
        operation: Operation,
    },
    /// The machine has an order of that revision or a higher one.
    #[error(
        "what was offered of machine {machine} was used, or an order of the control plane came after it: nothing more can \
         be done until the control plane is reached"
    )]
    Used {
        /// The machine's name.
        machine: String,
    },
}

impl LeaseError {
    /// A stable word for the journal and for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "lease_expired",
            Self::NotOffered { .. } => "not_offered",
            Self::Used { .. } => "offer_used",
        }
    }
}

impl Lease {
    /// The offer to take for an operation, `held` being the revision of the machine's order in force: the lowest above it.
    /// Pure.
    ///
    /// # Errors
    /// When the lease has ended, or has none left of that kind.
    pub fn offer(
        &self,
        operation: Operation,
        held: Option<u64>,
        now: DateTime<Utc>,
    ) -> Result<&Offer, LeaseError> {
        let machine = || self.name.clone();
        let mut of_kind = self.offers.iter().filter(|o| o.operation == operation);
        if operation == Operation::Unknown || of_kind.clone().next().is_none() {
            return Err(LeaseError::NotOffered {
                machine: machine(),
                operation,
            });
        }
        if now >= self.until {
            let until = self.until;
            return Err(LeaseError::Expired {
                machine: machine(),
                until,
            });
        }
        let mut left: Vec<&Offer> = of_kind.by_ref().filter(|o| Some(o.revision) > held).collect();
        left.sort_by_key(|offer| std::cmp::Reverse(offer.revision));
        left.pop().ok_or_else(|| LeaseError::Used { machine: machine() })
    }

    /// The operations that can be begun now, in the order of [`Operation::ALL`].
    #[must_use]
    pub fn open(&self, held: Option<u64>, now: DateTime<Utc>) -> Vec<Operation> {
        let mut open = Operation::ALL.to_vec();
        open.retain(|operation| self.offer(*operation, held, now).is_ok());
        open
    }
}

/// A local operation as the edge tells of it in the machine's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalUse {
    /// When it was begun, by the edge's clock.
    pub at: DateTime<Utc>,
    /// What was done.
    pub operation: Operation,
    /// The offer's job.
    pub job: JobId,
    /// The revision of the offer's order.
    pub revision: u64,
    /// The user of the edge box that asked for it.
    pub uid: u32,
    /// How its job stood when another order took its place; none while it is the job of the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn lease() -> Lease {
        let offer = |operation, revision: u64| Offer {
            operation,
            job: JobId(Uuid::from_u128(revision.into())),
            revision,
            order: Sealed {
                ephemeral: String::new(),
                ciphertext: String::new(),
            },
        };
        let both = |operation| [offer(operation, 9), offer(operation, 8)];
        Lease {
            name: "node-7".into(),
            instance: None,
            until: at(100),
            offers: [both(Operation::Restart), both(Operation::PowerOff)].concat(),
        }
    }

    #[test]
    fn an_offer_is_good_once_and_two_are_good_one_after_the_other() {
        let lease = lease();
        let revision = |operation, held| lease.offer(operation, held, at(0)).map(|o| o.revision);
        assert_eq!(revision(Operation::Restart, None), Ok(8));
        assert_eq!(revision(Operation::Restart, Some(7)), Ok(8));
        assert_eq!(revision(Operation::PowerOff, Some(8)), Ok(9));
        for held in [9, 10] {
            let code = revision(Operation::Restart, Some(held)).unwrap_err().code();
            assert_eq!(code, "offer_used");
        }
        assert_eq!(
            lease.open(Some(8), at(0)),
            [Operation::Restart, Operation::PowerOff]
        );
        assert!(lease.open(Some(9), at(0)).is_empty());
    }

    #[test]
    fn nothing_is_begun_at_its_end_and_nothing_that_is_not_offered() {
        let lease = lease();
        let code = |operation, now| lease.offer(operation, Some(7), now).unwrap_err().code();
        assert_eq!(code(Operation::Restart, at(100)), "lease_expired");
        assert!(lease.offer(Operation::Restart, Some(7), at(99)).is_ok());
        assert_eq!(code(Operation::Release, at(0)), "not_offered");
        assert_eq!(code(Operation::Unknown, at(0)), "not_offered");
    }

    #[test]
    fn an_operation_of_a_later_version_is_read_and_not_offered() {
        let read: Operation = serde_json::from_str("\"wipe\"").unwrap();
        assert_eq!(read, Operation::Unknown);
        for operation in Operation::ALL {
            assert_eq!(serde_json::json!(operation), operation.word());
        }
    }
}
