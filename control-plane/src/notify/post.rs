//! One POST of a signed body. Redirects are not followed and the answer's body is not read; the configuration says
//! whether addresses that are not public may be reached.

use std::{sync::Arc, sync::OnceLock, time::Duration};

use chrono::{DateTime, Utc};
use slipway_protocol::seal::Secret;

use super::{
    egress::{self, Private, PublicOnly},
    signature,
};
use crate::error::chain;

/// Longest wait for an answer, with all that comes before it.
const LIMIT: Duration = Duration::from_secs(10);

/// What is sent.
pub struct Message<'a> {
    /// Where to.
    pub url: &'a str,
    /// Kind of the event.
    pub kind: &'a str,
    /// Id of the delivery.
    pub delivery: &'a str,
    /// By what it is signed, each for itself.
    pub secrets: &'a [Secret],
    /// JSON.
    pub body: Vec<u8>,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// Why it does not count as delivered.
    pub error: Option<String>,
}

/// Sends messages.
pub struct Poster {
    private: Private,
    client: OnceLock<Result<reqwest::Client, String>>,
}

impl Poster {
    /// A poster; it opens nothing before its first message.
    #[must_use]
    pub fn new(private: Private) -> Self {
        Self {
            private,
            client: OnceLock::new(),
        }
    }

    /// What becomes of addresses that are not public.
    #[must_use]
    pub fn private(&self) -> Private {
        self.private
    }

    fn client(&self) -> Result<&reqwest::Client, String> {
        let build = || {
            let mut builder = reqwest::Client::builder()
                .timeout(LIMIT)
                .redirect(reqwest::redirect::Policy::none())
                // A proxy would resolve names itself, behind the check of their addresses.
                .no_proxy()
                .user_agent("slipway");
            if self.private == Private::Refused {
                builder = builder.dns_resolver(Arc::new(PublicOnly));
            }
            builder.build().map_err(|e| chain(&e))
        };
        self.client.get_or_init(build).as_ref().map_err(String::clone)
    }

    /// Sends a message. Everything but a status of 200 to 299 is a failure.
    pub async fn post(&self, message: Message<'_>, now: DateTime<Utc>) -> Answer {
        match self.send(message, now).await {
            Ok(status) if (200..300).contains(&status) => Answer {
                status: Some(status),
                error: None,
            },
            Ok(status) => {
                let hint = if (300..400).contains(&status) {
                    "; redirects are not followed"
                } else {
                    ""
                };
                Answer {
                    status: Some(status),
                    error: Some(format!("the receiver answered {status}{hint}")),
                }
            }
            Err(error) => Answer {
                status: None,
                error: Some(error),
            },
        }
    }

    async fn send(&self, message: Message<'_>, now: DateTime<Utc>) -> Result<u16, String> {
        let url = egress::check_url(message.url, self.private).map_err(|e| e.to_string())?;
        let signed = signature::header(message.secrets, now.timestamp(), &message.body);
        let answer = self
            .client()?
            .post(url)
            .header("Content-Type", "application/json")
            .header("Slipway-Event", message.kind)
            .header("Slipway-Delivery", message.delivery)
            .header("Slipway-Signature", signed)
            .body(message.body)
            .send()
            .await;
        // The URL may hold a token; whoever reads the error knows the webhook anyway.
        answer
            .map(|answer| answer.status().as_u16())
            .map_err(|e| chain(&e.without_url()))
    }
}
