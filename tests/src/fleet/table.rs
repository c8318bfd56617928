//! A run's summary as a table for people.

use std::fmt;

use super::run::Summary;

const MIB: f64 = (1 << 20) as f64;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "  {name:<32}{value}");
        row("requests accepted", format!("{:.1} s", self.accepted_s))?;
        row("all dispatched", format!("{:.1} s", self.dispatched_s))?;
        row("all ended", format!("{:.1} s", self.ended_s))?;
        for (state, count) in &self.jobs {
            row(&format!("jobs {state}"), count.to_string())?;
        }
        let parts = [
            ("control plane", self.control_plane),
            ("edges, sum", self.edges),
            ("simulated machines", self.simulator),
        ];
        for (name, used) in parts {
            let peak = used.peak_bytes as f64 / MIB;
            row(name, format!("{:.1} s CPU, peak {peak:.0} MiB", used.cpu_s))?;
        }
        for times in &self.api {
            let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
            let value = format!(
                "p50 {:.1} ms, p99 {:.1} ms ({} answers, {} without)",
                ms(times.p50),
                ms(times.p99),
                times.answers,
                times.errors
            );
            row(times.name, value)?;
        }
        row("messages refused", self.refused.values().sum::<u64>().to_string())?;
        for (name, count) in &self.refused {
            row(&format!("  {name}"), count.to_string())?;
        }
        row("events heard live, in order", self.events.to_string())?;
        row(
            "kills",
            format!("control plane {}, edges {}", self.kills.0, self.kills.1),
        )?;
        for fault in self.faults.iter().take(20) {
            row("FAULT", fault.clone())?;
        }
        row("promises broken", self.faults.len().to_string())
    }
}
