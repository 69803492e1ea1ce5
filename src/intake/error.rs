//! Errors of intake, grouped by what the caller does next.

use crate::{
    domain::{CampaignId, CampaignState, EntryId, Language, UnixMs, WabaId, template::TemplateError},
    intake::rows::UploadError,
    redis::{
        StoreError,
        memory::{Memory, ROOM_REMEDY},
    },
};

/// Why a submission, an upload or an action was rejected. The text is a sentence for people; [`IntakeError::kind`] is
/// the code for programs.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The campaign does not exist.
    #[error("there is no campaign {0}")]
    NotFound(String),
    /// There is no such dead letter. Nothing was changed.
    #[error("there is no dead letter {0}: it was retried or deleted, or never existed")]
    NoDeadLetter(EntryId),
    /// The request has these problems; a long list is shortened. Nothing was changed.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The template can't be sent. Nothing was changed.
    #[error(transparent)]
    Template(#[from] TemplateProblem),
    /// The state of the campaign does not allow the action.
    #[error("campaign {id} is {}: it can't {action}", .state.predicate())]
    State {
        /// The campaign.
        id: CampaignId,
        /// The campaign's state.
        state: CampaignState,
        /// What the campaign can't do, such as `be launched` or `be paused`.
        action: &'static str,
    },
    /// Messages of the campaign were sent, or can still be sent, so it is not deleted.
    #[error("campaign {id} is {state}: only a draft, or a campaign that has ended, can be deleted; cancel it first")]
    NotDeletable {
        /// The campaign.
        id: CampaignId,
        /// The campaign's state, as text.
        state: String,
    },
    /// Only a completed campaign can be retried.
    #[error(
        "campaign {id} is {}: only a completed campaign can be retried{}", .state.predicate(), retry_remedy(*.state)
    )]
    NotRetriable {
        /// The campaign.
        id: CampaignId,
        /// The campaign's state.
        state: CampaignState,
    },
    /// The recipients of the campaign were deleted at the end of their retention.
    #[error(
        "the recipients of campaign {0} were deleted at the end of their retention (retention): make a new campaign for \
        those who did not get it"
    )]
    Forgotten(CampaignId),
    /// The newest retry of the campaign has the same `external_id` and other states or codes. Nothing was changed.
    #[error(
        "the newest retry of campaign {id} has the external_id {external_id} and other states or codes: repeat the call \
        as it was, or give the new retry an external_id of its own"
    )]
    RetryConflict {
        /// The campaign.
        id: CampaignId,
        /// The shared `external_id`.
        external_id: String,
    },
    /// A campaign with the same `external_id` but another definition exists. Nothing was changed.
    #[error(
        "campaign {id} has the external_id {external_id} already, and its {}: repeat the call as it was, or give \
        the new campaign an external_id of its own", .differences.join(", its ")
    )]
    Conflict {
        /// The existing campaign.
        id: CampaignId,
        /// The shared `external_id`.
        external_id: String,
        /// The differences, such as `on_doubt is hold there and resend here`.
        differences: Vec<String>,
    },
    /// The `external_id` belongs to a campaign that the caller may not see. Nothing was changed.
    #[error("the external_id {0} is in use: give the new campaign another one")]
    Taken(String),
    /// The campaign's `expires_at` has passed.
    #[error(
        "campaign {id} expired at {at} (its expires_at), so nothing would be sent: make a new one with a later \
        expires_at"
    )]
    Expired {
        /// The campaign.
        id: CampaignId,
        /// The campaign's `expires_at`.
        at: UnixMs,
    },
    /// A campaign without recipients can't be launched.
    #[error("campaign {0} has no recipients: upload some first")]
    Empty(CampaignId),
    /// All recipients of a campaign were erased, so a test of it has no values.
    #[error(
        "all recipients of campaign {0} were forgotten, and a test needs the values of one: upload another recipient, or \
        test another campaign with this template"
    )]
    NobodyLeft(CampaignId),
    /// An earlier upload with the same id had other rows.
    #[error(
        "an earlier upload with this id had other rows: repeat it with the same rows, or give the new rows a new id"
    )]
    UploadConflict,
    /// The same upload is running on another connection: repeat it when the other one has ended.
    #[error("the same upload is running on another connection: repeat it later")]
    UploadInProgress,
    /// The upload as a whole can't be read.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The body ended early: repeat the upload with the same id.
    #[error("the upload was interrupted ({0}): repeat it with the same Upload-Id; rows that were stored are skipped")]
    Interrupted(String),
    /// The campaign would exceed the configured limit.
    #[error(
        "campaign {id} would have more than {max} recipients (intake.recipients_max): put the rest into another \
        campaign"
    )]
    OverLimit {
        /// The campaign.
        id: CampaignId,
        /// The limit.
        max: u64,
    },
    /// The campaign has the maximum number of recipients that any campaign can have.
    #[error("campaign {0} is full: put the other recipients into another campaign")]
    TooManyRecipients(CampaignId),
    /// Redis has no room for more recipients. Rows that were stored before stay: repeat the upload with the same id.
    #[error(
        "redis uses {memory} (maxmemory), more than the share of {share_max} up to which recipients are accepted \
        (intake.memory_share_max): {ROOM_REMEDY}, and repeat the call; sending goes on"
    )]
    RedisFull {
        /// The memory of the fullest master.
        memory: Memory,
        /// The share up to which recipients are accepted.
        share_max: f64,
    },
    /// Redis failed. If the error is transient ([`StoreError::is_transient`]), the change may have been made: repeat
    /// the call.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a template can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum TemplateProblem {
    /// The WABA has no such template.
    #[error(
        "WABA {waba} has no template {name} in {language}{}: check the name and the language, or, if it is new at Meta, \
        read the templates again (`pregon template sync`, or POST /v1/templates/sync)", meant(.similar)
    )]
    Missing {
        /// The WABA that was searched.
        waba: WabaId,
        /// The requested name.
        name: String,
        /// The requested language.
        language: Language,
        /// Templates with similar names, with their languages.
        similar: Vec<String>,
    },
    /// The templates of this WABA were never read from Meta: sync them, then repeat the call.
    #[error(
        "the templates of WABA {0} have not been read from Meta yet: read them (`pregon template sync`, or POST \
        /v1/templates/sync), then try again; if that fails, the log says why"
    )]
    NotSynced(WabaId),
    /// Meta does not allow sending the template now. The text contains its status and what to do.
    #[error("{0}")]
    NotApproved(String),
    /// The template has a component that this version can't send, or needs other values than the campaign's
    /// recipients have.
    #[error(transparent)]
    Unsupported(#[from] TemplateError),
}

/// How many problems of a request are listed.
const PROBLEMS_MAX: usize = 20;

impl IntakeError {
    /// An error with these problems. Lists only the first ones, with the number of the others.
    pub(super) fn invalid(mut problems: Vec<String>) -> Self {
        let more = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        match more {
            0 => {}
            1 => problems.push("there is 1 more problem".to_owned()),
            more => problems.push(format!("there are {more} more problems")),
        }
        Self::Invalid(problems)
    }

    /// Whether the same call can succeed later without any change: Redis was unavailable or full, the upload was
    /// interrupted, or the same upload is running on another connection.
    pub fn is_transient(&self) -> bool {
        match self {
            IntakeError::Store(error) => error.is_transient(),
            IntakeError::UploadInProgress | IntakeError::Interrupted(_) | IntakeError::RedisFull { .. } => true,
            IntakeError::NotFound(_)
            | IntakeError::NoDeadLetter(_)
            | IntakeError::Invalid(_)
            | IntakeError::Template(_)
            | IntakeError::State { .. }
            | IntakeError::NotDeletable { .. }
            | IntakeError::NotRetriable { .. }
            | IntakeError::Forgotten(_)
            | IntakeError::RetryConflict { .. }
            | IntakeError::Conflict { .. }
            | IntakeError::Taken(_)
            | IntakeError::Expired { .. }
            | IntakeError::Empty(_)
            | IntakeError::NobodyLeft(_)
            | IntakeError::UploadConflict
            | IntakeError::Upload(_)
            | IntakeError::TooManyRecipients(_)
            | IntakeError::OverLimit { .. } => false,
        }
    }

    /// A stable name for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            IntakeError::NotFound(_) => "campaign-not-found",
            IntakeError::NoDeadLetter(_) => "dead-letter-not-found",
            IntakeError::Invalid(_) => "invalid",
            IntakeError::Template(TemplateProblem::Missing { .. }) => "template-missing",
            IntakeError::Template(TemplateProblem::NotSynced(_)) => "templates-not-synced",
            IntakeError::Template(TemplateProblem::NotApproved(_)) => "template-not-approved",
            IntakeError::Template(TemplateProblem::Unsupported(TemplateError::Changed { .. })) => "template-changed",
            IntakeError::Template(TemplateProblem::Unsupported(TemplateError::Gone { .. })) => "template-missing",
            IntakeError::Template(TemplateProblem::Unsupported(_)) => "template-unsupported",
            IntakeError::State { .. } | IntakeError::NotDeletable { .. } | IntakeError::NotRetriable { .. } => {
                "campaign-state"
            }
            IntakeError::Forgotten(_) => "recipients-forgotten",
            IntakeError::RetryConflict { .. } => "retry-conflict",
            IntakeError::Conflict { .. } | IntakeError::Taken(_) => "campaign-conflict",
            IntakeError::Expired { .. } => "campaign-expired",
            IntakeError::Empty(_) | IntakeError::NobodyLeft(_) => "campaign-empty",
            IntakeError::UploadConflict => "upload-conflict",
            IntakeError::UploadInProgress => "upload-in-progress",
            IntakeError::Upload(_) => "upload-unreadable",
            IntakeError::Interrupted(_) => "upload-interrupted",
            IntakeError::TooManyRecipients(_) | IntakeError::OverLimit { .. } => "too-many-recipients",
            IntakeError::RedisFull { .. } => "redis-full",
            IntakeError::Store(StoreError::Full(_)) => "redis-full",
            IntakeError::Store(error) if error.is_transient() => "unavailable",
            IntakeError::Store(_) => "internal",
        }
    }
}

/// How to get a campaign in this state to a state in which it can be retried.
fn retry_remedy(state: CampaignState) -> &'static str {
    match state {
        CampaignState::Draft => "; launch it first",
        CampaignState::Scheduled | CampaignState::Running => "; wait until it is completed",
        CampaignState::Paused => "; resume it, and wait until it is completed",
        CampaignState::Cancelled => {
            ", and this one sends nothing more: make a new campaign for those who did not get it"
        }
        CampaignState::Completed => "",
    }
}

fn meant(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!("; similar ones are {}", similar.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_error_is_transient_for_intake_too() {
        let away = || "away".to_owned();
        let errors = [
            (StoreError::OutcomeUnknown(away()), true),
            (StoreError::NotApplied(away()), true),
            (StoreError::Login(away()), true),
            (StoreError::Full("change"), true),
            (StoreError::Refused { operation: "GET", message: "WRONGTYPE".into() }, false),
            (StoreError::Corrupt { key: "k".into(), reason: "no state".into() }, false),
        ];
        for (error, transient) in errors {
            let error = IntakeError::Store(error);
            let says_so = ["unavailable", "redis-full"].contains(&error.kind());
            assert_eq!((error.is_transient(), says_so), (transient, transient), "{error:?}");
        }
        assert!(IntakeError::Interrupted("the process stops".into()).is_transient());
        assert!(!IntakeError::UploadConflict.is_transient());
    }
}
