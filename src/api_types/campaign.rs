//! Campaigns: to create, as created, in a response, and in an event.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Listed, Page, Rejection, Statistics};
use crate::{
    domain::{
        CampaignId, CampaignState, FrequencyCap, Late, LineId, MetaCode, OnDoubt, OnWithheld, Phone, RawRecipient,
        SendWindow, UnixMs,
        campaign::{OptOutButton, PauseReason, ReplyRoute, RetriedState},
    },
    json,
};

/// A new campaign: the body of `POST /v1/campaigns`, and of a job of type `campaign`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCampaign {
    /// A name for people: 1 to 200 characters, no control characters.
    #[schema(min_length = 1, max_length = 200, example = "Spring sale")]
    pub name: String,
    /// The caller's id of the campaign, which makes the call repeatable: 1 to 200 characters, no control characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200, example = "crm-4711")]
    pub external_id: Option<String>,
    /// The template to send. It has to be approved by Meta.
    #[serde(deserialize_with = "exact_template")]
    pub template: TemplateName,
    /// The lines to send on, all of one WABA.
    #[schema(min_items = 1, example = json!(["3001", "3002"]))]
    pub lines: Vec<LineId>,
    /// Sending starts no earlier than this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at: Option<UnixMs>,
    /// Recipients whose message was not sent by this time end as `expired`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixMs>,
    /// The campaign's share of a line that several campaigns use. The default is 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10)]
    pub priority: Option<u8>,
    /// The most messages per second, over all lines. Without it, as many as the lines may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.01, maximum = 1_000_000)]
    pub rate: Option<f64>,
    /// The hours in which messages leave. Without it, they leave at all hours.
    #[serde(default, deserialize_with = "json::optional_object", skip_serializing_if = "Option::is_none")]
    pub send_window: Option<SendWindow>,
    /// What happens if no worker runs at `start_at` and for `dispatch.late_after` from then on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub late: Late,
    /// What happens to a message that is still in doubt at the deadline.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_doubt: OnDoubt,
    /// What happens to a message that Meta withholds because its recipient gets much marketing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_withheld: OnWithheld,
    /// The quick-reply buttons of the template with which people opt out.
    #[serde(default, deserialize_with = "json::list_of_objects", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<OptOutButton>>)]
    pub opt_out_buttons: Vec<OptOutButton>,
    /// Whoever has had so much marketing of the business is skipped, beside those whom the business's own cap skips.
    #[serde(default, deserialize_with = "json::optional_object", skip_serializing_if = "Option::is_none")]
    pub frequency_cap: Option<FrequencyCap>,
    /// What an answer does with the chat of whoever answers. Needs a database.
    #[serde(default, deserialize_with = "json::optional_object", skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplyRoute>,
    /// Recipients to create the campaign with: one JSON object each, not parsed yet.
    #[serde(default, deserialize_with = "json::list", skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<RawRecipient>>)]
    pub recipients: Vec<Box<RawValue>>,
    /// Whether to launch the campaign at once with the recipients of this call.
    #[serde(default, skip_serializing_if = "is_default")]
    pub launch: bool,
}

/// A change of a campaign: the body of `PATCH /v1/campaigns/{campaign}`. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CampaignChange {
    /// Sending starts no earlier than this time; null starts a scheduled campaign now. Only before the campaign starts.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UnixMs>)]
    pub start_at: Option<Option<UnixMs>>,
    /// Recipients whose message was not sent by this time end as `expired`; null: never.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UnixMs>)]
    pub expires_at: Option<Option<UnixMs>>,
    /// The campaign's share of a line that several campaigns use.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u8, required = false, minimum = 1, maximum = 10)]
    pub priority: Option<u8>,
    /// The most messages per second, over all lines; null: as many as the lines may send.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, minimum = 0.01, maximum = 1_000_000)]
    pub rate: Option<Option<f64>>,
    /// The hours in which messages leave; null: at all hours.
    #[serde(default, deserialize_with = "given_object", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SendWindow>)]
    pub send_window: Option<Option<SendWindow>>,
    /// What happens if the start is missed. Only before the campaign starts.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Late, required = false)]
    pub late: Option<Late>,
}

/// A field that is there, whose value may be `null`.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<Option<T>, D::Error> {
    T::deserialize(json).map(Some)
}

/// A field that is there, whose value is an object or `null`.
fn given_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<Option<Option<T>>, D::Error> {
    json::optional_object(json).map(Some)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A template by name and language.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateName {
    /// The template's name at Meta.
    #[schema(example = "order_update")]
    pub name: String,
    /// The language code.
    #[schema(example = "es_AR")]
    pub language: String,
}

/// The template of a request, in which an unknown field is an error.
fn exact_template<'de, D: Deserializer<'de>>(json: D) -> Result<TemplateName, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Exact {
        name: String,
        language: String,
    }
    json::object(json).map(|Exact { name, language }| TemplateName { name, language })
}

/// The result of creating a campaign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CampaignCreated {
    /// The id of the campaign.
    pub id: CampaignId,
    /// The state of the campaign.
    pub state: CampaignState,
    /// The number of accepted recipients of this call.
    #[serde(default)]
    #[schema(required)]
    pub accepted: u64,
    /// The number of rejected recipients of this call.
    #[serde(default)]
    #[schema(required)]
    pub rejected_count: u64,
    /// The first 1,000 rejected recipients.
    #[serde(default)]
    #[schema(required)]
    pub rejected: Vec<Rejection>,
}

/// Which recipients of a completed campaign are sent to again: the body of `POST /v1/campaigns/{campaign}/retry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRetry {
    /// The states of these recipients. The message of an `unknown` one may have arrived.
    #[schema(min_items = 1, example = json!(["failed"]))]
    pub states: Vec<RetriedState>,
    /// Only recipients with one of these error codes. Without it, all in these states.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, example = json!([131_042]))]
    pub codes: Option<Vec<MetaCode>>,
    /// The caller's id of the retry, with which the call can be repeated at any time: 1 to 200 characters, no control
    /// characters. Without it, the call can be repeated until the campaign is completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200, example = "crm-4711-again")]
    pub external_id: Option<String>,
}

/// The result of a retry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CampaignRetried {
    /// The id of the campaign.
    pub id: CampaignId,
    /// The state of the campaign.
    pub state: CampaignState,
    /// The number of recipients that this retry sends to again.
    #[serde(default)]
    #[schema(required)]
    pub recipients: u64,
}

/// A test of a campaign: the body of `POST /v1/campaigns/{campaign}/test`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTest {
    /// The numbers that get the message.
    #[schema(min_items = 1, max_items = 10)]
    pub to: Vec<Phone>,
    /// The caller's id of the test, which makes the call repeatable: 1 to 200 characters, no control characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200, example = "crm-4711-test-1")]
    pub external_id: Option<String>,
}

/// A campaign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Campaign)]
pub struct CampaignView {
    /// The id that Pregón assigned.
    pub id: CampaignId,
    /// The caller's id.
    #[schema(required)]
    pub external_id: Option<String>,
    /// The campaign whose message this one sends to a few numbers; absent if it is no test.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub test_of: Option<CampaignId>,
    /// A name for people.
    #[serde(default)]
    #[schema(required)]
    pub name: String,
    /// The state of the campaign.
    pub state: CampaignState,
    /// Why the worker paused the campaign; absent if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<PauseReason>,
    /// The template that is sent.
    #[serde(default)]
    #[schema(required)]
    pub template: TemplateName,
    /// The lines that may send it.
    #[serde(default)]
    #[schema(required)]
    pub lines: Vec<LineId>,
    /// 1 to 10: the campaign's share of a line that several campaigns use.
    #[serde(default)]
    #[schema(required)]
    pub priority: u8,
    /// The most messages per second, over all lines; null: as many as the lines may send.
    #[schema(required)]
    pub rate: Option<f64>,
    /// The hours in which messages leave; null: at all hours.
    #[schema(required)]
    pub send_window: Option<SendWindow>,
    /// What happens if no worker runs at `start_at` and for `dispatch.late_after` from then on.
    #[serde(default)]
    #[schema(required)]
    pub late: Late,
    /// What happens to a message that is still in doubt at the deadline.
    #[serde(default)]
    #[schema(required)]
    pub on_doubt: OnDoubt,
    /// What happens to a message that Meta withholds because its recipient gets much marketing.
    #[serde(default)]
    #[schema(required)]
    pub on_withheld: OnWithheld,
    /// The quick-reply buttons of the template with which people opt out.
    #[serde(default)]
    #[schema(required)]
    pub opt_out_buttons: Vec<OptOutButton>,
    /// Whoever has had so much marketing of the business is skipped; null: only the business's own cap holds.
    #[schema(required)]
    pub frequency_cap: Option<FrequencyCap>,
    /// What an answer does with the chat of whoever answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reply: Option<ReplyRoute>,
    /// Sending starts no earlier than this time.
    #[schema(required)]
    pub start_at: Option<UnixMs>,
    /// Recipients not sent by this time end as `expired`.
    #[schema(required)]
    pub expires_at: Option<UnixMs>,
    /// When the campaign was created.
    #[schema(required, nullable = false)]
    pub created_at: Option<UnixMs>,
    /// When sending began.
    #[schema(required)]
    pub started_at: Option<UnixMs>,
    /// When the campaign became completed or cancelled.
    #[schema(required)]
    pub ended_at: Option<UnixMs>,
    /// Whether the campaign has been sent again to some of its recipients since it was first completed.
    #[serde(default)]
    #[schema(required)]
    pub retried: bool,
    /// The results so far. A list omits them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub statistics: Option<Statistics>,
}

impl Listed for CampaignView {
    const NAME: &str = "campaigns";
}

/// A page of campaigns.
pub type CampaignPage = Page<CampaignView>;

/// The data of an event of the kind `state`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StateEvent {
    /// The state of the campaign.
    pub state: CampaignState,
}
