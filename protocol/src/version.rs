//! The wire version and the rule that governs it.
//!
//! Messages are append-only: a field is added with a default and never removed or given another meaning; an unknown
//! field is ignored; an unknown action is refused by name (see [`crate::order::Action`]). `v` in a message is raised
//! only when an old receiver would act wrongly on it. Neighbouring versions interoperate. The bytes under
//! `tests/golden/v1` are frozen: a test that reads them is never changed to pass.

/// The version this build writes.
pub const CURRENT: u16 = 1;

/// The oldest version this build accepts.
pub const MIN: u16 = 1;

/// Whether a message of version `v` may be acted on.
#[must_use]
pub fn is_supported(v: u16) -> bool {
    (MIN..=CURRENT).contains(&v)
}
