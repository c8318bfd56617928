//! The simulated fleet: many sites and machines at once, with processes killed in the middle. Every job ends, and no
//! machine ever has two.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use slipway_tests::fleet::{
    self, Database, Fleet, Plan, Spec, Summary,
    attack::{self, Target},
    chaos::Chaos,
};

async fn run(spec: Spec, plan: Plan) -> Summary {
    let fleet = Fleet::start(spec).await.unwrap();
    let summary = fleet::run(&fleet, plan).await.unwrap();
    println!(
        "{} sites with {} machines on {:?}\n{summary}",
        spec.sites, spec.machines, spec.database
    );
    assert_eq!(summary.faults, Vec::<String>::new());
    assert_eq!(
        summary.jobs.get("done"),
        Some(&plan.installs),
        "{:?}",
        summary.jobs
    );
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_fleet_outlives_kills() {
    let spec = Spec {
        sites: 4,
        machines: 5,
        replicas: 1,
        database: Database::Sqlite,
        seed: 1,
    };
    let chaos = Chaos {
        seed: 7,
        control_plane: 1,
        edges: 1,
    };
    let plan = Plan {
        installs: 20,
        chaos: Some(chaos),
        limit: Duration::from_secs(120),
    };
    let summary = run(spec, plan).await;
    assert_eq!(summary.kills, (1, 1), "both kills came while jobs were running");
}

/// 12,000 connections that say nothing or half of something, a TFTP flood and an MQTT flood, against the edge and then against the
/// control plane: honest machines are installed all the same, and memory is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn machines_are_installed_while_edge_and_control_plane_are_attacked() {
    let spec = Spec {
        sites: 1,
        machines: 10,
        replicas: 1,
        database: Database::Sqlite,
        seed: 1,
    };
    let plan = Plan {
        installs: 10,
        chaos: None,
        limit: Duration::from_secs(120),
    };
    for target in [Target::edge, Target::control_plane] {
        let fleet = Fleet::start(spec).await.unwrap();
        let (attack, done) = attack::start(target(&fleet));
        done.stands().await.unwrap();
        let summary = fleet::run(&fleet, plan).await.unwrap();
        println!("{done}\n{summary}");
        drop(attack);
        assert_eq!(summary.faults, Vec::<String>::new());
        assert_eq!(
            summary.jobs.get("done"),
            Some(&plan.installs),
            "{:?}",
            summary.jobs
        );
        for used in [summary.edges, summary.control_plane] {
            assert!(used.peak_bytes < 512 << 20, "{used:?}");
        }
    }
}

fn large(database: Database) -> Spec {
    Spec {
        sites: 100,
        machines: 100,
        replicas: 1,
        database,
        seed: 1,
    }
}

const THOUSAND: Plan = Plan {
    installs: 1000,
    chaos: None,
    limit: Duration::from_secs(900),
};

#[tokio::test(flavor = "multi_thread")]
async fn long_fleet_on_sqlite() {
    run(large(Database::Sqlite), THOUSAND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_fleet_on_postgres() {
    run(large(Database::Postgres), THOUSAND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_fleet_outlives_kills() {
    let chaos = Chaos {
        seed: 1,
        control_plane: 2,
        edges: 6,
    };
    let plan = Plan {
        chaos: Some(chaos),
        ..THOUSAND
    };
    let summary = run(large(Database::Sqlite), plan).await;
    assert_eq!(summary.kills, (2, 6), "all kills came while jobs were running");
}

/// Three control planes on one PostgreSQL; one is killed each second or two while they work.
#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_outlive_kills() {
    let spec = Spec {
        sites: 6,
        machines: 20,
        replicas: 3,
        database: Database::Postgres,
        seed: 3,
    };
    let chaos = Chaos {
        seed: 5,
        control_plane: 4,
        edges: 1,
    };
    let plan = Plan {
        installs: 120,
        chaos: Some(chaos),
        limit: Duration::from_secs(300),
    };
    let summary = run(spec, plan).await;
    assert_eq!(summary.kills, (4, 1), "all kills came while jobs were running");
}
