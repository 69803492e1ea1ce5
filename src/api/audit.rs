//! The audit trail: one log line with the target `audit` for each call that changes something.
//!
//! The guard opens an entry before such a call, and the handler says through [`Audit`] what it changes. The line is
//! written when the response is ready, or when the client disconnects before that. Uploads are not in the trail. A
//! change is also an event.
//!
//! If the process dies during a call: there is no line and no event, and the change may have been made.
//! Never: contains anything of a body.

use std::{
    fmt::Display,
    sync::{Arc, OnceLock},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, request::Parts},
};
use serde::Serialize;
use tracing::info;
use ulid::Ulid;

use crate::{
    domain::{Event, EventType, UnixMs},
    http::problem::{Problem, Result},
};

/// The header with which callers and proxies name a request.
const REQUEST_ID: &str = "x-request-id";

/// Maximum number of characters of a text from a request: an id in a path, a request id.
const TEXT_CHARS_MAX: usize = 64;

/// The result of a call that had an effect.
const CHANGED: &str = "changed";

/// The fields of an event about a change.
#[derive(Serialize)]
struct ChangeFields<'a> {
    who: &'a str,
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// What the handler of a call says about its change.
#[derive(Clone, Debug, Default)]
pub(super) struct Audit(Arc<Effect>);

#[derive(Debug, Default)]
struct Effect {
    on: OnceLock<String>,
    changed: OnceLock<bool>,
}

impl Audit {
    /// Names what the call changes, if that is not the id in its path.
    pub(super) fn on(&self, on: impl Display) {
        let _ = self.0.on.set(on.to_string());
    }

    /// Says whether the call had an effect.
    pub(super) fn changed(&self, changed: bool) {
        let _ = self.0.changed.set(changed);
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Audit {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let audit = parts.extensions.get::<Audit>().cloned();
        audit.ok_or_else(|| Problem::internal("a call with an audited change that the guard does not audit"))
    }
}

/// The entry of a call that is in progress. Dropping it writes the line.
pub(super) struct AuditEntry {
    audit: Audit,
    who: String,
    what: String,
    path_id: Option<String>,
    request_id: Option<String>,
    status: Option<StatusCode>,
}

impl AuditEntry {
    /// Opens the entry of a call by the key `who`. `what` is the operation id of the call, and `path_id` the id in its
    /// path.
    pub(super) fn open(who: &str, what: &str, path_id: Option<&str>, headers: &HeaderMap) -> Self {
        let request_id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let text = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect();
        Self {
            audit: Audit::default(),
            who: who.to_owned(),
            what: what.to_owned(),
            path_id: path_id.map(text),
            request_id: request_id.map(text),
            status: None,
        }
    }

    /// What the handler fills in.
    pub(super) fn audit(&self) -> Audit {
        self.audit.clone()
    }

    /// Closes the entry with the status of the response. Returns the event of the change, as JSON, if there was one.
    pub(super) fn close(mut self, status: StatusCode, at: UnixMs) -> Option<String> {
        self.status = Some(status);
        (self.result() == CHANGED).then(|| self.event(at))
    }

    fn event(&self, at: UnixMs) -> String {
        let id = format!("operator:{}", Ulid::from_parts(at.0, rand::random()));
        let (on, request_id) = (self.on(), self.request_id.as_deref());
        let details = ChangeFields { who: &self.who, what: &self.what, on, request_id };
        Event::new(id, EventType::OperatorChanged, at, details).to_json()
    }

    fn on(&self) -> Option<&str> {
        self.audit.0.on.get().or(self.path_id.as_ref()).map(String::as_str)
    }

    /// `failed` and `aborted` leave open whether the change was made.
    fn result(&self) -> &'static str {
        match self.status {
            None => "aborted",
            Some(status) if status.is_server_error() => "failed",
            Some(status) if status.is_client_error() => "refused",
            Some(_) if self.audit.0.changed.get() == Some(&false) => "unchanged",
            Some(_) => CHANGED,
        }
    }
}

impl Drop for AuditEntry {
    fn drop(&mut self) {
        let Self { who, what, request_id, .. } = &*self;
        let (on, result, status) = (self.on(), self.result(), self.status.map(|status| status.as_u16()));
        info!(target: "audit", who, what, on, result, status, request_id, "change by an operator");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::Mutex,
    };

    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic under the lock").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The line of an entry that `end` ends.
    fn line(end: impl FnOnce(AuditEntry)) -> Value {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone());
        tracing::subscriber::with_default(subscriber.finish(), || {
            let headers = HeaderMap::from_iter([(
                "x-request-id".parse().expect("a name"),
                "r".repeat(99).parse().expect("a value"),
            )]);
            end(AuditEntry::open("backend", "pause_line", Some("3001"), &headers));
        });
        let text = lines.0.lock().expect("no panic under the lock").clone();
        serde_json::from_slice(&text).expect("one line of JSON")
    }

    #[test]
    fn a_call_whose_client_leaves_has_a_line_too() {
        let line = line(drop);
        assert_eq!((&line["target"], &line["result"]), (&json!("audit"), &json!("aborted")));
        assert_eq!(
            (&line["who"], &line["what"], &line["on"]),
            (&json!("backend"), &json!("pause_line"), &json!("3001"))
        );
        assert_eq!(line["request_id"], "r".repeat(TEXT_CHARS_MAX));
        assert!(line.get("status").is_none(), "{line}");
    }

    #[test]
    fn the_result_of_a_change_follows_from_its_status_and_effect() {
        for (status, changed, result) in [
            (StatusCode::OK, Some(true), "changed"),
            (StatusCode::NO_CONTENT, None, "changed"),
            (StatusCode::OK, Some(false), "unchanged"),
            (StatusCode::CONFLICT, None, "refused"),
            (StatusCode::SERVICE_UNAVAILABLE, Some(false), "failed"),
        ] {
            let line = line(|entry| {
                entry.audit().on("all");
                changed.into_iter().for_each(|changed| entry.audit().changed(changed));
                let event = entry.close(status, UnixMs(1_000));
                assert_eq!(event.is_some(), result == "changed", "only a change is an event");
            });
            let expected = json!([result, "all", status.as_u16()]);
            assert_eq!(json!([line["result"], line["on"], line["status"]]), expected, "{status} {changed:?}");
        }
    }
}
