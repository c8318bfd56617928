//! What is done before a driver step is tried again: each rung is harder than the one before. Pure.

/// How hard a machine is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// As the step says.
    Plain,
    /// A machine that is on has its power cut, where a reset would do otherwise: firmware that hangs may survive a reset.
    PowerCycle,
    /// Its BMC is started anew first: one that hangs accepts what it is told and does nothing.
    BmcReset,
}

/// The rung of an attempt, counted from 1. A job fails when the attempts are used up, and the control plane may then keep
/// the machine out of use.
#[must_use]
pub fn rung(attempt: u32) -> Rung {
    match attempt {
        0 | 1 => Rung::Plain,
        2 => Rung::PowerCycle,
        _ => Rung::BmcReset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rung_is_left_out_and_none_is_taken_back() {
        assert_eq!(
            [1, 2, 3].map(rung),
            [Rung::Plain, Rung::PowerCycle, Rung::BmcReset]
        );
        assert!((1..20).all(|attempt| rung(attempt) <= rung(attempt + 1)));
    }
}
