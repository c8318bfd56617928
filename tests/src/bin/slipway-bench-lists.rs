//! `slipway-bench-lists`: how long lists and reads take with a large database. A real control plane process on loopback; the
//! rows are put in by SQL, because a hundred thousand machines by the API would measure something else.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use slipway_tests::{
    api::Api,
    browser::Script,
    fleet::{
        Database,
        database::Postgres,
        process::{Process, Usage},
    },
    world::wait_for,
};

/// Measures lists and reads of a control plane with many machines.
#[derive(Parser)]
#[command(name = "slipway-bench-lists", version, about)]
struct Cli {
    /// Machines, with as many instances and jobs
    #[arg(long, default_value_t = 100_000)]
    machines: u32,
    /// Machines of a site
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    machines_per_site: u32,
    /// sqlite or postgres
    #[arg(long, default_value = "sqlite")]
    database: Database,
    /// Requests to each route, one after the other
    #[arg(long, default_value_t = 200)]
    requests: u32,
    /// Also open the list of machines in a browser, and scroll it
    #[arg(long)]
    browser: bool,
}

/// Rows by recursion, which SQLite and PostgreSQL write alike; `{n}` is how many, `{per}` how many a site has.
const ROWS: &[&str] = &[
    "INSERT INTO sites (id, revision, config, online, created_at)
     WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ({n} + {per} - 1) / {per})
     SELECT 's-' || CAST(i AS TEXT), 1, '{\"description\":\"\",\"discover\":false,\"subnets\":[]}', FALSE, 0 FROM n",
    "INSERT INTO machines (id, name, site, state, address, details, version, created_at)
     WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {n})
     SELECT '00000000-0000-7000-8000-' || CAST(100000000000 + i AS TEXT), 'm-' || CAST(1000000 + i AS TEXT),
        's-' || CAST(i / {per} AS TEXT), 'available',
        '10.' || CAST(i / 65536 AS TEXT) || '.' || CAST((i / 256) % 256 AS TEXT) || '.' || CAST(i % 256 AS TEXT),
        '{\"macs\":[\"02:00:00:00:00:01\"],\"firmware\":\"uefi\",\"bmc\":null,\"labels\":{\"rack\":\"r1\"},\"inventory\":null}',
        1, 0 FROM n",
    "UPDATE machines SET state = 'maintenance', machine_type = 'rare' WHERE name LIKE 'm-%9999'",
    "INSERT INTO machine_labels (machine, name, value)
     SELECT id, 'rack', 'r-' || substr(name, 3, 6) FROM machines UNION ALL SELECT id, 'hall', '1' FROM machines",
    "INSERT INTO instances (id, name, site, machine, image, state, job, wish, created_at, project)
     WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {n})
     SELECT '00000000-0000-7000-9000-' || CAST(100000000000 + i AS TEXT), 'i-' || CAST(i AS TEXT),
        's-' || CAST(i / {per} AS TEXT), '00000000-0000-7000-8000-' || CAST(100000000000 + i AS TEXT),
        '0000000000000000000000000000000000000000000000000000000000000000', 'running',
        '00000000-0000-7000-a000-' || CAST(100000000000 + i AS TEXT),
        '{\"machine\":null,\"disk\":{},\"user\":\"u\",\"ssh_keys\":[],\"user_data\":null}', 0, 'default' FROM n",
    "INSERT INTO jobs (id, instance, site, machine, state, deadline, created_at, finished_at)
     WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {n})
     SELECT '00000000-0000-7000-a000-' || CAST(100000000000 + i AS TEXT),
        '00000000-0000-7000-9000-' || CAST(100000000000 + i AS TEXT), 's-' || CAST(i / {per} AS TEXT),
        '00000000-0000-7000-8000-' || CAST(100000000000 + i AS TEXT), 'done', 0, 0, 0 FROM n",
    "UPDATE jobs SET state = 'running', finished_at = NULL, deadline = 4102444800000000 WHERE id LIKE '%99'",
    "UPDATE jobs SET state = 'failed', finished_at = 4102444800000000 WHERE id LIKE '%97'",
    "INSERT INTO states (object, id, state, since) SELECT 'machine', id, state, 0 FROM machines
     UNION ALL SELECT 'instance', id, state, 0 FROM instances UNION ALL SELECT 'job', id, state, 0 FROM jobs",
    "INSERT INTO machine_words (machine, words)
     SELECT id, name || ' ' || address || ' 02:00:00:00:00:01 10.9.0.1:623 sn-' || name FROM machines",
];

/// Lists that the database narrows: some to a handful of rows, one to none.
fn narrowed(middle: u32) -> Vec<(&'static str, String)> {
    vec![
        (
            "list machines, rare state",
            "/api/v1/machines?state=maintenance".to_owned(),
        ),
        (
            "list machines, rare type",
            "/api/v1/machines?machine_type=rare".to_owned(),
        ),
        (
            "list machines, rare label",
            format!("/api/v1/machines?label=rack=r-{}", (1_000_000 + middle) / 10),
        ),
        (
            "list machines, common label",
            format!("/api/v1/machines?label=hall=1&cursor=m-{}", 1_000_000 + middle),
        ),
        (
            "list machines, all filters",
            "/api/v1/machines?state=available&label=hall=1&label=rack=none".to_owned(),
        ),
    ]
}

/// Lists in another order, and lists that hold a text: in one row, in many and in none.
fn ordered(middle: u32) -> Vec<(&'static str, String)> {
    let list = |what: &str| format!("/api/v1/{what}");
    vec![
        ("machines by state", list("machines?sort=-state")),
        ("machines by type", list("machines?sort=machine_type")),
        ("machines by age", list("machines?sort=-created_at")),
        ("instances by name", list("instances?sort=name")),
        ("jobs by state", list("jobs?sort=state")),
        (
            "machines, one serial",
            list(&format!("machines?q=SN-m-{}", 1_000_000 + middle)),
        ),
        ("machines, common text", list("machines?q=m-1")),
        ("machines, no such text", list("machines?q=nothing")),
        ("instances, one name", list(&format!("instances?q=i-{middle}"))),
        (
            "jobs, one name",
            list(&format!("jobs?q=m-{}", 1_000_000 + middle)),
        ),
    ]
}

/// What is asked; the middle of the range stands for any page.
fn routes(machines: u32, per_site: u32) -> Vec<(&'static str, String)> {
    let (middle, site) = (machines / 2, machines / per_site / 2);
    let id = |kind: &str| {
        format!(
            "00000000-0000-7000-{kind}-{}",
            100_000_000_000_u64 + u64::from(middle)
        )
    };
    vec![
        ("list machines", "/api/v1/machines".to_owned()),
        (
            "list machines, middle",
            format!("/api/v1/machines?cursor=m-{}", 1_000_000 + middle),
        ),
        (
            "list machines of a site",
            format!("/api/v1/machines?site=s-{site}"),
        ),
        (
            "get machine by name",
            format!("/api/v1/machines/m-{}", 1_000_000 + middle),
        ),
        ("get machine by id", format!("/api/v1/machines/{}", id("8000"))),
        ("list instances", "/api/v1/instances".to_owned()),
        (
            "list instances, middle",
            format!("/api/v1/instances?cursor={}", id("9000")),
        ),
        (
            "list instances of a site",
            format!("/api/v1/instances?site=s-{site}"),
        ),
        ("get instance by name", format!("/api/v1/instances/i-{middle}")),
        ("list jobs", "/api/v1/jobs".to_owned()),
        ("list jobs of a site", format!("/api/v1/jobs?site=s-{site}")),
        ("list jobs that failed", "/api/v1/jobs?state=failed".to_owned()),
        ("get job", format!("/api/v1/jobs/{}", id("a000"))),
        ("list sites", "/api/v1/sites".to_owned()),
        ("list projects", "/api/v1/projects".to_owned()),
        ("list events", "/api/v1/events".to_owned()),
        ("read overview", "/api/v1/overview".to_owned()),
        ("read metrics", "/metrics".to_owned()),
    ]
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    slipway_bus::tls::install_provider();
    let folder = tempfile::tempdir()?;
    let postgres = match cli.database {
        Database::Sqlite => None,
        Database::Postgres => Some(Postgres::start()?),
    };
    let (process, api) = start(folder.path(), postgres.as_ref()).await?;
    let filled = Instant::now();
    for rows in ROWS {
        run_sql(
            &rows
                .replace("{n}", &cli.machines.to_string())
                .replace("{per}", &cli.machines_per_site.to_string()),
            folder.path(),
            postgres.as_ref(),
        )?;
    }
    // What PostgreSQL does by itself within a minute of such a change.
    let tidy = if postgres.is_some() {
        "VACUUM ANALYZE"
    } else {
        "ANALYZE"
    };
    run_sql(tidy, folder.path(), postgres.as_ref())?;
    println!(
        "{} machines, instances and jobs on {:?}; {:.1} s to put in",
        cli.machines,
        cli.database,
        filled.elapsed().as_secs_f64()
    );
    println!("{:<28}{:>10}{:>10}{:>10}", "", "p50 ms", "p99 ms", "max ms");
    let asked = routes(cli.machines, cli.machines_per_site).into_iter();
    let asked = asked.chain(narrowed(cli.machines / 2));
    for (name, path) in asked.chain(ordered(cli.machines / 2)) {
        let mut times = Vec::new();
        for _ in 0..cli.requests {
            let begun = Instant::now();
            api.get(&path).await.with_context(|| format!("GET {path}"))?;
            times.push(begun.elapsed());
        }
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0;
        println!("{name:<28}{:>10.1}{:>10.1}{:>10.1}", at(50), at(99), at(100));
    }
    if cli.browser {
        browse(&api).await?;
    }
    let usage: Usage = process.usage();
    println!(
        "control plane: {:.1} s CPU, {:.0} MiB at its peak",
        usage.cpu_s,
        usage.peak_bytes as f64 / 1_048_576.0
    );
    Ok(())
}

/// How a browser does with as many machines.
async fn browse(api: &Api) -> anyhow::Result<()> {
    let password = "look-at-the-lists";
    let change = serde_json::json!({ "password": password });
    api.call(reqwest::Method::PATCH, "/api/v1/users/demo", Some(change))
        .await?;
    let known = [
        ("SLIPWAY_NAME", "demo".to_owned()),
        ("SLIPWAY_PASSWORD", password.to_owned()),
    ];
    let mut script = Script::start("large.mjs", api.base(), &known)?;
    while script.next_wish()?.is_some() {}
    script.succeeded("");
    Ok(())
}

/// A control plane with an empty database, set up.
async fn start(folder: &Path, postgres: Option<&Postgres>) -> anyhow::Result<(Process, Api)> {
    let port = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    let (http, mqtt) = (port()?, port()?);
    let mut environment = vec![
        ("SLIPWAY_HTTP".to_owned(), http.to_string()),
        ("SLIPWAY_MQTT".to_owned(), mqtt.to_string()),
        ("SLIPWAY_DATA_DIR".to_owned(), folder.display().to_string()),
    ];
    if let Some(postgres) = postgres {
        environment.push(("SLIPWAY_DATABASE_URL".to_owned(), postgres.url()));
    }
    let log = folder.join("control-plane");
    let mut process = Process::new(program()?, &[], environment, log.clone());
    process.start()?;
    let out = log.with_extension("out");
    let token = wait_for("the set-up link", Duration::from_secs(60), || {
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        text.split_once("token=").map(|(_, rest)| rest.trim().to_owned())
    });
    let mut api = Api::new(format!("http://{http}"))?;
    api.set_up(&token.await?).await?;
    Ok((process, api))
}

/// The control plane beside this program.
fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("slipway-control-plane");
    ensure!(
        program.exists(),
        "{} is not there: run this through `make bench-lists`",
        program.display()
    );
    Ok(program)
}

fn run_sql(sql: &str, folder: &Path, postgres: Option<&Postgres>) -> anyhow::Result<()> {
    let mut command = match postgres {
        Some(postgres) => {
            let mut command = Command::new("psql");
            command.args(["-q", "-v", "ON_ERROR_STOP=1", "-d", &postgres.url(), "-c", sql]);
            command
        }
        None => {
            let mut command = Command::new("sqlite3");
            command
                .arg("-cmd")
                .arg(".timeout 60000")
                .arg(folder.join("control-plane.db"))
                .arg(sql);
            command
        }
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("psql or sqlite3 cannot be run")?;
    ensure!(
        output.status.success(),
        "{sql}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
