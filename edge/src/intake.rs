//! Commands in: verified, then on disk, then acted upon. One way for all of them, whether they came from the broker or, as
//! the order of a lease, are taken at the box.

use bytes::Bytes;
use slipway_protocol::{
    keys::{Expect, OpenError},
    lease::Lease,
    order::Order,
    topic::{Kind, Topic},
};

use crate::{
    context::Context,
    runner::actor::{Input, Runner},
    store::{Document, Entry, StoreError},
};

/// The kind of an accepted message, or why it is refused.
pub(crate) type Heard = Result<&'static str, OpenError>;

/// What is held of a topic's document, and the time.
pub(crate) fn expect(context: &Context, topic: &Topic) -> Expect {
    Expect {
        now: (context.now)(),
        held: context.ledger.command_revision(topic.kind(), &topic.subject()),
    }
}

fn document(topic: &Topic, revision: u64, payload: &[u8]) -> Document {
    Document {
        kind: topic.kind(),
        subject: topic.subject(),
        revision,
        payload: payload.to_vec(),
    }
}

/// Puts a verified command on disk; only then it counts as received.
pub(crate) fn keep(
    context: &Context,
    topic: &Topic,
    revision: u64,
    payload: &[u8],
) -> Result<bool, StoreError> {
    let document = document(topic, revision, payload);
    let kept = if document.kind == Kind::Lease {
        context.store.put_lease(&document)?
    } else {
        context.store.put_document(&document)?
    };
    if kept {
        context
            .ledger
            .hold_command(document.kind, &document.subject, revision);
    }
    Ok(kept)
}

/// Takes an order that came from the control plane.
pub(crate) async fn order(
    context: &Context,
    runner: &Runner,
    topic: &Topic,
    payload: &Bytes,
) -> Result<Heard, StoreError> {
    let (order, revision) = match open_order(context, topic, payload) {
        Ok(opened) => opened,
        Err(reason) => return Ok(Err(reason)),
    };
    if keep(context, topic, revision, payload)? {
        run(runner, order, revision, payload).await;
    }
    Ok(Ok("order"))
}

/// Takes the order of an offer, with the journal's line of it; `false` if an order of its revision or a higher one is held.
pub(crate) async fn offered_order(
    context: &Context,
    runner: &Runner,
    (topic, payload): (&Topic, &[u8]),
    line: &Entry,
) -> Result<Result<bool, OpenError>, StoreError> {
    let (order, revision) = match open_order(context, topic, payload) {
        Ok(opened) => opened,
        Err(OpenError::Stale { .. }) => return Ok(Ok(false)),
        Err(reason) => return Ok(Err(reason)),
    };
    let document = document(topic, revision, payload);
    if !context.store.put_offered(&document, line)? {
        return Ok(Ok(false));
    }
    context
        .ledger
        .hold_command(document.kind, &document.subject, revision);
    run(runner, order, revision, payload).await;
    Ok(Ok(true))
}

fn open_order(context: &Context, topic: &Topic, payload: &[u8]) -> Result<(Order, u64), OpenError> {
    let order = context
        .key_ring()
        .open::<Order>(topic, payload, expect(context, topic))?;
    if order.body().machine.to_string() != order.header().subject {
        return Err(OpenError::Misaddressed {
            topic: topic.to_string(),
            made_for: format!("machine {}", order.body().machine),
        });
    }
    let revision = order.header().revision;
    Ok((order.into_body(), revision))
}

async fn run(runner: &Runner, order: Order, revision: u64, payload: &[u8]) {
    let input = Input::Order {
        order: Box::new(order),
        revision,
        payload: payload.to_vec(),
    };
    runner.tell(input).await;
}

/// Takes a lease.
pub(crate) fn lease(context: &Context, topic: &Topic, payload: &Bytes) -> Result<Heard, StoreError> {
    match context
        .key_ring()
        .open::<Lease>(topic, payload, expect(context, topic))
    {
        Ok(lease) => keep(context, topic, lease.header().revision, payload).map(|_| Ok("lease")),
        Err(reason) => Ok(Err(reason)),
    }
}
