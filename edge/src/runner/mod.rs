//! The order runner: what comes next is decided in [`next`], purely; the actor carries it out.

pub mod next;
