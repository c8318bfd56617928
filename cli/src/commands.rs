//! Every command, parsed and carried out.

use std::{
    io::{IsTerminal as _, Read as _, Write as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{CommandFactory as _, Parser, Subcommand};
use serde_json::{Value, json};

use crate::{
    alerts,
    client::Client,
    config::{self, Config},
    events,
    output::{self, Format},
    progress, watch, webhooks,
};

/// Provisions bare metal over many sites: the command line of Slipway.
#[derive(Debug, Parser)]
#[command(name = "slipway", version, about)]
pub(crate) struct Cli {
    /// Control plane [default: the one of `slipway login`]
    #[arg(long, env = "SLIPWAY_URL", global = true)]
    url: Option<String>,
    /// API token
    #[arg(long, env = "SLIPWAY_TOKEN", hide = true, global = true)]
    token: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value = "table", global = true)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remember a control plane and a token; the token is read from standard input
    Login {
        /// Its URL, as in http://127.0.0.1:8080
        url: String,
        /// The token is the one-time one of the set-up link
        #[arg(long)]
        setup: bool,
    },
    /// Sites
    #[command(subcommand)]
    Site(Site),
    /// Machines
    #[command(subcommand)]
    Machine(Machine),
    /// Images
    #[command(subcommand)]
    Image(Image),
    /// Instances
    #[command(subcommand)]
    Instance(Instance),
    /// Jobs
    #[command(subcommand)]
    Job(Job),
    /// What happened, and what happens
    Events(events::Events),
    /// Addresses that get events
    #[command(subcommand)]
    Webhook(webhooks::Webhook),
    /// What is wrong, and the rules that say so
    #[command(subcommand)]
    Alert(alerts::Alert),
    /// MQTT messages
    #[command(subcommand)]
    Mqtt(Mqtt),
    /// Print a shell's completion script
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum Site {
    /// Add a site
    Create {
        /// Its name
        id: String,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
        /// Boot unknown machines to look at them
        #[arg(long)]
        discover: bool,
        /// NETWORK,server=ADDRESS[,gateway=ADDRESS][,pool=FIRST-LAST][,dns=ADDRESS]; may be repeated
        #[arg(long = "subnet", value_parser = subnet)]
        subnets: Vec<Value>,
    },
    /// List sites
    List,
    /// Show a site
    Show { id: String },
    /// Switch the look at unknown machines on or off
    Discover {
        id: String,
        #[arg(action = clap::ArgAction::Set)]
        on: bool,
    },
    /// Remove a site without machines
    Delete { id: String },
    /// Make a one-time join token for its edge
    Token { id: String },
}

#[derive(Debug, Subcommand)]
enum Machine {
    /// Add a machine
    Create {
        /// Its name
        name: String,
        #[arg(long)]
        site: String,
        /// A port it may boot from; may be repeated
        #[arg(long = "mac", required = true)]
        macs: Vec<String>,
        /// bios or uefi
        #[arg(long, default_value = "uefi")]
        firmware: String,
        /// The address it is given
        #[arg(long)]
        address: Option<Ipv4Addr>,
        /// ADDRESS:PORT of its BMC
        #[arg(long)]
        bmc: Option<String>,
        /// User at its BMC
        #[arg(long, default_value = "admin")]
        bmc_user: String,
        /// File with the BMC's password; `-` is standard input
        #[arg(long, requires = "bmc")]
        bmc_password_file: Option<PathBuf>,
    },
    /// List machines
    List {
        #[arg(long)]
        site: Option<String>,
    },
    /// Show a machine
    Show { machine: String },
    /// Remove a machine that is free
    Delete { machine: String },
    /// Show the order in force
    Order { machine: String },
    /// Show the last report
    Report { machine: String },
    /// Show what happened to it
    History { machine: String },
    /// List machines that were seen and not enrolled
    Discovered,
}

#[derive(Debug, Subcommand)]
enum Image {
    /// Upload a raw disk image, or one compressed by zstd
    Upload {
        file: PathBuf,
        #[arg(long)]
        name: String,
    },
    /// List images
    List,
    /// Show an image
    Show { image: String },
    /// Remove an image nobody uses
    Delete { image: String },
}

#[derive(Debug, Subcommand)]
enum Instance {
    /// Ask for an instance
    Create(Box<NewInstance>),
    /// List instances
    List,
    /// Show an instance
    Show { instance: String },
    /// Give an instance back
    Delete {
        instance: String,
        /// Watch until it is done
        #[arg(long)]
        wait: bool,
    },
}

#[derive(Debug, clap::Args)]
struct NewInstance {
    /// Host name
    name: String,
    #[arg(long)]
    site: String,
    #[arg(long)]
    image: String,
    /// A machine by name; any free one otherwise
    #[arg(long)]
    machine: Option<String>,
    /// The disk with this serial number
    #[arg(long)]
    disk_serial: Option<String>,
    /// The disk with this world-wide name
    #[arg(long)]
    disk_wwn: Option<String>,
    /// A disk of at least so many GB
    #[arg(long)]
    disk_min_gb: Option<u64>,
    /// The user to make
    #[arg(long, default_value = "debian")]
    user: String,
    /// File with a public SSH key; may be repeated
    #[arg(long = "ssh-key")]
    ssh_keys: Vec<PathBuf>,
    /// File with cloud-init user-data
    #[arg(long)]
    user_data: Option<PathBuf>,
    /// Watch until it runs
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// List jobs, newest first
    List {
        #[arg(long)]
        site: Option<String>,
        #[arg(long)]
        state: Option<String>,
    },
    /// Show a job
    Show { job: String },
    /// Watch a job until it ends
    Watch { job: String },
    /// Call a job off
    Cancel { job: String },
}

#[derive(Debug, Subcommand)]
enum Mqtt {
    /// Show messages live, verified where keys are given
    Watch(watch::Watch),
}

const SITE: [(&str, &str); 5] = [
    ("site", "/id"),
    ("online", "/online"),
    ("joined", "/joined"),
    ("last seen", "/last_seen"),
    ("description", "/description"),
];
const MACHINE: [(&str, &str); 6] = [
    ("machine", "/name"),
    ("site", "/site"),
    ("state", "/state"),
    ("address", "/address"),
    ("macs", "/macs"),
    ("firmware", "/firmware"),
];
const IMAGE: [(&str, &str); 4] = [
    ("image", "/name"),
    ("bytes", "/size_bytes"),
    ("stored", "/stored_bytes"),
    ("id", "/id"),
];
const INSTANCE: [(&str, &str); 7] = [
    ("instance", "/name"),
    ("site", "/site"),
    ("state", "/state"),
    ("machine", "/machine/name"),
    ("address", "/machine/address"),
    ("image", "/image/name"),
    ("reason", "/reason"),
];
const JOB: [(&str, &str); 5] = [
    ("job", "/id"),
    ("site", "/site"),
    ("state", "/state"),
    ("created", "/created_at"),
    ("failure", "/failure/code"),
];

/// Carries a command out.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli {
        url,
        token,
        output,
        command,
    } = cli;
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "slipway", &mut std::io::stdout());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Mqtt(Mqtt::Watch(watch)) => return watch::run(watch).await.map(|()| ExitCode::SUCCESS),
        Command::Login { url, setup } => return login(url, setup).await.map(|()| ExitCode::SUCCESS),
        _ => {}
    }
    let kept = config::load(&config::path()?)?;
    let url = url
        .or(kept.url)
        .context("no control plane is known: run `slipway login URL`, or set SLIPWAY_URL")?;
    let client = Client::new(&url, token.or(kept.token))?;
    match command {
        Command::Site(site) => run_site(&client, output, site).await,
        Command::Machine(machine) => run_machine(&client, output, machine).await,
        Command::Image(image) => run_image(&client, output, image).await,
        Command::Instance(instance) => run_instance(&client, output, instance).await,
        Command::Job(job) => run_job(&client, output, job).await,
        Command::Events(wanted) => events::run(&client, output, wanted).await,
        Command::Webhook(webhook) => webhooks::run(&client, output, webhook).await,
        Command::Alert(alert) => alerts::run(&client, output, alert).await,
        Command::Login { .. } | Command::Mqtt(_) | Command::Completions { .. } => Ok(ExitCode::SUCCESS),
    }
}

async fn login(url: String, setup: bool) -> anyhow::Result<()> {
    eprint!("{} token: ", if setup { "Set-up" } else { "API" });
    std::io::stderr().flush()?;
    let mut token = String::new();
    std::io::stdin().read_line(&mut token)?;
    let mut token = token.trim().to_owned();
    if setup {
        let body =
            json!({ "token": token, "name": std::env::var("USER").unwrap_or_else(|_| "admin".to_owned()) });
        let answer = Client::new(&url, None)?.post("/api/v1/setup", body).await?;
        token = answer["token"]
            .as_str()
            .context("the control plane gave no token")?
            .to_owned();
    }
    Client::new(&url, Some(token.clone()))?
        .get("/api/v1/sites?limit=1")
        .await?;
    let path = config::path()?;
    config::save(
        &path,
        &Config {
            url: Some(url),
            token: Some(token),
        },
    )?;
    eprintln!("Logged in; remembered in {}.", path.display());
    Ok(())
}

async fn run_site(client: &Client, format: Format, site: Site) -> anyhow::Result<ExitCode> {
    let answer = match site {
        Site::Create {
            id,
            description,
            discover,
            subnets,
        } => {
            let body =
                json!({ "id": id, "description": description, "discover": discover, "subnets": subnets });
            client.post("/api/v1/sites", body).await?
        }
        Site::List => client.get("/api/v1/sites?limit=1000").await?,
        Site::Show { id } => client.get(&format!("/api/v1/sites/{id}")).await?,
        Site::Discover { id, on } => {
            client
                .patch(&format!("/api/v1/sites/{id}"), json!({ "discover": on }))
                .await?
        }
        Site::Delete { id } => return gone(client.delete(&format!("/api/v1/sites/{id}")).await),
        Site::Token { id } => {
            let answer = client
                .post(&format!("/api/v1/sites/{id}/tokens"), json!({}))
                .await?;
            output::print(
                format,
                &answer,
                &[("token", "/token"), ("good until", "/expires_at")],
            );
            return Ok(ExitCode::SUCCESS);
        }
    };
    output::print(format, &answer, &SITE);
    Ok(ExitCode::SUCCESS)
}

fn gone(result: anyhow::Result<Value>) -> anyhow::Result<ExitCode> {
    result.map(|_| ExitCode::SUCCESS)
}

async fn run_machine(client: &Client, format: Format, machine: Machine) -> anyhow::Result<ExitCode> {
    let of = |machine: &str, what: &str| format!("/api/v1/machines/{machine}{what}");
    let (answer, columns): (Value, &[(&str, &str)]) = match machine {
        Machine::Create {
            name,
            site,
            macs,
            firmware,
            address,
            bmc,
            bmc_user,
            bmc_password_file,
        } => {
            let mut body =
                json!({ "name": name, "site": site, "macs": macs, "firmware": firmware, "address": address });
            if let Some(bmc) = bmc {
                let file = bmc_password_file.context("--bmc needs --bmc-password-file")?;
                let password = secret(&file)?;
                body["bmc"] =
                    json!({ "driver": "ipmi", "address": bmc, "username": bmc_user, "password": password });
            }
            (client.post("/api/v1/machines", body).await?, &MACHINE)
        }
        Machine::List { site } => {
            let filter = site.map(|site| format!("&site={site}")).unwrap_or_default();
            (
                client
                    .get(&format!("/api/v1/machines?limit=1000{filter}"))
                    .await?,
                &MACHINE,
            )
        }
        Machine::Show { machine } => (client.get(&of(&machine, "")).await?, &MACHINE),
        Machine::Delete { machine } => return gone(client.delete(&of(&machine, "")).await),
        Machine::Order { machine } => (client.get(&of(&machine, "/order")).await?, &[]),
        Machine::Report { machine } => (client.get(&of(&machine, "/report")).await?, &[]),
        Machine::History { machine } => (
            client.get(&of(&machine, "/history")).await?,
            &[("at", "/at"), ("what", "/what"), ("detail", "/detail")],
        ),
        Machine::Discovered => {
            let columns = &[
                ("mac", "/mac"),
                ("site", "/site"),
                ("address", "/address"),
                ("seen", "/at"),
                ("product", "/inventory/product"),
            ];
            (client.get("/api/v1/discovered").await?, columns)
        }
    };
    output::print(format, &answer, columns);
    Ok(ExitCode::SUCCESS)
}

/// A secret from a file or standard input; never from the command line, where others can read it.
fn secret(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

async fn run_image(client: &Client, format: Format, image: Image) -> anyhow::Result<ExitCode> {
    let answer = match image {
        Image::Upload { file, name } => client.upload(&name, &file).await?,
        Image::List => client.get("/api/v1/images?limit=1000").await?,
        Image::Show { image } => client.get(&format!("/api/v1/images/{image}")).await?,
        Image::Delete { image } => return gone(client.delete(&format!("/api/v1/images/{image}")).await),
    };
    output::print(format, &answer, &IMAGE);
    Ok(ExitCode::SUCCESS)
}

async fn run_instance(client: &Client, format: Format, instance: Instance) -> anyhow::Result<ExitCode> {
    let (accepted, wait) = match instance {
        Instance::List => {
            output::print(
                format,
                &client.get("/api/v1/instances?limit=1000").await?,
                &INSTANCE,
            );
            return Ok(ExitCode::SUCCESS);
        }
        Instance::Show { instance } => {
            output::print(
                format,
                &client.get(&format!("/api/v1/instances/{instance}")).await?,
                &INSTANCE,
            );
            return Ok(ExitCode::SUCCESS);
        }
        Instance::Delete { instance, wait } => (
            client.delete(&format!("/api/v1/instances/{instance}")).await?,
            wait,
        ),
        Instance::Create(new) => {
            let wait = new.wait;
            (client.post("/api/v1/instances", new_instance(*new)?).await?, wait)
        }
    };
    if !wait {
        output::print(
            format,
            &accepted,
            &[
                ("instance", "/instance/name"),
                ("state", "/instance/state"),
                ("job", "/job/id"),
            ],
        );
        return Ok(ExitCode::SUCCESS);
    }
    follow(
        client,
        accepted["job"]["id"]
            .as_str()
            .context("the control plane named no job")?,
    )
    .await
}

fn new_instance(new: NewInstance) -> anyhow::Result<Value> {
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
        text.map(|text| text.trim().to_owned())
    };
    let keys = new
        .ssh_keys
        .iter()
        .map(read)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let user_data = new.user_data.as_ref().map(read).transpose()?;
    let mut disk = serde_json::Map::new();
    let mut rule = |name: &str, value: Option<Value>| value.map(|value| disk.insert(name.to_owned(), value));
    rule("serial", new.disk_serial.map(Value::from));
    rule("wwn", new.disk_wwn.map(Value::from));
    rule(
        "min_bytes",
        new.disk_min_gb.map(|gb| Value::from(gb * 1_000_000_000)),
    );
    Ok(json!({
        "name": new.name, "site": new.site, "image": new.image, "machine": new.machine, "disk": disk,
        "user": new.user, "ssh_keys": keys, "user_data": user_data,
    }))
}

async fn run_job(client: &Client, format: Format, job: Job) -> anyhow::Result<ExitCode> {
    let answer = match job {
        Job::List { site, state } => {
            let part =
                |name: &str, value: Option<String>| value.map(|v| format!("&{name}={v}")).unwrap_or_default();
            client
                .get(&format!(
                    "/api/v1/jobs?limit=1000{}{}",
                    part("site", site),
                    part("state", state)
                ))
                .await?
        }
        Job::Show { job } => {
            let answer = client.get(&format!("/api/v1/jobs/{job}")).await?;
            if format == Format::Table {
                progress::lines(&answer)
                    .iter()
                    .for_each(|line| println!("{line}"));
                return Ok(ExitCode::SUCCESS);
            }
            answer
        }
        Job::Watch { job } => return follow(client, &job).await,
        Job::Cancel { job } => {
            client
                .post(&format!("/api/v1/jobs/{job}/cancel"), json!({}))
                .await?
        }
    };
    output::print(format, &answer, &JOB);
    Ok(ExitCode::SUCCESS)
}

/// Follows a job to its end: in place on a terminal, else a line whenever a step's state changes.
async fn follow(client: &Client, id: &str) -> anyhow::Result<ExitCode> {
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

/// Reads `192.0.2.0/24,server=192.0.2.1,pool=192.0.2.200-192.0.2.250`.
fn subnet(text: &str) -> Result<Value, String> {
    let mut parts = text.split(',');
    let mut subnet = json!({ "network": parts.next().unwrap_or_default() });
    for part in parts {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not NAME=VALUE"))?;
        match name {
            "server" | "gateway" => subnet[name] = value.into(),
            "dns" => subnet[name] = value.split('+').collect::<Vec<_>>().into(),
            "pool" => {
                let (first, last) = value.split_once('-').ok_or("a pool is FIRST-LAST")?;
                subnet[name] = json!([first, last]);
            }
            other => {
                return Err(format!(
                    "`{other}` is not known: server, gateway, dns and pool are"
                ));
            }
        }
    }
    Ok(subnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_address_of_a_webhook_is_not_that_of_the_control_plane() {
        let cli = Cli::parse_from(["slipway", "webhook", "create", "https://hooks.example.com"]);
        assert_eq!(cli.url, None);
    }

    #[test]
    fn subnets_are_read() {
        let read =
            subnet("192.0.2.0/24,server=192.0.2.1,pool=192.0.2.200-192.0.2.250,dns=192.0.2.1+192.0.2.2")
                .unwrap();
        let expected = json!({ "network": "192.0.2.0/24", "server": "192.0.2.1", "pool": ["192.0.2.200", "192.0.2.250"],
            "dns": ["192.0.2.1", "192.0.2.2"] });
        assert_eq!(read, expected);
        assert!(subnet("192.0.2.0/24,pool=x").is_err() && subnet("192.0.2.0/24,color=red").is_err());
    }
}
