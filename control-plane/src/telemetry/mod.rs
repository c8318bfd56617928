//! Traces: a call of the API, the job it makes, its wait, its order and each step at the site are one story, told to an
//! OpenTelemetry collector. Spans are made from what the store holds and from reports, with their real times; a span noted in a
//! transaction is told only if that is committed. Losing spans is harmless and counted.

pub mod context;
pub mod export;
pub mod span;

pub use context::Context;
pub use export::Tracer;
pub use span::Span;

use std::cell::RefCell;

tokio::task_local! {
    static CURRENT: Context;
}

thread_local! {
    static NOTED: RefCell<Vec<Span>> = const { RefCell::new(Vec::new()) };
}

/// Runs a request within its trace.
pub async fn within<F: Future>(context: Context, work: F) -> F::Output {
    CURRENT.scope(context, work).await
}

/// The trace of the request that is worked on, if any is.
#[must_use]
pub fn current() -> Option<Context> {
    CURRENT.try_with(|context| *context).ok()
}

/// Runs blocking work within a trace.
pub fn blocking<T>(context: Option<Context>, work: impl FnOnce() -> T) -> T {
    match context {
        Some(context) => CURRENT.sync_scope(context, work),
        None => work(),
    }
}

/// Notes a span in the transaction that runs on this thread.
pub fn note(span: Span) {
    NOTED.with_borrow_mut(|noted| noted.push(span));
}

/// Takes what was noted on this thread.
#[must_use]
pub fn take_noted() -> Vec<Span> {
    NOTED.take()
}
