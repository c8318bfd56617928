//! A machine that came up by a port that is not on record: it is recognised by its other ports, or by its serial number, and that is said
//! at the machine and at the job that waits for it.

use chrono::{DateTime, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::{MacAddr, SiteId},
    inventory::Inventory,
};

use crate::store::{
    Database, StoreResult, discovered,
    events::{self, NewEvent},
    machine_lists::{self, Filter},
    machines::{self, Machine},
};

/// Serial numbers that makers leave in, in small letters: of many machines they are the same.
const PLACEHOLDERS: [&str; 9] = [
    "to be filled by o.e.m.",
    "default string",
    "not specified",
    "not available",
    "system serial number",
    "0123456789",
    "123456789",
    "none",
    "invalid",
];
/// Shorter ones are no serial numbers.
const LEAST: usize = 5;

/// Whether a serial number tells one machine from others.
fn tells(serial: &str) -> bool {
    let serial = serial.trim();
    let first = serial.chars().next();
    serial.len() >= LEAST
        && !PLACEHOLDERS.contains(&serial.to_lowercase().as_str())
        && !serial.chars().all(|c| Some(c) == first)
}

/// Says so when the hardware behind a port that nobody has on record is a machine's; once, when it is first looked at.
pub(super) fn tell(
    db: &mut Database,
    site: &SiteId,
    (mac, inventory): (MacAddr, &Inventory),
    now: DateTime<Utc>,
) -> StoreResult<()> {
    if machines::site_of_port(db, mac)?.is_some() || discovered::inventory_of(db, site, &[mac])?.is_some() {
        return Ok(());
    }
    let Some((machine, by)) = machine_of(db, site, inventory)? else {
        return Ok(());
    };
    let text = format!(
        "{} came up by port {mac}, which is not on record; {by} is. Add the port: slipway machine set {} --mac .. with all of its ports",
        machine.name, machine.name
    );
    let event = NewEvent::new("machine.other_port", now)
        .site(site)
        .machine(machine.id)
        .text(text)
        .data(json!({ "mac": mac, "by": by }));
    let event = match machine.live_job {
        Some(job) => event.job(job),
        None => event,
    };
    events::append(db, &event)
}

/// The machine of the site that has one of these ports, or this serial number, and by what it was found.
fn machine_of(
    db: &mut Database,
    site: &SiteId,
    inventory: &Inventory,
) -> StoreResult<Option<(Machine, String)>> {
    let ports: Vec<String> = inventory.nics.iter().map(|nic| nic.mac.to_string()).collect();
    for (port, machine) in machines::of_ports(db, &ports)? {
        let found = machines::get(db, &machine)?.filter(|machine| machine.site == *site);
        if let Some(machine) = found {
            return Ok(Some((machine, format!("its port {port}"))));
        }
    }
    let Some(serial) = inventory.serial.as_deref().filter(|serial| tells(serial)) else {
        return Ok(None);
    };
    let filter = Filter {
        sites: Some(vec![site.to_string()]),
        q: Some(serial.to_owned()),
        ..Filter::default()
    };
    let has_it = |machine: &Machine| {
        let known = machine.details.inventory.as_ref();
        known.is_some_and(|known| known.serial.as_deref() == Some(serial))
    };
    let found = machine_lists::page(db, &filter, "", 10)?;
    Ok(found
        .into_iter()
        .find(has_it)
        .map(|machine| (machine, format!("its serial number {serial}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makers_leave_in_is_no_serial_number() {
        for serial in ["S3Z8NB0K", "CZJ123456A", "0123456780"] {
            assert!(tells(serial), "{serial}");
        }
        for serial in [
            "",
            "1",
            "0000000000",
            "To Be Filled By O.E.M.",
            "Default string",
            "None",
            "0123456789",
            "XXXXX",
        ] {
            assert!(!tells(serial), "{serial}");
        }
    }
}
