//! A site's edge, as a test sees it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod boot;
mod edge;
mod images;
mod local;
mod logs;
mod uplink;
