//! Who may do what: every route, by every lack; what tenants see of one another; sessions, keys, and the audit log.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use crate::common::{
    Postgres,
    server::{PASSWORD, Server, server, server_as},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::{
    access::{
        Permission,
        routes::{self, Needs, ROUTES},
    },
    config::Given,
};

impl Server {
    /// Makes a user with grants; gives back their key.
    pub(crate) async fn user(&self, name: &str, grants: &[(&str, &str)]) -> String {
        let body = json!({ "name": name, "password": format!("{name} has a long password") });
        let (status, answer) = self.post("/api/v1/users", body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        for (role, scope) in grants {
            let body = json!({ "role": role, "scope": scope });
            let (status, answer) = self.post(&format!("/api/v1/users/{name}/grants"), body).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
        }
        let (cookie, csrf) = self
            .log_in(name, &format!("{name} has a long password"))
            .await
            .unwrap();
        let key = self.http.post(format!("{}/api/v1/me/keys", self.url));
        let key = key
            .header("Cookie", cookie)
            .header("X-CSRF-Token", csrf)
            .json(&json!({ "name": "k" }));
        let key: Value = key.send().await.unwrap().json().await.unwrap();
        self.changes.fetch_add(1, Ordering::Relaxed);
        key["key"].as_str().unwrap().to_owned()
    }

    /// Logs in; gives back the cookie and the second half.
    async fn log_in(&self, name: &str, password: &str) -> Result<(String, String), StatusCode> {
        let login = self.http.post(format!("{}/api/v1/login", self.url));
        let answer = login
            .json(&json!({ "name": name, "password": password }))
            .send()
            .await
            .unwrap();
        if answer.status() != StatusCode::TOO_MANY_REQUESTS {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        if !answer.status().is_success() {
            return Err(answer.status());
        }
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
            "{cookie}"
        );
        let csrf = answer.json::<Value>().await.unwrap()["csrf"]
            .as_str()
            .unwrap()
            .to_owned();
        Ok((cookie.split(';').next().unwrap().to_owned(), csrf))
    }

    async fn as_key(&mut self, key: &str, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let own = std::mem::replace(&mut self.token, key.to_owned());
        let answer = self.call(method, path, Some(&body)).await;
        self.token = own;
        answer
    }

    async fn audit(&self) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/audit?limit=500&cursor={cursor}");
            let (_, page) = self.call(Method::GET, &path, None).await;
            all.extend(page["items"].as_array().unwrap().clone());
            match page["next"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return all,
            }
        }
    }
}

/// Every operation of the API's document.
async fn operations(server: &Server) -> Vec<(Method, String)> {
    let (status, document) = server.call(Method::GET, "/api/openapi.json", None).await;
    assert_eq!(
        (status, document["openapi"].as_str()),
        (StatusCode::OK, Some("3.1.0"))
    );
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods
            .as_object()
            .unwrap()
            .keys()
            .filter(|m| m.as_str() != "parameters")
        {
            found.push((method.to_uppercase().parse().unwrap(), path.clone()));
        }
    }
    found
}

fn filled(path: &str) -> String {
    let part = |part: &str| {
        if part.starts_with('{') {
            "x".to_owned()
        } else {
            part.to_owned()
        }
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_who_lacks_what_it_needs_on_sqlite() {
    walk(server().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_who_lacks_what_it_needs_on_postgresql() {
    let cluster = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    walk(
        server_as(Given {
            database_url: Some(cluster.url()),
            ..Given::default()
        })
        .await,
    )
    .await;
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn walk(mut server: Server) {
    let before = server.audit().await.len();
    server.changes.store(0, Ordering::Relaxed);
    let documented = operations(&server).await;
    let in_table: BTreeSet<(String, String)> = ROUTES
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    let in_document: BTreeSet<(String, String)> = documented
        .iter()
        .map(|(method, path)| (method.to_string(), path.clone()))
        .collect();
    let undocumented = ["/docs", "/docs/", "/docs/{*rest}", "/api/openapi.json"];
    let extra: Vec<_> = in_table
        .difference(&in_document)
        .filter(|(_, path)| !undocumented.contains(&path.as_str()))
        .collect();
    assert!(extra.is_empty(), "in the table but not in the API: {extra:?}");
    let nobody = server.user("nobody", &[]).await;
    server
        .call(
            Method::PUT,
            "/api/v1/roles/only",
            Some(&json!({ "permissions": [] })),
        )
        .await;
    let somebody = server.user("somebody", &[("only", "global")]).await;
    let local = server.user("local", &[("admin", "project:default")]).await;
    for (method, path) in &documented {
        let needs =
            routes::needs(method, path).unwrap_or_else(|| panic!("{method} {path} is not in the table"));
        let call = filled(path);
        for wrong in ["", "slipway-api-wrong"] {
            let (status, _) = server.as_key(wrong, method.clone(), &call, json!({})).await;
            if needs == Needs::Nothing {
                assert!(!status.is_server_error(), "{method} {path}: {status}");
            } else {
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
            }
        }
        let (status, _) = server.as_key(&local, method.clone(), &call, json!({})).await;
        assert_eq!(
            status == StatusCode::FORBIDDEN,
            matches!(needs, Needs::Global(_)),
            "an administrator of one project: {method} {path}"
        );
        let (status, _) = server.as_key(&nobody, method.clone(), &call, json!({})).await;
        match needs {
            Needs::Permission(permission) | Needs::Global(permission) => {
                assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
                only(&mut server, (method, &call), (&somebody, permission)).await;
            }
            Needs::Login => assert!(status != StatusCode::FORBIDDEN, "{method} {path}"),
            Needs::Nothing => {}
        }
    }
    assert!(documented.len() >= 60, "{} routes", documented.len());
    for path in ["/docs/", "/api/openapi.json"] {
        let (status, _) = server.as_key("", Method::GET, path, json!({})).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
    }
    let noted = server.audit().await.len() - before;
    assert_eq!(
        noted,
        server.changes.load(Ordering::Relaxed),
        "each changing call stands in the audit log once"
    );
}

/// Refused with every other permission, let through with this one alone.
async fn only(server: &mut Server, (method, path): (&Method, &str), (key, permission): (&str, Permission)) {
    let others: Vec<&Permission> = Permission::ALL.iter().filter(|p| **p != permission).collect();
    let put = json!({ "permissions": others });
    assert_eq!(
        server.call(Method::PUT, "/api/v1/roles/only", Some(&put)).await.0,
        StatusCode::OK
    );
    let (status, answer) = server.as_key(key, method.clone(), path, json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
    assert!(
        answer["detail"].as_str().unwrap().contains(permission.word()),
        "{answer}"
    );
    let put = json!({ "permissions": [permission] });
    server.call(Method::PUT, "/api/v1/roles/only", Some(&put)).await;
    let (status, answer) = server.as_key(key, method.clone(), path, json!({})).await;
    let denied = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
    assert!(
        !denied && !status.is_server_error(),
        "{method} {path} with {permission}: {status} {answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn tenants_see_what_is_theirs_and_operators_their_sites() {
    let mut server = server().await;
    server.make_site("bj-1").await;
    server.upload("i", b"image".to_vec()).await;
    for project in ["web", "db"] {
        let (status, answer) = server.post("/api/v1/projects", json!({ "id": project })).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
    let wendy = server.user("wendy", &[("owner", "project:web")]).await;
    let dan = server.user("dan", &[("member", "project:db")]).await;
    let olga = server.user("olga", &[("operator", "site:bj-1")]).await;
    let other = server
        .user("other", &[("operator", "site:bj-1"), ("viewer", "project:web")])
        .await;
    let ask =
        |name: &str, project: &str| json!({ "name": name, "project": project, "site": "bj-1", "image": "i" });
    let post = |path: &str| (Method::POST, path.to_owned());
    let (create, path) = post("/api/v1/instances");
    let (status, made) = server
        .as_key(&wendy, create.clone(), &path, ask("w1", "web"))
        .await;
    assert_eq!(status, StatusCode::ACCEPTED, "{made}");
    let (status, _) = server.as_key(&dan, create.clone(), &path, ask("d1", "web")).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "not in another's project");
    let (status, _) = server.as_key(&dan, create.clone(), &path, ask("w1", "db")).await;
    assert_eq!(
        status,
        StatusCode::ACCEPTED,
        "a name is taken in its own project only"
    );
    let job = format!("/api/v1/jobs/{}", made["job"]["id"].as_str().unwrap());
    let theirs = made["instance"]["id"].as_str().unwrap();
    for path in [format!("/api/v1/instances/{theirs}"), job.clone()] {
        let (status, _) = server.as_key(&dan, Method::GET, &path, json!({})).await;
        assert_eq!(
            status,
            StatusCode::NOT_FOUND,
            "who may not know is told that there is none: {path}"
        );
        for key in [&wendy, &olga, &other] {
            assert_eq!(
                server.as_key(key, Method::GET, &path, json!({})).await.0,
                StatusCode::OK,
                "{path}"
            );
        }
    }
    let (status, _) = server
        .as_key(&dan, Method::POST, &format!("{job}/cancel"), json!({}))
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let count = async |server: &mut Server, key: &str, path: &str| {
        let (status, list) = server.as_key(key, Method::GET, path, json!({})).await;
        assert_eq!(status, StatusCode::OK, "{path}: {list}");
        list["items"].as_array().unwrap().len()
    };
    for (key, instances) in [(&wendy, 1), (&dan, 1), (&olga, 2)] {
        assert_eq!(count(&mut server, key, "/api/v1/instances").await, instances);
        assert_eq!(count(&mut server, key, "/api/v1/jobs").await, instances);
    }
    assert_eq!(
        count(&mut server, &wendy, "/api/v1/sites").await,
        1,
        "to choose where"
    );
    assert_eq!(count(&mut server, &wendy, "/api/v1/projects").await, 1);
    assert_eq!(
        server.post("/api/v1/sites", json!({ "id": "bj-2" })).await.0,
        StatusCode::CREATED
    );
    assert_eq!(count(&mut server, &olga, "/api/v1/sites").await, 1, "her own");
    let machine = |site: &str, mac: &str| json!({ "name": format!("m-{site}"), "site": site, "macs": [mac], "firmware": "bios", "address": Value::Null });
    let (status, _) = server
        .as_key(
            &olga,
            Method::POST,
            "/api/v1/machines",
            machine("bj-1", "52:54:00:00:00:01"),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, _) = server
        .as_key(
            &olga,
            Method::POST,
            "/api/v1/machines",
            machine("bj-2", "52:54:00:00:00:02"),
        )
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN, "not at another site");
    let (status, _) = server
        .as_key(&wendy, Method::GET, "/api/v1/machines", json!({}))
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN, "tenants see no hardware");
    let quota = |n: u32| json!({ "machines": n });
    let (status, _) = server
        .as_key(&wendy, Method::PUT, "/api/v1/projects/web/quotas/*", quota(9))
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN, "no project sets its own limit");
    server
        .call(Method::PUT, "/api/v1/projects/web/quotas/*", Some(&quota(1)))
        .await;
    let (_, refused) = server
        .as_key(&wendy, create.clone(), &path, ask("w2", "web"))
        .await;
    assert_eq!(refused["code"], "quota", "{refused}");
    let member = json!({ "role": "member" });
    let (status, _) = server
        .as_key(
            &wendy,
            Method::PUT,
            "/api/v1/projects/web/members/dan",
            member.clone(),
        )
        .await;
    assert_eq!(status, StatusCode::OK, "an owner shares the project");
    assert_eq!(count(&mut server, &dan, "/api/v1/instances").await, 2);
    let (status, _) = server
        .as_key(&dan, Method::PUT, "/api/v1/projects/web/members/olga", member)
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN, "a member does not");
    let admin = json!({ "role": "admin" });
    let (status, _) = server
        .as_key(&wendy, Method::PUT, "/api/v1/projects/web/members/wendy", admin)
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN, "nobody gives more than they have");
    let (status, _) = server
        .as_key(
            &wendy,
            Method::DELETE,
            "/api/v1/projects/web/members/dan",
            json!({}),
        )
        .await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(count(&mut server, &dan, "/api/v1/instances").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn a_session_needs_both_halves_and_ends() {
    let mut server = server().await;
    let (cookie, csrf) = server.log_in("ann", PASSWORD).await.unwrap();
    let request = |method: Method, path: &str, csrf: Option<&str>| {
        let request = server
            .http
            .request(method, format!("{}{path}", server.url))
            .header("Cookie", &cookie);
        let request = match csrf {
            Some(csrf) => request.header("X-CSRF-Token", csrf),
            None => request,
        };
        request.json(&json!({ "id": "p1" })).send()
    };
    let status = async |sent| -> StatusCode { Result::<reqwest::Response, _>::unwrap(sent).status() };
    assert_eq!(
        status(request(Method::GET, "/api/v1/projects", None).await).await,
        StatusCode::OK
    );
    let me: Value = request(Method::GET, "/api/v1/me", None)
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(
        (me["name"].as_str(), me["csrf"].as_str()),
        (Some("ann"), Some(csrf.as_str()))
    );
    for wrong in [None, Some("c-0000")] {
        let refused = request(Method::POST, "/api/v1/projects", wrong).await;
        assert_eq!(status(refused).await, StatusCode::FORBIDDEN, "{wrong:?}");
    }
    assert_eq!(
        status(request(Method::POST, "/api/v1/projects", Some(&csrf)).await).await,
        StatusCode::CREATED
    );
    assert_eq!(
        status(request(Method::POST, "/api/v1/logout", Some(&csrf)).await).await,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        status(request(Method::GET, "/api/v1/me", None).await).await,
        StatusCode::UNAUTHORIZED
    );
    let bob = server.user("bob", &[("viewer", "global")]).await;
    let (cookie, _) = server.log_in("bob", "bob has a long password").await.unwrap();
    server
        .call(
            Method::PATCH,
            "/api/v1/users/bob",
            Some(&json!({ "disabled": true })),
        )
        .await;
    let me = server
        .http
        .get(format!("{}/api/v1/me", server.url))
        .header("Cookie", cookie)
        .send()
        .await;
    assert_eq!(status(me).await, StatusCode::UNAUTHORIZED, "shut out at once");
    assert_eq!(
        server.as_key(&bob, Method::GET, "/api/v1/me", json!({})).await.0,
        StatusCode::UNAUTHORIZED
    );
    let refused = server.log_in("bob", "bob has a long password").await;
    assert_eq!(refused, Err(StatusCode::UNAUTHORIZED));
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_and_written_down() {
    let server = server().await;
    let mut answers = Vec::new();
    for n in 0..12 {
        answers.push(
            server
                .log_in("ann", &format!("guess number {n}"))
                .await
                .unwrap_err(),
        );
    }
    assert_eq!(answers[0], StatusCode::UNAUTHORIZED);
    assert_eq!(answers[11], StatusCode::TOO_MANY_REQUESTS, "{answers:?}");
    assert_eq!(
        server.log_in("ann", PASSWORD).await,
        Err(StatusCode::TOO_MANY_REQUESTS),
        "also for the right one"
    );
    let (_, log) = server
        .call(
            Method::GET,
            "/api/v1/audit?action=login&outcome=unauthorized",
            None,
        )
        .await;
    let log = log["items"].as_array().unwrap();
    let refused = answers.iter().filter(|s| **s == StatusCode::UNAUTHORIZED).count();
    assert_eq!(log.len(), refused);
    assert_eq!(
        (log[0]["object"].as_str(), log[0]["address"].as_str()),
        (Some("user/ann"), Some("127.0.0.1"))
    );
    assert!(
        !log.iter().any(|line| line.to_string().contains("guess")),
        "no password in the log"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn keys_are_narrowed_and_end_and_the_last_administrator_stays() {
    let mut server = server().await;
    let past = json!({ "name": "old", "expires_at": "2020-01-01T00:00:00Z" });
    assert_eq!(server.post("/api/v1/me/keys", past).await.1["code"], "expires_at");
    let soon = chrono::Utc::now() + chrono::TimeDelta::milliseconds(700);
    let (_, brief) = server
        .post("/api/v1/me/keys", json!({ "name": "brief", "expires_at": soon }))
        .await;
    let (_, narrow) = server
        .post(
            "/api/v1/me/keys",
            json!({ "name": "narrow", "permissions": ["sites.read"] }),
        )
        .await;
    let narrow = narrow["key"].as_str().unwrap().to_owned();
    assert_eq!(
        server
            .as_key(&narrow, Method::GET, "/api/v1/sites", json!({}))
            .await
            .0,
        StatusCode::OK
    );
    let refused = server
        .as_key(&narrow, Method::POST, "/api/v1/sites", json!({ "id": "x" }))
        .await;
    assert_eq!(refused.0, StatusCode::FORBIDDEN);
    let made = server
        .as_key(
            &narrow,
            Method::POST,
            "/api/v1/me/keys",
            json!({ "name": "wide" }),
        )
        .await;
    assert_eq!(made.0, StatusCode::FORBIDDEN, "a narrow key makes no wide one");
    let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let brief = brief["key"].as_str().unwrap().to_owned();
    while server
        .as_key(&brief, Method::GET, "/api/v1/me", json!({}))
        .await
        .0
        == StatusCode::OK
    {
        assert!(tokio::time::Instant::now() < limit, "the key did not end");
    }
    let (_, listed) = server.call(Method::GET, "/api/v1/me/keys", None).await;
    assert!(
        !listed.to_string().contains("slipway-api-"),
        "a key is shown once"
    );
    let (status, last) = server.call(Method::DELETE, "/api/v1/users/ann", None).await;
    assert_eq!(
        (status, last["code"].as_str()),
        (StatusCode::CONFLICT, Some("last_administrator"))
    );
    let (_, last) = server
        .call(
            Method::PATCH,
            "/api/v1/users/ann",
            Some(&json!({ "disabled": true })),
        )
        .await;
    assert_eq!(last["code"], "last_administrator");
    let deputy = server.user("deputy", &[("operator", "global")]).await;
    let body = json!({ "password": "now it is mine, all of it" });
    let (status, _) = server
        .as_key(&deputy, Method::PATCH, "/api/v1/users/ann", body)
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let built_in = json!({ "permissions": [] });
    let (_, refused) = server
        .call(Method::PUT, "/api/v1/roles/admin", Some(&built_in))
        .await;
    assert_eq!(refused["code"], "role_built_in");
}
