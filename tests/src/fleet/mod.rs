//! The simulated fleet: a real control plane, a real edge process for every site, and machines that are simulated down to
//! their BMCs but run the real agent. All on loopback, one address a site and a machine. It measures, and it judges whether
//! the promises were kept; what it finds is printed, never hidden.

pub mod attack;
pub mod chaos;
pub mod chassis;
pub mod database;
mod hardware;
pub mod image;
pub mod judge;
pub mod listener;
mod machine;
mod overlay;
mod pace;
pub mod place;
pub mod probe;
pub mod process;
pub mod rack;
pub mod refused;
mod replicas;
pub mod run;
mod table;
pub mod world;

pub use database::Database;
pub use run::{Plan, Summary, run};
pub use world::{Fleet, Spec};
