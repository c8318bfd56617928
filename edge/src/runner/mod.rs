//! The order runner: what comes next is decided in [`next`], purely; [`actor`] keeps every machine's state and carries
//! the decisions out; [`steps`] does the edge's own steps. After a crash the actor loads what it held and goes on by
//! the same code as before.

pub mod actor;
pub mod away;
pub mod bmc_state;
pub mod event_log;
pub mod ladder;
pub mod machine;
pub mod next;
pub mod steps;
pub mod taking_up;
