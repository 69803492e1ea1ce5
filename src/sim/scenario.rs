//! A scenario of the simulator: accounts, lines, templates, and the probabilities of faults and statuses.
//!
//! A scenario comes from a TOML file (see `config/sim/`) or from code. All fields are public, so that a test can start
//! from a named scenario and change only what it tests. Probabilities are shares of 1. Durations have a unit:
//! `"200ms"`.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

use super::{business::DEFAULT_BUSINESS, delay::Delay, template::Template};
pub use super::{
    business::{Business, MessagingLimit},
    contact_hours::{ContactHours, OpenHours},
    fault::{Fault, Faults, Odds, Outage},
    pacing::{Pacing, PacingOutcome},
    people::Replies,
    rule::Referee,
};

/// The configuration of a simulator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Seed of all random draws. The same requests in the same order meet the same faults.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Rate limits.
    #[serde(default)]
    pub limits: Limits,
    /// The tolerances of the referee.
    #[serde(default)]
    pub referee: Referee,
    /// Delay from the arrival of a send to its response.
    #[serde(default)]
    pub latency: Delay,
    /// Faults of sends.
    #[serde(default)]
    pub faults: Faults,
    /// Windows in which every request meets a fault.
    #[serde(default, rename = "outage")]
    pub outages: Vec<Outage>,
    /// Statuses of accepted messages.
    #[serde(default)]
    pub statuses: Statuses,
    /// Replies of people.
    #[serde(default)]
    pub replies: Replies,
    /// Delivery of webhooks.
    #[serde(default)]
    pub webhooks: Webhooks,
    /// The businesses that have a messaging limit.
    #[serde(default, rename = "business")]
    pub businesses: Vec<Business>,
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

/// Rate limits.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// In any one-second window a line admits its rate × (1 + `rate_tolerance`) + [`Limits::rate_burst`] messages. The
    /// tolerance absorbs network jitter, so that a client that paces correctly at the rate is never refused.
    pub rate_tolerance: f64,
    /// Messages per second beyond rate and tolerance. The default, 2, allows a client to start with a burst of 2.
    pub rate_burst: u32,
    /// Enforce Meta's pair limit (131056): one line may send one person 1 message in 6 s, and bursts of up to 45 on
    /// credit.
    pub pair: bool,
    /// The HTTP status of a refusal for sending too fast: 400 or 429. Meta has used both.
    pub refusal_status: u16,
    /// The code of a refusal because the business has used up its messaging limit. Meta does not document it;
    /// integrators name 131048.
    pub messaging_limit_code: u32,
}

/// Statuses of accepted messages. Each probability is conditional on the ones above it.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Statuses {
    /// The message has any status at all. The rest never have one.
    pub sent: f64,
    /// `failed`: maps code to probability. The rest can be `delivered`.
    pub failed: Odds,
    /// A failed message has a `sent` before its `failed`.
    pub sent_before_failed: f64,
    /// `delivered`, of those that did not fail.
    pub delivered: f64,
    /// `read`, of those delivered.
    pub read: f64,
    /// Delay from the response to `sent`, or to a `failed` without `sent`.
    pub sent_after: Delay,
    /// Delay from `sent` to `failed`.
    pub failed_after: Delay,
    /// Delay from `sent` to `delivered`, or from `failed` to `delivered`.
    pub delivered_after: Delay,
    /// Delay from `delivered` to `read`.
    pub read_after: Delay,
    /// A status is delivered a second time, identical, after [`Statuses::duplicated_after`].
    pub duplicated: f64,
    /// Delay from the first delivery of a duplicated status to the second.
    pub duplicated_after: Delay,
    /// Two adjacent statuses of a message are delivered in the wrong order. Their timestamps stay correct.
    pub disordered: f64,
    /// A `failed` has no `biz_opaque_callback_data`.
    pub failed_without_token: f64,
    /// A `read` message never has a `delivered`.
    pub read_without_delivered: f64,
    /// A `failed` message has a `delivered` later.
    pub delivered_after_failed: f64,
    /// The first status is delivered before the response to the send.
    pub before_answer: f64,
}

/// Delivery of webhooks.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Updates that are due within the same window are delivered in one POST.
    #[serde(with = "friendly")]
    pub batch_window: Duration,
    /// The most updates in one POST: 1 to 1000.
    pub batch_updates_max: usize,
    /// The most concurrent POSTs of each WABA: 1 to 10,000.
    pub posts_at_once: usize,
    /// Timeout of a POST.
    #[serde(with = "friendly")]
    pub answer_within: Duration,
    /// A POST that is not answered with 200 is retried: at once, then after 0.5 s, doubling up to 30 s, until this long
    /// after the first try. Then its updates are given up and counted.
    #[serde(with = "friendly")]
    pub retry_for: Duration,
    /// Webhooks also name people by their user ids, as Meta's do since April 2026.
    pub user_ids: bool,
}

/// A WhatsApp Business Account.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waba {
    /// The id of the WABA.
    pub id: String,
    /// The name of the business.
    #[serde(default = "default_name")]
    pub name: String,
    /// The business that owns the WABA. The default business needs no entry in [`Scenario::businesses`], and is
    /// unlimited without one.
    #[serde(default = "default_business")]
    pub business: String,
    /// The businesses with which its owner has shared the WABA. Each is listed in [`Scenario::businesses`], or is the
    /// default business.
    #[serde(default)]
    pub shared_with: Vec<String>,
    /// The access token for the WABA, its lines and its templates.
    pub token: String,
    /// The webhook that receives the updates. Without it, no updates are sent.
    pub webhook: Option<Target>,
    /// Whether the app is subscribed to the webhook. If not, no updates are sent until it is.
    #[serde(default = "default_subscribed")]
    pub subscribed: bool,
    /// Whether marketing is taken only through the Marketing Messages API: `/messages` refuses it with 131063.
    #[serde(default)]
    pub marketing_api_only: bool,
}

/// The target of a webhook.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The callback URL.
    pub url: String,
    /// The key that signs the POSTs.
    pub app_secret: String,
}

/// A line.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The `phone_number_id`.
    pub id: String,
    /// The WABA it belongs to.
    pub waba: String,
    /// The rate limit, inbound and outbound messages together.
    pub messages_per_second: u32,
    /// The phone number that people see.
    #[serde(default = "default_display_phone_number")]
    pub display_phone_number: String,
    /// The name that people see.
    #[serde(default = "default_name")]
    pub verified_name: String,
    /// Whether Meta accepted the name, in Meta's words, such as `APPROVED`.
    #[serde(default = "default_name_status")]
    pub name_status: String,
    /// The status in Meta's words, such as `CONNECTED`. Only lines with the status `CONNECTED` or `FLAGGED` can send.
    #[serde(default = "default_status")]
    pub status: String,
    /// The quality rating in Meta's words, such as `GREEN`.
    #[serde(default = "default_quality_rating")]
    pub quality_rating: String,
    /// The number is also used in the WhatsApp Business app: the line sends at most 20 messages per second.
    #[serde(default)]
    pub is_on_biz_app: bool,
    /// Replaces the latency of the scenario for this line.
    pub latency: Option<Delay>,
    /// Replaces the faults of the scenario for this line.
    pub faults: Option<Faults>,
}

impl Scenario {
    /// Parses a scenario.
    ///
    /// Errors: [`ScenarioError::Toml`], with the line and the key at fault.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        toml::from_str(text).map_err(|error| ScenarioError::Toml(Box::new(error)))
    }

    /// Sends the webhooks of every WABA that has one to `url`.
    pub fn send_webhooks_to(&mut self, url: &str) {
        for webhook in self.wabas.iter_mut().filter_map(|waba| waba.webhook.as_mut()) {
            url.clone_into(&mut webhook.url);
        }
    }

    /// Returns a built-in scenario: `calm`, `rough`, `outage` or `week`.
    ///
    /// Errors: [`ScenarioError::Unknown`] for any other name.
    pub fn named(name: &str) -> Result<Self, ScenarioError> {
        match name {
            "calm" => Self::from_toml(include_str!("../../config/sim/calm.toml")),
            "rough" => Self::from_toml(include_str!("../../config/sim/rough.toml")),
            "outage" => Self::from_toml(include_str!("../../config/sim/outage.toml")),
            "week" => Self::from_toml(include_str!("../../config/sim/week.toml")),
            _ => Err(ScenarioError::Unknown(name.to_owned())),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { rate_tolerance: 0.05, rate_burst: 2, pair: true, refusal_status: 429, messaging_limit_code: 131_048 }
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
            user_ids: false,
        }
    }
}

fn default_seed() -> u64 {
    1
}

fn default_business() -> String {
    DEFAULT_BUSINESS.into()
}

fn default_name() -> String {
    "Pregón".into()
}

fn default_subscribed() -> bool {
    true
}

fn default_display_phone_number() -> String {
    "+54 9 11 5555 0001".into()
}

fn default_name_status() -> String {
    "APPROVED".into()
}

fn default_status() -> String {
    "CONNECTED".into()
}

fn default_quality_rating() -> String {
    "GREEN".into()
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The text does not parse as a scenario.
    #[error("the scenario cannot be read: {0}")]
    Toml(#[source] Box<toml::de::Error>),
    /// No built-in scenario has this name.
    #[error("there is no scenario `{0}`: use calm, rough, outage, week, or the path of a file")]
    Unknown(String),
    /// The scenario is invalid: all problems, one per line.
    #[error("the scenario is invalid:\n{}", .0.join("\n"))]
    Problems(Vec<String>),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The keys of a scenario, without those of a template's components and of tables that map codes.
    fn keys(value: &toml::Value, found: &mut BTreeSet<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table.iter().filter(|(key, _)| key.parse::<u32>().is_err()) {
                    found.insert(key.clone());
                    if key != "components" {
                        keys(value, found);
                    }
                }
            }
            toml::Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }

    #[test]
    fn calm_explains_every_key_of_the_scenarios() {
        let calm = include_str!("../../config/sim/calm.toml");
        let explained: BTreeSet<&str> =
            calm.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).collect();
        for scenario in [
            include_str!("../../config/sim/rough.toml"),
            include_str!("../../config/sim/outage.toml"),
            include_str!("../../config/sim/week.toml"),
        ] {
            let mut found = BTreeSet::new();
            keys(&toml::from_str(scenario).expect("TOML"), &mut found);
            for key in found {
                assert!(explained.contains(key.as_str()), "{key} is in a scenario, and not explained in calm.toml");
            }
        }
    }

    #[test]
    fn webhooks_can_be_sent_to_another_url() {
        let mut scenario = Scenario::named("calm").expect("it comes with the program");
        scenario.send_webhooks_to("http://127.0.0.1:9/x");
        let webhooks: Vec<_> = scenario.wabas.iter().map(|waba| waba.webhook.as_ref().map(|to| &*to.url)).collect();
        assert_eq!(webhooks, [Some("http://127.0.0.1:9/x")]);
    }
}
