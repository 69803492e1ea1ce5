//! A campaign: the template, the lines, the times and the policy of a send to many recipients.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    CampaignId, FrequencyCap, GroupId, LineId, MetaCode, SendWindow, SuppressionScope, TagId, UnixMs, agent::group_id,
    failure::code_or_zero, tag::tag_id, template::Template,
};

/// The priority of a campaign that sets none.
const PRIORITY_DEFAULT: u8 = 5;

/// The feature of a campaign with a rate of its own.
const RATE: &str = "rate";

/// The feature of a campaign that retries messages that Meta withheld.
const WITHHELD_AGAIN: &str = "withheld_again";

/// The feature of a campaign that sets what happens if its start is missed.
const LATE: &str = "late";

/// The feature of a campaign with a send window.
const SEND_WINDOW: &str = "send_window";

/// The feature of a campaign with a frequency cap of its own.
const FREQUENCY_CAP: &str = "frequency_cap";

/// The features of this release that a campaign can require.
pub const FEATURES: &[&str] = &[RATE, LATE, SEND_WINDOW, WITHHELD_AGAIN, FREQUENCY_CAP];

/// A campaign as stored: the values that were submitted, with later changes applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Campaign {
    /// The id that Pregón assigned.
    pub id: CampaignId,
    /// The caller's id. Submitting the same id again returns this campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// For a test: the campaign whose message it sends to a few numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_of: Option<CampaignId>,
    /// A name for people.
    pub name: String,
    /// The template as it was at submission. Launch, resume and a scheduled start compare it with Meta's current list.
    pub template: Template,
    /// The lines the campaign may use: at least one, all of one WABA.
    pub lines: Vec<LineId>,
    /// Nothing is sent before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<UnixMs>,
    /// Recipients whose message is not sent by this time expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixMs>,
    /// The campaign's weight on a line that it shares with other campaigns, 1 to 10.
    pub priority: u8,
    /// The maximum rate over all lines, in messages per second; `None`: as many as the lines may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// The hours in which messages leave; `None`: at all hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_window: Option<SendWindow>,
    /// What happens if the start is missed.
    #[serde(default, skip_serializing_if = "Late::is_default")]
    pub late: Late,
    /// What happens to a recipient that is still in doubt at its deadline.
    pub on_doubt: OnDoubt,
    /// What happens to a message that Meta withheld from a person who gets much marketing.
    #[serde(default, skip_serializing_if = "OnWithheld::is_default")]
    pub on_withheld: OnWithheld,
    /// The buttons of its template with which people opt out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opt_out_buttons: Vec<OptOutButton>,
    /// The campaign's own frequency cap: recipients who already got this many marketing messages from the business are
    /// skipped. Applies in addition to the cap of the business.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_cap: Option<FrequencyCap>,
    /// What an answer does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplyRoute>,
    /// When the campaign was submitted.
    pub created_at: UnixMs,
    /// The features that a worker must have to send the campaign, such as `rate`. Any other worker leaves it to
    /// workers of a newer release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
}

/// The maximum number of tags that an answer to a campaign sets.
const REPLY_TAGS_MAX: usize = 20;

/// What an answer to a campaign does with the chat of whoever answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplyRoute {
    /// The group whose queue gets the chat, if the answer opens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, example = "sales")]
    pub group: Option<GroupId>,
    /// The tags that the chat gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!(["renewal"]))]
    pub tags: Vec<TagId>,
}

impl ReplyRoute {
    /// What is wrong with it, each as a sentence.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.group.as_ref().is_some_and(|group| group_id(group.as_str()).is_none()) {
            problems.push("reply.group is the id of a group: 1 to 32 of a-z, 0-9, - and _".to_owned());
        }
        if self.tags.iter().any(|tag| tag_id(tag.as_str()).is_none()) {
            problems.push("reply.tags has ids of tags: 1 to 32 of a-z, 0-9, - and _, and no derived tag".to_owned());
        }
        if self.tags.len() > REPLY_TAGS_MAX {
            problems.push(format!("reply.tags has at most {REPLY_TAGS_MAX} tags"));
        }
        if self.group.is_none() && self.tags.is_empty() {
            problems.push("reply names a group, tags, or both".to_owned());
        }
        problems
    }
}

impl fmt::Display for ReplyRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tags = self.tags.iter().map(|tag| format!("tag {tag}"));
        let parts: Vec<String> = self.group.iter().map(|group| format!("group {group}")).chain(tags).collect();
        f.write_str(&parts.join(", "))
    }
}

impl Campaign {
    /// A campaign that sets no option: it starts when it is launched, never expires, and holds messages in doubt.
    pub fn new(
        id: CampaignId,
        name: impl Into<String>,
        template: Template,
        lines: Vec<LineId>,
        created_at: UnixMs,
    ) -> Self {
        Self {
            id,
            external_id: None,
            test_of: None,
            name: name.into(),
            template,
            lines,
            start_at: None,
            expires_at: None,
            priority: PRIORITY_DEFAULT,
            rate: None,
            send_window: None,
            late: Late::default(),
            on_doubt: OnDoubt::default(),
            on_withheld: OnWithheld::default(),
            opt_out_buttons: Vec::new(),
            frequency_cap: None,
            reply: None,
            created_at,
            requires: Vec::new(),
        }
    }

    /// Returns this campaign with `requires` updated to the features that its values need. Features of a newer release
    /// are kept.
    #[must_use]
    pub fn with_requirements(mut self) -> Self {
        let needed = [
            (RATE, self.rate.is_some()),
            (LATE, self.late != Late::default()),
            (SEND_WINDOW, self.send_window.is_some()),
            (WITHHELD_AGAIN, self.on_withheld != OnWithheld::default()),
            (FREQUENCY_CAP, self.frequency_cap.is_some()),
        ];
        self.requires.retain(|feature| !FEATURES.contains(&feature.as_str()));
        self.requires.extend(needed.into_iter().filter(|(_, is_needed)| *is_needed).map(|(name, _)| name.to_owned()));
        self
    }

    /// The features that the campaign requires and that are not in `supported`.
    pub fn missing_features(&self, supported: &[impl AsRef<str>]) -> Vec<&str> {
        let required = self.requires.iter().map(String::as_str);
        required.filter(|feature| !supported.iter().any(|supported| supported.as_ref() == *feature)).collect()
    }
}

/// What happens to a recipient that is still in doubt at its deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDoubt {
    /// The recipient becomes unknown: no recipient gets two messages.
    #[default]
    Hold,
    /// The message is sent again: the recipient may get two messages.
    Resend,
}

impl OnDoubt {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            OnDoubt::Hold => "hold",
            OnDoubt::Resend => "resend",
        }
    }
}

/// What happens to a scheduled campaign whose start was missed, because no worker was running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// It starts late.
    #[default]
    Send,
    /// Nothing is sent: its recipients expire.
    Expire,
    /// It is paused, until somebody resumes or cancels it.
    Hold,
}

impl Late {
    /// Every choice.
    pub const ALL: [Late; 3] = [Late::Send, Late::Expire, Late::Hold];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Late::Send => "send",
            Late::Expire => "expire",
            Late::Hold => "hold",
        }
    }

    fn is_default(&self) -> bool {
        *self == Late::default()
    }
}

/// What happens to a message that Meta withheld because its recipient gets much marketing (131049).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnWithheld {
    /// The message fails.
    #[default]
    Fail,
    /// The message is sent once more, after [`policy::WITHHELD_FOR`](super::policy::WITHHELD_FOR). If Meta withholds it
    /// again, it fails.
    Retry,
}

impl OnWithheld {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            OnWithheld::Fail => "fail",
            OnWithheld::Retry => "retry",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A quick-reply button with which people opt out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OptOutButton {
    /// The text on the button.
    pub text: String,
    /// Which messages a tap on it stops.
    #[serde(default)]
    pub scope: SuppressionScope,
}

impl fmt::Display for OptOutButton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "“{}” ({})", self.text, self.scope.name())
    }
}

/// A state whose recipients a completed campaign can send to again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetriedState {
    /// Meta refused the message, or accepted it and later reported that it failed.
    Failed,
    /// It is not known whether Meta has the message: the recipient may get it twice.
    Unknown,
}

impl RetriedState {
    /// Every state.
    pub const ALL: [RetriedState; 2] = [RetriedState::Failed, RetriedState::Unknown];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            RetriedState::Failed => "failed",
            RetriedState::Unknown => "unknown",
        }
    }
}

/// A retry of a completed campaign: which recipients the message is sent to again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CampaignRetry {
    /// The states of these recipients.
    pub states: BTreeSet<RetriedState>,
    /// If not empty, only recipients with one of these error codes.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub codes: BTreeSet<MetaCode>,
    /// The caller's id of the retry. Repeating the newest retry with the same id changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

/// The state of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignState {
    /// Accepts recipients; nothing is sent.
    Draft,
    /// Launched, waiting for its `start_at`. Still accepts recipients.
    Scheduled,
    /// Being sent.
    Running,
    /// No message is claimed until the campaign is resumed.
    Paused,
    /// No recipient is pending, in flight, retrying or in doubt. Statuses still arrive and count.
    Completed,
    /// Messages that were not sent will not be sent.
    Cancelled,
}

impl CampaignState {
    /// Every state.
    pub const ALL: [CampaignState; 6] = [
        CampaignState::Draft,
        CampaignState::Scheduled,
        CampaignState::Running,
        CampaignState::Paused,
        CampaignState::Completed,
        CampaignState::Cancelled,
    ];

    /// The name on the wire and in Redis.
    pub fn name(self) -> &'static str {
        match self {
            CampaignState::Draft => "draft",
            CampaignState::Scheduled => "scheduled",
            CampaignState::Running => "running",
            CampaignState::Paused => "paused",
            CampaignState::Completed => "completed",
            CampaignState::Cancelled => "cancelled",
        }
    }

    /// The end of the sentence "the campaign is …": `a draft`, `running`.
    pub fn predicate(self) -> &'static str {
        match self {
            CampaignState::Draft => "a draft",
            other => other.name(),
        }
    }
}

impl fmt::Display for CampaignState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CampaignState {
    type Err = BadState;

    fn from_str(text: &str) -> Result<Self, BadState> {
        CampaignState::ALL.into_iter().find(|state| state.name() == text).ok_or(BadState)
    }
}

/// The text is not the name of a campaign state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a campaign's state is one of draft, scheduled, running, paused, completed, cancelled")]
pub struct BadState;

/// Why the worker paused a campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseReason {
    /// Meta's error code; `None` if the worker found the reason itself. The API shows 0 then.
    #[serde(with = "code_or_zero")]
    pub code: Option<MetaCode>,
    /// Meta's error text, or the worker's reason.
    pub details: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_requires_what_its_values_need() {
        let template = serde_json::from_value(serde_json::json!({
            "name": "spring", "language": "es_AR", "status": "APPROVED", "category": "MARKETING", "components": []
        }));
        let plain = Campaign::new(CampaignId(ulid::Ulid(1)), "spring", template.expect("one"), Vec::new(), UnixMs(0));
        assert!(plain.clone().with_requirements().requires.is_empty());
        let requires = vec!["rate".to_owned(), "of_a_newer_release".to_owned()];
        let late = Campaign { late: Late::Hold, requires, ..plain.clone() };
        assert_eq!(late.with_requirements().requires, ["of_a_newer_release", "late"]);
        let fast = Campaign { rate: Some(5.0), ..plain };
        assert_eq!(fast.with_requirements().missing_features(FEATURES), Vec::<&str>::new());
    }
}
