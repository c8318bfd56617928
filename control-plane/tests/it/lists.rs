//! What the scheduler and the gateway list: page by page, by revision, and only what is there. On SQLite and on PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::on_each_database;
use chrono::{DateTime, Utc};
use slipway_control_plane::{
    store::{
        images,
        instances::{self, Instance, Wish},
        orders,
        sites::{self, SiteSettings},
    },
    workflow::{release, state::InstanceState},
};
use slipway_protocol::{
    ids::{ImageId, InstanceId, JobId, MachineId, SiteId},
    image::Manifest,
    inventory::{DiskRule, FirmwareKind},
    order::Hardware,
};
use uuid::Uuid;

fn site(name: &str) -> SiteId {
    SiteId::new(name).unwrap()
}

fn settings() -> SiteSettings {
    SiteSettings {
        dhcp_relays: vec![],
        description: String::new(),
        discover: false,
        subnets: vec![],
        limits: Default::default(),
        offline: Default::default(),
    }
}

fn instance(n: u128, at_s: i64) -> Instance {
    Instance {
        id: InstanceId(Uuid::from_u128(n)),
        name: format!("i{n}"),
        site: site("bj-1"),
        machine: None,
        image: ImageId::of(b"i"),
        state: InstanceState::Requested,
        job: JobId(Uuid::from_u128(n)),
        wish: Wish {
            machine: None,
            disk: DiskRule::default(),
            user: "u".into(),
            ssh_keys: vec![],
            user_data: None,
            ..Wish::default()
        },
        created_at: DateTime::from_timestamp(at_s, 0).unwrap(),
        project: "default".into(),
        locked: false,
    }
}

#[tokio::test]
async fn waiting_instances_are_read_page_by_page_each_once_oldest_first() {
    on_each_database(|store| async move {
        let pages = store
            .transaction(|db| {
                sites::insert(db, &site("bj-1"), &settings(), Utc::now())?;
                // Three of the same moment stand astride the end of a page.
                for (n, at_s) in [(5, 10), (4, 20), (3, 20), (2, 20), (1, 30)] {
                    instances::insert(db, &instance(n, at_s))?;
                }
                let mut pages = Vec::new();
                let mut after = None;
                loop {
                    let page = instances::in_state(db, InstanceState::Requested, after, 2)?;
                    let Some(last) = page.last() else {
                        return Ok::<_, slipway_control_plane::store::StoreError>(pages);
                    };
                    after = Some((last.created_at, last.id));
                    pages.push(page.iter().map(|i| i.id.0.as_u128()).collect::<Vec<_>>());
                }
            })
            .await
            .unwrap();
        assert_eq!(pages, [vec![5, 2], vec![3, 4], vec![1]]);
    })
    .await;
}

#[tokio::test]
async fn heads_are_of_one_site_and_follow_the_orders() {
    on_each_database(|store| async move {
        let (one, other) = (MachineId(Uuid::from_u128(1)), MachineId(Uuid::from_u128(2)));
        let order = |machine: MachineId| {
            let hardware = Hardware {
                macs: vec![],
                firmware: FirmwareKind::Bios,
                bmc: None,
            };
            release::compile(machine, JobId(Uuid::nil()), Utc::now(), hardware, BTreeMap::new())
        };
        let heads = store
            .transaction(move |db| {
                for name in ["bj-1", "sh-1"] {
                    sites::insert(db, &site(name), &settings(), Utc::now())?;
                }
                orders::put(db, &site("bj-1"), &order(one))?;
                orders::put(db, &site("sh-1"), &order(other))?;
                orders::put(db, &site("bj-1"), &order(one))?;
                orders::heads(db, &site("bj-1"))
            })
            .await
            .unwrap();
        assert_eq!(heads, [(one, 2)]);
    })
    .await;
}

#[tokio::test]
async fn of_the_images_asked_for_those_that_are_there() {
    on_each_database(|store| async move {
        let manifest = Manifest {
            size_bytes: 1,
            chunk_bytes: 1,
            chunks: vec![],
        };
        let there = manifest.id();
        let image = images::Image {
            id: there,
            name: "i".into(),
            manifest,
            edition: images::Edition::default(),
            created_at: Utc::now(),
        };
        let found = store
            .transaction(move |db| {
                images::insert(db, &image)?;
                let none = images::existing(db, &BTreeSet::new())?;
                assert_eq!(none, []);
                images::existing(db, &BTreeSet::from([there, ImageId::of(b"gone")]))
            })
            .await
            .unwrap();
        assert_eq!(found, [there]);
    })
    .await;
}
