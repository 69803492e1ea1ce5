//! Properties of the parser of Meta's answers to sends.

use pregon::{
    domain::{Cause, Outcome},
    graph::answer::read,
};
use serde_json::Value;

use super::within_memory;

const DETAILS_CHARS_MAX: usize = 500;

/// A message is accepted only by an answer 200 with a message id, and rejected only by an error with a code. Both equal
/// those of a plain parse of the JSON. Any other answer is in doubt, and so is a truncated one.
pub fn answer(input: &[u8]) {
    let json: Option<Value> = serde_json::from_slice(input).ok();
    for http_status in [200, 302, 400, 429, 500] {
        let outcome = within_memory(64, 4096, input, |input| read(http_status, input));
        assert_eq!(outcome, read(http_status, input), "parsing is deterministic");
        if let Outcome::Accepted { wamid, held } = &outcome {
            let json = json.as_ref().expect("JSON");
            assert!(http_status == 200, "accepted with HTTP {http_status}");
            assert!(json["error"].is_null(), "accepted although it has an error");
            let message = &json["messages"][0];
            assert_eq!(message["id"].as_str(), Some(wamid.as_str()));
            assert!(!wamid.as_str().is_empty());
            assert_eq!(*held, message["message_status"] == "held_for_quality_assessment");
        } else if let Some(Cause::Meta { code, details }) = outcome.cause() {
            let json = json.as_ref().expect("JSON");
            let plain = &json["error"]["code"];
            assert!(plain.as_u64() == Some(u64::from(code.0)) || plain.as_str().map(str::parse) == Some(Ok(code.0)));
            assert!(json["messages"][0]["id"].as_str().is_none_or(str::is_empty), "an error although it has a message");
            assert!(details.chars().count() <= DETAILS_CHARS_MAX);
        } else {
            assert!(matches!(outcome, Outcome::InDoubt(Cause::Unanswered(_))), "{outcome:?}");
        }
        let whole = input.trim_ascii_end();
        for cut in [1, 2, 3, whole.len() / 2, whole.len()] {
            let truncated = &whole[..whole.len().saturating_sub(cut)];
            let outcome = read(http_status, truncated);
            let in_doubt = matches!(outcome, Outcome::InDoubt(Cause::Unanswered(_)));
            assert!(in_doubt || json.is_none() || whole.is_empty(), "a truncated answer: {outcome:?}");
        }
    }
}
