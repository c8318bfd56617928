//! The simulated fleet: many sites and machines at once, with processes killed in the middle. Every job ends, and no
//! machine ever has two.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use slipway_tests::fleet::{self, Database, Fleet, Plan, Spec, Summary, chaos::Chaos};

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
