//! Sends mails by SMTP, at least once each. It never logs the server's URL, which holds its password.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Next, next};
use crate::{
    app::App,
    error::{ApiError, chain},
    metrics,
    store::{
        mails::{self, Mail},
        webhooks::DeliveryState,
    },
};

/// How often due mails are looked for without a word.
const TICK: Duration = Duration::from_secs(2);

/// For how long a replica has a mail to itself; a server that says nothing is left after 60 s.
const LEASE: TimeDelta = TimeDelta::seconds(180);

/// How long mails that ended are kept.
const KEPT_FOR: TimeDelta = TimeDelta::days(30);

/// Mail cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The setting is wrong. Says nothing of the URL itself.
    #[error("SLIPWAY_SMTP is not a URL of a mail server, as in smtp://HOST:25 or smtps://USER:PASSWORD@HOST")]
    Url(#[source] lettre::transport::smtp::Error),
    /// An address is wrong.
    #[error("`{0}` is not a mail address")]
    Address(String),
    /// The mail cannot be written.
    #[error("the mail cannot be written")]
    Write(#[source] lettre::error::Error),
    /// The server did not take it.
    #[error("the mail server did not take it")]
    Send(#[source] lettre::transport::smtp::Error),
}

/// Sends mails to one server.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mailer {
    /// A mailer; it connects with each mail.
    ///
    /// # Errors
    /// When a setting is wrong.
    pub fn new(url: &str, from: &str) -> Result<Self, MailError> {
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(MailError::Url)?;
        Ok(Self {
            transport: transport.build(),
            from: mailbox(from)?,
        })
    }

    /// Sends a mail.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn send(&self, mail: &Mail) -> Result<(), MailError> {
        let message = Message::builder()
            .from(self.from.clone())
            .to(mailbox(&mail.recipient)?)
            .subject(&mail.subject)
            // The same at each attempt, so that a mail server drops what comes twice.
            .message_id(Some(format!("<{}@slipway>", mail.id)))
            .header(ContentType::TEXT_PLAIN)
            .body(mail.body.clone())
            .map_err(MailError::Write)?;
        self.transport.send(message).await.map_err(MailError::Send)?;
        Ok(())
    }
}

fn mailbox(address: &str) -> Result<Mailbox, MailError> {
    address
        .parse()
        .map_err(|_| MailError::Address(address.to_owned()))
}

/// Sends what is due until `stop`.
pub async fn run(app: Arc<App>, mailer: Mailer, stop: CancellationToken) {
    let mut news = app.feed.subscribe();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
            Ok(()) = news.changed() => {}
        }
        loop {
            // A mail that is cut off here is sent again by whoever comes after.
            let sent = tokio::select! {
                () = stop.cancelled() => return,
                sent = send_one(&app, &mailer) => sent,
            };
            match sent {
                Ok(true) => {}
                Ok(false) => break,
                Err(failure) => {
                    error!(error = %chain(&failure), "mails cannot be read; trying again");
                    break;
                }
            }
        }
    }
}

/// Makes one attempt; `false` if nothing is due.
async fn send_one(app: &App, mailer: &Mailer) -> Result<bool, ApiError> {
    let now = (app.now)();
    let taken = app.store.transaction(move |db| {
        let taken = mails::take(db, now, now + LEASE)?;
        if taken.is_some() {
            mails::prune(db, now - KEPT_FOR)?;
        }
        Ok::<_, crate::store::StoreError>(taken)
    });
    let Some(mut mail) = taken.await? else {
        return Ok(false);
    };
    let failure = mailer.send(&mail).await.err().map(|e| chain(&e));
    if let Some(error) = &failure {
        info!(mail = mail.id, error, "a mail was not taken");
    }
    let (now, random) = ((app.now)(), super::jitter());
    mail.attempts += 1;
    let (state, at) = after(&mail, failure.is_some(), now, random);
    metrics::told("mail", state.result());
    let noted = app
        .store
        .transaction(move |db| mails::note(db, &mail, state, at, failure.as_deref()));
    noted.await?;
    Ok(true)
}

fn after(mail: &Mail, failed: bool, now: DateTime<Utc>, random: u16) -> (DeliveryState, DateTime<Utc>) {
    if !failed {
        return (DeliveryState::Delivered, now);
    }
    match next(mail.attempts, mail.created_at, now, random) {
        Next::At(at) => (DeliveryState::Waiting, at),
        Next::GiveUp => (DeliveryState::Dead, now),
    }
}
