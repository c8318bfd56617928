//! The users a BMC knows. Holds passwords, so nothing here has `Debug`.

use slipway_edge::bmc::ipmi::rakp::Privilege;

/// One user of a BMC.
#[derive(Clone)]
pub struct User {
    /// Name, at most 16 bytes.
    pub name: String,
    /// Password, at most 20 bytes (16 for ipmitool's default).
    pub password: String,
    /// Highest privilege that a session of this user may have.
    pub privilege: Privilege,
}

/// All users; the position plus 2 is the IPMI user id (id 1 is the nameless user, always disabled).
#[derive(Clone)]
pub struct Users(Vec<User>);

impl Users {
    /// These users, in order.
    pub fn new(users: Vec<User>) -> Self {
        Self(users)
    }

    /// One administrator.
    pub fn administrator(name: &str, password: &str) -> Self {
        let privilege = Privilege::Administrator;
        Self(vec![User {
            name: name.to_owned(),
            password: password.to_owned(),
            privilege,
        }])
    }

    /// The user of this name.
    pub fn named(&self, name: &[u8]) -> Option<&User> {
        self.0.iter().find(|user| user.name.as_bytes() == name)
    }

    /// The user with this IPMI id, 2 and up.
    pub fn numbered(&self, id: u8) -> Option<&User> {
        usize::from(id).checked_sub(2).and_then(|at| self.0.get(at))
    }

    /// How many there are.
    pub fn count(&self) -> u8 {
        u8::try_from(self.0.len()).unwrap_or(u8::MAX)
    }
}
