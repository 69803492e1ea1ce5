//! The preflight of a campaign: what would happen if it were launched now.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{LineView, TemplateName, Waiting};
use crate::domain::{BusinessId, CampaignId, CampaignState, Late, LineId, SendWindow, UnixMs};

/// What would happen if a campaign were launched, or resumed, now. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Preflight {
    /// The campaign.
    pub campaign: CampaignId,
    /// The state of the campaign.
    pub state: CampaignState,
    /// Whether no problem is blocking.
    #[serde(default)]
    #[schema(required)]
    pub ready: bool,
    /// What is wrong, the blocking problems first.
    #[serde(default)]
    #[schema(required)]
    pub problems: Vec<PreflightProblem>,
    /// The number of recipients.
    #[serde(default)]
    #[schema(required)]
    pub recipients: u64,
    /// Recipients whose message has not been sent yet: the pending and the retrying ones.
    #[serde(default)]
    #[schema(required)]
    pub left: u64,
    /// How many of those left would be skipped, by reason.
    #[serde(default)]
    #[schema(required, example = json!({ "suppressed": 812, "marketing_us": 0, "withheld": 3, "frequency_cap": 41 }))]
    pub skips: BTreeMap<String, u64>,
    /// How many messages would be sent: those left without the skipped ones.
    #[serde(default)]
    #[schema(required)]
    pub to_send: u64,
    /// Whether the counts in `skips` and `cost`, and `to_send`, are estimated from a sample, because the campaign has
    /// more than a million recipients left.
    #[serde(default)]
    #[schema(required)]
    pub estimated: bool,
    /// The rows that uploads rejected.
    #[serde(default)]
    #[schema(required)]
    pub rejects: PreflightRejects,
    /// The template at Meta.
    #[serde(default)]
    #[schema(required)]
    pub template: PreflightTemplate,
    /// The configured lines of the campaign.
    #[serde(default)]
    #[schema(required)]
    pub lines: Vec<LineView>,
    /// The messaging limit of the business; null if none of the lines is configured.
    #[schema(required)]
    pub budget: Option<PreflightBudget>,
    /// The most messages per second, over all lines; null: as many as the lines may send.
    #[schema(required)]
    pub rate: Option<f64>,
    /// The hours in which messages leave; null: at all hours.
    #[schema(required)]
    pub send_window: Option<SendWindow>,
    /// What happens if the start is missed.
    #[serde(default)]
    #[schema(required)]
    pub late: Late,
    /// When the first message would leave; null if that is unknown, or nothing is left to send.
    #[schema(required)]
    pub starts_at: Option<UnixMs>,
    /// When the last message would have been sent; null if that is unknown, or nothing is left to send.
    #[schema(required)]
    pub ends_at: Option<UnixMs>,
    /// Why sending would not be faster, or would wait.
    #[serde(default)]
    #[schema(required)]
    pub waiting_for: Vec<Waiting>,
    /// What the messages would cost; null without `prices.file` in the configuration.
    #[schema(required)]
    pub cost: Option<PreflightCost>,
}

/// What is wrong with a campaign before its launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreflightProblem {
    /// What it is, for programs.
    pub code: ProblemCode,
    /// Whether it keeps messages from being sent until somebody does something. The others are warnings.
    #[serde(default)]
    #[schema(required)]
    pub blocking: bool,
    /// The line that it is about; absent if it is about the whole campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub line: Option<LineId>,
    /// A sentence for people.
    #[serde(default)]
    #[schema(required)]
    pub text: String,
}

/// A problem of a campaign before its launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The campaign has no recipients, or none is left to send to.
    NoRecipients,
    /// Everybody who is left would be skipped.
    AllSkipped,
    /// The `expires_at` of the campaign has passed.
    Expired,
    /// The last message would be sent after `expires_at`.
    EndsAfterExpiry,
    /// The contact hours of the recipients are not in the configuration, or never open together with the send window.
    ContactHoursClosed,
    /// Rows were rejected by uploads.
    RowsRejected,
    /// Meta does not list the template any more.
    TemplateMissing,
    /// The template was edited, and takes other values than the recipients have.
    TemplateChanged,
    /// The template contains something that can't be sent.
    TemplateUnsupported,
    /// Meta has not approved the template, or has paused or disabled it.
    TemplateNotApproved,
    /// The templates of the WABA were never read from Meta.
    TemplatesNotSynced,
    /// The template is held.
    TemplateHeld,
    /// People react badly to the template, so Meta may pause it.
    TemplateQuality,
    /// A line of the campaign is not in the configuration.
    LineNotConfigured,
    /// An operator paused the line.
    LinePaused,
    /// The line or its WABA is held.
    LineHeld,
    /// The messages of this day of the line's warm-up are sent.
    LineWarmUp,
    /// No worker serves the line.
    NoWorker,
    /// The worker of the line is of a release that is too old for the campaign.
    NewerRelease,
    /// Meta can't be reached from the line.
    Unreachable,
    /// Something else answers in Meta's place.
    PathBroken,
    /// Meta does not accept the access token.
    TokenHeld,
    /// The business is held.
    BusinessHeld,
    /// Meta as a whole does not work.
    PlatformHeld,
    /// An operator paused all sending.
    AllPaused,
    /// The messaging limit of the business is reached, or not known yet.
    LimitReached,
    /// The campaign has more people than the messaging limit of the business leaves now, so it takes longer than a day.
    LimitTooSmall,
    /// The campaign's frequency cap has no effect, because that of its business is at least as strict.
    FrequencyCapIdle,
    /// The price list has no price for some recipients.
    PriceMissing,
    /// The price list is older than a quarter of a year.
    PricesOld,
    /// Redis is nearly full.
    RedisFull,
    /// A problem of a newer server. No server of this version sends it.
    #[serde(other)]
    Other,
}

impl ProblemCode {
    /// Every problem that a server of this version finds.
    pub const ALL: [Self; 31] = [
        Self::NoRecipients,
        Self::AllSkipped,
        Self::Expired,
        Self::EndsAfterExpiry,
        Self::ContactHoursClosed,
        Self::RowsRejected,
        Self::TemplateMissing,
        Self::TemplateChanged,
        Self::TemplateUnsupported,
        Self::TemplateNotApproved,
        Self::TemplatesNotSynced,
        Self::TemplateHeld,
        Self::TemplateQuality,
        Self::LineNotConfigured,
        Self::LinePaused,
        Self::LineHeld,
        Self::LineWarmUp,
        Self::NoWorker,
        Self::NewerRelease,
        Self::Unreachable,
        Self::PathBroken,
        Self::TokenHeld,
        Self::BusinessHeld,
        Self::PlatformHeld,
        Self::AllPaused,
        Self::LimitReached,
        Self::LimitTooSmall,
        Self::FrequencyCapIdle,
        Self::PriceMissing,
        Self::PricesOld,
        Self::RedisFull,
    ];
}

/// The rows that the uploads of a campaign rejected, as far as their records are kept: 7 days, and an hour for an
/// upload without an id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PreflightRejects {
    /// The number of rows.
    #[schema(required)]
    pub count: u64,
    /// The rejected rows by the `code` of the rejection. Only the first 1,000 rejections of an upload are kept, and
    /// those of 100 uploads are read, so they may not add up to `count`.
    #[schema(required, example = json!({ "not_e164": 3, "duplicate": 41 }))]
    pub by_reason: BTreeMap<String, u64>,
    /// Whether all rejections of all uploads are counted.
    #[schema(required)]
    pub complete: bool,
}

/// The template of a campaign, as Meta last returned it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PreflightTemplate {
    /// Name and language.
    #[serde(flatten)]
    pub template: TemplateName,
    /// Meta's category, by which a message is priced: `MARKETING`, `UTILITY`, `AUTHENTICATION` or another one.
    #[schema(required)]
    pub category: String,
    /// Meta's status, such as `APPROVED`; null if Meta does not list the template, or its list was never read.
    #[schema(required)]
    pub status: Option<String>,
    /// How people react to it: `GREEN`, `YELLOW`, `RED` or `UNKNOWN`; null if Meta does not say.
    #[schema(required)]
    pub quality: Option<String>,
}

/// How much of the messaging limit of a business a campaign would need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreflightBudget {
    /// The business.
    pub business: BusinessId,
    /// To how many people its lines may open conversations in 24 hours; null if Meta reports no limit, or was not asked
    /// yet. Then the next two are null too.
    #[schema(required)]
    pub limit: Option<u32>,
    /// How many people count towards the limit now.
    #[schema(required)]
    pub used_24h: Option<u64>,
    /// How many more people may get a message now.
    #[schema(required)]
    pub remaining: Option<u64>,
    /// How many people the campaign would send to. Those who count already need no further place.
    #[serde(default)]
    #[schema(required)]
    pub needed: u64,
}

/// What the messages of a campaign would cost by the price list of the configuration, if all of them were delivered and
/// billed. Volume discounts and messages that are free of charge are not considered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PreflightCost {
    /// The currency, such as `USD`.
    pub currency: String,
    /// From which day on the prices of the list are valid.
    #[schema(example = "2026-10-01")]
    pub valid_from: String,
    /// The sum.
    pub total: f64,
    /// The summands, the most expensive first.
    #[serde(default)]
    #[schema(required)]
    pub by_country: Vec<CostRow>,
    /// Messages to numbers for which the list has no price. They are not in the sum.
    #[serde(default)]
    #[schema(required)]
    pub without_price: u64,
}

/// What the messages to one country cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CostRow {
    /// The country or region, as the price list names it.
    pub country: String,
    /// The category of the messages, such as `MARKETING`.
    pub category: String,
    /// The number of messages.
    pub messages: u64,
    /// The price of one.
    pub price: f64,
    /// The price of all.
    pub cost: f64,
}
