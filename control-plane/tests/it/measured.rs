//! Every metric that the dashboard and the alert rules name is one that a live control plane has, and Prometheus' own tool
//! takes the rules and sees each of them speak.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::common::program::{Place, call, fill, set_up, start};

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

/// The metrics of ours that an expression names.
fn named(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("slipway_"))
        .map(str::to_owned)
        .collect()
}

fn dashboard() -> BTreeSet<String> {
    let text = std::fs::read_to_string(deploy("grafana/slipway.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 20, "{}", panels.len());
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    targets
        .flat_map(|target| named(target["expr"].as_str().unwrap()))
        .collect()
}

fn rules() -> BTreeSet<String> {
    let text = std::fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
    let expressions = text.split("expr: |-").skip(1);
    expressions
        .flat_map(|rest| named(rest.split(" for:").next().unwrap()))
        .collect()
}

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(deploy("prometheus"))
        .output()
        .expect("promtool is installed (Debian package prometheus)");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_watched_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), None);
    let mut running = start(&place).await;
    let key = set_up(&place, &mut running).await;
    fill(&place, &key).await;
    // A joined site, an instance and its job.
    let (_, token) = call(&place, &key, "/api/v1/sites/bj-1/tokens", Some(json!({}))).await;
    assert!(token["token"].is_string(), "{token}");
    let wish = json!({ "name": "web-1", "site": "bj-1", "image": "i" });
    call(&place, &key, "/api/v1/instances", Some(wish)).await;
    let answer = reqwest::Client::new()
        .get(place.url("/metrics"))
        .bearer_auth(&key)
        .send()
        .await
        .unwrap();
    let text = answer.text().await.unwrap();
    let is_declared = |name: &String| {
        let base = name.strip_suffix("_bucket").unwrap_or(name);
        text.lines().any(|line| {
            line.strip_prefix("# TYPE ")
                .is_some_and(|rest| rest.split(' ').next() == Some(base))
        })
    };
    let watched: BTreeSet<String> = dashboard().into_iter().chain(rules()).collect();
    assert!(watched.len() >= 20, "{watched:?}");
    let missing: Vec<&String> = watched.iter().filter(|name| !is_declared(name)).collect();
    assert!(
        missing.is_empty(),
        "{missing:?} are watched and not measured:\n{text}"
    );
    for line in [
        "slipway_machines{state=\"available\"} 1",
        "slipway_jobs{state=\"queued\"} 1",
        "slipway_notifications_total{by=\"webhook\",result=\"dead\"} 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(
        text.contains("slipway_http_request_seconds_bucket{route=\"/api/v1/setup\",le=\"30\"}"),
        "{text}"
    );
    // As Prometheus itself reads it.
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut check.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let checked = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(
        !said.contains("error while linting") && !said.contains("parse"),
        "{said}"
    );
}

#[test]
fn each_rule_speaks_in_its_time() {
    assert!(promtool(&["check", "rules", "alerts.yml"]).contains("13 rules found"));
    promtool(&["check", "config", "--syntax-only", "scrape.yml"]);
    promtool(&["test", "rules", "alerts_test.yml"]);
    let tests = std::fs::read_to_string(deploy("prometheus/alerts_test.yml")).unwrap();
    let rules = std::fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
    for rule in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(
            tests.contains(&format!("alertname: {rule}")),
            "{rule} has no test"
        );
    }
}
