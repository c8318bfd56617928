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
    install_plan,
    labels::{self, Pair},
    ordering::Ordering,
    output::{self, Format},
    terminal::{self, FromStdin},
    work::{self, Work},
};

/// Instances.
#[derive(Debug, Subcommand)]
pub(crate) enum Instance {
    /// Ask for instances
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
        #[command(flatten)]
        ordering: Ordering,
    },
    /// Show an instance
    Show { instance: String },
    /// Switch instances on
    Start {
        #[arg(required = true, value_name = "INSTANCE")]
        instances: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Switch instances off
    Stop {
        #[arg(required = true, value_name = "INSTANCE")]
        instances: Vec<String>,
        #[command(flatten)]
        grace: Grace,
        #[command(flatten)]
        wait: Wait,
    },
    /// Switch instances off and on
    Restart {
        #[arg(required = true, value_name = "INSTANCE")]
        instances: Vec<String>,
        #[command(flatten)]
        grace: Grace,
        #[command(flatten)]
        wait: Wait,
    },
    /// Install instances anew on their machines; what is not given stays as it was
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
    /// Give instances back
    Delete {
        #[arg(required = true, value_name = "INSTANCE")]
        instances: Vec<String>,
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
    /// Host name; with --count, `{n}` in it stands for a number, and `-{n}` is put to a name without; several make several
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// So many, 1 to 1000: all of them or none
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: Option<u32>,
    /// The number of the first one [default: 1]
    #[arg(long, requires = "count")]
    first: Option<u32>,
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
    /// Only a machine of this type
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "machine")]
    machine_type: Option<String>,
    /// Only a machine with this label, as NAME=VALUE; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = labels::pair, conflicts_with = "machine")]
    labels: Vec<Pair>,
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
    /// Whether it is looked at as cloud-init would: `off` if it is for something else
    #[arg(long, value_parser = ["on", "off"], requires = "user_data")]
    user_data_check: Option<String>,
    /// Say what would be done, and do nothing: machine, disk, what was written to it last, steps
    #[arg(long, conflicts_with_all = ["count", "wait"])]
    plan: bool,
    #[command(flatten)]
    wait: Wait,
}

/// What an instance is installed anew with.
#[derive(Debug, Args)]
pub(crate) struct Reinstall {
    #[arg(required = true, value_name = "INSTANCE")]
    instances: Vec<String>,
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
    /// Whether it is looked at as cloud-init would: `off` if it is for something else
    #[arg(long, value_parser = ["on", "off"], requires = "user_data")]
    user_data_check: Option<String>,
    /// Make all other disks read as zeros first; they keep what they hold otherwise
    #[arg(long)]
    wipe_data_disks: bool,
    /// Say what would be done, and do nothing: disk, what was written to it last, steps
    #[arg(long, conflicts_with = "wait")]
    plan: bool,
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
/// Carries a command out.
pub(crate) async fn run(client: &Client, format: Format, instance: Instance) -> anyhow::Result<ExitCode> {
    match instance {
        Instance::Create(new) => create(client, format, *new).await,
        Instance::Start { instances, wait } => {
            work::begin(client, format, task("start", instances, None, wait)).await
        }
        Instance::Stop {
            instances,
            grace,
            wait,
        } => work::begin(client, format, task("stop", instances, Some(grace), wait)).await,
        Instance::Restart {
            instances,
            grace,
            wait,
        } => work::begin(client, format, task("restart", instances, Some(grace), wait)).await,
        Instance::Reinstall(anew) => {
            let task = task("reinstall", anew.instances.clone(), None, anew.wait);
            let plan = anew.plan;
            let body = reinstall(*anew)?;
            if plan {
                return install_plan::reinstall(client, format, &task.instances, &body).await;
            }
            let anew = Some(body);
            work::begin(client, format, Work { anew, ..task }).await
        }
        Instance::Delete { instances, wait } => {
            work::begin(client, format, task("release", instances, None, wait)).await
        }
        Instance::Rescue {
            instance,
            ssh_keys: keys,
            wait,
        } => {
            let body = json!({ "ssh_keys": ssh_keys(&keys)? });
            let path = format!("/api/v1/instances/{instance}/rescue");
            work::accepted_one(client, format, &client.post(&path, body).await?, wait.wait).await
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
            let path = format!("/api/v1/instances/{instance}/reset-password");
            work::accepted_one(client, format, &client.post(&path, body).await?, wait.wait).await
        }
        other => {
            output::print(format, &at_once(client, other).await?, &COLUMNS);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn task(verb: &'static str, instances: Vec<String>, grace: Option<Grace>, wait: Wait) -> Work {
    Work {
        instances,
        verb,
        grace_s: grace.map(|grace| grace.grace),
        anew: None,
        wait: wait.wait,
    }
}

async fn create(client: &Client, format: Format, new: NewInstance) -> anyhow::Result<ExitCode> {
    let (wait, plan) = (new.wait.wait, new.plan);
    let body = new_instances(new)?;
    if plan {
        anyhow::ensure!(body["instance"].is_null(), "--plan goes with one name");
        return install_plan::create(client, format, body).await;
    }
    if body["instance"].is_null() {
        let accepted = client.post("/api/v1/instances", body).await?;
        return work::accepted_one(client, format, &accepted, wait).await;
    }
    let answer = client.post("/api/v1/instances/batch", body).await?;
    work::accepted_many(client, format, &answer, wait).await
}

/// One instance, or what makes several.
fn new_instances(new: NewInstance) -> anyhow::Result<Value> {
    let (names, count, first) = (new.names.clone(), new.count, new.first);
    let mut body = new_instance(new)?;
    match (&names[..], count) {
        ([name], None) => {
            body["name"] = name.as_str().into();
            Ok(body)
        }
        ([name], Some(count)) => {
            let pattern = if name.contains("{n}") {
                name.clone()
            } else {
                format!("{name}-{{n}}")
            };
            body["name"] = pattern.into();
            Ok(json!({ "instance": body, "count": count, "first": first }))
        }
        (names, None) => Ok(json!({ "instance": body, "names": names })),
        _ => anyhow::bail!("--count goes with one name"),
    }
}

/// What needs no work on a machine.
async fn at_once(client: &Client, instance: Instance) -> anyhow::Result<Value> {
    let (instance, change) = match instance {
        Instance::List {
            project,
            site,
            state,
            ordering,
        } => {
            let [q, sort] = ordering.asked();
            let filters = [("project", project), ("site", site), ("state", state), q, sort];
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
        "site": new.site, "image": new.image, "machine": new.machine, "disk": disk(new.disk),
        "machine_type": new.machine_type, "labels": labels::object(new.labels),
        "user": new.user, "ssh_keys": ssh_keys(&new.ssh_keys)?, "user_data": user_data, "priority": new.priority,
    });
    if let Some(project) = new.project {
        body["project"] = project.into();
    }
    // An older control plane looks at nothing, and knows no word for it.
    if let Some(check) = new.user_data_check {
        body["user_data_check"] = check.into();
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
    if let Some(check) = anew.user_data_check {
        body["user_data_check"] = check.into();
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
    fn several_are_made_by_a_number_or_by_their_names() {
        let body = |words: &str| {
            let Instance::Create(new) = parse(words) else {
                panic!("not a create")
            };
            new_instances(*new)
        };
        let one = body("create web --site bj-1 --image d --type big --label rack=a1").unwrap();
        assert_eq!(
            (&one["name"], &one["machine_type"], &one["labels"]),
            (&json!("web"), &json!("big"), &json!({ "rack": "a1" }))
        );
        let five = body("create web --count 5 --first 3 --site bj-1 --image d").unwrap();
        assert_eq!(
            (&five["instance"]["name"], &five["count"], &five["first"]),
            (&json!("web-{n}"), &json!(5), &json!(3))
        );
        let pattern = body("create w{n}x --count 5 --site bj-1 --image d").unwrap();
        assert_eq!(pattern["instance"]["name"], "w{n}x");
        let two = body("create a b --site bj-1 --image d").unwrap();
        assert_eq!(
            (&two["names"], &two["instance"]["name"]),
            (&json!(["a", "b"]), &Value::Null)
        );
        assert!(body("create a b --count 2 --site bj-1 --image d").is_err());
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

    #[tokio::test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
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
        let cases = [
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
            ("lock web-1", r#"PATCH /api/v1/instances/web-1 {"locked":true}"#),
            (
                "unlock web-1",
                r#"PATCH /api/v1/instances/web-1 {"locked":false}"#,
            ),
            ("delete web-1", "DELETE /api/v1/instances/web-1 "),
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
            (
                "reinstall web-1 --image d13 --plan",
                r#"POST /api/v1/instances/web-1/reinstall/plan {"image":"d13"}"#,
            ),
            (
                "stop web-1 web-2 --grace 5",
                r#"POST /api/v1/instances/batch/stop {"grace_s":5,"instances":["web-1","web-2"]}"#,
            ),
            (
                "delete web-1 web-2",
                r#"POST /api/v1/instances/batch/release {"instances":["web-1","web-2"]}"#,
            ),
            (
                "reinstall a b --image d13",
                r#"POST /api/v1/instances/batch/reinstall {"instances":["a","b"],"reinstall":{"image":"d13"}}"#,
            ),
            (
                "list --project web --state failed",
                "GET /api/v1/instances?limit=1000&project=web&state=failed ",
            ),
            (
                "list --q shop --sort -name",
                "GET /api/v1/instances?limit=1000&q=shop&sort=-name ",
            ),
        ];
        for (words, expected) in cases {
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
