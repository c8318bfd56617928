//! Every command, parsed and carried out.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    access, account, alerts, apply, audit, client::Client, config, events, images, jobs, life, machine_types,
    machines, output::Format, search, session, signing_keys, sites, stock, watch, webhooks,
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
    /// Remember a control plane, and a token or, by name and password, a key of its own
    Login(session::Login),
    /// Forget the control plane's key, there and here
    Logout,
    /// Show who you are and what you may do, or change your password
    Me {
        #[command(subcommand)]
        what: Option<account::Me>,
    },
    /// Your API keys
    #[command(subcommand)]
    Key(account::Key),
    /// Your SSH keys
    #[command(subcommand)]
    SshKey(account::SshKey),
    /// Users, and what is granted to them
    #[command(subcommand)]
    User(access::User),
    /// Roles
    #[command(subcommand)]
    Role(access::Role),
    /// Projects, who is in them and what they may hold
    #[command(subcommand)]
    Project(access::Project),
    /// Make sites, machines, projects, roles, webhooks and alert rules as a file says
    Apply(apply::Apply),
    /// Who did what
    Audit(account::Audit),
    /// The keys that orders are signed by
    #[command(subcommand)]
    SigningKey(signing_keys::SigningKey),
    /// Look for something by a part of its name, address, serial number or id
    Search(search::Search),
    /// Everything you may see, counted site by site
    Overview,
    /// Sites
    #[command(subcommand)]
    Site(sites::Site),
    /// Machines
    #[command(subcommand)]
    Machine(machines::Machine),
    /// Types of machines
    #[command(subcommand)]
    MachineType(machine_types::MachineType),
    /// How many machines there are, by site and type
    Stock(stock::Stock),
    /// Images
    #[command(subcommand)]
    Image(images::Image),
    /// Instances
    #[command(subcommand)]
    Instance(life::Instance),
    /// Jobs
    #[command(subcommand)]
    Job(jobs::Job),
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
    #[command(visible_alias = "completion")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write a manual page of each command into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Mqtt {
    /// Show messages live, verified where keys are given
    Watch(watch::Watch),
}

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
        Command::Man { dir } => {
            clap_mangen::generate_to(Cli::command(), dir)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Mqtt(Mqtt::Watch(watch)) => return watch::run(watch).await.map(|()| ExitCode::SUCCESS),
        Command::Login(login) => {
            return session::login(login, url).await.map(|()| ExitCode::SUCCESS);
        }
        Command::Logout => return session::logout().await.map(|()| ExitCode::SUCCESS),
        _ => {}
    }
    let kept = config::load(&config::path()?)?;
    let url = url
        .or(kept.url)
        .context("no control plane is known: run `slipway login URL`, or set SLIPWAY_URL")?;
    let client = Client::new(&url, token.or(kept.token))?;
    carry_out(&client, output, command).await
}

async fn carry_out(client: &Client, output: Format, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Me { what } => account::run_me(client, output, what).await,
        Command::Key(key) => account::run_key(client, output, key, chrono::Utc::now()).await,
        Command::SshKey(key) => account::run_ssh_key(client, output, key).await,
        Command::User(user) => access::run_user(client, output, user).await,
        Command::Role(role) => access::run_role(client, output, role).await,
        Command::Project(project) => access::run_project(client, output, project).await,
        Command::Apply(apply) => apply::run(client, output, apply).await,
        Command::Audit(audit) => audit::run(client, output, audit).await,
        Command::SigningKey(command) => signing_keys::run(client, output, command).await,
        Command::Search(what) => search::search(client, output, what).await,
        Command::Overview => search::overview(client, output).await,
        Command::Site(site) => sites::run(client, output, site).await,
        Command::Machine(machine) => machines::run(client, output, machine).await,
        Command::MachineType(what) => machine_types::run(client, output, what).await,
        Command::Stock(what) => stock::run(client, output, what).await,
        Command::Image(image) => images::run(client, output, image).await,
        Command::Instance(instance) => life::run(client, output, instance).await,
        Command::Job(job) => jobs::run(client, output, job).await,
        Command::Events(wanted) => events::run(client, output, wanted).await,
        Command::Webhook(webhook) => webhooks::run(client, output, webhook).await,
        Command::Alert(alert) => alerts::run(client, output, alert).await,
        Command::Login(_)
        | Command::Logout
        | Command::Mqtt(_)
        | Command::Completions { .. }
        | Command::Man { .. } => Ok(ExitCode::SUCCESS),
    }
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
    fn the_address_of_a_log_in_may_stand_in_either_place() {
        let cli = Cli::parse_from(["slipway", "login", "--url", "http://x", "--name", "ann"]);
        assert_eq!(cli.url.as_deref(), Some("http://x"));
        let cli = Cli::parse_from(["slipway", "login", "http://x", "--setup"]);
        assert_eq!(cli.url, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "login http://x --name ann --password hunter2",
            "instance stop web-1 --grace 3601",
            "user grant ann operator",
            "role set empty",
            "project quota set web",
            "project quota set web 3 --unlimited",
            "key create ci --expires-days 0",
            "machine rotate-bmc",
            "machine rotate-bmc m1 --site bj-1",
            "machine power m1",
            "machine power m1 cycle",
            "machine power m1 off --grace-s 3601",
        ] {
            let words = ["slipway"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }

    /// Commands in the operators' handbook: indented lines, and code within sentences that says one command.
    fn documented(text: &str) -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
        let lines = lines.map(|line| line.split(" #").next().unwrap_or_default().trim());
        let spans = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|span| !span.contains(['|', '[']));
        let all = lines.map(str::to_owned).chain(spans.map(str::to_owned));
        all.filter(|text| text.starts_with("slipway ")).collect()
    }

    /// The words of a line, as a shell would read it: enough of it for the handbook.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '"' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_command_of_the_handbook_is_one_that_is_understood() {
        let commands = documented(include_str!("../../docs/OPERATIONS.md"));
        assert!(commands.len() > 40, "only {} commands were found", commands.len());
        for command in commands {
            let line = command.split(['<', '>']).next().unwrap_or_default();
            if let Err(error) = Cli::try_parse_from(words(line)) {
                panic!("{command}\n{error}");
            }
        }
    }
}
