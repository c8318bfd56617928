//! What a service with an embedded broker writes to standard error. Must never hold back what speaks of something wrong.

use std::io::IsTerminal as _;

use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt::MakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The variable that says what is logged, in the words of `tracing_subscriber::EnvFilter`.
const VARIABLE: &str = "SLIPWAY_LOG";
/// What is logged unless it says otherwise.
const USUAL: &str = "info";

/// Logs to standard error from now on, in colours on a terminal. To be called once a process, first of all.
pub fn start() {
    let asked = std::env::var(VARIABLE).unwrap_or_else(|_| USUAL.to_owned());
    let (filter, refused) = match EnvFilter::try_new(asked) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(USUAL), Some(error)),
    };
    let layer = layer(filter, std::io::stderr, std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(layer).init();
    if let Some(error) = refused {
        tracing::warn!(%error, "{VARIABLE} cannot be read; write it as in {USUAL}, which is what is logged now");
    }
}

fn layer(
    filter: EnvFilter,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
    colours: bool,
) -> impl Layer<Registry> {
    tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colours)
        .with_filter(filter)
}
