//! What was counted in runs.

/// Counts of one run or of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Schedules.
    pub schedules: u64,
    /// Events.
    pub events: u64,
    /// Jobs that were taken on.
    pub jobs: u64,
    /// Of those, ended well.
    pub jobs_done: u64,
    /// Messages put on the link.
    pub messages: u64,
    /// Lost ones.
    pub lost: u64,
    /// Repeated ones.
    pub twice: u64,
    /// Late ones.
    pub late: u64,
    /// Deaths of the edge.
    pub edge_crashes: u64,
    /// Deaths of the control plane.
    pub centre_crashes: u64,
    /// Cuts of a link.
    pub cuts: u64,
    /// Writes that found no room.
    pub disk_full: u64,
    /// Clocks set wrong.
    pub clock_jumps: u64,
    /// Old copies put back, of either side.
    pub restores: u64,
    /// Lies told.
    pub lies: u64,
    /// Writes on the edge's disk.
    pub writes: u64,
    /// Changes of power.
    pub powers: u64,
    /// Of those, ones that cut it from something that ran.
    pub cuts_of_power: u64,
    /// Images begun.
    pub images: u64,
    /// Effects repeated by an edge that came back with an old disk, and could not know.
    pub unknowable: u64,
}

impl Figures {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.events += other.events;
        self.jobs += other.jobs;
        self.jobs_done += other.jobs_done;
        self.messages += other.messages;
        self.lost += other.lost;
        self.twice += other.twice;
        self.late += other.late;
        self.edge_crashes += other.edge_crashes;
        self.centre_crashes += other.centre_crashes;
        self.cuts += other.cuts;
        self.disk_full += other.disk_full;
        self.clock_jumps += other.clock_jumps;
        self.restores += other.restores;
        self.lies += other.lies;
        self.writes += other.writes;
        self.powers += other.powers;
        self.cuts_of_power += other.cuts_of_power;
        self.images += other.images;
        self.unknowable += other.unknowable;
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} schedules, {} events", self.schedules, self.events)?;
        writeln!(f, "{} jobs, {} of them done", self.jobs, self.jobs_done)?;
        writeln!(
            f,
            "{} messages: {} lost, {} twice, {} late",
            self.messages, self.lost, self.twice, self.late
        )?;
        writeln!(
            f,
            "{} edge crashes, {} control plane crashes, {} cuts, {} writes without room, {} clock jumps, {} restores, {} lies",
            self.edge_crashes,
            self.centre_crashes,
            self.cuts,
            self.disk_full,
            self.clock_jumps,
            self.restores,
            self.lies
        )?;
        writeln!(
            f,
            "{} writes, {} changes of power ({} cuts), {} images begun",
            self.writes, self.powers, self.cuts_of_power, self.images
        )?;
        write!(
            f,
            "{} effects repeated by edges with an old disk that nobody could have told them of",
            self.unknowable
        )
    }
}
