//! Every kind of problem: its name, HTTP status and meaning.
//!
//! The OpenAPI document lists the kinds that each call can return. A handler names its own in `x-problems`. This module
//! adds those that follow from the parameters and the body of the call.

use std::collections::BTreeMap;

use utoipa::openapi::{
    RefOr,
    path::{Operation, ParameterIn},
};

/// A kind of problem: `urn:pregon:problem:` and its name.
pub(super) struct ProblemKind {
    pub(super) name: &'static str,
    pub(super) status: u16,
    pub(super) meaning: &'static str,
}

const fn kind(name: &'static str, status: u16, meaning: &'static str) -> ProblemKind {
    ProblemKind { name, status, meaning }
}

/// Every kind that a documented call can have, by status.
pub(super) const KINDS: [ProblemKind; 87] = [
    kind("body-cut", 400, "the body ended too early"),
    kind("business-missing", 400, "the key sees several businesses: name one in `business`"),
    kind("invalid-if-match", 400, "the header `If-Match` is not the `ETag` of a chat"),
    kind("invalid-phone", 400, "the phone number in the path is invalid"),
    kind("invalid-position", 400, "the position is not one of this event feed"),
    kind("invalid-query", 400, "a query parameter is invalid or unknown"),
    kind("invalid-rate", 400, "the rate is out of range"),
    kind("invalid-upload-id", 400, "the header `Upload-Id` has a character that is not visible ASCII"),
    kind("malformed-body", 400, "the body is not JSON of the documented form"),
    kind("upload-interrupted", 400, "the body was cut: repeat the upload with its `Upload-Id`"),
    kind("upload-undecodable", 400, "the body is not valid for its `Content-Encoding`, or was cut"),
    kind(
        "login-refused",
        401,
        "the email address, the password, the invitation or the account at the provider is wrong",
    ),
    kind("unauthorized", 401, "the key is missing or unknown, or the session has ended"),
    kind("forbidden", 403, "the key lacks the scope of this call, or is limited to other businesses"),
    kind("agent-not-found", 404, "there is no such agent"),
    kind("business-not-found", 404, "there is no such business in the configuration, or the key is limited to others"),
    kind("campaign-not-found", 404, "there is no such campaign"),
    kind("chat-not-found", 404, "there is no such chat"),
    kind("contact-not-found", 404, "there is no such contact"),
    kind("dead-letter-not-found", 404, "there is no such dead letter"),
    kind("group-not-found", 404, "there is no such group"),
    kind("hold-not-found", 404, "this is not the id of a hold"),
    kind("line-not-found", 404, "there is no such line in the configuration"),
    kind("link-not-found", 404, "there is no such inbound link"),
    kind("media-gone", 404, "the file could not be fetched from Meta, or was removed; `detail` says why"),
    kind("media-not-found", 404, "there is no such file"),
    kind("not-found", 404, "the path is not valid"),
    kind("property-not-found", 404, "there is no such property of contacts"),
    kind("recipient-not-found", 404, "the campaign has no such recipient"),
    kind("reply-not-found", 404, "there is no such canned reply"),
    kind("subscriber-not-found", 404, "there is no such subscriber in the configuration"),
    kind("suppression-not-found", 404, "the person is not suppressed"),
    kind("tag-not-found", 404, "there is no such tag"),
    kind("template-not-found", 404, "the WABA has no such template, or none of its lines is configured"),
    kind("body-too-slow", 408, "the body arrived too slowly"),
    kind("agent-exists", 409, "another agent has the email address"),
    kind("agent-offline", 409, "the business has no such agent, or the agent is offline"),
    kind("campaign-conflict", 409, "the `external_id` belongs to a campaign with another definition"),
    kind("campaign-empty", 409, "the campaign has no recipients"),
    kind("campaign-expired", 409, "the `expires_at` of the campaign has passed"),
    kind("campaign-state", 409, "the state of the campaign does not allow the call"),
    kind("chat-of-another-agent", 409, "another agent is in charge of the chat"),
    kind("contact-exists", 409, "the business has a contact with this number; `detail` has its id"),
    kind("feed-disabled", 409, "no events are written: `feed.enabled` is false"),
    kind("group-exists", 409, "the business has a group with this id"),
    kind("group-in-use", 409, "the group has chats"),
    kind("line-without-number", 409, "the configuration has no number of the line: `line.display`"),
    kind("media-pending", 409, "the file is not fetched from Meta yet; repeat the call"),
    kind("no-database", 409, "the server has no database for chats: `database.url` is not set"),
    kind("no-login-provider", 409, "the server has no provider of logins: `agents.oidc` is not set"),
    kind("no-media-store", 409, "the server stores no files: `media.url` is not set"),
    kind("property-exists", 409, "the business has a property with this key"),
    kind("recipients-forgotten", 409, "the recipients were deleted at the end of their retention"),
    kind("reply-exists", 409, "the business has a canned reply with this shortcut"),
    kind("retry-conflict", 409, "the `external_id` belongs to a retry of other recipients"),
    kind("tag-exists", 409, "the business has a tag with this id"),
    kind("template-not-paused", 409, "Meta has not paused the template; `detail` has its status"),
    kind("too-many-recipients", 409, "the campaign would have too many recipients"),
    kind("unpause-refused", 409, "Meta does not lift the pause; `detail` has its reason"),
    kind("upload-conflict", 409, "the `Upload-Id` belongs to other rows"),
    kind("upload-in-progress", 409, "another connection is sending the same upload"),
    kind("window-closed", 409, "only a template can be sent: the contact has not written within 24 hours"),
    kind("recipients-dropped", 410, "the recipients were deleted at the end of their retention"),
    kind("chat-changed", 412, "the chat does not have the revision in `If-Match` any more"),
    kind(
        "body-too-large",
        413,
        "the body is longer than `http.body_bytes_max`, or the file larger than Meta or `media.max_size` allow",
    ),
    kind("upload-expands-too-far", 413, "the body expands to more than 1,000 times its length"),
    kind("unsupported-encoding", 415, "the call does not accept this `Content-Encoding`"),
    kind("unsupported-media-type", 415, "the call does not accept this `Content-Type`"),
    kind("range-not-satisfiable", 416, "the header `Range` begins after the end of the file"),
    kind("invalid", 422, "values are invalid; `problems` lists them all"),
    kind("template-changed", 422, "the template was edited at Meta and takes other values now"),
    kind("template-missing", 422, "Meta has no such template"),
    kind("template-not-approved", 422, "Meta does not send the template now"),
    kind("template-unsupported", 422, "the template contains something that can't be sent"),
    kind("templates-not-synced", 422, "the templates of the WABA were never read from Meta"),
    kind("upload-unreadable", 422, "the header row of the CSV does not fit"),
    kind("too-many-logins", 429, "too many logins were tried from this address, or for this agent"),
    kind("too-many-streams", 429, "too many streams of this kind are open on this server"),
    kind("too-many-unknown-keys", 429, "too many calls from this address had an unknown key"),
    kind("internal", 500, "a bug in Pregón; its log has the cause"),
    kind("meta-no-answer", 502, "Meta did not answer, and may have done what was asked; repeat the call"),
    kind("sync-failed", 502, "Meta did not return the templates of some WABAs; `problems` names them"),
    kind("login-provider-unavailable", 503, "the provider of logins does not answer as it should"),
    kind("pause-unconfirmed", 503, "the pause is stored, but `detail` names workers that have not confirmed it"),
    kind("timeout", 503, "the call took too long; if it changes something, the change may have been made"),
    kind("unavailable", 503, "Redis is unavailable; if the call changes something, the change may have been made"),
    kind("redis-full", 507, "Redis has no room for more recipients, or is full; `detail` has the remedy"),
];

/// Kinds that every call can have.
const OF_EVERY_CALL: [&str; 6] =
    ["unauthorized", "forbidden", "too-many-unknown-keys", "internal", "timeout", "unavailable"];

/// Kinds of calls with a JSON body.
const OF_JSON: [&str; 6] =
    ["body-cut", "malformed-body", "body-too-slow", "body-too-large", "unsupported-encoding", "unsupported-media-type"];

/// The extension in which a handler names its own kinds.
const EXTENSION: &str = "x-problems";

/// Every kind of `operation`, by status. `reads`: it changes nothing. Removes the extension from it.
///
/// Panics: the operation names a kind that is not one of [`KINDS`].
pub(super) fn of(operation: &mut Operation, reads: bool) -> BTreeMap<u16, Vec<&'static ProblemKind>> {
    let own = operation.extensions.as_mut().and_then(|extensions| extensions.remove(EXTENSION)).unwrap_or_default();
    operation.extensions = None;
    let own: Vec<String> = serde_json::from_value(own).unwrap_or_default();
    let mut names: Vec<&str> = OF_EVERY_CALL.into_iter().chain(own.iter().map(String::as_str)).collect();
    if !reads {
        names.push("redis-full");
    }
    for parameter in operation.parameters.iter().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        match (&parameter.parameter_in, parameter.name.as_str()) {
            (ParameterIn::Query, _) => names.push("invalid-query"),
            (ParameterIn::Path, "agent") => names.extend(["agent-not-found", "not-found"]),
            (ParameterIn::Path, "link") => names.extend(["link-not-found", "not-found"]),
            (ParameterIn::Path, "contact") => names.extend(["contact-not-found", "not-found"]),
            (ParameterIn::Path, "property") => names.extend(["property-not-found", "not-found"]),
            (ParameterIn::Path, "reply") => names.extend(["reply-not-found", "not-found"]),
            (ParameterIn::Path, "tag") => names.extend(["tag-not-found", "not-found"]),
            (ParameterIn::Path, "group") => names.extend(["group-not-found", "not-found"]),
            (ParameterIn::Path, "campaign") => names.extend(["campaign-not-found", "not-found"]),
            (ParameterIn::Path, "chat") => names.extend(["chat-not-found", "not-found"]),
            (ParameterIn::Path, "dead_letter") => names.extend(["dead-letter-not-found", "not-found"]),
            (ParameterIn::Path, "hold") => names.extend(["hold-not-found", "not-found"]),
            (ParameterIn::Path, "line") => names.extend(["line-not-found", "not-found"]),
            (ParameterIn::Path, "media") => names.extend(["media-not-found", "not-found"]),
            (ParameterIn::Path, "waba") => names.extend(["template-not-found", "not-found"]),
            (ParameterIn::Path, "subscriber") => names.extend(["subscriber-not-found", "not-found"]),
            _ => {}
        }
    }
    if let Some(RefOr::T(body)) = &operation.request_body
        && body.content.contains_key("application/json")
    {
        names.extend(OF_JSON);
    }
    let mut by_status: BTreeMap<u16, Vec<&ProblemKind>> = BTreeMap::new();
    for kind in KINDS.iter().filter(|kind| names.contains(&kind.name)) {
        by_status.entry(kind.status).or_default().push(kind);
    }
    let unknown = names.iter().find(|name| !KINDS.iter().any(|kind| kind.name == **name));
    assert_eq!(unknown, None, "a kind that {:?} names", operation.operation_id);
    by_status
}
