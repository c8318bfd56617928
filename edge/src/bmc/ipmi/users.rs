//! The commands about a BMC's users (IPMI 2.0 sections 22.27, 22.29 and 22.30): request data out, response data in. Pure; it
//! never knows of sessions.

use super::chassis::{Command, NETFN_APP};

/// Get User Access: also how many users there can be.
pub const GET_ACCESS: Command = Command {
    netfn: NETFN_APP,
    number: 0x44,
    name: "get user access",
};
/// Get User Name.
pub const GET_NAME: Command = Command {
    netfn: NETFN_APP,
    number: 0x46,
    name: "get user name",
};
/// Set User Password.
pub const SET_PASSWORD: Command = Command {
    netfn: NETFN_APP,
    number: 0x47,
    name: "set user password",
};

/// The channel a request comes by.
const THIS_CHANNEL: u8 = 0x0e;
/// Operation of Set User Password: set it.
pub const OPERATION_SET: u8 = 0x02;
/// In the first byte of Set User Password: 20 bytes follow instead of 16.
pub const TWENTY_BYTES: u8 = 0x80;
/// Bits of a byte that are a user's id.
pub const ID_BITS: u8 = 0x3f;
/// Bytes of a password that every BMC stores.
pub const SHORT: usize = 16;
/// Bytes of a password that an IPMI 2.0 BMC may store.
pub const LONG: usize = 20;

/// Asks for the access of user 1, which every BMC has.
#[must_use]
pub fn first_access() -> [u8; 2] {
    [THIS_CHANNEL, 1]
}

/// The highest user id, from the answer to Get User Access.
#[must_use]
pub fn highest_id(data: &[u8]) -> Option<u8> {
    let [highest, _enabled, _fixed, _access, ..] = *data else {
        return None;
    };
    Some(highest & ID_BITS).filter(|highest| *highest > 0)
}

/// Whether the answer to Get User Name is this name, which is padded with NUL; some BMCs leave the padding out.
#[must_use]
pub fn is_name(data: &[u8], name: &str) -> bool {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    data[..end] == *name.as_bytes()
}

/// Set User Password in a field of 16 or 20 bytes, padded with NUL; `None` when it does not fit.
#[must_use]
pub fn set_password(id: u8, password: &str, bytes: usize) -> Option<Vec<u8>> {
    if password.len() > bytes {
        return None;
    }
    let size = if bytes == LONG { TWENTY_BYTES } else { 0 };
    let mut data = vec![size | (id & ID_BITS), OPERATION_SET];
    data.extend_from_slice(password.as_bytes());
    data.resize(2 + bytes, 0);
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_padded_to_its_field() {
        let data = set_password(3, "new", SHORT).expect("it fits");
        assert_eq!(data, *b"\x03\x02new\0\0\0\0\0\0\0\0\0\0\0\0\0");
        let data = set_password(3, "seventeen-letters", LONG).expect("it fits");
        assert_eq!((data.len(), data[0], data[1]), (22, 0x83, OPERATION_SET));
        assert_eq!(set_password(3, "seventeen-letters", SHORT), None);
        assert_eq!(set_password(3, &"x".repeat(21), LONG), None);
    }

    #[test]
    fn users_are_told_apart_by_their_whole_name() {
        assert!(is_name(b"admin\0\0\0\0\0\0\0\0\0\0\0", "admin") && is_name(b"admin", "admin"));
        assert!(!is_name(b"administrator\0\0\0", "admin") && !is_name(b"adm\0in", "admin"));
        assert!(is_name(b"sixteen-letters!", "sixteen-letters!"));
        assert_eq!(highest_id(&[0x4a, 1, 0, 0x14]), Some(10), "two bits are reserved");
        assert_eq!(highest_id(&[0x40, 1, 0, 0x14]), None);
        assert_eq!(highest_id(&[10, 1, 0]), None);
    }
}
