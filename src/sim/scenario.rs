//! What the stand-in plays: accounts, lines, templates, and how often what goes wrong.
//!
//! A scenario is a TOML file (see `config/sim/`) or built in code; every field is public, so that a test starts from a
//! named one and changes what it is about. Probabilities are shares of 1. Durations carry their unit: `"200ms"`.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

pub use super::fault::{Fault, Faults, Odds, Outage};
use super::{delay::Delay, template::Template};

/// Everything the stand-in needs to know before it starts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Where all random draws start. The same requests in the same order meet the same faults.
    #[serde(default = "seed_unless_given")]
    pub seed: u64,
    /// What is refused for coming too fast.
    #[serde(default)]
    pub limits: Limits,
    /// From the arrival of a send to its answer.
    #[serde(default)]
    pub latency: Delay,
    /// What goes wrong with sends.
    #[serde(default)]
    pub faults: Faults,
    /// When everything goes wrong.
    #[serde(default, rename = "outage")]
    pub outages: Vec<Outage>,
    /// What becomes of accepted messages.
    #[serde(default)]
    pub statuses: Statuses,
    /// What people answer.
    #[serde(default)]
    pub replies: Replies,
    /// How webhooks are delivered.
    #[serde(default)]
    pub webhooks: Webhooks,
    /// The WhatsApp Business Accounts.
    #[serde(rename = "waba")]
    pub wabas: Vec<Waba>,
    /// The lines.
    #[serde(rename = "line")]
    pub lines: Vec<Line>,
    /// The templates.
    #[serde(default, rename = "template")]
    pub templates: Vec<Template>,
}

/// What is refused for coming too fast.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// In any second a line admits its rate, this share of it more, and [`Limits::rate_burst`] messages.
    /// The share is for the jitter of the network: a client that paces correctly at the rate is never refused.
    pub rate_tolerance: f64,
    /// How many messages a second beyond rate and tolerance. The default, 2, forgives a client that starts with a burst of 2.
    pub rate_burst: u32,
    /// Refuse what one line sends to one person faster than 1 in 6 s, with bursts of 45 on credit (131056).
    pub pair: bool,
    /// The HTTP status of refusals for speed, 400 or 429: Meta has used both.
    pub refusal_status: u16,
}

/// What becomes of accepted messages. Probabilities are conditional, top to bottom.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Statuses {
    /// Any status at all; the rest stays silent.
    pub sent: f64,
    /// `failed`, code to probability; the rest goes on to `delivered`.
    pub failed: Odds,
    /// A failed message was `sent` first.
    pub sent_before_failed: f64,
    /// `delivered`, of those that did not fail.
    pub delivered: f64,
    /// `read`, of those delivered.
    pub read: f64,
    /// From the answer to `sent`, or to a `failed` without it.
    pub sent_after: Delay,
    /// From `sent` to `failed`.
    pub failed_after: Delay,
    /// From `sent` to `delivered`.
    pub delivered_after: Delay,
    /// From `delivered` to `read`.
    pub read_after: Delay,
    /// A status comes again, word for word, after [`Statuses::duplicated_after`].
    pub duplicated: f64,
    /// When the second one comes.
    pub duplicated_after: Delay,
    /// Two neighbouring statuses of a message come in the wrong order (their timestamps stay true).
    pub disordered: f64,
    /// A `failed` without `biz_opaque_callback_data`.
    pub failed_without_token: f64,
    /// A `read` message never has a `delivered`.
    pub read_without_delivered: f64,
    /// A `failed` message is `delivered` after all.
    pub delivered_after_failed: f64,
    /// The first status arrives before the answer to the send.
    pub before_answer: f64,
}

/// What people answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replies {
    /// The share of delivered messages with quick-reply buttons on which somebody taps one.
    pub tap: f64,
    /// From the last status to the tap.
    pub after: Delay,
}

/// How webhooks are delivered.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Updates that fall due in the same window travel in the same POST.
    #[serde(with = "friendly")]
    pub batch_window: Duration,
    /// Updates in one POST, 1 to 1000.
    pub batch_updates_max: usize,
    /// POSTs under way at once, for each WABA.
    pub posts_at_once: usize,
    /// No answer in this time counts as a failure.
    #[serde(with = "friendly")]
    pub answer_within: Duration,
    /// Anything but 200 is delivered again: at once, then after 0.5 s, doubling up to 30 s, until this long after the
    /// first try; then it is given up and counted.
    #[serde(with = "friendly")]
    pub retry_for: Duration,
}

/// A WhatsApp Business Account.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waba {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default = "name_unless_given")]
    pub name: String,
    /// The access token for it, its lines and its templates.
    pub token: String,
    /// Where its updates go. Without it none are sent.
    pub webhook: Option<Target>,
}

/// Where updates go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The callback URL.
    pub url: String,
    /// The key of the signature.
    pub app_secret: String,
}

/// A line.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Its `phone_number_id`.
    pub id: String,
    /// The WABA it belongs to.
    pub waba: String,
    /// What it admits, inbound and outbound together.
    pub messages_per_second: u32,
    /// The number people see.
    #[serde(default = "display_unless_given")]
    pub display_phone_number: String,
    /// The name people see.
    #[serde(default = "name_unless_given")]
    pub verified_name: String,
    /// As Meta reports it.
    #[serde(default = "status_unless_given")]
    pub status: String,
    /// As Meta reports it.
    #[serde(default = "quality_unless_given")]
    pub quality_rating: String,
    /// Instead of the scenario's.
    pub latency: Option<Delay>,
    /// Instead of the scenario's.
    pub faults: Option<Faults>,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// Errors: [`ScenarioError::Toml`] with the line and the key at fault; [`ScenarioError::Unknown`] never.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        toml::from_str(text).map_err(|error| ScenarioError::Toml(Box::new(error)))
    }

    /// One of the scenarios that come with the program: `calm`, `rough` or `outage`.
    ///
    /// Errors: [`ScenarioError::Unknown`] for any other name.
    pub fn named(name: &str) -> Result<Self, ScenarioError> {
        match name {
            "calm" => Self::from_toml(include_str!("../../config/sim/calm.toml")),
            "rough" => Self::from_toml(include_str!("../../config/sim/rough.toml")),
            "outage" => Self::from_toml(include_str!("../../config/sim/outage.toml")),
            _ => Err(ScenarioError::Unknown(name.to_owned())),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { rate_tolerance: 0.05, rate_burst: 2, pair: true, refusal_status: 429 }
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self {
            sent: 1.0,
            failed: Odds::default(),
            sent_before_failed: 1.0,
            delivered: 1.0,
            read: 0.0,
            sent_after: Delay::Fixed(Duration::from_millis(20)),
            failed_after: Delay::Fixed(Duration::from_millis(20)),
            delivered_after: Delay::Fixed(Duration::from_millis(20)),
            read_after: Delay::Fixed(Duration::from_millis(20)),
            duplicated: 0.0,
            duplicated_after: Delay::Fixed(Duration::from_millis(50)),
            disordered: 0.0,
            failed_without_token: 0.0,
            read_without_delivered: 0.0,
            delivered_after_failed: 0.0,
            before_answer: 0.0,
        }
    }
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            batch_window: Duration::from_millis(20),
            batch_updates_max: 100,
            posts_at_once: 16,
            answer_within: Duration::from_secs(10),
            retry_for: Duration::from_secs(600),
        }
    }
}

fn seed_unless_given() -> u64 {
    1
}

fn name_unless_given() -> String {
    "Pregón".into()
}

fn display_unless_given() -> String {
    "+54 9 11 5555 0001".into()
}

fn status_unless_given() -> String {
    "CONNECTED".into()
}

fn quality_unless_given() -> String {
    "GREEN".into()
}

/// A scenario that cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The text is not a scenario.
    #[error("the scenario cannot be read: {0}")]
    Toml(#[source] Box<toml::de::Error>),
    /// No scenario of that name comes with the program.
    #[error("there is no scenario `{0}`: take calm, rough or outage, or give a file")]
    Unknown(String),
    /// It contradicts itself; all its faults, one a line.
    #[error("the scenario cannot be played:\n{}", .0.join("\n"))]
    Problems(Vec<String>),
}
