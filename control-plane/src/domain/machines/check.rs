//! What can be a machine's name, labels, ports and BMC: one function each, for the API, imports and `apply`. What a switch, a BMC
//! or the edge would refuse later is refused here, while somebody looks. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use slipway_protocol::{ids::MacAddr, order::BmcDriver, seal::Secret};

use crate::{
    domain::names,
    error::ApiError,
    store::{
        Database,
        machines::{self, BmcDetails, Machine},
    },
};

/// Whether a text can be a machine's name.
pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    // `/api/v1/machines/import` is another address.
    if name == "import" {
        return Err(ApiError::Bad(
            "name",
            "`import` cannot be a machine's name".to_owned(),
        ));
    }
    names::check(name)
}

/// Most labels of a machine.
const MOST_LABELS: usize = 64;

/// Whether labels can be written on a command line and found again.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let bad = |detail: String| Err(ApiError::Bad("label", detail));
    if labels.len() > MOST_LABELS {
        return bad(format!("a machine has at most {MOST_LABELS} labels"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    for (name, value) in labels {
        if name.is_empty() || name.len() > 63 || !name.chars().all(plain) {
            return bad(format!(
                "`{name}` is not a label's name: use 1 to 63 of a-z, A-Z, 0-9, '.', '_', '-' and '/'"
            ));
        }
        if value.len() > 255 || value.chars().any(char::is_control) {
            return bad(format!(
                "the value of label `{name}` is longer than 255 bytes or has control characters"
            ));
        }
    }
    Ok(())
}

/// Most ports of a machine.
const MOST_PORTS: usize = 64;

/// Whether these can be the ports of one machine: each has an address that a network card can have.
pub(super) fn check_ports(macs: &[MacAddr]) -> Result<(), ApiError> {
    if macs.is_empty() {
        let detail = "a machine needs at least one MAC address".to_owned();
        return Err(ApiError::Bad("no_mac", detail));
    }
    if macs.len() > MOST_PORTS {
        let detail = format!("a machine has at most {MOST_PORTS} ports");
        return Err(ApiError::Bad("mac", detail));
    }
    let mut seen = BTreeSet::new();
    for mac in macs {
        let bad = |what: &str| Err(ApiError::Bad("mac", format!("{mac}: {what}")));
        if mac.0 == [0; 6] {
            return bad("no port has this address; look at the machine's label, or have it discovered");
        }
        // IEEE 802-2014, 8.2.2: the first bit on the wire says that it is a group's.
        if mac.0[0] & 1 == 1 {
            return bad("this is the address of a group (multicast or broadcast), which no port has");
        }
        if !seen.insert(mac) {
            return bad("this port is named twice");
        }
    }
    Ok(())
}

/// The longest user name of an IPMI BMC, in bytes (IPMI 2.0, table 22-29).
const IPMI_USER_BYTES: usize = 16;
/// The longest password of an IPMI BMC, in bytes (IPMI 2.0, table 22-30).
const IPMI_PASSWORD_BYTES: usize = 20;

/// Whether there can be such a BMC, and such a user at it.
pub(super) fn check_bmc(bmc: &BmcDetails, password: Option<&Secret>) -> Result<(), ApiError> {
    let bad = |detail: String| Err(ApiError::Bad("bmc", detail));
    let address = bmc.address.ip().to_canonical();
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || is_broadcast {
        return bad(format!("{address} cannot be the address of a BMC"));
    }
    if bmc.address.port() == 0 {
        return bad("a BMC listens on no port 0; IPMI's is 623".to_owned());
    }
    match bmc.driver {
        BmcDriver::Ipmi => {
            if bmc.username.len() > IPMI_USER_BYTES {
                return bad(format!("IPMI knows users of at most {IPMI_USER_BYTES} bytes"));
            }
            if password.is_some_and(|password| password.reveal().len() > IPMI_PASSWORD_BYTES) {
                return bad(format!(
                    "IPMI knows passwords of at most {IPMI_PASSWORD_BYTES} bytes"
                ));
            }
        }
    }
    let is_plain = |text: &str| !text.contains(char::is_control);
    if !is_plain(&bmc.username) || password.is_some_and(|password| !is_plain(password.reveal())) {
        let detail = "a BMC's user and password have no control characters; a line end from a file is one";
        return bad(detail.to_owned());
    }
    Ok(())
}

/// Whether a machine's BMC is no other machine's: of two with one address each would be switched for the other. The site must be held.
pub(super) fn check_bmc_is_its_own(db: &mut Database, machine: &Machine) -> Result<(), ApiError> {
    let (Some(other), Some(bmc)) = (machines::with_same_bmc(db, machine)?, &machine.details.bmc) else {
        return Ok(());
    };
    let detail = format!(
        "{} is the BMC of machine `{other}`: the power of each would be switched for the other",
        bmc.address
    );
    Err(ApiError::Conflict("bmc_taken", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(macs: &[&str]) -> Result<(), &'static str> {
        let macs: Vec<MacAddr> = macs.iter().map(|mac| mac.parse().unwrap()).collect();
        check_ports(&macs).map_err(|error| error.code())
    }

    #[test]
    fn only_what_a_card_can_have_is_a_port() {
        for good in ["52:54:00:00:00:01", "00-1b-21-aa-bb-cc", "f2:00:00:00:00:00"] {
            assert_eq!(ports(&[good]), Ok(()), "{good}");
        }
        for bad in [
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "33:33:00:00:00:01",
        ] {
            assert_eq!(ports(&["52:54:00:00:00:01", bad]), Err("mac"), "{bad}");
        }
        assert_eq!(ports(&[]), Err("no_mac"));
        assert_eq!(ports(&["52:54:00:00:00:01", "52-54-00-00-00-01"]), Err("mac"));
        let many: Vec<MacAddr> = (0..65).map(|n| MacAddr([2, 0, 0, 0, 0, n])).collect();
        assert_eq!(check_ports(&many).map_err(|error| error.code()), Err("mac"));
    }

    fn bmc(address: &str, username: &str, password: &str) -> Result<(), &'static str> {
        let details = BmcDetails {
            driver: BmcDriver::Ipmi,
            address: address.parse().unwrap(),
            username: username.to_owned(),
        };
        check_bmc(&details, Some(&Secret::new(password))).map_err(|error| error.code())
    }

    #[test]
    fn only_a_bmc_that_can_be_is_taken() {
        let (user, password) = ("a".repeat(16), "p".repeat(20));
        for address in ["192.0.2.9:623", "[2001:db8::9]:623", "192.0.2.9:1"] {
            assert_eq!(bmc(address, &user, &password), Ok(()), "{address}");
        }
        for address in [
            "0.0.0.0:623",
            "255.255.255.255:623",
            "224.0.0.1:623",
            "[::]:623",
            "[ff02::1]:623",
            "192.0.2.9:0",
        ] {
            assert_eq!(bmc(address, "admin", "x"), Err("bmc"), "{address}");
        }
        let at = "192.0.2.9:623";
        assert_eq!(bmc(at, &"a".repeat(17), "x"), Err("bmc"));
        assert_eq!(bmc(at, &"ä".repeat(9), "x"), Err("bmc"), "bytes count");
        assert_eq!(bmc(at, "admin", &"p".repeat(21)), Err("bmc"));
        assert_eq!(bmc(at, "admin", "secret\n"), Err("bmc"));
        assert_eq!(bmc(at, "ad\0min", "x"), Err("bmc"));
    }
}
