//! Meta's JSON escapes, error envelope and error codes.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Serializes JSON with Meta's escapes: non-ASCII as `\uXXXX` with lowercase digits, `/` as `\/`. A client that checks
/// a signature over anything but the raw bytes fails.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, MetaFormatter))
        .expect("writing to a vector cannot fail, and all maps of the simulator have string keys");
    bytes
}

struct MetaFormatter;

impl Formatter for MetaFormatter {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain_from = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| *c == '/' || !c.is_ascii()) {
            writer.write_all(&fragment.as_bytes()[plain_from..at])?;
            if c == '/' {
                writer.write_all(b"\\/")?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            plain_from = at + c.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[plain_from..])
    }
}

/// An error response of Meta.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: u32,
    subcode: Option<u32>,
    details: String,
}

impl Refusal {
    pub(super) fn new(code: u32, details: impl Into<String>) -> Self {
        Self { code, subcode: None, details: details.into() }
    }

    /// A refusal that has only a code, with the title of the code as its details.
    pub(super) fn bare(code: u32) -> Self {
        Self::new(code, title(code))
    }

    /// The refusal for an id that does not exist or that the token may not see: code 100, subcode 33.
    pub(super) fn no_such_object(id: &str) -> Self {
        let details = format!(
            "Object with ID '{id}' does not exist, cannot be loaded due to missing permissions, or does not support \
            this operation"
        );
        Self { code: 100, subcode: Some(33), details }
    }

    /// The HTTP status and the body. `throttle_status`: the status of refusals for sending too fast.
    pub(super) fn answer(&self, throttle_status: u16, trace: u64) -> (u16, Vec<u8>) {
        let code = self.code;
        let (kind, message) = match self.subcode {
            Some(33) => ("GraphMethodException", format!("Unsupported request. {}", self.details)),
            _ => ("OAuthException", format!("(#{code}) {}", title(code))),
        };
        let envelope = Envelope {
            error: ErrorBody {
                message: &message,
                kind,
                code,
                error_subcode: self.subcode,
                is_transient: matches!(code, 1 | 2 | 131_000 | 131_016).then_some(true),
                error_data: ErrorData { messaging_product: "whatsapp", details: &self.details },
                fbtrace_id: &format!("A{trace:016x}"),
            },
        };
        let status = CODES.iter().find(|(listed, ..)| *listed == code).map_or(400, |(_, status, _)| *status);
        (if status == THROTTLE_STATUS { throttle_status } else { status }, to_json(&envelope))
    }
}

/// Meta's title of a code.
pub(super) fn title(code: u32) -> &'static str {
    CODES.iter().find(|(listed, ..)| *listed == code).map_or("Something went wrong", |(.., title)| title)
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    code: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_subcode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_transient: Option<bool>,
    error_data: ErrorData<'a>,
    fbtrace_id: &'a str,
}

#[derive(Serialize)]
struct ErrorData<'a> {
    messaging_product: &'a str,
    details: &'a str,
}

/// Placeholder in [`CODES`] for [`super::scenario::Limits::refusal_status`].
const THROTTLE_STATUS: u16 = 0;

/// Code, HTTP status and title. Any other code has status 400.
///
/// Source: developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes, read in a copy of 11 Sep 2026. That
/// copy lists no HTTP statuses; they come from an earlier version of the page.
const CODES: &[(u32, u16, &str)] = &[
    (0, 401, "AuthException"),
    (1, 400, "API Unknown"),
    (2, 503, "API Service"),
    (3, 500, "API Method"),
    (4, THROTTLE_STATUS, "API Too Many Calls"),
    (10, 403, "Permission Denied"),
    (17, THROTTLE_STATUS, "User request limit reached"),
    (33, 400, "Parameter value is not valid"),
    (100, 400, "Invalid parameter"),
    (190, 401, "Access token has expired"),
    (200, 403, "API Permission"),
    (368, 403, "Temporarily blocked for policies violations"),
    (613, THROTTLE_STATUS, "Calls to this API have exceeded the rate limit"),
    (2500, 400, "Unknown path components"),
    (80_007, THROTTLE_STATUS, "Rate limit issues"),
    (80_008, THROTTLE_STATUS, "Too many calls to this WhatsApp Business account"),
    (130_403, 400, "User blocked by the business"),
    (130_429, THROTTLE_STATUS, "Rate limit hit"),
    (130_472, 400, "User's number is part of an experiment"),
    (130_497, 403, "Business account is restricted from messaging users in this country"),
    (131_000, 500, "Something went wrong"),
    (131_005, 403, "Access denied"),
    (131_008, 400, "Required parameter is missing"),
    (131_009, 400, "Parameter value is not valid"),
    (131_016, 503, "Service unavailable"),
    (131_021, 400, "Recipient cannot be sender"),
    (131_026, 400, "Message undeliverable"),
    (131_031, 403, "Account has been locked"),
    (131_042, 400, "Business eligibility payment issue"),
    (131_045, 500, "Incorrect certificate"),
    (131_047, 400, "Re-engagement message"),
    (131_048, THROTTLE_STATUS, "Spam rate limit hit"),
    (131_049, 400, "This message was not delivered to maintain healthy ecosystem engagement"),
    (131_050, 400, "User has stopped marketing messages from this business"),
    (131_051, 400, "Unsupported message type"),
    (131_053, 400, "Media upload error"),
    (131_055, 400, "Method not allowed"),
    (131_056, THROTTLE_STATUS, "(Business Account, Consumer Account) pair rate limit hit"),
    (131_057, 500, "Account in maintenance mode"),
    (131_062, 400, "Business-scoped user ids are not supported for this message"),
    (131_063, 400, "Marketing templates are disabled on the Cloud API for this account"),
    (131_064, 400, "Utility template messaging limit reached"),
    (132_000, 400, "Number of parameters does not match the expected number of params"),
    (132_001, 404, "Template name does not exist in the translation"),
    (132_005, 400, "Translated text too long"),
    (132_007, 400, "Template format character policy violated"),
    (132_012, 400, "Parameter format does not match format in the created template"),
    (132_015, 400, "Template is paused"),
    (132_016, 400, "Template is disabled"),
    (132_018, 400, "There was an issue with the parameters in your template"),
    (133_010, 400, "Phone number not registered"),
    (135_000, 400, "Generic user error"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped_as_meta_escapes_it() {
        let value = serde_json::json!({"t": "Z\u{fc}rich 🚀\n", "u": "https://x.test/a"});
        let bytes = to_json(&value);
        assert_eq!(bytes, br#"{"t":"Z\u00fcrich \ud83d\ude80\n","u":"https:\/\/x.test\/a"}"#);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&bytes).expect("it is JSON"), value);
    }

    #[test]
    fn a_refusal_carries_metas_status_and_code() {
        let (status, body) = Refusal::new(132_000, "body: 1 for 2").answer(429, 1);
        let body: serde_json::Value = serde_json::from_slice(&body).expect("it is JSON");
        assert_eq!((status, &body["error"]["code"]), (400, &132_000.into()));
        assert_eq!(body["error"]["error_data"]["details"], "body: 1 for 2");
        assert_eq!(Refusal::bare(130_429).answer(429, 1).0, 429);
        assert_eq!(Refusal::bare(130_429).answer(400, 1).0, 400);
        assert_eq!(Refusal::bare(999_999).answer(400, 1).0, 400);
    }
}
