//! `slipway job log`: a job's log as text. Gaps are told where they are; a terminal is never commanded by what stands in a
//! log, as the control plane takes nothing in that could.

use std::io::Write as _;

use anyhow::Context as _;
use serde_json::Value;

use crate::client::Client;

/// How long the control plane is asked to wait for more, in seconds.
const WAIT_S: u64 = 20;

/// A part of a log as it came.
struct Part {
    text: String,
    next: u64,
    ended: bool,
}

/// The part in an answer, with a line where something is missing: at the begin of a log it fell out, since the log is longer
/// than what is kept.
fn part(answer: &Value) -> Option<Part> {
    let text = answer["text"].as_str()?;
    let gap = match answer["missing"].as_u64()? {
        0 => String::new(),
        missing => format!("[{missing} bytes missing]\n"),
    };
    Some(Part {
        text: gap + text,
        next: answer["next"].as_u64()?,
        ended: answer["ended"].as_bool().unwrap_or_default(),
    })
}

/// Prints a log: all that is there, and with `follow` what comes until the job has ended.
pub(crate) async fn print(client: &Client, path: &str, follow: bool) -> anyhow::Result<()> {
    let (mut after, wait_s) = (0, if follow { WAIT_S } else { 0 });
    loop {
        let answer = client
            .get(&format!("{path}?after={after}&wait_s={wait_s}"))
            .await?;
        let part = part(&answer).context("the control plane's answer is no part of a log")?;
        let mut out = std::io::stdout().lock();
        out.write_all(part.text.as_bytes())?;
        out.flush()?;
        if part.ended || (!follow && part.next == after) {
            return Ok(());
        }
        after = part.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_gap_is_told_where_it_is() {
        let answer = json!({ "text": "two\n", "offset": 9, "next": 13, "missing": 5, "ended": false });
        let found = part(&answer).unwrap();
        assert_eq!(
            (found.text.as_str(), found.next, found.ended),
            ("[5 bytes missing]\ntwo\n", 13, false)
        );
        let last =
            part(&json!({ "text": "", "offset": 13, "next": 13, "missing": 0, "ended": true })).unwrap();
        assert!(last.text.is_empty() && last.ended);
        assert!(part(&json!({ "detail": "no" })).is_none());
    }
}
