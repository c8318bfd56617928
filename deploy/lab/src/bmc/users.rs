//! The users a BMC knows. Holds passwords, so nothing here has `Debug`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// All users; the position plus 2 is the IPMI user id (id 1 is the nameless user, always disabled). Clones share them.
#[derive(Clone)]
pub struct Users(Arc<Mutex<Vec<User>>>);

impl Users {
    /// These users, in order.
    pub fn new(users: Vec<User>) -> Self {
        Self(Arc::new(Mutex::new(users)))
    }

    fn all(&self) -> MutexGuard<'_, Vec<User>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One administrator.
    pub fn administrator(name: &str, password: &str) -> Self {
        let privilege = Privilege::Administrator;
        Self::new(vec![User {
            name: name.to_owned(),
            password: password.to_owned(),
            privilege,
        }])
    }

    /// The user of this name.
    pub fn named(&self, name: &[u8]) -> Option<User> {
        self.all()
            .iter()
            .find(|user| user.name.as_bytes() == name)
            .cloned()
    }

    /// The user with this IPMI id, 2 and up.
    pub fn numbered(&self, id: u8) -> Option<User> {
        let at = usize::from(id).checked_sub(2)?;
        self.all().get(at).cloned()
    }

    /// Gives the user with this IPMI id another password. Open sessions go on.
    pub fn set_password(&self, id: u8, password: &str) {
        let mut all = self.all();
        if let Some(user) = usize::from(id).checked_sub(2).and_then(|at| all.get_mut(at)) {
            password.clone_into(&mut user.password);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u8 {
        u8::try_from(self.all().len()).unwrap_or(u8::MAX)
    }
}
