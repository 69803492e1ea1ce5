//! Why a call did not give what was asked for, as a sentence with its remedy.

use std::{error::Error, fmt, io};

use reqwest::{StatusCode, Url};
use serde::Deserialize;

/// How much of an answer that nobody understands is repeated, in characters.
const REPEATED_CHARS_MAX: usize = 200;

/// Why a call failed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// This client can not be made.
    #[error("{0}")]
    Unusable(String),
    /// Nobody listens there.
    #[error(
        "no server answers at {server} ({reason}): start one with `pregon serve`, or name another by --server or PREGON_SERVER"
    )]
    Unreachable {
        /// Where.
        server: Url,
        /// What the system said.
        reason: String,
    },
    /// Somebody listens there, with a certificate that proves nothing here.
    #[error("the certificate of {server} is not trusted ({reason}): name the CA that it is of by --ca or PREGON_CA")]
    Untrusted {
        /// Where.
        server: Url,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection ended, or nothing came for too long: what was asked for may have happened.
    #[error("the connection to {server} broke: {reason}")]
    Broken {
        /// Where.
        server: Url,
        /// What the system said.
        reason: String,
    },
    /// 401.
    #[error("{server} {}: set PREGON_API_KEY (or --api-key) to one of the keys in its http.api_keys", match given {
        true => "does not know this key",
        false => "asks for a key",
    })]
    Unauthorized {
        /// Where.
        server: Url,
        /// A key was sent.
        given: bool,
    },
    /// The server says what is wrong.
    #[error("{problem} (HTTP {})", status.as_u16())]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The rest of it.
        problem: Problem,
    },
    /// Somebody answered, but not a server of this program.
    #[error("{server} gave an answer that is not pregon's (HTTP {}: {text}): check --server", status.as_u16())]
    NotPregon {
        /// Where.
        server: Url,
        /// The HTTP status.
        status: StatusCode,
        /// What it said, cut.
        text: String,
    },
}

impl ClientError {
    /// The connection is at fault, so that another try may succeed.
    pub fn is_of_connection(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. } | ClientError::Broken { .. })
    }

    /// Another try may succeed: the connection is at fault, or the server says that it can not do it now.
    pub fn is_passing(&self) -> bool {
        match self {
            ClientError::Refused { status, .. } | ClientError::NotPregon { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => self.is_of_connection(),
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
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) if problem.is_one() => Self::Refused { status, problem },
            _ => Self::not_pregon(&server, status, body),
        }
    }

    pub(super) fn not_pregon(server: &Url, status: StatusCode, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self::NotPregon {
            server: server.clone(),
            status,
            text: match words.char_indices().nth(REPEATED_CHARS_MAX) {
                Some((end, _)) => format!("{}…", &words[..end]),
                None if words.is_empty() => "nothing".into(),
                None => words,
            },
        }
    }
}

/// The cause at the bottom, such as `Connection refused (os error 111)`: what is above it only says that a call failed.
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
        // An error of the system's kind hands on the cause of what it wraps, and not that itself.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// An RFC 9457 problem.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// What kind, for programs: `urn:pregon:problem:` and its name.
    pub r#type: String,
    /// What kind, in words.
    pub title: Option<String>,
    /// What happened this time.
    pub detail: Option<String>,
    /// Everything that is wrong, where it is more than one thing.
    pub problems: Vec<String>,
}

impl Problem {
    /// Whether it is of this kind, such as `campaign-conflict`.
    pub fn is(&self, kind: &str) -> bool {
        self.r#type.strip_prefix("urn:pregon:problem:") == Some(kind)
    }

    fn is_one(&self) -> bool {
        self.title.is_some() || self.detail.is_some()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail.as_ref().or(self.title.as_ref()).map_or("the server gave no reason", String::as_str))?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Url {
        "http://127.0.0.1:8080".parse().expect("a URL")
    }

    fn told(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).expect("a status");
        ClientError::of_answer(&server(), true, status, body.as_bytes()).to_string()
    }

    #[test]
    fn a_problem_is_its_detail_and_a_line_for_each_fault() {
        let body = r#"{"type":"/problems/invalid","title":"invalid campaign","status":422,"detail":"the campaign has 2 faults",
            "problems":["line 9 is not configured","priority is 11, at most 10"]}"#;
        assert_eq!(
            told(422, body),
            "the campaign has 2 faults\n  line 9 is not configured\n  priority is 11, at most 10 (HTTP 422)"
        );
        assert_eq!(told(404, r#"{"title":"no such campaign","status":404}"#), "no such campaign (HTTP 404)");
    }

    #[test]
    fn an_answer_of_a_stranger_is_told_from_a_problem() {
        let text = told(502, "<html>\n  <h1>Bad Gateway</h1>\n</html>");
        assert!(text.contains("not pregon's (HTTP 502: <html> <h1>Bad Gateway</h1> </html>)"), "{text}");
        assert!(told(404, r#"{"error":"nope"}"#).contains("not pregon's"), "JSON alone is no problem");
        let long = told(500, &"é".repeat(10_000));
        assert!(long.chars().count() < 400 && long.contains('…'), "{long}");
    }

    #[test]
    fn a_refused_key_and_a_missing_key_are_told_apart() {
        let told = |given| ClientError::of_answer(&server(), given, StatusCode::UNAUTHORIZED, b"{}").to_string();
        assert!(told(true).starts_with("http://127.0.0.1:8080/ does not know this key: set PREGON_API_KEY"));
        assert!(told(false).starts_with("http://127.0.0.1:8080/ asks for a key: set PREGON_API_KEY"));
    }
}
