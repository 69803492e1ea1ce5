//! The OpenAPI document of the API, and the pages that show it: `GET /openapi.json` and `GET /docs`.
//!
//! Handlers declare their call in `#[utoipa::path]`: path, parameters, bodies and scope. This module adds what all
//! calls have in common. The scopes that [`guard`](super::guard) enforces, and the calls that it audits, are read from
//! the finished document.
//!
//! Both pages are public. They say what every release of Pregón says, and nothing about this installation.

use std::collections::HashMap;

use axum::{
    Router,
    body::Bytes,
    http::{HeaderName, Method, header},
    routing::get,
};
use serde_json::{Value, json};
use utoipa::openapi::{
    ComponentsBuilder, Info, Object, OpenApi, PathItem, RefOr, Type,
    path::{Operation, Parameter, ParameterBuilder, ParameterIn},
    response::Response,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

use super::{
    docs_page,
    problems::{self, ProblemKind},
};
use crate::{
    api_types::{ChatMessageEvent, PROBLEM_PREFIX, ProblemBody, StateEvent},
    config::KeyScope,
};

/// The name of the security scheme: an API key. A call's requirement lists the scope that the key needs.
const API_KEY: &str = "api_key";

/// The name of the other one: the cookie of an agent.
const SESSION: &str = "session";

/// The page needs no script, and no file but its style sheet.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The document, before the handlers add their calls.
pub(super) fn empty() -> OpenApi {
    let mut info = Info::new("Pregón", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Submit WhatsApp campaigns, follow them, and operate lines. Times are RFC 3339 in UTC, phone numbers E.164 \
         with a plus. Every call needs an API key; the scope that the key needs is listed with each call. Errors are \
         RFC 9457 problems: match on `type`. A newer version may add fields to responses, and values to enumerations."
            .into(),
    );
    let session = ApiKeyValue::with_description(
        "__Host-pregon",
        "The cookie that `log_in` sets. The role of the agent says which scopes it has. A call that changes something \
         needs the header `X-CSRF-Token` too, with the `csrf_token` of the session.",
    );
    let mut api = OpenApi::new(info, utoipa::openapi::Paths::new());
    let mut key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    key.description = Some("A key of `http.api_keys`. Its `scopes` limit which calls it may make.".into());
    api.components = Some(
        ComponentsBuilder::new()
            .security_scheme(API_KEY, SecurityScheme::Http(key))
            .security_scheme(SESSION, SecurityScheme::ApiKey(ApiKey::Cookie(session)))
            .schema_from::<ProblemBody>()
            .schema_from::<StateEvent>()
            .schema_from::<ChatMessageEvent>()
            .build(),
    );
    api
}

/// Completes the document that the handlers have filled, and returns what the guard has to know of each call.
///
/// Panics: a handler declares no scope, or a kind of problem that there is not. So no server starts with such a route.
pub(super) fn complete(api: &mut OpenApi) -> Calls {
    let mut calls = HashMap::new();
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            let needs = declared_needs(path, operation);
            if let Needs::Scope(_) = needs {
                operation.security.get_or_insert_default().push(SecurityRequirement::new(SESSION, [""; 0]));
            }
            let reads = method == Method::GET;
            let is_audited = !reads && !declares(operation, UNAUDITED);
            if !reads {
                operation.parameters.get_or_insert_default().push(RefOr::T(traceparent()));
            }
            let id = operation.operation_id.clone().unwrap_or_default();
            calls.insert((method, path.clone()), Call { id, needs, is_audited });
            for (status, kinds) in problems::of(operation, reads) {
                let response = problem_response(status, &kinds);
                operation.responses.responses.insert(status.to_string(), RefOr::T(response));
            }
        }
    }
    Calls(calls)
}

/// The extension of calls that change something and are not in the audit trail.
const UNAUDITED: &str = "x-unaudited";

/// What the guard has to know of a call.
pub(super) struct Call {
    /// The operation id.
    pub(super) id: String,
    /// What the caller needs.
    pub(super) needs: Needs,
    /// Whether the call is in the audit trail.
    pub(super) is_audited: bool,
}

/// What the caller of a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: the call is how to get a session.
    Nothing,
    /// A session.
    Session,
    /// A key or a session with this scope.
    Scope(KeyScope),
}

/// Every call.
pub(super) struct Calls(HashMap<(Method, String), Call>);

impl Calls {
    /// The call `method` on the route `path`, if there is one.
    pub(super) fn of(&self, method: &Method, path: &str) -> Option<&Call> {
        // axum answers HEAD with the handler of GET.
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.0.get(&(method.clone(), path.to_owned()))
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, put, post, patch, delete, .. } = item;
    let operations = [
        (Method::GET, get),
        (Method::PUT, put),
        (Method::POST, post),
        (Method::PATCH, patch),
        (Method::DELETE, delete),
    ];
    operations.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Whether a handler has set an extension. `problems::of` removes them all.
fn declares(operation: &Operation, extension: &str) -> bool {
    operation.extensions.as_ref().is_some_and(|extensions| extensions.contains_key(extension))
}

fn declared_needs(path: &str, operation: &Operation) -> Needs {
    // The fields of a requirement are private; its JSON is an object: the name of the scheme, with a list of scopes.
    let declared = serde_json::to_value(&operation.security).expect("plain JSON");
    let [requirement] = declared.as_array().map(Vec::as_slice).unwrap_or_default() else {
        panic!("{:?} of {path} has no scope: declare it in `security`", operation.operation_id)
    };
    if requirement.as_object().is_some_and(serde_json::Map::is_empty) {
        return Needs::Nothing;
    }
    if requirement.get(SESSION).is_some() {
        return Needs::Session;
    }
    let scope = requirement[API_KEY].as_array().and_then(|scopes| match scopes.as_slice() {
        [Value::String(name)] => KeyScope::ALL.into_iter().find(|scope| scope.name() == name).map(Needs::Scope),
        _ => None,
    });
    scope.unwrap_or_else(|| panic!("{:?} of {path} does not have one scope of {API_KEY}", operation.operation_id))
}

fn problem_response(status: u16, kinds: &[&ProblemKind]) -> Response {
    let described: Vec<_> = kinds.iter().map(|kind| format!("`{}`: {}", kind.name, kind.meaning)).collect();
    let types: Vec<_> = kinds.iter().map(|kind| format!("{PROBLEM_PREFIX}{}", kind.name)).collect();
    let header = |text: &str, kind: &str| json!({ "description": text, "schema": { "type": kind } });
    let headers = match status {
        401 => json!({ "WWW-Authenticate": header("`Bearer`", "string") }),
        415 => json!({ "Accept-Encoding": header("The encodings that the call accepts, if yours is not.", "string") }),
        429 | 503 => json!({ "Retry-After": header("Seconds after which a repetition can succeed.", "integer") }),
        _ => json!({}),
    };
    let response = json!({
        "description": described.join(". "),
        "headers": headers,
        "content": { "application/problem+json": { "schema": { "allOf": [
            { "$ref": "#/components/schemas/Problem" },
            { "type": "object", "properties": { "type": { "type": "string", "enum": types } } },
        ] } } },
    });
    serde_json::from_value(response).expect("a response of OpenAPI")
}

/// The header of a call that changes something.
fn traceparent() -> Parameter {
    ParameterBuilder::new()
        .name("traceparent")
        .parameter_in(ParameterIn::Header)
        .description(Some(
            "The caller's span, as W3C Trace Context defines it: the traces of recipients link to it. An invalid one is \
             ignored.",
        ))
        .schema(Some(Object::with_type(Type::String)))
        .build()
}

/// The routes of the document and of the page that shows it. They need no API key.
pub(super) fn routes(api: &OpenApi) -> Router {
    // A `Value` sorts the fields of objects, and the text is indented, so that a diff of the committed document is
    // readable.
    let document = serde_json::to_value(api).expect("plain JSON");
    let json = serde_json::to_string_pretty(&document).expect("plain JSON") + "\n";
    // Cheap to clone, which each response does.
    let (json, page) = (Bytes::from(json), Bytes::from(docs_page::render(&document)));
    let security = HeaderName::from_static("content-security-policy");
    let json_type = [(header::CONTENT_TYPE, "application/json")];
    let page_headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (security, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let style_type = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];
    Router::new()
        .route("/openapi.json", get(async move || (json_type, json)))
        .route("/docs", get(async move || (page_headers, page)))
        .route("/docs.css", get(async move || (style_type, docs_page::STYLE)))
}

#[cfg(test)]
mod tests {
    use utoipa::openapi::HttpMethod;

    use super::*;

    #[test]
    #[should_panic(expected = "has no scope")]
    fn a_call_without_a_scope_stops_the_server() {
        let mut api = empty();
        api.paths.add_path_operation("/v1/agents", vec![HttpMethod::Get], Operation::new());
        complete(&mut api);
    }
}
