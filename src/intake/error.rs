//! Why intake did not do what was asked, by what the caller does next.

use crate::{
    domain::{CampaignId, CampaignState, Language, UnixMs, WabaId, template::TemplateError},
    intake::rows::UploadError,
    redis::StoreError,
};

/// Why a campaign, an upload or an action was not taken. Each text is a sentence for the caller; [`IntakeError::kind`] is
/// for programs.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// There is no such campaign.
    #[error("there is no campaign {0}")]
    NotFound(String),
    /// The request has problems, all of them told; nothing was changed.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The template can't be sent; nothing was changed.
    #[error(transparent)]
    Template(#[from] TemplateProblem),
    /// The state of the campaign does not allow it.
    #[error("campaign {id} is {state}: it can't {action}")]
    State {
        /// The campaign.
        id: CampaignId,
        /// Where it stands.
        state: CampaignState,
        /// What was wanted of it: `be launched`, `be paused`.
        action: &'static str,
    },
    /// Something of it was sent, or can be: it is not deleted.
    #[error("campaign {id} is {state}{}: only a draft, or a campaign that was cancelled before it started, can be deleted{}",
        if *.started { " and has started" } else { "" }, if *.started { "" } else { "; cancel it first" })]
    NotDeletable {
        /// The campaign.
        id: CampaignId,
        /// Where it stands.
        state: CampaignState,
        /// It ran once.
        started: bool,
    },
    /// The `external_id` belongs to a campaign that is defined otherwise: nothing was changed.
    #[error(
        "campaign {id} has the external_id {external_id} already, and its {}: repeat the call as it was, or give \
         the new campaign an external_id of its own", .differences.join(", its ")
    )]
    Conflict {
        /// The campaign that exists.
        id: CampaignId,
        /// The name that both have.
        external_id: String,
        /// What differs: `on_doubt is hold there and resend here`.
        differences: Vec<String>,
    },
    /// Nothing of it would be sent any more.
    #[error(
        "campaign {id} expired at {at} (its expires_at), so nothing of it would be sent: make a new one with a later expires_at"
    )]
    Expired {
        /// The campaign.
        id: CampaignId,
        /// Its `expires_at`.
        at: UnixMs,
    },
    /// A campaign without recipients can't be launched: upload some first.
    #[error("campaign {0} has no recipients: upload some before it is launched")]
    Empty(CampaignId),
    /// The upload id belongs to other rows: choose another one.
    #[error(
        "an upload with this id brought other rows before: repeat it with the same rows, or give new rows a new id"
    )]
    UploadConflict,
    /// The same upload comes in over another connection: repeat it when that has ended.
    #[error("the same upload is coming in over another connection: repeat it later")]
    UploadInProgress,
    /// The upload can't be read at all.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The body broke off: repeat the upload with the same id.
    #[error("the upload broke off ({0}): repeat it with the same Upload-Id, and what came before is skipped")]
    Interrupted(String),
    /// A campaign may not have so many: use another one.
    #[error(
        "campaign {id} would have more than {max} recipients (intake.recipients_max): put the others into another one"
    )]
    OverLimit {
        /// The campaign.
        id: CampaignId,
        /// How many it may have.
        max: u64,
    },
    /// No campaign holds so many: use another one.
    #[error("campaign {0} is full: put the other recipients into another one")]
    TooManyRecipients(CampaignId),
    /// Redis failed. If that passes ([`StoreError::passes`]), the change may have happened all the same: repeat the call.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a template can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum TemplateProblem {
    /// Meta does not have it.
    #[error(
        "WABA {waba} has no template {name} in {language}{}: check the name and the language, or, if it is new at Meta, \
         read the templates again (POST /v1/templates/sync)", meant(.similar)
    )]
    Missing {
        /// Where it was looked for.
        waba: WabaId,
        /// Its name.
        name: String,
        /// The language that was asked for.
        language: Language,
        /// Those that may have been meant, with their languages.
        similar: Vec<String>,
    },
    /// The templates of this WABA were never read from Meta: sync them, then repeat the call.
    #[error(
        "the templates of WABA {0} have not been read from Meta yet: read them (POST /v1/templates/sync), then try again; \
         where that fails, the log says why"
    )]
    NotSynced(WabaId),
    /// Meta does not send it now: its status, and what helps.
    #[error("{0}")]
    NotApproved(String),
    /// It has a part that this version can't send, or takes other values than those that the campaign has.
    #[error(transparent)]
    Unsupported(#[from] TemplateError),
}

impl IntakeError {
    /// The same call can succeed a little later, with nothing changed by anybody: Redis was away, or another connection was
    /// bringing the same rows.
    pub fn is_transient(&self) -> bool {
        match self {
            IntakeError::Store(error) => error.is_transient(),
            IntakeError::UploadInProgress | IntakeError::Interrupted(_) => true,
            IntakeError::NotFound(_)
            | IntakeError::Invalid(_)
            | IntakeError::Template(_)
            | IntakeError::State { .. }
            | IntakeError::NotDeletable { .. }
            | IntakeError::Conflict { .. }
            | IntakeError::Expired { .. }
            | IntakeError::Empty(_)
            | IntakeError::UploadConflict
            | IntakeError::Upload(_)
            | IntakeError::TooManyRecipients(_)
            | IntakeError::OverLimit { .. } => false,
        }
    }

    /// A name for programs that never changes.
    pub fn kind(&self) -> &'static str {
        match self {
            IntakeError::NotFound(_) => "campaign-not-found",
            IntakeError::Invalid(_) => "invalid",
            IntakeError::Template(TemplateProblem::Missing { .. }) => "template-missing",
            IntakeError::Template(TemplateProblem::NotSynced(_)) => "templates-not-synced",
            IntakeError::Template(TemplateProblem::NotApproved(_)) => "template-not-approved",
            IntakeError::Template(TemplateProblem::Unsupported(TemplateError::Changed { .. })) => "template-changed",
            IntakeError::Template(TemplateProblem::Unsupported(TemplateError::Gone { .. })) => "template-missing",
            IntakeError::Template(TemplateProblem::Unsupported(_)) => "template-unsupported",
            IntakeError::State { .. } | IntakeError::NotDeletable { .. } => "campaign-state",
            IntakeError::Conflict { .. } => "campaign-conflict",
            IntakeError::Expired { .. } => "campaign-expired",
            IntakeError::Empty(_) => "campaign-empty",
            IntakeError::UploadConflict => "upload-conflict",
            IntakeError::UploadInProgress => "upload-in-progress",
            IntakeError::Upload(_) => "upload-unreadable",
            IntakeError::Interrupted(_) => "upload-interrupted",
            IntakeError::TooManyRecipients(_) | IntakeError::OverLimit { .. } => "too-many-recipients",
            IntakeError::Store(error) if error.is_transient() => "unavailable",
            IntakeError::Store(_) => "internal",
        }
    }
}

fn meant(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!("; similar ones are {}", similar.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_the_store_that_passes_passes_for_intake_too() {
        let away = || "away".to_owned();
        let errors = [
            (StoreError::OutcomeUnknown(away()), true),
            (StoreError::NotApplied(away()), true),
            (StoreError::Login(away()), true),
            (StoreError::Refused { operation: "GET", message: "WRONGTYPE".into() }, false),
            (StoreError::Corrupt { key: "k".into(), reason: "no state".into() }, false),
        ];
        for (error, passes) in errors {
            let error = IntakeError::Store(error);
            assert_eq!((error.is_transient(), error.kind() == "unavailable"), (passes, passes), "{error:?}");
        }
        assert!(IntakeError::Interrupted("the process stops".into()).is_transient());
        assert!(!IntakeError::UploadConflict.is_transient());
    }
}
