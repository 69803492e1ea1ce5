//! Errors of API calls, as sentences with their remedy.

use std::{error::Error, io};

use reqwest::{StatusCode, Url};

use crate::api_types::ProblemBody;

/// Maximum length of the quotation from a response that is not pregon's, in characters.
const QUOTED_CHARS_MAX: usize = 200;

/// Why a call failed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client cannot be built from these settings.
    #[error("{0}")]
    Unusable(String),
    /// The server cannot be connected to.
    #[error(
        "no server answers at {server} ({reason}): start one with `pregon serve`, or name another with --server or \
        PREGON_SERVER"
    )]
    Unreachable {
        /// The server.
        server: Url,
        /// The innermost cause.
        reason: String,
    },
    /// The server's certificate is not trusted.
    #[error("the certificate of {server} is not trusted ({reason}): name its CA with --ca or PREGON_CA")]
    Untrusted {
        /// The server.
        server: Url,
        /// Why the certificate is not trusted.
        reason: String,
    },
    /// The connection failed, or no data arrived in time. The call may have taken effect.
    #[error("the connection to {server} broke: {reason}")]
    Broken {
        /// The server.
        server: Url,
        /// The innermost cause.
        reason: String,
    },
    /// The server returned 401.
    #[error("{server} {}: set PREGON_API_KEY (or --api-key) to one of the keys in its http.api_keys", match given {
        true => "does not know this key",
        false => "asks for a key",
    })]
    Unauthorized {
        /// The server.
        server: Url,
        /// Whether a key was sent.
        given: bool,
    },
    /// No campaign has this external id.
    #[error("there is no campaign with the id or external id {0}: `pregon campaign list` shows the campaigns")]
    NoCampaign(String),
    /// No agent has this email address.
    #[error("there is no agent with the email address {0}: `pregon agent list` shows the agents")]
    NoAgent(String),
    /// The server returned a problem.
    #[error("{} (HTTP {})", sentence(problem), status.as_u16())]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The problem in the body.
        problem: ProblemBody,
    },
    /// The response is not pregon's: another server, or a proxy.
    #[error("{server} returned a response that is not pregon's (HTTP {}: {text}): check --server", status.as_u16())]
    NotPregon {
        /// The server.
        server: Url,
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of the body.
        text: String,
    },
}

impl ClientError {
    /// Whether the connection failed, so that a retry may succeed.
    pub fn is_connection_error(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. } | ClientError::Broken { .. })
    }

    /// Whether a retry may succeed: the connection failed, or the server returned 5xx or 429.
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Refused { status, .. } | ClientError::NotPregon { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => self.is_connection_error(),
        }
    }

    pub(super) fn of_request(server: &Url, error: &reqwest::Error) -> Self {
        let server = server.clone();
        if let Some(reason) = bad_certificate(error) {
            return Self::Untrusted { server, reason };
        }
        let reason = innermost(error);
        if error.is_connect() { Self::Unreachable { server, reason } } else { Self::Broken { server, reason } }
    }

    pub(super) fn of_answer(server: &Url, given: bool, status: StatusCode, body: &[u8]) -> Self {
        let server = server.clone();
        if status == StatusCode::UNAUTHORIZED {
            return Self::Unauthorized { server, given };
        }
        match serde_json::from_slice::<ProblemBody>(body) {
            // Every field is optional, so any JSON object parses.
            Ok(problem) if !(problem.title.is_empty() && problem.detail.is_empty()) => {
                Self::Refused { status, problem }
            }
            _ => Self::not_pregon(&server, status, body),
        }
    }

    pub(super) fn not_pregon(server: &Url, status: StatusCode, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self::NotPregon {
            server: server.clone(),
            status,
            text: match words.char_indices().nth(QUOTED_CHARS_MAX) {
                Some((end, _)) => format!("{}…", &words[..end]),
                None if words.is_empty() => "empty".into(),
                None => words,
            },
        }
    }
}

/// The innermost cause, such as `Connection refused (os error 111)`. The outer errors only say that a call failed.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn bad_certificate(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return Some(error.to_string());
        }
        // `io::Error::source` skips the error that it wraps and returns that error's source, so unwrap it here.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// The detail of a problem, or its title if it has none, and each of its faults. The detail of the kind `invalid` only
/// repeats the faults, and is left out.
fn sentence(problem: &ProblemBody) -> String {
    let ProblemBody { title, detail, problems, .. } = problem;
    let what = match problems.as_slice() {
        [fault] if problem.is("invalid") => return fault.clone(),
        [] if detail.is_empty() => title.clone(),
        faults if detail.is_empty() || problem.is("invalid") && !faults.is_empty() => {
            format!("{title}: {} problems", faults.len())
        }
        _ => detail.clone(),
    };
    problems.iter().fold(what, |text, fault| format!("{text}\n  {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Url {
        "http://127.0.0.1:8080".parse().expect("a URL")
    }

    fn message(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).expect("a status");
        ClientError::of_answer(&server(), true, status, body.as_bytes()).to_string()
    }

    #[test]
    fn a_problem_is_shown_with_a_line_for_each_fault() {
        let body = r#"{"type":"urn:pregon:problem:sync-failed","title":"sync failed","status":502,
            "detail":"some wabas could not be read","problems":["waba 2001: no answer","waba 2002: no answer"]}"#;
        assert_eq!(
            message(502, body),
            "some wabas could not be read\n  waba 2001: no answer\n  waba 2002: no answer (HTTP 502)"
        );
        assert_eq!(message(404, r#"{"title":"no such campaign","status":404}"#), "no such campaign (HTTP 404)");
    }

    #[test]
    fn a_fault_is_shown_once() {
        let body = |detail: &str, faults: &str| {
            let kind = "urn:pregon:problem:invalid";
            message(422, &format!(r#"{{"type":"{kind}","title":"invalid","detail":"{detail}","problems":[{faults}]}}"#))
        };
        assert_eq!(
            body("line 9 is not configured", r#""line 9 is not configured""#),
            "line 9 is not configured (HTTP 422)"
        );
        assert_eq!(
            body("a is 1; b is 2", r#""a is 1","b is 2""#),
            "invalid: 2 problems\n  a is 1\n  b is 2 (HTTP 422)"
        );
    }

    #[test]
    fn a_response_of_another_program_is_not_a_problem() {
        let text = message(502, "<html>\n  <h1>Bad Gateway</h1>\n</html>");
        assert!(text.contains("not pregon's (HTTP 502: <html> <h1>Bad Gateway</h1> </html>)"), "{text}");
        assert!(
            message(404, r#"{"error":"nope"}"#).contains("not pregon's"),
            "JSON without a title or a detail is no problem"
        );
        let long = message(500, &"é".repeat(10_000));
        assert!(long.chars().count() < 400 && long.contains('…'), "{long}");
    }

    #[test]
    fn a_wrong_key_and_a_missing_key_have_different_errors() {
        let message = |given| ClientError::of_answer(&server(), given, StatusCode::UNAUTHORIZED, b"{}").to_string();
        assert!(message(true).starts_with("http://127.0.0.1:8080/ does not know this key: set PREGON_API_KEY"));
        assert!(message(false).starts_with("http://127.0.0.1:8080/ asks for a key: set PREGON_API_KEY"));
    }
}
