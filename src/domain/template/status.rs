//! The status of a template at Meta, and the remedy for a template that is not approved.
//!
//! Sources: <https://developers.facebook.com/documentation/business-messaging/whatsapp/templates/template-pausing> and
//! the webhook `message_template_status_update`, read 2026-11-28; template archival, read 2026-04-17.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The status of a template at Meta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TemplateStatus {
    /// May be sent.
    Approved,
    /// Under review by Meta.
    Pending,
    /// Rejected by Meta.
    Rejected,
    /// Paused by Meta because of negative feedback.
    Paused,
    /// Disabled by Meta permanently.
    Disabled,
    /// Rejected by Meta, and under review again after an appeal.
    InAppeal,
    /// Archived by Meta after a year without use.
    Archived,
    /// About to be deleted.
    PendingDeletion,
    /// Deleted.
    Deleted,
    /// The WABA has the maximum number of templates.
    LimitExceeded,
    /// Locked by Meta: it can be neither sent nor edited.
    Locked,
    /// Any other status, as Meta writes it.
    #[serde(untagged)]
    Other(String),
}

impl TemplateStatus {
    /// The status, with the remedy if it is not `APPROVED`. Completes a sentence such as `the template is …`.
    pub(super) fn status_text(&self, rejected_reason: &str) -> String {
        let (why, remedy) = match self {
            TemplateStatus::Approved => return "APPROVED".to_owned(),
            TemplateStatus::Pending => (", under review by Meta", "wait until it is approved, which takes up to a day"),
            TemplateStatus::Rejected => {
                (" by Meta", "edit it in WhatsApp Manager, which submits it again, or appeal there")
            }
            TemplateStatus::Paused => (
                " by Meta for bad feedback",
                "a first pause ends after 3 hours and a second one after 6; one that Meta set while it paced the delivery \
                 ends only on request (pregon template unpause, or POST …/unpause); change its text or its audience, because \
                 Meta disables it at the third pause",
            ),
            TemplateStatus::Disabled => {
                (" by Meta for repeated bad feedback", "it will not be sent again, so create another template")
            }
            TemplateStatus::InAppeal => {
                (", because Meta reviews its rejection", "wait for the decision, or create another template")
            }
            TemplateStatus::Archived => (
                ", because it was not used for 12 months",
                "unarchive it in WhatsApp Manager, because Meta deletes it 28 days after it was archived",
            ),
            TemplateStatus::PendingDeletion | TemplateStatus::Deleted => {
                ("", "use another template, or create it again under another name")
            }
            TemplateStatus::LimitExceeded => (
                ", because the WABA has as many templates as Meta allows",
                "delete some in WhatsApp Manager, and submit it again",
            ),
            TemplateStatus::Locked => (" by Meta", "look in WhatsApp Manager for the reason, or use another template"),
            TemplateStatus::Other(_) => {
                (", and Meta sends only templates that are APPROVED", "look in WhatsApp Manager for what it lacks")
            }
        };
        let reason = if rejected_reason.is_empty() { String::new() } else { format!(" ({rejected_reason})") };
        format!("{self}{why}{reason}: {remedy}")
    }
}

/// Writes the status as Meta does.
impl fmt::Display for TemplateStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TemplateStatus::Approved => "APPROVED",
            TemplateStatus::Pending => "PENDING",
            TemplateStatus::Rejected => "REJECTED",
            TemplateStatus::Paused => "PAUSED",
            TemplateStatus::Disabled => "DISABLED",
            TemplateStatus::InAppeal => "IN_APPEAL",
            TemplateStatus::Archived => "ARCHIVED",
            TemplateStatus::PendingDeletion => "PENDING_DELETION",
            TemplateStatus::Deleted => "DELETED",
            TemplateStatus::LimitExceeded => "LIMIT_EXCEEDED",
            TemplateStatus::Locked => "LOCKED",
            TemplateStatus::Other(name) => name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_described_with_its_name_and_remedy() {
        let names = [
            "PENDING",
            "REJECTED",
            "PAUSED",
            "DISABLED",
            "IN_APPEAL",
            "ARCHIVED",
            "PENDING_DELETION",
            "DELETED",
            "LIMIT_EXCEEDED",
            "LOCKED",
            "FLAGGED",
        ];
        let mut texts = std::collections::HashSet::new();
        for name in names {
            let status: TemplateStatus = serde_json::from_value(name.into()).expect("a status");
            assert_eq!(status.to_string(), name);
            let problem = status.status_text("");
            assert!(problem.starts_with(name) && problem.contains(": "), "{problem}");
            texts.insert(problem.replace(name, ""));
        }
        assert_eq!(texts.len(), names.len() - 1, "only the two statuses of a deleted template share a text");
        let rejected = TemplateStatus::Rejected.status_text("INVALID_FORMAT");
        assert!(rejected.starts_with("REJECTED by Meta (INVALID_FORMAT): edit it"), "{rejected}");
    }
}
