//! The web UI, driven by Debian's Chromium: the whole way from a new control plane to an instance that is given back, on a
//! real (virtual) machine, and every page in both languages and themes.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use serde_json::json;
use slipway_lab::commands::up::Spec;
use slipway_tests::{
    browser::Script,
    fleet::{self, Database, Fleet, Plan},
    world::{Parts, World},
};

const PASSWORD: &str = "a-password-of-the-lab";

/// What the script wishes for, one line each, is done here: it has a browser, and this has the lab.
#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_installs_by_the_web_ui_alone() {
    let (spec, at) = (Spec::default(), "127.0.0.1:0".parse().unwrap());
    let parts = Parts::from_environment().unwrap();
    let (mut world, setup) = World::fresh("t-web", (&spec, 0), parts, at).await.unwrap();
    let machine = &world.lab.machines[0];
    let facts = json!({
        "setup": setup,
        "password": PASSWORD,
        "network": "192.0.2.0/24",
        "server": world.lab.site_address,
        "image": world.guest("tiny"),
        "machine": {
            "name": machine.name,
            "mac": machine.mac,
            "firmware": "bios",
            "bmc": format!("{}:623", machine.bmc_address),
            "user": world.lab.bmc_user,
            "password": world.lab.bmc_password,
        },
    });
    let facts = [("SLIPWAY_FACTS", facts.to_string())];
    let mut script = Script::start("story.mjs", world.api.base(), &facts).unwrap();
    while let Some((wish, word)) = script.next_wish().unwrap() {
        match wish.as_str() {
            "join" => {
                world.join_with(&word).unwrap();
                world.start_edge().unwrap();
            }
            "kill" => world.kill_control_plane(),
            "start" => world.start_control_plane().unwrap(),
            other => panic!("the script wishes for `{other}`"),
        }
        script.grant().unwrap();
    }
    script.succeeded(&world.console(0));
}

/// Both languages, both themes and the phone, but not each pair of them, which takes a minute more each.
#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_whole_in_both_languages_and_themes() {
    look_at_every_page("en-light zh-dark phone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_every_page_is_whole_in_each_language_and_theme() {
    look_at_every_page("en-light en-dark zh-light zh-dark phone").await;
}

async fn look_at_every_page(looks: &str) {
    let spec = fleet::Spec {
        sites: 3,
        machines: 5,
        replicas: 1,
        database: Database::Sqlite,
        seed: 1,
    };
    let world = Fleet::start(spec).await.unwrap();
    let plan = Plan {
        installs: 8,
        chaos: None,
        limit: Duration::from_secs(120),
    };
    fleet::run(&world, plan).await.unwrap();
    world.let_in(PASSWORD).await.unwrap();
    let known = [
        ("SLIPWAY_NAME", "demo".to_owned()),
        ("SLIPWAY_PASSWORD", PASSWORD.to_owned()),
        ("SLIPWAY_LOOKS", looks.to_owned()),
    ];
    for name in ["seed.mjs", "keyboard.mjs", "look.mjs"] {
        let mut script = Script::start(name, world.api.base(), &known).unwrap();
        assert_eq!(script.next_wish().unwrap(), None);
        script.succeeded("");
    }
}
