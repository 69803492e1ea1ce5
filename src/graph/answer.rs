//! Parses Meta's response to a send.
//!
//! Owns: the shape of a response, `{"messages":[{"id",…}]}` or `{"error":{"code",…}}`, and the rule that only these two
//! are definite. Anything else (a proxy's HTML, a truncated body, JSON of another server) leaves the attempt in doubt.
//! If the process dies: a response that was not settled is lost, and the next owner puts its row in doubt.
//! Never: guesses. A contradictory response is in doubt too.

use std::borrow::Cow;

use serde::Deserialize;

use crate::{
    domain::{Cause, MetaCode, Outcome, Wamid, policy},
    json::{self, List, Number, Object, Text},
};

/// The maximum length of error details, in characters. They are stored with every failed recipient.
const DETAILS_CHARS_MAX: usize = 500;

/// Meta's `message_status` for a message that it keeps back for a quality check.
const HELD: &str = "held_for_quality_assessment";

/// Meta's error type for a node that does not exist or that the token may not access.
const NO_SUCH_OBJECT: &str = "GraphMethodException";

/// The outcome of a send, from the HTTP status and the whole body of the response. Pure.
///
/// A 2xx with a message id is accepted. For an error of Meta, [`policy::outcome`] decides. Anything else is in doubt.
pub fn read(http_status: u16, body: &[u8]) -> Outcome {
    let body = &*json::replace_lone_surrogates(body);
    let answer = Answer::parse(body);
    let success = (200..300).contains(&http_status);
    match (answer.message(), &answer.error, answer.refusal()) {
        (Some((id, status)), None, _) if success => {
            Outcome::Accepted { wamid: Wamid::from(id), held: status == Some(HELD) }
        }
        (None, _, Some(MetaError { code, details })) => policy::outcome(http_status, code, details),
        (Some(_), ..) | (None, _, None) => Outcome::InDoubt(Cause::Unanswered(not_meta(http_status, body))),
    }
}

/// As [`read`], for a read mark or a typing indicator, which Meta accepts without a message id.
pub fn read_of_mark(http_status: u16, body: &[u8]) -> Outcome {
    let is_done = serde_json::from_slice(body).is_ok_and(|Done { success }| success);
    match (200..300).contains(&http_status) && is_done {
        true => Outcome::Accepted { wamid: Wamid::from(""), held: false },
        false => read(http_status, body),
    }
}

/// Meta's answer to a mark.
#[derive(Deserialize)]
struct Done {
    success: bool,
}

/// Meta's error object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MetaError {
    pub(super) code: MetaCode,
    pub(super) details: String,
}

/// Meta's error in `body`, if there is one.
pub(super) fn refusal(body: &[u8]) -> Option<MetaError> {
    Answer::parse(&json::replace_lone_surrogates(body)).refusal()
}

/// Describes a response that is not Meta's, without quoting its content.
pub(super) fn not_meta(http_status: u16, body: &[u8]) -> String {
    format!("HTTP {http_status} with {} bytes that are not Meta's JSON", body.len())
}

/// Borrows its strings from the body where possible; every response to a send is parsed into this type.
#[derive(Default, Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    messages: List<Message<'a>>,
    /// `Some` for any JSON type except null, because a response with an `error` of any type is not an acceptance.
    #[serde(borrow, default)]
    error: Option<Object<Envelope<'a>>>,
}

#[derive(Default, PartialEq, Deserialize)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    message_status: Text<'a>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    /// Meta documents codes as numbers; integrators have also seen them as text.
    #[serde(default)]
    code: Number,
    #[serde(default)]
    error_subcode: Number,
    #[serde(borrow, default, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow, default)]
    message: Text<'a>,
    #[serde(borrow)]
    error_data: Option<ErrorData<'a>>,
}

/// Usually an object with the details, sometimes only the text.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorData<'a> {
    Object {
        #[serde(borrow)]
        details: Cow<'a, str>,
    },
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(serde::de::IgnoredAny),
}

impl<'a> Answer<'a> {
    /// Parses `body`. Anything that is not JSON of this shape becomes an empty response.
    fn parse(body: &'a [u8]) -> Self {
        // The body is checked to be UTF-8 first, as JSON has to be: when serde_json parses bytes, it does not check
        // text that it skips.
        str::from_utf8(body).ok().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The id of the accepted message, and its `message_status`.
    fn message(&self) -> Option<(&str, Option<&str>)> {
        let Message { id: Text(id), message_status: Text(status) } = self.messages.0.first()?;
        // An id of only digits comes from a JSON number, which Meta does not use for ids.
        let id = id.as_deref().filter(|id| id.bytes().any(|byte| !byte.is_ascii_digit()))?;
        Some((id, status.as_deref()))
    }

    fn refusal(&self) -> Option<MetaError> {
        let Object(Some(error)) = self.error.as_ref()? else { return None };
        let number = |Number(number): Number| number.and_then(|number| u32::try_from(number).ok());
        // Meta calls subcodes deprecated and may omit them. The error type has the same information.
        let no_such_object = || (error.kind.0.as_deref() == Some(NO_SUCH_OBJECT)).then_some(policy::NO_SUCH_OBJECT);
        let code =
            policy::effective_code(MetaCode(number(error.code)?), number(error.error_subcode).or_else(no_such_object));
        let details = match &error.error_data {
            Some(ErrorData::Object { details } | ErrorData::Text(details)) if !details.is_empty() => details,
            Some(ErrorData::Object { .. } | ErrorData::Text(_) | ErrorData::Other(_)) | None => {
                error.message.0.as_ref().unwrap_or(&Cow::Borrowed(""))
            }
        };
        Some(MetaError { code, details: details.chars().take(DETAILS_CHARS_MAX).collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::ErrorScope;

    #[test]
    fn only_a_mark_is_accepted_without_a_message_id() {
        let body = br#"{"success":true}"#;
        let accepted = Outcome::Accepted { wamid: Wamid::from(""), held: false };
        assert_eq!(read_of_mark(200, body), accepted);
        let in_doubt = |outcome| matches!(outcome, Outcome::InDoubt(_));
        assert!(in_doubt(read(200, body)) && in_doubt(read_of_mark(200, br#"{"success":false}"#)));
    }

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/answers/", $name)).as_slice()
        };
    }

    fn meta(code: u32, details: &str) -> Cause {
        Cause::Meta { code: MetaCode(code), details: details.to_owned() }
    }

    #[test]
    fn a_message_id_is_an_acceptance() {
        let accepted = |wamid: &str, held| Outcome::Accepted { wamid: wamid.into(), held };
        let wamid = "wamid.HBgMNDQ3NzAwOTAwMTIzFQIAERgSQ0U5RjA2QjE4RkM0RUUyRkI0AA==";
        assert_eq!(read(200, fixture!("accepted.json")), accepted(wamid, false));
        assert_eq!(read(200, fixture!("accepted_held.json")), accepted(wamid, true));
        assert_eq!(read(200, fixture!("accepted_without_status.json")), accepted(wamid, false));
        assert_eq!(read(201, fixture!("accepted.json")), accepted(wamid, false));
        let escaped = br#"{"messages":[{"id":"wamid.\u0041\/B","message_status":"paused"}],"unknown":[{}]}"#;
        assert_eq!(read(200, escaped), accepted("wamid.A/B", false));
    }

    #[test]
    fn a_meta_error_is_definite_in_every_spelling() {
        let line = |cause| Outcome::Throttled { scope: ErrorScope::Line, wait: Duration::from_secs(1), cause };
        let failed = |pause_after, cause| Outcome::Failed { pause_after, cause };
        let throughput = "Message failed to send because there were too many messages sent from this phone number";
        assert_eq!(read(400, fixture!("error_130429.json")), line(meta(130_429, throughput)));
        assert_eq!(read(429, fixture!("error_130429.json")), line(meta(130_429, throughput)));
        let text = fixture!("error_code_as_text.json");
        assert_eq!(read(400, text), failed(None, meta(131_021, "Recipient is the sender")), "code as text");
        let bare = fixture!("error_data_as_text.json");
        assert_eq!(read(400, bare), failed(Some(20), meta(100, "Invalid parameter")), "error_data as text");
        let token = Outcome::Blocked {
            scope: ErrorScope::Token,
            wait: None,
            cause: meta(190, "Error validating access token"),
        };
        assert_eq!(read(401, fixture!("error_without_data.json")), token);
        let empty = br#"{"error":{"code":100,"message":"m","error_data":{"details":""}}}"#;
        assert_eq!(read(400, empty), failed(Some(20), meta(100, "m")), "no details");
        for odd in ["{}", "[]", "7", "null"] {
            let body = format!(r#"{{"error":{{"code":100,"message":"m","error_data":{odd}}}}}"#);
            assert_eq!(read(400, body.as_bytes()), failed(Some(20), meta(100, "m")), "{odd}");
        }
        assert_eq!(read(400, br#"{"error":{"code":100}}"#), failed(Some(20), meta(100, "")), "nothing but a code");
    }

    #[test]
    fn an_error_for_a_missing_line_holds_the_line() {
        let gone = |cause| Outcome::Blocked { scope: ErrorScope::Line, wait: None, cause };
        for subcode in ["33", "\"33\""] {
            let body = format!(r#"{{"error":{{"code":100,"error_subcode":{subcode},"message":"does not exist"}}}}"#);
            assert_eq!(read(400, body.as_bytes()), gone(meta(33, "does not exist")), "{subcode}");
        }
        let body = br#"{"error":{"code":100,"type":"GraphMethodException","message":"does not exist"}}"#;
        assert_eq!(read(400, body), gone(meta(33, "does not exist")), "without a subcode");
        for subcode in ["2494055", "null", "{}", "[33]", "-1", "33.5", "\"x\""] {
            let body = format!(r#"{{"error":{{"code":100,"error_subcode":{subcode},"message":"m"}}}}"#);
            let failed = Outcome::Failed { pause_after: Some(20), cause: meta(100, "m") };
            assert_eq!(read(400, body.as_bytes()), failed, "{subcode}");
        }
    }

    #[test]
    fn an_unreadable_field_does_not_spoil_the_response() {
        let failed = Outcome::Failed { pause_after: None, cause: meta(131_026, "m") };
        for error in [
            r#"{"code":131026.0,"message":"m"}"#,
            r#"{"code":"131026","message":"m","type":7,"error_subcode":{}}"#,
            r#"{"code":131026,"message":"m","error_data":{"details":7},"error_user_msg":"\ud83d"}"#,
        ] {
            for messages in ["", r#""messages":null,"#, r#""messages":{},"#, r#""messages":[null],"#] {
                let body = format!(r#"{{{messages}"error":{error}}}"#);
                assert_eq!(read(400, body.as_bytes()), failed, "{body}");
            }
        }
        let half = r#"{"error":{"code":131026,"message":"S\u00ed \ud83d"}}"#;
        assert_eq!(refusal(half.as_bytes()).expect("an error").details, "Sí \u{fffd}");
        let accepted = br#"{"contacts":"\ud83d","messages":[{"id":"wamid.A","message_status":null}],"error":null}"#;
        assert_eq!(read(200, accepted), Outcome::Accepted { wamid: "wamid.A".into(), held: false });
        let both = br#"{"messages":[{"id":"wamid.A"}],"error":"overloaded"}"#;
        assert!(matches!(read(200, both), Outcome::InDoubt(_)), "an acceptance beside an error of another kind");
    }

    #[test]
    fn an_unknown_code_goes_by_the_http_status() {
        let body = fixture!("error_unknown_code.json");
        let cause = || meta(999_999, "Something new");
        assert_eq!(read(500, body), Outcome::InDoubt(cause()));
        let line = Outcome::Throttled { scope: ErrorScope::Line, wait: Duration::from_secs(1), cause: cause() };
        assert_eq!(read(429, body), line);
        assert_eq!(read(400, body), Outcome::Failed { pause_after: Some(20), cause: cause() });
        assert_eq!(read(200, body), Outcome::InDoubt(cause()));
    }

    #[test]
    fn a_response_that_is_not_metas_json_is_in_doubt() {
        let bodies: [&[u8]; 19] = [
            b"",
            b"<html><body>502 Bad Gateway</body></html>",
            b"null",
            b"[]",
            b"7",
            b"{}",
            b"{\"messages\":[]}",
            b"{\"messages\":[{\"id\":\"\"}]}",
            b"{\"messages\":[{\"id\":7}]}",
            b"{\"messages\":[{\"id\":\"wamid.A\"}]",
            b"{\"messages\":[{\"id\":\"wamid.A\"}]}x",
            b"{\"messages\":[{\"id\":\"wamid.\xff\"}]}",
            b"{\"messages\":[{\"id\":\"wamid.A\"}],\"error\":{\"code\":100}}",
            b"{\"messages\":[{\"id\":\"wamid.A\"}],\"error\":{\"code\":\"E42\"}}",
            b"{\"error\":\"overloaded\"}",
            b"{\"error\":{\"message\":\"no code\"}}",
            b"{\"error\":{\"code\":\"E42\"}}",
            b"{\"error\":{\"code\":-1}}",
            b"{\"error\":{\"code\":4294967296}}",
        ];
        for body in bodies {
            for http_status in [200, 302, 400, 429, 500, 502] {
                let expected = Outcome::InDoubt(Cause::Unanswered(not_meta(http_status, body)));
                assert_eq!(read(http_status, body), expected, "{}", String::from_utf8_lossy(body));
            }
        }
        for http_status in [302, 400, 500] {
            let outcome = read(http_status, fixture!("accepted.json"));
            assert!(matches!(outcome, Outcome::InDoubt(Cause::Unanswered(_))), "an id with HTTP {http_status}");
        }
    }

    #[test]
    fn error_details_are_truncated() {
        let body = format!(r#"{{"error":{{"code":100,"message":"{}"}}}}"#, "ñ".repeat(10_000));
        assert_eq!(refusal(body.as_bytes()).expect("an error").details, "ñ".repeat(DETAILS_CHARS_MAX));
    }
}
