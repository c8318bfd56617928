//! The leases of DHCP pools: one row an address.

use chrono::DateTime;
use diesel::prelude::*;

use super::{Store, StoreError, bad_row, schema::dhcp_leases::dsl};
use crate::boot::Lease;

impl Store {
    /// Keeps leases, each in place of the one its address had; all in one write.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_dhcp_leases(&self, leases: &[Lease]) -> Result<(), StoreError> {
        self.write("keep leases", |connection| {
            connection.immediate_transaction(|connection| {
                for lease in leases {
                    diesel::replace_into(dsl::dhcp_leases)
                        .values((
                            dsl::address.eq(lease.address.to_string()),
                            dsl::mac.eq(lease.mac.to_string()),
                            dsl::until.eq(lease.until.timestamp()),
                        ))
                        .execute(connection)?;
                }
                Ok(())
            })
        })
    }

    /// The leases kept, by end: of two of one port the later one is its.
    ///
    /// # Errors
    /// When the database fails or holds what is no lease.
    pub fn dhcp_leases(&self) -> Result<Vec<Lease>, StoreError> {
        let rows: Vec<(String, String, i64)> = self.with("read the leases", |connection| {
            dsl::dhcp_leases.order(dsl::until.asc()).load(connection)
        })?;
        let bad = bad_row;
        rows.into_iter()
            .map(|(address, mac, until)| {
                Ok(Lease {
                    mac: mac.parse().map_err(|e| bad("lease")(format!("{e}")))?,
                    address: address.parse().map_err(|e| bad("lease")(format!("{e}")))?,
                    until: DateTime::from_timestamp(until, 0)
                        .ok_or_else(|| bad("lease")("no such time".to_owned()))?,
                })
            })
            .collect()
    }
}
