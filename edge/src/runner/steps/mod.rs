//! The edge's own steps, one file each. A step may be started again at any time, in this process or a later one: it
//! looks at the world first and does only what is not done yet.

pub(super) mod driver_boot;
mod driver_power;
mod driver_read;
mod driver_set_password;
mod image_ensure;

use std::sync::Arc;

use slipway_protocol::{
    order::{Action, Order, Step},
    report::{Failure, Progress, Report},
};

use super::{
    actor::{Input, Runner},
    bmc_state,
    next::StepUpdate,
};
use crate::{
    bmc::{BmcInfo, PowerState},
    context::Context,
};

/// One attempt at one step.
pub(super) struct Work {
    pub(super) order: Order,
    pub(super) step: Step,
    pub(super) attempt: u32,
    /// The report as of the start of this task.
    pub(super) report: Report,
}

/// Tells the runner how a step comes forward.
#[derive(Clone)]
struct Teller {
    runner: Runner,
    work: Arc<Work>,
}

impl Teller {
    async fn tell(&self, update: StepUpdate) {
        let input = Input::Step {
            machine: self.work.order.machine,
            job: self.work.order.job,
            step: self.work.step.id.clone(),
            attempt: self.work.attempt,
            update,
        };
        self.runner.tell(input).await;
    }

    /// Tells how the machine's BMC was found, with what it said of itself if it was asked.
    async fn bmc(&self, context: &Context, power: PowerState, info: Option<BmcInfo>) {
        let input = Input::Bmc {
            machine: self.work.order.machine,
            state: bmc_state::state(power, info, (context.now)()),
        };
        self.runner.tell(input).await;
    }

    async fn progress(&self, progress: Option<Progress>) {
        self.tell(StepUpdate::Progress(progress)).await;
    }
}

/// Does a step and tells the runner how it ended.
pub(super) async fn run(context: Arc<Context>, runner: Runner, work: Work) {
    let teller = Teller {
        runner,
        work: Arc::new(work),
    };
    let result = match &teller.work.step.action {
        Action::ImageEnsure { image } => image_ensure::run(&context, *image, &teller).await,
        Action::DriverBoot { device } => driver_boot::run(&context, *device, &teller).await,
        Action::DriverPower { on } => driver_power::run(&context, *on, &teller).await,
        Action::DriverShutdown { grace_s } => driver_power::shut_down(&context, *grace_s, &teller).await,
        Action::DriverSetPassword { password } => driver_set_password::run(&context, password, &teller).await,
        Action::DriverRead => driver_read::run(&context, &teller).await,
        // What DHCP and HTTP answer follows from these steps being done; there is nothing else to do.
        Action::DhcpBind { .. } | Action::BootLiveos | Action::BootLocal => Ok(()),
        // Ends by the guest's word, which comes to the runner from outside, or by its time limit.
        Action::GuestVerify { .. } => return,
        Action::AgentInventory
        | Action::AgentChooseDisk { .. }
        | Action::AgentWriteImage { .. }
        | Action::AgentConfigure { .. }
        | Action::AgentWipeDisks
        | Action::AgentSetPassword { .. }
        | Action::AgentRescue { .. }
        | Action::AgentReboot
        | Action::Unknown(_) => return,
    };
    teller
        .tell(result.map_or_else(StepUpdate::Failed, |()| StepUpdate::Done))
        .await;
}

fn failure(code: &str, message: impl std::fmt::Display, transient: bool) -> Failure {
    Failure {
        code: code.to_owned(),
        message: message.to_string(),
        transient,
    }
}
