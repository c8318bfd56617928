//! What one message asks for is done by itself: a fault of ours in it, which panics, must not end the program that thousands of
//! others are served by, as whoever sent it once will send it again.

use std::{any::Any, panic::AssertUnwindSafe};

use futures::FutureExt as _;

/// The code that a message is counted by whose handling panicked.
pub const FAULT: &str = "fault";

/// Does what a message asks for; the panic's words if it panicked. Whoever calls it leaves nothing half done behind a panic that
/// a next message relies on: stores change by transaction, and what is held in memory is only a copy of them.
///
/// # Errors
/// What the panic said.
pub async fn contained<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_ends_nothing() {
        assert_eq!(contained(async { 1 }).await, Ok(1));
        let index = usize::MAX;
        let fault = contained(async { [1, 2, 3][std::hint::black_box(index)] }).await;
        assert!(fault.unwrap_err().contains("out of bounds"));
        let fault = contained(async { std::panic::panic_any(7) }).await;
        assert_eq!(fault, Err::<(), _>("a panic without words".to_owned()));
    }
}
