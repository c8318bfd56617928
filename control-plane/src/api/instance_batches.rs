//! `/api/v1/instances/batch`: many instances asked for at once, or worked on by one call.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Body, List, Path,
    instances::{Accepted, Grace, NewInstanceBody, ReinstallBody, accepted_all, into_new, repeatable},
};
use crate::{
    access::Caller,
    app::App,
    domain::{self, instances::Work},
    error::ApiError,
};

/// Most instances of one call.
const MOST: usize = 1000;

/// Instances to be made: all of them, or none.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInstancesBody {
    /// What they have in common. With `count`, `{n}` in its name stands for a number.
    pub instance: NewInstanceBody,
    /// How many, 1 to 1000.
    #[serde(default)]
    pub count: Option<u32>,
    /// The number of the first one, 1 if left out.
    #[serde(default)]
    pub first: Option<u32>,
    /// Their names, 1000 at most, instead of `count` and a name.
    #[serde(default)]
    pub names: Vec<String>,
}

/// The names that are meant: pure.
fn names(body: &NewInstancesBody) -> Result<Vec<String>, ApiError> {
    let bad = |detail: &str| Err(ApiError::Bad("names", detail.to_owned()));
    let pattern = &body.instance.name;
    match (body.count, body.names.as_slice()) {
        (Some(count), []) => {
            if pattern.matches("{n}").count() != 1 {
                return bad("with `count`, the instance's name must have `{n}` in it once");
            }
            if !(1..=MOST).contains(&(count as usize)) {
                return bad("`count` is between 1 and 1000");
            }
            let first = u64::from(body.first.unwrap_or(1));
            let numbers = first..first + u64::from(count);
            Ok(numbers.map(|n| pattern.replace("{n}", &n.to_string())).collect())
        }
        (None, names) if (1..=MOST).contains(&names.len()) && pattern.is_empty() => Ok(names.to_vec()),
        _ => bad("give either `count` and a name with `{n}` in it, or 1 to 1000 `names` and no name"),
    }
}

/// Asks for many instances at once: all are made, or none. One `Idempotency-Key` counts for all.
#[utoipa::path(post, path = "/api/v1/instances/batch", tag = "instances", request_body = NewInstancesBody,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = List<Accepted>), (status = 400), (status = 404), (status = 409)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body<NewInstancesBody>,
) -> Result<Response, ApiError> {
    let repeatable = repeatable(&headers, &body)?;
    let new = into_new(names(&body)?, body.instance)?;
    let made = domain::instances::create(&app, &caller, new, repeatable).await?;
    let items = accepted_all(&app, made).await?;
    Ok((StatusCode::ACCEPTED, Json(List { items, next: None })).into_response())
}

/// What is done with each.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Switch it on.
    Start,
    /// Switch it off.
    Stop,
    /// Switch it off and on.
    Restart,
    /// Install it anew.
    Reinstall,
    /// Give it back.
    Release,
}

/// Instances to be worked on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchWorkBody {
    /// Their ids or names, 1 to 1000.
    pub instances: Vec<String>,
    /// To stop and to restart: seconds each system is given to shut down, 0 to 3600, 60 by default.
    #[serde(default)]
    pub grace_s: Option<u32>,
    /// To reinstall: what each is installed anew with.
    #[serde(default)]
    pub reinstall: ReinstallBody,
}

/// What became of one instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchItem {
    /// The instance, as it was named in the call.
    pub instance: String,
    /// What a call for it alone would have answered: 202, or the status of the refusal.
    pub status: u16,
    /// The code of the refusal.
    pub code: Option<&'static str>,
    /// For people: why it was refused.
    pub detail: Option<String>,
    /// The job that works on it.
    pub job: Option<String>,
}

fn work(verb: Verb, body: &BatchWorkBody) -> Result<Work, ApiError> {
    let grace_s = Grace {
        grace_s: body.grace_s,
    }
    .seconds()?;
    Ok(match verb {
        Verb::Start => Work::Start,
        Verb::Stop => Work::Stop(grace_s),
        Verb::Restart => Work::Restart(grace_s),
        Verb::Reinstall => Work::Reinstall(Box::new(body.reinstall.clone().into())),
        Verb::Release => Work::Release,
    })
}

/// Works on many instances: one after the other, each for itself. One that is refused does not hold up the others.
#[utoipa::path(post, path = "/api/v1/instances/batch/{verb}", tag = "instances", request_body = BatchWorkBody,
    params(("verb" = inline(Verb), Path)), responses((status = 200, body = List<BatchItem>), (status = 400)))]
pub async fn begin(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(verb): Path<Verb>,
    Body(body): Body<BatchWorkBody>,
) -> Result<Json<List<BatchItem>>, ApiError> {
    if !(1..=MOST).contains(&body.instances.len()) {
        let detail = "name 1 to 1000 instances".to_owned();
        return Err(ApiError::Bad("instances", detail));
    }
    let mut items = Vec::with_capacity(body.instances.len());
    for key in &body.instances {
        let done = domain::instances::work(&app, &caller, key.clone(), work(verb, &body)?).await;
        if let Err(error @ ApiError::Forbidden(_)) = &done {
            domain::instances::note_refusal(&app, &caller, key, error.code()).await?;
        }
        items.push(item(key.clone(), done.map(|(_, job)| job.id.to_string())));
    }
    Ok(Json(List { items, next: None }))
}

fn item(instance: String, done: Result<String, ApiError>) -> BatchItem {
    match done {
        Ok(job) => BatchItem {
            instance,
            status: StatusCode::ACCEPTED.as_u16(),
            code: None,
            detail: None,
            job: Some(job),
        },
        Err(error) => {
            error.log();
            BatchItem {
                instance,
                status: error.status().as_u16(),
                code: Some(error.code()),
                detail: Some(error.to_string()),
                job: None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn named(body: Value) -> Result<Vec<String>, &'static str> {
        let mut body = body;
        body["instance"]["site"] = "bj-1".into();
        body["instance"]["image"] = "debian".into();
        names(&serde_json::from_value(body).unwrap()).map_err(|e| e.code())
    }

    #[test]
    fn names_come_from_a_pattern_or_a_list() {
        let pattern = |name: &str, count: u32| json!({ "instance": { "name": name }, "count": count });
        assert_eq!(named(pattern("web-{n}", 2)).unwrap(), ["web-1", "web-2"]);
        let mut later = pattern("w{n}x", 2);
        later["first"] = 9.into();
        assert_eq!(named(later).unwrap(), ["w9x", "w10x"]);
        assert_eq!(
            named(json!({ "instance": {}, "names": ["a", "b"] })).unwrap(),
            ["a", "b"]
        );
        assert_eq!(named(pattern("web-{n}", 1000)).unwrap().len(), 1000);
        let both = json!({ "instance": { "name": "w{n}" }, "count": 2, "names": ["a"] });
        let named_twice = json!({ "instance": { "name": "w" }, "names": ["a"] });
        let none = json!({ "instance": {} });
        for bad in [
            pattern("web", 2),
            pattern("{n}{n}", 2),
            pattern("w{n}", 0),
            pattern("w{n}", 1001),
            both,
            named_twice,
            none,
        ] {
            assert_eq!(named(bad.clone()), Err("names"), "{bad}");
        }
    }
}
