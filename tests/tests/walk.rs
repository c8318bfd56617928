//! The newcomer's walk: from an empty database to a running instance by docs/OPERATIONS.md alone, each command of it typed
//! word for word at a terminal. A change of the handbook or of a program that parts the two makes it fail.

use slipway_lab::{commands::up::Spec, state::MachineFirmware};
use slipway_tests::{handbook, newcomer::Newcomer, world::Parts};

const HANDBOOK: &str = include_str!("../../docs/OPERATIONS.md");
const SECTION: &str = "From nothing to an instance, by the command line";

#[tokio::test(flavor = "multi_thread")]
async fn the_handbook_leads_from_nothing_to_an_instance() {
    let commands = handbook::commands(HANDBOOK, SECTION);
    assert!(
        commands.len() >= 10,
        "the section has lost its steps: {commands:?}"
    );
    // As the handbook's machine is.
    let spec = Spec {
        firmware: vec![MachineFirmware::Uefi],
        ..Spec::default()
    };
    let mut newcomer = Newcomer::arrive("t-walk", &spec, Parts::from_environment().unwrap()).unwrap();
    for command in &commands {
        newcomer
            .types(command)
            .await
            .unwrap_or_else(|error| panic!("{error:?}"));
    }
    let (mut typed, mut written) = (newcomer.done().unwrap(), commands);
    typed.sort();
    written.sort();
    assert_eq!(typed, written, "every command of the section was typed");
    let instance = newcomer.asks("slipway instance show web-1").unwrap();
    assert_eq!(instance["state"], "running");
    assert_eq!(instance["machine"]["name"], "m1");
    let me = newcomer.asks("slipway me").unwrap();
    assert_eq!(me["name"], "ann");
}
