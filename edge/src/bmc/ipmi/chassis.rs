//! The chassis and application commands this product sends (IPMI 2.0 sections 20.1, 28.2, 28.3, 28.12, 28.13):
//! request data out, response data in. Pure; it never knows of sessions.

use super::super::{BmcInfo, BootDevice, Firmware, PowerAction, PowerState};

/// A command: network function, number and the words used for it in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Network function of the request.
    pub netfn: u8,
    /// Command number.
    pub number: u8,
    /// What it is, for messages.
    pub name: &'static str,
}

const fn command(netfn: u8, number: u8, name: &'static str) -> Command {
    Command { netfn, number, name }
}

/// Network function "chassis".
pub const NETFN_CHASSIS: u8 = 0x00;
/// Network function "application".
pub const NETFN_APP: u8 = 0x06;

/// Get Device ID.
pub const GET_DEVICE_ID: Command = command(NETFN_APP, 0x01, "get device id");
/// Cold Reset: the BMC itself starts anew (section 20.2).
pub const COLD_RESET: Command = command(NETFN_APP, 0x02, "cold reset");
/// Set Session Privilege Level.
pub const SET_PRIVILEGE: Command = command(NETFN_APP, 0x3b, "set session privilege");
/// Close Session.
pub const CLOSE_SESSION: Command = command(NETFN_APP, 0x3c, "close session");
/// Get Chassis Status.
pub const GET_STATUS: Command = command(NETFN_CHASSIS, 0x01, "get chassis status");
/// Chassis Control: power.
pub const CONTROL: Command = command(NETFN_CHASSIS, 0x02, "chassis control");
/// Set System Boot Options.
pub const SET_BOOT: Command = command(NETFN_CHASSIS, 0x08, "set boot options");
/// Get System Boot Options.
pub const GET_BOOT: Command = command(NETFN_CHASSIS, 0x09, "get boot options");

/// Boot option parameter 0: set in progress.
pub const PARAMETER_PROGRESS: u8 = 0;
/// Boot option parameter 3 (table 28-14): the flags are kept although no chassis control follows within 60 s, since a machine may
/// take longer to be powered on.
pub const KEEP_FLAGS: [u8; 2] = [3, 0x08];
/// Boot option parameter 4: who has handled the boot info.
pub const PARAMETER_ACKNOWLEDGE: u8 = 4;
/// Boot option parameter 5: boot flags.
pub const PARAMETER_FLAGS: u8 = 5;

/// Value of Chassis Control for a power action (table 28-4).
pub fn control_value(action: PowerAction) -> u8 {
    match action {
        PowerAction::Off => 0x00,
        PowerAction::On => 0x01,
        PowerAction::Cycle => 0x02,
        PowerAction::Reset => 0x03,
        PowerAction::Soft => 0x05,
    }
}

/// Reads Get Chassis Status.
pub fn power_state(data: &[u8]) -> Option<PowerState> {
    let first = data.first()?;
    Some(if first & 0x01 != 0 {
        PowerState::On
    } else {
        PowerState::Off
    })
}

/// Boot flags (parameter 5) for the next boot only: valid, not persistent.
pub fn boot_flags(device: BootDevice, firmware: Firmware) -> [u8; 6] {
    let valid = match firmware {
        Firmware::Bios => 0x80,
        Firmware::Uefi => 0xa0,
    };
    let selector = match device {
        BootDevice::Pxe => 0x04,
        BootDevice::Disk => 0x08,
    };
    [PARAMETER_FLAGS, valid, selector, 0, 0, 0]
}

/// The override in the answer to Get System Boot Options parameter 5. `None` inside: no valid override, or a
/// device without a name here. Outer `None`: the answer cannot be read.
pub fn next_boot(data: &[u8]) -> Option<Option<BootDevice>> {
    let [_version, parameter, flags, device, ..] = data else {
        return None;
    };
    if parameter & 0x7f != PARAMETER_FLAGS {
        return None;
    }
    if flags & 0x80 == 0 {
        return Some(None);
    }
    Some(match (device >> 2) & 0x0f {
        0x1 => Some(BootDevice::Pxe),
        0x2 => Some(BootDevice::Disk),
        _ => None,
    })
}

/// Reads Get Device ID; how the session is protected is for the caller to say.
pub fn device(data: &[u8]) -> Option<BmcInfo> {
    let [
        _id,
        _revision,
        major,
        minor,
        _version,
        _support,
        m0,
        m1,
        m2,
        p0,
        p1,
        ..,
    ] = *data
    else {
        return None;
    };
    Some(BmcInfo {
        protocol: "ipmi".to_owned(),
        manufacturer: u32::from_le_bytes([m0, m1, m2, 0]) & 0x000f_ffff,
        product: u16::from_le_bytes([p0, p1]),
        firmware: format!("{}.{minor:02x}", major & 0x7f), // the minor revision is BCD
        security: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_set_are_flags_read() {
        for device in [BootDevice::Pxe, BootDevice::Disk] {
            for firmware in [Firmware::Bios, Firmware::Uefi] {
                let [parameter, rest @ ..] = boot_flags(device, firmware);
                let answer = [&[1, parameter], rest.as_slice()].concat();
                assert_eq!(next_boot(&answer), Some(Some(device)));
            }
        }
        assert_eq!(next_boot(&[1, 5, 0x00, 0x04, 0, 0, 0]), Some(None), "not valid");
        assert_eq!(
            next_boot(&[1, 5, 0x80, 0x14, 0, 0, 0]),
            Some(None),
            "CD-ROM has no name here"
        );
        assert_eq!(next_boot(&[1, 4, 0x80, 0x04]), None);
    }

    #[test]
    fn short_answers_are_refused() {
        assert_eq!(power_state(&[]), None);
        for length in 0..11 {
            assert_eq!(device(&[0; 11][..length]), None);
        }
        let info = device(&[0x20, 1, 0x82, 0x45, 2, 0xbf, 0x57, 1, 0, 0x34, 0x12]).expect("full answer");
        assert_eq!(
            (info.manufacturer, info.product, info.firmware.as_str()),
            (343, 0x1234, "2.45")
        );
    }
}
