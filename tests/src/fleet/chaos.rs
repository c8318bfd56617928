//! Kills and restarts at seeded random moments. The plan is pure; carrying it out is a loop.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::world::{Fleet, Part};

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// A replica of the control plane, and with it the central broker if it is the only one.
    ControlPlane(u8),
    /// The edge of a site, and with it the site's broker.
    Edge(u8),
}

/// A kill and the restart after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// How long after the former restart.
    pub after: Duration,
    /// Who.
    pub victim: Victim,
    /// How long it stays dead.
    pub down: Duration,
}

/// What is to go wrong in a run.
#[derive(Debug, Clone, Copy)]
pub struct Chaos {
    /// Seed of moments and victims.
    pub seed: u64,
    /// Kills of control planes.
    pub control_plane: u8,
    /// Kills of edges.
    pub edges: u8,
}

impl Chaos {
    /// The kills, in their order, for a fleet of `sites` and `replicas`.
    #[must_use]
    pub fn plan(&self, sites: u8, replicas: u8) -> Vec<Kill> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut victims: Vec<Victim> = (0..self.control_plane)
            .map(|_| Victim::ControlPlane(random.random_range(0..replicas)))
            .collect();
        victims.extend((0..self.edges).map(|_| Victim::Edge(random.random_range(0..sites))));
        victims.shuffle(&mut random);
        let mut millis = |low, high| Duration::from_millis(random.random_range(low..=high));
        let kill = |victim| Kill {
            after: millis(500, 2500),
            victim,
            down: millis(100, 1500),
        };
        victims.into_iter().map(kill).collect()
    }
}

/// Carries a plan out.
///
/// # Errors
/// When a process cannot be started again.
pub async fn carry_out(fleet: &Fleet, plan: &[Kill]) -> anyhow::Result<()> {
    for kill in plan {
        tokio::time::sleep(kill.after).await;
        let Some(part) = part(fleet, kill.victim) else {
            continue;
        };
        part.kill(&fleet.api).await;
        tokio::time::sleep(kill.down).await;
        part.process().start()?;
    }
    Ok(())
}

fn part(fleet: &Fleet, victim: Victim) -> Option<&Part> {
    match victim {
        Victim::ControlPlane(index) => fleet.control_planes.get(usize::from(index)),
        Victim::Edge(index) => fleet.edges.get(usize::from(index)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_kills_and_all_that_were_asked_for() {
        let chaos = |seed| Chaos {
            seed,
            control_plane: 2,
            edges: 5,
        };
        let plan = chaos(1).plan(4, 1);
        assert_eq!(plan, chaos(1).plan(4, 1));
        assert_ne!(plan, chaos(2).plan(4, 1));
        let edges = plan
            .iter()
            .filter(|kill| matches!(kill.victim, Victim::Edge(0..4)));
        assert_eq!((plan.len(), edges.count()), (7, 5));
    }
}
