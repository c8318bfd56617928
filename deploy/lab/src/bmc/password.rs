//! Set User Password (IPMI 2.0 section 22.30): enable, disable, set, test. A user cannot be disabled here.

use slipway_edge::bmc::ipmi::users::{ID_BITS, LONG, OPERATION_SET, SHORT, TWENTY_BYTES};

use super::commands::{BAD_LENGTH, Effect, INVALID_FIELD, OK, Reply};
use super::faults::{Faults, Passwords};
use super::users::Users;

const TEST_FAILED: u8 = 0x80;

/// Does one such command.
pub(super) fn command(data: &[u8], (users, faults): (&Users, &Faults), effect: &mut Effect) -> Reply {
    let [first, operation, password @ ..] = data else {
        return (BAD_LENGTH, Vec::new());
    };
    let wanted = if first & TWENTY_BYTES == 0 { SHORT } else { LONG };
    let id = first & ID_BITS;
    let Some(user) = users.numbered(id) else {
        return (INVALID_FIELD, Vec::new());
    };
    let is_set = match operation & 0x03 {
        0x00 => return (INVALID_FIELD, Vec::new()),
        0x01 => return (OK, Vec::new()),
        operation => operation == OPERATION_SET,
    };
    let end = password.iter().position(|b| *b == 0).unwrap_or(password.len());
    let text = match std::str::from_utf8(&password[..end]) {
        Ok(text) if password.len() == wanted => text,
        Ok(_) => return (BAD_LENGTH, Vec::new()),
        Err(_) => return (INVALID_FIELD, Vec::new()),
    };
    let completion = match is_set {
        true => set(id, text, (users, faults), effect),
        false if user.password == text => OK,
        false => TEST_FAILED,
    };
    (completion, Vec::new())
}

fn set(id: u8, text: &str, (users, faults): (&Users, &Faults), effect: &mut Effect) -> u8 {
    match faults.take_passwords() {
        Passwords::Store => users.set_password(id, text),
        Passwords::Refuse(completion) => return completion,
        Passwords::Ignore => {}
        Passwords::CutTo(bytes) => users.set_password(id, text.get(..bytes).unwrap_or(text)),
        Passwords::HangUp => {
            users.set_password(id, text);
            *effect = Effect::HangUp;
        }
    }
    OK
}
