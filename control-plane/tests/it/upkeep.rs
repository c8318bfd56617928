//! Backup, restore and doctor, as an operator runs them: the real program, on both databases.

use std::{os::unix::fs::PermissionsExt as _, process::Output};

use chrono::Utc;
use reqwest::StatusCode;
use serde_json::json;
use slipway_control_plane::store::{StoreError, orders, sites, upkeep};
use slipway_protocol::{
    ids::{JobId, MachineId, SiteId},
    order::Hardware,
};

use crate::common::{
    Postgres, on_each_database,
    program::{Place, call, fill, set_up, start, status},
};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn comes_back(database: Option<String>, other: Option<String>) {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(&dir.path().join("a"), database);
    let mut running = start(&place).await;
    let key = set_up(&place, &mut running).await;
    fill(&place, &key).await;
    let (works, found) = place.doctor();
    assert!(works, "{found:?}");
    for check in [
        "data folder",
        "keys",
        "certificate",
        "database",
        "clock",
        "vault key",
        "sites",
        "undeliverable",
        "port of the API",
        "port of the broker",
        "webhooks",
    ] {
        assert_eq!(status(&found, check), "OK", "{found:?}");
    }
    // While it runs, with images and without.
    let (small, whole) = (dir.path().join("small"), dir.path().join("whole"));
    let made = place.run(&["backup", small.to_str().unwrap()]);
    assert!(made.status.success(), "{}", said(&made));
    assert!(said(&made).contains("every secret"), "{}", said(&made));
    let made = place.run(&["backup", "--images", whole.to_str().unwrap()]);
    assert!(made.status.success(), "{}", said(&made));
    assert_eq!(whole.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = place.run(&["backup", whole.to_str().unwrap()]);
    assert!(said(&again).contains("is there already"), "{}", said(&again));
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 3, "no dump is left lying about");
    let restore = whole.to_str().unwrap();
    let busy = place.run(&["restore", restore]);
    assert!(
        !busy.status.success() && said(&busy).contains("stop the control plane"),
        "{}",
        said(&busy)
    );
    drop(running);
    let there = place.run(&["restore", restore]);
    assert!(said(&there).contains("--force"), "{}", said(&there));
    // Elsewhere, where nothing is.
    let second = Place::new(&dir.path().join("b"), other);
    let done = second.run(&["restore", restore]);
    assert!(done.status.success(), "{}", said(&done));
    let _running = start(&second).await;
    let (status_of_me, me) = call(&second, &key, "/api/v1/me", None).await;
    assert_eq!(
        (status_of_me, &me["name"]),
        (StatusCode::OK, &json!("ann")),
        "keys are as they were"
    );
    let (_, site) = call(&second, &key, "/api/v1/sites/bj-1", None).await;
    assert!(
        site["revision"].as_i64().unwrap() > 1_700_000_000,
        "revisions go on above: {site}"
    );
    let (works, found) = second.doctor();
    assert!(works, "{found:?}");
    assert_eq!(status(&found, "vault key"), "OK");
    let chunks = |place: &Place| std::fs::read_dir(place.dir.join("chunks")).unwrap().count();
    assert_eq!(chunks(&second), chunks(&place));
    let (_, noted) = call(&second, &key, "/api/v1/audit?action=restore", None).await;
    assert_eq!(noted["items"].as_array().unwrap().len(), 1, "{noted}");
    // Over what is there: it is moved aside, and the vault key still fits.
    let small = place.run(&["restore", "--force", small.to_str().unwrap()]);
    assert!(small.status.success(), "{}", said(&small));
    let aside =
        |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("before-restore-");
    let aside = std::fs::read_dir(&place.dir)
        .unwrap()
        .filter_map(Result::ok)
        .find(aside)
        .unwrap();
    assert!(aside.path().join("vault.key").exists());
    assert!(place.doctor().0);
    // Another vault key.
    std::fs::write(place.dir.join("vault.key"), [9; 32]).unwrap();
    let (works, found) = place.doctor();
    assert!(!works && status(&found, "vault key") == "FAIL", "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_comes_back_from_its_backup_on_sqlite() {
    comes_back(None, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_comes_back_from_its_backup_on_postgresql() {
    let clusters = tokio::task::spawn_blocking(|| (Postgres::start(), Postgres::start()));
    let (one, two) = clusters.await.unwrap();
    comes_back(Some(one.url()), Some(two.url())).await;
    tokio::task::spawn_blocking(move || drop((one, two)))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_or_foreign_backup_and_a_missing_control_plane_are_told() {
    use slipway_control_plane::upkeep::archive::{self, FORMAT, Manifest, Source};
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(&dir.path().join("a"), None);
    let (works, found) = place.doctor();
    assert!(
        !works && status(&found, "data folder") == "FAIL" && status(&found, "database") == "FAIL",
        "{found:?}"
    );
    let nothing = place.run(&["backup", dir.path().join("x").to_str().unwrap()]);
    assert!(!nothing.status.success());
    let file = dir.path().join("db");
    std::fs::write(&file, "x").unwrap();
    let sources = [Source {
        name: "database".into(),
        path: file,
    }];
    for (name, schema, database, reason) in [
        ("newer", "20990101000000", "sqlite", "this build knows"),
        ("foreign", "0", "postgres", "the kind of database"),
    ] {
        let manifest = Manifest {
            format: FORMAT,
            made_at: Utc::now(),
            version: "9.9".into(),
            database: database.into(),
            schema: schema.into(),
            images: false,
            files: vec![archive::entry(&sources[0]).unwrap()],
        };
        let to = dir.path().join(name);
        archive::write(&to, &manifest, &sources).unwrap();
        let refused = place.run(&["restore", to.to_str().unwrap()]);
        assert!(
            !refused.status.success() && said(&refused).contains(reason),
            "{}",
            said(&refused)
        );
    }
    let held = std::net::TcpListener::bind(place.mqtt).unwrap();
    let (_, found) = place.doctor();
    assert_eq!(status(&found, "port of the broker"), "FAIL");
    drop(held);
    let text = String::from_utf8(place.run(&["doctor"]).stdout).unwrap();
    assert!(
        text.contains("FAIL keys: ") && text.contains("     -> "),
        "{text}"
    );
}

/// What was given out after the backup is never given out again.
#[tokio::test(flavor = "multi_thread")]
async fn revisions_never_go_back() {
    on_each_database(|store| async move {
        let site = SiteId::new("bj-1").unwrap();
        let order = |n: u8| {
            let machine = MachineId(uuid::Uuid::from_u128(n.into()));
            let job = JobId(uuid::Uuid::from_u128(1000));
            let hardware = Hardware {
                macs: vec![],
                firmware: slipway_protocol::inventory::FirmwareKind::Bios,
                bmc: None,
            };
            slipway_control_plane::workflow::release::compile(
                machine,
                job,
                Utc::now(),
                hardware,
                Default::default(),
            )
        };
        let told = store
            .transaction(move |db| {
                let settings = sites::SiteSettings {
                    dhcp_relays: vec![],
                    description: String::new(),
                    discover: false,
                    subnets: vec![],
                    limits: Default::default(),
                    offline: Default::default(),
                };
                sites::insert(db, &site, &settings, Utc::now())?;
                let first = orders::put(db, &site, &order(1))?;
                upkeep::raise_revisions(db, 5_000)?;
                let again = orders::put(db, &site, &order(1))?;
                let new = orders::put(db, &site, &order(2))?;
                upkeep::raise_revisions(db, 5_000)?;
                let twice = orders::put(db, &site, &order(3))?;
                let config = sites::get(db, "bj-1")?.unwrap().revision;
                Ok::<_, StoreError>((first, again, new, twice, config))
            })
            .await
            .unwrap();
        assert_eq!(told, (1, 5_002, 5_002, 5_004, 5_003));
    })
    .await;
}
