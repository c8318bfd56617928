//! The site's own broker and the agents on it. Agents come by TLS with the password of their boot token and reach their
//! own topics only; a read-only door on loopback is for people with MQTT tools, and mirrors what passes between this
//! edge and the control plane. What an agent says is opened with the key of its token before anything hears of it.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use slipway_bus::{
    Client, Event, FAULT, Options,
    acl::Acl,
    broker::Backend,
    contained,
    guard::{Admission, Admitted, Applicant, Guard},
};
use slipway_protocol::{
    ids::{MachineId, SiteId},
    keys::Expect,
    limits::Body,
    report::{AgentHello, AgentReport, LogChunk},
    seal::Secret,
    topic::{self, Topic},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    boots::unknown_job,
    context::Context,
    metrics,
    runner::actor::{Input, Runner},
    store::Boot,
};

/// Connections at once at each door.
const MAX_AGENTS: usize = 10_000;

/// Agents by their boot token.
pub struct AgentAdmission {
    /// Knows the site and its boot tokens.
    pub context: Arc<Context>,
}

/// What an agent may do that proves itself by its boot's token: speak and hear on its own machine's topics.
fn judge(
    site: &SiteId,
    boot: impl FnOnce(MachineId) -> Option<Boot>,
    applicant: &Applicant,
) -> Result<(MachineId, Acl), String> {
    let (user, password) = applicant.login.as_ref().ok_or("no user name and password")?;
    let machine: MachineId = user
        .parse()
        .map_err(|_| "the user name is not a machine id".to_owned())?;
    let boot = boot(machine).ok_or("this machine has no job that boots it")?;
    if !same(&boot.token.mqtt_password(), password) {
        return Err("the password is not the one of this boot".to_owned());
    }
    if applicant.client_id != format!("agent-{machine}") {
        return Err("the client id is not the machine's".to_owned());
    }
    let acl = Acl {
        publish: vec![format!("{}#", topic::agent_events_prefix(site, machine))],
        subscribe: vec![topic::agent_commands(site, machine)],
    };
    Ok((machine, acl))
}

impl Admission for AgentAdmission {
    fn admit(&self, applicant: &Applicant) -> Result<Admitted, String> {
        let boots = &self.context.boots;
        let enters = boots.agent_enters(|boot| judge(&self.context.site, boot, applicant));
        let (acl, leave, connected) = enters?;
        Ok(Admitted {
            leave,
            connected: Some(connected),
            ..Admitted::from(acl)
        })
    }

    fn refused(&self, what: &'static str, applicant: &str, reason: &str) {
        metrics::broker_refused(what);
        warn!(what, applicant, reason, "refused at the site's broker");
    }
}

/// Compares digests of both, so that the time taken says nothing of the secret.
fn same(a: &Secret, b: &Secret) -> bool {
    let digest = |s: &Secret| slipway_protocol::ids::Digest::of(s.reveal().as_bytes());
    digest(a) == digest(b)
}

/// People with MQTT tools on the edge box: everything to read, nothing to write.
pub struct ReadOnly;

impl Admission for ReadOnly {
    fn admit(&self, _applicant: &Applicant) -> Result<Admitted, String> {
        Ok(Acl {
            publish: Vec::new(),
            subscribe: vec!["#".to_owned()],
        }
        .into())
    }
}

/// The doors to be opened, already bound.
pub struct Doors {
    /// For agents, with this edge's TLS, one an address.
    pub agents: Vec<TcpListener>,
    /// For people, on loopback.
    pub people: TcpListener,
    /// Server configuration of the agents' door.
    pub tls: Arc<rustls::ServerConfig>,
}

/// Opens both doors; their tasks go into `tasks` and end with `stop`.
pub fn open_doors(
    doors: Doors,
    backend: &Backend,
    admission: AgentAdmission,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) {
    let admission: Arc<dyn Admission> = Arc::new(admission);
    for listener in doors.agents {
        let agents = Guard {
            listener,
            tls: Some(Arc::clone(&doors.tls)),
            admission: Arc::clone(&admission),
            backend: backend.clone(),
            max_connections: MAX_AGENTS,
        };
        tasks.spawn(agents.run(stop.clone()).map(Ok));
    }
    let people = Guard {
        listener: doors.people,
        tls: None,
        admission: Arc::new(ReadOnly),
        backend: backend.clone(),
        max_connections: 100,
    };
    tasks.spawn(people.run(stop.clone()).map(Ok));
}

/// This edge's own connection to its broker.
#[must_use]
pub fn connect(site: &SiteId, backend: &Backend, stop: CancellationToken) -> (Client, mpsc::Receiver<Event>) {
    let options = Options {
        client_id: "edge".to_owned(),
        host: backend.address.ip().to_string(),
        port: backend.address.port(),
        tls: None,
        credentials: Some(backend.credentials()),
        subscriptions: vec![topic::all_agent_events(site)],
        will: None,
    };
    Client::start(options, stop)
}

/// What agents say, verified, to the runner; a machine nobody knows goes to `unknown`.
pub async fn listen(
    context: Arc<Context>,
    runner: Runner,
    mut events: mpsc::Receiver<Event>,
    unknown: mpsc::Sender<Box<AgentHello>>,
) -> anyhow::Result<()> {
    while let Some(event) = events.recv().await {
        let Event::Message { topic, payload } = event else {
            continue;
        };
        match contained(hear(&context, (&runner, &unknown), &topic, &payload)).await {
            Ok(Heard::Taken) => {}
            Ok(Heard::NobodyListens) => return Ok(()),
            Err(fault) => {
                metrics::message_refused(FAULT);
                error!(
                    topic,
                    fault,
                    "an agent's message is dropped: its handling failed by a fault of this program; please report it"
                );
            }
        }
    }
    Ok(())
}

/// What became of an agent's message.
enum Heard {
    Taken,
    /// Who hears of machines that nobody knows has ended.
    NobodyListens,
}

async fn hear(
    context: &Context,
    (runner, unknown): (&Runner, &mpsc::Sender<Box<AgentHello>>),
    topic: &str,
    payload: &Bytes,
) -> Heard {
    match topic.parse::<Topic>() {
        Ok(Topic::AgentMachine(_, machine)) => {
            let Some(hello) = open::<AgentHello>(context, topic, machine, payload).map(Box::new) else {
                return Heard::Taken;
            };
            let boot = context.boots.get(machine);
            if boot.is_some_and(|boot| boot.job != unknown_job()) {
                runner.tell(Input::AgentHello { machine, hello }).await;
            } else if unknown.send(hello).await.is_err() {
                return Heard::NobodyListens;
            }
        }
        Ok(Topic::AgentReport(_, machine)) => {
            if let Some(report) = open::<AgentReport>(context, topic, machine, payload).map(Box::new) {
                runner.tell(Input::AgentReport { machine, report }).await;
            }
        }
        Ok(Topic::AgentLog(_, machine)) => {
            // Of the job that this boot is for, and of no other.
            let job = context.boots.get(machine).map(|boot| boot.job);
            let chunk = open::<LogChunk>(context, topic, machine, payload);
            let ours = |chunk: &LogChunk| Some(chunk.job) == job && job != Some(unknown_job());
            if let Some(chunk) = chunk.filter(ours) {
                context.logs.hear(machine, chunk);
            }
        }
        Ok(_) | Err(_) => debug!(topic, "not for this edge"),
    }
    Heard::Taken
}

/// Opens what an agent said. Repeats and old ones are told apart by boot and attempt, so no revision is kept; validity
/// is not judged, since an agent may have no clock.
fn open<T: Body>(context: &Context, topic: &str, machine: MachineId, payload: &Bytes) -> Option<T> {
    let parsed = topic.parse::<Topic>().ok()?;
    let expect = Expect {
        now: chrono::DateTime::<chrono::Utc>::MIN_UTC,
        held: None,
    };
    match context
        .boots
        .key_ring(machine)
        .open::<T>(&parsed, payload, expect)
    {
        Ok(verified) => Some(verified.into_body()),
        Err(reason) => {
            metrics::message_refused(reason.code());
            warn!(%machine, %reason, "an agent's message is refused");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_protocol::{boot::BootToken, ids::JobId};
    use uuid::Uuid;

    #[test]
    fn an_agents_token_opens_its_own_machines_topics_and_no_others() {
        let site = SiteId::new("bj-1").unwrap();
        let (ours, theirs) = (MachineId(Uuid::from_u128(1)), MachineId(Uuid::from_u128(2)));
        let boot = |machine: MachineId| {
            let token = BootToken::from_bytes([u8::try_from(machine.0.as_u128()).unwrap(); 32]);
            Some(Boot {
                machine,
                job: JobId(Uuid::nil()),
                boot_key: String::new(),
                token,
            })
        };
        let password = |machine| boot(machine).unwrap().token.mqtt_password();
        let asks = |client_id: String, login: Option<(MachineId, Secret)>| Applicant {
            peer: ([127, 0, 0, 1], 1).into(),
            certificate: None,
            client_id,
            login: login.map(|(machine, password)| (machine.to_string(), password)),
        };
        let (own_id, their_id) = (format!("agent-{ours}"), format!("agent-{theirs}"));
        let (machine, acl) = judge(&site, boot, &asks(own_id.clone(), Some((ours, password(ours))))).unwrap();
        assert_eq!(machine, ours);
        let events = |machine| format!("{}report", topic::agent_events_prefix(&site, machine));
        assert!(acl.may_publish(&events(ours)) && !acl.may_publish(&events(theirs)));
        assert!(acl.may_subscribe(&topic::agent_commands(&site, ours)));
        assert!(!acl.may_subscribe(&topic::agent_commands(&site, theirs)) && !acl.may_subscribe("#"));
        for (applicant, why) in [
            (asks(own_id.clone(), None), "no user name"),
            (
                asks(their_id.clone(), Some((theirs, password(ours)))),
                "not the one of this boot",
            ),
            (asks(their_id, Some((ours, password(ours)))), "not the machine's"),
        ] {
            let refused = judge(&site, boot, &applicant).err();
            assert!(
                refused.as_ref().is_some_and(|text| text.contains(why)),
                "{refused:?}"
            );
        }
        let idle = judge(&site, |_| None, &asks(own_id, Some((ours, password(ours)))));
        assert!(idle.is_err(), "a machine without a job has no door");
    }
}
