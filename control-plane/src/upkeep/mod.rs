//! What operators do with a control plane besides running it: back it up, restore it, ask what ails it. Each is a subcommand of
//! the program; none of it is reachable by the API.

pub mod archive;
pub mod backup;
pub mod doctor;
pub mod mosquitto;
mod postgres;
pub mod restore;
