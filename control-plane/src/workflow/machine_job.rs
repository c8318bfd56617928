//! Jobs of a machine alone, done by its BMC: when one may begin, the frame of its order, and what is left of that when it is
//! called off. Pure. What is done with the BMC is each kind's own.

use std::{collections::BTreeMap, net::Ipv4Addr};

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::{
    ids::{JobId, MachineId},
    order::{Action, Hardware, Order, Role, Step},
    seal::Sealed,
};

use super::{
    install::step_id,
    state::{InstanceState, MachineState},
};

/// How long such a job may take: it waits for nobody but the site.
pub const LIFE: TimeDelta = TimeDelta::minutes(30);

/// Why such a job cannot begin.
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
        "is held by an instance that is neither running nor stopped: start it, retry its job, or release it, and try again then"
    )]
    Unsettled,
}

/// Whether such a job may begin on a machine where it stands, with the instance that holds it. Its order takes the place of the
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

/// What the order of such a job is made of, besides what is done with the BMC.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The machine.
    pub machine: MachineId,
    /// The job.
    pub job: JobId,
    /// When it fails at the latest.
    pub deadline: DateTime<Utc>,
    /// How it is reached, by all passwords that may be in force.
    pub hardware: Hardware,
    /// The address and the name that the instance on it keeps.
    pub keeps: Option<(Ipv4Addr, String)>,
    /// The secrets, sealed to the site.
    pub secrets: BTreeMap<String, Sealed>,
}

/// Compiles the order, `work` one after the other. What the instance on the machine needs comes first: a machine does what its
/// newest order says, and what that leaves out is no longer so.
#[must_use]
pub fn compile(frame: Frame, work: Vec<(&str, Action)>) -> Order {
    let mut actions = Vec::new();
    if let Some((address, hostname)) = frame.keeps {
        let bind = Action::DhcpBind {
            address,
            hostname: Some(hostname),
        };
        actions.push(("bind-address", bind));
        actions.push(("serve-disk", Action::BootLocal));
    }
    actions.extend(work);
    let mut steps: Vec<Step> = Vec::new();
    for (id, action) in actions {
        let needs = steps.last().map(|before| before.id.clone());
        steps.push(step(id, action, needs.into_iter().collect()));
    }
    Order {
        machine: frame.machine,
        job: frame.job,
        deadline: frame.deadline,
        retry: 0,
        settled: None,
        hardware: frame.hardware,
        secrets: frame.secrets,
        steps,
    }
}

/// A slow BMC is asked for each of its users, and logged in to several times.
fn step(id: &str, action: Action, needs: Vec<slipway_protocol::ids::StepId>) -> Step {
    Step {
        id: step_id(id),
        role: action.role(),
        needs,
        no_progress_timeout_s: 300,
        retries: 3,
        action,
    }
}

/// The order of such a job that was called off: nothing is done with the BMC, and what the instance on the machine needs stays.
#[must_use]
pub fn called_off(order: Order) -> Order {
    let keeps = |step: &Step| step.role != Role::Driver;
    Order {
        steps: order.steps.into_iter().filter(keeps).collect(),
        secrets: BTreeMap::new(),
        ..order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_job_begins_only_on_what_can_lose_its_order() {
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
        assert_eq!(may(MachineState::Erasing, None), Err(Refusal::Busy));
        for fine in [I::Running, I::Stopped] {
            assert_eq!(may(MachineState::Allocated, Some(fine)), Ok(()));
        }
        for bad in [I::Failed, I::Rescue, I::Installing, I::Erasing] {
            assert_eq!(may(MachineState::Allocated, Some(bad)), Err(Refusal::Unsettled));
        }
    }
}
