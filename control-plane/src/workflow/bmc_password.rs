//! The rotation of a BMC's password: when it may begin, its order, the password itself, and what its end says about which one
//! is in force. Pure; random bytes are an argument.

use std::{collections::BTreeMap, net::Ipv4Addr};

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::{
    ids::{JobId, MachineId},
    order::{Action, Hardware, Order, Step},
    report::{Failure, PASSWORD_REFUSED, Report, StepState},
    seal::{Sealed, Secret},
};

use super::{
    install::step_id,
    state::{InstanceState, JobState, MachineState},
};

/// How long a rotation may take: it waits for nobody but the site.
pub const LIFE: TimeDelta = TimeDelta::minutes(30);
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

/// Why a rotation cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A job works on the machine.
    #[error("is being worked on; wait for its job to end, or cancel it")]
    Busy,
    /// Nothing is done with it any more.
    #[error("is retired")]
    Retired,
    /// The order in force is still needed: it holds the machine in the LiveOS, or can be taken up again.
    #[error(
        "is held by an instance that is neither running nor stopped: start it, retry its job, or release it, and rotate then"
    )]
    Unsettled,
}

/// Whether a rotation may begin on a machine where it stands, with the instance that holds it. Its order takes the place of the
/// one in force, and gives the machine the same address and its disk: right for what runs or is stopped, and for nothing else.
///
/// # Errors
/// Why it may not.
pub fn may_begin(
    machine: MachineState,
    works: Option<JobId>,
    instance: Option<InstanceState>,
) -> Result<(), Refusal> {
    if works.is_some() {
        return Err(Refusal::Busy);
    }
    match (machine, instance) {
        (MachineState::Retired, _) => Err(Refusal::Retired),
        (MachineState::Erasing, _) => Err(Refusal::Busy),
        (_, None | Some(InstanceState::Running | InstanceState::Stopped)) => Ok(()),
        (_, Some(_)) => Err(Refusal::Unsettled),
    }
}

/// What the order of a rotation is made of.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The machine.
    pub machine: MachineId,
    /// The job.
    pub job: JobId,
    /// When it was asked for.
    pub now: DateTime<Utc>,
    /// How it is reached, by all passwords that may be in force.
    pub hardware: Hardware,
    /// The address and the name that the instance on it keeps.
    pub keeps: Option<(Ipv4Addr, String)>,
    /// The secrets, sealed to the site.
    pub secrets: BTreeMap<String, Sealed>,
    /// Which of them is the new password.
    pub password: String,
}

/// Compiles the order. What the instance on the machine needs comes first: a machine does what its newest order says, and what
/// that leaves out is no longer so.
#[must_use]
pub fn compile(rotation: Rotation) -> Order {
    let mut steps = Vec::new();
    let mut needs: &[&str] = &[];
    if let Some((address, hostname)) = rotation.keeps {
        let bind = Action::DhcpBind {
            address,
            hostname: Some(hostname),
        };
        steps.push(step("bind-address", bind, &[]));
        steps.push(step("serve-disk", Action::BootLocal, &["bind-address"]));
        needs = &["serve-disk"];
    }
    let password = rotation.password;
    steps.push(step(SET, Action::DriverSetPassword { password }, needs));
    Order {
        machine: rotation.machine,
        job: rotation.job,
        deadline: rotation.now + LIFE,
        retry: 0,
        settled: None,
        hardware: rotation.hardware,
        secrets: rotation.secrets,
        steps,
    }
}

/// A slow BMC is asked for each of its users, and logged in to several times.
fn step(id: &str, action: Action, needs: &[&str]) -> Step {
    Step {
        id: step_id(id),
        role: action.role(),
        needs: needs.iter().map(|need| step_id(need)).collect(),
        no_progress_timeout_s: 300,
        retries: 3,
        action,
    }
}

/// The order of a rotation that was called off: nothing is done with the BMC, and what the instance on the machine needs stays.
#[must_use]
pub fn called_off(order: Order) -> Order {
    let keeps = |step: &Step| !matches!(step.action, Action::DriverSetPassword { .. });
    Order {
        steps: order.steps.into_iter().filter(keeps).collect(),
        secrets: BTreeMap::new(),
        ..order
    }
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
    use slipway_protocol::inventory::FirmwareKind;
    use uuid::Uuid;

    fn order(keeps: Option<(Ipv4Addr, String)>) -> Order {
        let sealed = Sealed {
            ephemeral: String::new(),
            ciphertext: String::new(),
        };
        compile(Rotation {
            machine: MachineId(Uuid::nil()),
            job: JobId(Uuid::nil()),
            now: DateTime::<Utc>::UNIX_EPOCH,
            hardware: Hardware {
                macs: vec![],
                firmware: FirmwareKind::Bios,
                bmc: None,
            },
            keeps,
            secrets: [("new".to_owned(), sealed)].into(),
            password: "new".to_owned(),
        })
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
        let left = called_off(held);
        assert_eq!(left.check(), Ok(()));
        assert_eq!((names(&left).len(), left.secrets.len()), (2, 0));
        assert!(called_off(free).steps.is_empty());
    }

    #[test]
    fn only_what_can_lose_its_order_is_rotated_on() {
        use InstanceState as I;
        let may = |machine, instance| may_begin(machine, None, instance);
        for free in [
            MachineState::Enrolled,
            MachineState::Available,
            MachineState::Maintenance,
            MachineState::Quarantined,
        ] {
            assert_eq!(may(free, None), Ok(()), "{free:?}");
            let job = Some(JobId(Uuid::nil()));
            assert_eq!(may_begin(free, job, None), Err(Refusal::Busy));
        }
        assert_eq!(may(MachineState::Retired, None), Err(Refusal::Retired));
        for fine in [I::Running, I::Stopped] {
            assert_eq!(may(MachineState::Allocated, Some(fine)), Ok(()));
        }
        for bad in [I::Failed, I::Rescue, I::Installing, I::Erasing] {
            assert_eq!(may(MachineState::Allocated, Some(bad)), Err(Refusal::Unsettled));
        }
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
