//! Whether the control plane can be reached, and since when not: what decides whether operations may be asked for at the
//! box. Kept by the uplink; knows nothing of messages.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;

/// The link's state.
#[derive(Debug)]
pub struct Link(Mutex<Option<DateTime<Utc>>>, Notify);

impl Link {
    /// A link that is down, as at the start of a process.
    #[must_use]
    pub fn down_since(now: DateTime<Utc>) -> Self {
        Self(Mutex::new(Some(now)), Notify::new())
    }

    /// It is up.
    pub fn up(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.1.notify_waiters();
    }

    /// Whether it is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Waits until it is not as `was_up` says.
    pub async fn changed_from(&self, was_up: bool) {
        loop {
            let changed = self.1.notified();
            tokio::pin!(changed);
            // Before the look: what happens after it is not missed.
            changed.as_mut().enable();
            if self.is_up() != was_up {
                return;
            }
            changed.await;
        }
    }

    /// It is down; since when it has been stays.
    pub fn down(&self, now: DateTime<Utc>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(now);
        self.1.notify_waiters();
    }

    /// Since when the site is cut off, if it has been for so long.
    pub fn cut_off(&self, at_least: TimeDelta, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.filter(|since| now - *since >= at_least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_cut_off_after_a_while_and_not_by_a_flapping_link() {
        let at = |s| DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(s);
        let minute = TimeDelta::seconds(60);
        let link = Link::down_since(at(0));
        assert_eq!(link.cut_off(minute, at(59)), None);
        link.down(at(50));
        assert_eq!(
            link.cut_off(minute, at(60)),
            Some(at(0)),
            "down is not begun anew"
        );
        link.up();
        assert_eq!(link.cut_off(minute, at(600)), None);
        link.down(at(600));
        assert_eq!(link.cut_off(minute, at(659)), None);
        assert_eq!(link.cut_off(minute, at(660)), Some(at(600)));
    }
}
