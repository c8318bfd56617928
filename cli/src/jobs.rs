//! `slipway job`: work that is done or being done, and how it is followed to its end.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;

use crate::{
    client::Client,
    job_log,
    ordering::Ordering,
    output::{self, Format},
    progress,
};

/// Jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// List jobs, newest first, 1000 at most
    List {
        /// At one site
        #[arg(long)]
        site: Option<String>,
        /// queued, running, done, failed or cancelled
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        ordering: Ordering,
    },
    /// Show a job
    Show { job: String },
    /// Watch a job until it ends
    Watch { job: String },
    /// Print what edge and agent said while they worked on a job
    Log {
        job: String,
        /// Go on with what is said from now on, until the job has ended
        #[arg(long)]
        follow: bool,
    },
    /// Call a job off
    Cancel { job: String },
    /// Take a failed job up again, at the step that failed
    Retry {
        job: String,
        /// Watch until it ends
        #[arg(long)]
        wait: bool,
    },
}

const COLUMNS: [(&str, &str); 7] = [
    ("job", "/id"),
    ("kind", "/kind"),
    ("site", "/site"),
    ("state", "/state"),
    ("created", "/created_at"),
    ("waiting", "/waiting"),
    ("failure", "/failure/code"),
];

/// Carries a command out.
pub(crate) async fn run(client: &Client, format: Format, job: Job) -> anyhow::Result<ExitCode> {
    let of = |job: &str, what: &str| format!("/api/v1/jobs/{job}{what}");
    let answer = match job {
        Job::List {
            site,
            state,
            ordering,
        } => {
            let [q, sort] = ordering.asked();
            let filters = [("site", site), ("state", state), q, sort];
            client.page("/api/v1/jobs", &filters, None).await?
        }
        Job::Show { job } => {
            let answer = client.get(&of(&job, "")).await?;
            if format == Format::Table {
                progress::lines(&answer)
                    .iter()
                    .for_each(|line| println!("{line}"));
                return Ok(ExitCode::SUCCESS);
            }
            answer
        }
        Job::Log { job, follow } => {
            job_log::print(client, &of(&job, "/log"), follow).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Job::Watch { job } => return follow(client, &job).await,
        Job::Cancel { job } => client.post(&of(&job, "/cancel"), json!({})).await?,
        Job::Retry { job, wait } => {
            let answer = client.post(&of(&job, "/retry"), json!({})).await?;
            if wait {
                return follow(client, &job).await;
            }
            answer
        }
    };
    output::print(format, &answer, &COLUMNS);
    Ok(ExitCode::SUCCESS)
}

/// Follows a job to its end: in place on a terminal, else a line whenever a step's state changes.
pub(crate) async fn follow(client: &Client, id: &str) -> anyhow::Result<ExitCode> {
    let terminal = std::io::stdout().is_terminal();
    let (mut revision, mut shown) = (0, Vec::new());
    loop {
        let job = client
            .get(&format!("/api/v1/jobs/{id}?after_revision={revision}&wait_s=20"))
            .await?;
        revision = job["revision"].as_u64().unwrap_or(0);
        let lines = progress::lines(&job);
        let mut out = std::io::stdout().lock();
        if terminal {
            if !shown.is_empty() {
                write!(out, "\x1b[{}A", shown.len())?;
            }
            lines.iter().try_for_each(|line| writeln!(out, "\x1b[2K{line}"))?;
        } else {
            let news = lines
                .iter()
                .filter(|line| !line.starts_with(['▸', '·']) && !shown.contains(*line));
            news.into_iter().try_for_each(|line| writeln!(out, "{line}"))?;
        }
        out.flush()?;
        shown = lines;
        match job["state"].as_str() {
            Some("done") => return Ok(ExitCode::SUCCESS),
            Some("queued" | "running") => {}
            Some(_) => return Ok(ExitCode::FAILURE),
            None => bail!("the control plane's answer has no state"),
        }
    }
}
