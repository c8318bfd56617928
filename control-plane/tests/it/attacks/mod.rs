//! One and the same attacks against both brokers: the embedded one behind its guard, and a Mosquitto with the configuration
//! that the control plane makes. What is done to who attacks is in the tables; whoever is honest is served all the while.

mod boxes;
mod fixtures;
mod liar;
mod raw;
mod recipe;
mod stalls;
mod stranger;
mod table;
pub(crate) mod world;

use self::{
    raw::{Raw, Seen},
    table::{Attack, OWN, certificates, connections, publishes, subscriptions},
    world::{Broker, LIMIT, World},
};

const REFUSED: &str = "slipway_broker_refused_total";
const MESSAGES_REFUSED: &str = "slipway_messages_refused_total";

/// One attack, told by what went wrong with it.
async fn fault_of(world: &mut World, attack: &Attack) -> Option<String> {
    let answer = match world.broker {
        Broker::Embedded => &attack.embedded,
        Broker::Mosquitto => &attack.mosquitto,
    };
    let refused = world.counter(MESSAGES_REFUSED, "").await;
    let label = format!("what=\"{}\"", answer.counted);
    let counted = world.counter(REFUSED, &label).await;
    let logged = world.log().len();

    let mut raw = Raw::open(world.door(), table::tls(world, attack.shown));
    let seen = match raw.connect(&attack.connect) {
        Ok(()) => raw.attack(&attack.then),
        Err(seen) => seen,
    };
    if !world.honest.is_answered(LIMIT).await {
        return Some("the honest edge is not answered".to_owned());
    }
    if seen != answer.seen {
        return Some(format!(
            "seen {seen:?}, not {:?}: {}",
            answer.seen,
            &world.log()[logged..]
        ));
    }
    if seen == Seen::Silence && raw.attack(&[]) != Seen::Silence {
        return Some("it was closed only when others spoke".to_owned());
    }
    if raw.heard > 0 {
        return Some(format!("it was told {} messages", raw.heard));
    }
    // Without a goodbye: a last will would be told now.
    drop(raw);
    for _ in 0..2 {
        assert!(world.honest.is_answered(LIMIT).await);
    }
    let own = seen == Seen::Silence && attack.then.windows(OWN.len()).any(|part| part == OWN);
    if !own && world.counter(MESSAGES_REFUSED, "").await > refused {
        return Some("a message of it came to the control plane".to_owned());
    }
    if !world.is_logged(logged, answer.logged).await {
        return Some(format!(
            "`{}` is not in the log: {}",
            answer.logged,
            &world.log()[logged..]
        ));
    }
    if !answer.counted.is_empty() && world.counter(REFUSED, &label).await <= counted {
        return Some(format!("not counted as {label}"));
    }
    None
}

async fn all_are_refused_at(broker: Broker, tables: impl IntoIterator<Item = Attack>) {
    let mut world = World::start(broker).await;
    let mut faults = Vec::new();
    for attack in tables {
        if let Some(fault) = fault_of(&mut world, &attack).await {
            faults.push(format!("{}: {fault}", attack.name));
        }
    }
    assert!(faults.is_empty(), "{broker:?}:\n{}", faults.join("\n"));
}

fn all() -> impl Iterator<Item = Attack> {
    [publishes(), subscriptions(), connections(), certificates()]
        .into_iter()
        .flatten()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_refuses_logs_and_counts_each_attack_of_a_neighbour() {
    all_are_refused_at(Broker::Embedded, all()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_as_configured_lets_no_attack_of_a_neighbour_through() {
    all_are_refused_at(Broker::Mosquitto, all()).await;
}
