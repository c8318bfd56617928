//! `agent_configure`: the guest's first-boot data onto the image's `cidata` partition. Writes there and nowhere else.

use slipway_protocol::{order::GuestConfig, report::Failure, seal::Secret};
use tracing::info;

use super::{Attempt, Machine, Outcome, bound_disk, lasting, passing, secret};
use crate::{
    disk::{
        gpt::{self, Partition},
        seed::Seed,
    },
    env::OpenDisk,
};

/// The partition an image keeps for first-boot data.
const PARTITION: &str = "cidata";

pub(super) fn run(machine: &Machine, attempt: &Attempt, guest: &GuestConfig) -> Result<Outcome, Failure> {
    let disk = bound_disk::open(machine, attempt)?;
    let target = seed_partition(&disk)?;
    let nonce = secret(machine, attempt, &guest.phone_home)?;
    let user_data = match &guest.user_data {
        Some(name) => Some(secret(machine, attempt, name)?),
        None => None,
    };
    let seed = Seed {
        instance_id: &guest.instance_id,
        hostname: &guest.hostname,
        user: &guest.user,
        ssh_keys: &guest.ssh_keys,
        phone_home: &phone_home(machine, &nonce)?,
        user_data: user_data.as_ref().map(Secret::reveal),
    };
    let volume = seed
        .volume(target.len)
        .map_err(|e| lasting("bad_guest_config", e))?;
    match write(&disk, target.offset, &volume) {
        Ok(true) => {}
        Ok(false) => {
            let text = "the seed volume does not read back as it was written; the disk is likely broken";
            return Err(passing("disk_verify", text));
        }
        Err(e) => {
            return Err(passing(
                "disk_write",
                format!("cannot write the seed volume: {e}"),
            ));
        }
    }
    info!(
        offset = target.offset,
        bytes = volume.len(),
        "first-boot data written"
    );
    Ok(Outcome::Done)
}

fn seed_partition(disk: &OpenDisk) -> Result<Partition, Failure> {
    let partitions = gpt::partitions(|offset, bytes| disk.read_at(offset, bytes))
        .map_err(|e| lasting("no_partition_table", e))?;
    let target = partitions.into_iter().find(|p| p.name == PARTITION);
    let target = target.ok_or_else(|| {
        let text = "the image has no partition named `cidata` for first-boot data; see docs on guest images";
        lasting("no_seed_partition", text)
    })?;
    let ends_on_disk = |end| end <= disk.size_bytes();
    if target.offset.checked_add(target.len).is_some_and(ends_on_disk) {
        Ok(target)
    } else {
        Err(lasting(
            "no_seed_partition",
            "the `cidata` partition ends beyond the disk",
        ))
    }
}

/// Writes a volume and answers whether it reads back the same.
fn write(disk: &OpenDisk, offset: u64, volume: &[u8]) -> std::io::Result<bool> {
    disk.write_at(offset, volume)?;
    disk.sync()?;
    disk.drop_cache();
    let mut back = vec![0; volume.len()];
    disk.read_at(offset, &mut back)?;
    Ok(back == volume)
}

/// The URL the guest reports to; the nonce in it must not add to the URL's structure.
fn phone_home(machine: &Machine, nonce: &Secret) -> Result<String, Failure> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let text = nonce.reveal();
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(lasting(
            "bad_guest_config",
            "the phone-home nonce has characters that no URL part may have",
        ));
    }
    let config = &machine.config;
    Ok(format!(
        "http://{}:{}/phone-home/{}/{text}",
        config.edge, config.http_port, config.machine
    ))
}
