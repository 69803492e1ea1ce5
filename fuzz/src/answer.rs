//! Meta's answer to a send.

use pregon::{
    domain::{Cause, Outcome},
    graph::answer::read,
};
use serde_json::Value;

use super::takes_at_most;

const DETAILS_CHARS_MAX: usize = 500;

/// Only Meta's own words are definite: a message id with a 2xx, or an error with a code, each as a plain reading of the
/// JSON has it. Half an answer never is.
pub fn answer(input: &[u8]) {
    let json: Option<Value> = serde_json::from_slice(input).ok();
    for http_status in [200, 302, 400, 429, 500] {
        let outcome = takes_at_most(64, 4096, input, |input| read(http_status, input));
        assert_eq!(outcome, read(http_status, input), "the same each time");
        if let Outcome::Accepted { wamid, held } = &outcome {
            let json = json.as_ref().expect("JSON");
            assert!(http_status == 200, "accepted with HTTP {http_status}");
            assert!(json["error"].is_null(), "accepted, and an error");
            let message = &json["messages"][0];
            assert_eq!(message["id"].as_str(), Some(wamid.as_str()));
            assert!(!wamid.as_str().is_empty());
            assert_eq!(*held, message["message_status"] == "held_for_quality_assessment");
        } else if let Some(Cause::Meta { code, details }) = cause(&outcome) {
            let json = json.as_ref().expect("JSON");
            let told = &json["error"]["code"];
            assert!(told.as_u64() == Some(u64::from(*code)) || told.as_str().map(str::parse) == Some(Ok(*code)));
            assert!(json["messages"][0]["id"].as_str().is_none_or(str::is_empty), "an error, and a message");
            assert!(details.chars().count() <= DETAILS_CHARS_MAX);
        } else {
            assert!(matches!(outcome, Outcome::InDoubt(Cause::Unanswered(_))), "{outcome:?}");
        }
        let whole = input.trim_ascii_end();
        for cut in [1, 2, 3, whole.len() / 2, whole.len()] {
            let half = &whole[..whole.len().saturating_sub(cut)];
            let outcome = read(http_status, half);
            let in_doubt = matches!(outcome, Outcome::InDoubt(Cause::Unanswered(_)));
            assert!(in_doubt || json.is_none() || whole.is_empty(), "half an answer: {outcome:?}");
        }
    }
}

/// Why the attempt was not accepted.
fn cause(outcome: &Outcome) -> Option<&Cause> {
    match outcome {
        Outcome::Accepted { .. } => None,
        Outcome::Throttled { cause, .. }
        | Outcome::Retry { cause, .. }
        | Outcome::InDoubt(cause)
        | Outcome::Failed { cause, .. }
        | Outcome::Blocked { cause, .. } => Some(cause),
    }
}
