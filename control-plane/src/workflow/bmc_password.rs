//! The rotation of a BMC's password: its order, the password itself, and what its end says about which one is in force. Pure; random bytes are an argument.

use slipway_protocol::{
    order::{Action, Order},
    report::{Failure, PASSWORD_REFUSED, Report, StepState},
    seal::Secret,
};

use super::{
    machine_job::{self, Frame},
    state::JobState,
};

/// Most passwords that are kept beside the one on record.
pub const MOST_CANDIDATES: usize = 4;
/// Bytes of a password: what every IPMI 2.0 BMC stores.
pub const LENGTH: usize = 16;
/// The step that sets it.
const SET: &str = "set-bmc-password";

/// What passwords are made of: nothing that a BMC's shell, web page or length rule stumbles over. 6 bits a character.
const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// A password by random bytes; none if these make one that the rules of some BMCs refuse: it begins with a letter, and has small
/// and capital letters, a digit and one of `-` and `_`. Of all passwords a third is left, so more than 90 bits.
#[must_use]
pub fn password_of(random: &[u8; LENGTH]) -> Option<Secret> {
    let text: String = random
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(byte % 64)]))
        .collect();
    let has = |wanted: fn(&char) -> bool| text.chars().any(|c| wanted(&c));
    let good = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_digit)
        && has(|c| matches!(c, '-' | '_'));
    good.then(|| Secret::new(text))
}

/// Compiles the order; `password` names the secret that is the new one.
#[must_use]
pub fn compile(frame: Frame, password: String) -> Order {
    machine_job::compile(frame, vec![(SET, Action::DriverSetPassword { password })])
}

/// What the end of a rotation says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The new password is in force: the BMC proved it.
    New,
    /// It is not: the BMC refused it, and proved another one afterwards.
    Refused,
    /// Either may be: nobody knows what a BMC was told before a word of it was lost.
    None,
}

/// What the end of a rotation's job says. Only an edge ends one well or with [`PASSWORD_REFUSED`].
#[must_use]
pub fn proof(end: JobState, failure: Option<&Failure>) -> Proof {
    match (end, failure) {
        (JobState::Done, _) => Proof::New,
        (JobState::Failed, Some(failure)) if failure.code == PASSWORD_REFUSED => Proof::Refused,
        _ => Proof::None,
    }
}

/// Whether a report says that the new password was set and proved, whatever has become of the job meanwhile.
#[must_use]
pub fn is_set(report: &Report) -> bool {
    let is_done = |state| state == StepState::Done;
    report
        .steps
        .iter()
        .any(|s| s.id.as_str() == SET && is_done(s.state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};
    use slipway_protocol::{
        ids::{JobId, MachineId},
        inventory::FirmwareKind,
        order::Hardware,
        seal::Sealed,
    };
    use std::net::Ipv4Addr;
    use uuid::Uuid;

    fn order(keeps: Option<(Ipv4Addr, String)>) -> Order {
        let sealed = Sealed {
            ephemeral: String::new(),
            ciphertext: String::new(),
        };
        let frame = Frame {
            machine: MachineId(Uuid::nil()),
            job: JobId(Uuid::nil()),
            deadline: DateTime::<Utc>::UNIX_EPOCH,
            hardware: Hardware {
                macs: vec![],
                firmware: FirmwareKind::Bios,
                bmc: None,
            },
            keeps,
            secrets: [("new".to_owned(), sealed)].into(),
        };
        compile(frame, "new".to_owned())
    }

    #[test]
    fn the_server_is_not_touched_and_keeps_what_it_needs() {
        let names = |order: &Order| -> Vec<String> { order.steps.iter().map(|s| s.id.to_string()).collect() };
        let held = order(Some((Ipv4Addr::LOCALHOST, "web-1".to_owned())));
        assert_eq!(held.check(), Ok(()));
        assert_eq!(names(&held), ["bind-address", "serve-disk", SET]);
        let free = order(None);
        assert_eq!(free.check(), Ok(()));
        assert_eq!(names(&free), [SET]);
        let left = machine_job::called_off(held);
        assert_eq!(left.check(), Ok(()));
        assert_eq!((names(&left).len(), left.secrets.len()), (2, 0));
        assert!(machine_job::called_off(free).steps.is_empty());
    }

    #[test]
    fn a_password_is_forgotten_on_proof_alone() {
        let failed = |code: &str| Failure {
            code: code.to_owned(),
            message: String::new(),
            transient: false,
        };
        assert_eq!(proof(JobState::Done, None), Proof::New);
        let refused = failed(PASSWORD_REFUSED);
        assert_eq!(proof(JobState::Failed, Some(&refused)), Proof::Refused);
        assert_eq!(proof(JobState::Cancelled, Some(&refused)), Proof::None);
        for code in [
            "bmc_timeout",
            "bmc_password_unknown",
            "no_progress",
            "deadline",
            "edge_replaced",
            "site_lost",
            "unknown_action",
        ] {
            assert_eq!(
                proof(JobState::Failed, Some(&failed(code))),
                Proof::None,
                "{code}"
            );
        }
    }

    #[test]
    fn every_password_fits_every_rule() {
        let mut random = [0_u8; LENGTH];
        let (mut state, mut made) = (7_u32, 0);
        for _ in 0..2000 {
            for byte in &mut random {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = state.to_be_bytes()[0];
            }
            let Some(password) = password_of(&random) else {
                continue;
            };
            made += 1;
            let text = password.reveal();
            assert_eq!(text.len(), LENGTH);
            assert!(
                text.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)),
                "{text}"
            );
            assert!(text.starts_with(|c: char| c.is_ascii_alphabetic()), "{text}");
            let of = |kind: fn(&u8) -> bool| text.bytes().any(|b| kind(&b));
            assert!(of(u8::is_ascii_digit) && of(u8::is_ascii_lowercase) && of(u8::is_ascii_uppercase));
        }
        assert!(made > 400, "{made} of 2000: it would take long to find one");
        assert_eq!(password_of(&[0; LENGTH]), None);
        let distinct: std::collections::HashSet<u8> = LETTERS.iter().copied().collect();
        assert_eq!(distinct.len(), 64, "no letter is likelier than another");
    }
}
