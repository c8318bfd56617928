//! An instance's life after its install, on real (virtual) machines: off, on, again, anew, tried again, given back.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use slipway_edge::bmc::{Bmc as _, PowerState};
use slipway_lab::{
    commands::{power, up::Spec},
    netns,
};
use slipway_tests::world::{Parts, World};

const LIMIT: Duration = Duration::from_secs(300);

async fn ask(world: &World, method: Method, path: &str, body: Value) -> Value {
    world
        .api
        .call(method, &format!("/api/v1/instances/{path}"), Some(body))
        .await
        .unwrap()
}

async fn ended(world: &World, accepted: &Value) -> Value {
    let job = accepted["job"]["id"].as_str().unwrap();
    world.api.wait_for_job(job, LIMIT).await.unwrap()
}

/// Asks for work, sees it end well, and gives back the instance's state.
async fn work(world: &World, what: &str, body: Value) -> String {
    let accepted = ask(world, Method::POST, &format!("life/{what}"), body).await;
    let job = ended(world, &accepted).await;
    assert_eq!(job["state"], "done", "{what}: {job:#}\n{}", world.console(0));
    let instance = world.api.get("/api/v1/instances/life").await.unwrap();
    instance["state"].as_str().unwrap().to_owned()
}

/// What the machine's own BMC says.
fn switched(world: &World) -> PowerState {
    let machine = &world.lab.machines[0];
    netns::within(&world.id.site(), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let bmc = power::driver(&world.lab, machine);
            let state = bmc.power_state().await.unwrap();
            bmc.close().await;
            state
        })
    })
    .unwrap()
}

/// A machine that holds no instance is switched for itself, and what its BMC said is kept.
async fn machine_alone(world: &World) {
    let machines = world.api.get("/api/v1/machines").await.unwrap();
    let path = format!(
        "/api/v1/machines/{}",
        machines["items"][0]["name"].as_str().unwrap()
    );
    for (what, power) in [("on", PowerState::On), ("off", PowerState::Off)] {
        let body = json!({ "do": what, "grace_s": 0 });
        let job = world.api.post(&format!("{path}/power"), body).await.unwrap();
        let job = world
            .api
            .wait_for_job(job["id"].as_str().unwrap(), LIMIT)
            .await
            .unwrap();
        assert_eq!(job["state"], "done", "{what}: {job:#}");
        assert_eq!(switched(world), power);
        let machine = world.api.get(&path).await.unwrap();
        assert_eq!(machine["bmc_state"]["power"], what, "{machine:#}");
    }
}

fn boots(world: &World) -> usize {
    world.console(0).matches("GUESTOS-UP").count()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn an_instance_is_switched_installed_anew_and_given_back() {
    let at = "127.0.0.1:0".parse().unwrap();
    let world = World::start("t-life", &Spec::default(), Parts::from_environment().unwrap(), at)
        .await
        .unwrap();
    world.upload_guest("tiny").await.unwrap();
    let (_, job) = world.install("life", "tiny", json!({})).await.unwrap();
    let job = world.api.wait_for_job(&job, LIMIT).await.unwrap();
    assert_eq!(job["state"], "done", "{job:#}\n{}", world.console(0));

    assert_eq!(work(&world, "stop?grace_s=2", json!({})).await, "stopped");
    assert_eq!(switched(&world), PowerState::Off);
    assert_eq!(work(&world, "start", json!({})).await, "running");
    assert_eq!(switched(&world), PowerState::On);
    let before = boots(&world);
    assert_eq!(work(&world, "restart?grace_s=0", json!({})).await, "running");
    slipway_tests::world::wait_for("the restarted guest", LIMIT, || {
        (boots(&world) > before).then_some(())
    })
    .await
    .unwrap();

    let locked = ask(&world, Method::PATCH, "life", json!({ "locked": true })).await;
    assert_eq!(locked["locked"], true);
    let refused = world
        .api
        .call(Method::DELETE, "/api/v1/instances/life", None)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("instance_locked"), "{refused}");
    ask(&world, Method::PATCH, "life", json!({ "locked": false })).await;

    assert_eq!(
        work(&world, "reinstall", json!({ "image": "tiny" })).await,
        "running"
    );
    let machines = world.api.get("/api/v1/machines").await.unwrap();
    assert_eq!(
        machines["items"][0]["state"], "allocated",
        "the same machine all along"
    );

    // A disk that does not fit: refused by name, nothing written; the rule is mended and the instance installed anew.
    let wrong = ask(
        &world,
        Method::POST,
        "life/reinstall",
        json!({ "disk": { "serial": "NO-SUCH" } }),
    )
    .await;
    let wrong = ended(&world, &wrong).await;
    assert_eq!(wrong["state"], "failed", "{wrong:#}");
    let shown = world.api.get("/api/v1/instances/life").await.unwrap();
    assert_eq!(
        (shown["state"].as_str(), shown["failed_during"].as_str()),
        (Some("failed"), Some("reinstall"))
    );
    let started = world
        .api
        .call(Method::POST, "/api/v1/instances/life/start", None)
        .await
        .unwrap_err();
    assert!(started.to_string().contains("not_installed"), "{started}");
    let job = wrong["id"].as_str().unwrap();
    let again = world
        .api
        .post(&format!("/api/v1/jobs/{job}/retry"), json!({}))
        .await
        .unwrap();
    assert_eq!(again["state"], "running");
    let again = world.api.wait_for_job(job, LIMIT).await.unwrap();
    assert_eq!(
        again["state"], "failed",
        "the same disks, the same answer, after another look: {again:#}"
    );
    let booted = again["steps"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["id"] == "boot-network")
        .unwrap();
    assert_eq!(booted["attempt"], 2, "a retry boots the agent anew");
    assert_eq!(work(&world, "reinstall", json!({ "disk": {} })).await, "running");

    let released = ask(&world, Method::DELETE, "life", json!({})).await;
    assert_eq!(ended(&world, &released).await["state"], "done");
    assert_eq!(switched(&world), PowerState::Off);
    machine_alone(&world).await;
    let timeline = world
        .api
        .get(&format!(
            "/api/v1/instances/{}/timeline?limit=1000",
            shown["id"].as_str().unwrap()
        ))
        .await
        .unwrap();
    let kinds: Vec<&str> = timeline["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["kind"].as_str())
        .collect();
    for kind in [
        "instance.stopped",
        "instance.reinstalling",
        "job.retried",
        "instance.released",
        "guest.phone_home",
    ] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
}
