//! Changes of the status of a template: holds the template, or lifts its hold.
//!
//! Updates may come late and in any order. One that is older than the hold, or than the last lift of a hold, changes
//! nothing. The list of templates, which is read again after each update, corrects any difference.
//!
//! If the process dies: Meta delivers unanswered webhooks again.

use std::time::Duration;

use tracing::{info, warn};

use super::fields::message_template_status_update::TemplateChange;
use crate::{
    domain::{Hold, HoldScope, MetaCode, UnixMs, WabaId, policy},
    redis::{Result, Store},
};

/// How long Meta pauses a template for its quality, by the title of the update.
///
/// Source: template pausing in Meta's documentation of the WhatsApp Business Platform, read 2026-11-28.
const PAUSES: [(&str, Duration); 2] =
    [("FIRST_PAUSE", Duration::from_secs(3 * 60 * 60)), ("SECOND_PAUSE", Duration::from_secs(6 * 60 * 60))];

/// How much longer than Meta's pause the hold lasts. A message that is sent too early is refused, which holds the
/// template for another three hours. Usually Meta reports the end of the pause, which lifts the hold earlier.
const PAUSE_MARGIN: Duration = Duration::from_secs(60);

/// The titles of an update that ends a pause.
const UNPAUSED: [&str; 2] = ["UNPAUSE", "UNPAUSED"];

/// Meta gives the times of updates in whole seconds: the update was made less than this after its time.
const RESOLUTION: Duration = Duration::from_secs(1);

/// The effect of a status change on a template.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    /// The template can be sent.
    Lift,
    /// The template cannot be sent, for this time; `None`: without an end.
    Hold { code: Option<MetaCode>, lasts: Option<Duration> },
    /// No effect yet.
    None,
}

/// Applies a change of a template of `waba`, which is one of ours, and marks the templates of the WABA as changed. `at`
/// is Meta's time of the change. Returns whether the change had an effect.
pub(super) async fn apply(
    store: &Store,
    waba: &WabaId,
    change: &TemplateChange<'_>,
    at: UnixMs,
    now: UnixMs,
) -> Result<bool> {
    store.note_changed_templates(waba).await?;
    let scope = HoldScope::of_template(waba, &change.name, &change.language);
    let latest = at.after(RESOLUTION);
    match effect(&change.event, &change.title) {
        Effect::Lift => {
            if store.unhold_before(&scope, latest).await? {
                info!(scope = %scope, event = %change.event, "template hold lifted by Meta");
            }
        }
        Effect::Hold { code, lasts } => {
            let separator = if change.reason.is_empty() { "" } else { ": " };
            let reason = format!("Meta says {}{separator}{}", change.event, change.reason);
            let until = lasts.map(|lasts| at.after(lasts + PAUSE_MARGIN));
            let hold = Hold { code, reason, since: at.min(now), until };
            if hold.is_active(now) && store.hold_unless_lifted(&scope, &hold, latest).await? {
                warn!(scope = %scope, reason = hold.reason, "template held by Meta");
            }
        }
        Effect::None => return Ok(false),
    }
    Ok(true)
}

fn effect(event: &str, title: &str) -> Effect {
    match event {
        _ if UNPAUSED.contains(&title) => Effect::Lift,
        "APPROVED" | "REINSTATED" | "UNARCHIVED" => Effect::Lift,
        // A pause for another reason, such as pacing (`RATE_LIMITING_PAUSE`), does not end by itself.
        "PAUSED" => {
            let lasts = PAUSES.into_iter().find(|(known, _)| *known == title).map(|(_, lasts)| lasts);
            Effect::Hold { code: Some(policy::TEMPLATE_PAUSED), lasts }
        }
        "DISABLED" | "REJECTED" | "PENDING" | "IN_APPEAL" | "LOCKED" | "LIMIT_EXCEEDED" | "DELETED"
        | "PENDING_DELETION" | "ARCHIVED" => Effect::Hold { code: None, lasts: None },
        // FLAGGED warns of a pause and changes nothing yet. An unknown event shows in Meta's responses to sends.
        _ => Effect::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pauses_for_quality_end_by_themselves() {
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3_600));
        let paused = |lasts| Effect::Hold { code: Some(MetaCode(132_015)), lasts };
        for (event, title, expected) in [
            ("PAUSED", "FIRST_PAUSE", paused(hours(3))),
            ("PAUSED", "SECOND_PAUSE", paused(hours(6))),
            ("PAUSED", "RATE_LIMITING_PAUSE", paused(None)),
            ("PAUSED", "", paused(None)),
            ("DISABLED", "DISABLED", Effect::Hold { code: None, lasts: None }),
            ("REJECTED", "", Effect::Hold { code: None, lasts: None }),
            ("APPROVED", "UNPAUSE", Effect::Lift),
            ("APPROVED", "", Effect::Lift),
            ("REINSTATED", "", Effect::Lift),
            ("UNPAUSED", "UNPAUSE", Effect::Lift),
            ("FLAGGED", "", Effect::None),
        ] {
            assert_eq!(effect(event, title), expected, "{event} {title}");
        }
    }
}
