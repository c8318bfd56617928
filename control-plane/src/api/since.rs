//! Since when what is shown is in its state. Reads what the event of each change wrote; decides nothing.

use chrono::{DateTime, Utc};

use super::{instances::InstanceView, jobs::JobView, machines::MachineView};
use crate::{
    app::App,
    error::ApiError,
    store::{Database, StoreResult, states},
};

/// A view that says since when it is in its state.
pub(super) trait Dated {
    /// The word of such objects: `machine`, `instance` or `job`.
    const OBJECT: &'static str;

    /// Its id, and the word of its state.
    fn state(&self) -> (&str, &'static str);

    /// Says it.
    fn set(&mut self, since: DateTime<Utc>);
}

macro_rules! dated {
    ($view:ident, $object:literal) => {
        impl Dated for $view {
            const OBJECT: &'static str = $object;

            fn state(&self) -> (&str, &'static str) {
                (&self.id, self.state.word())
            }

            fn set(&mut self, since: DateTime<Utc>) {
                self.state_since = Some(since);
            }
        }
    };
}

dated!(MachineView, "machine");
dated!(InstanceView, "instance");
dated!(JobView, "job");

/// Says of each view since when it is in the state it shows, by one query for 500 of them. What went on meanwhile says
/// nothing: the time would be that of another state.
pub(super) fn date<V: Dated>(db: &mut Database, views: &mut [V]) -> StoreResult<()> {
    let ids: Vec<String> = views.iter().map(|view| view.state().0.to_owned()).collect();
    let found = states::of_ids(db, V::OBJECT, &ids)?;
    for view in views {
        let (id, word) = view.state();
        if let Some((_, since)) = found.get(id).filter(|(state, _)| state == word) {
            let since = *since;
            view.set(since);
        }
    }
    Ok(())
}

/// The same for one.
pub(super) async fn dated<V: Dated + Send + 'static>(app: &App, mut view: V) -> Result<V, ApiError> {
    let done = app.store.read(move |db| {
        date(db, std::slice::from_mut(&mut view))?;
        Ok::<_, ApiError>(view)
    });
    done.await
}
