//! What belongs to local operations: the leases, and the journal of what was asked for at the box, by whom, and what came
//! of it. A line is never changed; of the refused ones the oldest are forgotten. Leases have a table of their own: a build
//! that knows none must still read all commands.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    ids::JobId,
    lease::{LocalUse, Operation},
    topic::Kind,
};

use super::{Document, Store, StoreError, bad_row, replace_document, schema};

/// How many refused lines are kept.
const REFUSED_KEPT: i64 = 1000;

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the box's clock.
    pub at: DateTime<Utc>,
    /// Who asked, as the kernel says.
    pub uid: u32,
    /// For what.
    pub operation: Operation,
    /// The machine's id, or what was given if that names no machine.
    pub machine: String,
    /// The offer that was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The revision of its order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Code of the refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

type Row = (
    i64,
    i64,
    i64,
    String,
    String,
    Option<String>,
    Option<i64>,
    Option<String>,
);

fn entry(row: Row) -> Result<Entry, StoreError> {
    let (_, at, uid, operation, machine, job, revision, refused) = row;
    let bad = |what: String| bad_row("local operation")(what);
    Ok(Entry {
        at: DateTime::from_timestamp_micros(at).ok_or_else(|| bad(format!("time {at}")))?,
        uid: u32::try_from(uid).map_err(|e| bad(e.to_string()))?,
        operation: serde_json::from_value(operation.into()).map_err(|e| bad(e.to_string()))?,
        machine,
        job: job
            .map(|job| job.parse())
            .transpose()
            .map_err(|_| bad("job".to_owned()))?,
        revision: revision.map(i64::cast_unsigned),
        refused,
    })
}

fn append(connection: &mut SqliteConnection, entry: &Entry) -> QueryResult<()> {
    use schema::local_operations::dsl;
    diesel::insert_into(dsl::local_operations)
        .values((
            dsl::at.eq(entry.at.timestamp_micros()),
            dsl::uid.eq(i64::from(entry.uid)),
            dsl::operation.eq(entry.operation.word()),
            dsl::machine.eq(&entry.machine),
            dsl::job.eq(entry.job.map(|job| job.to_string())),
            dsl::revision.eq(entry.revision.map(u64::cast_signed)),
            dsl::refused.eq(&entry.refused),
        ))
        .execute(connection)?;
    Ok(())
}

impl Store {
    /// Keeps a machine's lease unless one of a higher revision is held; `false` then.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_lease(&self, lease: &Document) -> Result<bool, StoreError> {
        use schema::machine_leases::dsl;
        let revision = lease.revision.cast_signed();
        self.write("keep a lease", |connection| {
            connection.immediate_transaction(|connection| {
                let row = dsl::machine_leases.find(&lease.subject);
                let held: Option<i64> = row.select(dsl::revision).first(connection).optional()?;
                if held.is_some_and(|held| held > revision) {
                    return Ok(false);
                }
                diesel::replace_into(dsl::machine_leases)
                    .values((
                        dsl::machine.eq(&lease.subject),
                        dsl::revision.eq(revision),
                        dsl::payload.eq(&lease.payload),
                    ))
                    .execute(connection)?;
                Ok(true)
            })
        })
    }

    /// All leases held.
    ///
    /// # Errors
    /// When the database fails.
    pub fn leases(&self) -> Result<Vec<Document>, StoreError> {
        use schema::machine_leases::dsl;
        let rows: Vec<(String, i64, Vec<u8>)> = self.with("read the leases", |connection| {
            dsl::machine_leases.load(connection)
        })?;
        let lease = |(subject, revision, payload): (String, i64, Vec<u8>)| Document {
            kind: Kind::Lease,
            subject,
            revision: revision.cast_unsigned(),
            payload,
        };
        Ok(rows.into_iter().map(lease).collect())
    }

    /// Keeps the order of an offer that is used, and the journal's line of it, both or neither. `false`, and nothing is kept,
    /// if an order of that revision or a higher one is held.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_offered(&self, document: &Document, line: &Entry) -> Result<bool, StoreError> {
        self.write("keep an offered order", |connection| {
            connection.immediate_transaction(|connection| {
                let kept = replace_document(connection, document, |held, new| held < new)?;
                if kept {
                    append(connection, line)?;
                }
                Ok(kept)
            })
        })
    }

    /// Writes down what was refused.
    ///
    /// # Errors
    /// When the database fails.
    pub fn note_refused(&self, line: &Entry) -> Result<(), StoreError> {
        use schema::local_operations::dsl;
        self.write("keep a line of the journal", |connection| {
            connection.immediate_transaction(|connection| {
                append(connection, line)?;
                let oldest: Option<i64> = dsl::local_operations
                    .filter(dsl::refused.is_not_null())
                    .order(dsl::id.desc())
                    .offset(REFUSED_KEPT)
                    .select(dsl::id)
                    .first(connection)
                    .optional()?;
                if let Some(oldest) = oldest {
                    let old = dsl::local_operations
                        .filter(dsl::refused.is_not_null())
                        .filter(dsl::id.le(oldest));
                    diesel::delete(old).execute(connection)?;
                }
                Ok(())
            })
        })
    }

    /// The last lines of the journal, oldest first.
    ///
    /// # Errors
    /// When the database fails or holds a line this build cannot read.
    pub fn journal(&self, most: i64) -> Result<Vec<Entry>, StoreError> {
        use schema::local_operations::dsl;
        let mut rows: Vec<Row> = self.with("read the journal", |connection| {
            let newest = dsl::local_operations.order(dsl::id.desc()).limit(most);
            newest.load(connection)
        })?;
        rows.reverse();
        rows.into_iter().map(entry).collect()
    }

    /// The local operation that a job is of, if it is one.
    ///
    /// # Errors
    /// When the database fails or holds a line this build cannot read.
    pub fn local_use(&self, job: JobId) -> Result<Option<LocalUse>, StoreError> {
        use schema::local_operations::dsl;
        let row: Option<Row> = self.with("read the journal", |connection| {
            let row = dsl::local_operations.filter(dsl::job.eq(job.to_string()));
            row.first(connection).optional()
        })?;
        let used = |entry: Entry| LocalUse {
            at: entry.at,
            operation: entry.operation,
            job,
            revision: entry.revision.unwrap_or_default(),
            uid: entry.uid,
            outcome: None,
        };
        Ok(row.map(entry).transpose()?.map(used))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn line(job: Option<u128>, refused: Option<&str>) -> Entry {
        Entry {
            at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            uid: 0,
            operation: Operation::Restart,
            machine: "m".into(),
            job: job.map(|n| JobId(Uuid::from_u128(n))),
            revision: job.map(|_| 8),
            refused: refused.map(str::to_owned),
        }
    }

    fn document(revision: u64) -> Document {
        Document {
            kind: Kind::Order,
            subject: "m".into(),
            revision,
            payload: vec![u8::try_from(revision).unwrap()],
        }
    }

    #[test]
    fn an_offered_order_and_its_line_are_kept_together_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.db");
        let store = Store::open(&path).unwrap();
        assert!(store.put_document(&document(7)).unwrap());
        assert!(store.put_offered(&document(8), &line(Some(1), None)).unwrap());
        let twin = store.put_offered(&document(8), &line(Some(2), None)).unwrap();
        assert!(!twin, "one of a revision is used");
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.documents().unwrap(), [document(8)]);
        assert_eq!(store.journal(10).unwrap(), [line(Some(1), None)]);
        let used = store.local_use(JobId(Uuid::from_u128(1))).unwrap().unwrap();
        assert_eq!((used.revision, used.operation), (8, Operation::Restart));
        assert_eq!(store.local_use(JobId(Uuid::from_u128(2))).unwrap(), None);
    }

    #[test]
    fn refused_lines_do_not_pile_up_and_push_no_other_out() {
        let store = Store::open(std::path::Path::new(":memory:")).unwrap();
        assert!(store.put_offered(&document(8), &line(Some(1), None)).unwrap());
        let most = usize::try_from(REFUSED_KEPT).unwrap();
        for _ in 0..most + 20 {
            store.note_refused(&line(None, Some("wrong_code"))).unwrap();
        }
        let lines = store.journal(5000).unwrap();
        assert_eq!(lines.len(), most + 1);
        assert_eq!(lines[0], line(Some(1), None));
    }
}
