//! Remedies for errors of the API, for people at a command line, where the API's own text names none.

use crate::client::ClientError;

/// The error, with its remedy on a separate line unless the text contains one.
pub(super) fn with_remedy(error: &ClientError) -> String {
    let remedy = match error {
        ClientError::Refused { problem, .. } => problem.kind().and_then(of),
        _ => None,
    };
    let text = error.to_string();
    remedy.map_or_else(|| text.clone(), |remedy| format!("{text}\n{remedy}"))
}

/// The remedy for a problem of this kind; `None` if its detail contains one, or if no command can cause it.
fn of(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "forbidden" => "Use a key that may do this: PREGON_API_KEY or --api-key, one of `http.api_keys` of the server.",
        "campaign-not-found" => "`pregon campaign list` shows the campaigns; an external id works in place of an id.",
        "line-not-found" => "`pregon line list` shows the lines.",
        "business-missing" => "Name one with --business.",
        "agent-exists" | "agent-not-found" => "`pregon agent list` shows the agents.",
        "group-not-found" => "`pregon group list` shows the groups.",
        "dead-letter-not-found" => "`pregon job list` shows the dead letters.",
        "template-missing" => "`pregon template list` shows the templates.",
        "template-not-paused" => "`pregon template show` shows its status.",
        "suppression-not-found" => "`pregon suppression list` shows the suppressions.",
        "recipient-not-found" => "`pregon campaign recipients` lists the recipients.",
        "not-found" | "method-not-allowed" => "The server may be of an older release than this command: upgrade it.",
        "campaign-state" => "`pregon campaign show` shows what the campaign does now.",
        "campaign-empty" => "Add recipients with `pregon campaign upload`.",
        "campaign-expired" => "Move its end with `pregon campaign change --expires-at`.",
        "campaign-conflict" => "Use another --external-id, or the options with which the campaign was created.",
        "retry-conflict" => "Use another --external-id.",
        "templates-not-synced" => "`pregon check` says why `pregon serve` could not read them when it started.",
        "unpause-refused" => "Repeat the command in five minutes, or lift the pause in WhatsApp Manager.",
        "feed-disabled" => "Set `feed.enabled = true` in the configuration of the server.",
        "invalid-position" => "--after 0 begins with the oldest event that is kept.",
        "recipients-dropped" | "recipients-forgotten" => "The statistics stay: `pregon campaign show` shows them.",
        "too-many-recipients" => "Submit the other rows as another campaign, or raise `intake.recipients_max`.",
        "upload-conflict" => "Repeat the command with the options of the first upload of this file.",
        "upload-in-progress" => "Wait until the other upload has ended, then repeat the command.",
        "upload-expands-too-far" => "Submit the file without compression.",
        "upload-interrupted" | "upload-undecodable" | "body-cut" | "body-too-slow" | "meta-no-answer" => {
            "Repeat the command; that does no harm."
        }
        "pause-unconfirmed" => {
            "Stop the workers that it names, or repeat the command; `pregon worker list` shows them."
        }
        "timeout" | "unavailable" => "Repeat the command; if it fails again, run `pregon check`.",
        "too-many-streams" => "Repeat the command when another one has ended.",
        "too-many-unknown-keys" => "Wait a minute, and set PREGON_API_KEY to one of `http.api_keys` of the server.",
        "internal" => "It is a bug: please report it with the lines of the server's log from this moment.",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Kinds whose detail contains the remedy, or which no command can cause.
    const WITHOUT: [&str; 48] = [
        "agent-offline",
        "body-too-large",
        "business-not-found",
        "chat-changed",
        "chat-not-found",
        "chat-of-another-agent",
        "contact-exists",
        "contact-not-found",
        "group-exists",
        "group-in-use",
        "hold-not-found",
        "invalid",
        "invalid-if-match",
        "invalid-phone",
        "invalid-query",
        "invalid-rate",
        "invalid-upload-id",
        "line-without-number",
        "link-not-found",
        "login-provider-unavailable",
        "login-refused",
        "malformed-body",
        "media-gone",
        "media-not-found",
        "media-pending",
        "no-database",
        "no-login-provider",
        "no-media-store",
        "property-exists",
        "property-not-found",
        "range-not-satisfiable",
        "redis-full",
        "reply-exists",
        "reply-not-found",
        "subscriber-not-found",
        "sync-failed",
        "tag-exists",
        "tag-not-found",
        "template-changed",
        "template-not-approved",
        "template-not-found",
        "template-unsupported",
        "too-many-logins",
        "unauthorized",
        "unsupported-encoding",
        "unsupported-media-type",
        "upload-unreadable",
        "window-closed",
    ];

    #[test]
    fn every_problem_of_the_api_has_a_remedy() {
        let document = include_str!("../../docs/openapi.json");
        let kinds = document.split("\"urn:pregon:problem:").skip(1).filter_map(|rest| rest.split('"').next());
        let kinds: BTreeSet<&str> = kinds.filter(|kind| !kind.is_empty()).collect();
        assert!(kinds.len() > 40, "{kinds:?}");
        for kind in kinds {
            assert_ne!(of(kind).is_some(), WITHOUT.contains(&kind), "{kind}");
        }
    }
}
