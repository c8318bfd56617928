//! An event as it is put together by whoever makes it happen; [`super::events::append`] writes it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use slipway_protocol::ids::{InstanceId, JobId, MachineId, SiteId};

use super::{StoreResult, jobs::Job, to_word};

/// An event to be written.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub(super) at: DateTime<Utc>,
    pub(super) kind: String,
    pub(super) site: Option<String>,
    pub(super) machine: Option<String>,
    pub(super) instance: Option<String>,
    pub(super) job: Option<String>,
    pub(super) project: Option<String>,
    pub(super) text: String,
    pub(super) data: Value,
    pub(super) entered: Option<String>,
}

impl NewEvent {
    /// An event of a kind: a stable dotted word such as `job.failed`. Whatever is no small letter, digit or dot becomes `_`.
    #[must_use]
    pub fn new(kind: &str, at: DateTime<Utc>) -> Self {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_');
        let kind = kind.chars().take(100);
        Self {
            at,
            kind: kind.map(|c| if plain(c) { c } else { '_' }).collect(),
            site: None,
            machine: None,
            instance: None,
            job: None,
            project: None,
            text: String::new(),
            data: json!({}),
            entered: None,
        }
    }

    /// At a site.
    #[must_use]
    pub fn site(mut self, site: &SiteId) -> Self {
        self.site = Some(site.to_string());
        self
    }

    /// Of a machine.
    #[must_use]
    pub fn machine(mut self, machine: MachineId) -> Self {
        self.machine = Some(machine.to_string());
        self
    }

    /// Of an instance.
    #[must_use]
    pub fn instance(mut self, instance: InstanceId) -> Self {
        self.instance = Some(instance.to_string());
        self
    }

    /// Of a job, its site, its instance if it is for one and, once chosen, its machine.
    #[must_use]
    pub fn on(mut self, job: &Job) -> Self {
        self.job = Some(job.id.to_string());
        self.machine = job.machine.map(|m| m.to_string()).or(self.machine);
        self.instance = job.instance.map(|i| i.to_string()).or(self.instance);
        self.site(&job.site)
    }

    /// Of a job by its id alone.
    #[must_use]
    pub fn job(mut self, job: JobId) -> Self {
        self.job = Some(job.to_string());
        self
    }

    /// Of an object by its word (`machine`, `instance`, `job`, `site`) and id; another word is nothing.
    #[must_use]
    pub fn about(mut self, object: &str, id: &str) -> Self {
        let place = match object {
            "machine" => &mut self.machine,
            "instance" => &mut self.instance,
            "job" => &mut self.job,
            "site" => &mut self.site,
            _ => return self,
        };
        *place = Some(id.to_owned());
        self
    }

    /// Of a project.
    #[must_use]
    pub fn project(mut self, project: &str) -> Self {
        self.project = Some(project.to_owned());
        self
    }

    /// For people.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// For programs: a JSON object.
    #[must_use]
    pub fn data(mut self, data: Value) -> Self {
        self.data = data;
        self
    }

    /// The event tells that its object (the first part of its kind) entered a state.
    ///
    /// # Errors
    /// When the state is not a word.
    pub fn entered<S: Serialize>(mut self, state: &S) -> StoreResult<Self> {
        let word = to_word(state)?;
        self.data["state"] = word.clone().into();
        self.entered = Some(word);
        Ok(self)
    }

    /// The object an event is about: the first part of its kind, and the id in the column of that name.
    pub(super) fn object(&self) -> Option<(&str, &str)> {
        let (object, _) = self.kind.split_once('.')?;
        let id = match object {
            "machine" => &self.machine,
            "instance" => &self.instance,
            "job" => &self.job,
            "site" => &self.site,
            _ => return None,
        };
        Some((object, id.as_deref()?))
    }
}
