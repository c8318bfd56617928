//! The IPMI commands this BMC knows: what they need, what they answer (IPMI 2.0 sections 20, 22, 28, 31).

use slipway_edge::bmc::ipmi::chassis::{
    NETFN_APP, NETFN_CHASSIS, PARAMETER_ACKNOWLEDGE, PARAMETER_FLAGS, PARAMETER_PROGRESS,
};
use slipway_edge::bmc::ipmi::rakp::Privilege;
use slipway_edge::bmc::ipmi::sel::NETFN_STORAGE;
use slipway_edge::bmc::ipmi::wire::{Request, Response};
use slipway_edge::bmc::{PowerAction, PowerState};

use super::chassis::{BootFlags, Chassis, ChassisError};
use super::faults::Faults;
use super::oddities::{Oddities, take};
use super::password;
use super::users::Users;

/// Completion codes (table 5-2 and the commands' own).
pub(super) const OK: u8 = 0x00;
const PARAMETER_UNSUPPORTED: u8 = 0x80;
const ALREADY_IN_PROGRESS: u8 = 0x81;
const PRIVILEGE_EXCEEDED: u8 = 0x81;
const INVALID_SESSION_ID: u8 = 0x87;
pub(super) const UNKNOWN_COMMAND: u8 = 0xc1;
pub(super) const BAD_LENGTH: u8 = 0xc7;
const OUT_OF_RANGE: u8 = 0xc9;
pub(super) const INVALID_FIELD: u8 = 0xcc;
const NO_PRIVILEGE: u8 = 0xd4;
const WRONG_STATE: u8 = 0xd5;
const UNSPECIFIED: u8 = 0xff;
/// Boot option parameter 3: when the flags are cleared (table 28-14).
const PARAMETER_CLEARING: u8 = 3;

/// Completion code and data.
pub(super) type Reply = (u8, Vec<u8>);

/// What a BMC remembers beside its sessions.
#[derive(Default)]
pub(super) struct Settings {
    /// The session that set "set in progress".
    progress: Option<u32>,
    acknowledge: [u8; 2],
    /// When boot flags are not cleared (parameter 3).
    flags_kept: u8,
    restore_policy: u8,
}

/// What a command may look at and change.
pub(super) struct Context<'a> {
    pub(super) users: &'a Users,
    pub(super) chassis: &'a dyn Chassis,
    pub(super) faults: &'a Faults,
    pub(super) settings: &'a mut Settings,
    pub(super) guid: &'a [u8; 16],
    pub(super) session: u32,
    pub(super) limit: Privilege,
    pub(super) privilege: &'a mut Privilege,
}

/// What is to happen after the answer has been made.
pub(super) enum Effect {
    None,
    Close(u32),
    /// The session ends, and this request has no answer.
    HangUp,
    Restart,
}

/// The answer to `request` with this completion code and data.
pub(super) fn answer(request: &Request, completion: u8, data: Vec<u8>) -> Response {
    Response {
        netfn: request.netfn | 1,
        command: request.command,
        sequence: request.sequence,
        completion,
        data,
    }
}

/// Whether this maker's firmware says nothing to a request.
pub(super) fn is_ignored(request: &Request, odd: &Oddities) -> bool {
    let sets_boot = (request.netfn, request.command) == (NETFN_CHASSIS, 0x08);
    sets_boot
        && request
            .data
            .first()
            .is_some_and(|parameter| odd.mute_about.contains(parameter))
}

/// Commands that need no session.
pub(super) fn outside_session(request: &Request, guid: &[u8; 16]) -> Response {
    let (completion, data) = match (request.netfn, request.command) {
        (NETFN_APP, 0x37) => (OK, guid.to_vec()),
        // channel 1; IPMI 2.0 data follows; per-message authentication; named users only; IPMI 2.0 only
        (NETFN_APP, 0x38) => (OK, vec![0x01, 0x80, 0x04, 0x02, 0, 0, 0, 0]),
        (NETFN_APP, 0x54) => (OK, cipher_suites(&request.data)),
        _ => (NO_PRIVILEGE, Vec::new()),
    };
    answer(request, completion, data)
}

/// Get Channel Cipher Suites: all fit into list index 0 (table 22-18 records: start, id, algorithms with tags).
fn cipher_suites(data: &[u8]) -> Vec<u8> {
    match data.get(2).map(|index| index & 0x3f) {
        Some(0) => vec![0x01, 0xc0, 3, 0x01, 0x41, 0x81, 0xc0, 17, 0x03, 0x44, 0x81],
        _ => vec![0x01],
    }
}

/// The least privilege for a command (appendix G).
fn needed(request: &Request) -> Privilege {
    match (request.netfn, request.command) {
        (NETFN_APP, 0x3b..=0x3c) => Privilege::Callback,
        (NETFN_CHASSIS, 0x02 | 0x04 | 0x06 | 0x08 | 0x09) => Privilege::Operator,
        (NETFN_APP, 0x44 | 0x46) => Privilege::Operator,
        (NETFN_STORAGE, 0x42 | 0x44 | 0x47) => Privilege::Operator,
        (NETFN_APP, 0x02 | 0x03 | 0x47) => Privilege::Administrator,
        _ => Privilege::User,
    }
}

/// Whether the command is part of opening or closing a session; these are never refused as "busy".
pub(super) fn about_session(request: &Request) -> bool {
    request.netfn == NETFN_APP && matches!(request.command, 0x3b | 0x3c)
}

/// Does one command of a session.
pub(super) async fn execute(request: &Request, context: &mut Context<'_>) -> (Response, Effect) {
    if *context.privilege < needed(request) {
        return (answer(request, NO_PRIVILEGE, Vec::new()), Effect::None);
    }
    let mut effect = Effect::None;
    let (completion, data) = match request.netfn {
        NETFN_APP => application(request, context, &mut effect),
        NETFN_CHASSIS => chassis(request, context).await,
        NETFN_STORAGE => context.faults.log().answer(request.command, &request.data),
        _ => (UNKNOWN_COMMAND, Vec::new()),
    };
    (answer(request, completion, data), effect)
}

fn application(request: &Request, context: &mut Context<'_>, effect: &mut Effect) -> Reply {
    match request.command {
        // device 0x20, firmware 1.00, IPMI 2.0, chassis device, IANA private number 0x00ff, product 1
        0x01 => (
            OK,
            vec![0x20, 0x01, 0x01, 0x00, 0x02, 0x80, 0xff, 0x00, 0x00, 0x01, 0x00],
        ),
        0x02 | 0x03 => {
            *effect = Effect::Restart;
            (OK, Vec::new())
        }
        0x37 => (OK, context.guid.to_vec()),
        0x38 | 0x54 => {
            let response = outside_session(request, context.guid);
            (response.completion, response.data)
        }
        0x3b => set_privilege(&request.data, context),
        0x3c => close(&request.data, context, effect),
        0x44 => user_access(&request.data, context.users),
        0x46 => user_name(&request.data, context.users),
        0x47 => password::command(&request.data, (context.users, context.faults), effect),
        _ => (UNKNOWN_COMMAND, Vec::new()),
    }
}

fn set_privilege(data: &[u8], context: &mut Context<'_>) -> Reply {
    match data.first() {
        None => (BAD_LENGTH, Vec::new()),
        Some(0) => (OK, vec![*context.privilege as u8]),
        Some(bits) => match Privilege::from_bits(*bits) {
            None => (INVALID_FIELD, Vec::new()),
            Some(wanted) if wanted > context.limit => (PRIVILEGE_EXCEEDED, Vec::new()),
            Some(wanted) => {
                *context.privilege = wanted;
                (OK, vec![wanted as u8])
            }
        },
    }
}

fn close(data: &[u8], context: &Context<'_>, effect: &mut Effect) -> Reply {
    let Some(id) = data.first_chunk().map(|id| u32::from_le_bytes(*id)) else {
        return (BAD_LENGTH, Vec::new());
    };
    if id != context.session && *context.privilege < Privilege::Administrator {
        return (INVALID_SESSION_ID, Vec::new());
    }
    *effect = Effect::Close(id);
    (OK, Vec::new())
}

fn user_access(data: &[u8], users: &Users) -> Reply {
    let Some(id) = data.get(1).map(|id| id & 0x3f) else {
        return (BAD_LENGTH, Vec::new());
    };
    let access = users
        .numbered(id)
        .map_or(0x00, |user| 0x10 | user.privilege as u8);
    match id {
        0 | 16.. => (OUT_OF_RANGE, Vec::new()),
        _ => (OK, vec![15, 0x40 | users.count(), 1, access]),
    }
}

fn user_name(data: &[u8], users: &Users) -> Reply {
    let Some(id) = data.first().map(|id| id & 0x3f) else {
        return (BAD_LENGTH, Vec::new());
    };
    let mut name = users
        .numbered(id)
        .map(|user| user.name.clone().into_bytes())
        .unwrap_or_default();
    name.resize(16, 0);
    (OK, name)
}

async fn chassis(request: &Request, context: &mut Context<'_>) -> Reply {
    match request.command {
        0x00 => (OK, vec![0x00, 0x20, 0x20, 0x20, 0x20]),
        0x01 => {
            let on = u8::from(context.chassis.power_state().await == PowerState::On);
            (
                OK,
                vec![on | (context.settings.restore_policy << 5), 0x00, 0x40, 0x00],
            )
        }
        0x02 if context.faults.with_oddities(|odd| take(&mut odd.power_forgotten)) => (OK, Vec::new()),
        0x02 => control(&request.data, context.chassis).await,
        0x04 => (OK, Vec::new()),
        0x06 => {
            let Some(policy) = request.data.first() else {
                return (BAD_LENGTH, Vec::new());
            };
            if policy & 0x07 < 3 {
                context.settings.restore_policy = policy & 0x03;
            }
            (OK, vec![0x07])
        }
        0x08 => set_boot(&request.data, context).await,
        0x09 => match context.faults.with_oddities(|odd| odd.boot_read) {
            Some(code) => (code, Vec::new()),
            None => get_boot(&request.data, context).await,
        },
        _ => (UNKNOWN_COMMAND, Vec::new()),
    }
}

async fn control(data: &[u8], chassis: &dyn Chassis) -> Reply {
    let action = match data.first() {
        None => return (BAD_LENGTH, Vec::new()),
        Some(0) => PowerAction::Off,
        Some(1) => PowerAction::On,
        Some(2) => PowerAction::Cycle,
        Some(3) => PowerAction::Reset,
        Some(5) => PowerAction::Soft,
        Some(_) => return (INVALID_FIELD, Vec::new()),
    };
    (completion(chassis.power(action).await), Vec::new())
}

fn completion(result: Result<(), ChassisError>) -> u8 {
    match result {
        Ok(()) => OK,
        Err(ChassisError::PowerIsOff) => WRONG_STATE,
        Err(error) => {
            tracing::warn!(%error, "the chassis refused");
            UNSPECIFIED
        }
    }
}

async fn set_boot(data: &[u8], context: &mut Context<'_>) -> Reply {
    let Some((parameter, value)) = data.split_first() else {
        return (BAD_LENGTH, Vec::new());
    };
    let code = match (parameter & 0x7f, value) {
        (PARAMETER_PROGRESS, [0, ..]) => {
            context.settings.progress = None;
            OK
        }
        (PARAMETER_PROGRESS, [1, ..]) => match context.settings.progress {
            Some(other) if other != context.session => ALREADY_IN_PROGRESS,
            _ => {
                context.settings.progress = Some(context.session);
                OK
            }
        },
        (PARAMETER_PROGRESS, [_, ..]) => INVALID_FIELD,
        (PARAMETER_ACKNOWLEDGE, [mask, data, ..]) => {
            context.settings.acknowledge = [0, data & mask];
            OK
        }
        (PARAMETER_FLAGS, _) => match value.first_chunk() {
            Some(flags) => completion(context.chassis.set_boot_flags(BootFlags(*flags)).await),
            None => BAD_LENGTH,
        },
        (PARAMETER_PROGRESS | PARAMETER_ACKNOWLEDGE, _) => BAD_LENGTH,
        // Kept, although this BMC never clears the flags by itself.
        (PARAMETER_CLEARING, [rules, ..]) => {
            context.settings.flags_kept = *rules;
            OK
        }
        _ => PARAMETER_UNSUPPORTED,
    };
    (code, Vec::new())
}

async fn get_boot(data: &[u8], context: &Context<'_>) -> Reply {
    let Some(parameter) = data.first().map(|parameter| parameter & 0x7f) else {
        return (BAD_LENGTH, Vec::new());
    };
    let value = match parameter {
        PARAMETER_PROGRESS => vec![u8::from(context.settings.progress.is_some())],
        PARAMETER_ACKNOWLEDGE => context.settings.acknowledge.to_vec(),
        PARAMETER_FLAGS => context.chassis.boot_flags().await.0.to_vec(),
        PARAMETER_CLEARING => vec![context.settings.flags_kept],
        _ => return (PARAMETER_UNSUPPORTED, Vec::new()),
    };
    (OK, [&[0x01, parameter], value.as_slice()].concat())
}
