//! `agent_set_password`: a new password hash into `/etc/shadow` of the system on the bound disk. Changes that one line,
//! and nothing if the user is not there.

use chrono::{DateTime, Utc};
use slipway_protocol::{report::Failure, seal::Secret};
use tracing::info;

use super::{Attempt, Machine, Outcome, bound_disk, lasting, passing, secret};
use crate::file_system::EditError;

const SHADOW: &str = "etc/shadow";

pub(super) fn run(
    machine: &Machine,
    attempt: &Attempt,
    user: &str,
    password: &str,
) -> Result<Outcome, Failure> {
    let hash = secret(machine, attempt, password)?;
    let found = bound_disk::found(machine, attempt)?;
    let today = machine.env.now();
    let edit = |text: &str| with_hash(text, user, &hash, today);
    match machine.env.edit_file(&found, SHADOW, &edit) {
        Ok(()) => {
            info!(user, "password set");
            Ok(Outcome::Done)
        }
        Err(EditError::NotFound) => {
            let text = "no file system on the chosen disk has /etc/shadow; only ext4 and XFS on plain partitions are looked \
                        at. Boot the machine for rescue, and change the password by hand";
            Err(lasting("no_system_found", text))
        }
        Err(EditError::Unchanged) => Err(lasting(
            "no_such_user",
            format!("the system on the chosen disk has no user `{user}`"),
        )),
        Err(e @ EditError::Io(..)) => Err(passing("disk_write", e)),
    }
}

/// The file with the user's hash replaced; nothing if there is no such user (shadow(5): name, hash, day of the change).
fn with_hash(text: &str, user: &str, hash: &Secret, now: DateTime<Utc>) -> Option<String> {
    let day = (now.timestamp() / 86_400).to_string();
    let mut found = false;
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut fields: Vec<&str> = line.split(':').collect();
            if fields.len() < 3 || fields[0] != user {
                return line.to_owned();
            }
            found = true;
            fields[1] = hash.reveal();
            fields[2] = &day;
            fields.join(":")
        })
        .collect();
    found.then(|| lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_changed_and_only_of_a_user_who_is_there() {
        let text = "root:*:19000:0:99999:7:::\ndebian:!:19000:0:99999:7:::\nodd\n";
        let now = DateTime::from_timestamp(20_000 * 86_400 + 5, 0).unwrap();
        let hash = Secret::new("$6$salt$x");
        let changed = with_hash(text, "debian", &hash, now).unwrap();
        assert_eq!(
            changed,
            "root:*:19000:0:99999:7:::\ndebian:$6$salt$x:20000:0:99999:7:::\nodd\n"
        );
        assert_eq!(with_hash(text, "deb", &hash, now), None);
        assert_eq!(with_hash(text, "odd", &hash, now), None);
    }
}
