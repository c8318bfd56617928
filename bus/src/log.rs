//! What a service with an embedded broker writes to standard error. Must never hold back what speaks of something wrong.

use std::io::IsTerminal as _;

use tracing::{
    Event, Metadata,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::FilterExt as _,
    fmt::MakeWriter,
    layer::{Context, Filter, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

/// The variable that says what is logged, in the words of `tracing_subscriber::EnvFilter`.
const VARIABLE: &str = "SLIPWAY_LOG";
/// What is logged unless it says otherwise.
const USUAL: &str = "info,rumqttd=warn";

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
        .with_filter(filter.and(WithoutGoodbyes))
}

/// Leaves out what rumqttd calls an error whenever a client says DISCONNECT, as it should (MQTT 3.1.1, 3.14), and closes
/// then: its router takes the end of the connection for a second goodbye, or its server that of the router for a loss.
/// Where the router drops a connection for a reason, it says that reason in a line of its own.
struct WithoutGoodbyes;

impl<S> Filter<S> for WithoutGoodbyes {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let target = event.metadata().target();
        if !target.starts_with("rumqttd::") {
            return true;
        }
        let mut message = Message::default();
        event.record(&mut message);
        !is_goodbye(target, &message.0)
    }
}

fn is_goodbye(target: &str, message: &str) -> bool {
    match target {
        "rumqttd::router::routing" => {
            message.starts_with("no-connection id ") && message.ends_with(" is already gone")
        }
        "rumqttd::server::broker" => message == "router-drop",
        _ => false,
    }
}

/// The text of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn goodbyes_alone_are_left_out_and_colours_are_for_terminals() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = layer(EnvFilter::new(USUAL), move || writer.clone(), false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let id = 7;
            tracing::error!(target: "rumqttd::router::routing", "no-connection id {} is already gone", id);
            tracing::error!(target: "rumqttd::server::broker", error = "Recv(Disconnected)", "router-drop");
            tracing::error!(target: "rumqttd::router::routing", "no space for new connection");
            tracing::info!(target: "rumqttd::router::routing", "Disconnecting connection");
            tracing::error!(target: "slipway", "no-connection id {} is already gone", id);
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].ends_with("ERROR rumqttd::router::routing: no space for new connection"),
            "{text}"
        );
        assert!(
            lines[1].ends_with("ERROR slipway: no-connection id 7 is already gone"),
            "{text}"
        );
    }
}
