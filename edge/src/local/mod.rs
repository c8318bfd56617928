//! Operations at the box while the site is cut off: who may ask, what is answered, and how an offer is taken. The socket is
//! [`server`]'s, the command line is [`client`]'s. An offer goes the way every order goes; nothing here acts on a machine.

pub mod client;
mod code;
pub mod server;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    ids::{JobId, MachineId},
    keys::Expect,
    lease::{Lease, LeaseError, Offer, Operation, offer_context},
    report::{Outcome, Report},
    seal::Secret,
    topic::{Kind, Topic},
};
use tracing::{info, warn};

use self::code::Tries;
use crate::{
    context::Context,
    intake,
    link::Link,
    runner::actor::Runner,
    store::{Entry, StoreError},
    uplink,
};

/// Lines of the journal that are shown.
const LINES: i64 = 100;

/// What is asked over the socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// All machines that there is a lease of.
    List,
    /// The last lines of the journal.
    Log,
    /// To do something.
    Do {
        /// What.
        operation: Operation,
        /// With which machine: its id or its name.
        machine: String,
        /// The site's emergency code.
        code: Secret,
    },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    /// The machines, by name.
    Machines {
        /// Since when the site is cut off; none while operations are refused.
        cut_off_since: Option<DateTime<Utc>>,
        /// Them.
        machines: Vec<MachineView>,
    },
    /// The journal, oldest first.
    Log {
        /// Its lines.
        lines: Vec<Entry>,
    },
    /// The offer was taken: its order runs.
    Taken {
        /// Its job.
        job: JobId,
    },
    /// It was not.
    Refused {
        /// A stable word.
        code: String,
        /// What to do, for people.
        message: String,
    },
}

/// A machine as `list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineView {
    /// Its id.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// The instance on it.
    pub instance: Option<String>,
    /// Until when operations may be begun.
    pub until: DateTime<Utc>,
    /// Which may be begun now.
    pub open: Vec<Operation>,
    /// How its last order stands: `running`, `done`, or the code of its failure.
    pub last: Option<String>,
}

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The control plane can be reached.
    #[error(
        "this site is not cut off from its control plane, or not for long enough: use `slipway instance ...` instead"
    )]
    Online,
    /// The site has no code.
    #[error(
        "this site has no emergency code: make one with `slipway site emergency-code SITE` while it is connected"
    )]
    NoCode,
    /// The code is wrong.
    #[error("that is not this site's emergency code")]
    WrongCode,
    /// Too many wrong codes.
    #[error("too many wrong codes: wait a minute and try again")]
    TooManyTries,
    /// There is no lease of such a machine.
    #[error("there is no lease of a machine `{0}`; `slipway-edge local list` shows those there are")]
    NoMachine(String),
    /// Its order runs.
    #[error("machine {0} is being worked on: wait until its order has ended")]
    Busy(String),
    /// It stands in the LiveOS.
    #[error("machine {0} was booted into the LiveOS: `restart` brings its own system back")]
    InRescue(String),
    /// It was given back.
    #[error("machine {0} was released: nothing more can be done with it until the control plane is reached")]
    Released(String),
    /// Its lease does not allow it.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The offer cannot be read.
    #[error("the order that was offered of machine {machine} is not good: {reason}")]
    BadOffer {
        /// The machine's name.
        machine: String,
        /// Why.
        reason: String,
    },
    /// The database failed.
    #[error("the edge's database failed; nothing was begun")]
    Store(#[from] StoreError),
}

impl Refusal {
    /// A stable word for the journal and for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Online => "site_is_online",
            Self::NoCode => "no_emergency_code",
            Self::WrongCode => "wrong_code",
            Self::TooManyTries => "too_many_tries",
            Self::NoMachine(_) => "no_lease",
            Self::Busy(_) => "machine_busy",
            Self::InRescue(_) => "use_restart",
            Self::Released(_) => "released",
            Self::Lease(reason) => reason.code(),
            Self::BadOffer { .. } => "bad_offer",
            Self::Store(_) => "store",
        }
    }
}

/// Whether the machine stands so that the operation may follow what was done before: what the control plane's table of
/// states will say, too. Pure.
///
/// # Errors
/// When it does not.
pub fn may_follow(name: &str, operation: Operation, report: Option<&Report>) -> Result<(), Refusal> {
    let Some(report) = report else { return Ok(()) };
    if !report.outcome.is_final() {
        return Err(Refusal::Busy(name.to_owned()));
    }
    let done = matches!(report.outcome, Outcome::Done { .. });
    let before = report.local.last().filter(|used| done && used.job == report.job);
    match (before.map(|used| used.operation), operation) {
        (Some(Operation::Release), _) => Err(Refusal::Released(name.to_owned())),
        (Some(Operation::Rescue), Operation::PowerOn) => Err(Refusal::InRescue(name.to_owned())),
        _ => Ok(()),
    }
}

/// What answers.
pub struct Local {
    context: Arc<Context>,
    runner: Runner,
    link: Arc<Link>,
    cut_off_after: TimeDelta,
    tries: Mutex<Tries>,
}

impl Local {
    /// One for this edge; `cut_off_after` is how long the link must have been down.
    #[must_use]
    pub fn new(context: Arc<Context>, runner: Runner, link: Arc<Link>, cut_off_after: TimeDelta) -> Self {
        let tries = Mutex::new(Tries::full((context.now)()));
        Self {
            context,
            runner,
            link,
            cut_off_after,
            tries,
        }
    }

    /// Answers a request of a user of this box.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn answer(&self, request: Request, uid: u32) -> Result<Answer, StoreError> {
        match request {
            Request::List => self.list(),
            Request::Log => Ok(Answer::Log {
                lines: self.context.store.journal(LINES)?,
            }),
            Request::Do {
                operation,
                machine,
                code,
            } => self.do_it((operation, machine), &code, uid).await,
        }
    }

    fn list(&self) -> Result<Answer, StoreError> {
        let now = (self.context.now)();
        let reports = self.context.store.reports()?.into_iter();
        let reports: BTreeMap<MachineId, Report> =
            reports.map(|held| (held.report.machine, held.report)).collect();
        let view = |(machine, lease): (MachineId, Lease)| {
            let mut open = lease.open(self.held(machine), now);
            open.retain(|operation| may_follow(&lease.name, *operation, reports.get(&machine)).is_ok());
            MachineView {
                machine,
                name: lease.name,
                instance: lease.instance,
                until: lease.until,
                open,
                last: reports.get(&machine).map(|report| stands(&report.outcome)),
            }
        };
        let mut machines: Vec<MachineView> = self.leases()?.into_iter().map(view).collect();
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Answer::Machines {
            cut_off_since: self.link.cut_off(self.cut_off_after, now),
            machines,
        })
    }

    /// All leases that are held, verified again.
    fn leases(&self) -> Result<Vec<(MachineId, Lease)>, StoreError> {
        let ring = self.context.key_ring();
        let mut leases = Vec::new();
        for held in self.context.store.leases()? {
            let Ok(machine) = held.subject.parse() else {
                continue;
            };
            let topic = Topic::Lease(self.context.site.clone(), machine);
            match ring.open::<Lease>(&topic, &held.payload, Expect::kept()) {
                Ok(lease) => leases.push((machine, lease.into_body())),
                Err(reason) => {
                    warn!(%machine, %reason, "a stored lease is no longer valid; it is left alone")
                }
            }
        }
        Ok(leases)
    }

    fn held(&self, machine: MachineId) -> Option<u64> {
        self.context
            .ledger
            .command_revision(Kind::Order, &machine.to_string())
    }

    /// Takes an offer, or journals why not.
    async fn do_it(
        &self,
        (operation, machine): (Operation, String),
        code: &Secret,
        uid: u32,
    ) -> Result<Answer, StoreError> {
        let mut line = Entry {
            at: (self.context.now)(),
            uid,
            operation,
            machine,
            job: None,
            revision: None,
            refused: None,
        };
        match self.take(&mut line, code).await {
            Ok(job) => {
                info!(machine = line.machine, %job, operation = operation.word(), uid, "a local operation is begun");
                Ok(Answer::Taken { job })
            }
            Err(Refusal::Store(failure)) => Err(failure),
            Err(refusal) => {
                warn!(machine = line.machine, operation = operation.word(), uid, %refusal, "a local operation is refused");
                (line.job, line.revision) = (None, None);
                line.refused = Some(refusal.code().to_owned());
                self.context.store.note_refused(&line)?;
                Ok(Answer::Refused {
                    code: refusal.code().to_owned(),
                    message: refusal.to_string(),
                })
            }
        }
    }

    async fn take(&self, line: &mut Entry, code: &Secret) -> Result<JobId, Refusal> {
        let now = line.at;
        if self.link.cut_off(self.cut_off_after, now).is_none() {
            return Err(Refusal::Online);
        }
        self.check_code(code, now).await?;
        let leases = self.leases()?;
        let wanted =
            |(id, lease): &(MachineId, Lease)| lease.name == line.machine || id.to_string() == line.machine;
        let found = leases.into_iter().find(wanted);
        let (machine, lease) = found.ok_or_else(|| Refusal::NoMachine(line.machine.clone()))?;
        line.machine = machine.to_string();
        let report = self.context.store.report(machine)?.map(|held| held.report);
        may_follow(&lease.name, line.operation, report.as_ref())?;
        let offer = lease.offer(line.operation, self.held(machine), now)?;
        (line.job, line.revision) = (Some(offer.job), Some(offer.revision));
        self.begin((machine, &lease), offer, line).await?;
        Ok(offer.job)
    }

    async fn begin(
        &self,
        (machine, lease): (MachineId, &Lease),
        offer: &Offer,
        line: &Entry,
    ) -> Result<(), Refusal> {
        let bad = |reason: String| Refusal::BadOffer {
            machine: lease.name.clone(),
            reason,
        };
        let place = offer_context(&self.context.site, machine, offer.job);
        let opened = self.context.opening.open(&offer.order, &place);
        let envelope = opened.map_err(|e| bad(e.to_string()))?;
        let topic = Topic::Order(self.context.site.clone(), machine);
        let message = (&topic, envelope.reveal().as_bytes());
        let taken = intake::offered_order(&self.context, &self.runner, message, line).await?;
        let used = || LeaseError::Used {
            machine: lease.name.clone(),
        };
        match taken {
            Ok(true) => Ok(()),
            Ok(false) => Err(used().into()),
            Err(reason) => Err(bad(reason.to_string())),
        }
    }

    /// A wrong code costs one of a few tries; a right one costs none.
    async fn check_code(&self, code: &Secret, now: DateTime<Utc>) -> Result<(), Refusal> {
        let config = uplink::held_config(&self.context)?;
        let kept = config
            .and_then(|config| config.emergency_code)
            .ok_or(Refusal::NoCode)?;
        let tries = || self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        if !tries().take(now) {
            return Err(Refusal::TooManyTries);
        }
        if !code::fits(code.clone(), kept).await {
            return Err(Refusal::WrongCode);
        }
        tries().give_back();
        Ok(())
    }
}

fn stands(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Running => "running".to_owned(),
        Outcome::Done { .. } => "done".to_owned(),
        Outcome::Failed { failure, .. } => failure.code.clone(),
    }
}
