//! New passwords for a BMC's user, over loopback: what the driver says is what holds, whatever the BMC does.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use slipway_edge::bmc::{
    Bmc, BmcError, PowerState,
    ipmi::{Credentials, IpmiBmc, Timing, rakp::Privilege},
};
use slipway_lab::bmc::{self, Faults, MemoryChassis, Passwords, User, Users};
use slipway_protocol::seal::Secret;
use tokio::{net::UdpSocket, task::JoinHandle};

const OLD: &str = "secret12";
const NEW: &str = "Sixteen-letters1";

struct World {
    users: Users,
    faults: Arc<Faults>,
    address: SocketAddr,
    server: JoinHandle<std::io::Result<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    async fn start(rule: Passwords) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let user = |name: &str, privilege| User {
            name: name.to_owned(),
            password: OLD.to_owned(),
            privilege,
        };
        let users = Users::new(vec![
            user("reader", Privilege::User),
            user("adm", Privilege::Administrator),
            user("admin", Privilege::Administrator),
        ]);
        let faults = Arc::new(Faults::default());
        faults.passwords(rule);
        let chassis = Arc::new(MemoryChassis::default());
        let server = bmc::serve_with_faults(socket, users.clone(), chassis, Arc::clone(&faults));
        Self {
            users,
            faults,
            address,
            server: tokio::spawn(server),
        }
    }

    fn client(&self, passwords: &[&str]) -> IpmiBmc {
        let credentials = Credentials {
            user: "admin".to_owned(),
            passwords: passwords.iter().map(|&p| p.to_owned()).collect(),
        };
        let timing = Timing {
            first_wait: Duration::from_millis(50),
            busy_pause: Duration::from_millis(10),
            ..Timing::default()
        };
        IpmiBmc::new(self.address, credentials, timing)
    }

    async fn change(&self) -> Result<(), BmcError> {
        self.client(&[OLD]).change_password(&Secret::new(NEW)).await
    }

    /// Which of the two opens a session, asked by other consoles.
    async fn in_force(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        for password in [OLD, NEW] {
            let client = self.client(&[password]);
            if client.power_state().await.is_ok() {
                found.push(password);
            }
            client.close().await;
        }
        found
    }
}

#[tokio::test]
async fn the_new_password_is_in_force_and_the_former_one_is_not() {
    let world = World::start(Passwords::Store).await;
    world.change().await.unwrap();
    assert_eq!(world.in_force().await, [NEW]);
    for (id, password) in [(2, OLD), (3, OLD), (4, NEW)] {
        let user = world.users.numbered(id).unwrap();
        assert_eq!(user.password, password, "{}", user.name);
    }
    assert_eq!(world.faults.failed_logins(), 0);
}

/// Whoever did it was killed before it could say so.
#[tokio::test]
async fn a_repeat_finds_the_new_password_in_force_and_changes_nothing() {
    let world = World::start(Passwords::Store).await;
    world.change().await.unwrap();
    world.faults.passwords(Passwords::Refuse(0xff));
    world.change().await.unwrap();
    assert_eq!(world.in_force().await, [NEW]);
    assert_eq!(
        world.faults.failed_logins(),
        0,
        "no wrong password was tried on it"
    );
}

#[tokio::test]
async fn an_answer_that_is_lost_is_no_failure() {
    let world = World::start(Passwords::HangUp).await;
    world.change().await.unwrap();
    assert_eq!(world.in_force().await, [NEW]);
}

#[tokio::test]
async fn a_refusal_is_told_when_the_former_password_is_proved_to_hold() {
    for rule in [
        Passwords::Refuse(0xcc),
        Passwords::Refuse(0xc7),
        Passwords::Refuse(0xd4),
        Passwords::Refuse(0xff),
        Passwords::Ignore,
        Passwords::CutTo(8),
    ] {
        let world = World::start(rule).await;
        let error = world.change().await.unwrap_err();
        let cut = matches!(rule, Passwords::CutTo(_));
        assert_eq!(error.code(), "bmc_password_refused", "{rule:?}: {error}");
        assert!(
            !error.is_transient() && !error.to_string().contains(NEW),
            "{error}"
        );
        assert_eq!(world.in_force().await, [OLD], "{rule:?}");
        assert!(!cut || error.to_string().contains("set again"), "{error}");
        assert_eq!(world.faults.failed_logins(), 0, "{rule:?}");
    }
}

/// It cuts both, so neither can be set: nothing is claimed.
#[tokio::test]
async fn a_bmc_that_proves_neither_is_not_said_to_have_one() {
    let world = World::start(Passwords::CutTo(4)).await;
    let error = world.change().await.unwrap_err();
    assert_eq!(error.code(), "bmc_password_unknown", "{error}");
    assert!(world.in_force().await.is_empty());
    let error = world.change().await.unwrap_err();
    assert_eq!(error.code(), "bmc_credentials", "{error}");
    assert_eq!(world.faults.failed_logins(), 0);
}

/// What an edge does with an order of the time in which the end of a change is not known.
#[tokio::test]
async fn of_two_passwords_the_one_in_force_is_used_and_the_other_never_tried() {
    let world = World::start(Passwords::Store).await;
    for _ in 0..2 {
        let client = world.client(&[OLD, NEW]);
        assert_eq!(client.power_state().await.unwrap(), PowerState::Off);
        client.close().await;
        world.change().await.unwrap();
    }
    assert_eq!(world.faults.failed_logins(), 0);
}

#[tokio::test]
async fn lost_packets_change_nothing_of_that() {
    for lost in 1..12 {
        let world = World::start(Passwords::Store).await;
        world.faults.drop_packets(lost);
        while let Err(error) = world.change().await {
            assert!(error.is_transient(), "{lost}: {error}");
        }
        assert_eq!(world.in_force().await, [NEW], "{lost}");
    }
}
