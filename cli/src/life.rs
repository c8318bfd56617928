//! `slipway instance`: an instance's life, from the wish for it until it is given back.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::{
    client::Client,
    jobs,
    output::{self, Format},
    terminal::{self, FromStdin},
};

/// Instances.
#[derive(Debug, Subcommand)]
pub(crate) enum Instance {
    /// Ask for an instance
    Create(Box<NewInstance>),
    /// List instances, oldest first
    List {
        /// In one project
        #[arg(long)]
        project: Option<String>,
        /// At one site
        #[arg(long)]
        site: Option<String>,
        /// In one state, as in running or failed
        #[arg(long)]
        state: Option<String>,
    },
    /// Show an instance
    Show { instance: String },
    /// Switch an instance on
    Start {
        instance: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Switch an instance off
    Stop {
        instance: String,
        #[command(flatten)]
        grace: Grace,
        #[command(flatten)]
        wait: Wait,
    },
    /// Switch an instance off and on
    Restart {
        instance: String,
        #[command(flatten)]
        grace: Grace,
        #[command(flatten)]
        wait: Wait,
    },
    /// Install an instance anew on its machine; what is not given stays as it was
    Reinstall(Box<Reinstall>),
    /// Boot an instance's machine into the LiveOS, to log in there as root by SSH; start or restart ends it
    Rescue {
        instance: String,
        /// File with a public SSH key, or the name of one of your own; may be repeated [default: the instance's keys]
        #[arg(long = "ssh-key", value_name = "FILE|NAME")]
        ssh_keys: Vec<PathBuf>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Give a user of an instance's system a new password; the machine restarts. One is made and shown unless it is read
    /// from standard input
    ResetPassword {
        instance: String,
        /// Whose [default: the user made at the install]
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        from_stdin: FromStdin,
        #[command(flatten)]
        wait: Wait,
    },
    /// Rename an instance; its host name follows when it is installed anew
    Rename { instance: String, name: String },
    /// Lock an instance: nothing is done with it until it is unlocked
    Lock { instance: String },
    /// Unlock an instance
    Unlock { instance: String },
    /// Give an instance back
    Delete {
        instance: String,
        #[command(flatten)]
        wait: Wait,
    },
}

/// Whether a command stays until the work is done.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Wait {
    /// Watch until it is done
    #[arg(long)]
    wait: bool,
}

/// How long a system may take to shut down.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Grace {
    /// Seconds its system is given to shut down, 0 to 3600; 0 cuts the power at once
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=3600))]
    grace: u32,
}

/// Which disk is written.
#[derive(Debug, Default, Args)]
pub(crate) struct Disk {
    /// The disk with this serial number
    #[arg(long)]
    disk_serial: Option<String>,
    /// The disk with this world-wide name
    #[arg(long)]
    disk_wwn: Option<String>,
    /// A disk of at least so many GB
    #[arg(long)]
    disk_min_gb: Option<u64>,
}

/// An instance to be made.
#[derive(Debug, Args)]
pub(crate) struct NewInstance {
    /// Host name
    name: String,
    /// Where
    #[arg(long)]
    site: String,
    /// Image by id or name
    #[arg(long)]
    image: String,
    /// The project it is in [default: default]
    #[arg(long)]
    project: Option<String>,
    /// Its rank among those that wait, -100 to 100
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i64,
    /// A machine by name; any free one otherwise
    #[arg(long)]
    machine: Option<String>,
    #[command(flatten)]
    disk: Disk,
    /// The user to make
    #[arg(long, default_value = "debian")]
    user: String,
    /// File with a public SSH key, or the name of one of your own (`slipway ssh-key list`); may be repeated
    #[arg(long = "ssh-key", value_name = "FILE|NAME")]
    ssh_keys: Vec<PathBuf>,
    /// File with cloud-init user-data
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    #[command(flatten)]
    wait: Wait,
}

/// What an instance is installed anew with.
#[derive(Debug, Args)]
pub(crate) struct Reinstall {
    instance: String,
    /// Image by id or name
    #[arg(long)]
    image: Option<String>,
    #[command(flatten)]
    disk: Disk,
    /// The user to make
    #[arg(long)]
    user: Option<String>,
    /// File with a public SSH key, or the name of one of your own; may be repeated; takes the place of all there were
    #[arg(long = "ssh-key", value_name = "FILE|NAME")]
    ssh_keys: Vec<PathBuf>,
    /// File with cloud-init user-data
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// Make all its other disks read as zeros first; they keep what they hold otherwise
    #[arg(long)]
    wipe_data_disks: bool,
    #[command(flatten)]
    wait: Wait,
}

const COLUMNS: [(&str, &str); 11] = [
    ("instance", "/name"),
    ("project", "/project"),
    ("site", "/site"),
    ("state", "/state"),
    ("locked", "/locked"),
    ("machine", "/machine/name"),
    ("address", "/machine/address"),
    ("image", "/image/name"),
    ("waiting", "/waiting"),
    ("during", "/failed_during"),
    ("reason", "/reason"),
];
const ACCEPTED: [(&str, &str); 4] = [
    ("instance", "/instance/name"),
    ("state", "/instance/state"),
    ("job", "/job/id"),
    ("waiting", "/job/waiting"),
];

/// Carries a command out.
pub(crate) async fn run(client: &Client, format: Format, instance: Instance) -> anyhow::Result<ExitCode> {
    let (accepted, wait) = match begin(client, instance).await? {
        Ok(begun) => begun,
        Err(other) => {
            output::print(format, &at_once(client, other).await?, &COLUMNS);
            return Ok(ExitCode::SUCCESS);
        }
    };
    // Nothing is left to be watched of an instance that never had a machine: it is gone at once.
    let gone = accepted["instance"]["state"] == "released";
    let watched = wait.wait && !gone;
    // A password is shown once, so also by who waits.
    if !watched || accepted.get("password").is_some() {
        print_accepted(format, &accepted);
    }
    if !watched {
        return Ok(ExitCode::SUCCESS);
    }
    let job = accepted["job"]["id"].as_str();
    jobs::follow(client, job.context("the control plane named no job")?).await
}

/// Asks for work on a machine; a command that needs none is given back.
async fn begin(client: &Client, instance: Instance) -> anyhow::Result<Result<(Value, Wait), Instance>> {
    let of = |instance: &str, what: &str| format!("/api/v1/instances/{instance}{what}");
    let empty = || json!({});
    Ok(Ok(match instance {
        Instance::Create(new) => {
            let wait = new.wait;
            (client.post("/api/v1/instances", new_instance(*new)?).await?, wait)
        }
        Instance::Start { instance, wait } => (client.post(&of(&instance, "/start"), empty()).await?, wait),
        Instance::Stop {
            instance,
            grace: Grace { grace },
            wait,
        } => (
            client
                .post(&of(&instance, &format!("/stop?grace_s={grace}")), empty())
                .await?,
            wait,
        ),
        Instance::Restart {
            instance,
            grace: Grace { grace },
            wait,
        } => (
            client
                .post(&of(&instance, &format!("/restart?grace_s={grace}")), empty())
                .await?,
            wait,
        ),
        Instance::Reinstall(anew) => {
            let (path, wait) = (of(&anew.instance, "/reinstall"), anew.wait);
            (client.post(&path, reinstall(*anew)?).await?, wait)
        }
        Instance::Rescue {
            instance,
            ssh_keys: keys,
            wait,
        } => {
            let body = json!({ "ssh_keys": ssh_keys(&keys)? });
            (client.post(&of(&instance, "/rescue"), body).await?, wait)
        }
        Instance::ResetPassword {
            instance,
            user,
            from_stdin,
            wait,
        } => {
            let given = from_stdin.password_stdin;
            let password = given.then(|| terminal::password("", from_stdin)).transpose()?;
            let body = json!({ "user": user, "password": password });
            (client.post(&of(&instance, "/reset-password"), body).await?, wait)
        }
        Instance::Delete { instance, wait } => (client.delete(&of(&instance, "")).await?, wait),
        other => return Ok(Err(other)),
    }))
}

fn print_accepted(format: Format, accepted: &Value) {
    let password = accepted.get("password").map(|_| ("password", "/password"));
    let columns: Vec<_> = ACCEPTED.into_iter().chain(password).collect();
    output::print(format, accepted, &columns);
}

/// What needs no work on a machine.
async fn at_once(client: &Client, instance: Instance) -> anyhow::Result<Value> {
    let (instance, change) = match instance {
        Instance::List { project, site, state } => {
            let filters = [("project", project), ("site", site), ("state", state)];
            return client.all("/api/v1/instances", &filters).await;
        }
        Instance::Rename { instance, name } => (instance, json!({ "name": name })),
        Instance::Lock { instance } => (instance, json!({ "locked": true })),
        Instance::Unlock { instance } => (instance, json!({ "locked": false })),
        Instance::Show { instance } => return client.get(&format!("/api/v1/instances/{instance}")).await,
        _ => anyhow::bail!("this command needs a job"),
    };
    client
        .patch(&format!("/api/v1/instances/{instance}"), change)
        .await
}

fn read(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// What a file holds, or the name of a key that the control plane knows.
fn ssh_key(file_or_name: &Path) -> anyhow::Result<String> {
    let name = file_or_name.to_str().filter(|text| {
        let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        text.chars().all(usable) && !file_or_name.exists()
    });
    name.map_or_else(|| read(file_or_name), |name| Ok(name.to_owned()))
}

fn ssh_keys(given: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    given.iter().map(|key| ssh_key(key)).collect()
}

fn disk(disk: Disk) -> Map<String, Value> {
    let bytes = disk.disk_min_gb.map(|gb| gb.saturating_mul(1_000_000_000));
    let rules = [
        ("serial", disk.disk_serial.map(Value::from)),
        ("wwn", disk.disk_wwn.map(Value::from)),
        ("min_bytes", bytes.map(Value::from)),
    ];
    let given = rules
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    given.collect()
}

fn new_instance(new: NewInstance) -> anyhow::Result<Value> {
    let user_data = new.user_data.as_deref().map(read).transpose()?;
    let mut body = json!({
        "name": new.name, "site": new.site, "image": new.image, "machine": new.machine, "disk": disk(new.disk),
        "user": new.user, "ssh_keys": ssh_keys(&new.ssh_keys)?, "user_data": user_data, "priority": new.priority,
    });
    if let Some(project) = new.project {
        body["project"] = project.into();
    }
    Ok(body)
}

/// What is not given is not said, and so stays.
fn reinstall(anew: Reinstall) -> anyhow::Result<Value> {
    let mut body = json!({});
    if let Some(image) = anew.image {
        body["image"] = image.into();
    }
    let disk = disk(anew.disk);
    if !disk.is_empty() {
        body["disk"] = disk.into();
    }
    if let Some(user) = anew.user {
        body["user"] = user.into();
    }
    if !anew.ssh_keys.is_empty() {
        body["ssh_keys"] = ssh_keys(&anew.ssh_keys)?.into();
    }
    if let Some(file) = anew.user_data {
        body["user_data"] = read(&file)?.into();
    }
    if anew.wipe_data_disks {
        body["wipe_data_disks"] = true.into();
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use axum::{
        extract::State,
        http::{Method, Uri},
    };
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        instance: Instance,
    }

    fn parse(words: &str) -> Instance {
        Line::parse_from(["slipway"].into_iter().chain(words.split(' '))).instance
    }

    #[test]
    fn a_reinstall_says_what_is_given_and_no_more() {
        let Instance::Reinstall(plain) = parse("reinstall web-1") else {
            panic!("not a reinstall")
        };
        assert_eq!(reinstall(*plain).unwrap(), json!({}));
        let Instance::Reinstall(anew) =
            parse("reinstall web-1 --image d13 --disk-serial S1 --ssh-key laptop")
        else {
            panic!("not a reinstall")
        };
        let expected = json!({ "image": "d13", "disk": { "serial": "S1" }, "ssh_keys": ["laptop"] });
        assert_eq!(reinstall(*anew).unwrap(), expected);
    }

    #[test]
    fn a_new_instance_has_project_and_priority() {
        let Instance::Create(new) =
            parse("create web-1 --site bj-1 --image debian --project web --priority -5")
        else {
            panic!("not a create")
        };
        let body = new_instance(*new).unwrap();
        assert_eq!((&body["project"], &body["priority"]), (&json!("web"), &json!(-5)));
    }

    #[test]
    fn an_ssh_key_is_a_file_or_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id.pub");
        std::fs::write(&file, "ssh-ed25519 AAAA\n").unwrap();
        assert_eq!(ssh_key(&file).unwrap(), "ssh-ed25519 AAAA");
        assert_eq!(ssh_key(Path::new("laptop")).unwrap(), "laptop");
        assert!(ssh_key(&dir.path().join("none.pub")).is_err());
    }

    type Asked = Arc<Mutex<Vec<String>>>;

    /// Accepts all work and shows a job that has ended; the job named after a failure has failed.
    async fn answer(
        State(asked): State<Asked>,
        (method, uri): (Method, Uri),
        body: String,
    ) -> axum::Json<Value> {
        asked.lock().unwrap().push(format!("{method} {uri} {body}"));
        let job = if uri.path().contains("broken") {
            "failed"
        } else {
            "done"
        };
        axum::Json(json!({
            "instance": { "name": "web-1", "state": "stopping" }, "job": { "id": job },
            "revision": 1, "state": if uri.path().ends_with("/failed") { "failed" } else { "done" },
        }))
    }

    const CASES: [(&str, &str); 12] = [
        ("start web-1", "POST /api/v1/instances/web-1/start {}"),
        (
            "stop web-1 --grace 5",
            "POST /api/v1/instances/web-1/stop?grace_s=5 {}",
        ),
        (
            "restart web-1",
            "POST /api/v1/instances/web-1/restart?grace_s=60 {}",
        ),
        ("reinstall web-1", "POST /api/v1/instances/web-1/reinstall {}"),
        (
            "rename web-1 shop",
            r#"PATCH /api/v1/instances/web-1 {"name":"shop"}"#,
        ),
        (
            "rescue web-1 --ssh-key laptop",
            r#"POST /api/v1/instances/web-1/rescue {"ssh_keys":["laptop"]}"#,
        ),
        (
            "reset-password web-1 --user ops",
            r#"POST /api/v1/instances/web-1/reset-password {"password":null,"user":"ops"}"#,
        ),
        (
            "reinstall web-1 --wipe-data-disks",
            r#"POST /api/v1/instances/web-1/reinstall {"wipe_data_disks":true}"#,
        ),
        ("lock web-1", r#"PATCH /api/v1/instances/web-1 {"locked":true}"#),
        (
            "unlock web-1",
            r#"PATCH /api/v1/instances/web-1 {"locked":false}"#,
        ),
        ("delete web-1", "DELETE /api/v1/instances/web-1 "),
        (
            "list --project web --state failed",
            "GET /api/v1/instances?limit=1000&project=web&state=failed ",
        ),
    ];

    #[tokio::test]
    async fn each_verb_is_one_call_and_waiting_ends_with_the_job() {
        slipway_bus::tls::install_provider();
        let asked = Asked::default();
        let router = axum::Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&asked));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::new(&url, None).unwrap();
        for (words, expected) in CASES {
            run(&client, Format::Table, parse(words)).await.unwrap();
            assert_eq!(asked.lock().unwrap().split_off(0), [expected], "{words}");
        }
        let done = run(&client, Format::Table, parse("stop web-1 --wait")).await;
        let failed = run(&client, Format::Table, parse("start broken --wait")).await;
        let codes = format!("{:?} {:?}", done.unwrap(), failed.unwrap());
        assert_eq!(codes, format!("{:?} {:?}", ExitCode::SUCCESS, ExitCode::FAILURE));
        let followed = asked.lock().unwrap().clone();
        assert_eq!(followed.len(), 4, "{followed:?}");
        assert!(
            followed[3].starts_with("GET /api/v1/jobs/failed?"),
            "{followed:?}"
        );
    }
}
