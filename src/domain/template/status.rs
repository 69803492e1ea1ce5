//! Where a template stands with Meta, and what helps where it is not approved.
//!
//! Sources: <https://developers.facebook.com/documentation/business-messaging/whatsapp/templates/template-pausing> and the
//! webhook `message_template_status_update`, read 2026-11-28; template archival, read 2026-04-17.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a template stands with Meta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TemplateStatus {
    /// May be sent.
    Approved,
    /// Waits for Meta's review.
    Pending,
    /// Refused by Meta.
    Rejected,
    /// Held by Meta for bad feedback.
    Paused,
    /// Ended by Meta.
    Disabled,
    /// Refused by Meta, which looks at it again.
    InAppeal,
    /// Unused for a year.
    Archived,
    /// Will be gone soon.
    PendingDeletion,
    /// Gone.
    Deleted,
    /// The WABA has too many.
    LimitExceeded,
    /// Kept by Meta from being sent and changed.
    Locked,
    /// Any other, as Meta writes it.
    #[serde(untagged)]
    Other(String),
}

impl TemplateStatus {
    /// The status, and what helps where it is not `APPROVED`: the end of a sentence such as `the template is …`.
    pub(super) fn standing(&self, rejected_reason: &str) -> String {
        let (why, helps) = match self {
            TemplateStatus::Approved => return "APPROVED".to_owned(),
            TemplateStatus::Pending => (", under review by Meta", "wait until it is approved, which takes up to a day"),
            TemplateStatus::Rejected => {
                (" by Meta", "edit it in WhatsApp Manager, which submits it again, or appeal there")
            }
            TemplateStatus::Paused => (
                " by Meta for bad feedback",
                "a first pause ends after 3 hours and a second one after 6; one that Meta set while it paced the delivery \
                 has to be ended in WhatsApp Manager; change its text or whom it goes to, for the third time it is disabled",
            ),
            TemplateStatus::Disabled => {
                (" by Meta for repeated bad feedback", "it will not be sent again, so make another template")
            }
            TemplateStatus::InAppeal => {
                (", because Meta looks at its rejection again", "wait for the decision, or make another template")
            }
            TemplateStatus::Archived => (
                ", because it was not used for 12 months",
                "unarchive it in WhatsApp Manager, for Meta deletes it 28 days after it was archived",
            ),
            TemplateStatus::PendingDeletion | TemplateStatus::Deleted => {
                ("", "use another template, or make it again under another name")
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
        format!("{self}{why}{reason}: {helps}")
    }
}

/// As Meta writes it.
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
    fn every_status_is_told_by_its_name_with_what_helps() {
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
        let mut told = std::collections::HashSet::new();
        for name in names {
            let status: TemplateStatus = serde_json::from_value(name.into()).expect("a status");
            assert_eq!(status.to_string(), name);
            let problem = status.standing("");
            assert!(problem.starts_with(name) && problem.contains(": "), "{problem}");
            told.insert(problem.replace(name, ""));
        }
        assert_eq!(told.len(), names.len() - 1, "only the two of a deleted template are told alike");
        let rejected = TemplateStatus::Rejected.standing("INVALID_FORMAT");
        assert!(rejected.starts_with("REJECTED by Meta (INVALID_FORMAT): edit it"), "{rejected}");
    }
}
